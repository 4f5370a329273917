"""Small problems that come near the convergence bounds: found by hill climbing over `hubers`, kept in a table.

`adversaries.csv` holds, for each setting of Theorems 5.7, 5.8, 5.14 and the k of B step, the problem with the largest
E F(average) / (L D0^2) that 3 climbs of 1,200 steps found among those with Delta = L D0^2 / 4 and F^ >= rho F at the
iterates, rho F* <= Delta; the last rows (theorem "any") came nearest to `improved.gsgd_bound_sharp` with their own rho
and Delta, for more steps and larger step sizes. All have L = 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from theory.problems.hubers import huber_problem
from theory.problems.known import KnownProblem

FILE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class Adversary:
    """A problem and the setting for which it was found: R draws (k of them kept), noise sigma (zeta = +-1), K steps."""

    theorem: str
    known: KnownProblem
    R: int
    k: int
    sigma: float
    rho: float
    eta: float
    K: int


def adversaries() -> Iterator[Adversary]:
    """The rows of the table, in its order."""
    with open(FILE, newline="") as file:
        for row in csv.DictReader(file):
            shape = [[float(x) for x in row[name].split()] for name in ("curvature", "centre", "left", "right")]
            known = huber_problem(*shape, start=float(row["start"]), L=1.0)
            R, k, K = int(row["R"]), int(row["k"]), int(row["K"])
            yield Adversary(row["theorem"], known, R, k, float(row["sigma"]), float(row["rho"]), float(row["eta"]), K)


def random_hubers(rng: np.random.Generator, count: int, *, most: int = 4) -> Iterator[KnownProblem]:
    """Random problems of `hubers` with 2 to `most` atoms, L = 1, and w_0 off the minimisers."""
    while count:
        n = int(rng.integers(2, most + 1))
        curvature = np.exp(-rng.exponential(0.3, n))
        ends = np.exp(rng.normal(0, 1.5, (2, n)))
        # A third of the losses are flat on one side, a third quadratic on one side.
        kind = rng.integers(3, size=n)
        side = rng.integers(2, size=n)
        ends[side[kind == 0], np.flatnonzero(kind == 0)] = 0.0
        ends[side[kind == 1], np.flatnonzero(kind == 1)] = np.inf
        shape = (curvature / curvature.max(), rng.normal(0, 1.5, n), *ends)
        try:
            known = huber_problem(*(list(map(float, item)) for item in shape), start=float(rng.normal(0, 3)), L=1.0)
        except ValueError:  # no compact set of minimisers
            continue
        if known.D0 > 1e-3:
            count -= 1
            yield known
