"""The share of the rows that is kept: a number, a table over steps, or by training accuracy as ordered SGD has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gsgd.ranges import whole, within

ORDERED_SGD = ((0.8, 1 / 2), (0.9, 1 / 4), (0.95, 1 / 8), (0.995, 1 / 16))
"""Training accuracy -> share kept from there on (Kawaguchi & Lu, arXiv:1907.04371, Section 6: q = s before, then s/2,
s/4, s/8, s/16)."""


@dataclass(frozen=True)
class KeepTable:
    """A share for each step: that of the last entry at or before it.

    Args:
        shares: pairs (step, share) with ascending steps, of which the first is 0; shares in (0, 1].

    Raises:
        ValueError: for a table that is not so.
    """

    shares: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.shares:
            raise ValueError("keep is a table without entries, but must begin with that of step 0: {0: 1.0, 1000: 0.5}")
        pairs = tuple((whole("a step of keep", step, least=0), share_of(share)) for step, share in self.shares)
        steps = [step for step, _ in pairs]
        if steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError(f"keep has entries for the steps {steps}, but they must begin with 0 and ascend")
        object.__setattr__(self, "shares", pairs)  # it is frozen for everybody else

    def at(self, step: int) -> float:
        """The share at a step."""
        return next(share for begin, share in reversed(self.shares) if begin <= step)


@dataclass(frozen=True, kw_only=True)
class KeepByAccuracy:
    """Keep the less the more of the training rows are predicted right: ordered SGD's rule.

    The accuracy is measured on gross batches of training, as they come, by a forward pass of its own every so many
    steps; where it is read, a GPU is waited for. The share never rises again. It is the same on all ranks.

    Paper: the accuracy of all training rows after every epoch; here: of the last `batches` gross batches measured,
    because a stream has no epoch, and a pass over all data costs as much as a third of an epoch of training.

    Args:
        levels: pairs (accuracy, share kept once it is reached), accuracies ascending and shares descending.
        first: the share before the first level is reached.
        every: steps from one measurement to the next, at least 1; the first is at step 0.
        batches: measured batches whose mean decides, at least 1; before there are so many, nothing changes.

    Raises:
        ValueError: for values out of range.

    Reference:
        Kawaguchi & Lu, Ordered SGD: A New Stochastic Optimization Framework for Empirical Risk Minimization,
        AISTATS 2020, arXiv:1907.04371.
    """

    levels: Sequence[tuple[float, float]] = ORDERED_SGD
    first: float = 1.0
    every: int = 20
    batches: int = 20

    def __post_init__(self) -> None:
        accuracies = [within("an accuracy of keep", each, "lie in [0, 1]", _is_share) for each, _ in self.levels]
        shares = [share_of(self.first), *(share_of(share) for _, share in self.levels)]
        if accuracies != sorted(set(accuracies)) or shares != sorted(shares, reverse=True) or not accuracies:
            raise ValueError(
                f"levels = {self.levels!r} from first = {self.first!r} on must have ascending accuracies and "
                "descending shares"
            )
        found = {
            "levels": tuple(zip(accuracies, shares[1:], strict=True)),
            "first": shares[0],
            "every": whole("every", self.every, least=1),
            "batches": whole("batches", self.batches, least=1),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def share(self, accuracy: float) -> float:
        """The share kept at this training accuracy."""
        return next((share for level, share in reversed(self.levels) if accuracy >= level), self.first)

    @property
    def least(self) -> float:
        """The smallest share that may come."""
        return self.levels[-1][1]


Keep = float | KeepTable | KeepByAccuracy


def read_keep(keep: Any) -> Keep:
    """A number, a mapping step -> share or pairs of them, or a `KeepByAccuracy`, as one of `Keep`.

    Raises:
        ValueError: for anything else, or values out of range.
    """
    if isinstance(keep, (KeepTable, KeepByAccuracy)):
        return keep
    if isinstance(keep, Mapping):
        return KeepTable(tuple(sorted((whole("a step of keep", step, least=0), keep[step]) for step in keep)))
    if isinstance(keep, Sequence) and not isinstance(keep, str):
        if not all(isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2 for pair in keep):
            raise ValueError(f"keep = {keep!r} must be pairs of a step and a share, such as [(0, 1.0), (1000, 0.5)]")
        return KeepTable(tuple((step, share) for step, share in keep))
    return share_of(keep)


def share_of(value: Any) -> float:
    """`value` as a share of rows that can be kept."""
    return within("keep", value, "lie in (0, 1]", lambda share: 0 < share <= 1)


class PresentShare:
    """The share that is kept at present, as `keep` says; that of an accuracy changes between steps.

    Attributes:
        accuracies: the last ones that were measured.
    """

    def __init__(self, keep: Keep):
        self.keep = keep
        self.accuracies: deque[float] = deque(maxlen=keep.batches if isinstance(keep, KeepByAccuracy) else 1)
        self._decided = keep.first if isinstance(keep, KeepByAccuracy) else 1.0

    def at(self, step: int) -> float:
        """The share at a step that is about to begin."""
        if isinstance(self.keep, KeepByAccuracy):
            return self._decided
        return self.keep.at(step) if isinstance(self.keep, KeepTable) else self.keep

    def measures_at(self, step: int) -> bool:
        """Whether the accuracy is to be measured at a step."""
        return isinstance(self.keep, KeepByAccuracy) and step % self.keep.every == 0

    def note(self, accuracy: float) -> None:
        """Take an accuracy into the mean, which the next step keeps rows by."""
        assert isinstance(self.keep, KeepByAccuracy)
        self.accuracies.append(accuracy)
        if len(self.accuracies) == self.keep.batches:
            share = self.keep.share(sum(self.accuracies) / len(self.accuracies))
            self._decided = min(self._decided, share)

    def state_dict(self) -> dict[str, Any]:
        """What decides the next shares."""
        return {"accuracies": list(self.accuracies), "share": self._decided}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.accuracies.clear()
        self.accuracies.extend(state["accuracies"])
        self._decided = state["share"]


def _is_share(value: float) -> bool:
    return 0 <= value <= 1
