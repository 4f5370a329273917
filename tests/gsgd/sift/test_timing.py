"""The stopwatch against the wall clock, and against CUDA events on a machine that has them."""

import time

import pytest

torch = pytest.importorskip("torch")

from gsgd.sift.timing import Stopwatch, Totals  # noqa: E402


def test_a_stopwatch_measures_its_block_only():
    begin = time.perf_counter()
    with Stopwatch(torch.device("cpu")) as watch:
        time.sleep(0.02)
    around = time.perf_counter() - begin
    time.sleep(0.02)
    assert 0.02 <= watch.seconds <= around


def test_reading_twice_gives_the_same():
    with Stopwatch(torch.device("cpu")) as watch:
        pass
    assert watch.seconds == watch.seconds >= 0


def test_a_block_that_raises_raises():
    with pytest.raises(KeyError), Stopwatch(torch.device("cpu")):
        raise KeyError


@pytest.mark.gpu
def test_on_a_gpu_the_work_is_measured_and_not_its_launch():
    device = torch.device("cuda")
    x = torch.randn(4096, 4096, device=device)
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with Stopwatch(device) as watch:
        for _ in range(50):
            x @ x
    launched = time.perf_counter() - begin
    measured = watch.seconds
    around = time.perf_counter() - begin
    assert launched < measured <= around


def test_totals_start_at_zero():
    names = ("gross_samples", "backprop_samples", "selected_steps", "bad_score_rows", "idle_steps")
    others = ("scored_operations", "reused_operations", "gross_tokens", "backprop_tokens")
    assert vars(Totals()) == {**dict.fromkeys((*names, *others), 0), "sharing": ""}
    assert Totals().reused_share == 0
