"""Early predictions: a model's own head on an intermediate layer's representation (Section 6).

The early prediction at layer j is what the model computes when its stack of layers is cut after the first j: final
norm, pooler and head stay where they are, so post-norm models (BERT) and pre-norm models (GPT-2, Llama, ViT) both come
out right. `exit_view` builds that shorter model out of the same modules; it owns no weight.
"""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from gsgd.sift.wrappers import innermost, is_fsdp1


@runtime_checkable
class EarlyExit(Protocol):
    """What a model implements to say itself how it exits early; others are cut by `exit_view`."""

    exit_layers: int
    """How many exits there are: 1..exit_layers, the last one the full model."""

    def early_logits(self, exit_layer: int, **inputs: Any) -> Tensor:
        """Logits (B, C) or (B, T, C) of the early prediction at `exit_layer`, for a batch without its labels.

        A model may also have `last_module(exit_layer)`, the module whose output these are made of: with it the shared
        forward knows where to stop looking.
        """
        ...


def count_exits(model: nn.Module) -> int:
    """How many exits an unwrapped model has: its layers.

    Raises:
        ValueError: as `find_layers`.
    """
    inner = innermost(model)
    return inner.exit_layers if isinstance(inner, EarlyExit) else len(find_layers(model)[1])


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(dotted name, list) of the model's stack of layers: its one ModuleList of `config.num_hidden_layers` modules.

    Raises:
        ValueError: if there is none or more than one, saying what was looked for.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = {name: module for name, module in lists.items() if len(module) == depth}
    # Lists inside the layers (experts, say) may happen to be as long as the stack itself.
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        seen = ", ".join(f"{name} ({len(module)})" for name, module in lists.items()) or "none"
        raise ValueError(
            f"{type(model).__name__} has no stack of layers to exit from: looked for one ModuleList with "
            f"config.num_hidden_layers = {depth} modules and found {len(outer)}; its ModuleLists are: {seen}. "
            "Implement `exit_layers` and `early_logits(exit_layer, **inputs)` on the model (gsgd.sift.EarlyExit)"
        )
    return outer[0], found[outer[0]]


def check_exit_layer(exit_layer: Any, exits: int) -> int:
    """`exit_layer` itself.

    Raises:
        ValueError: unless it is a whole number in 1..exits.
    """
    if isinstance(exit_layer, bool) or not isinstance(exit_layer, int) or not 1 <= exit_layer <= exits:
        raise ValueError(f"exit_layer = {exit_layer!r} must be a whole number in 1..{exits}, the model's layers")
    return exit_layer


def exit_view(model: nn.Module, exit_layer: int) -> nn.Module:
    """The model with its stack of layers cut after the first `exit_layer`, sharing every weight and buffer.

    Only the modules on the path from the root to the stack are copied, and those copies hold the very parameter and
    buffer dictionaries of the originals. Build one per use: it follows the model's mode and wrappers as they are now.
    Of a model that implements `EarlyExit` the view's forward is `early_logits`. In both cases it is called as the
    model is, hooks and all: FSDP gathers its weights there.

    Args:
        model: an unwrapped model; FSDP, either version, may be around it.
        exit_layer: 1..number of layers; the last one gives the full model.

    Raises:
        ValueError: if the stack is not found, or `exit_layer` is out of range.
    """
    if is_fsdp1(model):
        # FSDP sets itself up at the first call of the whole model, and must not take this view for it.
        model.check_is_root()  # type: ignore[operator]
    inner = innermost(model)
    if isinstance(inner, EarlyExit):
        check_exit_layer(exit_layer, inner.exit_layers)
        root = owner = _shell(model)
        while is_fsdp1(owner):
            wrapped = _shell(owner.module)
            owner._modules["_fsdp_wrapped_module"] = wrapped
            owner = wrapped
        owner.__dict__["forward"] = functools.partial(inner.early_logits, exit_layer)
        return root
    name, layers = find_layers(model)
    check_exit_layer(exit_layer, len(layers))
    *path, last = name.split(".")
    root = owner = _shell(model)
    for part in path:
        inner = _shell(owner._modules[part])
        owner._modules[part] = inner
        owner = inner
    owner._modules[last] = nn.ModuleList(list(layers)[:exit_layer])
    return root


def _shell(module: Any) -> nn.Module:
    """A copy of one module that shares all it holds, with child and hook tables of its own."""
    if "_orig_mod" in module._modules:
        raise ValueError(
            "FSDP around torch.compile has no early exit, because compiled code runs the whole model: "
            "compile the sharded model, or its layers one by one"
        )
    shell = object.__new__(type(module))  # not copy.copy: it would go through FSDPModule.__new__, which builds a model
    state = shell.__dict__
    state.update(module.__dict__)
    state["_modules"] = dict(module._modules)
    state["_forward_hooks"] = copy.copy(module._forward_hooks)
    # accelerate puts `forward` (with its autocast) on the instance, bound to the original, and Module.compile a
    # compiled call: both would run the whole model instead of this one. A method can be bound anew.
    forward = state.pop("forward", None)
    if isinstance(forward, types.MethodType) and forward.__self__ is module:
        state["forward"] = types.MethodType(forward.__func__, shell)
    state["_compiled_call_impl"] = None
    # transformers hooks every layer when hidden states are first asked for. Asked of a view it would hook the shared
    # layers, and asked of the model hook them again: every state would then come twice.
    state["_output_capturing_hooks_installed"] = True
    return shell
