"""What is run, as data: the stages of the laptop scale, and what all scales have in common."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_RESULTS = Path("results")

# Chosen so that all stages together take less than six minutes on two idle cores.
BERT_BUDGET_S = 9.0
RESNET_BUDGET_S = 6.0
SEEDS = 3
VERIFY_S, FIGURES_S, REPORT_S = 50.0, 15.0, 10.0
"""Seconds on two cores, for the plan that is shown."""
COMPARE_START_S, COMPARE_PER_RUN_S = 20.0, 1.5
"""Of a comparison beside its budgets: data, imports and prices; a run's own start, evaluations and checkpoints."""

BERT_METHODS = "baseline,random,loss@1"
RESNET_METHODS = "baseline,random,loss@1,loss@last"


@dataclass(frozen=True)
class Stage:
    """A command line and what it leaves behind. Paths are relative to the results.

    Attributes:
        name: unique in a plan; short.
        command: as a user would type it, without --results.
        about_s: seconds that it takes, for the plan that is shown; None if nobody can tell.
        output: the file or folder that is there when it has succeeded.
        folder: what only this stage writes to, and a new beginning removes; None if others write there, too.
        rooms: packages whose source decides what comes out.
        always: run each time, because it is quick and depends on everything else.
        keep: results of other code or another command are never thrown away, because they cost days.
        may_diverge: exit code 1 with a header that says so is a result.
    """

    name: str
    command: tuple[str, ...]
    about_s: float | None
    output: str
    folder: str | None = None
    rooms: tuple[str, ...] = ()
    always: bool = False
    keep: bool = False
    may_diverge: bool = False

    @property
    def about(self) -> str:
        """How long it takes, for people; empty if nobody can tell."""
        return "" if self.about_s is None else f"about {duration(max(10.0, round(self.about_s, -1)))}"

    def words(self, results: Path) -> list[str]:
        """The command line with `results` as its folder of results."""
        return [*self.command, *([] if results == DEFAULT_RESULTS else ["--results", str(results)])]

    def line(self, results: Path) -> str:
        """The command line as one would type it."""
        return shlex.join(self.words(results))


def laptop(budget: str | None = None) -> list[Stage]:
    """The stages of the laptop scale.

    Args:
        budget: of every training run, such as "40s"; None takes the constants above. Comparisons of another budget
            have a folder of their own, so that nothing is lost by trying one.

    Raises:
        ValueError: if `budget` is not a number of seconds.
    """
    given = None if budget is None else parse_seconds(budget)
    return [
        VERIFY,
        _comparison("bert-tiny", BERT_METHODS, BERT_BUDGET_S, given),
        _comparison("resnet-tiny", RESNET_METHODS, RESNET_BUDGET_S, given),
        *LAST,
    ]


VERIFY = Stage("verify", ("gsgd", "verify"), VERIFY_S, "theory/verify.json", rooms=("gsgd", "theory"))
FIGURES = Stage("figures", ("gsgd", "figures"), FIGURES_S, "figures", always=True)
REPORT = Stage("report", ("gsgd", "report"), REPORT_S, "report.html", always=True)
LAST = (FIGURES, REPORT)


def _comparison(preset: str, methods: str, default_s: float, given: float | None) -> Stage:
    seconds = default_s if given is None else given
    name = preset if given is None else f"{preset}-{seconds:.15g}s"
    runs = SEEDS * len(methods.split(","))
    shared = ("--seeds", str(SEEDS), "--budget", f"{seconds:.15g}s", "--name", f"laptop/{name}")
    # A few looks at how well the early exit picks, for the figure that shows it.
    quality = ("--evaluations", "5", "--quality_batches", "2")
    return Stage(
        name,
        ("gsgd", "compare", preset, "--methods", methods, *shared, *quality),
        COMPARE_START_S + runs * (seconds + COMPARE_PER_RUN_S),
        f"laptop/{name}/summary.csv",
        folder=f"laptop/{name}",
        rooms=("gsgd", "training"),
    )


def parse_seconds(text: str) -> float:
    """The seconds that `text`, such as "40s", names.

    Raises:
        ValueError: if it is not a number above 0 with an s behind it.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)s", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"--budget {text!r} must be a number of seconds above 0, such as 40s")
    return float(match[1])


def duration(seconds: float) -> str:
    """Seconds in words, for people: "20 seconds", "2 minutes", "57 hours"."""
    for limit, unit, name in ((90.0, 1.0, "second"), (90 * 60.0, 60.0, "minute"), (float("inf"), 3600.0, "hour")):
        # Compared as it will be shown, so that no one reads "90 seconds" here and "2 minutes" there.
        count = round(seconds / unit)
        if round(seconds) < limit:
            return f"{count} {name}{'' if count == 1 else 's'}"
    raise AssertionError("seconds is not finite")


def total(stages: Sequence[Stage]) -> float:
    """Seconds of all stages of which anybody can tell."""
    return sum(stage.about_s for stage in stages if stage.about_s is not None)
