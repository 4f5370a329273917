"""Refuses what makes a program wait for its GPU, without a GPU: on the device "meta", whose tensors have no values.

    with NoHostWaits() as counts:
        step(model_on_meta, batch_on_meta)          # raises HostWait at the first operator that would wait

They tell host from device, which tensors on the CPU do not, and they run everything else: forward and backward passes,
optimizers. torch itself refuses to read them, by many exceptions; here it is one, with a name. Refused is also what
torch admits on meta although CUDA would wait for it: writing through a boolean mask, and copies from the host that are
not asked for as `non_blocking`.

What cannot be seen: branches on `device.type == "cuda"`, whether memory is pinned, what a CUDA kernel does by itself
(`bincount` is listed for that), and reads of step counts that an optimizer keeps on the host, which are none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

_READS = {
    *(aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.allclose),
    *(aten.nonzero, aten.masked_select, aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive),
    *(aten.bincount, aten.repeat_interleave),
}
_BY_PLACE = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_COPIES = {aten._to_copy, aten.copy_, aten.copy}
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_METHODS = {
    *(Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__, Tensor.item),
    *(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__),
}
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray}


class HostWait(RuntimeError):
    """An operation for which the host would wait."""


class NoHostWaits(TorchFunctionMode):
    """Within the block, operations that make the host wait for the device raise `HostWait`.

    Entering it gives the numbers of operators by name, which the block counts up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = _Operators()

    def __enter__(self) -> Counter[str]:
        self.operators.__enter__()
        super().__enter__()
        return self.operators.counts

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.operators.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _METHODS and args[0].device.type != "cpu":
            raise HostWait(f"Tensor.{function.__name__} reads values from the device")
        if (
            function in _FROM_NUMBERS
            and not isinstance(args[0], Tensor)
            and torch.device(kwargs.get("device") or "cpu").type != "cpu"
            and args[0] != []  # of which nothing is copied
        ):
            raise HostWait(f"torch.{function.__name__} copies numbers from the host to the device")
        return function(*args, **kwargs)


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, function.overloadpacket
        self.counts[str(packet).removeprefix("aten.")] += 1
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_device = any(tensor.device.type != "cpu" for tensor in tensors)
        if packet in _BY_PLACE:
            if any(_is_mask(place) for place in args[1]):
                raise HostWait(f"{packet} by a boolean mask, whose entries are counted first")
        elif on_device and (packet in _READS or not _TAGS.isdisjoint(function.tags)):
            raise HostWait(f"{packet} reads values from the device")
        if packet in _COPIES:
            self._check_copy(packet, args, kwargs)
        return function(*args, **kwargs)

    def _check_copy(self, packet: Any, args: Any, kwargs: Any) -> None:
        source = args[0] if packet is aten._to_copy else args[1]
        target = torch.device(kwargs.get("device") or source.device) if packet is aten._to_copy else args[0].device
        beside = kwargs.get("non_blocking", False) or (packet is not aten._to_copy and args[2:3] == (True,))
        if target.type == "cpu" != source.device.type:
            raise HostWait(f"{packet} from the device to the host")
        if source.device.type == "cpu" != target.type and not beside and source.numel():
            raise HostWait(f"{packet} from the host to the device, and not non_blocking")


def _is_mask(place: Any) -> bool:
    return isinstance(place, Tensor) and place.dtype in (torch.bool, torch.uint8) and place.device.type != "cpu"
