"""Which arguments the forward pass of a model takes, by its signature."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ForwardArguments:
    """Arguments of a model's `forward`, and of `early_logits` where it exits early by itself.

    Attributes:
        named: those that it names, but for `exit_layer`.
        required: those that it cannot do without. Models of transformers name all of theirs as optional, so all count.
        others: whether it takes others by name, too, `early_logits` where it has that.
        known: whether all that tells what it takes. A signature with one name beside any others, as of a wrapper, does
            not: such a model is given whatever comes.
    """

    named: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    others: bool = False
    known: bool = False

    @classmethod
    def of(cls, model: nn.Module | None) -> ForwardArguments:
        """Of the innermost model; of None nothing is known."""
        named: set[str] = set()
        required: set[str] = set()
        of_transformers = any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)
        first: tuple[bool, bool] | None = None  # (others, known), of the method that scoring calls
        for method in ("early_logits", "forward"):
            try:
                # The class's own: what others have put in its place on the instance may tell nothing.
                parameters = list(inspect.signature(getattr(type(model), method)).parameters.values())[1:]
            except (AttributeError, TypeError, ValueError):  # none, or not Python's
                continue
            for entry in parameters:
                if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY) and entry.name != "exit_layer":
                    named.add(entry.name)
                    if of_transformers or entry.default is entry.empty:
                        required.add(entry.name)
            if first is None:
                others = any(entry.kind is entry.VAR_KEYWORD for entry in parameters)
                first = others, not others or len(named) > 1
        others, known = first or (False, False)
        return cls(frozenset(named), frozenset(required), others, known)
