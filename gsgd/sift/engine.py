"""SIFT: score a gross batch by an early prediction, train on the hardest rows (Section 6, Section 7).

sift = Sift(model, exit_layer=1, keep=0.5, score="loss")
for batch in loader:
    loss = sift(**batch).loss
    loss.backward(); optimizer.step(); optimizer.zero_grad()
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gsgd.renamed import old_attribute
from gsgd.sift.candidates.token_level import check_options
from gsgd.sift.choice import Choice, Selection
from gsgd.sift.choosing import Choosing
from gsgd.sift.exit_choice.paying_exit import PayingExit
from gsgd.sift.exits import check_exit, count_exits
from gsgd.sift.gross_scores import GrossScores
from gsgd.sift.measures.diagnosis import Diagnosis, always_selecting, diagnose
from gsgd.sift.measures.readings import Reading
from gsgd.sift.measures.self_check import SelfCheck
from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.score_source import TrainedRows
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.labels import shifts_by_name
from gsgd.sift.scoring_pass.module_state import uninitialised
from gsgd.sift.shared_forward.sharing import Shared
from gsgd.sift.sources.scored_rows import ScoredRows
from gsgd.sift.sources.trained_losses import TrainedLosses
from gsgd.sift.training_pass import TrainingPass


class Sift(Choosing):
    """Selects before the forward pass of a model that trains; otherwise it is the model.

    In eval mode, before `start_step`, from `end_step` on, and on steps that `interrupt` skips, a call is the model's
    own. Whether a step selects depends on the step alone, or on what all ranks have measured, so all of them agree. The
    model's state dict stays as it is: `Sift` is no module, and its own state has `state_dict` and `load_state_dict`.

    Args:
        model: any Hugging Face model with a stack of layers (docs/models.md lists which of their classes are exact,
            refused or untested), or one that implements `EarlyExit`; possibly wrapped by DistributedDataParallel, FSDP
            (`fully_shard` or the older FullyShardedDataParallel), torch.compile or PEFT. It is called with the kept
            rows; scoring runs on what is inside the wrappers, on FSDP as every rank does.
        options: what to do, and by what; or the options by name, `Sift(model, exit_layer=1, keep=0.5)`.
        **named: options by name, in place of those of `options`. See `SiftOptions` for all of them.

    Attributes:
        options: as they were given. Each is an attribute of the engine, too.
        exit_layer: the exit that scores at present; it moves with `exit_layer="auto"`.
        keep: the share that was kept at the last training call; it moves with a table or an accuracy.
        auto: how that exit moves, and when selection pays, with its `history`; None for a fixed exit and start.
        scorer: scores batches at any exit, without side effects.
        last: the last `Selection`, None before the first call.
        totals: counts since the start of training.
        readings: what `meter_every` has measured.
        named_rows: with `score="last-seen"`, the losses last seen, as `named_rows.seen`; None where no loss of a row is
            noted.
        source: the engine's own copy of a source that is its `score`, as it has learnt so far; else None.
        reuse_trial: how `reuse="auto"` decides.

    Raises:
        ValueError: for options out of range or that the model does not admit, naming them.
    """

    def __init__(self, model: nn.Module, options: SiftOptions | None = None, **named: Any):
        if not isinstance(model, nn.Module):
            raise ValueError(f"model is a {type(model).__name__} but must be a torch.nn.Module")
        if not isinstance(options, (SiftOptions, type(None))):
            raise ValueError(f"options is a {type(options).__name__} but must be SiftOptions: name options, keep=0.5")
        if options is None:
            options = SiftOptions.of(named)
        elif named:
            known = {field.name: getattr(options, field.name) for field in dataclasses.fields(SiftOptions)}
            options = SiftOptions.of({**known, **named})
        if lazy := uninitialised(model):
            raise ValueError(f"the model has weights without a shape yet ({', '.join(lazy)}): call it once on a batch")
        self.options = options
        self.model = model
        self.scorer = Scorer(model, options)
        if options.exit_layer != "auto" and options.scores_by_forward:
            check_exit(unwrap(model), options.exit_layer)
        if options.level == "token":
            check_options(options)
        elif options.labelled_head and shifts_by_name(unwrap(model)):
            raise ValueError("labelled_head=True is for masked language models; a causal model labels every position")
        self.schedule = options.schedule
        super().__init__(options, count_exits(unwrap(model)) if options.exit_layer == "auto" else None)
        self.readings: list[Reading] = []
        self.last: Selection | None = None
        # A trainer that selects all micro-batches of a step before it trains on the first of them says so.
        self.holds_window = False
        self._check = SelfCheck(options.check)
        self._packs_checked = False
        self._trained_losses = TrainedLosses.of_options(options)
        self._of_this_process()

    def _of_this_process(self) -> None:
        """Make what is of one process: checks on their way, and graphs, which are compiled when they first run."""
        self._choice = Choice(self.options, self.ranks)
        self._gross = GrossScores(self.scorer, self._notes, self.source, self.generator)
        self._training_pass = TrainingPass(self.model, self.scorer, self.reuse_trial, self.totals)
        self._scored_rows = ScoredRows(max(2, self.options.accumulation_steps))

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("options")
        if options is None or name.startswith("_") or not hasattr(options, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(options, name)

    def __call__(self, **batch: Any) -> Any:
        """The model's output on the kept rows; in eval mode, on all."""
        if not self.model.training:
            self.finish_checks()
            self.write_rows()
            return self.model(**self._notes.without_ids(batch, self.scorer, trains=False)[1])
        return self.forward_kept(self.choose(batch))

    def forward_kept(self, rows: Mapping[str, Any], *, weights: Tensor | Callable[[Any], Tensor] | None = None) -> Any:
        """The model's output on rows that `choose` returned.

        Args:
            weights: (k,), what the loop multiplies the rows' losses by, or what makes it of the output, to be logged.
        """
        output = self.training_output(rows)
        noted = self.named_rows is not None and weights is not None
        self.note(output, rows, weights=(weights(output) if callable(weights) else weights) if noted else None)
        return output

    def training_output(self, rows: Mapping[str, Any]) -> Any:
        """The model's output on rows that `choose` returned, as of `forward_kept`; `note` is still to be called."""
        output = self._training_pass.run(self.model, rows)
        fullest = self.scorer.positions.fullest()
        if self.last is None or not self.last.selected:  # else scoring has looked at these rows
            self._choice.late.add(self._present_step, None, fullest)
        return output

    def note(
        self,
        output: Any,
        rows: Mapping[str, Any],
        *,
        items: Tensor | int | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Note the losses of rows that `choose` returned, from the model's output on them, to score by or to log.

        A source that scores learns from them. `forward_kept` does so; a loop that calls the model by itself calls this.

        Args:
            items: what the model's loss is divided by, if not the number of labels.
            weights: (k,), what the loop multiplies the rows' losses by; None if all count alike.

        Raises:
            ValueError: if the losses of the rows are not the model's: see `row_losses`.
        """
        labelled, positions, batch = self._training_pass.take_labelled(), None, rows
        if not self.notes_rows or self.last is None:
            return
        if labelled is not None:
            batch, positions = {**rows, "labels": labelled[1]}, (labelled[0], len(rows["labels"]))
        step, noted = self._present_step, None
        if self.named_rows is not None:
            noted = self.named_rows.note(output, rows, batch, step=step, positions=positions, items=items)
        if noted is not None:
            self._notes.log(noted, weights, step=step)
            self.last.ids, self.last.losses, self.last.weights = noted.ids, noted.losses, weights
        source = self.source
        if source is None or self.schedule.ended(step) or (noted is None and source.needs_ids):
            return
        ids, losses, exit_losses = (noted.ids, noted.losses, noted.exit_losses) if noted is not None else 3 * (None,)
        if losses is None and source.needs_losses:
            losses = self._trained_losses.of(output, batch, positions=positions, items=items)
        trained = TrainedRows(rows, step, ids, losses, exit_losses, *self._scored_rows.of(rows))
        paying = self.auto if isinstance(self.auto, PayingExit) else None
        with contextlib.nullcontext() if paying is None else paying.counting_training(self.last.kept, rows):
            source.note(trained)

    def write_rows(self) -> None:
        """Write what `log_rows` has logged since the last time; a loop calls it where it logs, as it may wait.

        Raises:
            OSError: if it cannot be written.
        """
        self._notes.write()

    def sharing(self, rows: Mapping[str, Any]) -> contextlib.AbstractContextManager[Shared | None]:
        """Within the block, the model on `rows` takes from the scoring pass what that has computed.

        Args:
            rows: what `choose` returned last; for others, or a second time, nothing is shared.
        """
        return self._training_pass.sharing(self.model, rows)

    def read(
        self, batch: Mapping[str, Any], *, exits: Sequence[int] | None = None, step: int | None = None
    ) -> list[Reading]:
        """How well scores at some exits stand in for exact losses on a batch: `gsgd.sift.measures.readings.read_batch`.

        Losses last seen have no exits: theirs is one reading, of the rows of the batch that were seen, by their ids
        (`NamedRows.read`); a source's is one, too.
        """
        ids = None
        if self.options.scores_by_ids or self.options.id_key in batch:
            ids, batch = self._notes.without_ids(batch, self.scorer, trains=self.model.training)
        exits = [self.exit_layer] if exits is None else exits
        step = self.step if step is None else step
        return self._gross.read(batch, ids, exits=exits, exit_layer=self.exit_layer, step=step)

    def diagnose(self, batches: Iterable[Mapping[str, Any]], **options: Any) -> Diagnosis:
        """What selection at each exit costs and brings on gross batches: `gsgd.sift.measures.diagnosis.diagnose`."""
        return diagnose(self.scorer, batches, engine_at=self._always_at, **options)

    def _always_at(self, exit_layer: int) -> Sift:
        """An engine with the same options that selects at one exit, at every step, and counts for itself."""
        reuse: Any = self.options.reuse
        if reuse == "auto":  # whose turns would be measured in place of steps
            reuse = "cpu" if self.reuse_trial.decision is None else self.reuse_trial.decision
        engine = Sift(self.model, always_selecting(self.options, exit_layer=exit_layer, keep=self.keep, reuse=reuse))
        engine.scorer = self.scorer
        engine._of_this_process()  # by this scorer, which knows how labels are read
        return engine

    @property
    def causal(self) -> bool:
        """Whether position t predicts label t + 1: as the model's loss has shown, before that as its class's name."""
        return self.scorer.shifts

    @property
    def captured_bytes(self) -> int:
        """Bytes that `choose` has kept for the training pass on its rows."""
        shared = self._training_pass.shared
        return 0 if shared is None else shared.capture.nbytes

    recorded_bytes = old_attribute("Sift", "recorded_bytes", "captured_bytes")

    def state_dict(self) -> dict[str, Any]:
        """As `EngineState.state_dict`, once all steps so far are checked and their rows written.

        Raises:
            ValueError: as `finish_checks`.
        """
        self.finish_checks()
        self.write_rows()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        left = ("_choice", "_gross", "_training_pass", "_scored_rows")  # what is of one step or one process
        return {name: value for name, value in super().__getstate__().items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._of_this_process()
