"""What is set for a scoring pass, and put back after it: modes of modules, autocast, caches of decoders."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gsgd.sift.models.wrappers import checkpoints_activations, every_module, innermost


@contextlib.contextmanager
def _with_values(changes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Within the block attributes (owner, name, value) are these; afterwards they are as they were."""
    before: list[tuple[Any, str, Any]] = []

    def assign(owner: Any, name: str, value: Any) -> None:
        # A module's own way looks for parameters first, and there are many modules.
        (object.__setattr__ if isinstance(owner, nn.Module) else setattr)(owner, name, value)

    try:
        for owner, name, value in changes:
            before.append((owner, name, getattr(owner, name)))
            assign(owner, name, value)
        yield
    finally:
        for change in reversed(before):
            assign(*change)


def scoring_mode(
    model: nn.Module, mode: str, *, unused: Iterable[nn.Module] = ()
) -> contextlib.AbstractContextManager[None]:
    """Within the block the modules are in the mode that the option `scoring_mode` names.

    Args:
        unused: modules that do not run there.
    """

    def changes() -> Iterator[tuple[nn.Module, str, Any]]:
        for module in every_module(model, but=unused):
            batchnorm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if mode == "eval" or (mode == "frozen-batchnorm" and batchnorm):
                yield module, "training", False
            elif batchnorm and module.track_running_stats:
                # Normalises by the batch, and updates nothing.
                yield module, "track_running_stats", False
            if checkpoints_activations(module):
                # There is no backward pass to recompute for.
                yield module, "gradient_checkpointing", False

    return _with_values(changes())


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


def without_prepared_autocast(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """A model without the autocast that accelerate puts around its forward."""
    inner = innermost(model)
    original = inner.__dict__.get("_original_forward") if "forward" in inner.__dict__ else None
    return _with_values([] if original is None else [(inner, "forward", original)])


def without_router_losses(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """A mixture of experts whose loss is that of its predictions alone."""
    found: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = [config for config in found if getattr(config, "output_router_logits", False) is True]
    return _with_values((config, "output_router_logits", False) for config in configs)


def without_cache(model: Any) -> contextlib.AbstractContextManager[None]:
    """A decoder without keys and values for generation, as it is scored."""
    config: Any = getattr(model, "config", None)
    return _with_values([(config, "use_cache", False)] if getattr(config, "use_cache", False) else [])
