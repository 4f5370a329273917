"""Counting operators and waits, on functions whose numbers are known by hand."""

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from training.bench.counts import _short, count_operators, cuda_waits  # noqa: E402

CPU, META = torch.device("cpu"), torch.device("meta")  # meta stands for a device with memory of its own
X = torch.arange(12.0).reshape(3, 4)
MASK = X > 5
WHOLE = torch.tensor([2, 0, 1])


def set_by_mask(value):
    def write():
        X.clone()[MASK] = value

    return write


WAITING = {
    "item": lambda: X.sum().item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool(MASK.any()),
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "nonzero": lambda: MASK.nonzero(),
    "where of a mask alone": lambda: torch.where(MASK),
    "masked_select": lambda: X.masked_select(MASK),
    "read by mask": lambda: X[MASK],
    "write by mask": set_by_mask(torch.zeros(6)),
    "unique": lambda: WHOLE.unique(),
    "bincount": lambda: WHOLE.bincount(minlength=4),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "repeat_interleave": lambda: X.repeat_interleave(WHOLE, dim=0),
}
FREE = {
    "arithmetic": lambda: X * 2.0 + 1,
    "where": lambda: torch.where(MASK, X, 0.0),
    "masked_fill": lambda: X.masked_fill(MASK, 0.0),
    "write a number by mask": set_by_mask(0.0),
    "read by places": lambda: X[WHOLE],
    "topk": lambda: X.topk(2),
    "sort": lambda: X.sort(stable=True),
    "repeat_interleave of a known size": lambda: X.repeat_interleave(WHOLE, dim=0, output_size=3),
    "arange": lambda: torch.arange(4),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_counted_once(name):
    assert count_operators(WAITING[name], CPU).waits == 1


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_not_counted(name):
    assert count_operators(FREE[name], CPU).waits == 0


def test_operators_are_those_of_forward_and_backward():
    weight = torch.ones(3, requires_grad=True)

    def step():
        (weight * 2).sum().backward()

    counts = count_operators(step, CPU)
    # mul, sum; ones_like for the gradient, expand, mul; and detach where it becomes `weight.grad`.
    assert counts.by_operator == Counter(mul=2, sum=1, ones_like=1, expand=1, detach=1)
    assert counts.operators == 6
    assert counts.waits == 0


def test_a_wait_is_laid_to_the_line_that_called_it():
    counts = count_operators(lambda: [float(value) for value in X.sum(1)], CPU)
    (wait,) = counts.waiting
    assert counts.waiting[wait] == 3
    assert wait.operation == "_local_scalar_dense"
    assert wait.at.startswith("tests/training/test_step_counts.py:")
    assert counts.waits_at("tests/") == 3
    assert counts.waits_at("gsgd/") == 0


def test_a_mode_that_carries_out_an_operator_is_not_who_asked_for_it(tmp_path):
    # In a file of its own, as the shared forward is.
    path = tmp_path / "carrier.py"
    path.write_text(
        "from torch.utils._python_dispatch import TorchDispatchMode\n"
        "class Carrier(TorchDispatchMode):\n"
        "    def __torch_dispatch__(self, function, types, args=(), kwargs=None):\n"
        "        return self.compute(function, args)\n"
        "    def compute(self, function, args):\n"
        "        return function(*args)\n"
    )
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)

    def step():
        with names["Carrier"]():
            MASK.nonzero()

    (wait,) = count_operators(step, CPU).waiting
    assert wait.at.startswith("tests/training/test_step_counts.py:")


def test_what_torch_calls_within_itself_is_laid_to_its_caller():
    counts = count_operators(lambda: torch.nn.utils.clip_grad_norm_([torch.ones(2)], 1.0, error_if_nonfinite=True), CPU)
    assert not any("torch/" in wait.at for wait in counts.waiting)


def test_beside_a_device_tensors_on_the_host_are_free_to_read():
    for name in ("item", "bool", "nonzero", "read by mask", "numpy", "bincount"):
        assert count_operators(WAITING[name], META).waits == 0


def test_copies_between_host_and_device_wait_unless_told_not_to():
    there = torch.empty(3, device=META)
    assert count_operators(lambda: torch.ones(3).to(META), META).waits == 1
    assert count_operators(lambda: torch.ones(3).to(META, non_blocking=True), META).waits == 0
    assert count_operators(lambda: there.copy_(torch.ones(3)), META).waits == 1
    assert count_operators(lambda: there.copy_(torch.ones(3), non_blocking=True), META).waits == 0
    assert count_operators(lambda: there.clone(), META).waits == 0
    assert count_operators(lambda: there.to(torch.float64), META).waits == 0
    assert count_operators(lambda: torch.ones(3).to(torch.float64), META).waits == 0


def test_reads_on_a_device_count():
    mask = torch.empty(3, dtype=torch.bool, device=META)

    def step():
        with pytest.raises(NotImplementedError):
            mask.nonzero()

    counts = count_operators(step, META)
    assert [wait.operation for wait in counts.waiting] == ["nonzero"]


def test_a_place_is_named_from_its_package_on():
    assert _short("/home/me/env/lib/python3.11/site-packages/transformers/masking_utils.py") == (
        "transformers/masking_utils.py"
    )
    assert _short("/somewhere/else.py") == "else.py"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_torch_reports_the_waits_of_a_gpu():
    there = torch.ones(3, device="cuda")
    assert cuda_waits(lambda: there.sum().item()) == 1
    assert cuda_waits(lambda: there * 2) == 0
    assert count_operators(lambda: there.sum().item(), there.device).waits == 1
