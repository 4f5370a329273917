"""The comparisons behind every verdict: against plain Python, at their edges, and where nothing can be compared."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import verdict
from theory.verdict import (
    ROUNDING,
    AssumptionViolated,
    Context,
    Route,
    Status,
    Verdict,
    at_least,
    at_most,
    describe,
    equal,
    worst,
)

numbers = st.floats(-1e6, 1e6)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6)


@given(pairs)
def test_at_most_is_the_comparison_of_every_pair(items):
    value, bound = np.array(items).T
    holds = all(v <= b + ROUNDING * max(1, abs(v), abs(b)) for v, b in items)
    found = at_most(value, bound)
    assert found.status is (Status.PROVED if holds else Status.REFUTED)
    assert (found.witness is None) == holds
    assert (found.value, found.bound) in items
    assert found.slack == found.bound - found.value


@given(pairs)
def test_at_least_mirrors_at_most(items):
    value, bound = np.array(items).T
    found, mirror = at_least(value, bound), at_most(bound, value)
    assert found.status is mirror.status
    assert found.slack == mirror.slack
    assert (found.value, found.bound) == (mirror.bound, mirror.value)


@given(pairs, st.sampled_from([0.0, 1e-9, 0.1]))
def test_equal_is_the_comparison_of_every_pair(items, tolerance):
    value, expected = np.array(items).T
    holds = all(abs(v - e) / max(1, abs(e)) <= tolerance for v, e in items)
    assert equal(value, expected, tolerance=tolerance).status is (Status.PROVED if holds else Status.REFUTED)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_rounding_is_relative_to_what_is_compared_but_at_least_absolute(size):
    room = ROUNDING * max(1.0, size)
    assert at_most(size + 0.9 * room, size).status is Status.PROVED
    assert at_most(size + 1.2 * room, size).status is Status.REFUTED
    assert at_least(size - 0.9 * room, size).status is Status.PROVED
    assert at_least(size - 1.2 * room, size).status is Status.REFUTED
    assert at_most(size + 0.9 * room, size, rounding=0.0).status is Status.REFUTED


def test_a_small_violation_is_not_hidden_by_a_large_one_elsewhere_that_rounding_covers():
    # Absolutely, the first place is worse; relative to its size it is rounding, and the second is a refutation.
    found = at_most([1e6 + 1e-6, 1.0 + 1e-8], [1e6, 1.0], where={"i": [0, 1]})
    assert found.status is Status.REFUTED
    assert found.witness.endswith("at i = 1")


def test_witness_names_the_worst_place_and_both_numbers():
    found = at_most([[1.0, 2.0], [5.0, 4.0]], 3.0, where={"row": [["a"], ["b"]], "x": [0.5, 0.25]})
    assert found.witness == "5 > 3 at row = b, x = 0.5"
    assert at_least([1.0, 2.0], 1.5, where="the left end").witness == "1 < 1.5 at the left end"
    assert at_least(1.0, 1.5).witness == "1 < 1.5"
    assert equal([1.0, 2.0], [1.0, 2.5], where={"k": [3, 4]}).witness == "2 differs from 2.5 at k = 4"


@pytest.mark.parametrize("compare", [at_most, at_least, equal])
def test_a_comparison_at_no_place_is_an_error_and_not_a_proof(compare):
    with pytest.raises(ValueError, match="evaluated at no place"):
        compare([], 1.0)


@pytest.mark.parametrize("compare", [at_most, at_least, equal])
@pytest.mark.parametrize("sides", [(math.nan, 1.0), (1.0, math.nan), ([0.0, math.nan], [1.0, 1.0])])
def test_what_is_not_a_number_neither_proves_nor_refutes(compare, sides):
    found = compare(*sides, where={"i": [0, 1]} if isinstance(sides[0], list) else None)
    assert found.status is Status.INCONCLUSIVE
    assert found.witness == ("not a number at i = 1" if isinstance(sides[0], list) else "not a number")


def test_infinities():
    assert at_most([1.0, 2.0], [math.inf, 3.0]).status is Status.PROVED
    assert at_most(1.0, math.inf).slack == math.inf
    assert at_most(1.0, -math.inf).status is Status.REFUTED
    assert at_most(math.inf, 1.0).status is Status.INCONCLUSIVE
    assert equal([math.inf, -math.inf], [math.inf, -math.inf]).status is Status.PROVED
    assert equal(math.inf, -math.inf).status is Status.REFUTED
    assert equal(1.0, math.inf).status is Status.REFUTED
    assert equal(math.inf, 1.0).status is Status.REFUTED


def test_equal_reports_the_largest_difference_relative_to_the_expected_value():
    found = equal([1.0, 1000.0], [1.1, 1000.5], tolerance=0.2)
    assert (found.value, found.bound) == (1.0, 1.1)
    assert found.slack == pytest.approx(0.2 - 0.1 / 1.1)


def test_describe_broadcasts_names_over_places():
    assert describe(None, (0,), (1,)) == ""
    assert describe("here", (0,), (1,)) == " at here"
    assert describe({"R": 3, "w": [0.123456789, 2.0]}, (0,), (2,)) == " at R = 3, w = 0.123457"


STATUSES = {
    Status.PROVED: Verdict(status=Status.PROVED, slack=0.1),
    Status.CONSISTENT: Verdict(status=Status.CONSISTENT, slack=0.2, detectable=0.01),
    Status.INCONCLUSIVE: Verdict(status=Status.INCONCLUSIVE, witness="why"),
    Status.ASSUMPTION_VIOLATED: Verdict(status=Status.ASSUMPTION_VIOLATED, witness="which"),
    Status.REFUTED: Verdict(status=Status.REFUTED, slack=-1.0, witness="where"),
}


@given(st.lists(st.sampled_from(list(STATUSES)), min_size=1, max_size=6))
def test_a_claim_with_parts_is_as_good_as_its_worst_part(kinds):
    # The dictionary above goes from best to worst: sampled is less than proved, refuted trumps all.
    order = list(STATUSES)
    assert worst(*(STATUSES[kind] for kind in kinds)).status is max(kinds, key=order.index)


def test_parts_that_hold_report_the_tightest_and_the_weakest_power():
    parts = [
        Verdict(status=Status.CONSISTENT, value=1.0, slack=0.5, detectable=0.02),
        Verdict(status=Status.CONSISTENT, value=2.0, slack=0.1, detectable=0.001),
        Verdict(status=Status.PROVED, value=3.0, slack=0.01),
    ]
    found = worst(*parts)
    assert (found.value, found.slack, found.detectable) == (2.0, 0.1, 0.02)
    assert worst(parts[2], Verdict(status=Status.PROVED)) == parts[2]
    with pytest.raises(ValueError, match="at least one verdict"):
        worst()


@pytest.fixture
def registry(monkeypatch):
    """An empty registry, so that checks made up here do not stand beside the real ones."""
    empty = {}
    monkeypatch.setattr(verdict, "_registry", empty)
    return empty


def test_a_check_is_registered_under_its_module_and_name(registry):
    @verdict.check("Fact A.1", Route.CLOSED_FORM)
    def one(context: Context, *, bound=2.0):
        """1 <= 2

        A remark, which is no part of the claim.
        """
        return at_most(1.0, bound)

    @verdict.check("Fact A.1", Route.MONTE_CARLO)
    def two(context):
        """a coin is fair, as far as
        samples say
        """
        return Verdict(status=Status.CONSISTENT, value=context.alpha)

    assert list(registry) == ["test_verdict.one", "test_verdict.two"]
    assert verdict.registered() == registry
    assert verdict.registered() is not registry
    check = registry["test_verdict.one"]
    assert (check.statement, check.claim, check.expected) == ("Fact A.1", "1 <= 2", Status.PROVED)
    assert registry["test_verdict.two"].claim == "a coin is fair, as far as samples say"
    assert registry["test_verdict.two"].expected is Status.CONSISTENT
    assert check.run(seed=0, alpha=0.1).status is Status.PROVED
    assert check.run(seed=0, alpha=0.1, bound=0.5).status is Status.REFUTED
    assert registry["test_verdict.two"].run(seed=0, alpha=0.125).value == 0.125
    with pytest.raises(ValueError, match=r"test_verdict\.one is already registered"):
        verdict.check("Fact A.2", Route.EXACT)(one)
    with pytest.raises(TypeError, match="no_such_formula"):
        check.run(seed=0, alpha=0.1, no_such_formula=1)


def test_a_check_says_what_it_claims(registry):
    with pytest.raises(ValueError, match=r"the check test_verdict\.silent has no docstring"):

        @verdict.check("Fact A.1", Route.EXACT)
        def silent(context):
            return at_most(1.0, 2.0)

    assert not registry


def test_the_older_form_of_a_check_works_and_says_so(registry):
    with pytest.warns(DeprecationWarning, match="a check's claim is its docstring now") as caught:

        @verdict.check("Fact A.1", "1 <= 2", Route.EXACT)
        def older(context):
            return at_most(1.0, 2.0)

    assert [warning.filename for warning in caught] == [__file__]
    found = registry["test_verdict.older"]
    assert (found.statement, found.claim, found.route) == ("Fact A.1", "1 <= 2", Route.EXACT)
    assert found.run(seed=0, alpha=0.1).status is Status.PROVED


def test_a_check_that_yields_its_parts_stops_at_the_first_refutation(registry):
    seen = []

    @verdict.check("Theorem 5.7", Route.EXACT)
    def parts(context, *, values=(0.5, 1.5, 1.0)):
        """all are at most 2"""
        for value in values:
            seen.append(value)
            yield at_most(value, 2.0)

    check = registry["test_verdict.parts"]
    assert check.run(seed=0, alpha=0.1) == worst(at_most(0.5, 2.0), at_most(1.5, 2.0), at_most(1.0, 2.0))
    seen.clear()
    assert check.run(seed=0, alpha=0.1, values=(1.0, 3.0, 4.0)) == at_most(3.0, 2.0)
    assert seen == [1.0, 3.0]


def test_only_a_broken_assumption_becomes_a_verdict(registry):
    @verdict.check("Theorem 5.7", Route.EXACT, claim="control", expected=Status.ASSUMPTION_VIOLATED)
    def broken(context, *, error=AssumptionViolated("eta < 1/L", "eta = 1 must lie in (0, 1)")):  # noqa: B008
        raise error

    found = registry["test_verdict.broken"].run(seed=0, alpha=0.1)
    assert found == Verdict(status=Status.ASSUMPTION_VIOLATED, witness="eta < 1/L: eta = 1 must lie in (0, 1)")
    with pytest.raises(ValueError, match="another"):
        registry["test_verdict.broken"].run(seed=0, alpha=0.1, error=ValueError("another"))


def test_an_assumption_violated_is_a_value_error_that_names_it():
    error = AssumptionViolated("Assumption 5.3", "L = 1 is too small")
    assert isinstance(error, ValueError)
    assert error.assumption == "Assumption 5.3"
    assert str(error) == "Assumption 5.3: L = 1 is too small"


def test_generators_depend_on_name_and_seed_alone():
    draws = {
        (name, seed): tuple(verdict.generator(name, seed).integers(2**63, size=4))
        for name in ("a.b", "a.c", "")
        for seed in (0, 1, 2**40)
    }
    assert len(set(draws.values())) == 9
    assert draws["a.b", 1] == tuple(verdict.generator("a.b", 1).integers(2**63, size=4))


def test_generators_of_different_names_are_uncorrelated():
    # 50 streams of 2,000 normals: |correlation| sqrt(n) < 6.5 for all 1,225 pairs, but for probability 1e-7.
    streams = np.stack([verdict.generator(f"check {i}", 0).standard_normal(2000) for i in range(50)])
    correlation = np.corrcoef(streams) - np.eye(50)
    assert np.abs(correlation).max() * np.sqrt(2000) < 6.5
