"""Where an engine stands in training: what moves from step to step, and what its checkpoints hold of that."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from gsgd.sift.exit_choice.moving_exit import MovingExit
from gsgd.sift.exit_choice.paying_exit import PayingExit
from gsgd.sift.options import AutoExit, SiftOptions
from gsgd.sift.ranks import Ranks
from gsgd.sift.reuse_trial import ReuseTrial
from gsgd.sift.row_records.row_notes import RowNotes
from gsgd.sift.schedules.keep import KeepByAccuracy, PresentShare, read_keep
from gsgd.sift.sources.named_rows import NamedRows
from gsgd.sift.timing import Elapsed, Totals


class EngineState:
    """The part of `Sift` that a checkpoint brings back; see there for the attributes.

    Args:
        options: of the engine.
        exits: how many the model has; None for a fixed exit, or one that does not score.
    """

    def __init__(self, options: SiftOptions, exits: int | None):
        self.options = options
        self.calls = 0
        self.totals = Totals()
        self.auto: MovingExit | PayingExit | None = None
        rule = options.auto or AutoExit()
        if options.exit_layer == "auto":
            assert exits is not None
            self.exit_layer = exits
            self.auto = PayingExit(rule, range(1, exits + 1)) if options.goes_by_factor else MovingExit(rule, exits)
        else:
            self.exit_layer = options.exit_layer
            if options.goes_by_factor:
                of_exit = options.scores_by_forward and options.source is None
                self.auto = PayingExit(rule, [self.exit_layer if of_exit else 0])
        self._share = PresentShare(read_keep(options.keep))
        self.keep = self._share.at(0)
        self.ranks = Ranks.here(options.scope)
        self.reuse_trial = ReuseTrial()
        self._meters = Elapsed()
        self._notes = RowNotes(options, self.ranks)
        self.source = copy.deepcopy(options.source)
        if self.source is not None:
            self.source.begin(self.ranks, options.data_rows)
        # Ranks that select together must draw alike, others must not.
        seed = options.seed if self.ranks.together else options.seed + self.ranks.rank
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def step(self) -> int:
        """The optimizer step of the next training call, counted from 0. Set it where a trainer counts by itself."""
        return self.calls // self.options.accumulation_steps

    @step.setter
    def step(self, value: int) -> None:
        self.calls = value * self.options.accumulation_steps

    @property
    def _begins_step(self) -> bool:
        """Whether the next training call is the first of its optimizer step."""
        return self.calls % self.options.accumulation_steps == 0

    @property
    def _present_step(self) -> int:
        """The optimizer step of the last training call."""
        return max(0, self.calls - 1) // self.options.accumulation_steps

    @property
    def next_keep(self) -> float:
        """The share that the next training call keeps: a loop that draws gross batches by it asks before it draws."""
        return self._share.at(self.step) if self._begins_step else self.keep

    @property
    def named_rows(self) -> NamedRows | None:
        """The losses of rows that were noted."""
        return self._notes.named_rows

    @property
    def notes_rows(self) -> bool:
        """Whether `Sift.note` does anything: a loop that calls the model by itself asks, as outputs take memory."""
        return self.named_rows is not None or self.source is not None

    @property
    def meter_s(self) -> float:
        """Seconds that readings and accuracies took since the start of training; on a GPU, reading it waits for all."""
        return self._meters.seconds

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
            **({"keep": self._share.state_dict()} if isinstance(self.options.keep, KeepByAccuracy) else {}),
            **({} if self.named_rows is None else {"named_rows": self.named_rows.state_dict()}),
            **({} if self.source is None else {"source": self.source.state_dict()}),
            **({"reuse_trial": self.reuse_trial.state_dict()} if self.options.reuse == "auto" else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if `state` lacks an entry, naming it.
        """
        moves = 'exit_layer = "auto"' if self.options.exit_layer == "auto" else 'start_step = "auto"'
        own = {"auto": moves} if self.auto is not None else {}
        own |= {"keep": "keep by accuracy"} if isinstance(self.options.keep, KeepByAccuracy) else {}
        own |= {"named_rows": self.options.score_in_words} if self.options.scores_by_ids else {}
        own |= {"source": self.options.score_in_words} if self.source is not None else {}
        missing = {"calls", "generator", "totals", *own} - set(state)
        if missing:
            kind = " with ".join(["a Sift", *sorted({own[name] for name in missing & own.keys()})])
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}: it is not of {kind}")
        if self.auto is not None:
            self.auto.load_state_dict(state["auto"])
            present = self.auto.last if isinstance(self.auto, PayingExit) else self.auto.present
            self.exit_layer = present or self.exit_layer  # of a score that is no exit's own it stays
        if "keep" in own:
            self._share.load_state_dict(state["keep"])
        self.calls = int(state["calls"])
        self.generator.set_state(state["generator"].cpu())
        vars(self.totals).update(state["totals"])
        self._meters = Elapsed(state.get("meter_s", 0.0))
        if self.named_rows is not None and "named_rows" in state:
            self.named_rows.load_state_dict(state["named_rows"])
        if self.source is not None:
            self.source.load_state_dict(state["source"])
        self._notes.resume_log(self.step)
        if "reuse_trial" in state:
            self.reuse_trial.load_state_dict(state["reuse_trial"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.generator = torch.Generator()
        self.generator.set_state(state["generator"])
        if self.calls:
            self._notes.resume_log(self.step)
