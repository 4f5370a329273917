"""What a diagnosis comes to, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gsgd.sift.measures.expected_factor import least_overlap
from training.diagnose.forecast import Forecast

PROMISES = (("printed", "as printed"), ("corrected", "corrected"), ("sharp", "sharp"))
LIMIT_515 = math.sqrt(2) / 4
"""Theorem 5.15, and with it the proof of Corollary 5.16 as printed, supposes sigma <= 1 / (2 sqrt 2)."""
WHAT_516_IS = (
    "Corollary 5.16 is about GSGD on convex problems, one of two candidates a step, against SGD at the same step size: "
    "it knows nothing of networks, of other optimizers, or of what scoring costs."
)


def paragraphs(point: Mapping[str, Any], score: str) -> list[str]:
    """The recommendation and its reasons, for one point of a diagnosis.

    Args:
        point: as of `diagnosis_file.point_entry`.
        score: of the engine, such as "loss".
    """
    best = _best(point)
    found = [f"{recommendation(point, score)} {point['reason']}", break_even(best), *overlap_needed(best)]
    if point["cheapest"] is not None:
        found.append(
            f"The first exit that keeps at least {point['level']:.0%} of the exact choice is {point['cheapest']}, "
            f"with {_of(point, point['cheapest'])['means']['overlap']:.0%}."
        )
    return [*found, promised(best)]


def recommendation(point: Mapping[str, Any], score: str) -> str:
    """Which exit to select at, or that none is to be."""
    if point["recommended"] is not None:
        return f"Recommended: select by the {score} at exit {point['recommended']}."
    return "Recommended: no selection." if point["verdict"] == "does not pay" else "No recommendation."


def expected(found: Forecast) -> str:
    """What selection by one score is expected to be worth over a run, and what that rests on."""
    return (
        f"Selection by {found.score} {found.verdict}: plain training is expected to need {found.factor:.2f} times the "
        f"budget ({found.low:.2f} to {found.high:.2f}) to come as far. This rests on the rows that it would have kept "
        f"of plain training's batches, whose loss is {found.progress:.2f} times the mean (no score can exceed "
        f"{found.ceiling:.2f}), on a step that costs {found.cost:.2f} plain ones, and on what became of such figures "
        "in recorded comparisons."
    )


def break_even(each: Mapping[str, Any]) -> str:
    """What selection at an exit must save."""
    saved = 1 - 1 / each["break_even"]
    if saved <= 0:
        return f"To break even, selection at exit {each['exit_layer']} need save nothing: its steps cost no more."
    return (
        f"To break even, selection at exit {each['exit_layer']} must get there in {saved:.0%} fewer steps: one on "
        f"selected rows takes {each['break_even']:.2f} ({1 + each['cost_low']:.2f} to {1 + each['cost_high']:.2f}) "
        "times as long as one on as many rows without selection."
    )


def overlap_needed(each: Mapping[str, Any]) -> list[str]:
    """From which overlap on a score pays at the cost of selection at an exit, beside that exit's own overlap.

    Nothing where the exact choice is not defined, or is that of all rows.
    """
    layer, means, cost = each["exit_layer"], each["means"], max(1.0, each["break_even"])
    if math.isnan(means["rho"]) or means["kept"] == means["rows"]:
        return []
    keep = means["kept"] / means["rows"]
    # Of batches of different sizes a mean may lie beyond what each of them can have, and by a rounding error anyway.
    needed = least_overlap(cost, min(max(means["rho"], 1.0), 1 / keep), keep)
    if math.isinf(needed):
        return [
            "At that cost not even the exact choice is expected to pay over a run: its rows' loss is "
            f"{means['rho']:.2f} times the mean."
        ]
    return [
        f"Over a run a score of that cost is expected to pay from an overlap of {needed:.0%} with the exact choice on; "
        f"exit {layer} has {means['overlap']:.0%} here. The rule is that of forecasts, with their error."
    ]


def promised(each: Mapping[str, Any]) -> str:
    """What Corollary 5.16 promises at one exit, in its three forms, and whether Assumption 5.12 holds there."""
    layer, promise, means, predicted = each["exit_layer"], each["promise"], each["means"], each["predicted"]
    if promise is None:
        return (
            f"Of Corollary 5.16 nothing can be said at exit {layer}: where a score or a loss is 0, there is no noise."
        )
    limits = (min(LIMIT_515, predicted["sigma_max"]), predicted["sigma_max"], predicted["sigma_max_sharp"])
    forms = ", ".join(
        f"{words} {'yes' if promise[name] else 'no'} (noise up to {limit:.2f})"
        for (name, words), limit in zip(PROMISES, limits, strict=True)
    )
    broken = ""
    if predicted["independence_level"] < 0.05:
        broken = (
            f" It assumes noise that does not depend on the loss (Assumption 5.12), but their rank correlation is "
            f"{means['independence']:.2f}."
        )
    return (
        f"Does Corollary 5.16 promise that scores beat none at exit {layer}, where sigma is {means['sigma']:.2f} and "
        f"rho_2 is {means['rho_pairs']:.2f}? {forms[0].upper()}{forms[1:]}.{broken}"
    )


def _best(point: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recommended exit, or the one of the largest worth."""
    if point["recommended"] is not None:
        return _of(point, point["recommended"])
    return max(point["exits"], key=lambda each: -math.inf if math.isnan(each["worth"]) else each["worth"])


def _of(point: Mapping[str, Any], layer: int) -> Mapping[str, Any]:
    return next(each for each in point["exits"] if each["exit_layer"] == layer)
