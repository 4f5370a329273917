"""Whether selection can help a model, and at which exit: agreement with exact losses, cost and direction of a step.

diagnosis = sift.diagnose(batches)      # 16 gross batches, say
print(diagnosis)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gsgd.intervals import Column, fieller, mean_half_width, median_interval
from gsgd.ranges import whole, within
from gsgd.sift.exits import check_exit_layer
from gsgd.sift.measures.readings import Reading, read_batch
from gsgd.sift.measures.step_trials import Engine, StepTrials, left_alone
from gsgd.sift.models.wrappers import is_sharded, unwrap
from gsgd.sift.options import Reuse, SiftOptions
from gsgd.sift.ranks import Ranks
from gsgd.sift.scorer import Scorer

ERROR = 0.05
"""Probability that an interval misses what it is about."""
PAYS, DOES_NOT_PAY, UNDECIDED = "pays", "does not pay", "undecided"
_NUMBERS = tuple(field.name for field in dataclasses.fields(Reading) if field.name not in ("step", "exit_layer"))


@dataclass(frozen=True)
class ExitDiagnosis:
    """What the batches say about one exit.

    Attributes:
        exit_layer: which one.
        readings: one for each batch.
        means: means over batches of the readings' numbers, by name, without the batches where one is NaN.
        overlap_half_width, rho_approx_half_width: of the means' 95% intervals (t over batches).
        cost: seconds that a step on selected rows takes above a plain step on as many rows, as a share of it; a step
            is forward and backward pass, with what the engine shares between scoring and training, and no optimizer.
            The median over pairs of batches.
        cost_low, cost_high: the median's 95% interval (order statistics; of fewer than six pairs, their range).
        alignment: cosine of the gradient on the selected rows with the gradient of another batch; mean over pairs.
        random_alignment: the same for as many rows drawn at random.
        gain: alignment / random_alignment: to first order, how much further a step of a given length along the
            gradient on selected rows brings the loss of other rows down.
        gain_low, gain_high: its interval (see `fieller`), with 95% for all exits of the diagnosis at once.
    """

    exit_layer: int
    readings: tuple[Reading, ...]
    means: dict[str, float]
    overlap_half_width: float
    rho_approx_half_width: float
    cost: float
    cost_low: float
    cost_high: float
    alignment: float
    random_alignment: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def break_even(self) -> float:
        """How many times fewer steps training must need for selection to save time: 1 + cost."""
        return 1 + self.cost

    @property
    def worth(self) -> float:
        """gain / break_even: how many times as far as plain steps selected ones bring training in the same time."""
        return self.gain / self.break_even

    @property
    def worth_low(self) -> float:
        """The least gain at the cost, within its interval, that makes least of it."""
        return min(self.gain_low / (1 + cost) for cost in (self.cost_low, self.cost_high))

    @property
    def worth_high(self) -> float:
        """The largest gain at the cost that makes most of it."""
        return max(self.gain_high / (1 + cost) for cost in (self.cost_low, self.cost_high))


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        exits: one for each exit, the first exit first.
        batches, pairs: gross batches that were read, and pairs of them whose gradients were compared.
        plain_s: median seconds of a plain step.
        level: of `cheapest`.
        cheapest: the first of the exits whose mean overlap is at least `level`; None if that is none but the last.
        recommended: the exit of the largest worth among those whose worth is above 1 throughout its interval, or None.
        verdict: "pays" (an exit is recommended), "does not pay" (the worth of every exit is below 1 throughout its
            interval) or "undecided".
        reason: the verdict in a sentence.
    """

    exits: tuple[ExitDiagnosis, ...]
    batches: int
    pairs: int
    plain_s: float
    level: float
    cheapest: int | None
    recommended: int | None
    verdict: str
    reason: str

    def __str__(self) -> str:
        """A table, one row an exit, and the reason."""
        heads = ("exit", "overlap", "sigma", "rho", "rho approx", "cost", "aligned", "random", "gain", "worth")
        rows = [heads, *(_cells(each) for each in self.exits)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, self.reason])


def diagnose(
    scorer: Scorer,
    batches: Iterable[Mapping[str, Any]],
    *,
    engine_at: Callable[[int], Engine],
    exits: Sequence[int] | None = None,
    level: float = 0.75,
    draws: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Diagnosis:
    """What selection at each exit costs and brings, for the model as it is now.

    Batches are taken in pairs. The gradient on the first of a pair is the direction in which the loss falls; the steps
    on the second, with rows selected at each exit and with as many drawn at random, are timed and judged by it. Pairs
    are independent if batches are, so intervals are over pairs. Gradients are those of training: with dropout, by the
    engine's own rule, through what it shares. The model is left as it was: weights and their `.grad`, buffers, modes,
    torch's generators, and the engine.

    What this does not see: it is about one step from the present weights, not about where many of them lead.

    Args:
        scorer: of the model, with a score.
        batches: gross batches, on the model's device, of the same kind as in training; at least 2, and
            16 or more for narrow intervals. One that is left without a pair is read only.
        engine_at: an engine for each exit that selects by it at every step; `Sift.diagnose` gives its own.
        exits: 1..layers, in any order; None for all.
        level: of `Diagnosis.cheapest`, in [0, 1].
        draws: random sets of rows to step on, of each pair; at least 1.
        seed: of these draws and of dropout.
        progress: told (pairs done, all pairs).

    Raises:
        ValueError: if the engine scores nothing or keeps every row, on several ranks or with FSDP, for a model without
            loss or weights that train, and for arguments out of range.
    """
    batches = list(batches)
    parameters = [parameter for parameter in scorer.model.parameters() if parameter.requires_grad]
    _check(scorer, batches, parameters, level, draws)
    last = scorer.exits
    wanted = sorted({check_exit_layer(layer, last) for layer in (range(1, last + 1) if exits is None else exits)})
    if not wanted:
        raise ValueError(f"exits = {exits!r} must have at least one of 1..{last}")
    pairs = list(zip(batches[::2], batches[1::2], strict=False))
    with left_alone(scorer.model, seed):
        trials = StepTrials(engine_at, wanted, parameters, draws, seed)
        readings = [read_batch(scorer, batch, exits=wanted) for batch in batches]
        trials.judge(*pairs[0])  # the first steps are slower: they warm up
        found = []
        for number, pair in enumerate(pairs, start=1):
            found.append(trials.judge(*pair))
            progress(number, len(pairs))
    plain = np.array([each.plain_s for each in found])
    random = np.array([each.random for each in found])
    by_exit = []
    for place, layer in enumerate(wanted):
        ratios = np.array([each.selecting_s[place] for each in found]) / plain
        aligned = np.array([each.aligned[place] for each in found])
        own = tuple(row[place] for row in readings)
        known = {name: _known(own, name) for name in _NUMBERS}
        cost, cost_low, cost_high = (value - 1 for value in median_interval(ratios))
        gain, gain_low, gain_high = fieller(aligned, random, error=ERROR / len(wanted))
        by_exit.append(
            ExitDiagnosis(
                exit_layer=layer,
                readings=own,
                means={name: float(values.mean()) if len(values) else math.nan for name, values in known.items()},
                overlap_half_width=mean_half_width(known["overlap"]),
                rho_approx_half_width=mean_half_width(known["rho_approx"]),
                cost=cost,
                cost_low=cost_low,
                cost_high=cost_high,
                alignment=float(aligned.mean()),
                random_alignment=float(random.mean()),
                gain=gain,
                gain_low=gain_low,
                gain_high=gain_high,
            )
        )
    holds = [each.exit_layer for each in by_exit if each.means["overlap"] >= level and each.exit_layer < last]
    verdict, recommended, reason = _judged(by_exit)
    return Diagnosis(
        exits=tuple(by_exit),
        batches=len(batches),
        pairs=len(pairs),
        plain_s=float(np.median(plain)),
        level=level,
        cheapest=min(holds, default=None),
        recommended=recommended,
        verdict=verdict,
        reason=reason,
    )


def always_selecting(options: SiftOptions, *, exit_layer: int, keep: float, reuse: Reuse) -> SiftOptions:
    """The options of an engine whose every step selects at one exit, and does nothing beside."""
    return dataclasses.replace(
        options,
        exit_layer=exit_layer,
        keep=keep,
        reuse=reuse,
        auto=None,
        meter_every=0,
        start_step=0,
        end_step=None,
        interrupt=None,
        accumulation_steps=1,
        check=False,
        log_rows=None,
    )


def _known(readings: Sequence[Reading], name: str) -> Column:
    """The readings' numbers of this name that are defined."""
    values = np.array([getattr(reading, name) for reading in readings], dtype=np.float64)
    return values[~np.isnan(values)]


def _judged(exits: Sequence[ExitDiagnosis]) -> tuple[str, int | None, str]:
    """(verdict, recommended exit, reason)."""
    known = [each for each in exits if not math.isnan(each.worth)]
    if not known:
        reason = (
            "Not decided by these batches: not even a step on random rows points where another batch's loss falls "
            f"(cosine {exits[0].random_alignment:.2g}). Take more or larger batches."
        )
        return UNDECIDED, None, reason
    paying = [each for each in known if each.worth_low > 1]
    best = max(paying or known, key=lambda each: each.worth)
    numbers = (
        f"steps go {best.gain:.2f} ({_range(best.gain_low, best.gain_high)}) times as far as those on random rows and "
        f"take {best.break_even:.2f} times as long, which makes {best.worth:.2f} "
        f"({_range(best.worth_low, best.worth_high)}) times the progress in the same time"
    )
    if paying:
        return PAYS, best.exit_layer, f"Selection at exit {best.exit_layer} is expected to pay: its {numbers}."
    if all(each.worth_high < 1 for each in exits):
        return DOES_NOT_PAY, None, f"Selection is not expected to pay: at the best exit, {best.exit_layer}, {numbers}."
    reason = f"Not decided by these batches: at the best exit, {best.exit_layer}, {numbers}. More batches say more."
    return UNDECIDED, None, reason


def _check(scorer: Scorer, batches: Sequence[Any], trained: Sequence[nn.Parameter], level: float, draws: int) -> None:
    if scorer.function is None:
        raise ValueError(f"{scorer.options.score_in_words} scores nothing that could be diagnosed: it takes no exit")
    if scorer.options.source is not None:
        raise ValueError(f"diagnose compares exits as they are, but {scorer.options.score_in_words} takes one further")
    if Ranks.here("rank").size > 1 or is_sharded(scorer.model):
        raise ValueError("diagnose runs on a single process, without FSDP: call it before the model is distributed")
    if not trained:
        raise ValueError(f"{type(unwrap(scorer.model)).__name__} has no weights that train")
    if len(batches) < 2:
        raise ValueError(f"batches has {len(batches)}, but must have at least 2; 16 or more say something")
    for number, batch in enumerate(batches):
        size = scorer.rows.size(batch)
        if max(1, round(scorer.keep * size)) == size:
            raise ValueError(
                f"keep = {scorer.keep:g} keeps all {size} rows of batches[{number}]: there is nothing to select"
            )
    whole("draws", draws, least=1)
    within("level", level, "lie in [0, 1]", lambda value: 0 <= value <= 1)


def _cells(each: ExitDiagnosis) -> tuple[str, ...]:
    means = each.means
    return (
        str(each.exit_layer),
        f"{means['overlap']:.3f} ± {each.overlap_half_width:.3f}",
        f"{means['sigma']:.2f}",
        f"{means['rho']:.2f}",
        f"{means['rho_approx']:.2f} ± {each.rho_approx_half_width:.2f}",
        f"{100 * each.cost:+.0f}%",
        f"{each.alignment:.3f}",
        f"{each.random_alignment:.3f}",
        f"{each.gain:.2f} ({_range(each.gain_low, each.gain_high)})",
        f"{each.worth:.2f} ({_range(each.worth_low, each.worth_high)})",
    )


def _range(low: float, high: float) -> str:
    if math.isinf(low):
        return "unknown" if math.isinf(high) else f"at most {high:.2f}"
    return f"{low:.2f} or more" if math.isinf(high) else f"{low:.2f} to {high:.2f}"
