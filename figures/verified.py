"""The reader of theory/verify.json: what `gsgd verify` found, check by check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from figures.checked import choice, field, read_object

FILE = "verify.json"
"""In the folder of the theory."""
STATUSES = ("proved", "consistent", "refuted", "assumption-violated", "inconclusive")
_NOT_FINITE = ("inf", "-inf", "nan")
"""How numbers that are not finite stand in JSON."""
_HEADER: dict[str, type | tuple[type, ...]] = {
    "date": str,
    "commit": (str, NoneType),
    "seed": int,
    "alpha": (int, float),
    "versions": dict,
}


@dataclass(frozen=True)
class Check:
    """A check of a statement and its outcome.

    Attributes:
        route: how it was checked, such as "exact" or "monte-carlo".
        value, bound, slack: of the tightest place; `slack` >= 0 where the claim held.
        detectable: the least violation that a Monte Carlo check would have caught.
        seconds: what it took.
    """

    name: str
    statement: str
    claim: str
    route: str
    expected: str
    status: str
    value: float | None
    bound: float | None
    slack: float | None
    witness: str | None
    detectable: float | None
    seconds: float

    @property
    def as_expected(self) -> bool:
        return self.status == self.expected

    @property
    def wrong_in_print(self) -> bool:
        """Whether it refutes a sentence of the print, as it should."""
        return self.claim.startswith("as printed") and self.status == "refuted" and self.as_expected


@dataclass(frozen=True)
class Verified:
    """A run of `gsgd verify`: where it came from, and its checks in the order of the paper."""

    header: Mapping[str, Any]
    checks: tuple[Check, ...]

    @property
    def statements(self) -> list[str]:
        """Each once, in the order of the paper."""
        return list(dict.fromkeys(check.statement for check in self.checks))


def read(folder: Path) -> Verified:
    """The outcomes of `gsgd verify` in its folder of the results.

    Raises:
        Missing: if there is no such file.
        ValueError: if it is malformed, naming the file and the field, such as "checks[3].status".
    """
    path = folder / FILE
    content = read_object(path)
    header = field(content, "header", dict, path)
    for name, kinds in _HEADER.items():
        field(content, f"header.{name}", kinds, path)
    entries = field(content, "checks", list, path)
    if not entries:
        raise ValueError(f"{path}, field 'checks': there is no check; `gsgd verify` writes them all")
    checks: list[Check] = []
    places: dict[str, int] = {}
    for number, entry in enumerate(entries):
        check = _check(entry, f"checks[{number}]", path)
        if check.name in places:
            raise ValueError(
                f"{path}, field 'checks[{number}].name': checks[{places[check.name]}] is called {check.name!r}, too"
            )
        places[check.name] = number
        checks.append(check)
    return Verified(header, tuple(checks))


def _check(entry: Any, place: str, path: Path) -> Check:
    # Under the name of its place, so that complaints give it.
    content = {place: entry}
    field(content, place, dict, path)
    texts = {
        name: field(content, f"{place}.{name}", str, path)
        for name in ("name", "statement", "claim", "route", "expected", "status")
    }
    for name in ("expected", "status"):
        choice(texts[name], STATUSES, f"{path}, field '{place}.{name}'")
    seconds = _number(content, f"{place}.seconds", path)
    if seconds is None or not math.isfinite(seconds):
        raise ValueError(f"{path}, field '{place}.seconds': {seconds!r} must be a finite number")
    return Check(
        **texts,
        value=_number(content, f"{place}.value", path),
        bound=_number(content, f"{place}.bound", path),
        slack=_number(content, f"{place}.slack", path),
        detectable=_number(content, f"{place}.detectable", path),
        witness=field(content, f"{place}.witness", (str, NoneType), path),
        seconds=seconds,
    )


def _number(content: Mapping[str, Any], name: str, path: Path) -> float | None:
    value = field(content, name, (int, float, str, NoneType), path)
    if isinstance(value, str):
        choice(value, _NOT_FINITE, f"{path}, field {name!r}")
    return None if value is None else float(value)
