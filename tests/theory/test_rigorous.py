"""Balls, subdivision and enclosures: nothing uncertain is taken for decided, no part of a range is left out."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

flint = pytest.importorskip("flint")
mpmath = pytest.importorskip("mpmath")

from flint import arb, fmpq  # noqa: E402

from theory.checks import rigorous_early_exit, rigorous_gaussian, rigorous_lemma_c1  # noqa: E402
from theory.formulas import early_exit, facts, noise, rho  # noqa: E402
from theory.routes import rigorous  # noqa: E402
from theory.routes.rigorous import ball, box, enclosures, subdivide  # noqa: E402
from theory.verdict import Status, Verdict  # noqa: E402

rationals = st.fractions(min_value=-100, max_value=100, max_denominator=1000)


@pytest.fixture(autouse=True)
def digits():
    """50 digits on the other side."""
    with mpmath.workdps(50):
        yield


def contains(enclosure, value):
    """Does the ball contain an mpmath number, of which 45 digits are right?"""
    value = arb(mpmath.nstr(value, 49))
    return enclosure.overlaps(value * (1 + arb(0, 1e-45)))


# --- balls ----------------------------------------------------------------------------------------------------------


@given(rationals, rationals)
def test_comparisons_of_rationals_are_those_of_fractions(a, b):
    found = rigorous.at_most(ball(a), ball(b), where="here")
    if a != b:
        assert found.status is (Status.PROVED if a < b else Status.REFUTED)
    # Equal ones that are no binary fractions are balls which overlap.
    assert found.status is not Status.REFUTED or a > b


@pytest.mark.parametrize("value", [arb(1, 0.1), arb(1, 1e-20), arb("nan"), ball("1/3") * 3])
def test_an_undecided_comparison_is_not_taken_for_a_decision(value):
    assert not value <= 1
    assert not value > 1
    for found in (
        rigorous.at_most(value, ball(1), where="here"),
        rigorous.ingredient(value, ball(1), where="a step"),
        rigorous.equal(value, ball(1), 0, where="here"),
    ):
        assert found.status is Status.INCONCLUSIVE
        assert "here" in found.witness or "a step" in found.witness


def test_equality_counts_the_radius():
    assert rigorous.equal(arb(1, 1e-6), ball(1), "1e-5", where="x").status is Status.PROVED
    assert rigorous.equal(arb(1, 1e-4), ball(1), "1e-5", where="x").status is Status.INCONCLUSIVE
    found = rigorous.equal(arb(2, 1e-6), ball(1), "1e-5", where="x")
    assert found.status is Status.REFUTED
    assert found.witness.endswith("differ by 1.00 at x")


def test_an_argument_that_fails_refutes_nothing():
    found = rigorous.ingredient(ball(2), ball(1), where="t >= 3")
    assert found.status is Status.INCONCLUSIVE
    assert found.witness == "the argument needs 2.000000000 <= 1.000000000 for t >= 3"


def test_a_proof_says_what_it_took_and_what_fails_comes_first():
    with rigorous.precision(64):
        parts = [Verdict(status=Status.PROVED, slack=1.0, witness="3 boxes"), Verdict(status=Status.PROVED, slack=0.5)]
        assert rigorous.all_of(parts) == Verdict(status=Status.PROVED, slack=0.5, witness="3 boxes, 64 bits")
        assert rigorous.all_of(parts, "5 boxes").witness == "5 boxes, 64 bits"
        refuted = Verdict(status=Status.REFUTED, witness="at t = 2")
        assert rigorous.all_of([*parts, Verdict(status=Status.INCONCLUSIVE), refuted]) == refuted


def test_floats_are_refused_because_they_are_other_numbers_than_the_papers():
    with pytest.raises(ValueError, match=r"0\.72 is a float"):
        ball(0.72)
    with rigorous.precision(100):
        assert ball("0.72").contains(fmpq(18, 25))
        assert not ball("0.72").contains(fmpq(*(0.72).as_integer_ratio()))
    with pytest.raises(ValueError, match="at least 20"):
        rigorous.precision(19)


def test_precision_ends_with_its_block():
    before = flint.ctx.prec
    with rigorous.precision(333):
        assert flint.ctx.prec == 333
    assert flint.ctx.prec == before


# --- subdivision ----------------------------------------------------------------------------------------------------


def volume(parts):
    return sum((math.prod((high - low for low, high in part), start=fmpq(1)) for part in parts), fmpq(0))


def overlap(first, second):
    return all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def hump(part):
    """x y (2 - x y) on a part of [0, 1]^2, where it increases in both: 1 at (1, 1)."""
    (_, x), (_, y) = part
    z = ball(x) * ball(y)
    return z * (2 - z)


def parabola(part):
    """1 - (x - 1/3)^2 by plain interval arithmetic, which overestimates."""
    ((low, high),) = part
    x = ball(low).union(ball(high))
    return 1 - (x - ball("1/3")) * (x - ball("1/3"))


@pytest.mark.parametrize(
    ("enclose", "whole", "bound", "limit"),
    [
        (hump, box((0, 1), (0, 1)), "1", 10),
        (hump, box((0, "0.9"), ("0.1", 1)), "0.995", 5000),
        (hump, box((0, 1), (0, 1)), "0.99", 5000),
        (parabola, box((-3, 2)), "1.001", 5000),
        (parabola, box((-3, 2)), "1", 200),
        (parabola, box(("1/3", 2)), "0.999999", 5000),
    ],
)
def test_boxes_cover_the_whole_range_without_overlap(enclose, whole, bound, limit):
    found = subdivide(enclose, ball(bound), whole, max_boxes=limit)
    parts = [*found.proved, *found.undecided]
    assert volume(parts) == volume([whole])
    assert not any(overlap(a, b) for i, a in enumerate(parts[:300]) for b in parts[:i])
    for part in parts:
        assert all(a <= low < high <= b for (low, high), (a, b) in zip(part, whole, strict=True))
    assert all(enclose(part) <= ball(bound) for part in found.proved)


def test_a_true_bound_is_proved_a_false_one_refuted_and_an_attained_one_neither():
    whole = box((-3, 2))
    proof = subdivide(parabola, ball("1.001"), whole)
    assert not proof.undecided
    assert proof.refuted is None
    assert proof.value <= ball("1.001")
    text = rigorous.verdict(proof, ball("1.001"), names=("x",)).witness
    assert text == f"{len(proof.proved)} boxes"

    false = subdivide(parabola, ball("0.999"), whole)
    (x,) = false.refuted
    assert 1 - (Fraction(int(x.p), int(x.q)) - Fraction(1, 3)) ** 2 > Fraction("0.999")
    assert rigorous.verdict(false, ball("0.999"), names=("x",)).status is Status.REFUTED

    # The maximum 1 is attained at x = 1/3, which is no corner of a box: boxes around it stay undecided.
    attained = subdivide(parabola, ball(1), whole, max_boxes=100)
    assert attained.refuted is None
    assert all(part[0][1] > fmpq(1, 3) - fmpq(1, 2) for part in attained.undecided)
    found = rigorous.verdict(attained, ball(1), names=("x",))
    assert found.status is Status.INCONCLUSIVE
    assert "are undecided, one of them x in [" in found.witness


def test_what_is_not_a_number_stays_undecided():
    found = subdivide(lambda part: arb("nan"), ball(1), box((0, 1)), max_boxes=50)
    assert not found.proved
    assert found.refuted is None
    assert volume(found.undecided) == 1


def test_a_point_that_cannot_be_divided_ends_the_search():
    found = subdivide(lambda part: arb(1, 0.1), ball(1), box((2, 2)))
    assert found.undecided == (box((2, 2)),)
    assert subdivide(lambda part: ball(1), ball(1), box((2, 2))).proved == (box((2, 2)),)


@pytest.mark.parametrize("sides", [(), ((1, 0),), ((0.5, 1),), ((0, arb(1)),)])
def test_no_box(sides):
    with pytest.raises(ValueError, match=r"is no box|is not exact"):
        box(*sides)


# --- enclosures against mpmath, at 60 and 150 bits ------------------------------------------------------------------


@pytest.mark.parametrize("bits", [60, 150])
def test_enclosures_contain_mpmath_values_at_random_points(bits):
    rng = np.random.default_rng(bits)
    pi, root = mpmath.pi, mpmath.sqrt(2)
    with rigorous.precision(bits):
        for a, b in rng.integers(1, 1000, size=(20, 2)):
            x, v = Fraction(int(a), 500), Fraction(int(b), 1000)
            mx, mv = mpmath.mpf(int(a)) / 500, mpmath.mpf(int(b)) / 1000
            assert contains(enclosures.phi(ball(x)), -mpmath.expm1(-mx) / mx)
            ratio = 2 * -mpmath.expm1(-mv * mx) / (2 + (mv * root) ** 2) / -mpmath.expm1(-mx)
            assert contains(enclosures.lemma_c1_ratio(ball(v), ball(x)), ratio)
            top = mpmath.findroot(lambda t, mx=mx: mpmath.exp(t) - 1 - mx**2 / (2 * t) - t / 2, mx * 0.9)
            assert contains(enclosures.t_star(x), top)
            assert contains(enclosures.normal_cdf(ball(x)), mpmath.ncdf(mx))
            assert contains(enclosures.normal_cdf_integral(ball(-x)), mpmath.ncdf(-mx))
            assert contains(enclosures.largest_cdf_integral(ball(x), 7), mpmath.ncdf(mx) ** 7)
            assert contains(enclosures.agreement(v), 1 - mpmath.acos(mv) / pi)
            assert contains(enclosures.nu(9 + x), mpmath.sqrt(pi / 2 * mpmath.log((9 + mx) / (4 * mpmath.log(9 + mx)))))
            t = rigorous_early_exit.sine_ratio(fmpq(int(b), 1000))
            assert contains(t, mv / mpmath.sin(pi * mv / 2))


@pytest.mark.parametrize("bits", [60, 150])
def test_enclosed_integrals_contain_mpmath_quadrature(bits):
    def inside(z, c):
        return mpmath.ncdf(z - c) - mpmath.ncdf(-z - c)

    with rigorous.precision(bits), mpmath.workdps(40):
        for R, c in ((1, 0), (3, Fraction(1, 3)), (9, 2), (20, -1)):
            m = mpmath.mpf(abs(c).numerator) / abs(c).denominator if isinstance(c, Fraction) else mpmath.mpf(abs(c))
            points = [0, 1, 2, 3, 4, 6, 9, 14, 22]
            value = mpmath.quad(lambda z, R=R, m=m: 2 * z * (1 - inside(z, m) ** R), points) / (1 + m * m)
            enclosed = enclosures.gaussian_rho(c, R)
            assert enclosed.overlaps(arb(mpmath.nstr(value, 38)) * (1 + arb(0, 1e-30)))
            assert float(enclosed.rad()) < 1e5 * 2.0**-bits
        mean = mpmath.quad(lambda s: 1 - mpmath.ncdf(s) ** 9 - mpmath.ncdf(-s) ** 9, [0, 1, 2, 3, 4, 6, 9, 14, 22])
        assert enclosures.largest_mean(9).overlaps(arb(mpmath.nstr(mean, 38)) * (1 + arb(0, 1e-30)))


def test_known_values_are_inside():
    with rigorous.precision(100):
        root = arb.pi().sqrt()
        assert enclosures.largest_mean(1).contains(0)
        assert enclosures.largest_mean(2).overlaps(1 / root)
        assert enclosures.largest_mean(3).overlaps(3 / (2 * root))
        assert enclosures.gaussian_rho(0, 1).contains(1)
        assert enclosures.gaussian_rho(0, 2).overlaps(1 + 2 / arb.pi())
        assert enclosures.gaussian_rho(0, 3).overlaps(1 + 2 * ball(3).sqrt() / arb.pi())
        assert enclosures.agreement_integral(0).contains(fmpq(1, 2))
        assert enclosures.agreement_integral("1/2").contains(fmpq(2, 3))
        assert not (enclosures.nu(8) >= 0)
        assert enclosures.phi(ball(0)) == 1


def test_higher_precision_gives_a_ball_inside_the_first():
    for function in (lambda: enclosures.lemma_c1_best("1/2"), lambda: enclosures.gaussian_rho(1, 16)):
        with rigorous.precision(60):
            wide = function()
        with rigorous.precision(300):
            narrow = function()
            assert wide.contains(narrow)
            assert float(narrow.rad()) < 1e-60


@pytest.mark.parametrize("beta", [-1, 1, arb(1, 0.01)])
def test_what_an_enclosure_cannot_take(beta):
    with pytest.raises(ValueError, match="must lie in"):
        enclosures.agreement_integral(beta)
    with pytest.raises(ValueError, match="must be positive"):
        enclosures.t_star(0)
    with pytest.raises(ValueError, match="integer >= 1"):
        enclosures.gaussian_rho(0, 0)


# --- what the proofs bound is what the formulas compute -------------------------------------------------------------

shares = st.fractions(min_value=0, max_value=1, max_denominator=2**20)


@given(shares, shares, shares, shares)
def test_lemma_c1_a_box_bounds_the_ratio_inside_it(a, b, c, d):
    v, x = sorted([a, b]), sorted([c / 2, d / 2])
    bound = rigorous_lemma_c1.ratio_bound(box(tuple(v), tuple(x)))
    for t, s in ((v[0], x[0]), (v[1], x[0]), (v[0], x[1]), (v[1], x[1]), (sum(v) / 2, sum(x) / 2)):
        sigma = float(s) / math.sqrt(2)
        if sigma > 0:
            ratio = noise.h(float(t * s), sigma) / -math.expm1(-float(s))
            assert ratio <= float(bound.upper()) * (1 + 1e-12)


@given(st.fractions(min_value=Fraction(1, 1000), max_value=5, max_denominator=1000))
def test_fact_a_3_squared_form_is_the_bound(t):
    x = float(t)
    above = math.erfc(x)
    assert 1 - above * (2 - above) == pytest.approx(math.erf(x) ** 2, abs=1e-15)
    assert 1 - math.exp(-4 * x * x / math.pi) == pytest.approx(facts.erf_bound(x) ** 2, abs=1e-15)


@given(st.fractions(min_value=Fraction(1, 1000), max_value=1, max_denominator=1000))
def test_theorem_6_2_ratios_are_those_of_the_formulas(s):
    beta = math.cos(math.pi * float(s) / 2)
    lost = 1 - early_exit.agreement(beta)
    assert lost == pytest.approx(float(s) / 2, abs=1e-12)
    ratio = float(rigorous_early_exit.sine_ratio(fmpq(s.numerator, s.denominator)))
    assert lost / (1 - early_exit.agreement_bound_sharp(beta)) == pytest.approx(ratio, rel=1e-6)
    sine = math.sin(math.pi * float(s) / 2)
    expected = ratio * math.sqrt(1 + sine**2) / (2 * math.sqrt(2))
    assert lost / (1 - early_exit.agreement_bound(beta)) == pytest.approx(expected, rel=1e-6)


@given(st.integers(9, 4096), st.fractions(min_value=-10, max_value=10, max_denominator=100))
def test_theorem_5_18_the_bound_of_the_boxes_is_at_least_the_printed_one(R, c):
    printed = rho.gaussian_rho_bound(float(c), 1.0, R) * (1 + float(c) ** 2)
    assert float((abs(ball(c)) + enclosures.nu(R)) ** 2 * (1 - 1 / ball(R))) >= printed * (1 - 1e-12) - 1e-12


def test_theorem_5_18_blocks_of_R_leave_none_out():
    blocks = rigorous_gaussian.BLOCKS
    assert [R for first, last in blocks for R in range(first, last + 1)] == list(range(9, rigorous_gaussian.LAST + 1))
    assert rigorous_gaussian.covers(blocks)
    assert not rigorous_gaussian.covers(blocks[1:])
    assert not rigorous_gaussian.covers((blocks[0], *blocks[2:]))
