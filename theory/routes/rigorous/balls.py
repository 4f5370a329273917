"""Balls (`flint.arb`), and comparisons of them that are certain, certainly false, or neither."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from typing import Any

from flint import arb, ctx, fmpq

from theory.verdict import Status, Verdict, worst

Number = int | str | Fraction | fmpq | arb


def precision(bits: int) -> AbstractContextManager[Any]:
    """Work with `bits` binary digits inside a `with` block; a proof repeated with more is the same proof.

    Raises:
        ValueError: unless bits >= 20.
    """
    if bits < 20:
        raise ValueError(f"bits = {bits} must be at least 20")
    return ctx.workprec(bits)


def ball(number: Number) -> arb:
    """A ball at the current precision around a rational number or a decimal such as "0.72".

    Floats are refused: 0.72 in float64 is another number than the paper's.
    """
    if isinstance(number, float):
        raise ValueError(f"{number!r} is a float: give the decimal as text, or a fraction")
    if isinstance(number, arb):
        return number
    if isinstance(number, fmpq):
        return arb(number)
    fraction = Fraction(number)
    return arb(fmpq(fraction.numerator, fraction.denominator))


def at_most(value: arb, bound: arb, *, where: str) -> Verdict:
    """Is `value <= bound`? Proved or refuted only if certain, else inconclusive."""
    if value <= bound:
        return settled(Status.PROVED, value, bound, bound - value)
    if value > bound:
        text = f"{_show(value)} > {_show(bound)} at {where}"
        return settled(Status.REFUTED, value, bound, bound - value, text)
    return _undecided(f"{_show(value)} <= {_show(bound)}", where)


def equal(value: arb, expected: arb, tolerance: Number, *, where: str) -> Verdict:
    """Do `value` and `expected` differ by at most `tolerance`, radii included?"""
    difference, limit = abs(value - expected), ball(tolerance)
    if difference <= limit:
        return settled(Status.PROVED, value, expected, limit - difference)
    if difference > limit:
        text = f"{_show(value)} and {_show(expected)} differ by {difference.str(3, radius=False)} at {where}"
        return settled(Status.REFUTED, value, expected, limit - difference, text)
    return _undecided(f"{_show(value)} = {_show(expected)}", where)


def settled(status: Status, value: arb, bound: arb, slack: arb, witness: str | None = None) -> Verdict:
    """A verdict whose figures are the middles of balls."""
    return Verdict(status=status, value=float(value), bound=float(bound), slack=float(slack), witness=witness)


def ingredient(small: arb, large: arb, *, where: str) -> Verdict:
    """`small <= large`, a number that an argument by hand needs.

    If it fails, the argument fails, and nothing follows about the claim: inconclusive, never refuted.
    """
    if small <= large:
        return Verdict(status=Status.PROVED)
    return Verdict(
        status=Status.INCONCLUSIVE, witness=f"the argument needs {_show(small)} <= {_show(large)} for {where}"
    )


def all_of(verdicts: Iterable[Verdict], text: str | None = None) -> Verdict:
    """`worst` of the verdicts. A proof says what it took, `text` or what its parts say, and its precision."""
    verdicts = list(verdicts)
    found = worst(*verdicts)
    if found.status is not Status.PROVED:
        return found
    took = [text] if text else [item.witness for item in verdicts if item.witness]
    return replace(found, witness=", ".join([*took, f"{ctx.prec} bits"]))


def _undecided(claim: str, where: str) -> Verdict:
    return Verdict(
        status=Status.INCONCLUSIVE, witness=f"{claim} is undecided at {where} with {ctx.prec} bits: try more"
    )


def _show(value: arb) -> str:
    # With its radius, unless ten digits are certain.
    return value.str(10, radius=float(value.rad()) > 1e-10 * max(1.0, abs(float(value))))
