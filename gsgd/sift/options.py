"""The options of sample selection, each written down once; the engine, the Trainer and `gsgd train` read them here."""

from __future__ import annotations

import dataclasses
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gsgd.ranges import flag, nearest, one_of, whole, within, words
from gsgd.selectors import Selector, select_top_k
from gsgd.sift.schedules.keep import KeepByAccuracy, KeepTable, read_keep
from gsgd.sift.schedules.schedule import Schedule
from gsgd.sift.score_source import ScoreSource

Score = Callable[..., Any]
"""`(logits, labels) -> (B,)` or `(logits, labels, batch) -> (B,)`, one number a row; larger is harder."""

ScoreName = Literal["loss", "entropy", "last-seen", "random"]
Level = Literal["row", "token"]
RowLosses = Callable[[Any, Mapping[str, Any]], Any]
"""`(output, batch) -> (k,)`: the losses of a batch's rows, from the model's output on it."""
ReferenceLosses = Callable[[Mapping[str, Any]], Any]
"""`(batch) -> (B, T)`: at the place of each label, the loss of it by another model."""
ScoringMode = Literal["train", "eval", "frozen-batchnorm"]
Scope = Literal["rank", "global"]
OnBadScores = Literal["raise", "drop", "keep-all", "last"]
BatchNormStatistics = Literal["kept", "gross"]
Reuse = bool | Literal["cpu", "auto"]
_WORDS = {
    **{"level": Level, "scoring_mode": ScoringMode, "scope": Scope},
    **{"on_bad_scores": OnBadScores, "batchnorm": BatchNormStatistics},
}


@dataclass(frozen=True)
class AutoExit:
    """When selection moves to another exit (`exit_layer="auto"`), and begins and ends (`start_step="auto"`).

    By what it promises (`level=None`, the default): at steps that may select, the first `first` of them and then now
    and then, the progress of all exits is measured on the step's own batch, the mean exact loss of the rows that each
    would keep over that of all; with what a step costs that makes the factor in budget that selection is expected to be
    worth (`gsgd.sift.measures.expected_factor`). Selection begins by the exit of the largest factor once that is at
    least 1 + margin, moves to another whose factor is 1 + margin times as large, and ends when its own falls below 1;
    it may begin again. A measurement decides from the next step on. Until it is known that selection pays, training is
    plain.

    By its agreement (`level` a share): the overlap of an exit is the share of the rows it keeps that exact losses would
    keep. It is measured of all exits on the first steps, which select by the last one; then of the present exit and the
    one below it, now and then. The first choice is the cheapest exit whose overlap is at least `level`, or the last
    one. From then on the exit moves by one layer: up when its overlap is below `level`, down when that of the exit
    below is at least `level + margin` (or 1). A move is decided by the mean of at least `first` measurements, and the
    step that made the last of them selects by the new exit already. Selection never ends, whether or not it pays.

    Args:
        level: share of the kept rows, in [0, 1]; None to go by the expected factor.
        every: steps that may select from one measurement to the next, at least 1. One costs about as much as scoring at
            all the exits that are looked at, and at the last.
        first: steps in a row that measure at the beginning, and with a level after every move; at least 1.
        memory: of the moving averages, in [0, 1): the weight of what was before. They are plain means until a
            measurement would weigh less than 1 - memory.
        margin: at least 0; it keeps noise from moving the exit to and fro, and selection from beginning and ending.
        costs: exit (0 for a score that is no exit's own) -> the cost of a selecting step over a plain one as it was
            measured on this machine, above 0; of others, and with None, floating point operations are counted.

    Raises:
        ValueError: for values out of range.
    """

    level: float | None = None
    every: int = 200
    first: int = 4
    memory: float = 0.75
    margin: float = 0.05
    costs: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        _set(self, "every", whole("every", self.every, least=1))
        _set(self, "first", whole("first", self.first, least=1))
        if self.level is not None:
            _set(self, "level", within("level", self.level, "lie in [0, 1]", lambda value: 0 <= value <= 1))
        if self.costs is not None:
            if not isinstance(self.costs, Mapping):
                raise ValueError(f"costs is a {type(self.costs).__name__} but must map exits to costs")
            costs = {
                whole("an exit of costs", layer, least=0): within("a cost", cost, "be above 0", lambda value: value > 0)
                for layer, cost in self.costs.items()
            }
            _set(self, "costs", costs)
        _set(self, "memory", within("memory", self.memory, "lie in [0, 1)", lambda value: 0 <= value < 1))
        _set(self, "margin", within("margin", self.margin, "be at least 0", lambda value: value >= 0))


@dataclass(frozen=True, kw_only=True)
class SiftOptions:
    """What `Sift` does to a batch; every option has a default.

    Args:
        exit_layer: 1..layers, the layer whose early prediction scores; the last is exact-loss selection (OHEM, ordered
            SGD). Of an encoder-decoder it is a layer of the decoder. "auto" moves it to the exit that promises to pay
            most, and trains plainly where none does, see `auto`; the attribute `exit_layer` of the engine is the
            present one.
        keep: share of rows to train on, in (0, 1]; max(1, round(keep * B)) rows are kept. Or a share for each step, as
            {0: 1.0, 1000: 0.5} or such pairs, each good from its step on; or a `KeepByAccuracy`, ordered SGD's rule.
            The engine's attribute `keep` is the present share. Where it changes, so do shapes: `compile` makes graphs
            anew, once a share, and where torch makes no more of them it runs operator by operator.
        level: "row", or "token" for language models (`gsgd.sift.candidates.token_level`): all rows are trained on, but
            the labels of tokens below the cut become -100, so that `keep` is the share of the batch's labelled tokens
            that count, on each rank by itself. The score of a token is its own loss or entropy. Work is saved in the
            head alone, with `labelled_head`.
        reference_losses: with level="token", `(batch) -> (B, T)`: what is taken away from the loss of each label, such
            as another model's loss of it (`gsgd.sift.ReferenceLosses`; Rho-1).
        keep_tokens: of documents packed into one row, let `keep` be the share of their tokens: the hardest documents
            whose tokens are at most so many are kept, and one at least. Documents drawn at random keep their share of
            the documents, which is that of the tokens on average.
        score: "loss" or "entropy" of the early prediction, "last-seen", the loss that a row had when it was trained on
            last, which costs no forward pass and needs the rows' ids (`gsgd.sift.sources`), "random" (the control:
            nothing is scored), or a callable `(logits, labels) -> (B,)`, or with three arguments
            `(logits, labels, batch) -> (B,)`; larger is harder. It gets labels as they stand in the batch, not shifted.
            `gsgd.scores` has more of the built-in kind. Or a `ScoreSource`, such as a small network that is trained
            beside the model (`gsgd.sift.sources`); the engine works with a copy of it, its attribute `source`.
        select: a rule of `gsgd.selectors`, or any function `(scores, k, rng) -> (k,) indices`, which are looked at: on
            a GPU every step waits for them, unless `check` is False.
        start_step: steps before it train on the whole batch; at least 0. The paper starts at 20,000. "auto" selects
            while that promises to pay, and trains on the whole batch while it does not, see `auto`.
        end_step: steps from it on train on the whole batch again; None for never.
        interrupt: `step -> bool`, True skips selection at that step; or n >= 2, which skips every n-th step.
        accumulation_steps: micro-batches per optimizer step, if the loop accumulates: the step counts those.
        scoring_mode: "train" (the paper's naive double pass, dropout on), "eval", or "frozen-batchnorm" (train, but
            BatchNorm normalises by its running statistics). None of them changes any state of the model.
        scope: "rank" selects on each rank by itself (the paper: 64 -> 32 per GPU), "global" over the batches of all
            ranks, then deals the rows out so that every rank trains on the same number. It needs batches of one shape
            on all ranks, and exchanges whole batches. Gradients are averaged over ranks as in any loop.
        labelled_head: of masked language models, run the head on labelled positions in the training pass, too: the
            same loss and gradients for less work and memory; with level="token" of causal ones as well. The output's
            logits then cover those positions only; on a GPU as many of each row, which does not wait to hear how many
            it has.
        on_bad_scores: what a NaN or infinite score does: "raise", "drop" the row, "keep-all", train on the whole batch
            (as "drop" does if no row is left), or "last", rank the row last; the latter three warn and count
            (`totals.bad_score_rows`; over all ranks if they select together). On a GPU "drop" and "keep-all" make every
            step wait for its scores. "raise" does not: the row ranks last, and the error, which names its step, comes
            at a later one, at `state_dict()` or in eval mode; nor does "last", which counts as late.
            Raising on one of several ranks ends the job, as any exception does: the others wait for it in their
            backward pass until the launcher ends them, so do not catch it there.
        score_batch_size: score at most so many rows at a time, which bounds memory; None for all at once.
        reuse: let the training pass take from the scoring pass what both compute (`gsgd.sift.shared_forward`), where
            that is exact; elsewhere two passes are made, and a warning says once why. "cpu" does so on a CPU, where it
            was measured to be quicker; "auto" times some steps with and some without, then keeps to the quicker way
            (`gsgd.sift.reuse_trial`); True and False always and never. `totals.sharing` says what became of it.
        compile: compile score, choice and training pass by torch.compile, on a GPU with CUDA graphs; a string names
            another backend than "inductor". The first steps take minutes; what cannot be compiled runs as ever, and a
            warning says so. Scoring and training then make two passes. A Trainer compiles its training pass by its own
            `torch_compile`.
        batchnorm: what BatchNorm normalises the kept rows by, up to the exit: "kept", their own statistics, where
            sharing ends at the first BatchNorm; or "gross", those of the gross batch, constants in the backward pass.
        auto: what `exit_layer="auto"` and `start_step="auto"` hold to (`AutoExit`), None for its defaults. The engine's
            attribute `auto` then has the moves, as `history`. What it measures is part of `selection_s`.
        meter_every: every so many steps that select, from the first of them on, `choose` measures on the gross batch
            how well the scores stand in for exact losses (`gsgd.sift.measures.readings`) and appends the `Reading` to
            `readings`; 0 for never. Losses last seen are measured on the rows that were seen. Weights, draws and counts
            are bit for bit those of a run without. A reading costs about a forward pass of the model and one up to the
            exit, on the gross batch; `meter_s` tells.
        check: hold the scores against the model's own losses at the first step that selects, 100 such steps later, and
            when the batch's form changes (`gsgd.sift.measures.self_check`); a difference is a ValueError. It costs
            a few passes of two rows. A callable `score` of one's own is never checked. Also whether an id always comes
            with the same class, of 1,000 ids, where labels are one class a row on the host.
        rows: names of entries of the batch that have one entry a row and that no other sign tells
            (`gsgd.sift.batches.batch`).
        label_names: the batch's entries that are labels; () for the model's usual ones (`labels`, or `start_positions`
            and `end_positions`).
        label_smoothing: of the "loss" score, in [0, 1), where the training loss is smoothed outside of the model, as
            the Trainer's `label_smoothing_factor` does.
        random_share: share of the kept rows that are drawn from those which the rule leaves, in [0, 1]; None for .25
            where losses last seen score, which must be seen again now and then, or a source that learns from the rows
            trained on alone (a proxy, a predicted loss), and 0 elsewhere.
        max_age: in steps; a loss that was last seen longer ago counts as never seen, and never seen comes first. None
            for no bound.
        id_key: of a batch's entry with the ids of its rows, whole numbers below `data_rows`; the model does not see it.
        data_rows: rows of the data set, for `score="last-seen"` and other scores by ids; 8 bytes each.
        row_losses: `(output, batch) -> (k,)`, the losses of a batch's rows from the model's output on it, where they
            are not the cross-entropy of its logits.
        log_rows: a folder for parquet files of which rows each step drew, which of them it trained on, and with what
            loss (`gsgd.sift.row_records.row_log`), for batches with ids; None for no log. Nothing waits for it in a
            step: rows are written by `Sift.write_rows`, at logs of a Trainer, by `state_dict`, in eval mode, or when
            262,144 wait. The last 16.8 million rows of each rank are kept. A run that goes on from a state has no row
            twice.
        seed: for rules that draw; ranks draw differently. At least 0.

    Raises:
        ValueError: for values out of range, naming value and rule, or that do not go together.
    """

    exit_layer: int | Literal["auto"] = 1
    keep: float | Mapping[int, float] | Sequence[tuple[int, float]] | KeepTable | KeepByAccuracy = 0.5
    level: Level = "row"
    reference_losses: ReferenceLosses | None = None
    keep_tokens: bool = False
    score: ScoreName | Score | ScoreSource = "loss"
    select: Selector = select_top_k
    start_step: int | Literal["auto"] = 0
    end_step: int | None = None
    interrupt: Callable[[int], bool] | int | None = None
    accumulation_steps: int = 1
    scoring_mode: ScoringMode = "train"
    scope: Scope = "rank"
    labelled_head: bool = False
    on_bad_scores: OnBadScores = "raise"
    score_batch_size: int | None = None
    reuse: Reuse = "cpu"
    compile: bool | str = False
    batchnorm: BatchNormStatistics = "kept"
    auto: AutoExit | None = None
    meter_every: int = 0
    check: bool = True
    rows: Sequence[str] = ()
    label_names: Sequence[str] = ()
    label_smoothing: float = 0.0
    random_share: float | None = None
    max_age: int | None = None
    id_key: str = "id"
    data_rows: int | None = None
    row_losses: RowLosses | None = None
    log_rows: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._take_numbers()
        score_names = get_args(ScoreName)
        known = isinstance(self.score, str) and self.score in score_names
        if not known and not callable(self.score) and not isinstance(self.score, ScoreSource):
            raise ValueError(
                f'score = {self.score!r} must be "loss", "entropy", "last-seen", "random" or a callable '
                "(logits, labels), or a source (gsgd.sift.sources)"
                f"{nearest(self.score, score_names)}"
            )
        if not callable(self.select):
            raise ValueError(
                f"select = {self.select!r} must be callable, (scores, k, rng) -> (k,) indices, such as "
                "gsgd.selectors.select_top_k"
            )
        for name, kind in _WORDS.items():
            one_of(name, getattr(self, name), get_args(kind))
        if not isinstance(self.auto, (AutoExit, type(None))):
            raise ValueError(f"auto is a {type(self.auto).__name__} but must be an AutoExit")
        self._check_combinations()

    def _take_numbers(self) -> None:
        """Replace numbers of NumPy and the like by Python's own, and lists by tuples."""
        layer: Any = self.exit_layer
        if not isinstance(layer, str) or layer != "auto":
            if not isinstance(layer, numbers.Integral) or isinstance(layer, bool) or layer < 1:
                raise ValueError(f'exit_layer = {layer!r} must be a whole number in 1..layers, or "auto"')
            _set(self, "exit_layer", int(layer))
        _set(self, "keep", read_keep(self.keep))
        smoothing = within("label_smoothing", self.label_smoothing, "lie in [0, 1)", lambda value: 0 <= value < 1)
        _set(self, "label_smoothing", smoothing)
        for name, value in vars(self.schedule).items():
            if name != "start_step" or not self.starts_by_itself:
                _set(self, name, value)
        for name, least in (("accumulation_steps", 1), ("meter_every", 0), ("seed", 0)):
            _set(self, name, whole(name, getattr(self, name), least=least))
        if self.seed >= 2**63:
            raise ValueError(f"seed = {self.seed!r} must be below 2^63")
        for name in ("labelled_head", "check", "keep_tokens"):
            _set(self, name, flag(name, getattr(self, name)))
        if not isinstance(self.reuse, str) or self.reuse not in ("cpu", "auto"):
            _set(self, "reuse", flag("reuse", self.reuse, f', "cpu" or "auto"{nearest(self.reuse, ("cpu", "auto"))}'))
        if not isinstance(self.compile, str) or not self.compile.strip():
            _set(self, "compile", flag("compile", self.compile, ", or name a backend of torch.compile"))
        if self.random_share is not None:
            share = within("random_share", self.random_share, "lie in [0, 1]", lambda value: 0 <= value <= 1)
            _set(self, "random_share", share)
        for name in ("score_batch_size", "max_age", "data_rows"):
            if getattr(self, name) is not None:
                _set(self, name, whole(name, getattr(self, name), least=1))
        if not isinstance(self.id_key, str) or not self.id_key:
            raise ValueError(f"id_key = {self.id_key!r} must be the name of an entry of the batch")
        if self.row_losses is not None and not callable(self.row_losses):
            raise ValueError(f"row_losses = {self.row_losses!r} must be callable, (output, batch) -> (k,)")
        if self.reference_losses is not None and not callable(self.reference_losses):
            raise ValueError(f"reference_losses = {self.reference_losses!r} must be callable, (batch) -> (B, T)")
        if self.log_rows is not None:
            if not isinstance(self.log_rows, (str, os.PathLike)) or not os.fspath(self.log_rows):
                raise ValueError(f"log_rows = {self.log_rows!r} must be the path of a folder")
            _set(self, "log_rows", os.fspath(self.log_rows))
        for name in ("rows", "label_names"):
            _set(self, name, words(name, getattr(self, name)))

    @property
    def starts_by_itself(self) -> bool:
        """Whether selection begins and ends by what it promises."""
        start: Any = self.start_step
        return isinstance(start, str) and start == "auto"

    @property
    def goes_by_factor(self) -> bool:
        """Whether it is measured if selection promises to pay."""
        by_level = self.auto is not None and self.auto.level is not None
        return self.starts_by_itself or (self.exit_layer == "auto" and not by_level)

    @property
    def schedule(self) -> Schedule:
        """At which steps selection may happen.

        Raises:
            ValueError: for values out of range.
        """
        start: Any = 0 if self.starts_by_itself else self.start_step
        return Schedule(start, self.end_step, self.interrupt)

    @property
    def source(self) -> ScoreSource | None:
        """The score, if it is a source."""
        return self.score if isinstance(self.score, ScoreSource) else None

    @property
    def score_in_words(self) -> str:
        """Which score it is, as messages name it."""
        return f"score = {type(self.score).__name__}" if self.source else f'score = "{self.score}"'

    @property
    def scores_by_forward(self) -> bool:
        """Whether the model's forward pass up to an exit scores the gross batch."""
        return self.score not in ("last-seen", "random") and (self.source is None or self.source.by_exit)

    @property
    def scores_by_ids(self) -> bool:
        """Whether scores are made of what is known of a row by its id."""
        return self.score == "last-seen" or (self.source is not None and self.source.needs_ids)

    @property
    def needs_ids(self) -> bool:
        """Whether batches must carry ids."""
        return self.scores_by_ids or self.log_rows is not None

    @property
    def ids_needed_for(self) -> str:
        """What needs them, as messages name it."""
        return self.score_in_words if self.scores_by_ids else "log_rows"

    def _check_data_rows(self) -> None:
        if self.scores_by_ids and self.data_rows is None:
            raise ValueError(f"{self.score_in_words} needs data_rows, the number of rows of the data set: len(data)")

    def _check_combinations(self) -> None:
        self._check_data_rows()
        if self.score != "last-seen" and self.max_age is not None:
            raise ValueError(f'max_age is for score = "last-seen", but {self.score_in_words}')
        if self.reference_losses is not None and (self.level != "token" or self.score != "loss"):
            raise ValueError(
                f'reference_losses is for level = "token" with score = "loss", but level = {self.level!r} and '
                f"{self.score_in_words}"
            )
        if self.batchnorm == "gross":
            of_exit = self.scores_by_forward and not (self.source is not None and self.source.own_input)
            if not of_exit or self.scoring_mode != "train" or self.scope == "global":
                raise ValueError(
                    'batchnorm = "gross" needs a scoring pass that normalises by the batch that rows are kept of: '
                    f'score = {self.score!r} must not be "random" or "last-seen", but of an exit, scoring_mode = '
                    f'{self.scoring_mode!r} must be "train", and scope = {self.scope!r} must be "rank"'
                )
            if self.score_batch_size is not None:
                raise ValueError(
                    'batchnorm = "gross" needs the gross batch scored at once: '
                    f"score_batch_size = {self.score_batch_size!r}"
                )
        if self.source is not None and self.source.by_features and self.compile:
            raise ValueError(
                f"compile = {self.compile!r} does not go with {self.score_in_words}, which reads what a head is given: "
                "a compiled pass does not tell"
            )
        if self.batchnorm == "gross" and self.compile:
            raise ValueError(
                f'compile = {self.compile!r} does not go with batchnorm = "gross", whose statistics no graph hands on'
            )
        if self.meter_every and self.score == "random":
            raise ValueError(
                f"meter_every = {self.meter_every}, but {self.score_in_words} has no early prediction to measure: set "
                "it to 0"
            )
        if self.exit_layer != "auto" and not self.starts_by_itself and self.auto is not None:
            raise ValueError(
                f'auto is for exit_layer = "auto" or start_step = "auto", but exit_layer = {self.exit_layer!r} and '
                f"start_step = {self.start_step!r}"
            )
        if self.exit_layer == "auto" and (self.source is not None or not self.scores_by_forward):
            raise ValueError(f'exit_layer = "auto" needs exits that score: {self.score_in_words} takes none as it is')
        if self.starts_by_itself:
            self._check_own_start()

    def _check_own_start(self) -> None:
        if self.auto is not None and self.auto.level is not None:
            raise ValueError(
                f'start_step = "auto" goes by what selection promises, but auto has level = {self.auto.level}: an '
                "agreement, which says nothing of costs"
            )
        if self.score == "random":
            raise ValueError('start_step = "auto" needs scores: score = "random" promises nothing')
        if self.source is not None and self.source.learns_by_scoring:
            raise ValueError(
                f'start_step = "auto" does not go with {self.score_in_words}, which learns at steps that select alone: '
                "before it has selected it promises nothing"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SiftOptions:
        """The options of these names and values.

        Raises:
            ValueError: for a name that is no option, with the nearest one.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in names:
                raise ValueError(f"{name!r} is no option{nearest(name, names)}; there are: {', '.join(names)}")
        return cls(**options)

    @classmethod
    def help(cls) -> dict[str, str]:
        """What the docstring says of each option, by name, on one line."""
        arguments = (SiftOptions.__doc__ or "").split("Args:")[1].split("Raises:")[0]
        entries = re.split(r"^ {8}(?=\w+: )", arguments, flags=re.MULTILINE)[1:]
        named = (entry.split(": ", 1) for entry in entries)
        return {name: " ".join(text.split()) for name, text in named}


def _set(options: Any, name: str, value: Any) -> None:
    object.__setattr__(options, name, value)  # they are frozen for everybody else
