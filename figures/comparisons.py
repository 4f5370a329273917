"""What every finished comparison came to, method by method."""

from __future__ import annotations

import pandas as pd

from figures.beside_paper import with_digits
from figures.methods import in_order, look

INTERVALS = ("val_accuracy", "test_accuracy", "over_baseline", "over_random")
COSTS = ("seconds_to_target", "samples_to_target")


def make(summaries: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, differences to baseline and random control, share of scoring, cost of the target; 95% intervals.

    Args:
        summaries: the table of that name.

    Returns:
        One row a method of a comparison; a column NAME with an interval has a column NAME_half_width behind it.
    """
    parts = []
    for group in dict.fromkeys(summaries["group"]):
        rows = summaries[summaries["group"] == group].set_index("method", drop=False)
        parts.append(rows.loc[in_order(rows["method"])])
    rows = pd.concat(parts, ignore_index=True)
    both = [column for name in (*INTERVALS, *COSTS) for column in (name, f"{name}_half_width")]
    split = both.index("seconds_to_target")
    table = pd.DataFrame(
        {
            "comparison": rows["group"],
            "method": [look(method).label for method in rows["method"]],
            **{name: rows[name] for name in ("runs", "diverged", *both[:split])},
            "scoring_share": rows["scoring_share"],
            "steps": rows["steps"],
            "backprop_samples": rows["backprop_samples"],
            "target": rows["target"],
            "reached": rows["reached"],
            **{name: rows[name] for name in both[split:]},
        }
    )
    with_digits(table, 4, (*INTERVALS, "target"))
    with_digits(table, 3, ("scoring_share",))
    with_digits(table, 1, ("seconds_to_target",))
    return with_digits(table, 0, ("steps", "backprop_samples", "samples_to_target"))
