"""The tables that figures read: their columns, their ranges, and that a seed decides them."""

import csv

import numpy as np
import pytest
from scipy import stats

from theory import curves
from theory.problems.quadratics import crossing_problem

COLUMNS = {
    "gaussian_rho": ["R", "eps_over_delta", "quantity", "value"],
    "noise": ["sigma", "quantity", "value", "low", "high"],
    "lemma_c1": ["sigma", "quantity", "value"],
    "agreement": ["beta", "quantity", "value", "low", "high"],
    "trajectories": ["K", "method", "quantity", "value", "low", "high"],
    "top_k": ["keep", "B", "quantity", "value"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The tables written twice at one seed, and once at another, all at an error probability of 1e-6."""
    paths = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path_factory.mktemp(f"tables{number}")
        assert [path.name for path in curves.write_all(folder, seed=seed, alpha=1e-6)] == [f"{n}.csv" for n in COLUMNS]
        paths.append(folder)
    return paths


@pytest.fixture(scope="module")
def tables(folders):
    """Per table: the header and the rows as mappings; an empty cell is None, a number a float."""

    def parse(cell):
        try:
            return float(cell)
        except ValueError:
            return cell or None

    read = {}
    for name in COLUMNS:
        with (folders[0] / f"{name}.csv").open(newline="") as file:
            header, *lines = csv.reader(file)
        read[name] = header, [dict(zip(header, map(parse, line), strict=True)) for line in lines]
    return read


def select(tables, name, **fixed):
    """The rows of a table with the given cells."""
    return [row for row in tables[name][1] if all(row[key] == value for key, value in fixed.items())]


def column(rows, *names):
    return tuple(np.array([row[name] for row in rows], float) for name in names)


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_the_stated_columns_and_finite_values(tables, name):
    header, rows = tables[name]
    assert header == COLUMNS[name]
    assert rows
    assert all(isinstance(row["quantity"], str) and np.isfinite(row["value"]) for row in rows)
    places = [tuple(v for k, v in row.items() if k not in ("value", "low", "high")) for row in rows]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ["noise", "agreement", "trajectories"])
def test_simulated_values_and_only_they_have_intervals(tables, name):
    simulated = 0
    for row in tables[name][1]:
        if row["low"] is None:
            assert row["high"] is None
        else:
            simulated += 1
            assert row["low"] <= row["value"] <= row["high"]
    assert simulated >= 15


def test_a_seed_decides_every_table(folders):
    for name in COLUMNS:
        first, again, other = ((folder / f"{name}.csv").read_bytes() for folder in folders)
        assert first == again
        # These three involve no randomness.
        assert (first == other) == (name in ("gaussian_rho", "lemma_c1", "top_k"))


def test_theorem_5_18_exact_rho_lies_above_its_bound(tables):
    for ratio in (0, 0.5, 1, 2, 5):
        R, exact = column(select(tables, "gaussian_rho", quantity="exact", eps_over_delta=ratio), "R", "value")
        above_9, bound = column(select(tables, "gaussian_rho", quantity="bound", eps_over_delta=ratio), "R", "value")
        assert (R[0], R[-1], above_9[0]) == (2, 1e6, 9)
        assert (np.diff(exact) > 0).all()
        assert (exact >= 1).all()
        assert (exact <= R).all()
        assert (bound <= exact[R >= 9]).all()


def test_theorem_5_18_exact_rho_against_a_sum_of_squares_by_quadrature_of_the_maximum(tables):
    # eps = 0, R = 2: E max of two chi-squares is 1 + 2/pi.
    value = select(tables, "gaussian_rho", R=2, eps_over_delta=0, quantity="exact")[0]["value"]
    assert value == pytest.approx(1 + 2 / np.pi, rel=1e-12)


def test_theorem_5_15_curves_are_ordered(tables):
    sigma, sharp = column(select(tables, "noise", quantity="p_sharp"), "sigma", "value")
    few, p = column(select(tables, "noise", quantity="p"), "sigma", "value")
    assert few.max() <= 1 / (2 * np.sqrt(2))
    assert (p <= sharp[: len(p)]).all()
    for law in ("gaussian", "laplace", "rademacher"):
        at, exact = column(select(tables, "noise", quantity=f"exact, {law}"), "sigma", "value")
        assert (at == sigma).all()
        assert (exact >= sharp - 1e-12).all()
        assert (exact <= 1).all()
        assert (np.diff(exact) <= 1e-12).all()


def test_theorem_5_15_exact_curves_by_hand(tables):
    # Rademacher: the smaller loss is picked with probability 1/4 for every ratio r > exp(-2 sigma).
    sigma, exact = column(select(tables, "noise", quantity="exact, rademacher"), "sigma", "value")
    infimum = 1 - (1 - np.exp(-2 * sigma)) / 4
    assert (exact >= infimum - 1e-12).all()
    assert exact == pytest.approx(infimum, abs=0.006)
    # Gaussian: a fine grid of ratios.
    sigma, exact = column(select(tables, "noise", quantity="exact, gaussian"), "sigma", "value")
    r = np.linspace(1e-4, 1, 20_001)
    for s, value in zip(sigma[1::10], exact[1::10], strict=True):
        kept = 1 - (1 - r) * stats.norm.cdf(np.log(r) / (np.sqrt(2) * s))
        assert value == pytest.approx(kept.min(), abs=1e-4)


@pytest.mark.parametrize("law", ["gaussian", "laplace", "rademacher"])
def test_theorem_5_15_simulated_marks_contain_the_exact_curve(tables, law):
    # False for one of the 15 marks of the three laws with probability 1e-6 / 6.
    exact = {row["sigma"]: row["value"] for row in select(tables, "noise", quantity=f"exact, {law}")}
    marks = select(tables, "noise", quantity=f"simulated, {law}")
    assert [mark["sigma"] for mark in marks] == [0.1, 0.3, 0.6, 1.0, 1.5]
    for mark in marks:
        nearest = min(exact, key=lambda s: abs(s - mark["sigma"]))
        assert nearest == pytest.approx(mark["sigma"], abs=1e-9)
        assert mark["low"] <= exact[nearest] <= mark["high"]
        assert mark["high"] - mark["low"] < 0.02


def test_lemma_c1_ratio_starts_at_a_half_and_passes_72_percent_at_3_02(tables):
    sigma, ratio = column(select(tables, "lemma_c1", quantity="ratio"), "sigma", "value")
    assert ratio[0] == 0.5
    assert (np.diff(ratio) > 0).all()
    assert np.interp(0.72, ratio, sigma) == pytest.approx(3.02, abs=0.01)
    assert np.interp(1 / (2 * np.sqrt(2)), sigma, ratio) == pytest.approx(0.511146, abs=1e-4)


def test_theorem_6_2_curves(tables):
    beta, closed = column(select(tables, "agreement", quantity="closed form"), "beta", "value")
    assert closed == pytest.approx(1 - np.arccos(beta) / np.pi, abs=1e-12)
    for name, below in (("Equation 13", False), ("Equation 14", True), ("sharper bound", True)):
        at, values = column(select(tables, "agreement", quantity=name), "beta", "value")
        assert (at == beta).all()
        assert (values <= closed + 1e-12).all() if below else values == pytest.approx(closed, abs=1e-9)
    assert column(select(tables, "agreement", quantity="top-half overlap, limit"), "value")[0] == pytest.approx(closed)


@pytest.mark.parametrize("quantity", ["simulated", "top-half overlap, B = 4", "top-half overlap, B = 16",
                                      "top-half overlap, B = 64"])  # fmt: skip
def test_theorem_6_2_simulated_marks(tables, quantity):
    # Pairs agree with probability 1 - arccos(beta) / pi: false for a mark with probability below 1e-6. The overlap of
    # top halves lies below that limit, by 1 / (4 B) at most.
    for mark in select(tables, "agreement", quantity=quantity):
        law = 1 - np.arccos(mark["beta"]) / np.pi
        if quantity == "simulated":
            assert mark["low"] <= law <= mark["high"]
        else:
            B = int(quantity.rpartition(" ")[2])
            assert mark["low"] <= law
            assert mark["high"] >= law - 1 / (4 * B)
        assert mark["high"] - mark["low"] < 0.04


@pytest.mark.parametrize("method", ["GSGD", "SGD"])
def test_theorem_5_7_and_5_8_trajectories_stay_below_their_bounds(tables, method):
    K, mean, error = column(select(tables, "trajectories", method=method, quantity="mean"), "K", "value", "high")
    marks, bound = column(select(tables, "trajectories", method=method, quantity="bound"), "K", "value")
    known = crossing_problem()
    assert (marks == K).all()
    assert (K[0], K[-1]) == (1, 2000)
    assert mean[0] == pytest.approx(float(known.problem.objective(known.start)))
    assert (mean >= known.F_star).all()
    # Off by 8 standard errors with probability far below 1e-9.
    assert (mean + 8 * (error - mean) <= bound).all()
    assert (np.diff(bound) < 0).all()


def test_corollary_5_10_crossing_lies_on_both_bounds_and_the_measured_curves_cross_as_well(tables):
    (crossing,) = select(tables, "trajectories", quantity="crossing")
    for method in ("GSGD", "SGD"):
        K, bound = column(select(tables, "trajectories", method=method, quantity="bound"), "K", "value")
        # The root of the bound is a line in 1 / sqrt K.
        slope, at_infinity = np.polyfit(1 / np.sqrt(K), np.sqrt(bound), 1)
        assert (slope / np.sqrt(crossing["K"]) + at_infinity) ** 2 == pytest.approx(crossing["value"], rel=1e-9)
    K, ours = column(select(tables, "trajectories", method="GSGD", quantity="mean"), "K", "value")
    theirs = column(select(tables, "trajectories", method="SGD", quantity="mean"), "value")[0]
    # Measured, the runs cross within a factor of 2 of where the bounds do.
    assert (ours < theirs)[(K > 2) & (crossing["K"] / 2 > K)].all()
    assert (ours > theirs)[2 * crossing["K"] < K].all()


def test_top_k_curves_fall_to_one_and_lie_below_their_limit(tables):
    for B in (4, 16, 64, 256):
        keep, rho = column(select(tables, "top_k", quantity="rho", B=B), "keep", "value")
        assert keep == pytest.approx(np.arange(1, B + 1) / B)
        assert (np.diff(rho) < 0).all()
        assert rho[-1] == pytest.approx(1)
        # The worst kappa share of the exponential law has mean 1 - log kappa; a finite batch falls short of it.
        assert (rho <= 1 - np.log(keep) + 1e-9).all()
        # k = 1: the expected maximum of B exponentials is the harmonic number.
        assert rho[0] == pytest.approx(np.sum(1 / np.arange(1, B + 1)), rel=0.02)
    keep, limit = column(select(tables, "top_k", quantity="CVaR limit"), "keep", "value")
    assert limit == pytest.approx(1 - np.log(keep), abs=0.02)
