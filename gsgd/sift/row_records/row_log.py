"""`log_rows`: which rows each step drew, which of them it trained on, and with what loss; written as parquet.

    sift = Sift(model, score="last-seen", data_rows=len(data), log_rows="rows")
    ...                                              # rows/rank-0-part-000000.parquet
    pandas.read_parquet("rows")

A step leaves references to tensors that lie wherever they lie; nothing is copied to the host before a log. A rank has
files of its own, a *part* each: the last part is written anew, whole or not at all, until it has `PART_ROWS` rows; then
the next begins. Of `MOST_PARTS` parts the oldest goes, so that a log of any run stays below some hundred megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gsgd.commands.arguments import install
from gsgd.results import atomically

PART_ROWS = 2**17
"""Rows of a part, of at most 25 bytes each before they are compressed."""
MOST_PARTS = 128
"""Parts of a rank that are kept: 16.8 million rows."""
MOST_WAITING = 2**18
"""Rows that wait for a log at most; a step that exceeds it fetches them itself."""
COLUMNS = ("step", "id", "kept", "loss", "weight")
_PART = re.compile(r"rank-(\d+)-part-(\d+)\.parquet")

Columns = dict[str, np.ndarray]


class _LoggedBatch(NamedTuple):
    """What one batch left: of the drawn rows (B,) ids and whether they were kept; of those trained on, the rest."""

    step: int
    drawn: Tensor
    kept: Tensor
    ids: Tensor
    losses: Tensor
    weights: Tensor | None


class RowLog:
    """The rows of one rank's training steps, in files of a folder. One engine writes to a folder at a time.

    Each row that a step drew is logged once: `step` and `id` (int64), `kept` (bool), `loss` (float32) of rows that were
    trained on, else null, and `weight` (float32), what that loss was multiplied by: 1 where all count alike, else 0.

    Args:
        folder: of the files; created at the first write.
        rank: whose rows they are. Where ranks select together, those it trained on and those of its own that none did.

    Raises:
        ValueError: if something that is no folder is in the way.
        ModuleNotFoundError: without pyarrow.
    """

    def __init__(self, folder: str | Path, rank: int):
        self.folder, self.rank = Path(folder), rank
        blocking = next((path for path in (self.folder, *self.folder.parents) if path.exists()), None)
        if blocking is not None and not blocking.is_dir():
            raise ValueError(f"log_rows = {str(folder)!r}: {blocking} is no folder; name another one")
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"log_rows writes parquet: {install('train')}", name=error.name) from error
        self._waiting: list[_LoggedBatch] = []
        self._rows_waiting = 0
        self._goes_on_at: int | None = None
        self._opened = False
        self._number = 0
        self._part: Columns = _none()

    def resume(self, step: int) -> None:
        """The run goes on at this step: rows of it and of later ones, which a killed run has left, are logged again."""
        self._goes_on_at, self._opened = step, False
        self._waiting, self._rows_waiting = [], 0

    def add(
        self, step: int, drawn: Tensor, kept: Tensor, ids: Tensor, losses: Tensor, weights: Tensor | None = None
    ) -> None:
        """Note a call. It waits for no device, unless more than `MOST_WAITING` rows have come since the last log.

        Args:
            drawn, kept: (B,), ids of this rank's batch, and whether each was kept.
            ids, losses, weights: (k,), of the rows that this rank trained on.

        Raises:
            ValueError: at the first call, if the folder has the log of another run.
        """
        self._open()
        self._waiting.append(_LoggedBatch(step, drawn, kept, ids, losses, weights))
        self._rows_waiting += len(drawn)
        if self._rows_waiting > MOST_WAITING:
            self.write()

    def write(self) -> None:
        """Fetch what has come since, and write it.

        Raises:
            OSError: if it cannot be written.
        """
        if not self._waiting:
            return
        self._open()
        parts = [self._part, *map(_columns, self._waiting)]
        self._waiting, self._rows_waiting = [], 0
        rows = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
        while len(rows["step"]) >= PART_ROWS:
            self._write_part({name: column[:PART_ROWS] for name, column in rows.items()})
            rows = {name: column[PART_ROWS:] for name, column in rows.items()}
            self._number += 1
        self._part = rows
        if len(rows["step"]):
            self._write_part(rows)
        for number, path in _parts(self.folder, self.rank).items():
            if number <= self._number - MOST_PARTS:
                path.unlink()

    def _write_part(self, rows: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        trained = {"loss": pa.array(rows["loss"], mask=~rows["kept"])}
        table = pa.table({name: trained.get(name, rows[name]) for name in COLUMNS})
        with atomically(self.folder / f"rank-{self.rank}-part-{self._number:06d}.parquet") as file:
            pq.write_table(table, file)

    def _open(self) -> None:
        """Find what is there, and cut it where the run goes on."""
        if self._opened:
            return
        there = _parts(self.folder, self.rank)
        if there and self._goes_on_at is None:
            raise ValueError(
                f"log_rows = {str(self.folder)!r} has the rows of another run ({next(iter(there.values())).name}), and "
                "this one goes on with none: name another folder, or remove it"
            )
        self._number, self._part = 0, _none()
        for number, path in sorted(there.items(), reverse=True):
            rows = read_part(path)
            before = rows["step"] < (self._goes_on_at or 0)
            if before.any():
                # What is cut off is written again with the next rows; until then a kill leaves nothing to do but this.
                self._number, self._part = number, {name: column[before] for name, column in rows.items()}
                break
            path.unlink()
        self._opened = True


def read_part(path: Path) -> Columns:
    """The columns of a part; the loss of a row that was not trained on is NaN.

    Raises:
        ValueError: if it cannot be read, or is not of a log, naming the file.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        return {name: table.column(name).to_numpy() for name in COLUMNS}
    except Exception as error:  # Arrow raises kinds of its own, OSError, and more, depending on what is damaged
        raise ValueError(f"{path} cannot be read as the log of a run's rows: {error}; remove it to log anew") from error


def remove_log(folder: Path) -> None:
    """Remove the files of a log, of all ranks, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _PART.fullmatch(path.name):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _parts(folder: Path, rank: int) -> dict[int, Path]:
    """Number -> file of the parts of a rank, in their order."""
    found = [(match, path) for path in _listed(folder) if (match := _PART.fullmatch(path.name))]
    return dict(sorted((int(match[2]), path) for match, path in found if int(match[1]) == rank))


def _listed(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def _none() -> Columns:
    kinds = (np.int64, np.int64, np.bool_, np.float32, np.float32)
    return {name: np.empty(0, dtype=kind) for name, kind in zip(COLUMNS, kinds, strict=True)}


def _columns(batch: _LoggedBatch) -> Columns:
    """The rows of a batch on the host: those trained on, then those that were drawn and left."""
    left = _on_host(batch.drawn)[~_on_host(batch.kept)]
    trained, number = len(batch.ids), len(batch.ids) + len(left)
    nothing = np.zeros(len(left), dtype=np.float32)
    weights = np.ones(trained, dtype=np.float32) if batch.weights is None else _on_host(batch.weights.float())
    return {
        "step": np.full(number, batch.step),
        "id": np.concatenate([_on_host(batch.ids), left]),
        "kept": np.arange(number) < trained,
        "loss": np.concatenate([_on_host(batch.losses.float()), nothing * np.float32(np.nan)]),
        "weight": np.concatenate([weights, nothing]),
    }


def _on_host(values: Tensor) -> np.ndarray[Any, Any]:
    return values.detach().to(torch.device("cpu")).numpy()
