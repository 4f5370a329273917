"""Arguments held against their ranges: a `ValueError` names the value and the rule. Numbers become Python's own."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def whole(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """`value` as an int.

    Raises:
        ValueError: unless it is a whole number, of Python or NumPy, of at least `least` and at most `most`.
    """
    small = isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least
    if small or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} = {value!r} must be a whole number of at least {least}{upper}")
    return int(value)


def within(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """`value` as a float.

    Raises:
        ValueError: unless it is a finite number, of Python or NumPy, for which `holds` is true; it ends in `rule`.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(float(value)):
        raise ValueError(f"{name} = {value!r} must {rule}")
    return float(value)


def flag(name: str, value: Any, others: str = "") -> bool:
    """`value` as a bool.

    Raises:
        ValueError: unless it is one, of Python or NumPy; `others` names what else it may be.
    """
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's is called either
        raise ValueError(f"{name} = {value!r} must be True{',' if others else ' or'} False{others}")
    return bool(value)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Check a word.

    Raises:
        ValueError: unless it is one of `allowed`, with the nearest of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} = {value!r} must be one of: {', '.join(allowed)}{nearest(value, allowed)}")


def words(name: str, value: Any) -> tuple[str, ...]:
    """`value` as a tuple of names.

    Raises:
        ValueError: unless it is an iterable of words; a single one is not meant as its letters.
    """
    found = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if found is None or not all(isinstance(word, str) and word for word in found):
        example = value if isinstance(value, str) and value else "weights"
        raise ValueError(f"{name} = {value!r} must be a sequence of names, such as ({example!r},)")
    return found


def nearest(word: Any, allowed: Sequence[str]) -> str:
    """A question that proposes the allowed word most like `word`; nothing where none is like it."""
    found = difflib.get_close_matches(word, allowed, n=1) if isinstance(word, str) else []
    return f" (did you mean {found[0]!r}?)" if found else ""
