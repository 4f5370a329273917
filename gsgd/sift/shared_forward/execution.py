"""How the scoring pass carries out an operation, as torch does or faster; whether what it returns is worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gsgd.sift.shared_forward.convolutions import as_product, is_one_product
from gsgd.sift.shared_forward.fast_dropout import bernoulli_, is_slow_draw
from gsgd.sift.shared_forward.operation_tracker import Call

aten = torch.ops.aten

_CHEAP = 64
"""Multiplications for one output up to which computing it again costs no more time than keeping it, and no memory.

Kept, it is written to where no cache holds it, and its rows are read from there and written once more.
"""


def way_of(call: Call) -> Callable[[Call], Any]:
    """How scoring carries out an operation."""
    if call.facts.attention and "compute_log_sumexp" in call.named:
        return _with_log_sumexp
    if call.random and is_slow_draw(call.function, call.args, call.kwargs):
        return _drawn
    if call.function.overloadpacket is aten.convolution and is_one_product(call.named):
        return _as_product
    return _as_torch


def _as_torch(call: Call) -> Any:
    return call.function(*call.args, **call.kwargs)


def _as_product(call: Call) -> Any:
    return as_product(call.named)


def _drawn(call: Call) -> Any:
    return bernoulli_(*call.args)


def _with_log_sumexp(call: Call) -> Any:
    # The backward pass needs them.
    call.arguments["compute_log_sumexp"] = True
    return call.function(**{**call.named, "compute_log_sumexp": True})


def is_cheap(packet: Any, named: Mapping[str, Any]) -> bool:
    """Whether an operation of COSTLY is not worth being kept after all: a convolution by 1x1 of few channels."""
    if packet is not aten.convolution:
        return False
    _, channels, *kernel = named["weight"].shape
    return channels <= _CHEAP and all(size == 1 for size in kernel)
