"""The curves that figures draw, as tidy tables: one row a value, named by `quantity`, with an interval if simulated."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gsgd.results import write_table
from gsgd.selectors import select_top_k
from theory.checks import available
from theory.checks.improved import law_of
from theory.formulas import convergence, early_exit, improved, noise, noise_laws, rho
from theory.problems.adversaries import adversaries
from theory.problems.quadratics import CROSSING, average_at_best_step, crossing_problem, infimum
from theory.routes import exact, montecarlo
from theory.verdict import generator

Rows = list[tuple[Any, ...]]
RATIOS = np.concatenate([[0.0], np.geomspace(1e-6, 1.0, 600)])
"""f^(2) / f^(1) over which the worst case of a noisy choice between two losses is taken."""


def write_all(folder: Path, *, seed: int, alpha: float) -> list[Path]:
    """Write every table to `folder`.

    Intervals of simulated values hold together with probability 1 - alpha, save those of `trajectories`, which are
    standard errors.
    """
    tables: dict[str, tuple[tuple[str, ...], Callable[..., Rows]]] = {
        "gaussian_rho": (("R", "eps_over_delta", "quantity", "value"), gaussian_rho),
        "noise": (("sigma", "quantity", "value", "low", "high"), noise_curves),
        "lemma_c1": (("sigma", "quantity", "value"), lemma_c1),
        "agreement": (("beta", "quantity", "value", "low", "high"), agreement),
        "trajectories": (("K", "method", "quantity", "value", "low", "high"), trajectories),
        "top_k": (("keep", "B", "quantity", "value"), top_k),
    }
    share = alpha / len(tables)
    return [
        write_table(folder / f"{name}.csv", columns, rows(generator(f"curves.{name}", seed), share))
        for name, (columns, rows) in tables.items()
    ]


def write_worst_cases(folder: Path, *, jobs: int = 1) -> list[Path]:
    """Write `worst_case.csv` to `folder`, where the extra `worst-case` is installed: how tight the bounds are.

    `worst_case` is a proved upper bound over all problems of the class (`theory.routes.worstcase.worst_case`) with n
    atoms, L = D0 = 1, F^(w*) <= Delta and rho F* <= Delta; `looseness` is its share of the printed `bound`. `found` is
    the largest value of a problem that hill climbing found in the class. Empty where the solver failed, or none was
    sought. At K = 1, where F(w_0) is the bound, `worst_case` and `sharper_bound` are equal.
    """
    if not available("worst_case"):
        return []
    columns = ("theorem", "n", "R", "k", "sigma", "eta", "rho", "Delta", "K")
    return [
        write_table(
            folder / "worst_case.csv",
            (*columns, "worst_case", "bound", "looseness", "sharper_bound", "found"),
            worst_cases(jobs=jobs),
        )
    ]


def worst_cases(rates: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9), *, jobs: int = 1) -> Rows:
    """Worst cases against the bounds of Theorems 5.7, 5.8, 5.14 and the k-of-B form, in `jobs` processes."""
    if jobs > 1 and len(rates) > 1:
        # Fresh processes, as in `verify.run_checks`.
        with ProcessPoolExecutor(min(jobs, len(rates)), mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(worst_cases, [(rate,) for rate in rates]))
        settings = list(dict.fromkeys(_setting(row) for row in parts[0]))
        rows = [row for part in parts for row in part]
        return sorted(rows, key=lambda row: settings.index(_setting(row)))
    from theory.routes import worstcase  # an extra

    # theorem, n, R, k, sigma, method, rho, K. Three steps of GSGD with rho > 1 would take longer than all the rest.
    cases = [
        *(("Theorem 5.7", 2, 2, 1, 0.0, worstcase.greedy(2, 2), gain, K) for gain, K in ((1.0, 3), (1.2, 2))),
        *(("Theorem 5.7", 2, 4, 1, 0.0, worstcase.greedy(2, 4), gain, 2) for gain in (1.0, 1.2)),
        *(("Theorem 5.7", 3, 2, 1, 0.0, worstcase.greedy(3, 2), gain, 2) for gain in (1.0, 1.2)),
        *(("Theorem 5.8", n, 1, 1, 0.0, worstcase.uniform(n), 1.0, K) for n, K in ((2, 3), (3, 2))),
        *(("Theorem 5.14", 2, 2, 1, 0.3, worstcase.noisy(0.3), gain, 2) for gain in (1.0, 1.1)),
        *(("Beyond 5.7", 2, 3, 2, 0.0, worstcase.top_k(2, 3, 2), gain, 2) for gain in (1.0, 1.1)),
    ]
    rows = []
    found = largest_found()
    for *setting, method, gain, most in cases:
        for eta, K in itertools.product(rates, range(1, most + 1)):
            q = {"L": 1.0, "eta": eta, "D0": 1.0, "Delta": 0.25, "rho": gain}
            F_star = 0.25 / gain  # Equation 5; with rho = 1 it says no more than Delta does
            # With rho = 1 and Delta = F* it is Theorem 5.8's bound, too.
            bound = convergence.gsgd_bound(K, **q)
            try:
                value = worstcase.worst_case(method, K, F_star=F_star if gain > 1 else None, **q).value
            except worstcase.SolverFailed:
                value = None
            looseness = None if value is None else value / bound
            sharper = improved.gsgd_bound_sharp(K, F_star=F_star, **q)
            at = found.get((*setting, eta, gain, K))
            rows.append((*setting, eta, gain, 0.25, K, value, bound, looseness, sharper, at))
    return rows


def _setting(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """theorem, n, R, k, sigma and rho of a row."""
    return (*row[:5], row[6])


def largest_found() -> dict[tuple[Any, ...], float]:
    """(theorem, n, R, k, sigma, eta, rho, K) -> E F(average) / (L D0^2) of the problem of `adversaries` for it."""
    values = {}
    for item in adversaries():
        if item.theorem == "any":
            continue
        known, n = item.known, item.known.problem.n
        tree = exact.walk(known, law_of(item), eta=item.eta, K=item.K)
        key = (item.theorem, n, item.R, item.k, item.sigma, item.eta, item.rho, item.K)
        values[key] = float(tree.averages[-1]) / known.D0**2
    return values


def gaussian_rho(rng: np.random.Generator, alpha: float) -> Rows:
    """rho_R exact and Theorem 5.18's bound against R, for several eps / delta (no randomness)."""
    R = np.unique(np.round(np.geomspace(2, 1e6, 60)).astype(int))
    rows: Rows = []
    for ratio in (0.0, 0.5, 1.0, 2.0, 5.0):
        rows += [(int(r), ratio, "exact", float(v)) for r, v in zip(R, rho.gaussian_rho(ratio, 1.0, R), strict=True)]
        # nu(R) is real from R = 9 only.
        allowed = R[R >= 9]
        bound = rho.gaussian_rho_bound(ratio, 1.0, allowed)
        rows += [(int(r), ratio, "bound", float(v)) for r, v in zip(allowed, bound, strict=True)]
    return rows


def noise_curves(rng: np.random.Generator, alpha: float) -> Rows:
    """p, p_R at R = 2 ("p_sharp"), and the worst F^_approx / F^_2 over pairs of losses: exact for 3 laws, simulated."""
    sigma = np.linspace(0, 2, 81)
    rows: Rows = [(float(s), "p", noise.p(s), None, None) for s in sigma[sigma <= noise.SIGMA_LIMIT]]
    rows += [(float(s), "p_sharp", float(v), None, None) for s, v in zip(sigma, noise.p_R(sigma, 2), strict=True)]
    # A choice between the losses (1, r) of two candidates keeps 1 - (1 - r) P(the smaller is picked) of the larger.
    laws = (noise_laws.gaussian, noise_laws.laplace, noise_laws.rademacher)
    marks = (0.1, 0.3, 0.6, 1.0, 1.5)
    share = alpha / (len(laws) * len(marks))
    n = montecarlo.sample_size(0.02, share)
    for law in laws:
        rows += [(float(s), f"exact, {law.name}", _worst_pair(law, float(s))[0], None, None) for s in sigma]
        for s in marks:
            ratio = _worst_pair(law, s)[1]
            zeta = law.draw(rng, (n, 2))
            smaller = s * (zeta[:, 1] - zeta[:, 0]) > -np.log(ratio) if ratio > 0 else np.zeros(n, bool)
            low, high = montecarlo.probability_bounds(int(smaller.sum()), n, share)
            value, bottom, top = (1 - (1 - ratio) * q for q in (smaller.mean(), high, low))
            rows.append((s, f"simulated, {law.name}", float(value), float(bottom), float(top)))
    return rows


def _worst_pair(law: Any, sigma: float) -> tuple[float, float]:
    """(least share of the larger loss that is kept, the ratio r at which that happens)."""
    if sigma == 0:
        return 1.0, 0.0
    with np.errstate(divide="ignore"):  # r = 0 is a gap of infinity, which noise never bridges
        gap = -np.log(RATIOS) / sigma
    kept = 1 - (1 - RATIOS) * law.difference_sf(gap)
    worst = int(np.argmin(kept))
    return float(kept[worst]), float(RATIOS[worst])


def lemma_c1(rng: np.random.Generator, alpha: float) -> Rows:
    """max_t h(t; sigma) / (1 - e^{-sqrt2 sigma}) against sigma, up to where .72 stops to hold (no randomness)."""
    sigma = np.linspace(0, 3.2, 161)
    return [(float(s), "ratio", float(v)) for s, v in zip(sigma, noise.lemma_c1_ratio(sigma), strict=True)]


def agreement(rng: np.random.Generator, alpha: float) -> Rows:
    """p_j against beta: closed form, Eqs. (13) and (14), the sharper bound, simulated pairs, and top-half overlaps."""
    beta = np.linspace(0, 1, 101)
    curves = {
        "closed form": early_exit.agreement(beta),
        "Equation 13": early_exit.agreement_integral(beta),
        "Equation 14": early_exit.agreement_bound(beta),
        "sharper bound": early_exit.agreement_bound_sharp(beta),
        "top-half overlap, limit": early_exit.top_half_overlap(beta),
    }
    rows: Rows = [
        (float(b), name, float(v), None, None)
        for name, values in curves.items()
        for b, v in zip(beta, values, strict=True)
    ]
    marks, batches = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97), (4, 16, 64)
    share = alpha / (len(marks) * (1 + len(batches)))
    n = montecarlo.sample_size(0.02, share)
    for b in marks:
        margins = _correlated(rng, b, (n, 2))
        same = (margins[0].argmax(-1) == margins[1].argmax(-1)).sum()
        low, high = montecarlo.probability_bounds(int(same), n, share)
        rows.append((b, "simulated", float(same / n), low, high))
        for B in batches:
            early, late = (select_top_k(m, B // 2) for m in _correlated(rng, b, (n // 8, B)))
            overlap = (early[:, :, None] == late[:, None, :]).any(-1).mean(-1)
            low = montecarlo.mean_lower(overlap, share / 2, cap=1.0)
            high = montecarlo.mean_upper(overlap, share / 2, cap=1.0)
            rows.append((b, f"top-half overlap, B = {B}", float(overlap.mean()), low, high))
    return rows


def _correlated(rng: np.random.Generator, beta: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    first, second = rng.standard_normal((2, *shape))
    return first, beta * first + np.sqrt(1 - beta**2) * second


def trajectories(rng: np.random.Generator, alpha: float) -> Rows:
    """GSGD and SGD, each at its own best step for each K, with their bounds and where these cross (Corollary 5.10).

    On `crossing_problem` with R = 4, whose rho* is exact and above 1. Intervals are one standard error of the mean over
    runs either way.
    """
    known, R, runs = crossing_problem(), 4, 1000
    marks = np.unique(np.round(np.geomspace(1, 2000, 30)).astype(int))
    rho_star = infimum(*CROSSING, R)
    rows: Rows = []
    for method, draws, gain, Delta in (("GSGD", R, rho_star, known.Delta(R)), ("SGD", 1, 1.0, known.F_star)):
        for K in marks.tolist():
            values = average_at_best_step(K, draws, runs=runs, rng=rng)
            mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(runs))
            rows.append((K, method, "mean", mean, mean - error, mean + error))
        bound = improved.best_step_bound(marks, L=known.L, D0=known.D0, rho=gain, Delta=Delta)
        rows += [(int(k), method, "bound", float(v), None, None) for k, v in zip(marks, bound, strict=True)]
    q = {"L": known.L, "D0": known.D0, "rho": rho_star, "Delta": known.Delta(R)}
    crossing = convergence.crossover_tuned(F_star=known.F_star, **q)
    rows.append((crossing, "both", "crossing", improved.best_step_bound(crossing, **q), None, None))
    return rows


def top_k(rng: np.random.Generator, alpha: float) -> Rows:
    """rho_{B,k} against the keep ratio k / B for exponential losses, and its limit by CVaR (no randomness)."""
    n = 2000
    losses = -np.log1p(-(np.arange(n) + 0.5) / n)  # quantiles of the exponential law
    rows: Rows = []
    for B in (4, 16, 64, 256):
        rows += [(k / B, B, "rho", float(rho.rho_top_k(losses, B, k))) for k in range(1, B + 1)]
    keep = np.linspace(0.01, 1, 100)
    rows += [(float(q), None, "CVaR limit", float(rho.cvar(losses, q) / losses.mean())) for q in keep]
    return rows
