"""When a call is held to be the one that is known, and when it is not though its function is the same."""

import math

import pytest

torch = pytest.importorskip("torch")

from gsgd.sift.shared_forward.operation_cache import CachedOperation  # noqa: E402
from gsgd.sift.shared_forward.operation_tracker import OperationTracker  # noqa: E402


def known(*args, **kwargs):
    values = tuple((place, value) for place, value in enumerate(args) if not isinstance(value, torch.Tensor))
    return CachedOperation(
        function=None, number=0, sizes=(8,), count=len(args), values=values, options=kwargs, tensors=(), arguments={},
        sources={}, made=(), finding=None,
    )  # fmt: skip


X = torch.ones(())


@pytest.mark.parametrize(
    ("args", "kwargs", "others", "more"),
    [
        ((X, 1), {}, (X, 2), {}),
        ((X, 1), {}, (X, 1.0), {}),
        ((X, 1), {}, (X, True), {}),
        ((X, 1), {}, (X, X), {}),
        ((X, None), {}, (X, X), {}),
        ((X, [1, 2]), {}, (X, [1, 3]), {}),
        ((X, [1, 2]), {}, (X, (1, 2)), {}),
        ((X, 1), {}, (X,), {}),
        ((X,), {"dim": 1}, (X,), {}),
        ((X,), {}, (X,), {"dim": 1}),
        ((X,), {"dim": 1}, (X,), {"dim": 2}),
        ((X,), {"dim": 1}, (X,), {"dims": 1}),
        ((X,), {"dim": 1}, (X,), {"dim": X}),
        ((X,), {"dtype": torch.float32}, (X,), {"dtype": torch.float64}),
        ((X, math.nan), {}, (X, float("nan")), {}),
    ],
)
def test_another_call(args, kwargs, others, more):
    assert known(*args, **kwargs).has(args, kwargs)
    assert known(*args, **kwargs).has(others, more) is False


def test_the_same_call_with_other_tensors():
    assert known(X, [1, 2], 0.5, dtype=torch.float32).has((X * 2, [1, 2], 0.5), {"dtype": torch.float32})


class Follower(OperationTracker):
    """Takes down of each operation on batch data whether it was recalled."""

    def __init__(self, inputs, known, sizes, kind):
        super().__init__(inputs, known, sizes)
        self.kind, self.recalled = kind, []

    def kind_of(self, source):
        return self.kind

    def step(self, call):
        self.recalled.append(call.known is not None)
        call.finding = "found"
        return call.function(*call.args, **call.kwargs)


WEIGHT = torch.ones(4)


def recalled(first, second, *, of=None, sizes=((3,), (3,)), kinds=(True, True)):
    """Of the operations on batch data in `second`, which were recalled from `first`; of the same inputs, or `of`."""
    known, x = {}, torch.ones(3, 4)
    for block, value, size, kind in zip((first, second), (x, x if of is None else of), sizes, kinds, strict=True):
        with Follower({"x": value}, known, size, kind) as follower:
            block(value)
    return follower.recalled


def two_factors(x):
    return (x * 2).relu() + x * 3


def test_the_same_pass_is_recalled():
    assert recalled(two_factors, two_factors) == [True] * 4
    assert recalled(two_factors, two_factors, of=torch.zeros(3, 4)) == [True] * 4


def test_another_number():
    assert recalled(two_factors, lambda x: (x * 2).relu() + x * 4) == [True, True, False, True]


def test_another_flow_of_data():
    def other(x):
        two = x * 2
        return two.relu() + two * 3

    assert recalled(two_factors, other) == [True, True, False, True]


def test_another_weight():
    other = torch.ones(4)
    assert recalled(lambda x: (x * WEIGHT).relu(), lambda x: (x * other).relu()) == [False, True]


def test_inputs_of_another_shape_or_type():
    assert recalled(two_factors, two_factors, of=torch.ones(5, 4)) == [False] * 4
    assert recalled(two_factors, two_factors, of=torch.ones(3, 4, dtype=torch.float64)) == [False] * 4


def test_a_shape_that_follows_from_the_entries():
    of = torch.tensor([[1.0, -1.0, 1.0, 1.0]] * 3)
    assert recalled(lambda x: x[x > 0] * 2, lambda x: x[x > 0] * 2, of=of) == [True, False, False]
    assert recalled(lambda x: x[x > 0] * 2, lambda x: x[x > 0] * 2) == [True, False, True]


def test_other_numbers_of_rows():
    assert recalled(two_factors, two_factors, sizes=((3, 2), (3, 1))) == [False] * 4


def test_arguments_of_another_kind():
    assert recalled(two_factors, two_factors, kinds=(True, False)) == [False] * 4
    assert recalled(two_factors, two_factors, kinds=(True, None)) == [False] * 4


def test_an_operation_that_has_another_number_among_those_on_the_batch():
    def first(x):
        return WEIGHT * 2, x.relu()

    def second(x):
        return x * 2, x.relu()

    assert recalled(first, first) == [True]
    assert recalled(first, second) == [False, False]


def test_lists_of_tensors_and_tensors_in_options_are_not_remembered():
    assert recalled(lambda x: torch.cat([x, x]), lambda x: torch.cat([x, x])) == [False]

    def into(x):
        return torch.mul(x, 2, out=torch.empty(3, 4))

    assert recalled(into, into) == [False]


def test_what_batchnorm_normalises_by_is_another_tensor_each_time_but_always_given():
    def block(which):
        def run(x):
            own = x.mean(0)
            statistics = {"given": WEIGHT, "own": own}[which]
            with torch.no_grad():
                return torch.native_batch_norm(x, None, None, statistics, statistics, False, 0.1, 1e-5)

        return run

    assert recalled(block("given"), block("given"))[-1]
    assert not recalled(block("given"), block("own"))[-1]
    assert not recalled(block("own"), block("given"))[-1]
    plain = recalled(lambda x: x.mul(WEIGHT), lambda x: x.mul(torch.full((4,), 2.0)))
    assert plain == [False]
