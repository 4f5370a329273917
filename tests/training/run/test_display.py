"""What a user sees of a run."""

import io
import types

import pytest
from rich.console import Console

from training.run.display import Display
from training.run_folder.records import Evaluation


def evaluation(**values):
    entries = {
        "step": 12,
        "method": "loss@1",
        "score": "loss",
        "exit_layer": 1,
        "seed": 0,
        "backprop_samples": 96,
        "gross_samples": 192,
        "wall_clock_s": 3.21,
        "selection_s": 0.1,
        "forward_s": 0.2,
        "backward_s": 0.3,
        "val_accuracy": 0.43219,
        "val_loss": 1.2345,
    }
    return Evaluation(**{**entries, **values})


def show(display, tiny, start=0):
    training = types.SimpleNamespace(step=start, total_steps=24)
    with display.training(tiny(method="loss@1", seed=3), training):
        display.step(start + 1)
        display.log(0.5678)
        display.evaluated(evaluation())
        display.log(0.4321)
    with display.measuring() as progress:
        progress(1, 12)


@pytest.mark.parametrize("terminal", [False, True])
def test_evaluations_are_lines_with_samples_time_accuracy_and_loss(tiny, terminal):
    file = io.StringIO()
    show(Display(Console(file=file, force_terminal=terminal, width=120, color_system=None)), tiny)
    line = next(line for line in file.getvalue().splitlines() if "0.4322" in line)
    assert [word for word in line.split() if word[0].isdigit()] == ["12", "96", "3.2", "0.4322", "1.2345"]
    # The bar moves on a terminal only; a log file gets lines.
    assert ("loss 0.432 acc 0.432" in file.getvalue()) == terminal
    assert ("tiny loss@1, seed 3" in file.getvalue()) == terminal


def test_overlap_where_it_was_measured():
    file = io.StringIO()
    Display(Console(file=file)).evaluated(evaluation(overlap=0.625))
    assert "overlap 0.625" in file.getvalue()


def test_a_run_that_goes_on_says_so(tiny):
    file = io.StringIO()
    show(Display(Console(file=file)), tiny, start=7)
    assert "tiny: going on from step 7 of 24" in file.getvalue()


def test_silence(tiny, capsys):
    show(Display.silent(), tiny, start=3)
    assert capsys.readouterr() == ("", "")
