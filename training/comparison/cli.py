"""`gsgd compare`: train several methods on one budget, and say what came out."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gsgd.commands.arguments import add_keys, number, whole
from gsgd.commands.console import print_table
from gsgd.results import write_json

if TYPE_CHECKING:
    from training.comparison.compare import Comparison
    from training.comparison.contenders import Contender
    from training.comparison.summary import MethodSummary
    from training.config import Config

EXAMPLES = """\
examples:
  gsgd compare resnet-tiny --methods baseline,random,loss@1 --seeds 3 --budget 60s
  gsgd compare bert-tiny --methods baseline,random,loss@1,entropy@1 --budget 20000samples
  gsgd compare my.toml --methods baseline,loss@1,loss@1:start_share=0.5,loss@1:keep=0.7 --budget 600s
  gsgd compare my.toml --methods baseline,loss@last --sweep max_lr=5e-2,1e-2,5e-3,1e-3
  gsgd compare resnet-tiny --methods baseline,random,loss@last --budget 800000work --ladder 5 --seeds 8 \\
      --tune max_lr=2e-3,5e-3,1e-2 --tune batch_size=32,64 --tune keep=0.5,0.25 --tuning-seeds 2 --jobs 2 --dry-run

  torchrun --nproc-per-node 8 -m gsgd compare bert-base/baseline --methods baseline,random,entropy@6
  gsgd compare my.toml --methods baseline,random,loss@1 --seeds 8 --budget 20000samples --executor slurm \\
      --executor-options slurm_partition=gpu,gpus_per_node=1,timeout_min=240       every run a job; resumed if preempted

budgets:
  600s               reference time: every method pays its own median cost of a step, measured in turn before the runs
  20000samples       backpropagated samples; also 10epochs, 5000steps
  800000work         forward passes of a row: a trained row costs 3, a row that exact losses are computed of 1 more
  100baseline-epochs  the reference time in which the baseline trains 100 epochs

Ladders: --ladder 5 trains at 5 budgets (rungs), each twice the one before, up to --budget, and says how many times the
budget plain training needs to come as far. First it chooses the values of --tune for each method at each rung, plain
training as well: on the validation split, with the same number of trials and on seeds of their own. Then all train on
fresh seeds, and the test split is judged once a run. What is claimed is the geometric mean over the inner rungs.

Controls to name beside a method: random, focal and loss-power (weights for hard rows, without selection), and
baseline:batch_size=k/2 and k/4, parts of what was chosen for plain training at the rung, since smaller batches may
win by themselves; of them the other values are tuned.

With --inner-only methods other than plain training run at the inner rungs only, which of three rungs is two sevenths
of the work. --dry-run prints the plan with its hours first. A ladder that was interrupted goes on when its command is
given again, and seeds and methods may be added to it later; a method that is there stays at its rungs. With
--jobs 1 on a machine that does nothing else there are factors in seconds, too.

Every run's learning rate is decayed to its own end. A random-half control belongs into every comparison. Results go to
results/NAME/; a comparison that was interrupted goes on when the same command is given again.

exit code: 0 when finished, 2 for bad usage, 130 if it was interrupted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd compare`."""
    parser.usage = "gsgd compare CONFIG --methods METHOD,METHOD,... [--seeds N] [--budget BUDGET] [--KEY VALUE ...]"
    parser.description = "Train several methods on the same budget, several seeds each, and report with 95% intervals."
    parser.epilog = EXAMPLES
    parser.add_argument("config", metavar="CONFIG", help="a TOML file, or a preset's name")
    parser.add_argument(
        "--methods",
        required=True,
        metavar="METHODS",
        help="comma-separated: baseline, random, loss@1, entropy@6, loss@last, loss@auto, ...; with other values "
        "behind colons: loss@1:keep=0.7:start_share=0.5",
    )
    parser.add_argument("--seeds", type=whole(1), default=3, help="runs of each method (default 3)")
    parser.add_argument("--budget", help="of every run (default: the configuration's)")
    parser.add_argument("--sweep", metavar="KEY=V,V,...", help="tune a key for each method first, by validation")
    parser.add_argument(
        "--target",
        type=number("in (0, 1]", lambda value: 0 < value <= 1),
        help="accuracy to time (default: the baseline's mean final accuracy)",
    )
    parser.add_argument("--ladder", type=whole(3), metavar="N", help="measure speed-ups over N budgets up to --budget")
    parser.add_argument(
        "--tune", action="append", default=[], metavar="KEY=V,V,...", help="with --ladder: tune a key first; repeatable"
    )
    parser.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="of each method at each rung of a ladder (default: all of plain's)",
    )
    parser.add_argument(
        "--inner-only",
        action="store_true",
        help="of a ladder: run methods other than plain training at the inner rungs only, which claims are made of",
    )
    parser.add_argument("--tuning-seeds", type=whole(1), default=1, metavar="N", help="runs of each trial (default 1)")
    parser.add_argument(
        "--jobs",
        type=whole(1),
        default=1,
        metavar="N",
        help="runs of a ladder at a time, threads divided (default 1)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="of a ladder: measure what steps cost, and say how many runs there are to train and for how long",
    )
    parser.add_argument(
        "--executor",
        choices=("debug", "local", "slurm"),
        help="train every run as a job of its own, by submitit: on Slurm, as processes here, or one by one (debug)",
    )
    parser.add_argument(
        "--executor-options",
        default="",
        metavar="NAME=VALUE,...",
        help="of submitit: timeout_min=240,slurm_partition=gpu,gpus_per_node=1,cpus_per_task=8",
    )
    parser.add_argument("--name", help="folder under the results (default: compare-CONFIG-BUDGET)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what came out there, too")
    parser.add_argument("--wait", action="store_true", help="if another command writes there: wait for its end")
    add_keys(parser, "another value of any key of the configuration, for all methods")


def run(options: argparse.Namespace) -> int:
    """`gsgd compare`: returns 0 when finished, 130 if interrupted."""
    from training import config as configs
    from training.comparison.cluster import Cluster, parse_options
    from training.comparison.compare import compare, parse_sweep
    from training.comparison.contenders import parse_contender
    from training.precision import affordable
    from training.ranks import failing_together, launched
    from training.run import running
    from training.run_folder.folders import named
    from training.run_folder.records import OF_COMPARISON

    values = options.key_values
    if "method" in values:
        raise ValueError(f"--method {values['method']}: methods are compared, so name them in --methods")
    if options.budget:
        values["budget"] = options.budget
    with failing_together(launched()):
        config = configs.load(options.config, values)
    config = affordable(config)
    contenders = [parse_contender(text.strip()) for text in options.methods.split(",") if text.strip()]
    if not contenders:
        raise ValueError("--methods names no method")
    if options.executor_options and not options.executor:
        raise ValueError("--executor-options are of an --executor")
    if options.ladder and options.executor:
        raise ValueError("--executor is of a comparison at one budget: a ladder has --jobs")
    if options.ladder:
        return _climb(options, config, contenders)
    if options.tune or options.trials or options.jobs > 1 or options.dry_run or options.inner_only:
        raise ValueError(
            "--tune, --trials, --jobs, --inner-only and --dry-run are of a ladder: give --ladder N, too (or --sweep "
            "KEY=V,V)"
        )
    usual = f"compare-{config.name.replace('/', '-')}-{config.training.budget}"
    name = usual if options.name is None else options.name
    with running(config) as (accelerator, display):
        found = compare(
            config,
            contenders,
            named(options.results, name),
            seeds=options.seeds,
            accelerator=accelerator,
            sweep=parse_sweep(options.sweep) if options.sweep else None,
            target=options.target,
            wait=options.wait,
            display=display,
            cluster=Cluster(options.executor, parse_options(options.executor_options)) if options.executor else None,
        )
    if accelerator.is_main_process:
        show(Console(), found)
        _write_finished(options.json, found.status, found.folder / OF_COMPARISON)
    return 0 if found.status == "finished" else 130


def _climb(options: argparse.Namespace, config: Config, contenders: list[Contender]) -> int:
    from training.comparison import ladder_tables
    from training.comparison.ladder import climb
    from training.comparison.plan import Plan
    from training.comparison.tuning import parse_grid
    from training.run import running
    from training.run_folder.folders import named
    from training.run_folder.records import OF_LADDER

    if options.sweep or options.target:
        raise ValueError("--sweep and --target are of a comparison at one budget: a ladder has --tune")
    usual = f"ladder-{config.name.replace('/', '-')}-{config.training.budget}"
    name = usual if options.name is None else options.name
    grid = parse_grid(options.tune)
    plan = Plan(
        contenders, options.ladder, options.seeds, grid, options.trials, options.tuning_seeds, options.inner_only
    )
    with running(config) as (accelerator, display):
        found = climb(
            config,
            plan,
            named(options.results, name),
            accelerator=accelerator,
            jobs=options.jobs,
            wait=options.wait,
            dry_run=options.dry_run,
            display=display,
        )
    if accelerator.is_main_process:
        ladder_tables.show(Console(), found)
        rows = {"rows": [asdict(row) for row in found.rows]}
        _write_finished(options.json, found.status, found.folder / OF_LADDER, rows)
    return 130 if found.status == "interrupted" else 0


def _write_finished(path: Path | None, status: str, recorded: Path, more: Mapping[str, Any] | None = None) -> None:
    """What was recorded of a comparison that is finished, and `more`, in a file of the user's."""
    if path is not None and status == "finished":
        write_json(path, {**json.loads(recorded.read_text(encoding="utf-8")), **(more or {})})


def show(console: Console, found: Comparison) -> None:
    """The summary as a table, and what it says in words."""
    if found.status != "finished":
        console.print(f"interrupted; the same command goes on from here ({found.folder})")
        return
    tested = any(summary.test_accuracy is not None for summary in found.summaries)
    # Two narrow tables: a terminal of 80 columns shows them whole.
    headings = ["method", "runs", "validation", *(["test"] if tested else []), "over baseline", "over random"]
    accuracies = [
        [summary.method, str(summary.runs), _accuracy(summary)]
        + ([str(summary.test_accuracy or "-")] if tested else [])
        + [each.signed if each else "-" for each in (summary.over_baseline, summary.over_random)]
        for summary in found.summaries
    ]
    print_table(console, headings, accuracies)
    console.print()
    headings = ["method", "steps", "samples", "scoring", f"s to {found.target:.4f}", f"samples to {found.target:.4f}"]
    costs = [
        [
            summary.method,
            f"{summary.steps:.0f}",
            f"{summary.backprop_samples:.0f}",
            f"{100 * summary.scoring_share:.1f}%",
            *_target(summary),
        ]
        for summary in found.summaries
    ]
    print_table(console, headings, costs)
    console.print()
    for label, value in found.tuned.items():
        console.print(f"{label}: tuned to {value}", highlight=False)
    for summary in found.summaries:
        if (line := verdict(summary)) is not None:
            console.print(line, highlight=False)
    console.print(f"results in {found.folder}", highlight=False)


def verdict(summary: MethodSummary) -> str | None:
    """What the difference to the baseline says, in words; None for the baseline."""
    difference = summary.over_baseline
    if difference is None:
        return None
    if math.isnan(difference.half_width):
        return f"{summary.method}: one seed shows no difference from the baseline that could be told from luck"
    if not difference.excludes_zero:
        return f"{summary.method}: no difference from the baseline shown ({difference.signed}, 95%)"
    word = "above" if difference.mean > 0 else "below"
    return f"{summary.method}: {word} the baseline by {abs(difference.mean):.4f} ±{difference.half_width:.4f} (95%)"


def _accuracy(summary: MethodSummary) -> str:
    return f"- ({summary.diverged} diverged)" if summary.diverged else str(summary.val_accuracy or "-")


def _target(summary: MethodSummary) -> tuple[str, str]:
    if summary.seconds_to_target is None or summary.samples_to_target is None:
        return f"{summary.reached} of {summary.runs} runs", "-"
    return f"{summary.seconds_to_target.mean:.0f}", f"{summary.samples_to_target.mean:.0f}"
