"""The reader of theory/verify.json: what `gsgd verify` found, check by check."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import FiniteFloat, field_validator

from figures.checked import Number, Record, checked, read_object

FILE = "verify.json"
"""In the folder of the theory."""
Status = Literal["proved", "consistent", "refuted", "assumption-violated", "inconclusive"]
STATUSES: tuple[str, ...] = get_args(Status)
Scope = Literal["everywhere", "instances", "samples"]
SCOPES: tuple[str, ...] = get_args(Scope)


class Check(Record):
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
    scope: Scope
    expected: Status
    status: Status
    value: Number | None
    bound: Number | None
    slack: Number | None
    witness: str | None
    detectable: Number | None
    seconds: FiniteFloat

    @property
    def as_expected(self) -> bool:
        return self.status == self.expected

    @property
    def wrong_in_print(self) -> bool:
        """True if it refutes a sentence of the print, as it should."""
        return self.claim.startswith("as printed") and self.status == "refuted" and self.as_expected


class Header(Record):
    """Where a run of `gsgd verify` came from; older ones lack what has a default here."""

    date: str
    commit: str | None
    seed: int
    alpha: float
    versions: dict[str, Any]
    command: str = "gsgd verify"
    machine: str | None = None
    python: str = "?"


class Verified(Record):
    """A run of `gsgd verify`: where it came from, and its checks in the order of the paper."""

    header: Header
    checks: list[Check]

    @field_validator("checks")
    @classmethod
    def _some_and_each_once(cls, checks: list[Check]) -> list[Check]:
        if not checks:
            raise ValueError("there is no check; `gsgd verify` writes them all")
        places: dict[str, int] = {}
        for place, check in enumerate(checks):
            first = places.setdefault(check.name, place)
            if first != place:
                raise ValueError(f"checks[{place}] is called {check.name!r}, and so is checks[{first}]")
        return checks

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
        of_statement = self.by_statement(self.checks)[statement]
        holding = [each for each in of_statement if each.status in ("proved", "consistent") and each.as_expected]
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
    return checked(read_object(folder / FILE), Verified, folder / FILE)
