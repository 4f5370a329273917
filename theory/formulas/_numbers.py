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
        raise ValueError(f"{name} = {values[~holds].flat[0]:.15g} {rule}")


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
        arrays.append(np.asarray(value, float))
        require(np.isfinite(arrays[-1]), name, arrays[-1], "must be finite")
    return arrays


def at_least(name: str, values: np.ndarray, low: float) -> None:
    """Raise a ValueError unless all of `values` are at least `low`."""
    require(values >= low, name, values, f"must be at least {low:g}")


def positive(name: str, values: np.ndarray) -> None:
    """Raise a ValueError unless all of `values` are positive and finite."""
    require((values > 0) & (values < np.inf), name, values, "must be positive and finite")
