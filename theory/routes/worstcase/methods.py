"""What a semidefinite program must know of a method: its outcomes, and within which values they stay the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from theory.formulas import noise_laws
from theory.routes import exact


@dataclass(frozen=True)
class Cell:
    """A set of values within which a step has the same outcomes.

    Attributes:
        edges: (a, b, ratio) for f_a >= ratio f_b.
        probabilities: one for every outcome of the method.
    """

    edges: tuple[tuple[int, int, float], ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Method:
    """A method as the program sees it.

    Attributes:
        weights: for every outcome, the share of each atom in the step's mean gradient.
        cells: together they cover all values.
        first: those of `cells` in which the atoms are in descending order, which is no restriction at w_0.
        limits: shares of the atoms; the largest mean under any of them is F^(w*), which Delta bounds.
    """

    weights: tuple[tuple[float, ...], ...]
    cells: tuple[Cell, ...]
    first: tuple[Cell, ...]
    limits: tuple[tuple[float, ...], ...]

    @property
    def n(self) -> int:
        return len(self.weights[0])

    def shares(self, cell: Cell) -> np.ndarray:
        """The share of every atom in what a step picks, for values in `cell`."""
        return np.asarray(cell.probabilities) @ np.asarray(self.weights)


def uniform(n: int) -> Method:
    """SGD on n atoms: one cell, and Delta bounds F* itself."""
    return _method(exact.uniform(n), [_Region((), (1.0,) * n, True)])


def greedy(n: int, R: int) -> Method:
    """GSGD on n atoms: a cell for every order of the values."""
    return _method(exact.greedy(n, R), list(_orders(n)))


def top_k(n: int, B: int, k: int) -> Method:
    """SIFT's step on n atoms, the mean of the k largest of B."""
    return _method(exact.top_k(n, B, k), list(_orders(n)))


def noisy(sigma: float) -> Method:
    """GSGD with noisy losses (Assumption 5.12) on n = 2 atoms, R = 2 and zeta = +-1, each with probability 1/2.

    With that law only two things matter: which value is larger, and whether by more than the factor e^(2 sigma),
    which noise never bridges. Delta bounds the noise-free F^_R, as in Theorem 5.14.

    Raises:
        ValueError: unless sigma > 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma = {sigma} must be > 0; without noise it is greedy(2, 2)")
    far = float(np.exp(2 * sigma))
    regions = []
    for a, b in ((0, 1), (1, 0)):
        for edges, ratio in (
            (((a, b, far),), 2 * far),
            (((a, b, 1.0), (b, a, 1 / far)), np.sqrt(far)),
        ):
            inside = [1.0, 1.0]
            inside[a] = float(ratio)
            regions.append(_Region(edges, tuple(inside), a == 0))
    return _method(exact.noisy(2, 2, sigma, noise_laws.rademacher), regions, limits=greedy(2, 2).limits)


@dataclass(frozen=True)
class _Region:
    """A cell before its outcomes are known: `inside` are values in its interior."""

    edges: tuple[tuple[int, int, float], ...]
    inside: tuple[float, ...]
    descending: bool


def _orders(n: int) -> Iterator[_Region]:
    for order in itertools.permutations(range(n)):
        inside = [0.0] * n
        for rank, atom in enumerate(order):
            inside[atom] = float(n - rank)
        yield _Region(tuple((a, b, 1.0) for a, b in itertools.pairwise(order)), tuple(inside), order == tuple(range(n)))


def _method(law: exact.Law, regions: list[_Region], limits: tuple[tuple[float, ...], ...] = ()) -> Method:
    outcomes = law.probabilities(np.array([region.inside for region in regions]))
    cells = [Cell(region.edges, tuple(float(p) for p in row)) for region, row in zip(regions, outcomes, strict=True)]
    weights = tuple(tuple(float(share) for share in row) for row in law.weights)
    shares = np.array([cell.probabilities for cell in cells]) @ np.array(weights)
    return Method(
        weights=weights,
        cells=tuple(cells),
        first=tuple(cell for cell, region in zip(cells, regions, strict=True) if region.descending),
        limits=limits or tuple(dict.fromkeys(tuple(float(s) for s in row) for row in shares)),
    )
