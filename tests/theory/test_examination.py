import functools
import itertools
import json

import numpy as np
import pytest

import theory
from gsgd import cli
from gsgd.oracle import Noise
from gsgd.selectors import select_online_batch, select_random
from theory.examination import read_csv
from theory.examination.finite import FiniteProblem, LinearModel, selected_mean
from theory.formulas.rho import expected_top_k
from theory.routes import exact


def squares(w):
    """f = (w - x)^2 for x = 0 and 1."""
    return (w[0] - np.array([0.0, 1.0])) ** 2


def slopes(w):
    return 2 * (w[0] - np.array([[0.0], [1.0]]))


by_hand = functools.partial(theory.examine, squares, slopes, weights=[2, 1], w0=[2.0], eta=0.25, K=2)


def test_quadratic_known_by_hand():
    """F(w) = (2 w^2 + (w-1)^2) / 3; w_0 = 2 leads to 1 or 1.5. All numbers below are fractions worked out on paper."""
    found = by_hand()
    assert pytest.approx(2, rel=1e-9) == found.L
    assert found.minimiser == pytest.approx([1 / 3])
    assert pytest.approx(5 / 3) == found.D0
    assert found.F_star == pytest.approx(2 / 9)
    # At w* the losses are 1/9 and 4/9; the larger one is among two draws with probability 1 - (2/3)^2.
    assert found.Delta == pytest.approx(8 / 27)
    # F^ / F is 11/9 at 2, 4/3 at 1 and 73/57 at 1.5; Delta / F* = 4/3.
    assert found.rho == pytest.approx(11 / 9)
    assert found.curves["GSGD"].how == "exact"
    # The average is 1.5 with probability 8/9, else 1.75.
    assert found.curves["GSGD"].mean == pytest.approx([3, 8 / 9 * 19 / 12 + 1 / 9 * 107 / 48])
    assert found.curves["SGD"].mean == pytest.approx([3, 2 / 3 * 19 / 12 + 1 / 3 * 107 / 48])
    values = {(bound.method, bound.name): bound.value for bound in found.bounds}
    D0_term = (5 / 3) ** 2 / (2 * 0.25 * 0.5 * 2)
    assert values["GSGD", "Theorem 5.7 as printed"] == pytest.approx((D0_term + 8 / 27 / 0.5) / (11 / 9))
    assert values["SGD", "Theorem 5.8 as printed"] == pytest.approx(D0_term + 2 / 9 + 2 / 9)
    assert all(bound.holds for bound in found.bounds)
    # Corollary 5.10.
    assert found.predicted == pytest.approx((25 / 9) * (2 / 9) / (2 * 0.25 * (8 / 27 - 11 / 9 * 2 / 9)))


def test_least_ratio_over_the_ball():
    """rho over [-4/3, 2] is 1, at 1/2, where both losses are equal; sampled points come near, from above."""
    assert 1 <= by_hand().rho_ball <= 1.1


@pytest.mark.parametrize(("R", "k"), [(1, 1), (3, 1), (3, 2), (4, 3), (3, 3)])
def test_selected_mean_against_all_draws(R, k):
    losses, weights = np.array([3.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    expected = sum(
        np.prod(weights[list(draw)]) * np.mean(sorted(losses[list(draw)])[-k:])
        for draw in itertools.product(range(4), repeat=R)
    )
    assert selected_mean(losses, weights, R, k) == pytest.approx(expected)


def test_equal_weights_against_all_draws():
    losses = np.array([3.0, 0.0, 1.0])
    law = exact.top_k(3, 4, 2)
    assert selected_mean(losses, np.full(3, 1 / 3), 4, 2) == pytest.approx(law.expected_loss(losses[None])[0])


@pytest.fixture(scope="module")
def overlapping():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((40, 3))
    return X, (X @ [1.0, -1.0, 0.5] + rng.standard_normal(40) > 0).astype(int)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("logistic", {"ridge": 0.1}),
        ("logistic", {"ridge": 0.1, "R": 4, "k": 2, "w0": [2.0, 2.0, -2.0]}),
        ("logistic", {"ridge": 0.1, "noise": 0.3, "w0": [2.0, 2.0, -2.0]}),
        ("squared", {"w0": [3.0, 3.0, 0.0], "R": 3}),
    ],
)
def test_bounds_hold_on_linear_models(overlapping, loss, options):
    """By simulation: a bound that holds is called broken with probability 1e-6 at most, each."""
    found = theory.examine(loss=loss, data=overlapping, K=60, **options)
    assert len(found.bounds) >= 8
    assert all(bound.holds for bound in found.bounds)
    assert all(found.curves[bound.method].mean[-1] <= bound.value for bound in found.bounds)


def test_broken_bound_is_seen(overlapping):
    for found in (by_hand(), theory.examine(loss="logistic", data=overlapping, ridge=0.1, K=60)):
        steps = found.curves["GSGD"].steps
        found.add("half of what was measured", "GSGD", steps, found.curves["GSGD"].mean / 2)
        assert not found.bounds[-1].holds


def test_constants_of_logistic_regression(overlapping):
    """Against scikit-learn's solver, whose objective is C sum_i loss_i + |w|^2 / 2."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = overlapping
    found = theory.examine(loss="logistic", data=(X, y), ridge=0.1, K=10)
    other = linear_model.LogisticRegression(C=1 / (0.1 * len(X)), fit_intercept=False, tol=1e-10).fit(X, y)
    assert found.minimiser == pytest.approx(other.coef_[0], abs=1e-5)
    assert pytest.approx(0.25 * max(row @ row for row in X) + 0.1) == found.L


def test_separable_data_have_no_minimiser():
    X = np.array([[1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [-2.0, 1.0]])
    found = theory.examine(loss="logistic", data=(X, [1, 1, 0, 0]), K=30)
    assert found.minimiser is None
    assert found.F_star is None
    assert [bound.name for bound in found.bounds] == ["best comparator u"] * 2
    assert all(bound.holds for bound in found.bounds)
    assert "linearly separable" in str(found)


def test_a_sample_of_weight_0_is_never_drawn():
    found = by_hand(weights=[0, 1])
    assert found.curves["GSGD"].mean == pytest.approx([1, 0.75**2])  # (w - 1)^2 alone: w_1 = 1.5
    assert found.F_star == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("labels", "separated"), [([1, 0, 1, 1], False), ([0, 0, 1, 1], True), ([0, 0, 0, 1], True)])
def test_separation(labels, separated):
    X = np.column_stack([[-1.0, 0.0, 0.0, 1.0], np.ones(4)])
    assert LinearModel("logistic", X, labels).separated() is separated
    assert not LinearModel("logistic", X, labels, ridge=0.1).separated()


def test_callables_without_minimiser():
    x = np.array([1.0, 2.0])
    found = theory.examine(
        lambda w: np.logaddexp(0, -x * w[0]), lambda w: (-x / (1 + np.exp(x * w[0])))[:, None], w0=[0.0], K=5
    )
    assert found.minimiser is None


def test_interpolation_promises_a_gain_for_every_K():
    X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    found = theory.examine(loss="squared", data=(X, X @ [1.0, -1.0]), K=6)
    assert found.F_star == 0
    assert found.predicted == np.inf
    assert "every K" in str(found)


def test_promises_vary_what_is_kept(overlapping):
    found = theory.examine(loss="logistic", data=overlapping, ridge=0.1, w0=[2.0, 2.0, -2.0], K=60, R=5, k=3)
    promises = {(item.R, item.k): item for item in found.promises}
    assert {(2, 1), (4, 1), (4, 2), (64, 32), (5, 3)} <= set(promises)
    w = found.minimiser
    losses = np.logaddexp(0, -np.where(overlapping[1] == 1, 1, -1) * (overlapping[0] @ w)) + 0.05 * w @ w
    for (R, k), item in promises.items():
        assert item.Delta == pytest.approx(expected_top_k(losses, R, k))
    # The fewer are kept, the larger is what is selected.
    assert promises[8, 1].rho > promises[8, 4].rho >= 1
    assert promises[5, 3].rho == found.rho


def test_own_rule_has_no_bound():
    found = by_hand(select=select_online_batch, K=20)
    assert {bound.method for bound in found.bounds} == {"SGD"}
    assert "No Delta is proved for this rule" in str(found)


def test_losses_that_are_not_convex():
    found = theory.examine(
        lambda w: 1 - np.exp(-((w[0] - np.array([0.0, 1.0])) ** 2)),
        lambda w: (2 * (w - [0.0, 1.0]) * np.exp(-((w - [0.0, 1.0]) ** 2)))[:, None],
        w0=[0.7],
        eta=0.1,
        K=5,
    )
    assert found.bounds == []
    assert "not convex" in str(found)


def test_normal_noise_of_two_candidates():
    """E max of two normals is 1 / sqrt(pi)."""
    sigma = 0.2
    assert by_hand(noise=sigma).noise_factor == pytest.approx((1 + np.exp(-2 * sigma / np.sqrt(np.pi))) / 2, abs=1e-5)
    other = Noise(sigma, lambda rng, size: rng.choice([-1.0, 1.0], size))
    assert by_hand(noise=other).noise_factor == pytest.approx((1 + np.exp(-2 * sigma / np.sqrt(3))) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": lambda w: 1.01 * slopes(w)}, "do not match"),
        ({"gradients": lambda w: slopes(w)[:, 0]}, "shape"),
        ({"gradients": lambda w: slopes(w) * np.nan}, "finite"),
        ({"losses": lambda w: squares(w).sum()}, "one loss for each sample"),
        ({"losses": lambda w: squares(w) - 5}, "at least 0"),
        ({"weights": [1.0]}, "weights has shape"),
        ({"weights": [-1.0, 2.0]}, "weights must be"),
        ({"w0": [[1.0]]}, "w0 has shape"),
        ({"w0": None}, "w0 is None"),
        ({"L": 1.0}, "too small"),
        ({"L": -1.0}, "positive"),
        ({"minimiser": [0.6]}, "elsewhere"),
        ({"minimiser": [0.5, 0.5]}, "minimiser has shape"),
        ({"eta": 1.5}, "eta"),
        ({"k": 3}, "at most R"),
        ({"K": 1}, "K = 1"),
        ({"ridge": 0.1}, "linear models"),
        ({"select": select_random}, "is SGD"),
        ({"loss": "logistic"}, "either"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        theory.examine(**{"losses": squares, "gradients": slopes, "w0": [2.0], "K": 2} | changes)


@pytest.mark.parametrize(
    ("loss", "data", "message"),
    [
        ("hinge", ([[1.0]], [1.0]), "must be 'logistic' or 'squared'"),
        ("logistic", ([[1.0], [2.0]], [1.0, 1.0]), "needs exactly 2"),
        ("squared", ([[1.0], [2.0]], [1.0]), "y has shape"),
        ("squared", ([1.0, 2.0], [1.0, 2.0]), "X has shape"),
        ("squared", ([[1.0], [2.0]], ["cat", "dog"]), "y must hold numbers.*'cat'"),
        ("squared", ([[1e200], [2.0]], [1.0, 2.0]), "at most 1e"),
        ("squared", ([[np.inf], [2.0]], [1.0, 2.0]), "must be finite"),
        ("squared", None, "go together"),
        ("squared", ([[1.0], [2.0]], [1.0, 1.0], [1.0, 1.0]), "data must be"),
    ],
)
def test_bad_linear_model(loss, data, message):
    with pytest.raises(ValueError, match=message):
        theory.examine(loss=loss, data=data)


def test_shown_in_terminal_and_notebook():
    found = by_hand()
    assert "Theorem 5.7 as printed" in str(found)
    assert found._repr_html_().count("<table>") == str(found).count("\n\n")
    assert "<td>0.2222</td>" in found._repr_html_()


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ax = by_hand().plot()
    assert {"GSGD, exact", "SGD, exact"} <= {line.get_label() for line in ax.lines}
    pyplot.close(ax.figure)


def test_unknown_attribute_of_theory():
    with pytest.raises(AttributeError, match="no attribute 'examin'"):
        theory.examin  # noqa: B018


def test_problem_evaluates_many_points_at_once(overlapping):
    model: FiniteProblem = LinearModel("logistic", *overlapping, ridge=0.2)
    w = np.arange(6.0).reshape(2, 3) / 6
    for row in range(2):
        assert model.all_losses(w)[row] == pytest.approx(model.all_losses(w[row]))
        assert model.all_gradients(w)[row] == pytest.approx(model.all_gradients(w[row]))


# ---- The command ----


@pytest.fixture
def table(tmp_path, overlapping):
    X, y = overlapping
    path = tmp_path / "data.csv"
    rows = [f"{a},{['no', 'yes'][label]},{b},7" for (a, b, _), label in zip(X, y, strict=True)]
    path.write_text("\n".join(["a,answer,b,constant", *rows]))
    return path


def test_command(table, capsys):
    assert (
        cli.main(["examine", str(table), "--loss", "logistic", "--target", "answer", "--ridge", "0.1", "--K", "30"])
        == 0
    )
    printed = capsys.readouterr().out
    # a, b and the intercept.
    assert "40 samples, 3 parameters" in printed
    assert "Theorem 5.7 as printed" in printed


def test_command_writes_json(table, tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["examine", str(table), "--loss", "logistic", "--target", "answer", "--ridge", "0.1", "--K", "30"]
    assert cli.main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert f"Written: {path}" in printed
    assert (found["n"], found["dim"], found["K"]) == (40, 3, 30)
    assert found["header"]["data"] == str(table)
    assert {bound["name"] for bound in found["bounds"] if bound["holds"]} >= {"Theorem 5.7 as printed"}
    last = found["curves"]["GSGD"]
    assert last["steps"][-1] == 30
    assert f"{last['mean'][-1]:.4g}" in printed


def test_it_fits_a_terminal(table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["examine", str(table), "--loss", "logistic", "--target", "answer", "--ridge", "0.1"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_columns_are_standardised(table):
    X, y = read_csv(table, target="answer")
    assert X.mean(axis=0) == pytest.approx([0, 0, 1])
    assert X.std(axis=0) == pytest.approx([1, 1, 0])
    assert set(y) == {"yes", "no"}
    assert read_csv(table, target="answer", raw=True)[0].shape == (40, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,y\n1,2\n", "rows"),
        ("a,b\n1,2\n3,4\n", "no column 'y'"),
        ("a,y\n1,2\nx,4\n", "row 2 has 'x' in the column 'a'"),
        ("a,y\n1,2\n3\n", "row 2 has 1 cells"),
        ("", "no column"),
        ("a,y\n1,2\n3,4\n5,6\n", "needs exactly 2"),
        ("a,y\n1,2\n2,\n", "row 2 has '' in the column 'y'"),
        ("a,y\n1,nan\n2,2\n", "row 1 has 'nan' in the column 'y'"),
        ("y,a,y\n1,2,1\n2,3,0\n", "more than one column 'y'"),
        ("größe,y\n1,2\n", "UTF-8"),
    ],
)
def test_bad_file(tmp_path, capsys, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="latin-1")
    assert cli.main(["examine", str(path), "--loss", "logistic", "--target", "y"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_other_separators_byte_order_mark_quotes_and_blanks(tmp_path, mark):
    path = tmp_path / "data.csv"
    rows = [
        ["\ufeffa", ' "y"', "b, c" if mark != "," else "c"],
        ["1", " yes ", "1e200"],
        ["3", '"no"', "-1e200"],
        ["", "", ""],
    ]
    path.write_text("\r\n".join(mark.join(row) for row in rows), encoding="utf-8")
    X, y = read_csv(path, target="y")
    assert pytest.approx(np.array([[-1, 1, 1], [1, -1, 1]])) == X
    assert y.tolist() == ["yes", "no"]


def test_a_folder_is_no_file(tmp_path, capsys):
    assert cli.main(["examine", str(tmp_path), "--loss", "squared", "--target", "y"]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_no_gain_is_promised_by_rounding():
    """Both rows are the same, so both losses are 1/8 at the minimiser, which is found to some 9 digits."""
    found = theory.examine(loss="squared", data=([[1.0, 2.0], [1.0, 2.0]], [0.0, 1.0]), K=20, runs=4)
    assert found.rho == 1
    assert found.predicted is None
    assert "at the minimiser all losses are the same" in str(found)
    assert all(item.until == 0 for item in found.promises)


def test_without_selection_there_is_no_rho_to_speak_of(overlapping):
    found = theory.examine(loss="squared", data=overlapping, w0=[3.0, 3.0, 0.0], K=5, R=2, k=2, runs=2)
    assert found.remarks == ["rho is 1: all candidates are kept, so there is no selection."]


@pytest.mark.parametrize(
    ("place", "words"),
    [("file/curves.svg", "Not a directory"), ("folder.svg", "Is a directory"), ("curves.xyz", "must end in one of")],
)
def test_a_picture_that_cannot_be_written_is_found_before_the_work(table, tmp_path, capsys, monkeypatch, place, words):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    (tmp_path / "folder.svg").mkdir()
    monkeypatch.setattr("theory.examination.cli.examine", lambda **_: pytest.fail("examined"))
    command = ["examine", str(table), "--loss", "logistic", "--target", "answer", "--plot", str(tmp_path / place)]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / place) in error
    assert words in error
    assert error.count("\n") == 1


def test_a_picture_has_the_format_of_its_name_and_png_without(table, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    command = ["examine", str(table), "--loss", "logistic", "--target", "answer", "--ridge", "0.1", "--K", "30"]
    for name in ("curves", "curves.PDF"):
        assert cli.main([*command, "--plot", name]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.PDF").read_bytes().startswith(b"%PDF")


def test_missing_file(tmp_path, capsys):
    assert cli.main(["examine", str(tmp_path / "none.csv"), "--loss", "squared", "--target", "y"]) == 2
    assert "none.csv" in capsys.readouterr().err
