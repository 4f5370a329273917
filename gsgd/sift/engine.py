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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.selectors import Selector, select_random, select_top_k
from gsgd.sift import scoring
from gsgd.sift.batch import batch_size, take_rows
from gsgd.sift.batchnorm import gross_statistics
from gsgd.sift.exchange import Ranks, exchange_rows
from gsgd.sift.exits import check_exit_layer, count_exits, innermost, is_compiled, is_sharded, unwrap
from gsgd.sift.meters import Stopwatch, Totals
from gsgd.sift.reuse import Recording, Trust, say_once
from gsgd.sift.schedule import Schedule

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
    _watch: Stopwatch | None = None

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
        exit_layer: 1..layers; the last is exact-loss selection (OHEM, ordered SGD).
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
        reuse: let the training pass take from the scoring pass what both compute (`gsgd.sift.reuse`), where that is
            exact; elsewhere two passes are made, and a warning says once why.
        batchnorm: what BatchNorm normalises the kept rows by, up to the exit: "kept", their own statistics, where
            sharing ends at the first BatchNorm; or "gross", those of the gross batch, constants in the backward pass.
        seed: for rules that draw; ranks draw differently.

    Raises:
        ValueError: for arguments out of range, naming them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        exit_layer: int = 1,
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
        self.model = model
        self.keep = keep
        self.exit_layer = exit_layer if score == "random" else check_exit_layer(exit_layer, count_exits(unwrap(model)))
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
        self.last: Selection | None = None
        self._shared: _Shared | None = None
        # A trainer that selects all micro-batches of a step before it trains on the first of them says so.
        self.holds_window = False
        self._trust = Trust()
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
        sharded = self.ranks.size > 1 and is_sharded(self.model)
        # Where ranks must run the model together, what a single one could leave out may not depend on its batch.
        trivial = kept == size and not self.ranks.together and not (sharded and self.keep < 1)
        if not selects or trivial:
            everything = torch.arange(size)
            self.last = Selection(step, False, everything, None, size, size)
            self.totals.backprop_samples += size
            return dict(batch)
        device = next(value.device for value in batch.values() if isinstance(value, Tensor))
        recording = self._recording()
        with torch.no_grad(), Stopwatch(device) as watch:
            scores = None if self.score is None else self._score(batch, size, recording)
            chosen = self._choose(scores, kept, size, device)
            rows = exchange_rows(batch, chosen, self.ranks) if self.ranks.together else take_rows(batch, chosen)
        if recording is not None and recording.segments:
            labels = batch.get("labels")
            self._shared = _Shared(recording, rows, chosen, labels, _versions([*rows.values(), labels]))
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
    def sharing(self, rows: Mapping[str, Any]) -> Iterator[_Shared | None]:
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
        inner = innermost(self.model)
        recording = shared.recording
        with contextlib.ExitStack() as stack:
            stack.callback(recording.release)
            if recording.statistics:
                stack.enter_context(gross_statistics(inner, recording.statistics))
            if recording.share:
                stack.enter_context(scoring.without_cache(inner))
                inputs = {name: value for name, value in rows.items() if name not in scoring.LABELS}
                layer = scoring.last_shared_layer(inner, self.exit_layer)
                stack.enter_context(recording.replay(inputs, shared.indices, layer))
            yield shared

    @property
    def recorded_bytes(self) -> int:
        """Bytes that `choose` has kept for the training pass on its rows."""
        return 0 if self._shared is None else self._shared.recording.nbytes

    def _recording(self) -> Recording | None:
        """What takes down the scoring pass; None where nothing is to be taken from it."""
        gross = self.batchnorm == "gross"
        if self.score is None or not (self.reuse or gross):
            return None
        reason = self._two_passes_because()
        if reason is not None:
            if gross:
                raise ValueError(f'batchnorm = "gross" needs one scoring pass for one training pass, but: {reason}')
            say_once(f"scoring and training make two passes: {reason}")
            return None
        head = self.labelled_head and self.exit_layer == count_exits(unwrap(self.model))
        return Recording(self._trust, share=self.reuse, gross_statistics=gross, head=head)

    def _two_passes_because(self) -> str | None:
        """Why nothing can be shared; None if it can be tried."""
        model = self.model
        if self.ranks.together:
            return 'with scope="global" ranks train on rows that others scored'
        if is_sharded(model):
            return "FSDP gathers weights anew in every pass"
        if self.score_batch_size is not None:
            return "score_batch_size bounds the memory that recording would take"
        if torch.is_inference_mode_enabled():
            return "in inference mode no changes of tensors are counted"
        if self.scoring_mode != "train":
            return f"scoring_mode={self.scoring_mode!r} scores another function than is trained"
        if is_compiled(model):
            return "torch.compile runs the whole model as one piece; compile the layers after the exit instead"
        if self.accumulation_steps > 1 and self.holds_window:
            return "the recordings of all micro-batches would be in memory at once"
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            return "activation checkpointing computes the layers again in the backward pass"
        return None

    def _score(self, batch: Mapping[str, Any], size: int, recording: Recording | None) -> Tensor:
        assert self.score is not None
        step = self.score_batch_size or size
        parts = [torch.arange(start, min(start + step, size)) for start in range(0, size, step)]
        score = functools.partial(
            scoring.score_rows,
            unwrap(self.model),
            exit_layer=self.exit_layer,
            score=self.score,
            mode=self.scoring_mode,
            causal=self.causal,
        )
        if self.score_batch_size is not None and self.ranks.size > 1 and is_sharded(self.model):
            self.ranks.check_passes(len(parts))
        if len(parts) == 1:
            return score(batch, recording=recording)
        return torch.cat([score(take_rows(batch, part)) for part in parts])

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
        """Step, generator and totals: what a resumed run needs to select as the run would have. Per rank."""
        return {
            "calls": self.calls,
            "generator": self.generator.get_state(),
            "totals": dataclasses.asdict(self.totals),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if `state` lacks an entry, naming it.
        """
        missing = {"calls", "generator", "totals"} - set(state)
        if missing:
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}: it is not of a Sift")
        self.calls = int(state["calls"])
        self.generator.set_state(state["generator"].cpu())
        self.totals = Totals(**state["totals"])


@dataclass(frozen=True)
class _Shared:
    """A recorded scoring pass and the rows chosen by it."""

    recording: Recording
    rows: dict[str, Any]
    indices: Tensor
    labels: Any
    versions: list[int | None]

    def is_of(self, rows: Mapping[str, Any]) -> bool:
        """Whether these are the very tensors that were chosen, unchanged, be it in another dictionary."""
        same = set(rows) == set(self.rows) and all(rows[name] is value for name, value in self.rows.items())
        return same and _versions([*self.rows.values(), self.labels]) == self.versions

    def begin_head(self, chosen: Tensor) -> Tensor:
        """The kept rows' labelled positions, among those of the gross batch, come next."""
        labelled = self.labels != scoring.IGNORED
        number = labelled.flatten().cumsum(0).view(labelled.shape) - 1
        indices = self.indices.to(labelled.device)
        self.recording.at_positions(chosen, number[indices][labelled[indices]])
        return chosen


def _versions(values: list[Any]) -> list[int | None]:
    """How often each tensor has been changed in place, where that is counted."""
    return [value._version if isinstance(value, Tensor) and not value.is_inference() else None for value in values]


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
