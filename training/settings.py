"""The settings of a training run that do not depend on what is trained."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass
from torch import nn

from gsgd.ranges import within
from gsgd.selectors import (
    Selector,
    select_online_batch,
    select_selective_backprop,
    select_top_k,
    trim,
)
from gsgd.sift.choice import LAST_SEEN_RANDOM_SHARE
from gsgd.sift.options import AutoExit, Reuse, SiftOptions
from gsgd.sift.schedules.keep import KeepByAccuracy, KeepTable
from training.budget import UNITS, StepCosts, parse_budget, steps_within
from training.keys import (
    AboveZero,
    AtLeastZero,
    Natural,
    Number,
    Positive,
    Seconds,
    Share,
    ShareBelowOne,
    Trackers,
    Whole,
    engines,
    key,
)
from training.methods import BALANCED, PREDICTED, PROXY, SAMPLED, WEIGHTED, engine_score, parse_cheaper, parse_method

SELECTORS: dict[str, Selector] = {
    "top-k": select_top_k,
    "online-batch": select_online_batch,
    "selective-backprop": select_selective_backprop,
}
NO_SETTING = (
    *("interrupt", "rows", "label_names", "label_smoothing", "id_key", "row_losses"),
    *("keep_tokens", "level", "reference_losses"),
)
"""Options that our tasks have no use for: rows and labels have the usual names, losses are plain, nothing is packed,
and methods choose rows."""


def parse_keep_schedule(text: str) -> KeepTable | KeepByAccuracy | None:
    """The shares that `text` names; None for the empty one.

    Raises:
        ValueError: if it names none.
    """
    if not text:
        return None
    if text == "accuracy":
        return KeepByAccuracy()
    try:
        pairs = [(int(step), float(share)) for step, share in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise ValueError(
            f'keep_schedule = {text!r} must be steps with shares, such as "0:1.0,1000:0.5", or "accuracy"'
        ) from None
    return KeepTable(tuple(pairs))


@dataclass(frozen=True)
class TrainingSettings:
    """Selection, optimizer, length and habits of a run.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    method: str = key(
        "baseline",
        "baseline, random, last-seen (the loss that a row had when it was trained on last), or SCORE@LAYER such as "
        "loss@1, entropy@last or loss@auto; corrected@LAYER (an exit's loss, with the error that it had for the row "
        "when that was trained on last), probe@LAYER (the losses of a linear classifier on an exit's features, trained "
        "on all rows that are scored) and predicted@LAYER (a head on those features that predicts exact losses), of "
        "rows with one class each; proxy (the losses of a small network that is trained beside the model, on "
        "images); infobatch or importance (rows are chosen by losses last seen before they are read, and weighted "
        "without bias); or the controls class-balanced (at random, evenly over classes), focal and loss-power (all "
        "rows, the harder the more)",
    )
    keep: Number = engines("keep")
    keep_schedule: str = key(
        "",
        'in place of `keep`, shares by steps, as "0:1.0,1000:0.5", each good from its step on, or "accuracy", the rule '
        "of ordered SGD (arXiv:1907.04371): all rows, then a half, a quarter, an eighth, a sixteenth of them from "
        "training accuracies of 80, 90, 95, 99.5% on. Costs change with it: budget in steps, samples or epochs",
    )
    draw: Natural = key(
        0,
        "rows drawn, per device and step, whether it selects or not: a selecting step trains on `keep` of them, any "
        "other on all, and `batch_size` says nothing; 0 to train on `batch_size` rows in either and to draw more where "
        "a step selects",
    )
    select: Literal["top-k", "online-batch", "selective-backprop"] = key(
        "top-k", "the rule that turns scores into rows: top-k (SIFT), online-batch or selective-backprop (peers')"
    )
    trim: ShareBelowOne = key(0.0, "share of the largest scores to leave out first, in [0, 1)")
    random_share: Share = key(
        LAST_SEEN_RANDOM_SHARE,
        "of the kept rows, drawn among those that last-seen, proxy or predicted@LAYER leaves, in [0, 1]",
    )
    max_age: Natural = key(0, "steps after which a last-seen loss counts as never seen; 0 for no bound")
    cheaper: str = key(
        "",
        "what a method loss@LAYER scores in place of the batch: poolN (pictures as means over squares of N pixels a "
        "side), firstN (the first N tokens of each row), bf16 (the batch, in autocast); empty for the batch itself",
    )
    proxy_lr: AboveZero = key(
        1e-3,
        "of AdamW, of the network of method proxy; it stays. A step before selection begins trains that network, too, "
        "and is charged as one that selects, an upper bound",
    )
    head_lr: AboveZero = key(1e-2, "of AdamW, of the head of methods probe@LAYER and predicted@LAYER; it stays")
    prune: ShareBelowOne = key(
        0.5,
        "share of the rows below the mean loss that infobatch leaves out of an epoch, in [0, 1); none in a run's last "
        "eighth",
    )
    uniform_share: AboveZero = key(
        0.25,
        "of importance, e in (0, 1]: rows are drawn by (1 - e) loss + e mean loss, so that no weight exceeds 1 / e",
    )
    focal_gamma: AtLeastZero = key(2.0, "of focal: a loss is multiplied by (1 - p)^gamma, p of the right class")
    loss_power: AtLeastZero = key(1.0, "of loss-power, a: a loss is multiplied by loss^a")
    start_step: Natural | Literal["auto"] = engines("start_step")
    end_step: Natural = key(0, "steps from it on train on the whole batch again; 0 for never")
    start_share: Share = key(0.0, "start_step as a share of the run, in [0, 1]")
    end_share: Share = key(1.0, "end_step as a share of the run, in [0, 1]")
    scoring_mode: str = engines("scoring_mode")
    scope: str = engines("scope")
    score_batch_size: Natural = key(0, "score at most so many rows at a time, which bounds memory; 0 for all at once")
    labelled_head: bool = engines("labelled_head")
    reuse: Reuse = engines("reuse")
    batchnorm: str = engines("batchnorm")
    check: bool = engines("check")
    auto_level: Share = key(
        0.0,
        "`level` of `gsgd.sift.AutoExit`, for methods @auto; 0 to go by the factor that each exit promises, and to "
        "train plainly while none does. A budget of time or work charges every step of theirs the cost of the last "
        'exit, and with `start_step = "auto"` that of a step that selects, upper bounds; `wall_clock_s` and '
        "`selection_s` have all",
    )
    auto_every: Positive = key(
        AutoExit.every,
        '`every` of `gsgd.sift.AutoExit`, also with `start_step = "auto"`. Re-measuring, the time of about two steps '
        "in `auto_every`, is not charged",
    )
    batch_size: Positive = key(
        32, "rows trained on, per device and step; with selection, round(batch_size / keep) are drawn"
    )
    accumulation_steps: Positive = key(
        SiftOptions.accumulation_steps, "micro-batches of `batch_size` in one optimizer step"
    )
    budget: str = key("1epochs", "how long the run is: a number of " + ", ".join(UNITS))
    max_lr: AboveZero = key(1e-3, "of AdamW, the largest learning rate of the schedule")
    weight_decay: AtLeastZero = key(0.01, "of AdamW")
    decay_all: bool = key(False, "weight decay on all parameters; otherwise on matrices only, not on biases and norms")
    beta1: ShareBelowOne = key(0.9, "of AdamW")
    beta2: ShareBelowOne = key(0.999, "of AdamW")
    eps: AboveZero = key(1e-8, "of AdamW")
    schedule: Literal["one-cycle", "linear", "constant"] = key(
        "linear",
        "one-cycle (Smith & Topin, torch's defaults), linear (warmup, then linear decay) or constant (after the same "
        "warmup); the first two reach their end with the run",
    )
    warmup_share: Share = key(0.0, 'of the run, for "linear" and "constant"')
    cycle_momentum: bool = key(True, "whether one-cycle moves beta1 between 0.85 and 0.95, as torch does by default")
    clip_norm: AtLeastZero = key(0.0, "largest norm of the gradient; 0 for no limit")
    precision: Literal["no", "bf16", "fp16"] = key("no", "of autocast")
    channels_last: bool = key(False, "lay images and convolutions out with the channels last: faster on most machines")
    compile: bool = engines("compile")
    seed: Whole = key(
        SiftOptions.seed,
        "initial weights, order of the data, augmentation, masking, dropout and rules that draw",
    )
    evaluations: Positive = key(10, "times to evaluate, evenly over the run; the last at its end")
    evaluation_batch_size: Positive = key(256, "rows at a time in evaluation")
    checkpoint_every_s: Seconds = key(
        600.0, "a checkpoint is written at evaluations and on Ctrl-C, and when this many seconds went by"
    )
    quality_batches: Natural = key(
        0,
        "gross batches on which the scores are compared with exact losses at every evaluation, both in `scoring_mode`; "
        "0 for none. It is not charged to the run",
    )
    meter_every: Natural = key(
        SiftOptions.meter_every,
        "every so many selecting steps the scores are compared with exact losses on the step's own gross batch, and "
        "`meters.csv` gets a row; 0 for never. It changes nothing that is trained. It is part of `wall_clock_s`, but "
        "neither of `selection_s` nor of the costs that a budget of time is kept by",
    )
    log_rows: bool = key(
        False,
        "write which rows each step drew, which of them it trained on, and with what loss, as parquet in the folder "
        "`rows` of the results, a file a rank and so many rows; `gsgd report` shows them. The engine's `log_rows`",
    )
    tensorboard: bool = key(True, "write events for TensorBoard")
    trackers: Trackers = key(
        (),
        "where scalars go beside TensorBoard, as accelerate knows it: wandb, mlflow, trackio, each of which is to be "
        "installed. They stay on this machine, beside the folder of the run, unless WANDB_MODE, MLFLOW_TRACKING_URI "
        "or TRACKIO_SPACE_ID says otherwise",
    )
    test: bool = key(False, "evaluate on the test split, too, once, when the run has ended")
    save_model: bool = key(True, "write the trained model beside the results")
    label: str = key("", "what tables and figures call the method; empty for its own name")

    def __post_init__(self) -> None:
        parse_method(self.method)
        parse_cheaper(self.cheaper)
        parse_budget(self.budget)
        parse_keep_schedule(self.keep_schedule)
        # What the engine will be told, so that it refuses nothing later that can be refused now.
        self.sift_options(total_steps=1, exits=1, train_size=1)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.draw and self.selects and not self.keep_schedule and self.kept_size == self.draw:
            raise ValueError(f"draw = {self.draw} with keep = {self.keep:g} keeps every row: lower keep, or draw more")
        if self.selects and not self.draw and self.gross_size == self.batch_size:
            raise ValueError(
                f"method = {self.method!r} with keep = {self.keep:g} and batch_size = {self.batch_size} keeps every "
                "row: lower keep, or take the baseline"
            )
        if self.method in (*WEIGHTED, *SAMPLED) and self.labelled_head:
            raise ValueError(
                f"method = {self.method!r} weights all labels' losses, but labelled_head has a head that sees some: "
                "set it to false"
            )
        if self.cheaper and self.scores_rows and parse_method(self.method).score != "loss":
            raise ValueError(f"cheaper = {self.cheaper!r} is for methods loss@LAYER, but method = {self.method!r}")
        if self.method == PROXY and self.draw and (self.start_step or self.start_share):
            raise ValueError(
                f"draw = {self.draw} with method = {PROXY!r}, which trains before it selects: what those steps cost "
                "is not known, so begin at step 0, or set batch_size in place of draw"
            )
        if self.method in SAMPLED and self.draw:
            raise ValueError(f"draw = {self.draw} is not for method = {self.method!r}, which draws by itself")
        within("uniform_share", self.uniform_share, "lie in (0, 1]", lambda share: share <= 1)
        if self.start_step and self.start_share:
            raise ValueError(f"start_step = {self.start_step} and start_share = {self.start_share:g}: give one of them")
        if self.end_step and self.end_share < 1:
            raise ValueError(f"end_step = {self.end_step} and end_share = {self.end_share:g}: give one of them")
        if self.end_step and isinstance(self.start_step, int) and self.end_step < self.start_step:
            raise ValueError(f"end_step = {self.end_step} must be at least start_step = {self.start_step}")
        if self.end_share < self.start_share:
            raise ValueError(f"end_share = {self.end_share:g} must be at least start_share = {self.start_share:g}")
        unit = parse_budget(self.budget).unit
        countable = ("steps",) if self.draw else ("steps", "samples", "epochs")
        if self.selects and self.keep_schedule and unit not in countable:
            raise ValueError(
                f"budget = {self.budget!r} with keep_schedule = {self.keep_schedule!r}"
                f"{f' and draw = {self.draw}' if self.draw else ''}: what a step costs changes along the run, so give "
                f"the budget in {' or '.join(countable)}"
            )
        # As gsgd.selectors.trim counts.
        trimmed = math.floor(self.trim * self.gross_size + 1e-9)
        if self.trim and self.scores_gross_batches and self.gross_size - trimmed < self.kept_size:
            raise ValueError(
                f"trim = {self.trim:g} and keep = {self.keep:g}: together they may not be more than 1, "
                "since what is trimmed cannot be kept"
            )

    @property
    def selects(self) -> bool:
        """Whether any step may select."""
        return self.method not in ("baseline", *WEIGHTED, *SAMPLED)

    @property
    def scores_rows(self) -> bool:
        """Whether an early prediction scores."""
        return self.selects and self.method not in ("random", "last-seen", BALANCED, PROXY)

    @property
    def scores_gross_batches(self) -> bool:
        """Whether a forward pass scores, of the model or of another network; losses last seen are there already."""
        return self.scores_rows or self.method == PROXY

    @property
    def measures_scores(self) -> bool:
        """Whether there are scores to hold against exact losses."""
        return self.scores_gross_batches or self.method == "last-seen"

    @property
    def plain_size(self) -> int:
        """Rows of a step that does not select, per device and micro-batch."""
        return self.draw or self.batch_size

    @property
    def kept_size(self) -> int:
        """Rows that a selecting step trains on, per device and micro-batch, where `keep` is a number."""
        return max(1, round(self.keep * self.draw)) if self.draw and self.selects else self.plain_size

    @property
    def gross_size(self) -> int:
        """Rows of a gross batch, per device and micro-batch; where shares change, of the largest."""
        if not self.selects:
            return self.plain_size
        schedule = parse_keep_schedule(self.keep_schedule)
        if isinstance(schedule, KeepTable):
            return max(self.drawn_at(share) for _, share in schedule.shares)
        return self.drawn_at(self.keep if schedule is None else schedule.least)

    def drawn_at(self, share: float) -> int:
        """Rows that a selecting step draws when it keeps this share of them, per device and micro-batch."""
        return self.draw or round(self.batch_size / share)

    def first_and_last(self, total_steps: int) -> tuple[int, int]:
        """(first step that selects, first that does not any more) of a run of so many steps."""
        if not self.selects:
            return total_steps, total_steps
        start = 0 if self.start_step == "auto" else self.start_step or round(self.start_share * total_steps)
        end = self.end_step or round(self.end_share * total_steps)
        return min(start, total_steps), max(min(end, total_steps), min(start, total_steps))

    @property
    def may_pause(self) -> bool:
        """Whether selection begins and ends by what it promises, so that only the run tells which steps select."""
        by_factor = parse_method(self.method).auto and not self.auto_level
        return self.selects and (self.start_step == "auto" or by_factor)

    def selecting_steps(self, total_steps: int) -> int:
        """How many of `total_steps` steps select."""
        first, last = self.first_and_last(total_steps)
        return last - first

    def dearer_steps(self, total_steps: int, done: int | None = None) -> int:
        """How many of a run's first `done` steps, by default of all, cost as much as a step with selection.

        A method that weights losses or samples rows does so at every step, and is charged for it; so is a proxy until
        selection ends, since it is trained before that begins.
        """
        done = total_steps if done is None else done
        if self.method in (*WEIGHTED, *SAMPLED):
            return done
        first, last = self.first_and_last(total_steps)
        return min(done, last) - (0 if self.method == PROXY else min(done, first))

    def evaluated_after(self, total_steps: int) -> list[int]:
        """The steps after which a run of so many is evaluated, ascending."""
        return sorted({max(1, round(total_steps * part / self.evaluations)) for part in range(1, self.evaluations + 1)})

    def metered_at(self, total_steps: int) -> range | None:
        """The steps at which a run of so many reads its meters; None where only the run tells."""
        if self.may_pause:
            return None
        metered = self.meter_every and self.measures_scores
        return range(*self.first_and_last(total_steps), self.meter_every) if metered else range(0)

    def steps_within_budget(self, train_size: int, ranks: int, costs: StepCosts | None) -> int:
        """Optimizer steps that the budget pays for, see `training.budget.steps_within`."""
        return steps_within(
            parse_budget(self.budget),
            samples_per_step=self.plain_size * self.accumulation_steps * ranks,
            train_size=train_size,
            costs=costs,
            dearer_steps=self.dearer_steps,
            drawn_per_step=self.gross_size * self.accumulation_steps * ranks,
            samples_per_selecting_step=self.kept_size * self.accumulation_steps * ranks,
        )

    def sift_options(
        self,
        total_steps: int,
        exits: int,
        train_size: int,
        row_log: Path | None = None,
        proxy: nn.Module | None = None,
    ) -> SiftOptions:
        """The engine's options for a run of so many steps, of a model with so many exits, on so many rows.

        Args:
            row_log: folder of the log of rows, where this run keeps one.
            proxy: the network of method "proxy".

        Each is the setting of its name, or made here from others, or one of `NO_SETTING`.

        Raises:
            ValueError: for values out of range, or that do not go together.
        """
        method = parse_method(self.method)
        first, last = self.first_and_last(total_steps)
        made: dict[str, Any] = {
            "keep": parse_keep_schedule(self.keep_schedule) or self.keep,
            "exit_layer": "auto" if method.auto else method.exit_layer or exits,
            "auto": self._auto(),
            "score": engine_score(self.method, self.cheaper, proxy, self.proxy_lr, self.head_lr),
            "select": self.rule(),
            "start_step": "auto" if self.selects and self.start_step == "auto" else first,
            "end_step": last,
            # Nothing scores for the baseline, and nothing selects: it is the same whatever this is.
            "batchnorm": "kept" if self.batchnorm == "gross" and not self.selects else self.batchnorm,
            "score_batch_size": self.score_batch_size or None,
            "random_share": self.random_share if method.score in ("last-seen", PREDICTED, PROXY) else None,
            "max_age": self.max_age or None if method.score == "last-seen" else None,
            "data_rows": train_size,
            "log_rows": row_log if self.log_rows else None,
            "meter_every": self.meter_every if self.measures_scores else 0,
            # Scores that are not finite are a run that diverges, which shows in its loss.
            "on_bad_scores": "last",
        }
        left = [each.name for each in dataclasses.fields(SiftOptions) if each.name not in (*made, *NO_SETTING)]
        return SiftOptions.of({**{name: getattr(self, name) for name in left}, **made})

    def _auto(self) -> AutoExit | None:
        if parse_method(self.method).auto:
            return AutoExit(level=self.auto_level or None, every=self.auto_every)
        return AutoExit(every=self.auto_every) if self.selects and self.start_step == "auto" else None

    def rule(self) -> Selector:
        """The selector: `select` on what `trim` leaves."""
        if not self.trim:
            return SELECTORS[self.select]
        return functools.partial(trim, share=self.trim, select=SELECTORS[self.select])
