"""Early predictions: a model's own head on an intermediate layer's representation (Section 6).

The early prediction at layer j is what the model computes when its stack of layers is cut after the first j: final
norm, pooler and head stay where they are, so post-norm models (BERT) and pre-norm models (GPT-2, Llama, ViT) both come
out right. `exit_view` builds that shorter model out of the same modules; it owns no weight.
"""

from __future__ import annotations

import copy
import functools
import sys
import types
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


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


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, torch.compile, and PEFT; not inside FSDP, which gathers its weights.

    Scoring runs on it: a wrapper broadcasts buffers, waits for other ranks, or compiles anew.
    """
    while not is_fsdp(model) and (inner := _one_inside(model)) is not None:
        model = inner
    return model


def innermost(model: nn.Module) -> nn.Module:
    """The model inside every wrapper, FSDP too: for what class it is. Its weights may be sharded: do not call it."""
    while (inner := _one_inside(model)) is not None:
        model = inner
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP shards some of the model: then every rank must run it as often as the others."""
    return any_fsdp(every_module(model))


def every_module(model: nn.Module) -> list[nn.Module]:
    """As `model.modules()`, in a fifth of the time: that one makes up a name for each."""
    found: dict[int, nn.Module] = {}
    ahead = [model]
    while ahead:
        module = ahead.pop()
        if id(module) not in found:
            found[id(module)] = module
            ahead.extend(child for child in module._modules.values() if child is not None)
    return list(found.values())


def is_compiled(model: Any) -> bool:
    """Whether torch.compile runs the model, or what it is wrapped in, as a whole."""
    while model is not None:
        if is_itself_compiled(model):
            return True
        model = _one_inside(model)
    return False


def is_itself_compiled(module: nn.Module) -> bool:
    """Whether torch.compile was applied to this very module."""
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def checkpoints_activations(module: nn.Module) -> bool:
    """Whether a Hugging Face module computes its layers again in the backward pass."""
    # Most modules have no such attribute, which nn.Module takes long to say.
    found = module.__dict__.get("gradient_checkpointing")
    return bool(getattr(type(module), "gradient_checkpointing", False) is True if found is None else found)


def _one_inside(model: Any) -> nn.Module | None:
    if _is_fsdp1(model) or isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    if "_orig_mod" in model._modules:
        return model._orig_mod
    if not hasattr(model, "get_base_model"):
        return None
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"{type(model).__name__} learns a prompt, which PEFT adds outside of the model, where no early exit sees "
            "it: use adapters within the layers, such as LoRA"
        )
    return model.get_base_model()


def any_fsdp(modules: Iterable[nn.Module]) -> bool:
    """Whether FSDP shards one of these."""
    return "torch.distributed.fsdp" in sys.modules and any(map(is_fsdp, modules))


def is_fsdp(module: nn.Module) -> bool:
    """Whether FSDP, either version, shards this very module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # if nobody imported it, nobody used it
    return fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel))


def _is_fsdp1(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


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
    if _is_fsdp1(model):
        # FSDP sets itself up at the first call of the whole model, and must not take this view for it.
        model.check_is_root()  # type: ignore[operator]
    inner = innermost(model)
    if isinstance(inner, EarlyExit):
        check_exit_layer(exit_layer, inner.exit_layers)
        root = owner = _shell(model)
        while _is_fsdp1(owner):
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
