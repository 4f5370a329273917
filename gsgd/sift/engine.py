"""SIFT: score a gross batch by an early prediction, train on the hardest rows (Section 6, Section 7).

sift = Sift(model, exit_layer=1, keep=0.5, score="loss")
for batch in loader:
    loss = sift(**batch).loss
    loss.backward(); optimizer.step(); optimizer.zero_grad()
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.selectors import Selector, select_random, select_top_k
from gsgd.sift import scoring
from gsgd.sift.batch import batch_size, take_rows
from gsgd.sift.diagnosis import Diagnosis, diagnose
from gsgd.sift.exits import count_exits
from gsgd.sift.moving_exit import AutoExit, exit_for, moved
from gsgd.sift.ranks import Ranks, exchange_rows
from gsgd.sift.readings import Reading, read_batch
from gsgd.sift.schedule import Schedule
from gsgd.sift.shared_forward.recording import Findings, Recording, say_once
from gsgd.sift.shared_forward.sharing import Shared, two_passes_because
from gsgd.sift.timing import Elapsed, Totals
from gsgd.sift.wrappers import innermost, is_sharded, unwrap

logger = logging.getLogger(__name__)

BAD_SCORES = ("raise", "drop", "keep-all")


@dataclass(frozen=True)
class Selection:
    """What happened at the last training step.

    Attributes:
        step: the step, counted from 0.
        selected: whether the step selected; else the whole batch was trained on.
        indices: (k,), kept rows of this rank's gross batch in ascending order. With `scope="global"` a rank may train
            on rows of others; then these are the rows of the ranks' batches laid end to end.
        scores: (B,) of this rank, or None where nothing was scored.
        gross, kept: numbers of rows on this rank.
    """

    step: int
    selected: bool
    indices: Tensor
    scores: Tensor | None
    gross: int
    kept: int
    _watch: Elapsed | None = None

    @property
    def selection_s(self) -> float:
        """Seconds that scoring and selecting took; on a GPU, reading it waits for them to end."""
        return 0.0 if self._watch is None else self._watch.seconds


class Sift:
    """Selects before the forward pass of a model that trains; otherwise it is the model.

    In eval mode, before `start_step`, from `end_step` on, and on steps that `interrupt` skips, a call is the model's
    own. Whether a step selects depends on the step alone, so all ranks agree. The model's state dict stays as it is:
    `Sift` is no module, and its own state has `state_dict` and `load_state_dict`.

    Args:
        model: any Hugging Face model with a stack of layers, or one that implements `EarlyExit`; possibly wrapped by
            DistributedDataParallel, FSDP (`fully_shard` or the older FullyShardedDataParallel), torch.compile or PEFT.
            It is called with the kept rows; scoring runs on what is inside the wrappers, on FSDP as every rank does.
        exit_layer: 1..layers; the last is exact-loss selection (OHEM, ordered SGD). "auto" moves it to the cheapest
            exit that keeps rows as exact losses would, see `auto`; the attribute `exit_layer` is the present one.
        keep: share of rows to train on, in (0, 1]; max(1, round(keep * B)) rows are kept.
        score: "loss" or "entropy" of the early prediction, "random" (the control: nothing is scored), or a callable
            `(logits, labels) -> (B,)`; larger is harder. `gsgd.scores` has more.
        select: a rule of `gsgd.selectors`, or any function `(scores, k, rng) -> (k,) indices`.
        start_step, end_step, interrupt: see `Schedule`. The paper starts at 20,000.
        accumulation_steps: micro-batches per optimizer step, if the loop accumulates: the step counts those.
        scoring_mode: "train" (the paper's naive double pass, dropout on), "eval", or "frozen-batchnorm" (train, but
            BatchNorm normalises by its running statistics). None of them updates these statistics.
        scope: "rank" selects on each rank by itself (the paper: 64 -> 32 per GPU), "global" over the batches of all
            ranks, then deals the rows out so that every rank trains on the same number. It needs batches of one shape
            on all ranks, and exchanges whole batches. Gradients are averaged over ranks as in any loop.
        labelled_head: of masked language models, run the head on labelled positions in the training pass, too: the
            same loss and gradients for less work and memory. The output's logits then cover those positions only.
        on_bad_scores: what a NaN or infinite score does: "raise", "drop" the row, or "keep-all", train on the whole
            batch (as "drop" does if no row is left); the latter two warn and count (`totals.bad_score_rows`; over all
            ranks if they select together).
            Raising on one of several ranks ends the job, as any exception does: the others wait for it in their
            backward pass until the launcher ends them, so do not catch it there.
        score_batch_size: score at most so many rows at a time, which bounds memory; None for all at once.
        reuse: let the training pass take from the scoring pass what both compute (`gsgd.sift.shared_forward`), where
            that is exact; elsewhere two passes are made, and a warning says once why.
        batchnorm: what BatchNorm normalises the kept rows by, up to the exit: "kept", their own statistics, where
            sharing ends at the first BatchNorm; or "gross", those of the gross batch, constants in the backward pass.
        auto: what `exit_layer="auto"` holds to (`AutoExit`), None for its defaults. The attribute `auto` then has the
            moves, as `history`. What it measures is part of `selection_s`.
        meter_every: every so many steps that select, from the first of them on, `choose` measures on the gross batch
            how well the scores stand in for exact losses (`gsgd.sift.readings`) and appends the `Reading` to
            `readings`; 0 for never. Weights, draws and counts are bit for bit those of a run without. A reading costs
            about a forward pass of the model and one up to the exit, on the gross batch; `meter_s` tells.
        seed: for rules that draw; ranks draw differently.

    Raises:
        ValueError: for arguments out of range, naming them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        exit_layer: int | str = 1,
        keep: float = 0.5,
        score: str | scoring.Score = "loss",
        select: Selector = select_top_k,
        start_step: int = 0,
        end_step: int | None = None,
        interrupt: Callable[[int], bool] | int | None = None,
        accumulation_steps: int = 1,
        scoring_mode: str = "train",
        scope: str = "rank",
        labelled_head: bool = False,
        on_bad_scores: str = "raise",
        score_batch_size: int | None = None,
        reuse: bool = True,
        batchnorm: str = "kept",
        auto: AutoExit | None = None,
        meter_every: int = 0,
        seed: int = 0,
    ):
        if not isinstance(model, nn.Module):
            raise ValueError(f"model is a {type(model).__name__} but must be a torch.nn.Module")
        if isinstance(score, str) and score not in (*scoring.BY_NAME, "random"):
            raise ValueError(f'score = {score!r} must be "loss", "entropy", "random" or a callable (logits, labels)')
        if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
            raise ValueError(f"keep = {keep!r} must lie in (0, 1]")
        _one_of("scoring_mode", scoring_mode, scoring.MODES)
        _one_of("scope", scope, ("rank", "global"))
        _one_of("on_bad_scores", on_bad_scores, BAD_SCORES)
        _one_of("batchnorm", batchnorm, ("kept", "gross"))
        if batchnorm == "gross" and (score == "random" or scoring_mode != "train" or scope == "global"):
            raise ValueError(
                'batchnorm = "gross" needs a scoring pass that normalises by the batch that rows are kept of: '
                f'score = {score!r} must not be "random", scoring_mode = {scoring_mode!r} must be "train", '
                f'and scope = {scope!r} must be "rank"'
            )
        if batchnorm == "gross" and score_batch_size is not None:
            raise ValueError(
                f'batchnorm = "gross" needs the gross batch scored at once: score_batch_size = {score_batch_size!r}'
            )
        for name, value in (("accumulation_steps", accumulation_steps), ("score_batch_size", score_batch_size)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} = {value!r} must be a whole number of at least 1")
        if isinstance(meter_every, bool) or not isinstance(meter_every, int) or meter_every < 0:
            raise ValueError(f"meter_every = {meter_every!r} must be a whole number of at least 0")
        if meter_every and score == "random":
            raise ValueError(f'meter_every = {meter_every}, but score = "random" has no scores to measure: set it to 0')
        self.model = model
        self.keep = keep
        self.exit_layer, self.auto = exit_for(exit_layer, auto, score, unwrap(model))
        self.score = scoring.BY_NAME.get(score) if isinstance(score, str) else score
        self.select = select_random if score == "random" else select
        self.schedule = Schedule(start_step, end_step, interrupt)
        self.accumulation_steps = accumulation_steps
        self.scoring_mode = scoring_mode
        self.labelled_head = labelled_head
        self.on_bad_scores = on_bad_scores
        self.score_batch_size = score_batch_size
        self.reuse = reuse
        self.batchnorm = batchnorm
        self.causal = is_causal(unwrap(model))
        if labelled_head and self.causal:
            raise ValueError("labelled_head=True is for masked language models; a causal model labels every position")
        self.ranks = Ranks.here(scope)
        self.calls = 0
        self.totals = Totals()
        self.meter_every = meter_every
        self.readings: list[Reading] = []
        self._meters = Elapsed()
        self.last: Selection | None = None
        self._shared: Shared | None = None
        # A trainer that selects all micro-batches of a step before it trains on the first of them says so.
        self.holds_window = False
        self._trust = Findings()
        # Ranks that select together must draw alike, others must not.
        self.generator = torch.Generator().manual_seed(seed if self.ranks.together else seed + self.ranks.rank)

    @property
    def step(self) -> int:
        """The optimizer step of the next training call, counted from 0. Set it where a trainer counts by itself."""
        return self.calls // self.accumulation_steps

    @step.setter
    def step(self, value: int) -> None:
        self.calls = value * self.accumulation_steps

    def __call__(self, **batch: Any) -> Any:
        """The model's output on the kept rows; in eval mode, on all."""
        if not self.model.training:
            return self.model(**batch)
        return self.forward_kept(self.choose(batch))

    def choose(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The rows to train on at this step, as a batch; counts the step and sets `last`.

        Raises:
            ValueError: for a batch without rows or with tensors of different lengths, without labels, or (by
                `on_bad_scores="raise"`) with a score that is not finite.
        """
        if self._shared is not None:
            self._shared.recording.release()
            self._shared = None
        step = self.step
        selects = self.schedule.selects(step)
        if selects and self.ranks.together:
            self.ranks.check_alike(batch)
        size = batch_size(batch)
        self.calls += 1
        self.totals.gross_samples += size
        kept = max(1, round(self.keep * size))
        joint = self.ranks.size > 1 and (self.auto is not None or is_sharded(self.model))
        # Where ranks must run the model together, what a single one could leave out may not depend on its batch.
        trivial = kept == size and not self.ranks.together and not (joint and self.keep < 1)
        if not selects or trivial:
            everything = torch.arange(size)
            self.last = Selection(step, False, everything, None, size, size)
            self.totals.backprop_samples += size
            return dict(batch)
        device = next(value.device for value in batch.values() if isinstance(value, Tensor))
        watch = Elapsed()
        if self.auto is not None:
            with watch.measure(device):
                self.exit_layer = moved(self.auto, self, batch, step)
        if self.meter_every and self.totals.selected_steps % (self.meter_every * self.accumulation_steps) == 0:
            with self._meters.measure(device):
                self.readings += read_batch(self, batch, step=step)
        recording = self._recording()
        with torch.no_grad(), watch.measure(device):
            scores = None if self.score is None else self._score(batch, recording)
            chosen = self._choose(scores, kept, size, device)
            rows = exchange_rows(batch, chosen, self.ranks) if self.ranks.together else take_rows(batch, chosen)
        if recording is not None and recording.segments:
            self._shared = Shared.of(recording, self.exit_layer, rows, chosen, batch)
        number = batch_size(rows)
        self.last = Selection(step, True, chosen, scores, size, number, watch)
        self.totals.backprop_samples += number
        self.totals.selected_steps += 1
        return rows

    def forward_kept(self, rows: Mapping[str, Any]) -> Any:
        """The model's output on rows that `choose` returned."""
        labels = rows.get("labels")
        where: Any = None
        if self.labelled_head and isinstance(labels, Tensor) and labels.dim() > 1:
            where = torch.nonzero(labels != scoring.IGNORED, as_tuple=True)
        labelled = None if where is None or len(where[0]) == 0 else rows["labels"][where].unsqueeze(0)
        with self.sharing(rows) as shared:
            if where is None or labelled is None:
                return self.model(**rows)
            head = shared.begin_head if shared is not None and shared.recording.head else lambda chosen: chosen
            with scoring.positions_only(unwrap(self.model), where[0], where[1], head):
                return self.model(**{**rows, "labels": labelled})

    @contextlib.contextmanager
    def sharing(self, rows: Mapping[str, Any]) -> Iterator[Shared | None]:
        """Within the block, the model on `rows` takes from the scoring pass what that has computed.

        Args:
            rows: what `choose` returned last; for others, or a second time, nothing is shared.
        """
        shared, self._shared = self._shared, None
        if shared is None or not shared.is_of(rows):
            if shared is not None:
                shared.recording.release()
            yield None
            return
        with shared.training_pass(self.model):
            yield shared

    def diagnose(self, batches: Iterable[Mapping[str, Any]], **options: Any) -> Diagnosis:
        """What selection at each exit costs and brings on gross batches: see `gsgd.sift.diagnosis.diagnose`."""
        return diagnose(self, batches, **options)

    @property
    def meter_s(self) -> float:
        """Seconds that the readings took since the start of training; on a GPU, reading it waits for them to end."""
        return self._meters.seconds

    @property
    def recorded_bytes(self) -> int:
        """Bytes that `choose` has kept for the training pass on its rows."""
        return 0 if self._shared is None else self._shared.recording.nbytes

    def _recording(self) -> Recording | None:
        """What takes down the scoring pass; None where nothing is to be taken from it."""
        gross = self.batchnorm == "gross"
        if self.score is None or not (self.reuse or gross):
            return None
        reason = two_passes_because(
            self.model,
            self.exit_layer,
            together=self.ranks.together,
            score_batch_size=self.score_batch_size,
            scoring_mode=self.scoring_mode,
            holds_window=self.accumulation_steps > 1 and self.holds_window,
        )
        if reason is not None:
            if gross:
                raise ValueError(f'batchnorm = "gross" needs one scoring pass for one training pass, but: {reason}')
            say_once(f"scoring and training make two passes: {reason}")
            return None
        head = self.labelled_head and self.exit_layer == count_exits(unwrap(self.model))
        return Recording(self._trust, share=self.reuse, gross_statistics=gross, head=head)

    def _score(self, batch: Mapping[str, Any], recording: Recording | None) -> Tensor:
        assert self.score is not None
        parts = self.score_parts(batch)
        score = functools.partial(
            scoring.score_rows,
            unwrap(self.model),
            exit_layer=self.exit_layer,
            score=self.score,
            mode=self.scoring_mode,
            causal=self.causal,
        )
        if len(parts) == 1:
            return score(parts[0], recording=recording)
        return torch.cat([score(part) for part in parts])

    def score_parts(self, batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """A gross batch in the parts, `score_batch_size` rows each, that a scoring pass takes at a time."""
        size = batch_size(batch)
        step = self.score_batch_size or size
        cuts = [torch.arange(start, min(start + step, size)) for start in range(0, size, step)]
        if self.score_batch_size is not None and self.ranks.size > 1 and is_sharded(self.model):
            self.ranks.check_passes(len(cuts))
        return [batch] if len(cuts) == 1 else [take_rows(batch, cut) for cut in cuts]

    def _choose(self, scores: Tensor | None, kept: int, size: int, device: torch.device) -> Tensor:
        """Kept rows in ascending order; of all ranks' batches laid end to end if they select together."""
        if self.ranks.together:
            scores, kept, size = self.ranks.pool(scores, kept, size)
        if scores is None:
            chosen = self._apply_rule(size, kept)
            return torch.sort(chosen.to(device)).values
        bad = ~torch.isfinite(scores)
        if not bool(bad.any()):
            return torch.sort(self._apply_rule(scores, kept)).values
        first = int(torch.nonzero(bad)[0])
        step = (self.calls - 1) // self.accumulation_steps
        text = f"scores[{first}] is {float(scores[first])} at step {step}: scores must be finite"
        if self.on_bad_scores == "raise":
            raise ValueError(f'{text}; on_bad_scores="drop" or "keep-all" trains on')
        self.totals.bad_score_rows += int(bad.sum())
        logger.warning("%s (%d rows)", text, int(bad.sum()))
        good = torch.nonzero(~bad).squeeze(1)
        kept = self.ranks.even(min(kept, len(good)))
        if self.on_bad_scores == "keep-all" or kept == 0:
            return torch.arange(size, device=device)
        return torch.sort(good[self._apply_rule(scores[good], kept)]).values

    def _apply_rule(self, scores: Tensor | int, kept: int) -> Tensor:
        """What `select` returns, once its form is found good: a user's own rule may return anything."""
        chosen: Any = self.select(scores, kept, self.generator)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.int64 or chosen.shape != (kept,):
            found = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(f"select returned {found}, but must return a tensor of k indices, torch.int64 ({kept},)")
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Step, generator, totals, moving exit: what a resumed run needs to select as the run would have. Per rank.

        Of the meters it has the seconds, not the readings.
        """
        return {
            "calls": self.calls,
            "generator": self.generator.get_state(),
            "totals": dataclasses.asdict(self.totals),
            "meter_s": self.meter_s,
            **({} if self.auto is None else {"auto": self.auto.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if `state` lacks an entry, naming it.
        """
        missing = {"calls", "generator", "totals", *(["auto"] if self.auto is not None else [])} - set(state)
        if missing:
            kind = "a Sift" if missing != {"auto"} else 'a Sift with exit_layer = "auto"'
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}: it is not of {kind}")
        if self.auto is not None:
            self.auto.load_state_dict(state["auto"])
            self.exit_layer = self.auto.present
        self.calls = int(state["calls"])
        self.generator.set_state(state["generator"].cpu())
        self.totals = Totals(**state["totals"])
        self._meters = Elapsed(state.get("meter_s", 0.0))


def is_causal(model: nn.Module) -> bool:
    """Whether position t of the model predicts label t + 1: a Hugging Face causal language model."""
    kinds = type(innermost(model)).__mro__  # FSDP2 makes a class of its own, FSDPGPT2LMHeadModel
    if getattr(model, "config", None) is None:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # Its values name classes, a few of them several.
    names = {
        name
        for entry in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in ([entry] if isinstance(entry, str) else entry)
    }
    return any(kind.__name__ in names for kind in kinds)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} = {value!r} must be one of: {', '.join(allowed)}")
