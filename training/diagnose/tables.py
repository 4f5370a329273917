"""Diagnoses and summaries on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from gsgd.commands.console import print_table
from training.diagnose.forecast import Forecast
from training.diagnose.words import PROMISES, expected, paragraphs

LEGEND = """\
overlap     share of the exact choice that the exit's choice contains
gain        how far a step on selected rows goes, over one on random rows
worth       the same in equal time; above 1 selection pays
beta, law   correlation of margins, and what Theorem 6.2 makes of it
sigma       noise of log(score / exact loss), beside the levels that it may have
            for Corollary 5.16 to promise a gain, corrected and sharp
5.16        whether it does: p as printed, c corrected, s sharp
rho_2       of two rows that of the larger score: its loss over the mean loss
least       what Theorem 5.15 guarantees of rho_2"""


def show_point(console: Console, point: Mapping[str, Any], score: str) -> None:
    """Two tables, one row an exit each, and what they come to in words."""
    loss = "" if point["train_loss"] is None else f", training loss {point['train_loss']:.3f}"
    console.print(
        f"\nafter {point['step']} steps{loss} ({point['batches']} batches in {point['seconds']:.1f} s, 95% intervals)",
        style="bold",
        highlight=False,
    )
    print_table(
        console,
        ("exit", "overlap", "step's cost", "gain of a step", "worth: gain / time"),
        [
            (
                str(each["exit_layer"]),
                f"{each['means']['overlap']:.3f} ±{each['overlap_half_width']:.3f}",
                f"{_percent(each['cost'])} ({_percent(each['cost_low'])} to {_percent(each['cost_high'])})",
                _interval(each, "gain"),
                _interval(each, "worth"),
            )
            for each in point["exits"]
        ],
    )
    console.print()
    print_table(
        console,
        ("exit", "beta", "overlap", "law", "p_j", "law", "sigma", "up to", "sharp", "5.16", "rho_2", "least"),
        [_against_the_formulas(each) for each in point["exits"]],
    )
    console.print()
    for paragraph in paragraphs(point, score):
        console.print(paragraph, highlight=False)


def show_forecasts(console: Console, forecasts: Sequence[Forecast], steps: int) -> None:
    """A row a score: what it is expected to be worth over the run that was watched, and the best in words."""
    if not forecasts:
        console.print("nothing is forecast of a model that was not trained: --after STEPS trains it", highlight=False)
        return
    console.print(
        f"over these {steps} steps: expected factor in plain training's budget", style="bold", highlight=False
    )
    print_table(
        console,
        ("score", "kept rows' loss", "at most", "step's cost", "expected factor"),
        [
            (
                each.score,
                f"{each.progress:.2f}",
                f"{each.ceiling:.2f}",
                f"{each.cost:.2f}",
                f"{each.factor:.2f} ({each.low:.2f} to {each.high:.2f})",
            )
            for each in forecasts
        ],
    )
    console.print(f"\n{expected(max(forecasts, key=lambda each: each.factor))}\n", highlight=False)


def _against_the_formulas(each: Mapping[str, Any]) -> tuple[str, ...]:
    means, predicted, promise = each["means"], each["predicted"], each["promise"]
    kept = "-" if promise is None else "".join(name[0] if promise[name] else "-" for name, _ in PROMISES)
    return (
        str(each["exit_layer"]),
        number(means["margin_correlation"]),
        number(means["overlap"]),
        number(predicted["overlap_finite"]),
        number(means["pairwise_agreement"]),
        number(predicted["agreement_predicted"]),
        number(means["sigma"]),
        number(predicted["sigma_max"]),
        number(predicted["sigma_max_sharp"]),
        kept,
        number(means["rho_pairs_approx"]),
        number(predicted["rho_pairs_guaranteed"]),
    )


def number(value: float, digits: int = 2) -> str:
    """With so many decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _interval(each: Mapping[str, Any], name: str) -> str:
    if math.isnan(each[name]):
        return "-"
    low, high = each[f"{name}_low"], each[f"{name}_high"]
    return f"{each[name]:.2f} ({low:.2f} to {high:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:+.0f}%"
