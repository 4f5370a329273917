"""What was learnt of an operation, for the next pass that comes to the same place with like arguments.

Training makes the same pass over and over. To find out what an operation does with its rows takes Python tens of
microseconds; to see that it is the call of the last time takes a few. Nothing is taken for granted: a call is recalled
only if everything that the findings rest on is equal, else it is looked into anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gsgd.sift.shared_forward.row_structure import Kind

MOST = 2**15
"""Calls that are remembered, 1.5 KB each; then all are forgotten. A pass has some hundreds for each input shape."""


@dataclass(slots=True, eq=False)
class CachedOperation:
    """A call, by all that its findings rest on, and these.

    Attributes:
        function: the operation.
        number: which one it was among those on batch data; None if it is on constants.
        sizes: the numbers of rows then, see `OperationTracker.sizes`.
        count: how many positional arguments it had.
        values: those that are no tensors, with their positions.
        options: the keyword arguments.
        tensors: position, source, kind and shape of those that are. A source of None stands for any tensor that was
            given. Strides follow from where a tensor comes from, as far as findings rest on them.
        arguments, sources: as in `Call`.
        made: the outputs' sources.
        finding: what the kind of pass makes of it, which has no tensors.
    """

    function: Any
    number: int | None
    sizes: tuple[int, ...]
    count: int
    values: tuple[tuple[int, Any], ...]
    options: dict[str, Any]
    tensors: tuple[tuple[int, Any, Kind, Any], ...]
    arguments: dict[str, Any]
    sources: dict[int, Any]
    made: tuple[Any, ...]
    finding: Any

    def has(self, args: Any, kwargs: Any) -> bool:
        """Whether a call has the values and options of this one; tensors are left to the caller."""
        if len(args) != self.count or kwargs.keys() != self.options.keys():
            return False
        for position, value in self.values:
            if not _equal(args[position], value):
                return False
        return not kwargs or all(_equal(kwargs[name], value) for name, value in self.options.items())


def _equal(one: Any, two: Any) -> bool:
    # True == 1 == 1.0, and a tensor compared to a number is a tensor.
    return one is two or (one.__class__ is two.__class__ and not isinstance(one, Tensor) and bool(one == two))
