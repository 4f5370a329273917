"""Early predictions: a model's own head on an intermediate layer's representation (Section 6).

The early prediction at layer j is what the model computes when its stack of layers is cut after the first j: final
norm, pooler and head stay where they are, so post-norm models (BERT) and pre-norm models (GPT-2, Llama, ViT) both come
out right. `exit_view` builds that shorter model out of the same modules; it owns no weight.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from gsgd.sift.models.wrappers import innermost, is_fsdp1


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


_FOUND: weakref.WeakKeyDictionary[nn.Module, tuple[str, weakref.ref[nn.ModuleList], int]] = weakref.WeakKeyDictionary()
"""Model -> (dotted name, list, its length) of the stack found in it last: to look through all modules takes long."""


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(dotted name, list) of the model's stack of layers, the one ModuleList that is as long as its configuration says.

    Of an encoder-decoder it is the decoder's, of a model with several parts (text and images) the language model's, or
    where it has none the image encoder's.

    Raises:
        ValueError: if there is none or more than one, saying what was looked for; or if its entries are stages of
            different widths, of which a head fits the last only.
    """
    if model in _FOUND:
        name, reference, length = _FOUND[model]
        before = reference()
        with contextlib.suppress(AttributeError):  # for a part that is gone
            if before is not None and model.get_submodule(name) is before and len(before) == length:
                return name, before
    name, layers = _searched_layers(model)
    _FOUND[model] = name, weakref.ref(layers), len(layers)
    return name, layers


def _searched_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    config = getattr(model, "config", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    number = 0
    for part, depth in _depths(config):
        found = [name for name, module in lists.items() if len(module) == depth and _belongs(model, name, part, config)]
        # Lists inside the layers (experts, say) may happen to be as long as the stack itself.
        outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
        if len(outer) > 1 and part == "":
            # A model of text may hold encoders of images or sound as deep as itself, with configurations of their own.
            outer = [name for name in outer if _configuration(model, name, config) is config] or outer
        if len(outer) == 1:
            _check_widths(model, outer[0], config)
            return outer[0], lists[outer[0]]
        number = max(number, len(outer))
    seen = ", ".join(f"{name} ({len(module)})" for name, module in lists.items()) or "none"
    raise ValueError(
        f"{type(model).__name__} has no stack of layers to exit from: looked for one ModuleList with "
        f"config.num_hidden_layers = {getattr(config, 'num_hidden_layers', None)} modules and found {number}; its "
        f"ModuleLists are: {seen}. "
        "Implement `exit_layers` and `early_logits(exit_layer, **inputs)` on the model (gsgd.sift.EarlyExit)"
    )


_DECODER_DEPTHS = ("decoder_layers", "num_decoder_layers")
_PARTS = ("text_config", "decoder", "language_config", "llm_config", "vision_config", "audio_config", "encoder")


def _depths(config: Any) -> Iterator[tuple[str, int]]:
    """(part of a composite model, how many layers its configuration says), what is to be cut first."""
    for name in _DECODER_DEPTHS:
        if isinstance(getattr(config, name, None), int):
            yield "decoder layers", getattr(config, name)
    if isinstance(getattr(config, "num_hidden_layers", None), int):
        yield "", config.num_hidden_layers
    for name in _PARTS:
        part = getattr(config, name, None)
        if part is None or isinstance(part, (int, float, str, dict, list, tuple)):
            continue
        for inner, depth in _depths(part):
            yield (inner if inner == "decoder layers" else name), depth


def _belongs(model: nn.Module, name: str, part: str, config: Any) -> bool:
    """Whether the ModuleList of this dotted name lies in a part of the model."""
    if part == "decoder layers":
        return "decoder" in name
    if part == "":
        return True
    wanted, own = getattr(config, part), _configuration(model, name, config)
    return own is wanted or type(own) is type(wanted)


def _configuration(model: nn.Module, name: str, config: Any) -> Any:
    """The configuration of the innermost module on the way to the one of this dotted name that has one."""
    owner, own = model, config
    for step in name.split("."):
        owner = owner.get_submodule(step)
        own = getattr(owner, "config", own)
    return own


def _check_widths(model: nn.Module, name: str, config: Any) -> None:
    """Whether every layer's output can stand for the last one's.

    Raises:
        ValueError: for a hierarchical model, whose configuration lists a depth or a width for each of its stages.
    """
    own = getattr(config, "vision_config", config)
    if isinstance(getattr(own, "depths", None), (list, tuple)) and len(own.depths) > 1:
        raise ValueError(
            f"{type(model).__name__} has stages of different widths ({name}: depths {list(own.depths)}), of which its "
            "head reads the last only: implement `exit_layers` and `early_logits(exit_layer, **inputs)` on the model, "
            "with a head for the earlier stage (gsgd.sift.EarlyExit)"
        )


def check_exit(model: nn.Module, exit_layer: int) -> int:
    """`exit_layer` itself, an exit that the model has.

    Raises:
        ValueError: if it has none such, or reads all of its layers whatever the exit.
    """
    exits = count_exits(model)
    config = getattr(innermost(model), "config", None)
    decodes = bool(getattr(config, "is_encoder_decoder", False)) and not isinstance(innermost(model), EarlyExit)
    check_exit_layer(exit_layer, exits, "the decoder's layers" if decodes else "the model's layers")
    if exit_layer < exits and getattr(config, "use_weighted_layer_sum", False):
        raise ValueError(
            f"exit_layer = {exit_layer} must be {exits}, the last: the head of {type(innermost(model)).__name__} reads "
            "a weighted sum of all layers (config.use_weighted_layer_sum)"
        )
    return exit_layer


def check_exit_layer(exit_layer: Any, exits: int, what: str = "the model's layers") -> int:
    """`exit_layer` itself.

    Raises:
        ValueError: unless it is a whole number in 1..exits, the number of `what`.
    """
    if isinstance(exit_layer, bool) or not isinstance(exit_layer, int) or not 1 <= exit_layer <= exits:
        raise ValueError(f"exit_layer = {exit_layer!r} must be a whole number in 1..{exits}, {what}")
    return exit_layer


def last_shared_layer(model: nn.Module, exit_layer: int) -> nn.Module | None:
    """The layer whose output the exit reads; of models that say themselves how they exit, what they say, or None."""
    inner = innermost(model)
    if isinstance(inner, EarlyExit):
        last = getattr(inner, "last_module", None)
        return None if last is None else last(exit_layer)
    check_exit(model, exit_layer)
    return find_layers(model)[1][exit_layer - 1]


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
    check_exit(model, exit_layer)
    if exit_layer == len(layers) and getattr(innermost(model).config, "use_weighted_layer_sum", False):
        _hook_outputs(model)
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
    # What holds on to the original in its closure (TRL wraps `forward` so) cannot be bound anew: then the class's own
    # forward runs, and the self-check sees whether that is the same.
    forward: Any = state.pop("forward", None)
    bound = isinstance(forward, types.MethodType) and forward.__self__ is module
    if bound and not _holds(forward.__func__, module):
        state["forward"] = types.MethodType(forward.__func__, shell)
    if "config" in state:
        state["config"] = _without_extras(state["config"])
    state["_compiled_call_impl"] = None
    # transformers hooks every layer when hidden states are first asked for. Asked of a view it would hook the shared
    # layers, and asked of the model hook them again: every state would then come twice.
    state["_output_capturing_hooks_installed"] = True
    return shell


def _holds(function: Any, module: nn.Module, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a callable, or what it calls, holds `module` or a method bound to it."""
    if function is module or getattr(function, "__self__", None) is module:
        return True
    if id(function) in seen or isinstance(function, (type, nn.Module)) or not callable(function):
        return False
    seen = seen | {id(function)}
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held += [getattr(function, name, None) for name in ("__func__", "__wrapped__", "func")]
    held += [*getattr(function, "args", ()), *vars(function).values()] if hasattr(function, "__dict__") else []
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    known = getattr(function, "__globals__", {})
    return any(_holds(each, module, seen) for each in held) or any(
        known[name] is module or getattr(known[name], "__self__", None) is module for name in names if name in known
    )


def layers_after(model: nn.Module, exit_layer: int) -> list[nn.Module]:
    """Layers that no early prediction at an exit runs, see `only_up_to`; none of a model that exits by itself.

    Args:
        model: unwrapped.
    """
    if isinstance(innermost(model), EarlyExit):
        return []
    layers = list(find_layers(model)[1])
    before = {id(layer) for layer in layers[:exit_layer]}  # a list may hold a layer twice
    return [layer for layer in layers[exit_layer:] if id(layer) not in before]


@contextlib.contextmanager
def only_up_to(model: nn.Module, exit_layer: int) -> Iterator[None]:
    """Within the block the model may run its first `exit_layer` layers only.

    Raises:
        ValueError: in the block, where a forward that somebody put in the place of the model's own runs the others.
    """
    inner = innermost(model)
    layers: Any = [] if isinstance(inner, EarlyExit) else find_layers(model)[1]
    if exit_layer >= len(layers):
        yield
        return

    def refuse(*_: Any) -> None:
        raise ValueError(
            f"the early prediction of {type(inner).__name__} at layer {exit_layer} runs layer {exit_layer + 1}, too: "
            "its forward was replaced by one that holds on to the whole model. Put the class's own forward back, or "
            "implement `exit_layers` and `early_logits(exit_layer, **inputs)` on the model (gsgd.sift.EarlyExit)"
        )

    hook = layers[exit_layer].register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def _without_extras(config: Any) -> Any:
    """A configuration by which a model makes neither router losses nor outputs for other purposes than its logits.

    transformers collects router logits by hooks on the layers, which a view does not install.
    """
    if not any(getattr(config, name, False) for name in ("output_router_logits", "output_hidden_states")):
        return config
    quiet = copy.copy(config)
    for name in ("output_router_logits", "output_hidden_states"):
        if getattr(quiet, name, False):
            setattr(quiet, name, False)
    if getattr(config, "text_config", None) is not None:
        quiet.text_config = _without_extras(config.text_config)
    return quiet


def _hook_outputs(model: nn.Module) -> None:
    """Have transformers hook the layers for hidden states, as it does when a model is first asked for them."""
    from transformers.utils import output_capturing

    for module in model.modules():
        if hasattr(module, "base_model_prefix"):
            output_capturing.maybe_install_capturing_hooks(module)  # type: ignore[arg-type]
