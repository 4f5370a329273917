"""Headers, comparisons, tables and checkpoints that are damaged in seeded ways: one sentence each, and nothing changes.

What must be refused is known from how each input is made, not from the code that reads it.
"""

import json
import random

import pytest
import torch

from gsgd.cli import main

TINY = 'task = "tiny"\nbatch_size = 8\nbudget = "12steps"\nevaluations = 3\ntensorboard = false\nsave_model = false\n'
WRONG = {
    "status": [None, 3, "done", [], "Finished"],
    "total_steps": [None, 0, -3, "12", 12.5, True, [12], 1e300],
    "steps_done": [-1, 13, 11, "12", 1.5, {}, None],
    "step_costs": [3, "cheap", [], {"plain_s": 1.0}, {"plain_s": -1.0, "selecting_s": 1.0}, {"plain_s": "1"}],
    "config": [None, 3, "tiny", [], {}],
    "data": [3, "tiny", [1]],
    "files": ["header.json", [3], {}, 4],
    "processes": [0, -1, "two", 1.5],
    "wall_clock_s": [-1.0, "long", [], "nan"],
    "test_accuracy": [1.5, -0.1, "good"],
}
WRONG_COMPARISON = {
    "methods": [None, "baseline", [3], {}],
    "config": [None, [], 7, {}],
    "step_costs": [None, 1, {"baseline": 3}, {"baseline": {"plain_s": 0.0, "selecting_s": 1.0}}, {}],
    "seeds": [0, -1, "one", 1.5],
    "sweep": [3, "max_lr", {"key": "max_lr"}],
    "data": ["tiny", 3],
    "target": ["high", 2.0],
    "tuned": [["baseline"], {"baseline": 3}],
    "summary": [{}, [3], [{"method": "baseline"}], "good"],
}


def of_header(rng):
    name = rng.choice(list(WRONG))
    value = rng.choice(WRONG[name])
    return lambda text: json.dumps({**json.loads(text), name: value})


def of_comparison(rng):
    name = rng.choice(list(WRONG_COMPARISON))
    value = rng.choice(WRONG_COMPARISON[name])
    return lambda text: json.dumps({**json.loads(text), name: value})


def lacking(rng):
    name = rng.choice(["config", "status", "total_steps", "step_costs"])
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != name})


def no_json(rng):
    return rng.choice(
        [
            lambda text: text[: rng.randrange(1, len(text) - 3)],
            lambda text: "",
            lambda text: "[1, 2]",
            lambda text: "null",
            lambda text: text.replace(":", ";"),
            lambda text: "[" * 5000 + text,
            lambda text: text.replace('"', "'"),
            lambda text: "\udcff" + text,
        ]
    )


def of_table(rng):
    def row(edit):
        def edited(text):
            lines = text.splitlines()
            at = rng.randrange(1, len(lines))
            cells = lines[at].split(",")
            return "\n".join([*lines[:at], *edit(cells, lines[at]), *lines[at + 1 :]]) + "\n"

        return edited

    column = rng.choice([0, 4, 5, 6, 7, 8, 11, 12])  # of numbers that every row has
    counted = rng.choice([4, 5, 6, 7, 8, 11])  # the seed, and what is never below 0
    word = rng.choice(["nan", "inf", "-inf", "x", "", "1e999", "0x1"])
    return rng.choice(
        [
            row(lambda cells, line: []),
            row(lambda cells, line: [line, line]),
            row(lambda cells, line: [",".join([*cells[:column], word, *cells[column + 1 :]])]),
            row(lambda cells, line: [",".join([*cells[:counted], "-1", *cells[counted + 1 :]])]),
            row(lambda cells, line: [",".join([*cells[:7], "0.0", *cells[8:]])]),  # seconds that a speed divides by
            row(lambda cells, line: [",".join(cells[:3])]),
            row(lambda cells, line: [line + ",1,2"]),
            row(lambda cells, line: [",".join(["5", *cells[1:]])]),
            row(lambda cells, line: ["\udcff" + line]),
            row(lambda cells, line: ['"' + line]),
            lambda text: "\n".join([text.splitlines()[0], *reversed(text.splitlines()[1:])]) + "\n",
            lambda text: text.splitlines()[0] + "\n",
            lambda text: "",
            lambda text: text.replace("step,", "steps,", 1),
        ]
    )


def of_checkpoint(rng):
    def flipped(content):
        content = bytearray(content)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(content)

    return rng.choice(
        [
            flipped,
            flipped,
            lambda content: content[: rng.randrange(len(content))],
            lambda content: content + b"x",
            lambda content: b"",
        ]
    )


KINDS = [
    ("run/header.json", of_header, 45),
    ("run/header.json", lacking, 4),
    ("run/header.json", no_json, 16),
    ("run/evaluations.csv", of_table, 35),
    ("c/compare.json", of_comparison, 30),
    ("c/compare.json", no_json, 8),
    ("c/baseline-seed0/evaluations.csv", of_table, 10),
    ("cut/checkpoint.pt", of_checkpoint, 12),
]
CASES = [(place, make, seed) for place, make, count in KINDS for seed in range(count)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def call(tiny, accelerator, whole, monkeypatch, capfd):
    """`call(folder)`: the command to which the folder belongs, (exit code, stderr)."""

    def run(name):
        commands = {
            "run": ["train", "tiny.toml", "--name", "run"],
            "cut": ["train", "tiny.toml", "--name", "cut"],
            "c": ["compare", "tiny.toml", "--methods", "baseline", "--seeds", "1", "--name", "c"],
        }
        code = main(commands[name])
        return code, capfd.readouterr().err

    monkeypatch.chdir(whole)
    return run


def listing(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def recorded(call, whole, interrupting):
    """The results of a finished run, a finished comparison, and a run that was interrupted."""
    if not (whole / "tiny.toml").exists():
        (whole / "tiny.toml").write_text(TINY)
        assert call("run")[0] == 0
        assert call("c")[0] == 0
        with interrupting(lambda training: training.step == 5):
            assert call("cut")[0] == 130
    return whole / "results"


def test_damaged_records_are_a_sentence_and_nothing_changes(recorded, call, tmp_path):
    """160 inputs, in one process."""
    assert len(CASES) >= 100
    for place, make, seed in CASES:
        name = place.split("/")[0]
        path = recorded / place
        good = path.read_bytes()
        damage = make(random.Random(f"{place} {make.__name__} {seed}"))
        if make is of_checkpoint:
            path.write_bytes(damage(good))
        else:
            path.write_text(damage(good.decode()), errors="surrogateescape")
        case = f"{place}, {make.__name__} {seed}"
        assert path.read_bytes() != good, case
        before = listing(recorded)
        code, said = call(name)
        assert code == 2, (case, said)
        lines = said.strip().splitlines()
        assert len([line for line in lines if line.startswith("gsgd ")]) == 1, (case, said)
        assert lines[-1].startswith("gsgd "), (case, said)
        assert "Traceback" not in said
        assert path.name in said or recorded.name in said, (case, said)
        assert listing(recorded) == before, case
        path.write_bytes(good)
    # What was damaged and mended is as before.
    assert call("run")[0] == call("c")[0] == 0


def entries(content, place=()):
    """(place, value) of every entry of nested dictionaries and lists that is not None."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if type(content) in LISTS else ()
    for name, value in inner:
        if value is not None:
            yield (*place, name), value
            yield from entries(value, (*place, name))


def replaced(content, place, value):
    """A copy with another value at the place."""
    if not place:
        return value
    name, *rest = place
    changed = dict(content) if isinstance(content, dict) else dict(enumerate(content))
    changed[name] = replaced(changed[name], rest, value)
    return changed if isinstance(content, dict) else type(content)(changed.values())


def of_another_kind(value):
    """What can stand for no value of this one's kind."""
    return [
        {"a": 1} if not isinstance(value, dict) else [1],
        b"x",
        3 if isinstance(value, str) else "x",
        torch.zeros(2, 3, 5),
        None,
    ]


LISTS = (list, tuple)


@pytest.mark.slow
def test_every_entry_of_a_checkpoint_of_another_kind_is_a_sentence(recorded, call):
    """Some 200, each written as versions without checksums did: by torch alone."""
    path = recorded / "cut" / "checkpoint.pt"
    good, state = path.read_bytes(), torch.load(path, weights_only=True)
    optional = {("first_loss",), ("sampler",), ("scaler",)}
    number = 0
    every = enumerate(entries(state))
    # Of tensors, which are all alike, a fifth.
    some = [entry for number, entry in every if number % 5 == 0 or not isinstance(entry[1], torch.Tensor)]
    for turn, (place, value) in enumerate(some):
        kinds = of_another_kind(value)
        for wrong in (kinds[turn % len(kinds)], kinds[(turn + 1) % len(kinds)]):
            if wrong is None and place in optional:
                continue
            number += 1
            torch.save(replaced(state, place, wrong), path)
            before = listing(recorded)
            code, said = call("cut")
            case = (place, wrong, said)
            assert code == 2, case
            assert [line.startswith("gsgd train: ") for line in said.strip().splitlines()] == [True], case
            assert str(path.relative_to(recorded.parent)) in said, case
            assert listing(recorded) == before, case
    assert number > 100
    path.write_bytes(good)
    assert call("cut")[0] == 0
