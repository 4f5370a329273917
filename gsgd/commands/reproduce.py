"""`gsgd reproduce`: the other commands in order, from the checks to the report, each as a child process.

A command skips or resumes by itself what it did before; what has a finished header is not even started.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import fnmatch
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gsgd.commands.arguments import EXTRAS, install
from gsgd.commands.terminal import fitted
from gsgd.locks import LOCK, one_writer
from gsgd.results import provenance

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
PACKAGES = Path(__file__).resolve().parents[2]
CONFIGS = PACKAGES / "training" / "configs"
BERT_ROWS, BERT_ROWS_PER_GPU, PAPER_GPUS = 256, 32, 8
"""Of a step of the paper, at most at a time on a GPU, and its number of GPUs."""
WRITTEN = (
    *("compare.json", "summary.csv", "header.json", "evaluations.csv", "meters.csv", "checkpoint.pt"),
    *("readings.csv", "live.csv"),  # one table, by its name of today and by an older one
    *("model/config.json", "model/generation_config.json", "model/model*.safetensors", "model/model*.index.json"),
    *("tensorboard/events.out.tfevents.[0-9]*.*", "rows/rank-*-part-*.parquet", ".*.[0-9]*.tmp", LOCK),
)
"""Names of the files in the folders of stages."""
_ON_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of Linux' prctl.h


@dataclass(frozen=True)
class Stage:
    """A command line, as a user would type it.

    Attributes:
        seconds: that it takes, about; of the laptop scale.
        header: the file that says, when all is done, how it was made; none if the stage is quick and run each time.
    """

    name: str
    line: str
    seconds: float = 0.0
    header: str | None = None

    def words(self, results: Path) -> list[str]:
        """The command line with `results` as its folder of results."""
        return [*self.line.split(), *([] if results == Path("results") else ["--results", str(results)])]

    def done(self, results: Path) -> str | None:
        """When and by what it was finished, in words; None if it was not."""
        if self.header is None:
            return None
        try:
            content = json.loads((results / self.header).read_text(encoding="utf-8"))
            checks, made = content.get("checks"), content.get("header", content)
            status = "finished" if "summary" in content else made.get("status")
            if checks is not None and all(check["status"] == check["expected"] for check in checks):
                status = "finished"
            if status not in ("finished", "diverged"):
                return None
            now = provenance()
            same = (made["commit"], made["versions"].get("gsgd")) == (now["commit"], now["versions"].get("gsgd"))
            return f"{status} {made['date'][:10]}{'' if same else ' by other code; --fresh begins anew'}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # not there, or not understood: the command itself says what is wrong

    def forget(self, results: Path) -> None:
        """Remove the folder that it alone writes to; of `gsgd verify` the file that says that it is done.

        Raises:
            ValueError: if another command writes there.
        """
        if self is VERIFY:
            (results / str(self.header)).unlink(missing_ok=True)
        elif (folder := self.own_folder(results)) is not None:
            with one_writer(folder):
                shutil.rmtree(folder)

    def own_folder(self, results: Path) -> Path | None:
        """The folder that it alone writes to; None if there is none.

        Raises:
            ValueError: if it is a link, or holds what no stage writes.
        """
        folder = None if self.header is None or self is VERIFY else (results / self.header).parent
        if folder is None or not os.path.lexists(folder):
            return None
        if not folder.is_dir() or folder.is_symlink():
            raise ValueError(f"{folder} is no folder of a stage, but a link or a file: --fresh does not remove it")
        below = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        strange = [path for path in below if path.is_symlink() or not any(map(path.match, WRITTEN))]
        if strange:
            raise ValueError(f"{folder} holds what no stage writes, such as {min(strange)}: --fresh does not remove it")
        return folder


VERIFY = Stage("verify", "gsgd verify", 35.0, "theory/verify.json")
LAST = (Stage("figures", "gsgd figures", 45.0), Stage("report", "gsgd report", 30.0))


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


def paper(gpus: int, only: str | None) -> tuple[list[Stage], str]:
    """The paper's runs, BERT's on so many GPUs, and the plan for people: hours, where they are from, and the disk.

    Raises:
        ValueError: if the paper's rows cannot be dealt out evenly to the GPUs, or `only` matches no run.
    """
    if gpus < 1 or BERT_ROWS % gpus:
        raise ValueError(f"--gpus {gpus} must be a power of two of at most {BERT_ROWS}, the rows of the paper's step")
    rows = min(BERT_ROWS_PER_GPU, BERT_ROWS // gpus)
    split = f" --batch_size {rows} --accumulation_steps {BERT_ROWS // (gpus * rows)}"
    on_many = "gsgd" if gpus == 1 else f"torchrun --nproc-per-node {gpus} -m gsgd"
    about, families = table("paper.csv")
    plan = [*about, ""]
    plan.append(f"{'run':33}runs  GPUs  hours each  to 64%")
    known = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.toml")]
    known = sorted([*known, *(row["preset"] for row in table("runs.csv")[1])])
    stages, total = [], 0.0
    for row in families:
        runs = fnmatch.filter(known, row["preset"])
        if only is not None:
            runs = [run for run in runs if fnmatch.fnmatchcase(run, only) or fnmatch.fnmatchcase(run, f"{only}/*")]
        many = row["gpus"] != "1"
        hours = float(row["hours"]) * (int(row["gpus"]) / gpus if many else 1)
        total += hours * len(runs)
        if runs:
            shown = f"{row['preset']:33}{len(runs):4}  {gpus if many else 1:4}  {hours:10.1f}  {row['hours_to_64']:>6}"
            plan.append(shown.rstrip())
        for run in runs:
            words = f"{on_many} train {run}{split}" if many else f"gsgd train {run}"
            stages.append(Stage(run, f"{words} --name paper/{run}", header=f"paper/{run}/header.json"))
    if not stages:
        raise ValueError(f"--only {only!r} matches no run of the paper; `gsgd train --list` names them")
    plan += ["", f"{len(stages)} runs, one after another: {total:,.0f} hours, {total / 24:.1f} days"]
    return [*([] if only else [VERIFY]), *stages, *LAST], "\n".join(plan)


def table(name: str) -> tuple[list[str], list[dict[str, str]]]:
    """(lines of comment above, rows) of a table beside the configurations."""
    lines = (CONFIGS / name).read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [line[2:] for line in lines if line.startswith("#")], list(rows)


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


def run_command(words: Sequence[str]) -> int:
    """Run "gsgd ..." or "torchrun ..." as a child and return its exit code, 130 if it was interrupted.

    The terminal tells Ctrl-C to the child, too, which writes its checkpoint: here it is only waited for.
    """
    module = {"gsgd": "gsgd", "torchrun": "torch.distributed.run"}[words[0]]
    prepare = _ends_with_parent() if sys.platform == "linux" else None
    # The child is to import the very gsgd that we are, not one in the folder where we were called.
    environment = {**os.environ} if Path.cwd() == PACKAGES else {**os.environ, "PYTHONSAFEPATH": "1"}
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        line = [sys.executable, "-m", module, *words[1:]]
        with subprocess.Popen(line, env=environment, preexec_fn=prepare) as child:
            signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
            code = child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if told or code in (-signal.SIGINT, -signal.SIGTERM):
        return 130
    return code if code >= 0 else 128 - code


def _ends_with_parent() -> Callable[[], None]:
    """What a child does first on Linux: asks for SIGTERM when we end, however we end. It writes its checkpoint then."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_ON_PARENTS_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # which has ended since
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
