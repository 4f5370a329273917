"""What the host holds, and how tensors get to a device."""

import numpy as np
import pytest

from gsgd import host


def test_arrays_of_numpy_are_held():
    assert host.holds(np.zeros(3))


def test_tensors_are_held_on_the_cpu_only():
    torch = pytest.importorskip("torch")
    assert host.holds(torch.zeros(3))
    assert not host.holds(torch.zeros(3, device="meta"))


class Noted:
    """Stands for a tensor on the CPU where there is CUDA."""

    def __init__(self, device):
        self.device, self.calls = device, []

    def pin_memory(self):
        self.calls.append("pinned")
        return self

    def to(self, where, non_blocking):
        self.calls.append((where.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("source", "target", "calls"),
    [
        ("cpu", "cuda:1", ["pinned", ("cuda", True)]),
        ("cpu", "cpu", [("cpu", True)]),
        ("cpu", "meta", [("meta", True)]),
        ("cuda:0", "cuda:1", [("cuda", True)]),
    ],
)
def test_only_pinned_memory_is_copied_to_cuda_beside_the_program(source, target, calls):
    torch = pytest.importorskip("torch")
    noted = Noted(torch.device(source))
    host.sent(noted, torch.device(target))
    assert noted.calls == calls
