"""Every class of transformers' mappings in a size that builds in milliseconds; nothing comes from the hub.

A configuration is its class's defaults with every size that has a known name made small (`SIZES`), and a few classes
with sizes of their own (`SPECIAL`). Weights are drawn anew at a scale at which rows' losses differ.
"""

import contextlib
import inspect
import math
import signal
import threading

import torch
import transformers as hf
from tiny_sizes import CLASSES, DEPTHS, HEADS, LAYERS, MIXED, SIZES, SPECIAL, SWITCHES, VOCABULARY
from torch import nn
from transformers.models.auto import modeling_auto

TASKS = {
    "causal": "CAUSAL_LM",
    "masked": "MASKED_LM",
    "sequence": "SEQUENCE_CLASSIFICATION",
    "token": "TOKEN_CLASSIFICATION",
    "question": "QUESTION_ANSWERING",
    "choice": "MULTIPLE_CHOICE",
    "seq2seq": "SEQ_TO_SEQ_CAUSAL_LM",
    "speech": "SPEECH_SEQ_2_SEQ",
    "image": "IMAGE_CLASSIFICATION",
    "ctc": "CTC",
    "audio": "AUDIO_CLASSIFICATION",
}
"""Short name of a task, and its part of the mapping's name."""

LARGEST = 5_000_000
"""Parameters a model may have; one that has more was not made tiny."""
ORDINARY = 60
"""Token ids below are ordinary; special tokens without a usable default lie between it and the vocabulary's size."""


class TooLarge(Exception):
    """A model that was not made tiny."""


class TooSlow(Exception):
    """A model that takes longer than the sweep allows."""


def every_class():
    """(task, class name) of the mappings, sorted."""
    found = set()
    for task, part in TASKS.items():
        for entry in getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES").values():
            found |= {(task, name) for name in ([entry] if isinstance(entry, str) else entry)}
    return sorted(found)


def tiny_config(config_class, *, task, cut=None, base=None, part=None):
    """A tiny configuration.

    Args:
        cut: (path of the inner configuration, names of its depths, layers), see `stacks`.
        base: with `cut`, the full configuration: layers keep the kinds that they have in it.
        part: the defaults, where the configuration is part of another one.
    """
    special = SPECIAL.get(config_class.__name__, {})
    own = dict(vars(config_class() if part is None else part))
    values = {}
    for name, value in own.items():
        if isinstance(value, hf.PreTrainedConfig):
            inside = cut is not None and cut[0][:1] == (name,)
            values[name] = tiny_config(
                type(value),
                task=task,
                cut=(cut[0][1:], *cut[1:]) if inside else None,
                base=getattr(base, name) if inside else None,
                part=value,
            )
        elif name in special or isinstance(value, (bool, str)):
            if name in SWITCHES:
                values[name] = SWITCHES[name]
            elif part is not None and name in ("is_decoder", "add_cross_attention"):
                values[name] = value
        elif name in SIZES and (value is not None or name == "head_dim"):
            if isinstance(value, (list, tuple)) == isinstance(SIZES[name], (list, tuple)):
                values[name] = SIZES[name]
        elif name in SWITCHES:
            values[name] = SWITCHES[name]
        elif "drop" in name and isinstance(value, float):
            values[name] = 0.0
        elif "drop" in name and isinstance(value, tuple) and all(isinstance(rate, float) for rate in value):
            values[name] = (0.0,) * len(value)
        elif name in DEPTHS and isinstance(value, int):
            values[name] = LAYERS
    if "qk_rope_head_dim" in own and "head_dim" in values:
        values["head_dim"] = SIZES["qk_rope_head_dim"]
    if {"linear_attention", "full_attention"} <= set(own.get("layer_types") or ()):
        values["layer_types"] = MIXED
    if "num_attention_heads" in own and own.get("num_key_value_heads") == own["num_attention_heads"]:
        values["num_key_value_heads"] = HEADS  # as many as query heads where the defaults have as many
    values |= special
    _special_tokens(own, values)
    if cut is not None and not cut[0]:
        values |= dict.fromkeys(cut[1], cut[2])
        for name, value in vars(base).items():
            if isinstance(value, (list, tuple)) and len(value) == LAYERS and name not in NOT_BY_LAYER:
                values[name] = list(value[: cut[2]])
    if part is None:
        values |= {"num_labels": 2 if task == "question" else CLASSES, "return_dict": True}
        if own.get("is_encoder_decoder") and "decoder_start_token_id" not in own:
            values["decoder_start_token_id"] = 0
        if task == "causal" and "is_decoder" in own:
            values["is_decoder"] = True
    return config_class(**values)


NOT_BY_LAYER = {"hidden_sizes", "depths", "depth", "stem_channels", "block_sizes", "block_repeats", "attention_window"}
"""Lists as long as the stack that are of something else, or are made anew."""


def stacks(config, task):
    """Stacks that a task's exits may cut, the likeliest first: (path of the inner configuration, names of depths)."""
    own = vars(config)
    names = [name for name in DEPTHS if own.get(name) == LAYERS and "t2u" not in name and "conf_" not in name]
    decoders = [name for name in names if "decoder" in name]
    found = [((), group) for group in (decoders, [name for name in names if name not in decoders]) if group]
    order = ["text_config", "decoder_config", "decoder", "vision_config", "encoder_config", "encoder"]
    if task == "image":
        order.insert(0, "vision_config")
    for part in dict.fromkeys(order):
        if isinstance(own.get(part), hf.PreTrainedConfig):
            found += [((part, *path), group) for path, group in stacks(own[part], task)]
    return found


def _special_tokens(own, values):
    """Token ids that lie in the vocabulary."""
    size = values.get("vocab_size", own.get("vocab_size", VOCABULARY))
    if not isinstance(size, int):
        return
    free = iter(range(ORDINARY, size))
    usual = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    for name in sorted(own):
        value = own[name]
        if name in values or not name.endswith(("token_id", "token_index")):
            continue
        if name in usual:
            if not isinstance(value, int) or not 0 <= value < ORDINARY:
                values[name] = usual[name]
        elif isinstance(value, int) and not 0 <= value < size:
            values[name] = next(free)


# Models. ------------------------------------------------------------------------------------------------------------


def build(task, name, *, cut=None, like=None, seed=0):
    """The tiny model of a class, in eval mode.

    Args:
        cut: (path, names, layers): a stack of `stacks`, and how many layers it shall have; `like` is then the full
            model, whose weights the shorter one gets.

    Raises:
        ValueError: if the shorter model has weights that the full one lacks.
        Exception: whatever its class raises; `TooLarge`.
    """
    model_class = getattr(hf, name)
    config = tiny_config(model_class.config_class, task=task, cut=cut, base=None if cut is None else like.config)
    with _no_larger_than(LARGEST), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
    if like is None:
        draw_weights(model, torch.Generator().manual_seed(seed))
    else:
        # ESM's head for contacts reads all layers, and no loss.
        weights = {key: value for key, value in like.state_dict().items() if "contact_head" not in key}
        missing = [key for key in model.load_state_dict(weights, strict=False)[0] if "contact_head" not in key]
        if missing:
            raise ValueError(f"the shorter model has weights of its own: {', '.join(missing[:3])}")
        _take_numbers(model, like)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _take_numbers(short, full):
    """Layers keep the scales that the full model gave them: some divide by the root of the number of layers."""
    originals = dict(full.named_modules())
    for name, module in short.named_modules():
        if name in originals:
            numbers = {key: value for key, value in vars(originals[name]).items() if isinstance(value, float)}
            vars(module).update(numbers)


@torch.no_grad()
def draw_weights(model, generator):
    """Weights at a scale at which signals keep their size, so that rows' losses differ."""
    convolutions = {id(module.weight) for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)}
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.dim() > 1:
            inputs = math.prod(parameter.shape[1:]) if id(parameter) in convolutions else parameter.shape[-1]
            parameter.copy_(noise * 1.2 / math.sqrt(inputs))
        else:
            parameter.add_(noise * 0.1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)


@contextlib.contextmanager
def _no_larger_than(limit):
    """Within the block, registering more parameters than that raises before they are filled."""
    plain = nn.Module.register_parameter
    total = 0

    def counted(module, name, parameter):
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > limit:
            raise TooLarge(f"more than {limit:,} parameters: {type(module).__name__}.{name}")
        plain(module, name, parameter)

    nn.Module.register_parameter = counted
    try:
        yield
    finally:
        nn.Module.register_parameter = plain


@contextlib.contextmanager
def within(seconds):
    """Raises `TooSlow` in the block once the process has computed for so long; a busy machine does not count."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TooSlow(f"takes more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def accepts(model, name):
    """Whether the model's forward names an argument."""
    return name in inspect.signature(model.forward).parameters
