"""The exit that moves: rules against scripts of overlaps, then engines whose overlaps are built to be known."""

import copy
import io
import logging
import math
import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from gsgd.sift import AutoExit, Sift  # noqa: E402
from gsgd.sift.exit_choice import moving_exit  # noqa: E402
from gsgd.sift.exit_choice.moving_exit import MovingExit  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments  # noqa: E402

ROWS, KEPT = 20, 10


# ---- The rule ----


def run(rule, script, steps, exits=3, start=0):
    """What a script of overlaps (step, exit) -> share makes of `steps` steps: [(step, measured, exit), ...]."""
    moving, found = MovingExit(rule, exits), []
    for step in range(start, start + steps):
        due = moving.due(step)
        if due:
            moving.tell({layer: script(step, layer) for layer in due}, step)
        found.append((step, due, moving.present))
    return moving, found


def constant(*overlaps):
    return lambda step, layer: overlaps[layer - 1]


@pytest.mark.parametrize(
    ("overlaps", "level", "choice"),
    [
        ((0.5, 0.8, 1.0), 0.75, 2),
        ((0.75, 0.8, 1.0), 0.75, 1),  # at least
        ((0.9, 0.6, 1.0), 0.75, 1),  # the cheapest, though a dearer one does not hold
        ((0.6, 0.7, 1.0), 0.75, 3),
        ((0.6, 0.7, 0.7), 0.75, 3),  # none holds: the last
        ((0.0, 0.0, 1.0), 0.0, 1),
        ((0.99, 0.99, 1.0), 1.0, 3),
        ((1.0, 1.0, 1.0), 1.0, 1),
    ],
)
def test_the_first_choice(overlaps, level, choice):
    moving, found = run(AutoExit(level=level, every=1000, first=3), constant(*overlaps), 8)
    # All exits on three steps; the one that decides selects by the choice already.
    assert found == [
        *((step, [1, 2, 3], 3) for step in (0, 1)),
        (2, [1, 2, 3], choice),
        *((step, [], choice) for step in range(3, 8)),
    ]
    assert moving.history == [(2, choice, pytest.approx(overlaps[choice - 1]))]


def test_the_first_choice_is_of_means():
    overlaps = {0: 0.9, 1: 0.5, 2: 0.8}  # 0.7333 on average
    for level, choice in ((0.73, 1), (0.74, 2)):
        moving, _ = run(
            AutoExit(level=level, first=3), lambda step, layer: overlaps[step] if layer == 1 else 1.0, 3, exits=2
        )
        assert moving.present == choice


def test_when_it_measures():
    """First three times in a row, then every fifth step: the present exit and the one below."""
    _, found = run(AutoExit(level=0.7, every=5, first=3), constant(0.5, 0.72, 1.0), 20)
    measured = {step: due for step, due, _ in found if due}
    assert measured == {0: [1, 2, 3], 1: [1, 2, 3], 2: [1, 2, 3], 7: [1, 2], 12: [1, 2], 17: [1, 2]}


def test_at_the_first_exit_there_is_none_below():
    _, found = run(AutoExit(level=0.7, every=5, first=1), constant(0.9, 0.9, 1.0), 12)
    assert {step: due for step, due, _ in found if due} == {0: [1, 2, 3], 5: [1], 10: [1]}


def test_it_moves_up_when_the_overlap_falls_and_down_when_it_may():
    """memory = 0: only the last measurement counts, but after a move there are `first` of them in a row."""

    def script(step, layer):
        if layer == 3:
            return 1.0
        return {1: 0.5, 2: 0.8}[layer] if step < 10 else {1: 0.5, 2: 0.6}[layer] if step < 20 else 0.9

    rule = AutoExit(level=0.7, every=4, first=2, memory=0.0)
    moving, found = run(rule, script, 40)
    measured = {step: due for step, due, _ in found if due}
    # Chosen at 1; measured at 5, 9, 13, where it falls below; twice in a row at the new exit, then every fourth step.
    assert measured == {
        **{0: [1, 2, 3], 1: [1, 2, 3], 5: [1, 2], 9: [1, 2], 13: [1, 2]},
        **{14: [2, 3], 15: [2, 3], 19: [2, 3], 23: [2, 3]},
        # At 23 exit 2 holds with a margin, and after two measurements so does exit 1.
        **{24: [1, 2], 25: [1, 2], 26: [1], 27: [1], 31: [1], 35: [1], 39: [1]},
    }
    assert moving.history == [(1, 2, 0.8), (13, 3, 0.6), (23, 2, 0.9), (25, 1, 0.9)]
    assert [exit for step, _, exit in found] == [3] + 12 * [2] + 10 * [3] + 2 * [2] + 15 * [1]


@pytest.mark.parametrize("overlap", [0.7, 0.72, 0.749])
def test_within_the_margin_it_stays(overlap):
    """Wherever it is: neither up, as the present exit holds, nor down, as the one below does not clear the margin."""
    rule = AutoExit(level=0.7, margin=0.05, every=1, first=1, memory=0.0)
    for present in (1, 2, 3):
        moving = MovingExit(rule, 4)
        state = {**moving.state_dict(), "present": present, "history": [[0, present, 1.0]], "in_a_row": 0}
        moving.load_state_dict(state)
        for step in range(1, 30):
            moving.tell(dict.fromkeys(moving.due(step), overlap), step)
            assert moving.present == present
    # Just outside of it, it does move.
    for present, outside, after in ((2, 0.699, 3), (2, 0.751, 1)):
        moving.load_state_dict({**state, "present": present})
        moving.tell(dict.fromkeys(moving.due(40), outside), 40)
        assert moving.present == after


def test_noise_within_the_margin_does_not_move_it():
    """A single measurement out of line is weighed by 1 - memory: 0.75 * 0.78 + 0.25 * 0.5 = 0.71."""
    rule = AutoExit(level=0.7, every=1, first=4, memory=0.75)
    moving, _ = run(rule, lambda step, layer: 0.5 if step == 10 else 0.78 if layer < 3 else 1.0, 11)
    assert moving.present == 1
    assert moving.averages[1] == [pytest.approx(0.71), 11]
    moving, _ = run(rule, lambda step, layer: 0.45 if step == 10 else 0.78 if layer < 3 else 1.0, 11)
    assert moving.history[-1] == (10, 2, pytest.approx(0.75 * 0.78 + 0.25 * 0.45))


def test_averages_are_plain_means_at_first():
    values = [0.9, 0.7, 0.8, 0.9, 0.5, 0.6]
    moving, _ = run(AutoExit(level=0.0, every=1, first=2, memory=0.8), lambda step, layer: values[step], 6, exits=2)
    # Of up to five values the mean; from there on a fifth of what is new.
    assert moving.averages[1][0] == pytest.approx(0.8 * (sum(values[:5]) / 5) + 0.2 * 0.6)


def test_an_exit_that_was_not_measured_for_long_begins_anew():
    """Exit 1 was hopeless at first; when it is next watched that is forgotten."""
    rule = AutoExit(level=0.7, every=3, first=2, memory=0.99)
    moving, _ = run(rule, lambda step, layer: [0.1, 0.2, 0.9, 1.0][layer - 1] if step < 4 else 0.95, 60, exits=4)
    assert moving.history[0][1] == 3
    # Exit 2 was watched from the start: of 0.2, 0.2, 0.95, ... on steps 0, 1, 4, 7, ... the mean is above 0.75 with
    # the eighth. Of exit 1 two measurements in a row are enough.
    assert moving.history[1:] == [(19, 2, pytest.approx((2 * 0.2 + 6 * 0.95) / 8)), (21, 1, pytest.approx(0.95))]


def test_a_level_near_1_can_be_held():
    """level + margin is no share: an exit that always agrees is enough."""
    moving, _ = run(AutoExit(level=0.99, every=1, first=1), lambda step, layer: 1.0 if step or layer == 3 else 0.5, 60)
    assert moving.history[0][1] == 3
    moving, _ = run(
        AutoExit(level=0.99, every=1, first=1, memory=0.0), lambda step, layer: 1.0 if step or layer == 3 else 0.5, 60
    )
    assert moving.present == 1


def test_measurements_that_say_nothing_do_not_count():
    moving, found = run(
        AutoExit(level=0.7, every=5, first=2), lambda step, layer: math.nan if step in (1, 2) else 0.8, 12
    )
    assert {step for step, due, _ in found if due} == {0, 1, 2, 3, 8}
    assert moving.history == [(3, 1, pytest.approx(0.8))]


def test_a_step_is_counted_once():
    moving = MovingExit(AutoExit(level=0.75, every=2, first=1), 2)
    assert moving.due(7) == [1, 2]
    moving.tell({1: 1.0, 2: 1.0}, 7)
    assert [moving.due(step) for step in (7, 7, 8, 8, 9, 9)] == [[], [], [], [], [1], []]


def test_moves_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="gsgd.sift.exit_choice.moving_exit"):
        run(AutoExit(level=0.7, every=1, first=1, memory=0.0), lambda step, layer: 0.8 if step < 2 else 0.5, 3, exits=2)
    assert [record.getMessage() for record in caplog.records] == [
        "step 0: from here on exit 1, as the overlap at exit 1 is 0.800",
        "step 2: from here on exit 2, as the overlap at exit 1 is 0.500",
    ]


# ---- The engine ----


class Scripted(nn.Module):
    """Its exits score what the batch says: `scores` (B, exits), the last column the exact losses' order."""

    exit_layers = 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def early_logits(self, exit_layer, scores, x):
        return torch.stack([torch.zeros(len(scores)), self.weight.detach() * scores[:, exit_layer - 1]], dim=1)

    def forward(self, scores, x, labels):
        values = self.weight * scores[:, -1] + x
        logits = torch.stack([torch.zeros(len(scores)), values], dim=1)
        return type("Output", (), {"loss": cross_entropy(logits, labels)})


def scripted(model=None, **options):
    """An engine around it; its loss has an `x` that no exit sees, which the check would refuse."""
    return Sift(model or Scripted(), check=False, **options)


def scripted_batch(overlaps, seed, rows=ROWS):
    """Rows whose exits keep the stated shares of the exact top half; a share of 1 is the exact order."""
    draw = torch.Generator().manual_seed(seed)
    kept = rows // 2
    order = torch.randperm(rows, generator=draw)
    columns = []
    for overlap in (*overlaps, 1.0):
        wrong = round((1 - overlap) * kept)
        ranks = torch.arange(rows)
        # The last of the top half and the first of the other half change places.
        ranks[kept - wrong : kept], ranks[kept : kept + wrong] = ranks[kept : kept + wrong], ranks[kept - wrong : kept]
        column = torch.zeros(rows)
        column[order[ranks]] = torch.linspace(3, 1, rows)
        columns.append(column)
    x = torch.randn(rows, generator=draw)
    return {"scores": torch.stack(columns, dim=1), "x": x, "labels": torch.zeros(rows, dtype=torch.int64)}


def kept_by(batch, layer):
    return sorted(batch["scores"][:, layer - 1].topk(KEPT).indices.tolist())


def train(sift, script, steps, *, start=0, lr=0.001):
    """[(exit, kept rows), ...] of steps that train."""
    found = []
    for step in range(start, start + steps):
        batch = scripted_batch(script(step), seed=step)
        sift(**batch).loss.backward()
        with torch.no_grad():
            for parameter in sift.model.parameters():
                parameter -= lr * parameter.grad
                parameter.grad = None
        found.append((sift.exit_layer, sift.last.indices.tolist()))
    return found


def falling(step):
    """Exit 1 is no good from step 12 on, and exit 2 is not from step 25 on; both are again from step 40 on."""
    return (0.8 if step < 12 or step >= 40 else 0.5, 0.8 if step < 25 or step >= 40 else 0.6)


def by_hand(rule, script, steps):
    """The exits of those steps, from the script itself: the engine should measure just that."""
    return [exit for _, _, exit in run(rule, lambda step, layer: (*script(step), 1.0)[layer - 1], steps)[1]]


QUICK = AutoExit(level=0.7, every=3, first=2, memory=0.5)


def test_an_engine_selects_at_the_exit_that_holds():
    sift = scripted(exit_layer="auto", auto=QUICK, keep=0.5)
    assert sift.exit_layer == 3
    found = train(sift, falling, 60)
    exits = [exit for exit, _ in found]
    assert exits == by_hand(QUICK, falling, 60)
    for step, (exit, rows) in enumerate(found):
        assert rows == kept_by(scripted_batch(falling(step), seed=step), exit)
    moves = [exit for _, exit, _ in sift.auto.history]
    assert moves == [1, 2, 3, 2, 1]
    assert sift.exit_layer == sift.auto.present == 1


def test_level_0_takes_the_first_exit_and_level_1_the_last():
    for level, exit in ((0.0, 1), (1.0, 3)):
        sift = scripted(exit_layer="auto", auto=AutoExit(level=level, every=2, first=2), keep=0.5)
        found = train(sift, lambda step: (0.0, 0.9), 12)
        assert [layer for layer, _ in found[1:]] == [exit] * 11


def test_at_the_last_exit_the_weights_are_those_of_exact_selection():
    """What is measured, and when, leaves no trace; with the layers' dropout and the generator's draws."""
    auto_run = train(
        scripted(one := Scripted(), exit_layer="auto", auto=AutoExit(level=1.0, every=2, first=2), keep=0.5),
        lambda step: (0.3, 0.9),
        10,
    )
    fixed_run = train(scripted(other := Scripted(), exit_layer=3, keep=0.5), lambda step: (0.3, 0.9), 10)
    assert auto_run == fixed_run
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, torch.ones(()))


def test_a_transformer_with_dropout_trains_as_with_the_exit_fixed(build, make_batch):
    weights = []
    for options in (
        {"exit_layer": 1, "start_step": 3},
        {"exit_layer": "auto", "auto": AutoExit(level=0.0, every=2, first=1), "start_step": 3},
    ):
        model = build("bert-classifier", dropout=0.2)
        sift = Sift(model, keep=0.5, **options)
        torch.manual_seed(5)
        for seed in range(8):
            sift(**make_batch("bert-classifier", seed=seed)).loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
                        parameter.grad = None
        weights.append([parameter.detach() for parameter in model.parameters()])
        assert sift.exit_layer == 1
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("at", [1, 2, 14, 15, 26, 43])
def test_a_resumed_run_goes_on_exactly(at):
    """In the first steps, in the middle of measurements in a row, and between them."""
    whole = scripted(model := Scripted(), exit_layer="auto", auto=QUICK, keep=0.5)
    first = train(whole, falling, at)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    saved = copy.deepcopy(model.state_dict())
    rest = train(whole, falling, 60 - at, start=at)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    resumed = scripted(model := Scripted(), exit_layer="auto", auto=QUICK, keep=0.5)
    model.load_state_dict(saved)
    resumed.load_state_dict(state)
    assert resumed.exit_layer == first[-1][0]
    assert train(resumed, falling, 60 - at, start=at) == rest
    assert resumed.auto.history == whole.auto.history
    assert resumed.auto.state_dict() == whole.auto.state_dict()
    assert torch.equal(model.weight, whole.model.weight)


def test_states_that_do_not_fit():
    fixed = Sift(Scripted(), exit_layer=1)
    moving = Sift(Scripted(), exit_layer="auto", auto=AutoExit(level=0.75))
    with pytest.raises(ValueError, match='the state lacks auto: it is not of a Sift with exit_layer = "auto"'):
        moving.load_state_dict(fixed.state_dict())
    fixed.load_state_dict(moving.state_dict())  # has all that it needs
    state = moving.state_dict()
    state["auto"]["present"] = 4
    with pytest.raises(ValueError, match="the state is at exit 4, but the model has 3"):
        moving.load_state_dict(state)


def test_it_counts_steps_that_select_not_micro_batches(monkeypatch):
    measured = []
    read = moving_exit.read_batch
    monkeypatch.setattr(
        moving_exit, "read_batch", lambda *a, **k: measured.append((k["step"], tuple(k["exits"]))) or read(*a, **k)
    )
    rule = AutoExit(level=0.7, every=2, first=2)
    sift = scripted(exit_layer="auto", auto=rule, keep=0.5, start_step=3, interrupt=3, accumulation_steps=2)
    for call in range(20):
        sift(**scripted_batch((0.5, 0.8), seed=call))
    # Steps 3, 4, 6, 7, 9 select, each with two micro-batches.
    assert measured == [(3, (1, 2, 3)), (4, (1, 2, 3)), (7, (1, 2))]
    assert sift.auto.history == [(4, 2, pytest.approx(0.8))]


def test_batches_of_which_all_rows_are_kept_say_nothing():
    sift = scripted(exit_layer="auto", auto=AutoExit(level=0.7, every=1, first=2), keep=0.5)
    for step, rows in enumerate([1, ROWS, 1, ROWS, 1]):
        sift(**scripted_batch((0.5, 0.8), seed=step, rows=rows))
    assert sift.auto.history == [(3, 2, pytest.approx(0.8))]


def test_nor_do_batches_with_hardly_a_label():
    """One row of 20 has a label: of the rows that can be compared, all are kept."""
    sift = scripted(exit_layer="auto", auto=AutoExit(level=0.7, every=1, first=2), keep=0.5)
    for step in range(4):
        batch = scripted_batch((0.5, 0.8), seed=step)
        if step % 2:
            batch["labels"][1:] = -100
        sift(**batch)
    assert sift.auto.history == [(2, 2, pytest.approx(0.8))]


def test_what_is_measured_is_charged_to_selection(monkeypatch):
    """On a clock that only scoring turns, by a second a pass."""
    now = [0.0]
    early_logits = Scripted.early_logits

    def timed(self, *arguments, **inputs):
        now[0] += 1
        return early_logits(self, *arguments, **inputs)

    monkeypatch.setattr(Scripted, "early_logits", timed)
    monkeypatch.setattr("gsgd.sift.timing.time.perf_counter", lambda: now[0])
    sift = scripted(exit_layer="auto", auto=AutoExit(level=0.7, every=3, first=1), keep=0.5)
    seconds = []
    for step in range(4):
        sift(**scripted_batch((0.5, 0.8), seed=step))
        seconds.append(sift.last.selection_s)
    # All three exits, then exit 2, which is chosen; and at step 3 exits 1, 2 and 3, the exact losses.
    assert seconds == [4, 1, 1, 4]
    assert sift.meter_s == 0


def test_meters_read_the_exit_that_selects():
    sift = scripted(exit_layer="auto", auto=AutoExit(level=0.7, every=100, first=2), keep=0.5, meter_every=1)
    train(sift, lambda step: (0.5, 0.8), 4)
    assert [reading.exit_layer for reading in sift.readings] == [3, 2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit_layer": "auto", "score": "random"}, 'exit_layer = "auto" needs exits that score'),
        (
            {"exit_layer": 1, "auto": AutoExit()},
            'auto is for exit_layer = "auto" or start_step = "auto", but exit_layer = 1',
        ),
        ({"exit_layer": "auto", "auto": 0.75}, "auto is a float but must be an AutoExit"),
        ({"exit_layer": "last"}, "exit_layer = 'last' must be a whole number in 1..layers, or \"auto\""),
    ],
)
def test_arguments_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        Sift(Scripted(), **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": -0.1}, r"level = -0.1 must lie in \[0, 1\]"),
        ({"level": 1.1}, r"level = 1.1 must lie in \[0, 1\]"),
        ({"level": math.nan}, "level = nan"),
        ({"every": 0}, "every = 0 must be a whole number of at least 1"),
        ({"every": 2.5}, "every = 2.5 must be a whole number"),
        ({"first": 0}, "first = 0 must be a whole number of at least 1"),
        ({"first": True}, "first = True must be a whole number"),
        ({"memory": 1.0}, r"memory = 1.0 must lie in \[0, 1\)"),
        ({"margin": -0.1}, "margin = -0.1 must be at least 0"),
        ({"margin": math.nan}, "margin = nan must be at least 0"),
    ],
)
def test_rules_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        AutoExit(**values)


def test_the_trainers_options():
    options = SiftArguments(exit_layer="auto", auto=AutoExit(level=0.8))
    assert Sift(Scripted(), options).auto.rule == AutoExit(level=0.8)


@pytest.mark.slow
def test_two_ranks_move_alike(tmp_path):
    """Each measures another overlap; both follow the mean, whatever one of them cannot measure."""
    worker = pathlib.Path(__file__).with_name("auto_worker.py")
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = {**os.environ, **interface, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=90)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [text.splitlines()[-1:] for text in said] == [["ok"], ["ok"]]
