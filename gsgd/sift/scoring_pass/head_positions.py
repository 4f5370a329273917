"""A head that runs on some positions of a sequence only: those with labels, or some of them at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from gsgd.sift.models.wrappers import innermost


class NotCalled(ValueError):
    """The model below the head was not run, or not once, so that no positions were taken from it."""


@contextlib.contextmanager
def positions_only(
    model: nn.Module,
    rows: Tensor,
    columns: Tensor,
    then: Callable[[Tensor], Tensor] = lambda chosen: chosen,
    below: str | None = None,
) -> Iterator[nn.Module]:
    """Within the block the model's head sees the positions (rows, columns) (N,) only, as one row of N tokens.

    The model below the head, which is yielded, runs in full; its last hidden state (B, T, H) is cut to (1, N, H) on its
    way to the head, which sees what `then` makes of it.

    Args:
        model: unwrapped, or a view of it.
        rows, columns: (N,), which positions.
        then: (1, N, H) -> what the head sees.
        below: dotted name of the module below the head; None for the model's `base_model`.

    Raises:
        NotCalled: at the end of the block, unless that module ran exactly once.
        ValueError: if the model has no such module.
    """

    def cut(module: nn.Module, arguments: Any, output: Any) -> Any:
        called.append(True)
        return _with_hidden(output, then(_at(output[0], rows, columns)))

    called: list[bool] = []
    owner = innermost(model)  # PEFT has a `base_model` of its own
    base = getattr(owner, "base_model", None) if below is None else owner.get_submodule(below)
    if not isinstance(base, nn.Module) or base is owner:
        raise ValueError(f"{type(owner).__name__} has no base model below its head to take positions from")
    hook = base.register_forward_hook(cut)
    try:
        yield base
    finally:
        hook.remove()
    if len(called) != 1:
        raise NotCalled(
            f"{type(base).__name__}, the model below the head of {type(owner).__name__}, ran {len(called)} times"
        )


_KEYS = itertools.count()
_POSITIONS: dict[int, tuple[Tensor, Tensor]] = {}
"""Of a `HeadAtPositions`, the positions (rows, columns) that its head sees now.

What hangs on a module is taken for a weight, at the same address in every step, and a graph is recorded anew where it
is not. So they lie here.
"""


class HeadAtPositions:
    """A head that sees chosen positions only, by a hook on the module below it that stays there.

    What is compiled knows the hooks that were there then, and does not look for others.
    """

    def __init__(self) -> None:
        self.key = next(_KEYS)

    def __reduce__(self) -> tuple[type[HeadAtPositions], tuple[()]]:
        return HeadAtPositions, ()  # a copied module has positions of its own

    @classmethod
    def on(cls, base: nn.Module) -> HeadAtPositions:
        """Of the module below a head; all engines have the same one."""
        for hook in base._forward_hooks.values():
            if isinstance(getattr(hook, "__self__", None), cls):
                return hook.__self__  # type: ignore[attr-defined]
        found = cls()
        base.register_forward_hook(found._cut)
        return found

    @contextlib.contextmanager
    def at(self, rows: Tensor, columns: Tensor) -> Iterator[None]:
        """Within the block the head sees the positions (rows, columns) (N,), as one row of N tokens."""
        _POSITIONS[self.key] = rows, columns
        try:
            yield
        finally:
            del _POSITIONS[self.key]

    def _cut(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if self.key not in _POSITIONS:
            return output
        return _with_hidden(output, _at(output[0], *_POSITIONS[self.key]))


def modules_below_head(model: nn.Module, layers: str) -> list[str]:
    """Dotted names of modules whose output a head may read: the base model, then what lies on the way to the layers.

    Args:
        model: unwrapped.
        layers: dotted name of the stack of layers.
    """
    owner = innermost(model)
    base = getattr(owner, "base_model", None)
    names = [name for name, module in owner.named_modules() if module is base and module is not owner]
    path = layers.split(".")[:-1]
    steps = [".".join(path[: number + 1]) for number in range(len(path))]
    return list(dict.fromkeys([*names, *(step for step in steps if "_fsdp_wrapped_module" not in step)]))


class GivenOutput(nn.Module):
    """Stands for a model below a head that has already run and gave `output`, with other last hidden states."""

    def __init__(self, output: Any, hidden: Tensor):
        super().__init__()
        self.output = output
        self.hidden = hidden

    def forward(self, *arguments: Any, **more: Any) -> Any:
        return _with_hidden(self.output, self.hidden)


def _at(hidden: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The positions (rows, columns) (N,) of hidden states (B, T, H), as one row (1, N, H)."""
    return hidden[rows.to(hidden.device), columns.to(hidden.device)].unsqueeze(0)


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """The output of a model below a head, with other last hidden states."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    return type(output)(**{**output, "last_hidden_state": hidden})
