"""Proofs by subdivision: a claim over a range is proved part by part, each by a bound that holds on the whole part.

Edges are exact rationals, so the parts cover the range with nothing between them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from flint import arb, fmpq

from theory.routes.rigorous.balls import Number, settled
from theory.verdict import Status, Verdict

Side = tuple[fmpq, fmpq]
Box = tuple[Side, ...]
Point = tuple[fmpq, ...]

MAX_BOXES = 20_000


@dataclass(frozen=True)
class Subdivision:
    """What became of a range.

    Attributes:
        proved: the boxes on which the claim holds.
        refuted: a point at which it is certainly false, or None.
        undecided: the boxes left when the search ended, by a refutation or at its limit.
        value: the largest upper bound over the proved boxes, or the ball at the refuting point.
    """

    proved: tuple[Box, ...]
    refuted: Point | None
    undecided: tuple[Box, ...]
    value: arb


def box(*sides: tuple[Number, Number]) -> Box:
    """A box from rational edges, given as numbers or decimals in text.

    Raises:
        ValueError: if a side ends before it starts, or there is none.
    """
    exact = tuple((_rational(low), _rational(high)) for low, high in sides)
    if not exact or any(low > high for low, high in exact):
        raise ValueError(f"{sides} is no box: every side must be (low, high) with low <= high")
    return exact


def subdivide(enclose: Callable[[Box], arb], bound: arb, whole: Box, *, max_boxes: int = MAX_BOXES) -> Subdivision:
    """Is a function at most `bound` on all of `whole`? Boxes that are not decided are halved along their longest side.

    Args:
        enclose: of a box, a ball whose upper end is at least the function on it; of a point (a box whose sides have
            no length), a ball that contains the function's value there.
        bound: compared with these balls; a comparison that is not certain decides nothing.
        whole: the range.
        max_boxes: how many boxes may be looked at; what is left then is undecided.
    """
    proved: list[Box] = []
    largest = arb("-inf")
    # The half of the box with the highest bound comes next: where the claim is false, that finds a witness soonest.
    waiting = [(-math.inf, 0, whole)]
    seen = 0
    while waiting and seen < max_boxes:
        _, _, current = heapq.heappop(waiting)
        seen += 1
        value = enclose(current)
        if value <= bound:
            proved.append(current)
            # Upper ends are exact numbers, so this comparison is always certain.
            largest = value.upper() if value.upper() > largest else largest
            continue
        point = tuple((low + high) / 2 for low, high in current)
        at = enclose(tuple((x, x) for x in point))
        if at > bound:
            return Subdivision(tuple(proved), point, _boxes(waiting, current), at)
        halves = _halves(current)
        if not halves:
            return Subdivision(tuple(proved), None, _boxes(waiting, current), largest)
        height = float(value.upper())
        for number, half in enumerate(halves):
            heapq.heappush(waiting, (-math.inf if math.isnan(height) else -height, 2 * seen + number, half))
    return Subdivision(tuple(proved), None, _boxes(waiting), largest)


def verdict(found: Subdivision, bound: arb, *, names: tuple[str, ...]) -> Verdict:
    """The verdict on `bound`; a proof says how many boxes it took, a refutation names its point by `names`."""
    if found.refuted is not None:
        place = ", ".join(f"{name} = {_number(x)}" for name, x in zip(names, found.refuted, strict=True))
        text = f"{found.value.str(10, radius=False)} > {bound.str(10, radius=False)} at {place}"
        return settled(Status.REFUTED, found.value, bound, bound - found.value, text)
    if found.undecided:
        low_high = zip(names, found.undecided[-1], strict=True)
        place = ", ".join(f"{name} in [{_number(low)}, {_number(high)}]" for name, (low, high) in low_high)
        count = len(found.proved) + len(found.undecided)
        text = f"{len(found.undecided)} of {count} boxes are undecided, one of them {place}"
        return Verdict(status=Status.INCONCLUSIVE, witness=text)
    count = len(found.proved)
    text = f"{count} box{'' if count == 1 else 'es'}"
    return settled(Status.PROVED, found.value, bound, bound - found.value, text)


def _boxes(waiting: list[tuple[float, int, Box]], *more: Box) -> tuple[Box, ...]:
    return (*(item for _, _, item in waiting), *more)


def _halves(current: Box) -> list[Box]:
    lengths = [high - low for low, high in current]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] == 0:
        return []
    low, high = current[longest]
    middle = (low + high) / 2
    return [(*current[:longest], side, *current[longest + 1 :]) for side in ((low, middle), (middle, high))]


def _rational(number: Number) -> fmpq:
    if isinstance(number, fmpq):
        return number
    if isinstance(number, (float, arb)):
        raise ValueError(f"{number!r} is not exact: give edges as whole numbers, fractions or decimals in text")
    fraction = Fraction(number)
    return fmpq(fraction.numerator, fraction.denominator)


def _number(x: fmpq) -> str:
    return f"{int(x.p) / int(x.q):.6g}"
