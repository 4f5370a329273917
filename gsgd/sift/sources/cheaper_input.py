"""The model's loss on a cheaper form of the batch: smaller pictures, fewer tokens, numbers of fewer bits.

    sift = Sift(model, score=CheaperInput(AveragePooled(2)), exit_layer=12)

The exit, the last one or an earlier, scores what a function makes of the batch; training takes the batch itself, and
can take nothing over from scoring. Of pictures of half the side a convolution costs a quarter, of half the tokens a
transformer half or less; of fewer bits it costs as many operations, each of which may be quicker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd.ranges import whole
from gsgd.sift.score_source import GrossBatch, ScoreSource

Form = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""`batch -> batch`: the same rows in another form, labels included."""


@dataclass(frozen=True)
class AveragePooled:
    """The form in which pictures (B, channels, height, width) are means over squares.

    Args:
        factor: pixels on a side of the squares, at least 2; what is left of a side that it does not divide is cut off.
        entry: of the batch, with the pictures.

    Raises:
        ValueError: for a factor below 2.
    """

    factor: int
    entry: str = "pixel_values"

    def __post_init__(self) -> None:
        whole("factor", self.factor, least=2)

    def __call__(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with smaller pictures.

        Raises:
            ValueError: if it has none, or they are smaller than a square.
        """
        pictures = batch.get(self.entry)
        if not isinstance(pictures, Tensor) or pictures.dim() != 4 or min(pictures.shape[2:]) < self.factor:
            found = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ValueError(
                f"{self.entry!r} is {found}, but to be pooled by {self.factor} it must be pictures of shape "
                f"(B, channels, height, width) of at least {self.factor} pixels a side"
            )
        return {**batch, self.entry: F.avg_pool2d(pictures, self.factor)}


@dataclass(frozen=True)
class FirstTokens:
    """The form in which rows are cut after so many tokens: whatever is (B, T, ...) as `entry` is, labels included.

    Args:
        tokens: at least 1; shorter rows stay as they are.
        entry: of the batch, with the tokens.

    Raises:
        ValueError: for less than 1 token.
    """

    tokens: int
    entry: str = "input_ids"

    def __post_init__(self) -> None:
        whole("tokens", self.tokens, least=1)

    def __call__(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with shorter rows.

        Raises:
            ValueError: if it has no tokens.
        """
        ids = batch.get(self.entry)
        if not isinstance(ids, Tensor) or ids.dim() < 2:
            found = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"{self.entry!r} is {found}, but to be cut it must be tokens of shape (B, T)")
        whole_rows = ids.shape[:2]
        return {
            name: value[:, : self.tokens] if isinstance(value, Tensor) and value.shape[:2] == whole_rows else value
            for name, value in batch.items()
        }


class CheaperInput(ScoreSource):
    """Scores rows by the loss that an exit gives to a cheaper form of them.

    Args:
        form: makes it of the batch; None for the batch as it is.
        autocast: the type in which products are computed while it scores; None for that of the loop.

    Raises:
        ValueError: if neither is given, or `form` cannot be called.
    """

    by_exit = True
    own_input = True

    def __init__(self, form: Form | None = None, *, autocast: torch.dtype | None = None):
        if form is None and autocast is None:
            raise ValueError("form and autocast are both None: the input would be no cheaper than the batch")
        if form is not None and not callable(form):
            raise ValueError(f"form = {form!r} must be callable, batch -> batch")
        if autocast is not None and not (isinstance(autocast, torch.dtype) and autocast.is_floating_point):
            raise ValueError(f"autocast = {autocast!r} must be a torch.dtype of floating point, such as torch.bfloat16")
        self.form, self.autocast = form, autocast

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,): the exit's losses on the cheaper form."""
        batch = gross.batch if self.form is None else self.form(gross.batch)
        lower = contextlib.nullcontext() if self.autocast is None else torch.autocast(gross.device.type, self.autocast)
        with lower:
            return gross.exit_losses(batch)
