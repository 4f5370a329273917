"""`gsgd bench step`: what selection adds to a training step, measured against the plain step, beside its arithmetic."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from gsgd.commands.arguments import number, whole, wholes
from gsgd.commands.console import bar, print_table
from gsgd.results import command_line, provenance, write_json
from training.bench.models import MODELS, BatchShape, describe_rows
from training.bench.sources import sources_of
from training.bench.steps import PRECISIONS, WARM_UP, Cost, describe_device, device_of, measure

EXAMPLES = """\
examples:
  gsgd bench step                                               BERT-base, exits 1, 6 and 12, 8 kept of 16 x 128 tokens
  gsgd bench step --model resnet50 --batchnorm gross            8 seconds a round: 125 kept of 250 images of 32x32
  gsgd bench step --model bert-small --rounds 21 --json step.json
  gsgd bench step --device cuda --precision bf16 --gross 64 --seq 512
  gsgd bench step --model gpt2-tiny --rounds 3                  a few seconds, to see that it runs
  gsgd bench gpu                                                the cases that matter on a GPU, in one go

What is timed is scoring, selecting, forward and backward pass, without the optimizer; the plain step is forward and
backward pass of as many rows as selection keeps, with the vocabulary head on masked positions, as in all the others.
The floor counts floating point operations at one speed; a pass without gradients runs faster than one with, so that a
measured figure may lie below it.

"last-seen" chooses by the losses of the steps before: no exit scores, and what it costs is the choice alone.
"corrected" is an exit's loss with the error that it had for a row before; "probe" and "predicted" are heads of their
own on what the exit's head reads, their training included; "first N tokens" and "pooled by 2" are the last exit's on a
cheaper form of the batch; "proxy" is a small network's, its training on the kept rows included.

Columns: "operators" counts what a step runs, forward and backward; "waits" those for which the host waits until a GPU
has caught up, or on a CPU would have to, and --json says in which lines. Both are of eager steps; in brackets is what
torch itself reports of the step as it was timed, on CUDA. "captured" is what scoring keeps for the training pass; where
it is 0, there were two passes. "must save" is the share of steps that selection must save to pay.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd bench step`."""
    parser.description, parser.epilog = __doc__, EXAMPLES
    models = f"{', '.join(MODELS)} (default: bert-base)"
    parser.add_argument("--model", choices=MODELS, default="bert-base", metavar="MODEL", help=models)
    parser.add_argument("--exits", type=wholes(1), help="exit layers, such as 1,6,12 (default: first, middle, last)")
    parser.add_argument("--gross", type=whole(1), help="rows of the gross batch (default 16; resnet50: 250)")
    share = number("in (0, 1]", lambda value: 0 < value <= 1)
    parser.add_argument("--keep", type=share, default=0.5, help="share of them to train on (default 0.5)")
    parser.add_argument("--seq", type=whole(1), default=128, help="tokens of a row (default 128)")
    parser.add_argument("--size", type=whole(1), help="height and width of an image (default 32; vit: 224)")
    rate = number("in [0, 1)", lambda value: 0 <= value < 1)
    parser.add_argument("--dropout", type=rate, metavar="RATE", help="of all dropout (default: the model's own)")
    parser.add_argument(
        "--batchnorm", choices=("kept", "gross"), default="gross", help="where the pass is shared (default gross)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 or mps")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="bf16 is the device's autocast; tf32 is for CUDA"
    )
    parser.add_argument("--compile", action="store_true", help="compile plain and selecting steps by torch.compile")
    parser.add_argument("--rounds", type=whole(1), default=9, help="interleaved timings of each way (default 9)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")


def quiet_profiler() -> None:
    """Keep torch's profiler, by which memory is measured, from saying so; call it before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run(options: argparse.Namespace) -> int:
    """`gsgd bench step`: returns 0."""
    quiet_profiler()
    device_of(options.device)  # before a large model is built for nothing
    shape = BatchShape(gross=options.gross, seq=options.seq, size=options.size, dropout=options.dropout)
    model, batch, exits = MODELS[options.model](shape)
    from gsgd.sift import count_exits

    with bar(Console(stderr=True), "rounds", options.rounds + WARM_UP) as moving:
        plain, costs = measure(
            model,
            batch,
            exits=options.exits or exits,
            keep=options.keep,
            rounds=options.rounds,
            batchnorm=options.batchnorm,
            precision=options.precision,
            device=options.device,
            compile=options.compile,
            sources=sources_of(model, batch, count_exits(model)),
            progress=moving.advance,
        )
    plain["row"] = describe_rows(batch)
    show(Console(), options, plain, costs)
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        steps = [{"exit_layer": exit, "way": way, **asdict(cost)} for (exit, way), cost in costs.items()]
        content = {"header": header(options.device), "settings": settings, "plain": plain, "steps": steps}
        write_json(options.json, content)
    return 0


def header(device: str) -> dict[str, Any]:
    """Where figures come from: date, commit, versions, command, and the device by its name."""
    import torch

    return {
        **provenance(),
        "command": command_line(),
        "threads": torch.get_num_threads(),
        "device": describe_device(device_of(device)),
        "cuda": torch.version.cuda,
    }


def show(
    console: Console, options: argparse.Namespace, plain: dict[str, Any], costs: dict[tuple[int, str], Cost]
) -> None:
    """The device, the plain step, and a row for each way to select."""
    import torch

    console.print(
        f"{describe_device(device_of(options.device))}; torch {torch.__version__}\n"
        f"{options.model}, {plain['rows']} rows of {plain['row']} kept, {options.precision}, "
        f"{'compiled' if options.compile else 'eager'}\n"
        f"A plain step takes {plain['median_s']:.3f} s and {megabytes(plain['peak_bytes'])}, runs {plain['operators']} "
        f"operators and waits {waits(plain['waits'], plain['cuda_waits'])} times; "
        f"it does {plain['flops'] / 1e9:.3g} GFLOP at {100 * plain['matrix_share']:.0f}% of the rate of a matrix "
        f"product, {plain['matrix_rate'] / 1e9:.0f} GFLOP/s.",
        highlight=False,
    )
    headings = ("exit", "way", "time", "floor", "operators", "waits", "peak", "captured", "must save")
    rows = [
        (
            str(exit_layer or ""),
            way,
            f"{cost.extra_time:+.1%}",
            f"{cost.extra_flops:+.1%}",
            *counts(asdict(cost)),
            f"{cost.extra_time / (1 + cost.extra_time):.1%}",
        )
        for (exit_layer, way), cost in costs.items()
    ]
    print_table(console, headings, rows, left=(1,))


def counts(step: dict[str, Any]) -> tuple[str, str, str, str]:
    """Of a step: its operators, its waits, the peak of its memory and what it captured."""
    captured = megabytes(step["captured_bytes"]) if "captured_bytes" in step else ""
    waiting = waits(step["waits"], step["cuda_waits"])
    return str(step["operators"]), waiting, megabytes(step["peak_bytes"]), captured


def megabytes(size: int | None) -> str:
    """A number of bytes, such as "1234 MB"."""
    return "?" if size is None else f"{size / 1e6:.0f} MB"


def waits(counted: int, reported: int | None) -> str:
    """How often a step waits as counted by operators, and, where torch reports it, as it says."""
    return str(counted) if reported is None else f"{counted} ({reported})"
