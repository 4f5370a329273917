"""`gsgd bench gpu`: what selection costs on a GPU, the cases that matter in one go, beside the goals."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import gc
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gsgd.cli import main
from gsgd.commands.arguments import number, whole
from gsgd.commands.console import print_table
from gsgd.commands.terminal import fitted
from gsgd.results import check_writable
from training.bench.cli import counts, header, quiet_profiler
from training.bench.models import MODELS, BatchShape, describe_rows
from training.bench.steps import Cost, device_of, measure

EXAMPLES = """\
examples:
  gsgd bench gpu                                   all cases on the first CUDA device, 8 minutes
  gsgd bench gpu --only bert --out bert.jsonl      those whose name has "bert"
  gsgd bench gpu --toy --device cpu                the same cases, tiny, on a CPU: whether it all runs
  gsgd bench gpu --list                            the cases, in their order

Cases come in the order of their importance. Each is appended to --out as soon as it is measured, as a line of JSON,
after a line that says where the figures come from; so nothing is lost when time runs out. No case begins after --limit
seconds, and one that has begun ends at its next round; building and compiling are not cut short. What was left out is
listed at the end. The columns are those of `gsgd bench step`.

exit code: 0, 1 if a case failed, 2 for bad usage
"""
BERT_GOALS = {
    "two passes": {1: 0.10, 6: 0.37, 12: 0.70},
    "shared": {1: 0.06, 6: 0.20, 12: 0.36},
}
MATRIX_SHARE_GOAL = 0.45
RESNET_FLOORS_GOAL = 1.2


@dataclass(frozen=True)
class Case:
    """A model, a gross batch, and how its steps are run.

    Attributes:
        name: what is printed, and searched by `--only`.
        model, toy: of `training.bench.models.MODELS`, the one that is meant and its small stand-in.
        shape: of the gross batch, in full size.
        exits, toy_exits: exit layers of the two.
        compile: whether the engine compiles plain and selecting steps.
    """

    name: str
    model: str
    shape: BatchShape
    exits: tuple[int, ...]
    toy: str
    toy_exits: tuple[int, ...]
    compile: bool = False


def _compiled(case: Case) -> list[Case]:
    """The case compiled, one for each exit, because compiling takes most of their time."""
    return [
        dataclasses.replace(case, name=f"{case.name}, compiled, exit {at}", exits=(at,), toy_exits=(toy,), compile=True)
        for at, toy in zip(case.exits, case.toy_exits, strict=True)
    ]


_DROPPED, _UNDROPPED = (
    Case(name, "bert-base", BatchShape(gross=64, seq=512, dropout=rate), (1, 6, 12), "bert-tiny", (1, 2, 3))
    for name, rate in (("bert, dropout .1", 0.1), ("bert, dropout 0", 0.0))
)
_LARGE = Case("resnet50, 224", "resnet50", BatchShape(gross=128, size=224), (1, 2), "resnet-tiny", (1, 2))
_SMALL = Case("resnet50, 32", "resnet50", BatchShape(gross=512, size=32), (1, 2), "resnet-tiny", (1, 2))
_LLAMA = Case("llama", "llama", BatchShape(gross=16, seq=1024), (1, 8, 16), "llama-tiny", (1, 2, 3))
CASES = [
    *(_DROPPED, _UNDROPPED, *_compiled(_DROPPED), _LARGE, *_compiled(_LARGE)),
    *(_LLAMA, *_compiled(_LLAMA), _SMALL, *_compiled(_SMALL), *_compiled(_UNDROPPED)),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd bench gpu`."""
    parser.description, parser.epilog = __doc__, EXAMPLES
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, mps, or cpu, which only --toy suits")
    seconds = number("of seconds, 0 or more", lambda value: 0 <= value < math.inf)
    parser.add_argument("--limit", type=seconds, default=480.0, metavar="SECONDS", help="default: 480")
    parser.add_argument("--rounds", type=whole(1), default=9, help="timed steps of each way (default 9)")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases with this in their name, such as bert")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    parser.add_argument("--toy", action="store_true", help="tiny models and batches: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("gpu_costs.jsonl"), help="default: gpu_costs.jsonl")
    parser.add_argument("--list", action="store_true", help="list the cases")


def run(options: argparse.Namespace) -> int:
    """`gsgd bench gpu`: returns 0, or 1 if a case failed."""
    cases = [case for case in CASES if options.only in case.name and not (options.eager and case.compile)]
    if options.list:
        for case in cases:
            print(fitted(f"{case.name}: {case.shape.gross} rows, exits {', '.join(map(str, case.exits))}"))
        return 0
    if not cases:
        raise ValueError(f"--only {options.only!r}: no case has this in its name; --list shows them")
    quiet_profiler()
    device_of(options.device)
    check_writable(options.out)
    return _measure_all(cases, options)


def _measure_all(cases: Sequence[Case], options: argparse.Namespace) -> int:
    until = time.monotonic() + options.limit
    about = {**header(options.device), "precision": "bf16", "toy": options.toy}
    append_line(options.out, {"header": about})
    versions = ", ".join(f"{name} {about['versions'].get(name, '?')}" for name in ("gsgd", "torch", "transformers"))
    print(fitted(f"{about['device']}; {versions}; commit {about['commit']}\n  {about['command']}"), flush=True)
    results, left = [], []
    for case in cases:
        if time.monotonic() > until:
            left.append(case.name)
            continue
        result = _measure_one(case, options, until)
        append_line(options.out, result)
        results.append(result)
        print(fitted(f"{case.name}: {result.get('error') or _in_short(result)}"), flush=True)
    show(Console(), results)
    if left:
        append_line(options.out, {"left_out": left})
        print(fitted(f"not measured, for want of time: {'; '.join(left)}"))
    print(f"written to {options.out}")
    return int(any("error" in result for result in results))


def _measure_one(case: Case, options: argparse.Namespace, until: float) -> dict[str, Any]:
    """The figures of a case, or under "error" why there are none: the other cases shall not suffer."""
    begin = time.monotonic()
    about: dict[str, Any] = {"case": case.name, "compiled": case.compile}
    try:
        about |= _figures(case, options, until)
    except Exception as error:
        return {**about, "error": f"{type(error).__name__}: {str(error)[:500]}"}
    finally:
        _free(case.compile)
    return {**about, "case_s": round(time.monotonic() - begin, 1)}


def _in_short(result: dict[str, Any]) -> str:
    rate = result["plain"]["matrix_rate"] / 1e12
    return f"{result['plain']['rounds']} rounds in {result['case_s']:.0f} s; matrix products at {rate:.3g} TFLOP/s"


def _figures(case: Case, options: argparse.Namespace, until: float) -> dict[str, Any]:
    shape = dataclasses.replace(case.shape, gross=8, seq=16, size=32) if options.toy else case.shape
    model, batch, _ = MODELS[case.toy if options.toy else case.model](shape)
    plain, costs = measure(
        model,
        batch,
        exits=case.toy_exits if options.toy else case.exits,
        keep=0.5,
        rounds=options.rounds,
        batchnorm="gross",
        precision="bf16",
        device=options.device,
        compile=case.compile,
        until=until,
    )
    goals = not options.toy  # they are of the large models
    steps = [
        {"exit_layer": exit, "way": way, **dataclasses.asdict(cost), "goal": _goal(case, exit, way, cost, goals)}
        for (exit, way), cost in costs.items()
    ]
    plain["goal_matrix_share"] = MATRIX_SHARE_GOAL if goals and case.compile else None
    return {"row": describe_rows(batch), "plain": plain, "steps": steps}


def _goal(case: Case, exit_layer: int, way: str, cost: Cost, wanted: bool) -> float | None:
    """The extra time that this way shall not exceed, as a share of the plain step's; None where none is set."""
    if not wanted:
        return None
    if case.model == "bert-base" and way in BERT_GOALS:
        return BERT_GOALS["shared" if case.compile else way][exit_layer]
    return RESNET_FLOORS_GOAL * cost.extra_flops if case.name.startswith("resnet50, 224") else None


def _free(compiled: bool) -> None:
    """Give the memory of a case, and what was compiled for it, back to the next."""
    import torch

    gc.collect()
    if compiled:
        torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def show(console: Console, results: Sequence[dict[str, Any]]) -> None:
    """For each case that was measured its plain step, with the share of the matrix rate, and a row for each way."""
    headings = ("exit", "way", "time", "goal", "floor", "operators", "waits", "peak", "captured")
    for result in results:
        if "error" in result:
            continue
        plain, goal = result["plain"], result["plain"]["goal_matrix_share"]
        share = f"{plain['matrix_share']:.0%} of the matrix rate" + ("" if goal is None else f" (goal {goal:.0%})")
        console.print(f"\n{result['case']}: plain step {1000 * plain['median_s']:.1f} ms, {share}", highlight=False)
        rows = [("", "plain", "", "", "", *counts(plain))]
        for step in result["steps"]:
            goal = "" if step["goal"] is None else f"{step['goal']:+.0%}"
            time_and_floor = f"{step['extra_time']:+.1%}", goal, f"{step['extra_flops']:+.1%}"
            rows.append((str(step["exit_layer"]), step["way"], *time_and_floor, *counts(step)))
        print_table(console, headings, rows, left=(1,))


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append a line of JSON by one write that is on the disk when this returns, so a crash leaves whole lines.

    Raises:
        OSError: if the disk has no room for it; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(content) + "\n").encode()
    with open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(line) < len(line):  # a disk that is nearly full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        except OSError as error:
            file.truncate(before)
            error.filename = str(path)
            raise


if __name__ == "__main__":
    sys.exit(main(["bench", "gpu", *sys.argv[1:]]))
