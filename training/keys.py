"""The types of a configuration's keys: pydantic reads them from TOML and from words, and says what they must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gsgd.sift.options import SiftOptions


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    try:
        # 1e5 is a whole number, too; others do not go through a float, which is exact up to 2^53 only.
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    except ValueError:
        return value


def _parts(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number), Field(le=2**63 - 1)]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
AtLeastZero = Annotated[Number, Field(ge=0)]
AboveZero = Annotated[Number, Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0)]  # infinity is welcome: never
Share = Annotated[Number, Field(ge=0, le=1)]
ShareBelowOne = Annotated[Number, Field(ge=0, lt=1)]
Sizes = Annotated[tuple[Positive, ...], BeforeValidator(_parts), Field(min_length=1)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_parts)]

Trackers = Annotated[tuple[Literal["wandb", "mlflow", "trackio"], ...], BeforeValidator(_parts)]


def key(default: Any, help: str) -> Any:
    """A key with its default, and what `gsgd train --keys` says of it."""
    return Field(default, description=help)


def engines(name: str) -> Any:
    """A key that is the engine's option of this name, with its default and help."""
    return key(getattr(SiftOptions, name), SiftOptions.help()[name])


def described(settings: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, default, help) of every key of a class of settings."""
    return ((name, field.default, field.description) for name, field in settings.__pydantic_fields__.items())


def check_shares(validation: float, test: float, rows: str, *, validated: bool = True) -> None:
    """Whether the shares that are held out leave rows to train on, and some to validate on if there must be.

    Args:
        validation, test: the shares, each in [0, 1).
        rows: what is held out, in words, such as "passages".
        validated: whether there must be a share to validate on.

    Raises:
        ValueError: if not, naming the shares and the rule.
    """
    if validated and not validation:
        raise ValueError("validation_share = 0 leaves nothing to validate on: it must lie in (0, 1)")
    if validation + test >= 1:
        raise ValueError(
            f"validation_share = {validation!r} and test_share = {test!r} must together be less than 1, to leave "
            f"{rows} to train on"
        )
