"""What a model may be wrapped in: DistributedDataParallel, FSDP, torch.compile, PEFT; and what is inside."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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


def every_module(model: nn.Module, *, but: Iterable[nn.Module] = ()) -> list[nn.Module]:
    """As `model.modules()`, in a fifth of the time: that one makes up a name for each.

    Args:
        but: modules to leave out, with what is reached through them only.
    """
    found: dict[int, nn.Module] = {}
    left_out = set(map(id, but))
    ahead = [model]
    while ahead:
        module = ahead.pop()
        if id(module) not in found and id(module) not in left_out:
            found[id(module)] = module
            ahead.extend(child for child in module._modules.values() if child is not None)
    return list(found.values())


def device_of_weights(model: nn.Module) -> torch.device:
    """Where the first of its weights lies; the CPU where it has none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


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
    if is_fsdp1(model) or isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
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
    return any(issubclass(kind, _fsdp_classes()) for kind in set(map(type, modules)))


def is_fsdp(module: nn.Module) -> bool:
    """Whether FSDP, either version, shards this very module."""
    return isinstance(module, _fsdp_classes())


def is_fsdp1(module: nn.Module) -> bool:
    """Whether the older FullyShardedDataParallel wraps this very module."""
    return isinstance(module, fsdp1_classes())


def fsdp1_classes() -> tuple[type, ...]:
    """The older FullyShardedDataParallel; nothing if nobody has imported it, since then nobody uses it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return () if fsdp is None else (fsdp.FullyShardedDataParallel,)


def _fsdp_classes() -> tuple[type, ...]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
