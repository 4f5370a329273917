"""What is used of torch that is private, for the shared forward above all: tried with torch 2.11 and 2.13."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode


class SwitchedMode(TorchDispatchMode):
    """A dispatch mode that is entered and left by calls, wherever in a forward pass."""

    active = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps every operation in a guard against compiling what is done here

    def enter(self) -> None:
        if not self.active:
            self.__enter__()
            self.active = True

    def leave(self) -> None:
        """No more to see: a mode that is on costs time at every operation, and keeps torch.compile from its work."""
        if self.active and _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
            self.active = False


def memory_of(value: Tensor) -> int:
    """Tells a tensor's memory, as long as that is there; on devices without addresses, too."""
    return value.untyped_storage()._cdata


def version_of(value: Tensor) -> int | None:
    """How often a parameter, or one that `value` is a view of, was changed in place; None of other tensors."""
    root = value if value._base is None else value._base
    return root._version if isinstance(root, nn.Parameter) else None


def will_be_computed_again() -> bool:
    """Whether activation checkpointing is at work: autograd is off, or does not save the tensors themselves."""
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
