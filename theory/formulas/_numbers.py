"""What the formulas take and give back: checked arrays in, floats for floats out."""

from __future__ import annotations

from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A float for a scalar, else the array as it is."""
    return float(value) if np.ndim(value) == 0 else value


def numbers(name: str, values: Any) -> np.ndarray:
    """`values` as an array of floats.

    Raises:
        ValueError: if one of them is NaN.
    """
    array = np.asarray(values, float)
    require(~np.isnan(array), name, array, "must be a number")
    return array


def require(holds: np.ndarray, name: str, values: np.ndarray, rule: str) -> None:
    """Check a rule.

    Raises:
        ValueError: unless it holds everywhere, with the first value that breaks it.
    """
    if not np.all(holds):
        raise ValueError(f"{name} = {values[~holds].flat[0]} {rule}")


def integers(name: str, values: Any, *, least: int = 1) -> np.ndarray:
    """`values` as an array of int64.

    Raises:
        ValueError: if one of them is no integer of at least `least`; 1e6 is one, True and 2.5 are not.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or not np.all((array >= least) & (array == np.floor(array)) & (array < 2**53)):
        raise ValueError(f"{name} = {values} must be an integer of at least {least}")
    return array.astype(np.int64)


def integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; raises a ValueError as `integers`, and for more than one."""
    array = integers(name, value, least=least)
    if array.ndim:
        raise ValueError(f"{name} = {value} must be one integer")
    return int(array)


def correlation(values: Any) -> np.ndarray:
    """`values` as an array of floats; a ValueError names the first that is outside [-1, 1]."""
    array = numbers("beta", values)
    require(np.abs(array) <= 1, "beta", array, "must lie in [-1, 1]")
    return array


def finite_arrays(**values: Any) -> list[np.ndarray]:
    """The values as arrays of floats, in their order; a ValueError names the first that is not finite."""
    arrays = []
    for name, value in values.items():
        array = np.asarray(value, float)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} = {array[~np.isfinite(array)].flat[0]} must be finite")
        arrays.append(array)
    return arrays


def at_least(name: str, value: np.ndarray, low: float) -> None:
    """Raise a ValueError unless all of `value` is at least `low`."""
    if (value < low).any():
        raise ValueError(f"{name} = {value[value < low].flat[0]:.6g} must be at least {low:g}")


def positive(name: str, value: np.ndarray) -> None:
    """Raise a ValueError unless all of `value` is positive and finite."""
    good = (value > 0) & (value < np.inf)
    if not good.all():
        raise ValueError(f"{name} = {value[~good].flat[0]:.6g} must be positive and finite")
