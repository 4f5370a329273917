"""GSGD, SGD and the k-of-B mini-batch form (Eqs. 3 and 4), for many runs at once.

    x^_k = argmax of f~(w_k, x) over the R candidates,    w_{k+1} = w_k - eta_k grad f(w_k, x^_k)

Every run has its own random stream, so a run's path depends on the generator and its own number alone: not on how
many runs go with it, on threads, or on whether the compiled kernel (extra `fast`) is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsgd.linear import LinearProblem
from gsgd.oracle import Draws, Oracle, taken
from gsgd.ranges import whole
from gsgd.selectors import Selector, select_random, select_top_k

# Losses drawn per run at a time. It bounds memory, and it is part of what defines a run's random stream: all
# candidates of a chunk are drawn before its noise.
_CHUNK = 2**14
_RUNS_PER_TASK = 32
_RUNS_PER_BATCH = 1024


@dataclass(frozen=True)
class Runs:
    """What `run` returns.

    Attributes:
        average: (runs, d), (1/K) sum_{k<K} w_k, the iterate of Theorems 5.7, 5.8 and 5.14.
        last: (runs, d), w_K.
        steps: (T,), the recorded step counts.
        objective: (T, runs), F(w_k) after k = steps[t] steps.
        objective_of_average: (T, runs), F of the average of the first k = steps[t] iterates w_0, ..., w_{k-1}.
    """

    average: np.ndarray
    last: np.ndarray
    steps: np.ndarray
    objective: np.ndarray
    objective_of_average: np.ndarray


def compiled() -> bool:
    """Whether the compiled kernel (extra `fast`) is installed."""
    return importlib.util.find_spec("numba") is not None


def run(
    oracle: Oracle,
    w0: Any,
    *,
    eta: Any,
    K: int,
    rng: np.random.Generator,
    k: int = 1,
    select: Selector = select_top_k,
    runs: int = 1,
    record: Sequence[int] = (),
    fast: bool | None = None,
    threads: int | None = None,
) -> Runs:
    """Run K steps from w0: keep k of the oracle's R candidates by `select`, step along their mean gradient (Eq. 4).

    GSGD is `select=select_top_k` with k = 1, SGD is `select=select_random`, SIFT's mini-batch form is k > 1.

    Args:
        oracle: what is queried at each step.
        w0: (d,) or (runs, d), where the runs start.
        eta: step size, a number or (K,) of them; positive.
        K: steps, >= 1.
        rng: each run gets a child of it.
        k: candidates kept, 1..R.
        select: any rule of `gsgd.selectors`, or your own with that signature. Rules other than the two above take
            one call a step for all runs together.
        runs: how many runs.
        record: step counts in 1..K at which F is evaluated.
        fast: False forbids the compiled kernel, True demands it, None takes it where it applies (linear problems,
            `select_top_k` or `select_random`, the extra `fast` installed). The result is the same to the bit.
        threads: threads of the compiled kernel; None for as many as there are processors.

    Returns:
        Averages, last iterates and what was recorded.

    Raises:
        ValueError: for arguments out of range, or a loss that is negative or not finite (a run that diverges).
    """
    K, runs, k = whole("K", K, least=1), whole("runs", runs, least=1), whole("k", k, least=1, most=oracle.R)
    w = np.array(np.broadcast_to(np.asarray(w0, dtype=float), (runs, oracle.problem.dim)), order="C")
    if not np.isfinite(w).all():
        raise ValueError("w0 must be finite")
    step_sizes = np.array(np.broadcast_to(np.asarray(eta, dtype=float), (K,)))
    if not (np.isfinite(step_sizes).all() and (step_sizes > 0).all()):
        raise ValueError(f"eta = {eta} must be positive and finite")
    steps = np.array(sorted({whole("record", item, least=1, most=K) for item in record}), dtype=int)
    own_rule = select is not select_top_k and select is not select_random
    suits = isinstance(oracle.problem, LinearProblem) and not own_rule and _kernel_knows(oracle)
    if fast and not (suits and compiled()):
        raise ValueError(
            "fast=True needs the extra `fast`, a LinearProblem with a loss of gsgd.linear, "
            "and select_top_k or select_random"
        )
    use_kernel = suits and compiled() and fast is not False
    streams = rng.spawn(runs)
    objective = np.empty((2, len(steps), runs))
    total = np.zeros_like(w)

    def go(part: slice) -> None:
        # A rule of the user's gets one generator for all runs together, hence one part.
        rule_rng = rng.spawn(1)[0] if own_rule else None
        segment = _kernel_segment if use_kernel else _numpy_segment
        done = 0
        for stop, draws in _segments(oracle, streams[part], K, steps, k, select):
            segment(oracle, w[part], total[part], draws, k, select, step_sizes[done:stop], rule_rng)
            done = stop
            at = np.searchsorted(steps, done)
            if at < len(steps) and steps[at] == done:
                objective[0, at, part] = oracle.problem.objective(w[part])
                objective[1, at, part] = oracle.problem.objective(total[part] / done)

    size = runs if own_rule else (_RUNS_PER_TASK if use_kernel else _RUNS_PER_BATCH)
    parts = [slice(start, min(start + size, runs)) for start in range(0, runs, size)]
    workers = min(threads or os.cpu_count() or 1, len(parts)) if use_kernel else 1
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(go, parts))
    else:
        for part in parts:
            go(part)
    return Runs(total / K, w, steps, objective[0], objective[1])


def _segments(oracle: Oracle, streams: list[np.random.Generator], K: int, steps: np.ndarray, k: int, select: Selector):
    """Draws of shape (runs, segment, candidates), cut where a chunk ends or F is to be recorded: (stop, draws)."""
    chunk = max(1, _CHUNK // oracle.R)
    for start in range(0, K, chunk):
        stop = min(start + chunk, K)
        drawn = _draw_all(oracle, streams, stop - start, k, select)
        cuts = [start, *steps[(steps > start) & (steps < stop)].tolist(), stop]
        for a, b in itertools.pairwise(cuts):
            part = slice(a - start, b - start)
            factors = None if drawn.factors is None else drawn.factors[:, part]
            yield b, Draws(drawn.candidates[:, part], factors)


def _draw_all(oracle: Oracle, streams: list[np.random.Generator], steps: int, k: int, select: Selector) -> Draws:
    """The draws of all runs of a part, stacked: (runs, steps, candidates)."""
    first = _draw(oracle, streams[0], steps, k, select)
    candidates = np.empty((len(streams), *first.candidates.shape), first.candidates.dtype)
    factors = None if first.factors is None else np.empty((len(streams), *first.factors.shape))
    for run, stream in enumerate(streams):
        draws = first if run == 0 else _draw(oracle, stream, steps, k, select)
        candidates[run] = draws.candidates
        if factors is not None:
            factors[run] = draws.factors
    return Draws(candidates, factors)


def _draw(oracle: Oracle, stream: np.random.Generator, steps: int, k: int, select: Selector) -> Draws:
    draws = oracle.draw(stream, (steps,))
    if select is not select_random:
        return draws
    # The random choice looks at no loss, so it is made here, and only the chosen candidates are evaluated.
    chosen = select_random(np.zeros((steps, oracle.R)), k, stream)
    return Draws(taken(draws.candidates, np.sort(chosen, axis=-1)), None)


def _numpy_segment(oracle, w, total, draws, k, select, eta, rule_rng) -> None:
    plain = Oracle(oracle.problem, k) if select is select_random else oracle
    for step in range(len(eta)):
        total += w
        now = Draws(draws.candidates[:, step], None if draws.factors is None else draws.factors[:, step])
        query = plain.query(w, now)
        if select is select_random:
            chosen = np.broadcast_to(np.arange(k), (len(w), k))
        else:
            chosen = np.sort(select(query.scores, k, rule_rng), axis=-1)
        gradients = query.gradients(chosen)
        mean = gradients[:, 0]
        for kept in range(1, k):
            mean = mean + gradients[:, kept]
        w -= eta[step] * (mean / k)


def _kernel_segment(oracle, w, total, draws, k, select, eta, rule_rng) -> None:
    from gsgd import kernel

    problem = oracle.problem
    factors = np.empty((0, 0, 0)) if draws.factors is None else np.ascontiguousarray(draws.factors)
    iterates = np.zeros((len(w), problem.padded_features.shape[1]))
    totals = iterates.copy()
    iterates[:, : problem.dim], totals[:, : problem.dim] = w, total
    failed = kernel.advance(
        problem.padded_features,
        problem.offsets,
        kernel.KINDS[problem.loss.value],
        problem.loss.c,
        iterates,
        totals,
        np.ascontiguousarray(draws.candidates),
        factors,
        k,
        eta,
    )
    if failed >= 0:
        raise ValueError(f"a score is not finite at step {failed} of this segment: scores must be finite")
    w[:], total[:] = iterates[:, : problem.dim], totals[:, : problem.dim]


def _kernel_knows(oracle: Oracle) -> bool:
    # mu(w) multiplies every score by a number that depends on w, which only the NumPy step evaluates.
    if not compiled() or (oracle.noise is not None and oracle.noise.mu is not None):
        return False
    from gsgd import kernel

    return isinstance(oracle.problem, LinearProblem) and oracle.problem.loss.value in kernel.KINDS
