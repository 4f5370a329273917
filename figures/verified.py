"""The reader of theory/verify.json: what `gsgd verify` found, check by check."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from figures.checked import choice, field, number, read_object

FILE = "verify.json"
"""In the folder of the theory."""
STATUSES = ("proved", "consistent", "refuted", "assumption-violated", "inconclusive")
SCOPES = ("everywhere", "instances", "samples")
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
        scope: everywhere (over the whole range of the claim), instances (at the listed points) or samples.
        value, bound, slack: of the tightest place; `slack` >= 0 where the claim held.
        detectable: the least violation that a Monte Carlo check would have caught; of an inequality by other routes,
            the share by which its bound could be tightened unnoticed.
        seconds: what it took.
    """

    name: str
    statement: str
    claim: str
    route: str
    scope: str
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
        """True if it refutes a sentence of the print, as it should."""
        return self.claim.startswith("as printed") and self.status == "refuted" and self.as_expected


@dataclass(frozen=True)
class Verified:
    """A run of `gsgd verify`: where it came from, and its checks in the order of the paper."""

    header: Mapping[str, Any]
    checks: tuple[Check, ...]

    @functools.cached_property
    def statements(self) -> list[str]:
        """The statements that are checked, each once, in the order of the paper."""
        return list(self.by_statement(self.checks))

    @functools.cached_property
    def first_of(self) -> dict[str, Check]:
        """Statement -> its first check."""
        return {statement: checks[0] for statement, checks in self.by_statement(self.checks).items()}

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """Status -> how many checks have it."""
        return Counter(check.status for check in self.checks)

    @functools.cached_property
    def holding(self) -> Counter[str]:
        """Scope -> how many checks of it hold, proved or consistent."""
        return Counter(check.scope for check in self.checks if check.status in ("proved", "consistent"))

    @property
    def surprises(self) -> list[Check]:
        """The checks that did not come out as expected."""
        return [check for check in self.checks if not check.as_expected]

    @property
    def wrong(self) -> list[Check]:
        """The checks that refute a sentence of the print, as they should."""
        return [check for check in self.checks if check.wrong_in_print]

    @property
    def wrong_beyond_print(self) -> list[Check]:
        """The checks that refute what nobody printed, as they should."""
        refuted = [check for check in self.checks if check.status == "refuted" and check.as_expected]
        return [check for check in refuted if not check.wrong_in_print]

    def mends(self, statement: str) -> list[Check]:
        """The checks of what holds of a statement; first those that say that they mend the print."""
        holding = [
            check
            for check in self.checks
            if check.statement == statement and check.status in ("proved", "consistent") and check.as_expected
        ]
        return sorted(holding, key=lambda check: not check.claim.startswith(("mended", "corrected")))

    @staticmethod
    def by_statement(checks: Iterable[Check]) -> dict[str, list[Check]]:
        """Statement -> those of some checks that are of it, both in their order."""
        found: dict[str, list[Check]] = {}
        for check in checks:
            found.setdefault(check.statement, []).append(check)
        return found


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
    for place, entry in enumerate(entries):
        check = _check(entry, f"checks[{place}]", path)
        if check.name in places:
            raise ValueError(
                f"{path}, field 'checks[{place}].name': checks[{places[check.name]}] is called {check.name!r}, too"
            )
        places[check.name] = place
        checks.append(check)
    return Verified(header, tuple(checks))


def _check(entry: Any, place: str, path: Path) -> Check:
    # Under the name of its place, so that complaints give it.
    content = {place: entry}
    field(content, place, dict, path)
    found: dict[str, Any] = {}
    for name in ("name", "statement", "claim", "route", "scope", "expected", "status"):
        found[name] = field(content, f"{place}.{name}", str, path)
        if name in ("expected", "status"):
            choice(found[name], STATUSES, f"{path}, field '{place}.{name}'")
    choice(found["scope"], SCOPES, f"{path}, field '{place}.scope'")
    for name in ("value", "bound", "slack", "detectable", "seconds"):
        none = field(content, f"{place}.{name}", (int, float, str, NoneType), path) is None
        found[name] = None if none else number(content, f"{place}.{name}", path)
    if found["seconds"] is None or not math.isfinite(found["seconds"]):
        raise ValueError(f"{path}, field '{place}.seconds': {found['seconds']!r} must be a finite number")
    return Check(**found, witness=field(content, f"{place}.witness", (str, NoneType), path))
