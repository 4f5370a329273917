"""A scoring pass kept for the training pass on its rows: whether it can be, and which rows it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.exits import EarlyExit, find_layers, last_shared_layer
from gsgd.sift.models.batchnorm import gross_statistics
from gsgd.sift.models.wrappers import (
    any_fsdp,
    checkpoints_activations,
    every_module,
    innermost,
    is_compiled,
    is_itself_compiled,
)
from gsgd.sift.options import SiftOptions
from gsgd.sift.scoring_pass.mode import without_cache
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.shared_forward.capture import Capture


class Shared:
    """A captured scoring pass up to `exit_layer`, its labels, and the `rows` chosen, at `indices` (k,) of it."""

    def __init__(self, capture: Capture, exit_layer: int, rows: dict[str, Any], indices: Tensor, labels: Any):
        self.capture, self.exit_layer = capture, exit_layer
        self.rows, self.indices, self.labels = rows, indices, labels
        self._versions = _versions([*rows.values(), labels])

    def is_of(self, rows: Mapping[str, Any]) -> bool:
        """Whether these are the very tensors that were chosen, unchanged, be it in another dictionary."""
        same = set(rows) == set(self.rows) and all(rows[name] is value for name, value in self.rows.items())
        return same and _versions([*self.rows.values(), self.labels]) == self._versions

    @contextlib.contextmanager
    def training_pass(self, model: nn.Module) -> Iterator[None]:
        """Within the block, `model` on the chosen rows takes what the scoring pass has computed."""
        inner, capture = innermost(model), self.capture
        with contextlib.ExitStack() as stack:
            stack.callback(capture.release)
            if capture.statistics:
                stack.enter_context(gross_statistics(inner, capture.statistics))
            if capture.share:
                stack.enter_context(without_cache(inner))
                stack.enter_context(capture.replay(self.indices, last_shared_layer(inner, self.exit_layer)))
            yield

    def begin_head(self, chosen: Tensor) -> Tensor:
        """The kept rows' labelled positions, among those of the gross batch, come next."""
        labelled = self.labels != IGNORED
        number = labelled.flatten().cumsum(0).view(labelled.shape) - 1
        indices = self.indices.to(labelled.device)
        self.capture.begin_head(chosen, number[indices][labelled[indices]])
        return chosen


def two_passes_because(
    model: nn.Module, exit_layer: int, options: SiftOptions, *, together: bool, holds_window: bool
) -> str | None:
    """Why training cannot take anything from the scoring pass; None if it can be tried.

    `together` says whether ranks select together; `holds_window` whether several micro-batches are selected before the
    first of them is trained on.
    """
    modules, mode = every_module(model), options.scoring_mode
    compiled = any(map(is_itself_compiled, modules)) and _compiled_up_to(model, exit_layer)
    reasons = [
        (together, 'with scope="global" ranks train on rows that others scored'),
        (any_fsdp(modules), "FSDP gathers weights anew in every pass"),
        (options.score_batch_size is not None, "score_batch_size bounds the memory that a captured pass would take"),
        (torch.is_inference_mode_enabled(), "in inference mode no changes of tensors are counted"),
        (mode != "train", f"scoring_mode={mode!r} scores another function than is trained"),
        (options.compile, "compile makes graphs of scoring and training, which share nothing"),
        (is_compiled(model), "torch.compile runs the whole model as one piece; compile only layers after the exit"),
        (compiled, "parts of the model up to the exit, or its head, are compiled; compile only layers after the exit"),
        (holds_window, "captured passes of all micro-batches would be in memory at once"),
        (any(map(checkpoints_activations, modules)), "activation checkpointing computes the layers again in the "
         "backward pass"),
    ]  # fmt: skip
    return next((reason for holds, reason in reasons if holds), None)


def _compiled_up_to(model: nn.Module, exit_layer: int) -> bool:
    """Whether anything but the layers after the exit is compiled."""
    inner = innermost(model)
    layers: Any = [] if isinstance(inner, EarlyExit) else find_layers(inner)[1][exit_layer:]
    after = {id(module) for layer in layers for module in every_module(layer)}
    return any(is_itself_compiled(module) for module in every_module(inner) if id(module) not in after)


def _versions(values: list[Any]) -> list[int | None]:
    """How often each tensor has been changed in place, where that is counted."""
    return [value._version if isinstance(value, Tensor) and not value.is_inference() else None for value in values]
