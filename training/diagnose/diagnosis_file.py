"""What `diagnosis.json` holds of a diagnosis: every number beside what the formulas say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from gsgd.sift.measures.diagnosis import ExitDiagnosis
from theory import readings as formulas
from training.diagnose.measure import Point

DIAGNOSIS = "diagnosis.json"


def point_entry(point: Point) -> dict[str, Any]:
    """What was found after some steps of training: the fields of the point and of its diagnosis.

    Every exit has besides its own numbers `predicted`, means over its readings of `theory.readings.compare`, and
    `promise`, what Corollary 5.16 promises at the means of sigma and rho_pairs, or None where they are not defined.
    """
    of_point = {"step": point.step, "train_loss": point.train_loss, "seconds": point.seconds}
    return {**of_point, **vars(point.diagnosis), "exits": [_exit_entry(each) for each in point.diagnosis.exits]}


def _exit_entry(each: ExitDiagnosis) -> dict[str, Any]:
    own = {name: value for name, value in vars(each).items() if name != "readings"}
    derived = {name: getattr(each, name) for name in ("break_even", "worth", "worth_low", "worth_high")}
    rows = [formulas.compare(dataclasses.asdict(reading)) for reading in each.readings]
    promise = formulas.promise(sigma=each.means["sigma"], rho_pairs=each.means["rho_pairs"])
    return {
        **own,
        **derived,
        "predicted": {name: _mean([row[name] for row in rows]) for name in formulas.PREDICTED},
        "promise": None if promise is None else dataclasses.asdict(promise),
    }


def _mean(values: Sequence[float]) -> float:
    """Without those that are NaN; NaN where none is left."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
