"""Text tokenised once: the ids of all documents end to end, memory-mapped from the cache."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy
from rich.console import Console

from gsgd.commands.console import bar
from gsgd.results import write_json
from training.data.cache import cached_folder, read_array
from training.run_folder.records import read_json
from training.text import sentences
from training.text.documents import Source
from training.text.wordpieces import tokenizer, vocabulary_digest

VERSION = 1
"""Counts up whenever the same text gives other files."""
SENTENCES_PER_CALL = 8192
"""Enough that the tokenizer's threads are all busy."""


@dataclass(frozen=True)
class Tokens:
    """Documents as token ids, without special tokens. The arrays are read-only memory maps.

    Attributes:
        name: the cache folder's name, a fingerprint of what was read.
        ids: (tokens,), uint16.
        sentences: (sentences + 1,), int64: sentence s is `ids[sentences[s]:sentences[s + 1]]`, and never empty.
        documents: (documents + 1,), int64: document d is the sentences `documents[d]..documents[d + 1] - 1`.
        hashes: (documents,), uint64, of each document's text: the same wherever the document stands.
        about: JSON for the header of the results: numbers of documents, sentences and tokens of each source, and
            `content`, a fingerprint of the text that is the same on every machine.
    """

    name: str
    ids: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    hashes: np.ndarray
    about: dict[str, Any]


def tokenize(sources: Sequence[Source], *, vocabulary: str | Path | None, cache: Path) -> Tokens:
    """The documents of all sources in order, from the cache if the same were tokenised before.

    "The same" are the same files (by path, size and time of change) or the same dataset, configuration and revision
    of the hub, and an equal vocabulary.

    Args:
        vocabulary: see `wordpieces.tokenizer`.
        cache: the folder that holds what was computed before.

    Raises:
        ValueError: if a source cannot be read, or holds no text.
    """
    inputs = {
        "sources": [source.identity() for source in sources],
        "vocabulary": vocabulary_digest(vocabulary),
        "splitter": sentences.VERSION,
        "version": VERSION,
    }
    folder = cached_folder(cache, "tokens", inputs, lambda folder: _tokenize_into(folder, sources, vocabulary))
    arrays = {name: read_array(folder / f"{name}.npy") for name in ("ids", "sentences", "documents", "hashes")}
    return Tokens(name=folder.name, about=read_json(folder / "about.json"), **arrays)


def _tokenize_into(folder: Path, sources: Sequence[Source], vocabulary: str | Path | None) -> None:
    # Not the tokenizer's own call: it builds a dictionary per sentence, and warns of every long one.
    encode = tokenizer(vocabulary).backend_tokenizer.encode_batch_fast
    counts = []
    content = hashlib.sha256()
    sizes = [source.size() for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    with (
        _GrowingArray(folder / "ids.npy", np.uint16) as ids,
        _GrowingArray(folder / "sentences.npy", np.int64) as sentence_ends,
        _GrowingArray(folder / "documents.npy", np.int64) as document_ends,
        _GrowingArray(folder / "hashes.npy", np.uint64) as hashes,
        bar(Console(stderr=True), "tokenising", total, "characters") as progress,
    ):
        sentence_ends.append(np.zeros(1))
        document_ends.append(np.zeros(1))

        def write(batch: list[list[str]]) -> None:
            flat = list(itertools.chain.from_iterable(batch))
            rows = [encoding.ids for encoding in encode(flat, add_special_tokens=False)]
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            filled = np.concatenate([[0], np.cumsum(lengths > 0)])
            of_document = filled[np.cumsum([0, *map(len, batch)])]
            kept = np.diff(of_document) > 0
            digests = np.array([_digest(document) for document in batch], dtype=np.uint64)[kept]
            content.update(digests.astype("<u8").tobytes())
            document_ends.append(sentence_ends.size - 1 + of_document[1:][kept])
            sentence_ends.append(ids.size + np.cumsum(lengths[lengths > 0]))
            ids.append(np.fromiter(itertools.chain.from_iterable(rows), np.uint16, lengths.sum()))
            hashes.append(digests)

        for source in sources:
            before = (hashes.size, sentence_ends.size, ids.size)
            _in_batches(source, write, progress.advance)
            documents, found, tokens = (
                now - then for now, then in zip((hashes.size, sentence_ends.size, ids.size), before, strict=True)
            )
            if not documents:
                raise ValueError(f"data source {source.name!r} holds no text")
            counts.append({"source": source.name, "documents": documents, "sentences": found, "tokens": tokens})
    write_json(folder / "about.json", {"sources": counts, "content": content.hexdigest()[:20]})


def _in_batches(source: Source, write: Callable[[list[list[str]]], None], advance: Callable[[int], None]) -> None:
    batch: list[list[str]] = []
    waiting = 0
    for document in source.documents():
        batch.append(document)
        waiting += len(document)
        if waiting >= SENTENCES_PER_CALL:
            write(batch)
            advance(sum(len(sentence) + 1 for document in batch for sentence in document))
            batch, waiting = [], 0
    if batch:
        write(batch)


def _digest(document: list[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(document).encode(), digest_size=8).digest(), "little")


class _GrowingArray:
    """A one-dimensional .npy file that is written piece by piece."""

    def __init__(self, path: Path, dtype: type):
        self.dtype = np.dtype(dtype)
        self.size = 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._write_header()
        self._start = self._file.tell()

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self.dtype).tobytes())
        self.size += len(values)

    def __enter__(self) -> _GrowingArray:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            # NumPy pads headers so that the first axis may grow to any length in place.
            assert self._file.tell() == self._start

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        npy.write_array_header_1_0(self._file, header)
