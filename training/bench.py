"""`gsgd bench step`: what selection adds to a training step, measured against the plain step, beside its arithmetic."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gsgd.memory import keep_freed_memory
from gsgd.results import command_line, provenance, write_json
from training.cli import refuse

EXAMPLES = """\
examples:
  gsgd bench step                                               BERT-base, exits 1, 6 and 12, 8 kept of 16 x 128 tokens
  gsgd bench step --model resnet50 --batchnorm gross            8 seconds a round: 125 kept of 250 images of 32x32
  gsgd bench step --model bert-small --rounds 21 --json step.json

What is timed is scoring, selecting, forward and backward pass, without the optimizer; the plain step is forward and
backward pass of as many rows as selection keeps, with the vocabulary head on masked positions, as in all the others.
The floor counts floating point operations at one speed; a pass without gradients runs faster than one with, so that a
measured figure may lie below it.
"""


@dataclass(frozen=True)
class Cost:
    """A way to do a step, against the plain step: ratios less 1.

    Attributes:
        extra_time: median over rounds of the extra time, as a share of the plain step's.
        extra_flops: the same of floating point operations, counted in the step itself.
        median_s: seconds.
        peak_bytes: of memory that torch has allocated, above what it had before the step.
        recorded_bytes: outputs of the scoring pass that were kept for the training pass.
    """

    extra_time: float
    extra_flops: float
    median_s: float
    peak_bytes: int
    recorded_bytes: int


def main(arguments: Sequence[str]) -> int:
    """`gsgd bench step`: returns 0, or 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="gsgd bench step",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", choices=MODELS, default="bert-base", help="default: bert-base")
    parser.add_argument("--exits", type=_numbers, help="exit layers, such as 1,6,12 (default: first, middle, last)")
    parser.add_argument("--gross", type=_positive, help="rows of the gross batch (default 16; resnet50: 250)")
    parser.add_argument("--keep", type=float, default=0.5, help="share of them to train on (default 0.5)")
    parser.add_argument("--seq", type=_positive, default=128, help="tokens of a row (default 128)")
    parser.add_argument("--size", type=_positive, default=32, help="height and width of an image (default 32)")
    parser.add_argument("--batchnorm", choices=("kept", "gross"), default="gross", help="default: gross")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="bf16 is autocast")
    parser.add_argument("--rounds", type=_positive, default=9, help="interleaved timings of each way (default 9)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    options = parser.parse_args(arguments)
    # Memory is measured by torch's profiler, which would say so; read when torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return _main(options)
    except (ValueError, ModuleNotFoundError) as error:
        return refuse("bench step", error)


def _main(options: argparse.Namespace) -> int:
    model, batch, exits = MODELS[options.model](options)
    exits = options.exits or exits
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rounds", total=options.rounds + WARM_UP)
        plain, costs = measure(
            model,
            batch,
            exits=exits,
            keep=options.keep,
            rounds=options.rounds,
            batchnorm=options.batchnorm,
            precision=options.precision,
            progress=lambda: progress.advance(bar),
        )
    show(Console(), options, plain, costs)
    if options.json:
        header = {**provenance(), "command": command_line(), "threads": _threads()}
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        rows = [{"exit_layer": exit, "way": way, **asdict(cost)} for (exit, way), cost in costs.items()]
        write_json(options.json, {"header": header, "settings": settings, "plain": plain, "steps": rows})
    return 0


def _bert(layers: int, hidden: int) -> Callable[[argparse.Namespace], tuple[Any, dict[str, Any], list[int]]]:
    def build(options: argparse.Namespace) -> tuple[Any, dict[str, Any], list[int]]:
        import torch
        from transformers import BertConfig, BertForPreTraining

        from gsgd.sift.scoring_pass.row_losses import IGNORED

        sizes: dict[str, Any] = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": hidden // 64,
        }
        config = BertConfig(**sizes, intermediate_size=4 * hidden, max_position_embeddings=max(512, options.seq))
        torch.manual_seed(0)
        model = BertForPreTraining(config)
        rows = options.gross or 16
        ids = torch.randint(config.vocab_size, (rows, options.seq))
        # The same number of masked positions in each row, as the paper's rate gives on average.
        masked = torch.rand(rows, options.seq).argsort(dim=1) < max(1, round(0.15 * options.seq))
        labels = torch.where(masked, ids, IGNORED)
        batch = {"input_ids": ids, "labels": labels, "next_sentence_label": torch.randint(2, (rows,))}
        return model, batch, sorted({1, max(1, layers // 2), layers})

    return build


def _resnet50(options: argparse.Namespace) -> tuple[Any, dict[str, Any], list[int]]:
    import torch
    from transformers import ResNetConfig

    from training.resnet import EarlyExitResNet

    torch.manual_seed(0)
    rows, size = options.gross or 250, options.size
    batch = {"pixel_values": torch.randn(rows, 3, size, size), "labels": torch.randint(100, (rows,))}
    config: Any = ResNetConfig
    # As the presets train it: convolutions and BatchNorm are faster so on a CPU, too.
    last = torch.channels_last
    model: Any = EarlyExitResNet(config(num_labels=100))
    return model.to(memory_format=last), {**batch, "pixel_values": batch["pixel_values"].to(memory_format=last)}, [1, 2]


MODELS: dict[str, Callable[[argparse.Namespace], tuple[Any, dict[str, Any], list[int]]]] = {
    "bert-base": _bert(12, 768),
    "bert-small": _bert(4, 512),
    "resnet50": _resnet50,
}
WARM_UP = 2
PEER = "Composer"


def measure(
    model: Any,
    batch: dict[str, Any],
    *,
    exits: Sequence[int],
    keep: float,
    rounds: int,
    batchnorm: str = "kept",
    precision: str = "float32",
    progress: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], dict[tuple[int, str], Cost]]:
    """Time steps of all ways in turn, in one process, and count what they compute.

    Args:
        model: with exits; it is put on the GPU if there is one.
        batch: the gross batch.
        exits: exit layers.
        rounds: timed steps of each way, after WARM_UP others.

    Returns:
        Of the plain step: `median_s`, `flops`, `peak_bytes`, `rows`. And (exit, way) -> cost, of the ways
        "two passes", "shared", and PEER where it is installed.

    Raises:
        ValueError: for an exit that the model has not.
    """
    import torch

    from gsgd.sift import Sift, count_exits
    from gsgd.sift.batch import take_rows

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as in training
    model = model.to(device).train()
    batch = {name: value.to(device) for name, value in batch.items()}
    common: dict[str, Any] = {"labelled_head": batch["labels"].dim() > 1, "keep": keep, "batchnorm": batchnorm}
    kept = max(1, round(keep * len(batch["labels"])))
    rows = take_rows(batch, torch.arange(kept, device=device))
    plain_key = (0, "plain")
    sifts: dict[tuple[int, str], tuple[Sift, dict[str, Any]]] = {plain_key: (Sift(model, **common, end_step=0), rows)}
    for exit_layer in exits:
        for way, reuse in (("two passes", False), ("shared", True)):
            sifts[exit_layer, way] = (Sift(model, exit_layer=exit_layer, reuse=reuse, **common), batch)

    peer = _peer()
    if peer is not None:
        # The training pass is the plain step's, on rows that the peer chooses by the exact loss.
        sifts[count_exits(model), PEER] = (sifts[plain_key][0], batch)

    def step(key: tuple[int, str]) -> int:
        sift, inputs = sifts[key]
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with autocast:
            if key[1] == PEER:
                inputs = take_rows(inputs, _peers_choice(peer, model, inputs, keep))
            chosen = sift.choose(inputs)
        recorded = sift.recorded_bytes
        with autocast:
            loss = sift.forward_kept(chosen).loss
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return recorded

    seconds: dict[Any, list[float]] = {key: [] for key in sifts}
    for number in range(WARM_UP + rounds):
        for key in sifts:
            model.zero_grad()
            begin = time.perf_counter()
            step(key)
            if number >= WARM_UP:
                seconds[key].append(time.perf_counter() - begin)
        progress()
    counted = {key: _flops(model, functools.partial(step, key)) for key in sifts}
    memory = {key: _peak(model, device, functools.partial(step, key)) for key in sifts}
    plain = np.array(seconds[plain_key])
    costs = {
        key: Cost(
            extra_time=float(np.median(np.array(seconds[key]) / plain)) - 1,
            extra_flops=counted[key] / counted[plain_key] - 1,
            median_s=float(np.median(seconds[key])),
            peak_bytes=memory[key][0],
            recorded_bytes=memory[key][1],
        )
        for key in sifts
        if key != plain_key
    }
    found = {
        "median_s": float(np.median(plain)),
        "flops": counted[plain_key],
        "peak_bytes": memory[plain_key][0],
        "rows": kept,
    }
    return found, costs


def _peer() -> Any:
    """Composer's selection (`composer.algorithms.selective_backprop`), where it is installed."""
    try:
        from composer.algorithms.selective_backprop import select_using_loss  # type: ignore[import-not-found]
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("composer"):
            raise
        return None
    return select_using_loss


def _peers_choice(select_using_loss: Any, model: Any, batch: dict[str, Any], keep: float) -> Any:
    """Rows that Composer keeps: a full pass over the gross batch, and a draw by the loss's percentile.

    It takes one tensor of inputs and one of labels; here both are the rows' numbers.
    """
    import torch
    import torch.nn.functional as F

    from gsgd.sift.scoring_pass.row_losses import IGNORED

    inputs = {name: value for name, value in batch.items() if name not in ("labels", "next_sentence_label")}
    labels = batch["labels"]

    def predictions(rows: Any) -> Any:
        output = model(**inputs)
        return output.prediction_logits if hasattr(output, "prediction_logits") else output.logits

    def losses(logits: Any, rows: Any, reduction: str = "none") -> Any:
        each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction, ignore_index=IGNORED)
        return each.view(len(labels), -1).sum(1) / (labels != IGNORED).view(len(labels), -1).sum(1).clamp(min=1)

    rows = torch.arange(len(labels), device=labels.device)
    return select_using_loss(rows, rows, predictions, losses, keep)[0]


def _flops(model: Any, step: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _peak(model: Any, device: Any, step: Callable[[], int]) -> tuple[int, int]:
    """(bytes at the peak above those before, bytes recorded) of a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model.zero_grad()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        recorded = step()
        return torch.cuda.max_memory_allocated(device) - before, recorded
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        recorded = step()
    # Every allocation and release, the latter negative, in the order of time.
    kineto: Any = profiled.profiler
    changes = [
        (event.start_ns(), event.nbytes()) for event in kineto.kineto_results.events() if event.name() == "[memory]"
    ]
    changes.sort(key=lambda change: change[0])
    return max(0, *itertools.accumulate(size for _, size in changes)), recorded


def show(
    console: Console, options: argparse.Namespace, plain: dict[str, Any], costs: dict[tuple[int, str], Cost]
) -> None:
    """The table, and from which share of saved steps on selection pays."""
    shape = f"{options.size}x{options.size}" if options.model == "resnet50" else f"{options.seq} tokens"
    console.print(
        f"{options.model}, {plain['rows']} rows of {shape} kept, {options.precision}, {_threads()} threads; "
        f"a plain step takes {plain['median_s']:.3f} s, {plain['flops'] / 1e9:.0f} GFLOP, {_mb(plain['peak_bytes'])}",
        highlight=False,
    )
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("exit", justify="right")
    for heading in ("way", "extra time", "floor", "peak memory", "recorded", "pays if it saves"):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for (exit_layer, way), cost in costs.items():
        saved = cost.extra_time / (1 + cost.extra_time)
        table.add_row(
            str(exit_layer),
            way,
            f"{100 * cost.extra_time:+.1f}%",
            f"{100 * cost.extra_flops:+.1f}%",
            _mb(cost.peak_bytes),
            _mb(cost.recorded_bytes),
            f"{100 * saved:.1f}% of steps",
        )
    console.print(table)


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]
