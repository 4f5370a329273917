"""`gsgd train`: one run, by its configuration."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsgd.commands.arguments import add_keys
from gsgd.commands.terminal import columns, fitted, two_columns
from gsgd.results import write_json

if TYPE_CHECKING:
    from training.config import Config, Source

EXAMPLES = """\
examples:
  gsgd train bert-tiny                                a small BERT on a book that comes with the package, two minutes
  gsgd train resnet-tiny --method loss@1 --seed 3     a preset with other values
  gsgd train my.toml --data train.parquet --budget 600s
  gsgd train bert-base/loss-1 --dry-run               a few small steps of it, and what all will take
  gsgd train --list                                   the presets: the small ones, and every run of the paper
  gsgd train --keys resnet                            every key, its type and default

  torchrun --nproc-per-node 8 -m gsgd train bert-base/loss-1                        one machine with 8 GPUs
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m gsgd train bert-base/loss-1                                                 two of them, on each
  accelerate launch --num_processes 8 -m gsgd train bert-base/loss-1                 the same by accelerate

A configuration is a flat TOML file, which may name another one as its `base`; each of its keys is an option, too.
Results go to results/NAME/: header.json (configuration, commit, versions, device), evaluations.csv, events for
TensorBoard (tensorboard --logdir results), and the trained model. A run that was interrupted goes on when the same
command is given again.

exit code: 0 when the run is finished, 1 if it diverged, 2 for bad usage, 130 if it was interrupted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd train`."""
    parser.usage = "gsgd train CONFIG [--KEY VALUE ...] [--name NAME] [--results DIR] [--overwrite]"
    parser.description = "Train BERT or ResNet, with or without selection, on your data or what comes with the package."
    parser.epilog = EXAMPLES
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a TOML file, or a preset's name")
    add_keys(parser, "another value of any key of the configuration")
    parser.add_argument("--name", help="folder under the results (default: CONFIG-METHOD-seedN)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--overwrite", action="store_true", help="begin anew: replace the run that is there")
    parser.add_argument("--wait", action="store_true", help="if another command writes there: wait for its end")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write header and evaluations there, too")
    parser.add_argument("--dry-run", action="store_true", help="do a few small steps, and say what the run will take")
    parser.add_argument("--list", action="store_true", help="list the presets")
    parser.add_argument("--keys", metavar="TASK", help="list the keys of a task, such as bert or resnet")


def run(options: argparse.Namespace) -> int:
    """`gsgd train`: returns 0 when finished, 1 if the run diverged, 130 if interrupted."""
    from training import config as configs

    if options.list:
        return _list_presets(configs.presets())
    if options.keys:
        return _list_keys(options.keys)
    if options.config is None:
        raise ValueError("which CONFIG? A TOML file or a preset's name; --list shows the presets")
    from training.ranks import failing_together, launched

    with failing_together(launched()):
        config = configs.load(options.config, options.key_values)
    if options.dry_run:
        return _rehearse(config)
    from training.precision import affordable
    from training.run import running, train
    from training.run_folder.folders import named
    from training.run_folder.schema import DIVERGED, FINISHED

    config = affordable(config)
    settings = config.training
    usual = f"{config.name.replace('/', '-')}-{settings.method}-seed{settings.seed}"
    folder = named(options.results, usual if options.name is None else options.name, replaced=options.overwrite)
    with running(config) as (accelerator, display):
        outcome = train(
            config,
            folder,
            accelerator=accelerator,
            overwrite=options.overwrite,
            wait=options.wait,
            display=display,
        )
    if accelerator.is_main_process:
        last = outcome.evaluations[-1] if outcome.evaluations else None
        if last is not None:
            said = (
                f"{config.name} {settings.method}: validation accuracy {last.val_accuracy:.4f}, loss "
                f"{last.val_loss:.4f} after {last.step} steps, {last.backprop_samples} backpropagated samples, "
                f"{last.wall_clock_s:.0f} s of training ({100 * last.selection_s / last.wall_clock_s:.1f}% selection)"
            )
            print(fitted(said))
        if "test_accuracy" in outcome.header:
            print(f"test accuracy {outcome.header['test_accuracy']:.4f}")
        if options.json is not None:
            write_json(options.json, {**outcome.header, "evaluations": [asdict(each) for each in outcome.evaluations]})
        print(f"{outcome.status}; results in {folder}")
        if outcome.before:
            print(fitted("it had ended before, on the data of then: nothing was trained now; --overwrite begins anew"))
        if outcome.status not in (FINISHED, DIVERGED):
            print("the same command goes on from here")
        if outcome.status == DIVERGED:
            print(fitted(_why_not_finite(outcome.header)), file=sys.stderr)
    return {FINISHED: 0, DIVERGED: 1}.get(outcome.status, 130)


def _why_not_finite(header: dict[str, Any]) -> str:
    """What may help a run whose loss is not finite: a learning rate only where there was something to diverge from."""
    first = header.get("first_loss")
    if first is not None and not math.isfinite(float(first)):
        return "the loss was not finite from the first step on, before anything was learnt: look at the data"
    return "the loss is not finite any more: try a lower max_lr, or clip_norm = 1"


def _rehearse(config: Config) -> int:
    import torch

    from training.run import running
    from training.run.rehearsal import rehearse

    if not torch.accelerator.is_available():
        config = config.with_values({"precision": "no"})  # a processor may take a hundred times as long for others
    with running(config) as (accelerator, _):
        lines = list(rehearse(config, accelerator).lines())
    if accelerator.is_main_process:
        print("\n".join(map(fitted, lines)))
    return 0


def _list_presets(presets: dict[str, Source]) -> int:
    print(two_columns({name: source.in_a_line() for name, source in presets.items()}.items()))
    return 0


def _list_keys(task: str) -> int:
    import textwrap

    from training.config import TASKS
    from training.keys import described
    from training.settings import TrainingSettings

    if task not in TASKS:
        raise ValueError(f"--keys {task!r}: the tasks are {', '.join(TASKS)}")
    indent, width = 8 * " ", columns()
    for kind in (TrainingSettings, TASKS[task][0]):
        print(fitted(f"{(kind.__doc__ or '').splitlines()[0]}\n") + "\n")
        for name, default, help in described(kind):
            print(f"  {name} = {list(default) if isinstance(default, tuple) else default!r}")
            print(textwrap.fill(help, width, initial_indent=indent, subsequent_indent=indent))
        print()
    return 0
