"""`gsgd bench simulate`: ratios measured in one run against the alternative, beside the arithmetic floor."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gsgd import sgd
from gsgd.commands.arguments import install, whole
from gsgd.commands.terminal import fitted
from gsgd.linear import LinearProblem, squared
from gsgd.oracle import Oracle
from gsgd.results import command_line, provenance, write_json

EXAMPLES = """\
examples:
  gsgd bench simulate                      least squares, d = 20, R = 8, 1000 runs of 1000 steps
  gsgd bench simulate --json bench.json    and keep the figures
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd bench simulate`."""
    parser.description, parser.epilog = __doc__, EXAMPLES
    parser.add_argument("--runs", type=whole(1), default=1000)
    parser.add_argument("--steps", type=whole(1), default=1000)
    parser.add_argument("--repeats", type=whole(1), default=5, help="interleaved timings of each (default 5)")
    parser.add_argument("--json", type=Path, metavar="PATH")


def run(options: argparse.Namespace) -> int:
    """`gsgd bench simulate`: returns the exit code, 0."""
    figures = measure_simulation(runs=options.runs, steps=options.steps, repeats=options.repeats)
    what = (
        f"GSGD on least squares, d = 20, R = 8, {options.runs} runs x {options.steps} steps, {options.repeats} repeats"
    )
    print(fitted(what))
    print(f"{'':34}{'candidates/s':>14}{'median s':>10}{'x NumPy':>9}")
    for name, entry in figures.items():
        print(f"{name:34}{entry['candidates_per_s']:14.3g}{entry['median_s']:10.3f}{entry['ratio']:9.2f}")
    if not sgd.compiled():
        print(f"The compiled kernel is not installed: {install('fast')}")
    if options.json:
        write_json(options.json, {"header": {**provenance(), "command": command_line()}, "simulation": figures})
    return 0


def measure_simulation(*, runs: int, steps: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each way to simulate GSGD, timed in turn, and the ratio to batched NumPy, pair by pair.

    The floor is a square matrix product with as many multiplications as the candidates' losses need: no draws, no
    choices, no rows gathered from memory.
    """
    d, R, n = 20, 8, 4096
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d)) / np.sqrt(d)
    offsets = features @ rng.standard_normal(d) + 0.1 * rng.standard_normal(n)
    problem = LinearProblem(features, offsets, squared())
    oracle, eta, start = Oracle(problem, R), 0.5 / problem.smoothness, np.zeros(d)

    def ours(fast: bool, threads: int | None = None) -> None:
        generator = np.random.default_rng(1)
        sgd.run(oracle, start, eta=eta, K=steps, runs=runs, rng=generator, fast=fast, threads=threads)

    square = rng.standard_normal((2, *(2 * [round((runs * steps * R * d) ** (1 / 3))])))
    ways: dict[str, Callable[[], object]] = {
        "batched NumPy, einsum": lambda: _batched_numpy(features, offsets, eta, runs, steps, R),
        "gsgd.sgd without the kernel": lambda: ours(False),
    }
    if sgd.compiled():
        sgd.run(oracle, start, eta=eta, K=1, rng=np.random.default_rng(1), fast=True)  # compiles, untimed
        ways["gsgd.sgd, kernel, 1 thread"] = lambda: ours(True, 1)
        ways["gsgd.sgd, kernel"] = lambda: ours(True)
    ways["floor: the products, as one GEMM"] = lambda: square[0] @ square[1]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    reference = np.array(seconds["batched NumPy, einsum"])
    return {
        name: {
            "median_s": float(np.median(times)),
            "candidates_per_s": float(runs * steps * R / np.median(times)),
            "ratio": float(np.median(reference / np.array(times))),
        }
        for name, times in seconds.items()
    }


def _batched_numpy(features: np.ndarray, offsets: np.ndarray, eta: float, runs: int, steps: int, R: int) -> np.ndarray:
    """What one writes by hand: all runs at once, one einsum a step."""
    rng = np.random.default_rng(1)
    w = np.zeros((runs, features.shape[1]))
    total, rows = np.zeros_like(w), np.arange(runs)
    for _ in range(steps):
        total += w
        candidates = rng.integers(len(features), size=(runs, R))
        x = features[candidates]
        residuals = np.einsum("srd,sd->sr", x, w) - offsets[candidates]
        best = np.argmax(residuals * residuals, axis=1)
        w = w - eta * residuals[rows, best][:, None] * x[rows, best]
    return total / steps
