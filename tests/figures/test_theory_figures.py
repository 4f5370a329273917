"""Figures of the theory: values read back from the artists, and titles that say what the data say."""

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures import style
from figures.checked import Missing
from figures.plots import agreement, gaussian_rho, lemma_c1, noise, overlap, top_k, trajectories, worst_case
from figures.results import Results


@pytest.fixture
def table(theory):
    """`table(name)`: a table of the theory."""
    return lambda name: Results(theory).table(f"theory/{name}")


def draw(module, rows):
    with style.sheet():
        return module.draw(rows)


def lines(ax):
    """Label -> (x, y) of the lines of axes."""
    return {line.get_label(): tuple(map(list, line.get_data())) for line in ax.lines}


def intervals(ax):
    """The vertical intervals in axes, as (x, low, high)."""
    segments = [s for c in ax.collections for s in getattr(c, "get_segments", list)()]
    return sorted((s[0][0], s[0][1], s[1][1]) for s in segments)


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def test_gaussian_rho(table):
    figure = draw(gaussian_rho, table("gaussian_rho"))
    left, right = figure.axes
    exact = lines(left)[r"$\varepsilon/\delta = 1$"]
    assert exact == ([2, 10, 100], [1.2, 2.0, 3.0])
    shares = [
        list(line.get_ydata()) for line in right.lines if len(line.get_xdata()) == 2 and line.get_marker() != "None"
    ]
    assert shares == [[0.25, 0.5], [0.75, 0.9]]
    assert title(right) == "Theorem 5.18's bound holds and gets 25% to 90% of the exact value"
    assert title(left) == "The largest of R = 100 losses is 3.0 to 8 times the mean"
    assert left.get_xscale() == left.get_yscale() == right.get_xscale() == "log"


def test_a_bound_that_fails_is_called_so(table):
    rows = table("gaussian_rho")
    rows.loc[(rows["quantity"] == "bound") & (rows["R"] == 100), "value"] = 8.8
    assert "exceeds the exact value by up to 193.33%" in title(draw(gaussian_rho, rows).axes[1])
    rows = table("noise")
    rows.loc[rows["quantity"] == "p_sharp", "value"] = 1.0
    assert "p_sharp exceed" in title(draw(noise, rows).axes[0])
    rows = table("agreement")
    rows.loc[rows["quantity"] == "Equation 14", "value"] = 0.99
    assert "Equation 14 exceed" in title(draw(agreement, rows).axes[0])
    rows = table("lemma_c1")
    assert "0.72 is too small: the ratio reaches 0.8090" in title(
        draw(lemma_c1, rows.assign(value=rows["value"] + 0.3)).axes[0]
    )


def test_noise(table):
    (ax,) = draw(noise, table("noise")).axes
    drawn = lines(ax)
    assert drawn["worst case, Rademacher"] == ([0.0, 0.2, 0.3, 1.0], pytest.approx([1.0, 0.96, 0.94, 0.8]))
    assert drawn[r"$p(\sigma)$, as printed"] == ([0.0, 0.2, 0.3], [1.0, 0.8, 0.7])
    assert intervals(ax) == [
        (1.0, pytest.approx(0.78), pytest.approx(0.83)),
        (1.0, pytest.approx(0.88), pytest.approx(0.93)),
    ]
    # The worse law is 1 - .2 sigma; at sigma = .3 p and its sharper form are .24 and .09 below.
    assert "up to 0.24 more than $p(\\sigma)$ promises, 0.09 more than its sharper form" in title(ax)


def test_lemma_c1(table):
    near, far = draw(lemma_c1, table("lemma_c1")).axes
    assert lines(near)["least constant that does"][1] == pytest.approx([0.5, 0.503, 0.509, 0.53, 0.65, 0.8])
    assert lines(near)["0.72, as printed"][1] == [0.72, 0.72]
    assert lines(far)["$c^* = 0.511146$"][1] == [0.51114550441745910941] * 2
    # .5 + .03 sigma = .72 at 22/3, between the points at 5 and 10.
    assert any(list(line.get_xdata()) == pytest.approx([22 / 3] * 2) for line in far.lines)
    assert "valid up to $\\sigma$ = 7.33, 20.7 times the lemma's range" in title(far)
    assert title(near) == "In the lemma's range 0.5112 does in place of 0.72"


def test_where_a_curve_reaches_a_level(table):
    curve = table("lemma_c1").set_index("sigma")["value"]
    assert lemma_c1.where_it_reaches(curve, 0.5) == 0.0
    assert lemma_c1.where_it_reaches(curve, 0.9) is None
    assert lemma_c1.where_it_reaches(curve, 0.65) == pytest.approx(5.0)


def test_agreement(table):
    (ax,) = draw(agreement, table("agreement")).axes
    closed = lines(ax)["closed form, $1 - \\arccos(\\beta)/\\pi$"]
    # arccos(1/2) is a third of pi.
    assert closed[0] == [0.0, 0.5, 0.8, 0.95, 1.0]
    assert closed[1] == pytest.approx([0.5, 2 / 3, 1 - math.acos(0.8) / math.pi, 1 - math.acos(0.95) / math.pi, 1.0])
    assert intervals(ax) == [
        (0.5, pytest.approx(0.65), pytest.approx(0.68)),
        (0.8, pytest.approx(0.78), pytest.approx(0.81)),
    ]
    # At .95 it says .578.
    assert "less than chance up to $\\beta$ = 0.80" in title(ax)


def test_overlap(table):
    top, bottom = draw(overlap, table("agreement")).axes
    assert intervals(top)[0] == (0.5, pytest.approx(0.62), pytest.approx(0.69))
    below = intervals(bottom)
    assert [low for _, low, _ in below] == pytest.approx([0.62 - 2 / 3, 0.65 - 2 / 3])
    assert below[0][0] != below[1][0]
    # 1 - arccos(.8)/pi = .795 is just short of 80%.
    assert "takes $\\beta$ ≥ 0.95; batches of 4 to 16 are within 0.017 of the limit" in title(top)


def test_trajectories(table):
    (ax,) = draw(trajectories, table("trajectories")).axes
    drawn = lines(ax)
    assert drawn["GSGD"] == ([1, 10, 100, 1000], [2.0, 0.5, 0.4, 0.4])
    assert drawn["bound of SGD"][1] == [100.5, 10.5, 1.5, 0.6]
    assert drawn["the bounds cross"] == ([100.0], [1.5])
    # The gap goes from -.1 at 100 to .1 at 1000: it closes halfway between their logarithms.
    assert drawn["the runs cross"][0] == pytest.approx([10**2.5])
    assert title(ax) == "GSGD leads until K = 316, then SGD does; the bounds put it at K = 100"


def test_trajectories_that_do_not_cross(table):
    rows = table("trajectories")
    rows.loc[(rows["method"] == "SGD") & (rows["quantity"] == "mean"), "value"] += 1
    (ax,) = draw(trajectories, rows).axes
    assert "the runs cross" not in lines(ax)
    assert title(ax) == "The bounds cross at K = 100; the runs do not up to K = 1,000"


def test_top_k(table):
    (ax,) = draw(top_k, table("top_k")).axes
    drawn = lines(ax)
    assert drawn["$B = 4$"] == ([0.25, 0.5, 1.0], [2.1, 1.6, 1.0])
    assert drawn["limit (CVaR)"][1] == pytest.approx([1 + math.log(4), 1 + math.log(2), 1.0])
    assert title(ax) == "Keeping half of a batch gains a factor of 1.50 at B = 2 already, and at most 1.69"
    figure = ax.figure
    figure.canvas.draw()
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert "50%" in ticks
    assert np.isclose(ax.get_ylim()[0], 0.8)


def test_worst_case(table):
    """Recorded: 5.7's bound is 2.5 times the worst case at eta L = .25 and 1 + K times at .5, the sharper 1 or 1.5."""
    figure = draw(worst_case, table("worst_case"))
    first, second = figure.axes
    curves = [line.get_xydata().tolist() for line in first.lines if list(line.get_xdata()) == [0.25, 0.5]]
    printed = {K: [[0.25, 2.5], [0.5, 1.0 + K]] for K in (2, 3)}
    sharper = {K: [[0.25, factor], [0.5, factor]] for K, factor in ((2, 1.0), (3, 1.5))}
    found = 2 * [[[0.25, 0.8], [0.5, 0.8]]]
    # Twice: two settings of n and rho.
    assert sorted(curves) == sorted(2 * [*printed.values(), *sharper.values(), *found])
    assert first.get_yscale() == "log"
    assert first.get_ylim()[0] < 1
    assert first.get_ylim()[1] > 8
    assert title(first) == "Theorem 5.7 (GSGD) $n = 2, 3$; $\\rho = 1, 1.2$"
    assert title(second) == "Theorem 5.8 (SGD) $n = 2$"
    # Of 5.8 one program was not solved: a mark alone is left, of either bound, and nothing was sought.
    alone = [line.get_xydata()[0].tolist() for line in second.lines if len(line.get_xdata()) == 1]
    assert sorted(mark for mark in alone if not math.isnan(mark[1])) == [[0.25, 1.0], [0.25, 8.0]]
    (legend,) = figure.legends
    names = ["$K = 2$", "$K = 3$", "as printed", "sharper bound", "largest found"]
    assert [text.get_text() for text in legend.get_texts()] == names
    said = " ".join(figure.get_suptitle().split())
    assert said == (
        "The printed bounds are 2.5 to 8 times the worst case, the sharper bound at most 1.5; problems reach 80% of "
        "the worst case"
    )


def test_a_bound_below_the_worst_case_is_no_bound(table):
    rows = table("worst_case")
    rows.loc[(rows["K"] == 3) & (rows["eta"] == 0.5), "sharper_bound"] = 0.49
    assert "exceeds the sharper bound: no bound" in draw(worst_case, rows).get_suptitle()
    rows["bound"] = 0.4
    assert "exceeds the printed bound and the sharper bound: no bound" in draw(worst_case, rows).get_suptitle()


def test_worst_cases_that_were_not_solved_are_missing(table):
    with pytest.raises(Missing, match="no worst case was solved"):
        draw(worst_case, table("worst_case").assign(worst_case=math.nan))
