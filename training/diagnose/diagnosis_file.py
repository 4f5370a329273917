"""What `diagnosis.json` holds of a diagnosis: every number beside what the formulas say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gsgd.sift.diagnosis import ExitDiagnosis
from theory import readings as formulas
from training.diagnose.measure import Point

DIAGNOSIS = "diagnosis.json"


def point_entry(point: Point) -> dict[str, Any]:
    """What was found after some steps of training.

    Returns:
        step, train_loss, seconds, and the fields of the diagnosis, with `exits` as of `exit_entry`.
    """
    found = point.diagnosis
    names = ("batches", "pairs", "plain_s", "level", "cheapest", "recommended", "verdict", "reason")
    return {
        "step": point.step,
        "train_loss": point.train_loss,
        "seconds": point.seconds,
        **{name: getattr(found, name) for name in names},
        "exits": [exit_entry(each) for each in found.exits],
    }


def exit_entry(each: ExitDiagnosis) -> dict[str, Any]:
    """What was found of one exit.

    Returns:
        Its numbers; `means` of its readings; `predicted`, means of `theory.readings.compare` over them; `promise`, what
        Corollary 5.16 promises at the means of sigma and rho_pairs, or None where they are not defined.
    """
    readings = [dataclasses.asdict(reading) for reading in each.readings]
    promise = formulas.promise(sigma=each.means["sigma"], rho_pairs=each.means["rho_pairs"])
    names = ("overlap_half_width", "rho_approx_half_width", "cost", "cost_low", "cost_high")
    of_steps = ("alignment", "random_alignment", "gain", "gain_low", "gain_high")
    worth = ("break_even", "worth", "worth_low", "worth_high")
    return {
        "exit_layer": each.exit_layer,
        "means": dict(each.means),
        "predicted": means([formulas.compare(reading) for reading in readings], formulas.PREDICTED),
        "promise": None if promise is None else dataclasses.asdict(promise),
        **{name: getattr(each, name) for name in (*names, *of_steps, *worth)},
    }


def means(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Means by name, without the rows where one is NaN; NaN where none is left."""
    found = {}
    for name in names:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        found[name] = sum(values) / len(values) if values else math.nan
    return found
