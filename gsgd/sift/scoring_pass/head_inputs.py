"""What the head of an exit reads: the features (B, d) of rows, taken down while a scoring pass runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gsgd.sift.models.wrappers import every_module


class Features(NamedTuple):
    """Of the rows of a gross batch.

    Attributes:
        values: (B, d), float32 or float64.
        classes: C, predictions that the exit's own head makes of a row.
    """

    values: Tensor
    classes: int


class HeadInputs:
    """The input of the linear layer that runs last in a pass, which is the head of an exit; of all parts of a batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def taken(self, model: nn.Module) -> Iterator[None]:
        """While the block runs a part of the batch through the model, or through a view of it."""
        last: list[tuple[Any, Any]] = []

        def note(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            last[:] = [(arguments[0] if arguments else None, output)]

        hooks = [each.register_forward_hook(note) for each in every_module(model) if isinstance(each, nn.Linear)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._parts += last

    def features(self, rows: int) -> Features:
        """The features of all parts.

        Args:
            rows: B, of the batch.

        Raises:
            ValueError: unless a linear layer ran last that read one vector a row, and made one prediction of each.
        """
        tensors = [each for part in self._parts for each in part]
        two = bool(tensors) and all(isinstance(each, Tensor) and each.dim() == 2 for each in tensors)
        found = sum(len(values) for values, _ in self._parts) if two else 0
        if found != rows:
            shapes = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in tensors]
            raise ValueError(
                f"a head on an exit's features needs a last linear layer that reads (B, d), one vector for each of "
                f"the {rows} rows, but what ran last read and returned {shapes or 'nothing'}: it is for models that "
                "classify rows"
            )
        values = torch.cat([values.detach() for values, _ in self._parts])
        wide = torch.promote_types(values.dtype, torch.float32)
        return Features(values.to(wide), self._parts[0][1].shape[1])
