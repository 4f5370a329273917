"""`gsgd reproduce`: everything, from the checks to the report, by one command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gsgd.reproduce import needs, paper
from gsgd.reproduce.plan import DEFAULT_RESULTS, REPORT, Stage, duration, laptop, total
from gsgd.reproduce.process import Interrupted, Run, run_command
from gsgd.reproduce.stages import Failed, begin_anew, carry_out, show
from gsgd.reproduce.state import FILE, Standing, State

EXAMPLES = """\
examples:
  gsgd reproduce                                   the laptop scale: under six minutes on two cores
  gsgd reproduce --budget 40s                      the same with longer training runs
  gsgd reproduce --dry-run                         the commands, and nothing else
  gsgd reproduce --scale paper                     what the paper's own runs would take, before anything starts
  gsgd reproduce --scale paper --only 'bert-base/loss-*' --gpus 8 --yes

Every stage is a command of its own, which can be called by hand. What was finished by the same command and the same
code is not run again; what was interrupted goes on, training runs from their checkpoints. Ctrl-C once, and wait until
it is written. DIR/SCALE/reproduce.json records command, version, commit and seconds of each stage.

At the laptop scale a stage begins anew, and the folder that only it writes to (DIR/laptop/NAME) is removed, when its
command or the code behind it has changed. Finished runs of the paper's scale are kept, and it is said who made them.
--fresh removes the record and the folders (DIR/SCALE/NAME) of the stages of this command, and no other results: what
`gsgd verify` wrote is replaced, what you trained or compared under other names stays.

exit code: 0 when all is done, or the plan was shown; 2 for bad usage and for what is missing; 130 if it was
interrupted; else that of the stage that failed
"""


def parser() -> argparse.ArgumentParser:
    """The options of `gsgd reproduce`."""
    result = argparse.ArgumentParser(
        prog="gsgd reproduce",
        description="Check the paper, train its comparisons, draw the figures and write the report, in one command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--scale", default="laptop", choices=("laptop", "paper"), help="default: laptop")
    result.add_argument("--results", type=Path, default=DEFAULT_RESULTS, metavar="DIR", help="default: results")
    result.add_argument("--fresh", action="store_true", help="begin anew")
    result.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    result.add_argument("--budget", metavar="SECONDS", help="laptop: of every training run, such as 40s")
    result.add_argument("--only", metavar="PATTERN", help="paper: these runs, such as 'cifar100/*/early-*' or food101")
    result.add_argument("--gpus", type=int, metavar="N", help="paper: for each run of BERT (default: all, else 8)")
    result.add_argument("--yes", action="store_true", help="paper: start without asking")
    return result


def main(
    arguments: Sequence[str],
    *,
    run: Run = run_command,
    installed: Callable[[str], bool] = needs.installed,
    gpus: Callable[[], int] = needs.cuda_devices,
    ask: Callable[[str], str] | None = None,
) -> int:
    """`gsgd reproduce`: returns the exit code.

    Args:
        run: carries a command line out.
        installed: whether a package is.
        gpus: counts them.
        ask: puts a question to the user; None asks on the terminal, if there is one.
    """
    options = parser().parse_args(arguments)
    again = shlex.join(["gsgd", "reproduce", *(word for word in arguments if word != "--fresh")])
    if ask is None and sys.stdin.isatty() and sys.stdout.isatty():
        ask = input
    try:
        _check(options)
        if options.scale == "laptop":
            return _laptop(options, run, installed)
        return _paper(options, run, installed, gpus, ask)
    except (ValueError, OSError) as error:
        print(f"gsgd reproduce: {error}", file=sys.stderr)
        return 2
    except Failed as failure:
        print(f"gsgd reproduce: {failure}. When the cause is mended, `{again}` goes on from here", file=sys.stderr)
        return failure.code
    except Interrupted as interrupted:
        print(f"gsgd reproduce: interrupted; `{again}` goes on from here", file=sys.stderr)
        return 128 + interrupted.number


def _check(options: argparse.Namespace) -> None:
    of_the_other = {"laptop": ("only", "gpus", "yes"), "paper": ("budget",)}[options.scale]
    for name in of_the_other:
        if getattr(options, name):
            raise ValueError(f"--{name} is not for the {options.scale} scale; `gsgd reproduce --help` says which is")
    if options.gpus is not None and options.gpus < 1:
        raise ValueError(f"--gpus {options.gpus} must be at least 1")


def _laptop(options: argparse.Namespace, run: Run, installed: Callable[[str], bool]) -> int:
    stages = laptop(options.budget)
    if options.dry_run:
        return _print_commands(stages, options.results)
    if lacking := needs.missing_extras(False, installed):
        raise ValueError(lacking)
    state = State(options.results / "laptop" / FILE)
    if options.fresh:
        begin_anew(stages, state, options.results, _say)
    _say(f"about {duration(total(stages))} on two idle cores, results in {options.results}")
    show(stages, state, options.results, _say)
    return _start(stages, state, options.results, run)


def _paper(
    options: argparse.Namespace,
    run: Run,
    installed: Callable[[str], bool],
    gpus: Callable[[], int],
    ask: Callable[[str], str] | None,
) -> int:
    there = 0 if options.dry_run and options.gpus else gpus()
    runs = paper.paper_runs(options.gpus or paper.best_gpus(there))
    if options.only:
        runs = paper.chosen(runs, options.only)
    stages = paper.stages(runs, whole=not options.only)
    if options.dry_run:
        return _print_commands(stages, options.results)
    _say(f"the paper's runs (Section 7), results in {options.results / 'paper'}\n")
    _say(paper.describe(runs))
    _say("\ncommands:")
    _print_commands(stages, options.results)
    state = State(options.results / "paper" / FILE)
    done = sum(state.standing(stage, options.results) is Standing.DONE for stage in stages)
    if done:
        _say(f"\ndone before: {done} of {len(stages)}")
    lacking = [needs.missing_extras(True, installed), needs.missing_gpus(max(each.gpus for each in runs), there)]
    if any(lacking):
        message = "; ".join(filter(None, lacking))
        if options.yes:
            raise ValueError(message)
        _say(f"\nNothing was started. This machine cannot carry it out: {message}")
        return 0
    if not options.yes:
        if ask is None:
            _say("\nNothing was started. --yes starts it; --only PATTERN a part of it")
            return 0
        what = "begin anew, removing what is there of these runs?" if options.fresh else "start?"
        if ask(f"\n{what} [y/N] ").strip().lower() not in ("y", "yes"):
            _say("Nothing was started.")
            return 0
    if options.fresh:
        begin_anew(stages, state, options.results, _say)
    return _start(stages, state, options.results, run)


def _start(stages: Sequence[Stage], state: State, results: Path, run: Run) -> int:
    carry_out(stages, state, results, run, _say)
    _say(str(results / REPORT.output))
    return 0


def _print_commands(stages: Sequence[Stage], results: Path) -> int:
    for stage in stages:
        _say(stage.line(results))
    return 0


def _say(text: str) -> None:
    # At once: the children write to the same place.
    print(text, flush=True)
