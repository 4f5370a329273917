"""How many operators a training step runs, and which of them make the host wait for a GPU.

    counts = count_operators(step, torch.device("cuda"))
    counts.operators, counts.waits, counts.waits_at("gsgd/")

A GPU runs behind the program; an operation whose result the program must know (a value, or the number of entries that a
mask selects) makes the program wait until the GPU has caught up, and leaves the GPU idle while the program gets ahead
again. On a CPU nothing waits, but the same step has the same operations, so they are counted there as well: what would
wait. Copies between host and device exist on a GPU only.

The list of operations is written by hand; on CUDA, `cuda_waits` counts what torch itself reports.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The names of operations whose results the host reads, or whose outputs' sizes depend on values.
_READS = frozenset(
    (
        *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),
        *("nonzero", "masked_select", "bincount"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    )
)
_BY_MASK = frozenset(("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"))
_COPIES = frozenset(("_to_copy", "copy_", "copy"))
# Tensor methods that read values without an operator of their own where the tensor lies on the host.
_METHODS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)


@dataclass(frozen=True)
class Wait:
    """An operation that makes the host wait, and the innermost line outside of torch that called it."""

    operation: str
    at: str


@dataclass(frozen=True)
class StepCounts:
    """What one step ran.

    Attributes:
        operators: ATen operators that were executed, forward and backward.
        by_operator: the same by name.
        waiting: the operations that make the host wait, with the number of times each did.
    """

    by_operator: Counter[str]
    waiting: Counter[Wait]

    @property
    def operators(self) -> int:
        return self.by_operator.total()

    @property
    def waits(self) -> int:
        return self.waiting.total()

    def waits_at(self, place: str) -> int:
        """The waits whose line is in a file with `place` in its path, such as "transformers/"."""
        return sum(times for wait, times in self.waiting.items() if place in wait.at)


def count_operators(step: Callable[[], object], device: torch.device) -> StepCounts:
    """Run `step` once and count its operators.

    Args:
        step: it must run eagerly: a compiled model hides its operators.
        device: where the step computes. On "cpu" every read counts; elsewhere tensors on the host are free to read.
    """
    counts = StepCounts(Counter(), Counter())
    with _Methods(counts, device), _Operators(counts, device):
        step()
    return counts


def cuda_waits(step: Callable[[], object]) -> int:
    """Run `step` once and count the synchronising calls that torch reports on CUDA, compiled steps included."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in said)


class _Methods(TorchFunctionMode):
    def __init__(self, counts: StepCounts, device: torch.device):
        super().__init__()
        self.counts, self.device = counts, device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # On a device these begin with a copy to the host, which counts there.
        if self.device.type == "cpu" and function in _METHODS:
            self.counts.waiting[Wait(function.__name__, _caller())] += 1
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, counts: StepCounts, device: torch.device):
        super().__init__()
        self.counts, self.device = counts, device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        self.counts.by_operator[name] += 1
        if self._waits(name, args, kwargs):
            self.counts.waiting[Wait(name, _caller(function))] += 1
        return function(*args, **kwargs)

    def _waits(self, name: str, args: Any, kwargs: Any) -> bool:
        if name in _READS:
            return self._touches(args, kwargs)
        if name in _BY_MASK:
            if name not in ("index", "_unsafe_index") and _is_number(args[2]):
                return False  # which CUDA does by masked_fill
            return any(isinstance(place, Tensor) and _is_mask(place) and self._touches(place) for place in args[1])
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None and self._touches(args, kwargs)
        if name == "one_hot":
            return (args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1 and self._touches(args)
        return name in _COPIES and self.device.type != "cpu" and _copies_across(name, args, kwargs)

    def _touches(self, *values: Any) -> bool:
        tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
        return any(self.device.type == "cpu" or tensor.device.type != "cpu" for tensor in tensors)


def _is_mask(place: Tensor) -> bool:
    return place.dtype in (torch.bool, torch.uint8)


def _is_number(value: Tensor) -> bool:
    return value.numel() == 1 and value.device.type == "cpu"


def _copies_across(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a copy goes from host to device or back, and the host waits for its end."""
    if name == "_to_copy":
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
        non_blocking = kwargs.get("non_blocking", False)
    else:
        source, target = args[1].device, args[0].device
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    return (source.type == "cpu") != (target.type == "cpu") and not non_blocking


_HERE = __file__
_TORCH = str(Path(torch.__file__).parent)


def _caller(operator: Any = None) -> str:
    """The innermost line outside of torch and of this file, such as "transformers/masking_utils.py:369".

    Another dispatch mode that carries out `operator`, as the shared forward does, is not who asked for it.
    """
    found: FrameType | None = None
    for frame in _frames():
        code = frame.f_code
        if code.co_filename == _HERE or code.co_filename.startswith((_TORCH, "<")):
            continue
        if code.co_name == "__torch_dispatch__" and any(value is operator for value in frame.f_locals.values()):
            found = None
        elif found is None:
            found = frame
    return "?" if found is None else f"{_short(found.f_code.co_filename)}:{found.f_lineno}"


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _short(path: str) -> str:
    """A path from its package on, wherever that is installed."""
    parts = Path(path).parts
    if "site-packages" in parts:
        return "/".join(parts[parts.index("site-packages") + 1 :])
    root = Path(__file__).resolve().parent.parent.parent
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else Path(path).name
