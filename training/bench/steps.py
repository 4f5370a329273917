"""What ways to do a training step cost, measured in turn in one process: time, operations, operators, waits, memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsgd.host import finished, processor
from gsgd.memory import keep_freed_memory
from training.bench.sources import Ways

WARM_UP = 2
STEPS_BETWEEN_WAITS = 3
"""Timed together on a device, because the host runs ahead in training: what it does while the device computes the step
before costs nothing."""
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Cost:
    """A way to do a step, against the plain step: ratios less 1.

    Attributes:
        extra_time: median over rounds of the extra time, as a share of the plain step's.
        extra_flops: the same of floating point operations, counted in the step itself.
        median_s: seconds.
        host_s: median seconds that the host took for its part of a step; where a device computes, less than `median_s`
            means that the host runs ahead.
        operators: ATen operators of the step, forward and backward, run eagerly.
        waits: how many of them make the host wait for a GPU, or would.
        waiting: those, as "operation at file:line" -> times.
        peak_bytes: of memory that torch has allocated, above what it had before the step; None where torch does not
            tell (mps).
        captured_bytes: outputs of the scoring pass that were kept for the training pass.
        cuda_waits: what torch itself reports of them on CUDA, of the compiled step if it is compiled; else None.
    """

    extra_time: float
    extra_flops: float
    median_s: float
    host_s: float
    operators: int
    waits: int
    waiting: dict[str, int]
    peak_bytes: int | None
    captured_bytes: int
    cuda_waits: int | None = None


def device_of(name: str) -> Any:
    """The device of a name such as "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ValueError: if there is no such device, or torch cannot use it.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {name!r} must be cpu, cuda, cuda:N or mps")
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= found:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds {found or 'no'} {device.type} device here")
    return device


def describe_device(device: Any) -> str:
    """The device's name, such as "NVIDIA H200", or "AMD EPYC, 2 cores, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{processor()} by Metal"
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def measure(
    model: Any,
    batch: dict[str, Any],
    *,
    exits: Sequence[int],
    keep: float,
    rounds: int,
    batchnorm: str = "kept",
    precision: str = "float32",
    device: str = "cpu",
    compile: bool = False,
    sources: Ways | None = None,
    until: float | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], dict[tuple[int, str], Cost]]:
    """Time steps of all ways in turn, in one process, and count what they compute.

    Args:
        model: with exits; it is put on the device.
        batch: the gross batch.
        exits: exit layers.
        rounds: timed steps of each way, after WARM_UP others.
        batchnorm: the option `batchnorm` where the pass is shared; two passes have "kept".
        precision: one of PRECISIONS; "float32" is torch's default, in which CUDA's convolutions are TF32, "tf32" has
            matrix products so, too, and "bf16" is autocast.
        compile: whether the engine compiles plain and selecting steps; operations, operators and waits are counted in
            eager steps all the same, since compiled ones hide them.
        sources: other ways to choose, and the engine's options that make them (`training.bench.sources`).
        until: the time of `time.monotonic` after which no round is begun, but the first timed one.

    Returns:
        Of the plain step: `median_s`, `host_s`, `flops`, `operators`, `waits`, `waiting`, `cuda_waits`, `peak_bytes`,
        `rows`, `rounds`, `matrix_rate` (operations a second of a matrix product) and `matrix_share` (how much of that
        rate the plain step reaches). And (exit, way) -> cost, of the ways "two passes" and "shared", and of `sources`.

    Raises:
        ValueError: for an exit that the model has not, a device that is not there, or a precision that it lacks.
    """
    import torch

    from gsgd.sift import Proxy, Sift
    from gsgd.sift.batches.batch import take_rows
    from gsgd.sift.scoring_pass.labels import shifts_by_name

    where = device_of(device)
    if where.type == "cpu":
        keep_freed_memory()  # as in training
    model = model.to(where).train()
    batch = {name: value.to(where) for name, value in batch.items()}
    masked = batch["labels"].dim() > 1 and not shifts_by_name(model)
    common: dict[str, Any] = {"labelled_head": masked, "keep": keep}
    kept = max(1, round(keep * len(batch["labels"])))
    rows = take_rows(batch, torch.arange(kept, device=where))
    plain_key = (0, "plain")
    # What is compiled shares nothing.
    kinds = ("two passes",) if compile else ("two passes", "shared")
    ways = [(exit_layer, way) for exit_layer in exits for way in kinds]
    sources = {} if sources is None else sources
    named = {**batch, "id": torch.arange(len(batch["labels"]), device=where)}
    inputs = {plain_key: rows, **dict.fromkeys(sources, named)}

    def engines(**options: Any) -> dict[tuple[int, str], Sift]:
        found = {plain_key: Sift(model, **common, **options, end_step=0)}
        for exit_layer, way in ways:
            shared: dict[str, Any] = {"reuse": way == "shared", "batchnorm": batchnorm if way == "shared" else "kept"}
            found[exit_layer, way] = Sift(model, exit_layer=exit_layer, **shared, **common, **options)
        for key, chosen in sources.items():
            found[key] = Sift(model, **chosen, **common, **options)
            source = found[key].source
            if isinstance(source, Proxy):
                source.network.to(where)
        return found

    timed = engines(**_compiled(compile))
    counted = engines() if compile else timed

    def step(key: tuple[int, str], sifts: dict[tuple[int, str], Sift] = timed) -> int:
        sift = sifts[key]
        with _autocast(where, precision):
            chosen = sift.choose(inputs.get(key, batch))
        captured = sift.captured_bytes
        with _autocast(where, precision):
            loss = sift.forward_kept(chosen).loss
        loss.backward()
        return captured

    with _matrix_precision(where, precision):
        seconds, host_seconds = _in_turn(model, where, timed, step, rounds, until, progress)
        memory = {key: _peak(model, where, functools.partial(step, key)) for key in timed}
        reported = {key: _reported_waits(model, where, functools.partial(step, key)) for key in timed}
        if compile:
            for key in [*counted] * WARM_UP:
                model.zero_grad()
                step(key, counted)
        flops = {key: _flops(model, functools.partial(step, key, counted)) for key in counted}
        operators = {key: _operators(model, where, functools.partial(step, key, counted)) for key in counted}
        rate = matrix_rate(where, precision)
    plain = np.array(seconds[plain_key])
    costs = {
        key: Cost(
            extra_time=float(np.median(np.array(seconds[key]) / plain)) - 1,
            extra_flops=flops[key] / flops[plain_key] - 1,
            median_s=float(np.median(seconds[key])),
            host_s=float(np.median(host_seconds[key])),
            **operators[key],
            peak_bytes=memory[key][0],
            captured_bytes=memory[key][1],
            cuda_waits=reported[key],
        )
        for key in timed
        if key != plain_key
    }
    median = float(np.median(plain))
    found = {
        "median_s": median,
        "host_s": float(np.median(host_seconds[plain_key])),
        "flops": flops[plain_key],
        **operators[plain_key],
        "cuda_waits": reported[plain_key],
        "peak_bytes": memory[plain_key][0],
        "rows": kept,
        "rounds": len(plain),
        "matrix_rate": rate,
        "matrix_share": flops[plain_key] / median / rate,
    }
    return found, costs


def _in_turn(
    model: Any,
    where: Any,
    ways: Iterable[tuple[int, str]],
    step: Callable[[tuple[int, str]], object],
    rounds: int,
    until: float | None,
    progress: Callable[[], object],
) -> tuple[dict[tuple[int, str], list[float]], dict[tuple[int, str], list[float]]]:
    """Seconds of a step of each way, one a round, and those of them in which the host issued it."""
    seconds: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    host_seconds: dict[tuple[int, str], list[float]] = {way: [] for way in seconds}
    together = 1 if where.type == "cpu" else STEPS_BETWEEN_WAITS
    for number in range(WARM_UP + rounds):
        if number > WARM_UP and until is not None and time.monotonic() > until:
            break
        for way in seconds:
            model.zero_grad()
            finished(where)
            begin = time.perf_counter()
            for _ in range(together):
                model.zero_grad()
                step(way)
            issued = time.perf_counter()
            finished(where)
            if number >= WARM_UP:
                host_seconds[way].append((issued - begin) / together)
                seconds[way].append((time.perf_counter() - begin) / together)
        progress()
    return seconds, host_seconds


def _compiled(compile: bool) -> dict[str, Any]:
    """The engine's options by which it compiles its steps."""
    return {"compile": True} if compile else {}


@functools.cache
def matrix_rate(device: Any, precision: str) -> float:
    """The most operations a second of a few square matrix products on the device: what its arithmetic can do.

    Sizes grow as long as a product takes less than a fifth of a second. It is measured once in a process.
    """
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    sizes, times = ((256, 512, 1024, 2048), 1) if device.type == "cpu" else ((2048, 4096, 8192), 10)
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        torch.mm(left, right)
        took = []
        for _ in range(3):
            finished(device)
            begin = time.perf_counter()
            for _ in range(times):
                torch.mm(left, right)
            finished(device)
            took.append((time.perf_counter() - begin) / times)
        best = max(best, 2 * size**3 / min(took))
        if min(took) > 0.2:
            break
    return best


def _autocast(device: Any, precision: str) -> Any:
    import torch

    if precision != "bf16":
        return contextlib.nullcontext()
    if not torch.amp.is_autocast_available(device.type):
        raise ValueError(f"--precision bf16: torch has no autocast for {device.type}")
    return torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def _matrix_precision(device: Any, precision: str) -> Iterator[None]:
    """Within the block float32 matrix products are TF32 if `precision` says so."""
    import torch

    if precision != "tf32":
        yield
        return
    if device.type != "cuda":
        raise ValueError(f"--precision tf32 is for CUDA, but the device is {device.type}")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _flops(model: Any, step: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _operators(model: Any, device: Any, step: Callable[[], object]) -> dict[str, Any]:
    from training.bench.counts import count_operators

    model.zero_grad()
    counts = count_operators(step, device)
    waiting = {f"{wait.operation} at {wait.at}": times for wait, times in counts.waiting.most_common()}
    return {"operators": counts.operators, "waits": counts.waits, "waiting": waiting}


def _reported_waits(model: Any, device: Any, step: Callable[[], object]) -> int | None:
    from training.bench.counts import cuda_waits

    if device.type != "cuda":
        return None
    model.zero_grad()
    return cuda_waits(step)


def _peak(model: Any, device: Any, step: Callable[[], int]) -> tuple[int | None, int]:
    """(bytes at the peak above those before, bytes captured) of a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model.zero_grad()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        captured = step()
        return torch.cuda.max_memory_allocated(device) - before, captured
    if device.type != "cpu":
        return None, step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        captured = step()
    # Every allocation and release, the latter negative, in the order of time.
    kineto: Any = profiled.profiler
    changes = [
        (event.start_ns(), event.nbytes()) for event in kineto.kineto_results.events() if event.name() == "[memory]"
    ]
    changes.sort(key=lambda change: change[0])
    return max(0, *itertools.accumulate(size for _, size in changes)), captured
