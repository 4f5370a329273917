"""`gsgd reproduce`: the other commands in order, from the checks to the report, each as a child process.

A command skips or resumes by itself what it did before; what has a finished header is not even started.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gsgd.commands.arguments import EXTRAS, install
from gsgd.commands.child_process import run_command
from gsgd.commands.paper_runs import BERT_ROWS, PAPER_GPUS, paper
from gsgd.commands.stage import LAST, VERIFY, Stage
from gsgd.commands.terminal import fitted
from gsgd.locks import one_writer

EXAMPLES = """\
examples:
  gsgd reproduce                                   the laptop scale: about five minutes on two cores
  gsgd reproduce --budget 40s                      the same with longer training runs
  gsgd reproduce --dry-run                         the commands, and nothing else
  gsgd reproduce --scale paper                     what the paper's own runs would take; nothing is started
  gsgd reproduce --scale paper --only 'bert-base/loss-*' --gpus 8 --yes

Every stage is a command of its own, which can be called by hand. What is finished is not run again, what was
interrupted goes on, training runs from their checkpoints. Ctrl-C once, and wait until it is written. --fresh begins
anew: it removes DIR/SCALE/NAME of each stage and replaces what `gsgd verify` wrote, and no other results.

exit code: 0 when all is done, or the plan was shown; 2 for bad usage and for what is missing; 130 if it was
interrupted; else that of the stage that failed
"""

NEEDED = ("matplotlib", "pandas", "jinja2", "torch", "transformers", "accelerate", "pyarrow", "PIL", "pydantic")
"""Packages of the extras `figures` and `train` that stages import."""

# Chosen so that all stages together take about five minutes on two idle cores.
COMPARISONS = (("bert-tiny", "baseline,random,loss@1", 6.0), ("resnet-tiny", "baseline,random,loss@1,loss@last", 5.0))
"""Of the laptop scale: (preset, methods, seconds of each run)."""
SEEDS = 3


def laptop(budget: str | None) -> list[Stage]:
    """The stages of the laptop scale; comparisons of another budget have folders of their own.

    Raises:
        ValueError: if `budget` is not a number of seconds, such as "40s".
    """
    if budget is not None and (not re.fullmatch(r"(\d+\.?\d*|\.\d+)s", budget) or not 0 < float(budget[:-1]) < 1e9):
        raise ValueError(f"--budget {budget!r} must be a number of seconds above 0, such as 40s")
    stages = [VERIFY]
    for preset, methods, default in COMPARISONS:
        seconds = float(budget[:-1]) if budget else default
        folder = f"laptop/{preset}-{seconds:.15g}s" if budget else f"laptop/{preset}"
        words = f"gsgd compare {preset} --methods {methods} --seeds {SEEDS} --budget {seconds:.15g}s --name {folder}"
        # A few looks at how well the early exit picks, for the figure that shows it.
        words += " --evaluations 5 --quality_batches 2"
        # A run starts, is evaluated and is written; a comparison reads data and measures costs.
        about = 10.0 + SEEDS * len(methods.split(",")) * (seconds + 1.5)
        stages.append(Stage(folder.removeprefix("laptop/"), words, about, f"{folder}/compare.json"))
    return [*stages, *LAST]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd reproduce`."""
    parser.description = (
        "Check the paper, train its comparisons, draw the figures and write the report, in one command."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("--scale", default="laptop", choices=("laptop", "paper"), help="default: laptop")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--wait", action="store_true", help="if another one runs there: wait for its end")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    parser.add_argument("--budget", metavar="SECONDS", help="laptop: of every training run, such as 40s")
    parser.add_argument("--only", metavar="PATTERN", help="paper: these runs, such as 'cifar100/*/early-*' or food101")
    parser.add_argument("--gpus", type=int, metavar="N", help="paper: for each run of BERT (default: all, else 8)")
    parser.add_argument("--yes", action="store_true", help="paper: start, instead of showing the plan alone")


def run(options: argparse.Namespace) -> int:
    """`gsgd reproduce`: returns the exit code."""
    for name in ("only", "gpus", "yes") if options.scale == "laptop" else ("budget",):
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name} is not for the {options.scale} scale")
    needed: tuple[str, ...] = NEEDED
    lacking, plan = [], ""
    if options.scale == "laptop":
        stages = laptop(options.budget)
    else:
        there = cuda_devices()
        best = max((n for n in range(1, there + 1) if BERT_ROWS % n == 0), default=PAPER_GPUS)
        gpus = best if options.gpus is None else options.gpus
        stages, plan = paper(gpus, options.only)
        needed = (*NEEDED, "tensorboard", "datasets")
        at_once = gpus if any(stage.line.startswith("torchrun") for stage in stages) else 1
        if there < at_once:
            lacking = [f"{at_once} GPUs are asked for, but torch can use {there} by CUDA (--gpus asks for fewer)"]
    if options.dry_run:
        print("\n".join(shlex.join(stage.words(options.results)) for stage in stages))
        return 0
    if plan:
        print(fitted(plan), flush=True)
    lacking = [*missing(needed), *lacking]
    if plan and not options.yes:
        nothing = "Nothing was started: --yes starts it, --only PATTERN a part of it"
        print("\n" + fitted("; ".join([nothing, *lacking])))
        return 0
    if lacking:
        raise ValueError("; ".join(lacking))
    wait = (lambda text: print(text, file=sys.stderr, flush=True)) if options.wait else None
    with one_writer(options.results, wait):
        if options.fresh:
            for stage in stages:
                stage.own_folder(options.results)
            for stage in stages:
                stage.forget(options.results)
        return carry_out(stages, options.results)


def carry_out(stages: Sequence[Stage], results: Path) -> int:
    """Run the stages in their order, but those that are done. Returns 0, or the exit code of the one that stopped."""
    about = f"{sum(stage.seconds for stage in stages) / 60:.0f} minutes on two idle cores"
    print(f"{len(stages)} stages{f', about {about}' if stages[0].seconds else ''}, results in {results}", flush=True)
    for number, stage in enumerate(stages, start=1):
        head = f"[{number}/{len(stages)}]"
        if before := stage.done(results):
            print(f"{head} {stage.name}: {before}", flush=True)
            continue
        print(f"\n{head} {shlex.join(stage.words(results))}", flush=True)
        begin = time.perf_counter()
        code = run_command(stage.words(results))
        # A run of the paper may diverge: that is a result.
        if code == 130 or (code and not stage.done(results)):
            again = shlex.join(["gsgd", *(word for word in sys.argv[1:] if word != "--fresh")])
            how = "interrupted" if code == 130 else f"{stage.name} failed with exit code {code}"
            print(f"gsgd reproduce: {how}; `{again}` goes on from here", file=sys.stderr)
            return code
        print(f"{head} {stage.name}: {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"\nall {len(stages)} stages are done; the report:\n{results / 'report.html'}")
    return 0


def missing(packages: Sequence[str]) -> list[str]:
    """What of these is not installed, in a sentence with the line that helps; nothing if all is."""
    absent = [name for name in packages if not installed(name)]
    extra = ",".join(dict.fromkeys(EXTRAS[name] for name in absent))
    remedy = f"{install(extra)} (in a checkout: pip install -c constraints.txt '.[{extra}]')"
    return [f"not installed: {', '.join(absent)}. Install: {remedy}"] if absent else []


def installed(module: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def cuda_devices() -> int:
    """How many GPUs torch can use by CUDA; 0 without torch."""
    if not installed("torch"):
        return 0
    import torch

    return int(torch.cuda.device_count())
