"""Scores of a gross batch from an early prediction, without gradients and without touching the model's state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd import scores
from gsgd.sift.exits import EarlyExit, exit_view, find_layers
from gsgd.sift.shared_forward.labelled_positions import Labelled
from gsgd.sift.shared_forward.recording import Recording
from gsgd.sift.wrappers import checkpoints_activations, every_module, innermost, is_sharded

Score = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100
"""The label that Hugging Face's losses skip."""
LABELS = ("labels", "next_sentence_label")
"""What a scoring pass leaves out of the batch, so that the model computes no loss of its own."""
MODES = ("train", "eval", "frozen-batchnorm")

BY_NAME: dict[str, Score] = {"loss": scores.cross_entropy, "entropy": scores.entropy}
_POSITIONWISE = (scores.cross_entropy, scores.entropy, scores.margin, scores.gradient_norm_bound)
"""Scores that are a mean over labelled positions, so that the head need not run on the others."""


@torch.no_grad()
def score_rows(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    exit_layer: int,
    score: Score,
    mode: str,
    causal: bool,
    recording: Recording | None = None,
) -> Tensor:
    """One score per row of the gross batch, by the early prediction at `exit_layer`.

    For language models the labels of a row are (T,), and its score is the mean over its labelled positions (of a
    causal model: over the positions whose next token is labelled); a row without any gets float32's least number,
    so that it ranks last. The vocabulary head then runs on labelled positions only.

    Args:
        model: unwrapped. If FSDP shards it, every rank must call this, as often as the others.
        batch: with `labels` (B,) or (B, T), and the model's inputs.
        score: `(logits, labels) -> (B,)`.
        mode: "train", "eval", or "frozen-batchnorm"; in each of them the running statistics of BatchNorm stay.
        causal: whether position t predicts label t + 1.
        recording: takes down what the layers compute, for the training pass; what the scores do not need of the exit
            layer is then left out (`gsgd.sift.shared_forward.labelled_positions`).

    Returns:
        (B,), float32 or float64, on the logits' device.

    Raises:
        ValueError: if the batch has no labels, or `score` returns another shape.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f"scoring needs `labels` in the batch, which holds: {', '.join(batch) or 'nothing'}")
    if labels.is_floating_point() and score in _POSITIONWISE:
        raise ValueError(
            f"labels has dtype {labels.dtype}, but the scores of gsgd need classes (integers): "
            "for another task pass a callable, score=(logits, labels) -> (B,)"
        )
    inputs = {name: value for name, value in batch.items() if name not in LABELS}
    if causal:
        # The last position predicts nothing.
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)
    with _scoring_mode(model, mode), _no_autocast_cache(labels.device):
        view = exit_view(model, exit_layer)
        own_exits = isinstance(innermost(model), EarlyExit)
        by_position = not own_exits and labels.dim() > 1 and score in _POSITIONWISE
        with contextlib.ExitStack() as recorded:
            if recording is not None:
                labelled = Labelled.among(labels != IGNORED) if by_position else None
                layer = last_shared_layer(model, exit_layer)
                recorded.enter_context(recording.record(inputs, len(labels), layer, labelled))
            if by_position:
                found = _score_labelled_positions(view, inputs, labels, score, recorded, recording)
            else:
                logits = view(**inputs) if own_exits else _logits(_run(view, inputs))
        if not by_position:
            return _checked(score(logits, labels), len(labels))
    if recording is None or not recording.partly or not bool(found.isnan().any()):
        return found
    # Either a score depends on positions that were left out, or it is NaN anyway.
    recording.trust.positions_meet = True
    full = score_rows(model, batch, exit_layer=exit_layer, score=score, mode=mode, causal=causal, recording=recording)
    recording.trust.positions_meet = bool((found.isnan() & ~full.isnan()).any())
    return full


def last_shared_layer(model: nn.Module, exit_layer: int) -> nn.Module | None:
    """The layer whose output the exit reads; of models that say themselves how they exit, what they say, or None."""
    inner = innermost(model)
    if isinstance(inner, EarlyExit):
        last = getattr(inner, "last_module", None)
        return None if last is None else last(exit_layer)
    return find_layers(model)[1][exit_layer - 1]


def _score_labelled_positions(
    view: nn.Module,
    inputs: dict[str, Any],
    labels: Tensor,
    score: Score,
    recorded: contextlib.ExitStack,
    recording: Recording | None,
) -> Tensor:
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    least = torch.finfo(torch.float32).min  # of float64, too, so that parts of a batch and ranks give the same
    if len(rows) == 0:
        if is_sharded(view):
            # The other ranks score, and gather weights from this one.
            first = torch.zeros(1, dtype=torch.int64, device=labels.device)
            with positions_only(view, first, first):
                _run(view, inputs)
        return torch.full((len(labels),), least, device=labels.device)
    shared_head = recording is not None and recording.head
    parts = [len(rows)] if shared_head or is_sharded(view) else _parts(view, len(rows))
    hidden: list[Tensor] = []

    def first_part(chosen: Tensor) -> Tensor:
        if shared_head:
            assert recording is not None
            recording.at_positions(chosen, None)
        hidden.extend([chosen] if len(parts) == 1 else chosen.split(parts, dim=1))
        return hidden[0]

    found: list[Any] = []
    wanted = labels[rows, columns].split(parts)
    with positions_only(view, rows, columns, first_part) as base:
        hook = base.register_forward_hook(lambda module, arguments, output: found.append(output))
        try:
            logits = _logits(_run(view, inputs))
        finally:
            hook.remove()
    recorded.close()
    values = [_score_part(view, logits, wanted[0], score)]
    del logits
    for part, part_wanted in zip(hidden[1:], wanted[1:], strict=True):
        # The base model has run; only the head is left to run on the rest.
        view._modules[str(view.base_model_prefix)] = _Given(found[0], part)
        values.append(_score_part(view, _logits(_run(view, inputs)), part_wanted, score))
    every = torch.cat(values)
    total = every.new_zeros(len(labels)).index_add_(0, rows, every)
    count = torch.bincount(rows, minlength=len(labels))
    return torch.where(count > 0, total / count.clamp(min=1), least)


LOGITS_AT_ONCE = 2**24
"""Entries of the matrix of logits that scoring has in memory at a time."""

_SCORED_AT_ONCE = 2**20
"""Entries that a score is computed from at a time: few enough to stay in a processor's cache through all its passes."""


def _parts(view: nn.Module, positions: int) -> list[int]:
    """Sizes of the parts in which the head runs on labelled positions."""
    classes = getattr(getattr(view, "config", None), "vocab_size", None)
    size = max(1, LOGITS_AT_ONCE // classes) if isinstance(classes, int) and classes > 0 else positions
    return [min(size, positions - start) for start in range(0, positions, size)]


def _score_part(view: nn.Module, logits: Tensor, wanted: Tensor, score: Score) -> Tensor:
    if logits.shape[1] != len(wanted):
        raise ValueError(
            f"the head of {type(view).__name__} returned {logits.shape[1]} predictions for {len(wanted)} positions"
        )
    size = max(1, _SCORED_AT_ONCE // logits.shape[2])
    return torch.cat([score(*part) for part in zip(logits[0].split(size), wanted.split(size), strict=True)])


class _Given(nn.Module):
    """Stands for a base model that has already run and gave `output`, with other last hidden states."""

    def __init__(self, output: Any, hidden: Tensor):
        super().__init__()
        self.output = output
        self.hidden = hidden

    def forward(self, *arguments: Any, **more: Any) -> Any:
        if isinstance(self.output, tuple):
            return (self.hidden, *self.output[1:])
        return type(self.output)(**{**self.output, "last_hidden_state": self.hidden})


@contextlib.contextmanager
def positions_only(
    model: nn.Module, rows: Tensor, columns: Tensor, then: Callable[[Tensor], Tensor] = lambda chosen: chosen
) -> Iterator[nn.Module]:
    """Within the block the model's head sees the positions (rows, columns) (N,) only, as one row of N tokens.

    The base model, which is yielded, runs in full; its last hidden state (B, T, H) is cut to (1, N, H) on its way to
    the head, which sees what `then` makes of it.
    """

    def cut(module: nn.Module, arguments: Any, output: Any) -> Any:
        hidden = output[0]
        chosen = then(hidden[rows.to(hidden.device), columns.to(hidden.device)].unsqueeze(0))
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output["last_hidden_state"] = chosen
        return output

    owner = innermost(model)  # PEFT has a `base_model` of its own
    base = getattr(owner, "base_model", None)
    if not isinstance(base, nn.Module) or base is owner:
        raise ValueError(f"{type(owner).__name__} has no base model below its head to take positions from")
    hook = base.register_forward_hook(cut)
    try:
        yield base
    finally:
        hook.remove()


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


def _run(view: nn.Module, inputs: dict[str, Any]) -> Any:
    # Keys and values of a decoder serve generation; here they would only take memory.
    caches = getattr(getattr(view, "config", None), "use_cache", False)
    return view(**{**inputs, "use_cache": False}) if caches else view(**inputs)


def _logits(output: Any) -> Tensor:
    for name in ("logits", "prediction_logits"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if isinstance(output, Tensor):
        return output
    raise ValueError(
        f"the early prediction is a {type(output).__name__} without `logits` or `prediction_logits`: "
        "the model must have a head, and return_dict=True"
    )


def _checked(values: Any, rows: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (rows,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the score has shape {shape}, but must be one number per row, ({rows},)")
    return values


@contextlib.contextmanager
def _scoring_mode(model: nn.Module, mode: str) -> Iterator[None]:
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
def _no_autocast_cache(device: torch.device) -> Iterator[None]:
    """The caller's autocast, sharing no cast weights with what runs before and after in the same block.

    A weight that was cast here, without gradients, must not be taken from autocast's cache by the training pass, where
    it would get no gradient (pytorch #112583), and both passes must be seen to cast the same weights. To leave the
    cache off is not enough: a prepared model of accelerate brings an autocast of its own, with its cache.
    """
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        yield
        return
    torch.clear_autocast_cache()
    try:
        with torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False):
            yield
    finally:
        torch.clear_autocast_cache()
