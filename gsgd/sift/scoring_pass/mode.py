"""What is set for a scoring pass, and put back after it: modes of modules, autocast, caches of decoders."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gsgd.sift.wrappers import checkpoints_activations, every_module, innermost


@contextlib.contextmanager
def scoring_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Set modes for scoring, and put everything back as it was."""
    changed: list[tuple[nn.Module, str, Any]] = []
    assign = object.__setattr__  # a module's own looks for parameters first, and there are many modules

    def change(module: nn.Module, name: str, value: Any) -> None:
        changed.append((module, name, getattr(module, name)))
        assign(module, name, value)

    try:
        for module in every_module(model):
            batchnorm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if mode == "eval" or (mode == "frozen-batchnorm" and batchnorm):
                change(module, "training", False)
            elif batchnorm and module.track_running_stats:
                # Normalises by the batch, and updates nothing.
                change(module, "track_running_stats", False)
            if checkpoints_activations(module):
                # There is no backward pass to recompute for.
                change(module, "gradient_checkpointing", False)
        yield
    finally:
        for module, name, value in reversed(changed):
            assign(module, name, value)


@contextlib.contextmanager
def draws_kept(model: nn.Module) -> Iterator[None]:
    """Within the block draws from global generators are those that would come next; afterwards they are still to come.

    Transformers draw from torch's, but those of sound mask by NumPy's.
    """
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002 (the legacy generator is the one that is global)
    devices = {weight.device.index for weight in model.parameters() if weight.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def without_compilation() -> contextlib.AbstractContextManager[Any]:
    """Within the block what torch.compile has compiled runs as it was written, and nothing is compiled for it."""
    # If nobody imported it, nobody compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


@contextlib.contextmanager
def no_autocast_cache(device: torch.device) -> Iterator[None]:
    """The caller's autocast, sharing no cast weights with what runs before and after in the same block.

    A weight that was cast here, without gradients, must not be taken from autocast's cache by the training pass, where
    it would get no gradient (pytorch #112583), and both passes must be seen to cast the same weights. To leave the
    cache off is not enough: a prepared model of accelerate brings an autocast of its own, with its cache.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        yield
        return
    torch.clear_autocast_cache()
    try:
        with torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False):
            yield
    finally:
        torch.clear_autocast_cache()


@contextlib.contextmanager
def without_prepared_autocast(model: nn.Module) -> Iterator[None]:
    """A model without the autocast that accelerate puts around its forward."""
    inner = innermost(model)
    own = inner.__dict__.get("forward")
    original = inner.__dict__.get("_original_forward")
    if own is None or original is None:
        yield
        return
    inner.__dict__["forward"] = original
    try:
        yield
    finally:
        inner.__dict__["forward"] = own


@contextlib.contextmanager
def without_router_losses(model: nn.Module) -> Iterator[None]:
    """A mixture of experts whose loss is that of its predictions alone."""
    found: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = {id(config): config for config in found}
    changed = [config for config in configs.values() if getattr(config, "output_router_logits", False) is True]
    for config in changed:
        config.output_router_logits = False
    try:
        yield
    finally:
        for config in changed:
            config.output_router_logits = True


@contextlib.contextmanager
def without_cache(model: Any) -> Iterator[None]:
    """A decoder without keys and values for generation, as it is scored."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "use_cache", False):
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = True
