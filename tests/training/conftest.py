"""The tiny task as one more kind of task, and configurations of it."""

import contextlib
import functools
import gc
import importlib.util
import os
import pathlib
import signal
import sys

import pytest

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers", "accelerate")):
    collect_ignore_glob = ["test_*.py", "run/test_*.py", "metrics/test_*.py"]


@pytest.fixture(scope="session")
def tiny_module():
    path = pathlib.Path(__file__).with_name("tiny.py")
    spec = importlib.util.spec_from_file_location("gsgd_tests_tiny", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    # Every run ends with a collection of garbage, which takes longer than the run where torch's modules are searched.
    gc.freeze()
    yield module
    gc.unfreeze()


@pytest.fixture
def tiny(tiny_module, monkeypatch):
    """`tiny(key=value, ...)`: a configuration of the tiny task, four steps an epoch with selection of half."""
    from training.config import TASKS, build

    monkeypatch.setitem(TASKS, "tiny", tiny_module.TINY)

    def make(**values):
        small = {"task": "tiny", "batch_size": 8, "budget": "24steps", "evaluations": 4, "tensorboard": False}
        return build("tiny", {**small, **values})

    return make


@pytest.fixture
def gsgd(tiny, accelerator, tmp_path, monkeypatch, capsys):
    """`gsgd(argument, ...)`: the command line in an empty folder, with the tiny task: (exit code, stdout, stderr)."""
    from gsgd.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([*arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def one_thread():
    """Models this small gain nothing by a second thread, and wait for it where cores are shared."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_accelerator():
    """`make(**options)`: on the CPU; accelerate's state is the process's and goes with the test."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    # Threads cost more than they bring at this size, on shared cores most of all.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda **options: Accelerator(cpu=True, **options)
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerator(make_accelerator):
    """On the CPU, in float32."""
    return make_accelerator()


@pytest.fixture
def interrupting(monkeypatch):
    """`with interrupting(when):` Ctrl-C after the steps of which `when(training)` is true."""
    from training.training import Training

    step = Training.train_step

    @contextlib.contextmanager
    def within(when):
        def interrupted(training):
            step(training)
            if when(training):
                os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "train_step", interrupted)
            yield

    return within


@pytest.fixture
def judged_by(monkeypatch):
    """`judged_by(function)`: a run's evaluations are what function(evaluate, training, split, ...) returns."""
    from training.run import evaluation, loop

    def judge(function):
        judged = functools.partial(function, evaluation.evaluate_split)
        for user in (evaluation, loop):
            monkeypatch.setattr(user, "evaluate_split", judged)

    return judge


@pytest.fixture
def note_runs(monkeypatch):
    """`note_runs("label", "seed")`: a list that gets these settings, as a tuple, of each run that trains."""
    from training.run.loop import _Run

    def note(*names):
        found = []
        to_the_end = _Run.to_the_end

        def noted(self):
            found.append(tuple(getattr(self.config.training, name) for name in names))
            return to_the_end(self)

        monkeypatch.setattr(_Run, "to_the_end", noted)
        return found

    return note
