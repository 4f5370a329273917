"""Where documents come from: the embedded text, local files, or the hub; and how they are cut into sentences.

A source is written as one string:

    embedded                        the text shipped with the package
    PATH                            a .parquet, .txt or .txt.gz file, or a folder with such files
    NAME, NAME:CONFIG               a dataset of the hub, its split "train"; `@REVISION` may follow
    ...:sentences, ...:documents    any of these, and how its rows are to be read, see `layouts.Layout`

"bookcorpus" and "wikimedia/wikipedia:20231101.en" are the paper's two. What exists as a path is taken as one.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from training.data.files import checked, files_below, stamp
from training.data.hub import loading
from training.data.parquet import column_size, column_values, schema_of
from training.text.layouts import PEEK, Layout, prose, runs, settle, table_documents

EMBEDDED = Path(__file__).parent / "embedded" / "documents.parquet"
"""The chapters of Moby Dick, and State of the Union addresses since 1980."""
SUFFIXES = (".parquet", ".txt", ".txt.gz")
_HUB_NAME = re.compile(r"(?P<dataset>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
# Its own revision is a script, which `datasets` no longer runs; the hub's converted copy has the same rows.
_HUB_ALIASES = dict.fromkeys(("bookcorpus", "bookcorpus/bookcorpus"), ("bookcorpus/bookcorpus", "refs/convert/parquet"))


def parse_source(name: str) -> Source:
    """The source that a string means, see the module.

    Raises:
        ValueError: if a path does not exist or holds no text, or the string is neither a path nor a hub's name.
    """
    stem, layout = name, Layout.GUESS
    for explicit in (Layout.DOCUMENTS, Layout.SENTENCES):
        if name.endswith(f":{explicit.value}"):
            stem, layout = name.removesuffix(f":{explicit.value}"), explicit
    if stem == "embedded":
        return LocalFiles(name, (EMBEDDED,), Layout.DOCUMENTS)
    path = Path(stem).expanduser()
    if stem and path.exists():
        return LocalFiles(name, _text_files(path), layout)
    hub = _HUB_NAME.fullmatch(stem)
    if hub is None or stem.startswith((".", "~")) or stem.endswith(SUFFIXES):
        raise ValueError(
            f"data source {name!r} does not exist: give 'embedded', a file ({', '.join(SUFFIXES)}), a folder of such "
            "files, or a dataset of the hub as NAME or NAME:CONFIG"
        )
    dataset, revision = _HUB_ALIASES.get(hub["dataset"], (hub["dataset"], "main"))
    return HubDataset(name, dataset, hub["config"], hub["revision"] or revision, layout)


@dataclass(frozen=True)
class LocalFiles:
    """Files in the order of their paths; a file's end ends a document.

    Attributes:
        name: as the user wrote it.
    """

    name: str
    files: tuple[Path, ...]
    layout: Layout = Layout.GUESS

    def identity(self) -> dict[str, Any]:
        """JSON that differs whenever the documents may."""
        files = [[str(path.resolve()), *stamp(path)] for path in self.files]
        return {"files": files, "layout": self.layout.value}

    def size(self) -> int | None:
        """About how many characters there are, for a progress bar; None if unknown."""
        if any(_ends(path, ".gz") for path in self.files):
            return None
        return sum(column_size(p, "text") if _ends(p, ".parquet") else p.stat().st_size for p in self.files)

    def documents(self) -> Iterator[list[str]]:
        """Each document as its sentences, at least one."""
        for path in self.files:
            if _ends(path, ".parquet"):
                yield from _parquet_documents(path, self.layout)
            elif self.layout is Layout.SENTENCES:
                yield from runs(_lines(path))
            else:
                yield from prose(_lines(path))


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub, streamed by `datasets`: split "train", column `text`. Methods as of `LocalFiles`.

    Its identity is the revision as given, by default "main", so that what is cached serves without a connection:
    name a commit to be sure of the rows.
    """

    name: str
    dataset: str
    config: str | None
    revision: str
    layout: Layout = Layout.GUESS

    def identity(self) -> dict[str, Any]:
        return {"hub": self.dataset, "config": self.config, "revision": self.revision, "layout": self.layout.value}

    def size(self) -> int | None:
        return None

    def documents(self) -> Iterator[list[str]]:
        """Each document as its sentences.

        Raises:
            ValueError: if the hub does not give the dataset, or it has no column `text`.
        """
        with loading(self.name) as datasets:
            rows = datasets.load_dataset(
                self.dataset, self.config, revision=self.revision, split="train", streaming=True
            )
            first = list(itertools.islice(rows, PEEK))
        columns = list(first[0]) if first else []
        if first and "text" not in columns:
            raise ValueError(f"data source {self.name!r} has no column `text`, but: {', '.join(columns)}")
        # Peeked rows are read again rather than kept, so that nothing but the stream's own order counts.
        layout = settle(self.layout, columns, [row["text"] for row in first], self.name)
        return table_documents(self._texts(rows), layout)

    def _texts(self, rows: Any) -> Iterator[str | None]:
        with loading(self.name):
            yield from (row["text"] for row in rows)


Source = LocalFiles | HubDataset


def _text_files(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        if not _ends(path, *SUFFIXES):
            raise ValueError(f"data source {str(path)!r} must end in one of {', '.join(SUFFIXES)}")
        return (checked(path),)
    files = tuple(files_below(path, SUFFIXES))
    if not files:
        raise ValueError(f"data source {str(path)!r} is a folder without any {', '.join(SUFFIXES)} file")
    return files


def _ends(path: Path, *suffixes: str) -> bool:
    return path.name.lower().endswith(suffixes)


def _parquet_documents(path: Path, layout: Layout) -> Iterator[list[str]]:
    columns = schema_of(path)
    if "text" not in columns.names:
        raise ValueError(f"{path} must have a column `text`, but it has: {', '.join(columns.names) or 'none'}")
    kind = columns.field("text").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{path}: the column `text` must hold strings, not {kind}")
    first = next(column_values(path, "text", PEEK), [])
    layout = settle(layout, columns.names, first, str(path))
    yield from table_documents(itertools.chain.from_iterable(column_values(path, "text", PEEK)), layout)


def _lines(path: Path) -> Iterator[str]:
    def opened() -> TextIO:
        if _ends(path, ".gz"):
            return gzip.open(path, "rt", encoding="utf-8-sig")
        return open(path, encoding="utf-8-sig")

    try:
        with opened() as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from error
