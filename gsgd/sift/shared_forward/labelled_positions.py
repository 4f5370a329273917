"""The end of the exit layer, behind its attention: where scoring needs labelled positions only.

A score is made of what the exit predicts at labelled positions. Up to the exit layer's attention these depend on all
positions; behind it every position goes its own way, through products with weights, norms, activations. There products
are carried out at labelled positions alone, and the others are filled with NaN: were a score to depend on one of them
after all, it would be NaN, and scoring is done again in full, from then on always. Draws keep their shapes, so that
dropout masks are those of a full pass. The kept rows are computed in full in the training pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.shared_forward.operation_tracker import Call, Source, Step
from gsgd.sift.shared_forward.row_structure import is_pointwise

aten = torch.ops.aten

_PRODUCTS = {aten.addmm: "mat1", aten.mm: "self"}
_WORTH_IT = 0.5
"""Share of labelled positions above which all of them are computed."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Positions with a label.

    Attributes:
        at: (N,), numbered through all rows.
        of: all positions of the gross batch.
    """

    at: Tensor
    of: int

    @classmethod
    def among(cls, mask: Tensor) -> Labelled | None:
        """Of a mask (B, T); None where so many are labelled that there is nothing to save, or none."""
        at = mask.flatten().nonzero().squeeze(1)
        return cls(at, mask.numel()) if 0 < len(at) <= _WORTH_IT * mask.numel() else None


def products_by_position(steps: Sequence[Step], positions: int) -> set[int]:
    """The products behind the last operation in which positions meet, by their `Step.prefix`.

    Args:
        steps: of the scoring pass up to the end of the exit layer.
        positions: of the gross batch, rows times length.
    """
    found: set[int] = set()
    for step in reversed(steps):
        packet, arguments = step.function.overloadpacket, step.arguments
        if packet in _PRODUCTS:
            others = [source for name, source in arguments.items() if name != _PRODUCTS[packet]]
            if step.shape[:1] != (positions,) or any(isinstance(at, Source) and at.of_batch for at in others):
                break
            found.add(step.prefix)
        elif packet in (aten.view, aten._unsafe_view):
            source = arguments["self"]
            before = steps[source[1]].shape if isinstance(source, Source) and source[0] == "step" else ()
            if before[-1:] != step.shape[-1:]:
                break
        elif not is_pointwise(step.function) and not (
            packet is aten.native_layer_norm and len(arguments["normalized_shape"]) == 1
        ):
            break
    return found


def at_positions(call: Call, labelled: Labelled | None) -> Any:
    """A product at labelled positions, which are rows of its first factor, with NaN elsewhere; None if they are not."""
    name = _PRODUCTS[call.function.overloadpacket]
    whole = call.named[name]
    if labelled is None or len(whole) != labelled.of or not whole.is_floating_point():
        return None
    added = call.named.get("self") if name != "self" else None
    if isinstance(added, Tensor) and added.dim() == whole.dim() and len(added) > 1:
        return None
    named = {**call.named, name: whole.index_select(0, labelled.at)}
    factors = [named.pop(each) for each in ("self", "mat1", "mat2") if each in named]
    part = call.function(*factors, **named)
    return part.new_full((len(whole), part.shape[1]), math.nan).index_copy_(0, labelled.at, part)
