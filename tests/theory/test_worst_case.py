"""Worst cases: known constants, a formulation written anew, what the multipliers prove, and failures of the solver.

The checks of `theory/checks/worst_case.py` and their mutants run in `test_checks.py`.
"""

import inspect

import numpy as np
import pytest

from theory import checks, curves
from theory.formulas import convergence, improved, noise_laws
from theory.routes import exact
from theory.verdict import Route, Scope, Status
from theory.verify import all_checks

if not checks.available("worst_case"):
    pytest.skip("the extra worst-case is not installed", allow_module_level=True)

import cvxpy

from theory.routes import worstcase
from theory.routes.worstcase import program

EXAMPLE = {"L": 1.0, "eta": 0.5, "D0": 1.0, "Delta": 0.25}
TOLERANCE = 1e-5


def test_what_certificates_bound_holds_everywhere_in_its_class():
    """What a problem that was found or enumerated shows is of instances; a bound that multipliers prove is not."""
    found = [check for check in all_checks() if check.function.__module__ == "theory.checks.worst_case"]
    assert len(found) > 10
    for check in found:
        source = inspect.getsource(inspect.unwrap(check.function))
        by_problems = "attained" in source or "_contains(" in source
        assert (check.scope is Scope.EVERYWHERE) != by_problems, check.name


@pytest.mark.parametrize(("K", "looseness"), [(1, 0.36), (2, 0.45), pytest.param(3, 0.48, marks=pytest.mark.slow)])
def test_theorem_5_7_looseness_of_the_example(K, looseness):
    # n = 2, R = 2, rho = 1.2: found beforehand with a program that has the minimisers of all losses as points.
    found = worstcase.worst_case(worstcase.greedy(2, 2), K, rho=1.2, **EXAMPLE).value
    assert found / convergence.gsgd_bound(K, rho=1.2, **EXAMPLE) == pytest.approx(looseness, abs=0.005)


@pytest.mark.parametrize("K", [1, 2, 3, 4])
def test_last_iterate_of_gradient_descent_has_the_known_constant(K):
    # Drori & Teboulle 2014, for eta = 1/L; attained by a Huber function.
    found = worstcase.worst_case(worstcase.uniform(1), K, L=3.0, eta=1 / 3, D0=2.0, Delta=0.0, last=True)
    assert found.value == pytest.approx(3 * 2**2 / (4 * K + 2), abs=12 * TOLERANCE)
    assert found.value >= found.attained - 1e-6


def worst_by_hand(probabilities, *, eta, Delta, order):
    """E F((w_0 + w_1) / 2) for two atoms, L = D0 = 1: a Gram matrix over w_0, gradients and the atoms' minimisers."""
    # Vectors: w_0, g_1(0), g_i(w_0) for i = 1, 2, g_i(average after outcome c), and x_i with f_i(x_i) = 0.
    size = 1 + 1 + 2 + 4 + 2
    unit = np.eye(size)
    w0, star, grad, end, least = unit[0], unit[1], unit[2:4], unit[4:8].reshape(2, 2, size), unit[8:]
    gram = cvxpy.Variable((size, size), PSD=True)
    at_star, at_start, at_end = cvxpy.Variable(2), cvxpy.Variable(2), cvxpy.Variable((2, 2))

    def inner(u, v):
        return cvxpy.sum(cvxpy.multiply(gram, (np.outer(u, v) + np.outer(v, u)) / 2))

    averages = [w0 - eta * grad[outcome] / 2 for outcome in range(2)]
    rules = [inner(w0, w0) <= 1]
    for i, sign in enumerate((1, -1)):
        points = [(0 * w0, sign * star, at_star[i]), (w0, grad[i], at_start[i]), (least[i], 0 * w0, 0)]
        points += [(averages[c], end[c, i], at_end[c, i]) for c in range(2)]
        rules += [
            f >= h + inner(b, x - y) + inner(a - b, a - b) / 2
            for j, (x, a, f) in enumerate(points)
            for k, (y, b, h) in enumerate(points)
            if j != k
        ]
    if order:
        rules.append(at_start[0] >= at_start[1])
    for shares in (probabilities, probabilities[::-1]):
        rules.append(shares[0] * at_star[0] + shares[1] * at_star[1] <= Delta)
    goal = sum(probabilities[c] * cvxpy.sum(at_end[c]) / 2 for c in range(2))
    problem = cvxpy.Problem(cvxpy.Maximize(goal), rules)
    return problem.solve(solver="CLARABEL")


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_two_steps_agree_with_a_program_written_without_pepit_whose_losses_attain_their_minimum(eta):
    # Two formulations, one with f >= |grad f|^2 / 2L in place of the minimisers.
    q = {"L": 1.0, "eta": eta, "D0": 1.0, "Delta": 0.5}
    greedy = worst_by_hand([0.75, 0.25], eta=eta, Delta=0.5, order=True)
    plain = worst_by_hand([0.5, 0.5], eta=eta, Delta=0.5, order=False)
    assert worstcase.worst_case(worstcase.greedy(2, 2), 2, **q).value == pytest.approx(greedy, abs=TOLERANCE)
    assert worstcase.worst_case(worstcase.uniform(2), 2, **q).value == pytest.approx(plain, abs=TOLERANCE)


def test_a_worst_case_scales_with_L_and_D0():
    small = worstcase.worst_case(worstcase.greedy(2, 2), 2, rho=1.1, **EXAMPLE)
    # f -> L D0^2 f(w / D0)
    large = worstcase.worst_case(worstcase.greedy(2, 2), 2, L=8.0, eta=0.5 / 8, D0=3.0, Delta=0.25 * 72, rho=1.1)
    assert large.value == pytest.approx(72 * small.value, rel=1e-5)


def test_selection_without_choice_is_plain_sgd():
    # R = 1, and k = B, leave nothing to choose.
    plain = worstcase.worst_case(worstcase.uniform(2), 2, **EXAMPLE).value
    assert worstcase.worst_case(worstcase.greedy(2, 1), 2, **EXAMPLE).value == pytest.approx(plain, abs=TOLERANCE)


def test_top_one_of_two_is_gsgd():
    greedy = worstcase.worst_case(worstcase.greedy(2, 2), 2, **EXAMPLE).value
    assert worstcase.worst_case(worstcase.top_k(2, 2, 1), 2, **EXAMPLE).value == pytest.approx(greedy, abs=TOLERANCE)


def test_faint_noise_is_gsgd_and_loud_noise_lies_between():
    greedy = worstcase.worst_case(worstcase.greedy(2, 2), 2, **EXAMPLE).value
    assert worstcase.worst_case(worstcase.noisy(1e-9), 2, **EXAMPLE).value == pytest.approx(greedy, abs=TOLERANCE)
    assert worstcase.worst_case(worstcase.noisy(5.0), 2, **EXAMPLE).value != pytest.approx(greedy, abs=1e-4)


LAWS = {
    "greedy": (worstcase.greedy(3, 4), exact.greedy(3, 4)),
    "top_k": (worstcase.top_k(3, 3, 2), exact.top_k(3, 3, 2)),
    "uniform": (worstcase.uniform(3), exact.uniform(3)),
    "noisy": (worstcase.noisy(0.4), exact.noisy(2, 2, 0.4, noise_laws.rademacher)),
}


@pytest.mark.parametrize("name", LAWS)
def test_cells_cover_all_values_and_give_them_the_probabilities_of_enumeration(name):
    method, law = LAWS[name]
    assert 1 <= len(method.first) <= len(method.cells)
    losses = np.random.default_rng(0).exponential(1, (200, method.n))
    for values, expected in zip(losses, law.probabilities(losses), strict=True):
        inside = [cell for cell in method.cells if all(values[a] >= ratio * values[b] for a, b, ratio in cell.edges)]
        assert len(inside) == 1
        assert inside[0].probabilities == pytest.approx(expected)
        assert method.shares(inside[0]) @ values == pytest.approx(law.expected_loss(values[None])[0])


@pytest.mark.parametrize("spoil", [lambda m: 0.9 * m, lambda m: -m, lambda m: m + 0.01, np.zeros_like])
def test_the_upper_bound_holds_whatever_the_multipliers_are(monkeypatch, spoil):
    proved = []
    certified = program.Program.certified

    def both(self, goal, rules, multipliers, steps):
        proved.append([certified(self, goal, rules, each, steps) for each in (multipliers, spoil(multipliers))])
        return proved[-1][0]

    monkeypatch.setattr(program.Program, "certified", both)
    # Uncached: the programs must run.
    found = worstcase.worst_case.__wrapped__(worstcase.greedy(2, 2), 2, **EXAMPLE)
    for best, spoilt in proved:
        assert found.attained - 1e-6 <= best <= found.attained + TOLERANCE
        assert spoilt >= found.attained - 1e-6
        assert spoilt != best


def test_a_failure_of_the_solver_is_inconclusive_with_its_word(monkeypatch):
    def fail(self, **_):
        raise cvxpy.error.SolverError("Solver 'CLARABEL' failed.")

    monkeypatch.setattr(cvxpy.Problem, "solve", fail)
    # Uncached: the programs must run, and other tests keep what was found.
    monkeypatch.setattr(worstcase, "worst_case", worstcase.worst_case.__wrapped__)
    verdict = checks.load()["worst_case.gsgd_two_atoms"].run(seed=0, alpha=1e-8)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.witness == "CLARABEL: Solver 'CLARABEL' failed."
    rows = curves.worst_cases(rates=(0.5,))
    assert all(row[9] is None and row[11] is None and row[10] > 0 for row in rows)


def test_a_program_without_a_largest_value_fails_with_the_solvers_word():
    free = program.Program(worstcase.uniform(1), eta=0.5, Delta=1.0, F_star=1.0)
    with pytest.raises(worstcase.SolverFailed, match="unbounded"):
        free.solve(free.mean(free.start), steps=0)


def test_an_answer_that_proves_too_little_fails(monkeypatch):
    honest = program.Program.certified
    spoilt = lambda self, goal, rules, multipliers, steps: honest(self, goal, rules, 0 * multipliers, steps)  # noqa: E731
    monkeypatch.setattr(program.Program, "certified", spoilt)
    with pytest.raises(worstcase.SolverFailed, match=r"optimal, attained .* but its multipliers prove"):
        worstcase.worst_case.__wrapped__(worstcase.uniform(2), 2, **EXAMPLE)


@pytest.mark.parametrize(
    "wrong", [{"eta": 2.1}, {"eta": 0.0}, {"L": -1.0}, {"D0": 0.0}, {"Delta": -1.0}, {"rho": 0.9}, {"F_star": -0.1}]
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        worstcase.worst_case(worstcase.uniform(2), 1, **{**EXAMPLE, **wrong})


def test_K_and_sigma_out_of_range_are_refused():
    with pytest.raises(ValueError, match="K = 0"):
        worstcase.worst_case(worstcase.uniform(2), 0, **EXAMPLE)
    with pytest.raises(ValueError, match="sigma"):
        worstcase.noisy(0.0)


def test_the_one_step_inequality_21_needs_no_slack_and_has_none():
    for rate in (0.2, 0.7):
        q = {"L": 2.0, "eta": rate / 2, "D0": 1.0, "Delta": 0.5, "alpha": 1 - rate}
        assert worstcase.one_step_excess(worstcase.greedy(2, 3), **q).value == pytest.approx(0, abs=TOLERANCE)
        more = {**q, "alpha": 1.01 * (1 - rate)}
        assert worstcase.one_step_excess(worstcase.greedy(2, 3), **more).attained > 1e-4


def read(rows):
    names = (
        *("theorem", "n", "R", "k", "sigma", "eta", "rho", "Delta", "K"),
        *("worst_case", "bound", "looseness", "sharp", "found"),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def verify_table(rows):
    assert {row["theorem"] for row in rows} == {"Theorem 5.7", "Theorem 5.8", "Theorem 5.14", "Beyond 5.7"}
    assert len({tuple(row.values())[:9] for row in rows}) == len(rows)
    for row in rows:
        assert row["looseness"] == pytest.approx(row["worst_case"] / row["bound"])
        assert 0 < row["looseness"] < 0.6
        assert row["worst_case"] <= row["sharp"] + 1e-6
        assert row["sharp"] < 0.7 * row["bound"]
        if row["theorem"] == "Theorem 5.8":
            limit = convergence.sgd_bound(row["K"], eta=row["eta"], L=1.0, D0=1.0, F_star=row["Delta"])
            assert row["bound"] == pytest.approx(limit)
        if row["K"] == 1:
            assert row["worst_case"] == pytest.approx(0.25 / row["rho"] + 0.5, abs=TOLERANCE)


@pytest.mark.slow
def test_the_table_of_looseness_at_one_step_size():
    verify_table(read(curves.worst_cases(rates=(0.25,))))


@pytest.mark.slow
def test_the_table_of_looseness_is_written_with_all_step_sizes(tmp_path):
    (path,) = curves.write_worst_cases(tmp_path, jobs=2)
    header, *lines = path.read_text().splitlines()
    assert header.split(",")[:9] == ["theorem", "n", "R", "k", "sigma", "eta", "rho", "Delta", "K"]
    assert header.split(",")[9:] == ["worst_case", "bound", "looseness", "sharper_bound", "found"]
    rows = curves.worst_cases()
    assert len(lines) == len(rows) == 130
    # Two processes give the same, in the same order.
    assert [line.split(",")[:9] for line in lines] == [[f"{x}" for x in row[:9]] for row in rows]
    verify_table(read(rows))


@pytest.mark.slow
def test_theorem_5_7_three_steps_with_gain_over_step_sizes():
    for rate in (0.1, 0.25, 0.75, 0.9):
        q = {**EXAMPLE, "eta": rate, "rho": 1.2, "F_star": EXAMPLE["Delta"] / 1.2}  # the largest of Equation 5
        found = worstcase.worst_case(worstcase.greedy(2, 2), 3, **q).value
        assert found <= improved.gsgd_bound_sharp(3, **q) + TOLERANCE
        del q["F_star"]
        assert found <= 0.6 * convergence.gsgd_bound(3, **q)


def test_without_the_extra_there_are_neither_checks_nor_a_table(monkeypatch, tmp_path):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert not checks.available("worst_case")
    assert checks.available("convergence_sharp")
    assert curves.write_worst_cases(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_every_check_says_by_which_route_and_what_rests_on_the_solver():
    ours = {name: check for name, check in checks.load().items() if name.startswith("worst_case.")}
    assert len(ours) == 16
    for check in ours.values():
        assert check.route is Route.WORST_CASE
        assert ("solver" in check.claim or "1e-5" in check.claim) == (check.expected is Status.CONSISTENT), check.name
