"""Whether an operation on the kept rows is the one that the gross batch had, so that its rows may be handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gsgd.sift.shared_forward.operation_tracker import Call, Segment, Source, Step, of_batch
from gsgd.sift.shared_forward.operator_properties import properties_of

aten = torch.ops.aten

_ABOUT_A_MASK = frozenset({aten.all, aten.any, aten.sum, aten.eq, aten.ne, aten.logical_not, aten._to_copy, aten.view})
_SIZES = frozenset({"size", "shape", "repeats"})


class OperationComparison:
    """Compares operation by operation.

    Args:
        inputs: the arguments of the model for the kept rows, by name.
        segments: of the scoring pass, and `number`, which of them the operations belong to.
        count: of the kept rows.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        segments: Sequence[Segment],
        number: int,
        count: int,
    ):
        self.inputs = inputs
        self.segment = segments[number]
        self.first_steps = segments[0].steps  # by their numbers
        self.count = count
        self.compared: dict[tuple[int, int], tuple[Any, Any, bool]] = {}

    def difference(self, recorded: Step, call: Call) -> str | None:
        """Why this operation is not the recorded one; None if it is."""
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return "hooks on saved tensors, as of activation checkpointing, may compute again in the backward pass"
        if call.finding is not None and call.finding is recorded.known:
            return None  # found last time
        function, names = call.function, list(recorded.arguments)
        if call.facts.batchnorm and properties_of(recorded.function).batchnorm:
            if call.named.get("training", True):
                return "BatchNorm normalises the kept rows by their own statistics"
            names = ["input", "weight", "bias"]  # one of them takes its statistics as arguments
        elif recorded.function is not function:
            return f"{function} where the gross batch had {recorded.function}"
        mixed = True not in recorded.kinds and False in recorded.kinds
        for name in names:
            one, two = recorded.arguments[name], call.arguments[name]
            if one is two:
                continue
            # What is not by rows is not handed out, nor is what follows it: it may heed the number of rows.
            if not self.same(one, two, function, name) and not (mixed and type(one) is type(two) is int):
                return f"{function} has another {name} than with the gross batch"
        gross, kept = self.segment.rows, self.count
        by_size = call.random and recorded.kinds[0] and not of_batch(tuple(recorded.arguments.values()))
        if by_size and gross != kept and recorded.arguments == call.arguments:
            return f"{function} draws no more for the gross batch than for the kept rows"
        return None

    def same(self, gross: Any, kept: Any, function: Any, name: str) -> bool:
        """Whether two arguments are alike, but for the number of rows in sizes."""
        if type(gross) is not type(kept):
            return False
        rows, count = self.segment.rows, self.count
        if isinstance(gross, Source) and gross[0] == "constant" == kept[0]:
            known = self.compared.get((id(gross), id(kept)))
            if known is None:
                (_, one, arguments, *rest), (_, two, others, *more) = gross, kept
                alike = one is two and rest == more
                if alike and isinstance(arguments, dict):
                    alike = all(self.same(value, others[key], one, key) for key, value in arguments.items())
                else:
                    alike = alike and self.same(arguments, others, one, "")
                # With both of them, so that nothing else gets their identities.
                known = self.compared[id(gross), id(kept)] = (gross, kept, alike)
            return known[2]
        if isinstance(gross, Source):
            return bool(gross == kept)
        if isinstance(gross, tuple):
            scaled = next((n for n, size in enumerate(gross) if size != 1), None) if name in _SIZES else None
            return len(gross) == len(kept) and all(
                self.same(one, two, function, "") or (number == scaled and one * count == two * rows)
                for number, (one, two) in enumerate(zip(gross, kept, strict=True))
            )
        if (function.overloadpacket, name) in ((aten.arange, "end"), (aten.native_group_norm, "N")):
            return gross == kept or (gross, kept) == (rows, count)
        return bool(gross == kept)

    def says_no_padding(self, recorded: Step) -> bool:
        """Whether the number that the model branches on says of an input mask only that it masks nothing."""
        source, steps = recorded.arguments.get("self"), self.first_steps
        while isinstance(source, Source) and source[0] == "step" and source[1] < len(steps):
            made = steps[source[1]]
            if made.function.overloadpacket not in _ABOUT_A_MASK:
                return False
            source = made.arguments["self"]
        if not isinstance(source, Source) or source[0] != "input" or not source[1].endswith("mask"):
            return False
        return bool((self.inputs[source[1]] == 1).all())
