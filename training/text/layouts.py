"""What rows and lines mean: sentences or whole documents."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from enum import Enum

from training.text.sentences import split_sentences

logger = logging.getLogger(__name__)

RUN = 1000
"""Sentences after which a document of the layout "sentences" ends at the latest."""
PEEK = 1000
"""Rows from which a table's layout is guessed."""


class Layout(Enum):
    """What a row of a parquet file or of the hub, or a line of a text file, holds.

    DOCUMENTS: a parquet row is a document (Wikipedia); a text file is prose, whose paragraphs end at a blank line and
        whose documents end at two or more. Documents are cut into sentences by `split_sentences`.
    SENTENCES: a row or a line is a sentence (BookCorpus, and the input of the original BERT code). A document ends at
        an empty row or line, and after `RUN` sentences at the latest: BookCorpus comes without the ends of its books,
        so that its documents are runs of consecutive rows, and a book has several.
    GUESS: text files and tables with other columns than `text` hold documents. A table whose one column is `text`
        holds sentences if nine tenths of its first 1,000 rows are single sentences, else documents.
    """

    GUESS = "guess"
    DOCUMENTS = "documents"
    SENTENCES = "sentences"


def settle(layout: Layout, columns: list[str], texts: list[str | None], name: str) -> Layout:
    """The layout of a table that has these columns and begins with these texts.

    Args:
        layout: as asked for; `GUESS` decides by `columns` and `texts`, else they do not matter.
        name: of the table, for the log.
    """
    if layout is not Layout.GUESS:
        return layout
    filled = [text for text in texts if text and text.strip()]
    single = sum("\n" not in text.strip() and len(split_sentences(text)) == 1 for text in filled)
    if columns != ["text"] or not filled or single < 0.9 * len(filled):
        return Layout.DOCUMENTS
    logger.info("%s: read as one sentence a row (append :documents to its name if a row is a document)", name)
    return Layout.SENTENCES


def table_documents(texts: Iterable[str | None], layout: Layout) -> Iterator[list[str]]:
    """The documents of a table's rows, each as its sentences. `layout` is settled; None is an empty row."""
    if layout is Layout.SENTENCES:
        yield from runs(text or "" for text in texts)
        return
    for text in texts:
        if text and (sentences := split_sentences(text)):
            yield sentences


def runs(lines: Iterable[str]) -> Iterator[list[str]]:
    """The documents of one sentence a line, see `Layout.SENTENCES`."""
    run: list[str] = []
    for line in lines:
        sentence = " ".join(line.split())
        if sentence:
            run.append(sentence)
        if run and (not sentence or len(run) == RUN):
            yield run
            run = []
    if run:
        yield run


def prose(lines: Iterable[str]) -> Iterator[list[str]]:
    """The documents of lines of prose, see `Layout.DOCUMENTS`, each as its sentences."""
    for blank, group in itertools.groupby(_blocks(lines), key=lambda block: block is None):
        if not blank and (sentences := split_sentences("".join(block for block in group if block is not None))):
            yield sentences


def _blocks(lines: Iterable[str]) -> Iterator[str | None]:
    """The lines, and None where a document ends."""
    blanks = 0
    for line in lines:
        blanks = 0 if line.strip() else blanks + 1
        yield line if blanks < 2 else None
