"""What `gsgd compare --ladder` prints: every rung's table, every speed-up, and what is claimed."""

from __future__ import annotations

import math

from rich.console import Console

from gsgd.commands.console import print_table
from training.comparison.ladder_results import PLAIN, PLANNED, Claim, InSeconds, LadderResult, Row
from training.comparison.speedup import ABOVE, BELOW, FALLS, ON, SpeedUp
from training.comparison.summary import Interval

DASH = "-"


def show(console: Console, found: LadderResult) -> None:
    """The tables, and the claims in words."""
    if found.status == PLANNED:
        console.print("nothing was trained or written: without --dry-run it is", highlight=False)
        return
    if found.status != "finished":
        console.print(f"interrupted; the same command goes on from here ({found.folder})")
        return
    calibrated = any(row.calibration_error is not None for row in found.rows)
    budgets = list(dict.fromkeys(row.budget for row in found.rows))
    for budget in budgets:
        rows = [row for row in found.rows if row.budget == budget]
        console.print(f"{budget:,.15g} {found.unit}, {found.split} split", style="bold", highlight=False)
        headings = ["method", "tried", "accuracy", "over plain", "loss", *(["ECE"] if calibrated else [])]
        print_table(console, headings, [_of_rung(row, calibrated) for row in rows])
        for row in rows if found.tuned else []:
            console.print(f"  {row.method}:{row.values}", highlight=False)
        console.print()
    console.print("budget that plain training needs, as a multiple: [95% interval]", style="bold", highlight=False)
    others = [row for row in found.rows if row.method != PLAIN]
    table = [
        [row.method, f"{row.budget:,.15g}", speed_up_text(row.by_accuracy), speed_up_text(row.by_loss)]
        for row in others
    ]
    for method in dict.fromkeys(row.method for row in others):
        claimed = {each.measure: each.speed_up for each in found.claims if each.method == method}
        table.append([method, "inner rungs", *(_bound(claimed.get(measure)) for measure in ("accuracy", "loss"))])
    print_table(console, ["method", found.unit, "by accuracy", "by loss"], table)
    console.print()
    for each in found.claims:
        console.print(verdict(each), highlight=False)
    _show_seconds(console, found.in_seconds, found.unit)
    for row in found.rows:
        if row.at_edge:
            edge = (
                f"{row.method} at {row.budget:,.15g} {found.unit}: the best {row.at_edge} ends the range that was tried"
            )
            console.print(edge, highlight=False)
    if not found.tuned:
        console.print("nothing was tuned (--tune): against a plain training that is not at its best, no factor is real")
    if found.unit in ("samples", "epochs", "steps"):
        console.print(f"in {found.unit} scoring costs nothing; budgets of work and time charge it", highlight=False)
    console.print(f"results in {found.folder}", highlight=False)


def _show_seconds(console: Console, found: InSeconds | None, unit: str) -> None:
    if found is None:
        return
    if found.left_out is not None:
        console.print(f"by the clock nothing is claimed: {found.left_out}", highlight=False)
        return
    heading = "by the clock, with the reading of rows: seconds that plain training needs, as a multiple"
    console.print(f"\n{heading}", style="bold", highlight=False)
    for each in found.claims:
        console.print(verdict(each), highlight=False)
    console.print("this holds if nothing else ran on the machine meanwhile", highlight=False)
    if unit != "s":
        # A smaller batch may be plain training's best at equal work, and a larger one at equal time.
        console.print(
            f"values were chosen for equal {unit}, not for equal seconds, of plain training, too: only a ladder with a "
            "budget in seconds has it at its best by the clock",
            highlight=False,
        )
    console.print()


def verdict(found: Claim) -> str:
    """What is claimed of a method, in words."""
    what = found.speed_up
    start = f"{found.method}, by {found.measure}: "
    over = f"(geometric mean over the inner rungs, {found.rungs} of them; 95%)"
    if what.place == FALLS:
        return f"{start}no factor, since {FALLS}"
    if math.isnan(what.factor):
        return f"{start}no factor, it is {what.place} {over}"
    if not what.significant:
        return f"{start}no speed-up shown, {_bound(what)} {over}"
    word = "faster" if what.low > 1 else "slower"
    return f"{start}{word} than plain training, {_bound(what)} {over}"


def speed_up_text(found: SpeedUp | None) -> str:
    """A factor with its interval, in which an end that the ladder does not bound is a dash."""
    if found is None:
        return DASH
    if found.place == FALLS:
        return "no factor"
    low = DASH if found.low == 0 else f"{found.low:.2f}"
    high = DASH if found.high == math.inf else f"{found.high:.2f}"
    factor = f"{found.factor:.2f}" if found.place == ON else found.place
    return f"{factor} [{low}, {high}]".replace("[", r"\[")


def _bound(found: SpeedUp | None) -> str:
    """A claim: beyond the ladder its factor is a bound."""
    text = speed_up_text(found)
    if found is None or math.isnan(found.factor):
        return text
    sign = {ABOVE: "at least ", BELOW: "at most "}.get(found.place)
    return text if sign is None else text.replace(found.place, f"{sign}{found.factor:.2f}")


def _of_rung(row: Row, calibrated: bool) -> list[str]:
    if row.diverged:
        dashes = [DASH] * (3 if calibrated else 2)
        return [row.method, str(row.tried), f"{row.diverged} of {row.runs} diverged", *dashes]
    over = DASH if row.over_baseline is None else row.over_baseline.signed
    error = [_text(row.calibration_error)] if calibrated else []
    return [row.method, str(row.tried), _text(row.accuracy), over, _text(row.loss), *error]


def _text(found: Interval | None) -> str:
    return DASH if found is None else str(found)
