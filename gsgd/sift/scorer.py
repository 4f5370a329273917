"""Scores of a gross batch from an early prediction, without gradients and without touching the model's state.

scorer = Scorer(model, SiftOptions(score="loss"))
scores = scorer.scores(batch, exit_layer=1)      # (B,)
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd import host
from gsgd import scores as row_scores
from gsgd.renamed import old_attribute
from gsgd.sift.batches.batch import BatchRows
from gsgd.sift.compilation import CompiledScoring, backend_of
from gsgd.sift.exits import EarlyExit, count_exits, exit_view, last_shared_layer, layers_after, only_up_to
from gsgd.sift.models.forward_arguments import ForwardArguments
from gsgd.sift.models.wrappers import device_of_weights, innermost, unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.schedules.keep import PresentShare, read_keep
from gsgd.sift.scoring_pass.forward import (
    LabelledHead,
    classes_of,
    logits_of,
    loss_of,
    own_losses,
    run,
)
from gsgd.sift.scoring_pass.head_inputs import HeadInputs
from gsgd.sift.scoring_pass.label_learning import learnt_convention
from gsgd.sift.scoring_pass.labels import (
    LABEL_NAMES,
    LabelConvention,
    label_names,
    makes_decoder_inputs,
    shifts_by_name,
)
from gsgd.sift.scoring_pass.mode import (
    draws_kept,
    no_autocast_cache,
    scoring_mode,
    without_compilation,
    without_prepared_autocast,
    without_router_losses,
)
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.scoring_pass.padded_positions import Form, Positions, PositionsPerRow
from gsgd.sift.scoring_pass.row_losses import IGNORED, LEAST, RowLosses
from gsgd.sift.shared_forward.capture import Capture

BUILT_IN = (row_scores.cross_entropy, row_scores.entropy, row_scores.margin, row_scores.gradient_norm_bound)
"""Scores that are a mean over labelled positions, so that the head need not run on the others."""


class Scorer:
    """Scores rows of a batch at any exit of a model; the model, its buffers and its modes stay as they are.

    How the model reads its labels is found from its own loss, the first time that a batch of a form comes, on two rows
    of it (`learn`).

    Args:
        model: any Hugging Face model with a stack of layers, or one that implements `EarlyExit`, wrapped or not.
        options: score, mode of scoring, rows at a time, names of labels and of rows.

    Attributes:
        function: the score, `(logits, labels) -> (B,)`; None for "random", "last-seen", and sources that take no exit;
            the loss for those that begin with an exit's.
        keep: the share of a gross batch's rows that selection keeps at present; the engine moves it.
        rows: which entries of a batch have rows.
        positions: how many positions of a row a head runs on, where labels lie on a device.
        reference: the model's own loss of a batch of one row, as training computes it; a Trainer sets its own.

    Raises:
        ValueError: if the model has no exits although it is to be scored.
    """

    def __init__(self, model: nn.Module, options: SiftOptions):
        self.model = model
        self.options = options
        self.function = score_function(options)
        self.keep = PresentShare(read_keep(options.keep)).at(0)
        names = (*options.label_names, *LABEL_NAMES)
        self.rows = BatchRows(innermost(model), rows=options.rows, label_names=names)
        self.reference: Callable[[Mapping[str, Any]], Tensor | None] = self.own_loss
        self.positions = PositionsPerRow()
        self._conventions: dict[Form, LabelConvention] = {}
        self._compiled = _compiled_scoring(options)
        if self.function is not None or options.level == "token":
            self.exits = count_exits(unwrap(model))
        self._arguments = ForwardArguments.of(innermost(model))

    @property
    def loss(self) -> Callable[..., Tensor]:
        """The exact loss as a score, smoothed as the options say."""
        if isinstance(self.function, functools.partial) and self.function.func is row_scores.cross_entropy:
            return self.function
        return row_scores.cross_entropy

    @property
    def built_in(self) -> bool:
        """Whether the score is one of `gsgd.scores`, which know labels, and not a callable of the user's own."""
        return _is_built_in(self.function)

    @torch.no_grad()
    def scores(
        self,
        batch: Mapping[str, Any],
        exit_layer: int,
        *,
        function: Callable[..., Tensor] | None = None,
        mode: str | None = None,
        convention: LabelConvention | None = None,
        capture: Capture | None = None,
        head_inputs: HeadInputs | None = None,
    ) -> Tensor:
        """One score per row of the gross batch, by the early prediction at `exit_layer`; larger is harder.

        For language models the labels of a row are (T,), and its score is the mean over its labelled positions; a row
        without any gets float32's least number, so that it ranks last.

        Args:
            batch: with labels, and the model's inputs. If FSDP shards the model, every rank must call this.
            function: `(logits, labels) -> (B,)`; the options' where None.
            mode: "train", "eval", or "frozen-batchnorm"; the options' where None.
            convention: how labels are read; what `learn` found where None.
            capture: keeps what the layers compute, for the training pass; what the scores do not need of the
                exit layer is then left out.
            head_inputs: takes down what the exit's head reads of these rows.

        Returns:
            (B,), float32 or float64, on the logits' device.

        Raises:
            ValueError: if the batch has no labels, or has no loss per row, or `function` returns another shape; on the
                CPU also for a label out of range, which gives NaN elsewhere.
        """
        probing = convention is not None
        function = self.function if function is None else function
        if function is None:
            raise ValueError(f"{self.options.score_in_words} makes no early prediction")
        model = unwrap(self.model)
        if convention is None:
            convention = self.convention(batch) if _is_built_in(function) else LabelConvention("callable")
        # A callable may do without labels.
        names = self.label_names(batch) if _is_built_in(function) else self._label_names(batch)
        size = self.rows.size(batch)
        device = batch[names[0]].device if names and isinstance(batch[names[0]], Tensor) else device_of_weights(model)
        with self.early_model(exit_layer, device, mode) as view:
            compiled = self._compiled if not probing else None
            if compiled is not None:
                view = compiled.view(view, exit_layer, convention)
            own = convention.way == "own loss"
            labels: Any = batch[names[0]] if names else None
            inputs = self.inputs(batch, labels=own or makes_decoder_inputs(model, batch))
            targets = labels
            if _is_built_in(function):
                targets = convention.aligned(labels)
                if targets.dim() > 1 and targets.shape[1:].numel() == 1 and convention.way == "logits":
                    targets = targets.reshape(size)
            begin_head = capture.begin_head if capture is not None and capture.head else None
            padded: Positions | None = None
            at_labelled = convention.way == "positions" or (own and convention.below is not None)
            if at_labelled and begin_head is None and not host.holds(targets):
                # A captured head is told which of the labelled positions it sees, so it sees those alone.
                ignored = convention.ignore_index if own else IGNORED
                padded = self.padded_positions(batch, labels if own else targets, ignored, every=probing)
            with contextlib.ExitStack() as captured:
                if capture is not None:
                    layer = last_shared_layer(model, exit_layer)
                    labelled = _that_count(targets, first=own) if convention.below is not None else None
                    captured.enter_context(capture.scoring(size, layer, labelled))
                if head_inputs is not None:
                    captured.enter_context(head_inputs.taken(model))
                if own and convention.below is None:
                    values, _ = own_losses(view, RowLosses(size, function), inputs)
                elif at_labelled:
                    head = LabelledHead(
                        view,
                        inputs,
                        labels if own else targets,
                        convention.below,
                        ignored=convention.ignore_index if own else IGNORED,
                        padded=padded,
                        captured=captured,
                        begin_head=begin_head,
                    )
                    score = row_scores.of_positions(function)
                    if compiled is not None and padded is not None:
                        score = compiled.score(score)
                    values = head.own_losses(names[0], function, score) if own else head.scores(score)
                else:
                    logits = view(**inputs) if isinstance(innermost(model), EarlyExit) else logits_of(run(view, inputs))
            if not own and convention.way != "positions":
                found = _checked(function(logits, targets, *([batch] if takes_batch(function) else [])), size)
                return found if compiled is None else found.clone()  # graphs write to their own outputs again
        if capture is None or not capture.partly or not bool(values.isnan().any()):
            return values
        # Either a score depends on positions that were left out, or it is NaN anyway.
        capture.findings.positions_meet = True
        full = self.scores(batch, exit_layer, function=function, mode=mode, convention=convention, capture=capture)
        capture.findings.positions_meet = bool((values.isnan() & ~full.isnan()).any())
        return full

    @contextlib.contextmanager
    def early_model(self, exit_layer: int, device: torch.device, mode: str | None = None) -> Iterator[nn.Module]:
        """Within the block, the model cut after an exit, in the mode of scoring; afterwards the model is as it was."""
        model = unwrap(self.model)
        unused = layers_after(model, exit_layer)
        with (
            unchanged(model, unused=unused),
            scoring_mode(model, mode or self.options.scoring_mode, unused=unused),
            no_autocast_cache(device),
            only_up_to(model, exit_layer),
        ):
            yield exit_view(model, exit_layer)

    def padded_positions(
        self, batch: Mapping[str, Any], labels: Tensor, ignored: int = IGNORED, *, every: bool = False
    ) -> Positions:
        """As many positions of each row, labelled ones first: see `PositionsPerRow.of`.

        Args:
            batch: rows of the same form as have been seen, or others.
            labels: (B, T), of its rows, beside the predictions that they are of.
        """
        classes = classes_of(innermost(self.model))
        return self.positions.of(self._form_of_rows(batch), labels, ignored=ignored, classes=classes, every=every)

    def _form_of_rows(self, batch: Mapping[str, Any]) -> Form:
        """The form without single numbers, which a trainer adds to the kept rows."""
        return self.form({name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim()})

    def parts(self, batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """A gross batch in the parts, `score_batch_size` rows each, that a scoring pass takes at a time."""
        size = self.rows.size(batch)
        step = self.options.score_batch_size or size
        if step >= size:
            return [batch]
        return [self.rows.take(batch, range(start, min(start + step, size))) for start in range(0, size, step)]

    # ---- How labels are read ----

    def label_names(self, batch: Mapping[str, Any]) -> list[str]:
        """The batch's entries that are labels.

        Raises:
            ValueError: if it has none, or they are no tensor.
        """
        names = self._label_names(batch)
        if not names:
            wanted = " or ".join(f"`{name}`" for name in self.options.label_names or ("labels",))
            held = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(
                f"scoring needs {wanted} in the batch, which holds: {held or 'nothing'} (label_names says other names)"
            )
        if not isinstance(batch[names[0]], Tensor):
            raise ValueError(
                f"`{names[0]}` is a {type(batch[names[0]]).__name__}, but scoring needs a tensor with labels of each "
                "row: pass a callable, score=(logits, labels, batch) -> (B,)"
            )
        return names

    def _label_names(self, batch: Any) -> list[str]:
        if not isinstance(batch, Mapping):
            return []
        return label_names(innermost(self.model), batch, self.options.label_names)

    def form(self, batch: Mapping[str, Any]) -> Form:
        """What kind of batch it is: names, types and numbers of axes, never lengths."""
        return tuple(
            (str(name), str(value.dtype), value.dim()) if isinstance(value, Tensor) else (str(name), "", 0)
            for name, value in sorted(batch.items(), key=lambda entry: str(entry[0]))
        )

    def convention(self, batch: Mapping[str, Any]) -> LabelConvention:
        """How labels of batches of this form are read; it is learnt the first time."""
        found = self._conventions.get(self.form(batch))
        return self.learn(batch) if found is None else found

    reading = old_attribute("Scorer", "reading", "convention")

    def learn(self, batch: Mapping[str, Any]) -> LabelConvention:
        """Find out from the model's own loss of two rows how it reads their labels.

        If FSDP shards the model, every rank must call this.
        """
        probe = self.rows.take(batch, self.probe_rows(batch))
        found = learnt_convention(self, probe)
        self._conventions[self.form(batch)] = found
        return found

    def assume(self, batch: Mapping[str, Any], convention: LabelConvention, *, most_labels: int | None = None) -> None:
        """Read labels of batches of this form in this way from now on.

        Args:
            most_labels: how many labels a row of this length has at most; None to find out from the next batch, where
                that matters.
        """
        self._conventions[self.form(batch)] = convention
        if most_labels is not None:
            self.positions.learn(self._form_of_rows(batch), batch[self.label_names(batch)[0]].shape[1], most_labels)

    def probe_rows(self, batch: Mapping[str, Any], number: int = 2) -> Tensor:
        """(2,) rows, or (1,) of a batch of one, that have the most labels."""
        labels = batch[self.label_names(batch)[0]]
        size = self.rows.size(batch)
        counts = (labels != IGNORED).reshape(size, -1).sum(dim=1)
        order = torch.sort(counts, descending=True, stable=True).indices
        return torch.sort(order[: min(number, size)]).values

    @property
    def shifts(self) -> bool:
        """Whether position t predicts label t + 1: as was learnt last, or before that as the model's class suggests."""
        found = [
            convention.shift for convention in self._conventions.values() if convention.way in ("positions", "logits")
        ]
        return bool(found[-1]) if found else shifts_by_name(unwrap(self.model))

    def not_captured_because(self, batch: Mapping[str, Any]) -> str | None:
        """Why the shared forward cannot take down how such a batch is scored; None if it can."""
        if not self.built_in and self.function is not None:
            own = makes_decoder_inputs(unwrap(self.model), batch)
            return "the decoder's inputs are made of the labels" if own else None
        convention = self.convention(batch)
        if convention.way == "own loss" and convention.below is None:
            return "rows are scored by the model's own loss functions"
        return None

    def labelled(self, batch: Mapping[str, Any], losses: Tensor) -> Tensor:
        """(rows,), which rows have a label that a prediction is made for, given their exact losses."""
        convention, labels = self.convention(batch), batch[self.label_names(batch)[0]]
        if convention.way == "own loss" or labels.is_floating_point():
            return losses != LEAST
        there = convention.aligned(labels) != IGNORED
        return there.reshape(len(there), -1).any(dim=1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block the model is in eval mode, in full precision, without gradients; afterwards as it was.

        What the block draws is still to come afterwards.
        """
        model = unwrap(self.model)
        kind = device_of_weights(model).type
        with (
            torch.no_grad(),
            unchanged(model),
            draws_kept(model),
            without_compilation(),
            scoring_mode(model, "eval"),
            without_prepared_autocast(model),
            torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext(),
        ):
            yield

    def own_loss(self, row: Mapping[str, Any]) -> Tensor | None:
        """The model's own loss of a batch, without router losses; None where it returns none."""
        model = unwrap(self.model)
        with without_router_losses(model):
            return loss_of(model(**self.inputs(row, labels=True)))

    def takes(self, name: str) -> bool:
        """Whether the model's forward names an argument so."""
        return self._arguments.known and name in self._arguments.named

    def inputs(self, batch: Mapping[str, Any], *, labels: bool) -> dict[str, Any]:
        """What of the batch the model is called with, with its labels or without."""
        left_out = () if labels else (*LABEL_NAMES, *self._label_names(batch))
        named = {name: value for name, value in batch.items() if name not in left_out}
        if not self._arguments.known:
            return named
        others = (Tensor, bool, int, float) if self._arguments.others else ()
        known = self._arguments.named
        return {name: value for name, value in named.items() if name in known or isinstance(value, others)}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_compiled"}
        if getattr(self.reference, "__self__", None) is self:
            del state["reference"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.setdefault("reference", self.own_loss)
        self._compiled = _compiled_scoring(self.options)


def _compiled_scoring(options: SiftOptions) -> CompiledScoring | None:
    return CompiledScoring(backend_of(options)) if options.compile else None


def score_function(options: SiftOptions) -> Callable[..., Tensor] | None:
    """The score of the options as a function; None where nothing is scored."""
    if callable(options.score):
        return options.score
    if options.score == "entropy":
        return row_scores.entropy
    if not options.scores_by_forward:
        return None
    if options.label_smoothing:
        return functools.partial(row_scores.cross_entropy, label_smoothing=options.label_smoothing)
    return row_scores.cross_entropy


def _is_built_in(function: Any) -> bool:
    return function in BUILT_IN or (isinstance(function, functools.partial) and function.func in BUILT_IN)


@functools.lru_cache(maxsize=64)
def takes_batch(function: Callable[..., Any]) -> bool:
    """Whether a score takes the batch as its third argument."""
    if _is_built_in(function):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [entry for entry in parameters if entry.kind in (entry.POSITIONAL_ONLY, entry.POSITIONAL_OR_KEYWORD)]
    required = [entry for entry in positional if entry.default is entry.empty]
    return len(required) >= 3 or (len(positional) >= 3 and positional[2].name == "batch")


def _that_count(labels: Tensor, *, first: bool) -> Tensor:
    """(B, T), which positions scores are made of: labelled ones, and the first if a pooler may read it."""
    counts = labels != IGNORED
    if first:
        counts = counts.clone()
        counts[:, 0] = True
    return counts


def _checked(values: Any, rows: int) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (rows,):
        return values
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    raise ValueError(f"the score has shape {shape}, but must be one number per row, ({rows},)")
