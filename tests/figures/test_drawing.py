"""Figures made by several processes come in their order, and what one of them says is heard."""

import math

import pytest

from figures.checked import Missing
from figures.drawing import FEW, made
from figures.results import Results

NUMBERS = [(float(number),) for number in range(FEW)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_in_their_order(jobs):
    found = list(made(math.sqrt, NUMBERS, jobs=jobs))
    assert [root for root, _ in found] == [math.sqrt(*number) for number in NUMBERS]
    assert all(seconds >= 0 for _, seconds in found)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_missing_takes_the_place_of_a_result(tmp_path, jobs):
    results = Results.of(tmp_path)
    for reason, _ in made(Results.table, [(results, "runs")] * FEW, jobs=jobs):
        assert isinstance(reason, Missing)
        assert "gsgd train" in str(reason)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised(jobs):
    # Newer Pythons say more: "expected a nonnegative input".
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(made(math.sqrt, [*NUMBERS, (-1.0,)], jobs=jobs))
