"""The fair comparison: one budget, measured once; every method on every seed; tuned by validation only."""

import csv
import json
import os

import pytest

import training.comparison.opening as module
from training.comparison.compare import compare, parse_sweep
from training.comparison.contenders import TUNING_SEED, parse_contender
from training.comparison.opening import check_same
from training.config import build
from training.run import train
from training.run_folder.records import read_evaluations

METHODS = ("baseline", "random", "loss@1")


@pytest.fixture
def go(tiny, accelerator, tmp_path):
    """`go(methods, **values)`: a comparison in the folder "c"."""

    def run(methods=METHODS, seeds=2, sweep=None, target=None, name="c", **values):
        values = {"evaluations": 2, "budget": "8steps", **values}
        return compare(
            tiny(**values),
            [parse_contender(method) for method in methods],
            tmp_path / name,
            seeds=seeds,
            accelerator=accelerator,
            sweep=parse_sweep(sweep) if sweep else None,
            target=target,
        )

    return run


@pytest.fixture
def trained(note_runs):
    """One entry a run that trained, once measuring is over."""
    return note_runs("label", "seed", "max_lr")


def recorded(folder, name="compare.json"):
    return json.loads((folder / name).read_text())


# ---- Grammar ----


def test_contenders():
    found = parse_contender("loss@1:keep=0.7:start-share=0.5")
    assert found.label == "loss@1:keep=0.7:start-share=0.5"
    assert found.values == {"method": "loss@1", "keep": "0.7", "start_share": "0.5"}
    assert parse_contender("baseline").values == {"method": "baseline"}


@pytest.mark.parametrize("text", ["los@1", "loss@1:keep", "loss@1:keep=", "loss@1:=1", "loss@1:", ""])
def test_what_is_no_contender(text):
    with pytest.raises(ValueError, match=r"method = |in the method .* must be key=value"):
        parse_contender(text)


def test_sweeps():
    found = parse_sweep("max-lr=5e-2,1e-2")
    assert (found.key, found.values) == ("max_lr", ("5e-2", "1e-2"))


@pytest.mark.parametrize("text", ["max_lr", "max_lr=1", "max_lr=", "=1,2", "max_lr=1,"])
def test_what_is_no_sweep(text):
    with pytest.raises(ValueError, match=r"--sweep .* must be key=value,value,\.\.\. with at least two values"):
        parse_sweep(text)


# ---- The protocol ----


def test_every_method_on_every_seed(go, trained, tmp_path):
    found = go(seed=5)
    assert found.status == "finished"
    assert [(label, seed) for label, seed, _ in trained] == [(m, seed) for seed in (5, 6) for m in METHODS]
    assert [(r.method, r.seed) for r in found.results] == [(m, seed) for seed in (5, 6) for m in METHODS]
    assert [summary.method for summary in found.summaries] == list(METHODS)
    assert [summary.runs for summary in found.summaries] == [2, 2, 2]
    assert all(summary.test_accuracy.count == 2 for summary in found.summaries)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "compare.json",
        "evaluations.csv",
        "summary.csv",
        *(f"{method}-seed{seed}" for method in METHODS for seed in (5, 6)),
    }


def test_a_run_of_a_comparison_is_the_run_that_train_makes(go, tiny, accelerator, tmp_path):
    """The data, too, are those of its seed."""
    go(("loss@1:keep=0.25",), seeds=2)
    config = tiny(method="loss@1", keep=0.25, seed=1, evaluations=2, budget="8steps")
    alone = train(config, tmp_path / "alone", accelerator=accelerator)
    within = read_evaluations(tmp_path / "c" / "loss@1-keep=0.25-seed1")
    assert [row.val_loss for row in within] == [row.val_loss for row in alone.evaluations]


def test_the_random_control_is_half_at_random(go, tmp_path):
    found = go()
    by_method = {summary.method: summary for summary in found.summaries}
    assert by_method["random"].backprop_samples == by_method["baseline"].backprop_samples == 64
    (row, *_) = [row for row in read_evaluations(tmp_path / "c" / "random-seed0") if row.step == 8]
    assert (row.score, row.gross_samples, row.backprop_samples) == ("random", 128, 64)
    assert by_method["loss@1"].over_random is not None
    assert by_method["random"].over_baseline is not None


def test_the_files(go, tmp_path):
    found = go(target=0.4)
    folder = tmp_path / "c"
    tables = []
    for seed in (0, 1):
        for method in METHODS:
            lines = (folder / f"{method}-seed{seed}" / "evaluations.csv").read_text().splitlines()
            tables.append(lines)
    whole = (folder / "evaluations.csv").read_text().splitlines()
    assert whole == [tables[0][0], *(line for lines in tables for line in lines[1:])]
    header = recorded(folder)
    assert header["methods"] == list(METHODS)
    assert (header["seeds"], header["sweep"], header["target"], header["tuned"]) == (2, None, 0.4, {})
    assert set(header["step_costs"]) == set(METHODS)
    assert {"date", "commit", "versions", "command", "config"} <= set(header)
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, summary in zip(rows, found.summaries, strict=True):
        assert row["method"] == summary.method
        assert float(row["val_accuracy"]) == summary.val_accuracy.mean
        assert float(row["val_accuracy_half_width"]) == summary.val_accuracy.half_width
        assert int(row["runs"]) == 2
    assert rows[0]["over_baseline"] == rows[0]["over_baseline_half_width"] == ""


def test_nothing_heavy_is_written(go, tmp_path):
    go(tensorboard=True)
    assert not list((tmp_path / "c").rglob("model"))
    assert not list((tmp_path / "c").rglob("tensorboard"))
    assert not list((tmp_path / "c").rglob("checkpoint.pt"))


@pytest.mark.parametrize("values", [{}, {"start_share": 0.3, "end_share": 0.8}])
def test_time_is_kept_to_two_percent_by_every_method(go, tmp_path, monkeypatch, values):
    """At prices of .1 s a plain step and .2, .25 s a selecting one, 16 s are 160 steps or fewer."""
    prices = {"baseline": 0.1, "random": 0.2, "loss@1": 0.25}
    costs = [module.StepCosts(0.1, prices[method]) for method in METHODS]
    monkeypatch.setattr(module, "measure_costs", lambda *_, **__: costs)
    found = go(seeds=1, budget="16s", **values)
    steps = {}
    for summary in found.summaries:
        steps[summary.method] = summary.steps
        assert 0.98 * 16 <= summary.reference_s <= 16 * (1 + 1e-6)
    if not values:
        assert steps == {"baseline": 160, "random": 80, "loss@1": 64}
    # The learning rate ends with each run, not with the longest: its schedule is of so many steps.
    for method in METHODS:
        assert recorded(tmp_path / "c" / f"{method}-seed0", "header.json")["total_steps"] == steps[method]


def test_measured_time_is_kept(go, tmp_path):
    """By the prices that were measured, which all seeds share."""
    found = go(budget="0.2s", evaluations=1)
    for summary in found.summaries:
        costs = found.costs[summary.method]
        dearest = max(costs.plain_s, costs.selecting_s)
        assert 0.2 - dearest < summary.reference_s <= 0.2 * (1 + 1e-6)
        for seed in (0, 1):
            header = recorded(tmp_path / "c" / f"{summary.method}-seed{seed}", "header.json")
            assert header["step_costs"] == recorded(tmp_path / "c")["step_costs"][summary.method]


def test_samples_are_the_same_for_all(go):
    found = go(("baseline", "random", "loss@1", "loss@last:keep=0.25"), budget="160samples", seeds=1)
    assert [summary.backprop_samples for summary in found.summaries] == [160] * 4


def test_what_a_method_changes_of_the_task_is_priced_and_trained(go, tmp_path, monkeypatch):
    """An exit elsewhere, say: here, another number of rows."""
    measured = []
    measure = module.measure_costs

    def noted(configs, tasks, *arguments, **options):
        measured.extend((config.data.rows, task.train_size) for config, task in zip(configs, tasks, strict=True))
        return measure(configs, tasks, *arguments, **options)

    monkeypatch.setattr(module, "measure_costs", noted)
    found = go(("loss@1", "loss@1:rows=128"), seeds=1, budget="1epochs")
    assert measured == [(64, 64), (128, 128)]
    assert [summary.steps for summary in found.summaries] == [8, 16]


@pytest.mark.parametrize("key", ["budget=9steps", "seed=3", "test=true", "task=bert", "label=x"])
def test_what_all_methods_share_is_not_a_methods_own(go, key, trained):
    name = key.split("=")[0]
    with pytest.raises(ValueError, match=rf"the method 'loss@1:{key}' sets {name}, but that is the comparison's"):
        go((f"loss@1:{key}", "baseline"))
    with pytest.raises(ValueError, match=rf"--sweep sets {name}, but that is the comparison's"):
        go(("baseline",), sweep=f"{key},{key.split('=')[1]}2")
    assert trained == []


def test_what_does_not_fit_the_configuration(go, trained):
    with pytest.raises(ValueError, match=r"no key 'kep'.*did you mean keep"):
        go(("baseline", "loss@1:kep=0.3"))
    with pytest.raises(ValueError, match=r"exit_layer = 9 must be a whole number in 1\.\.2"):
        go(("baseline", "loss@9"))
    with pytest.raises(ValueError, match="the method 'baseline' is named twice"):
        go(("baseline", "loss@1", "baseline"))
    assert trained == []


def test_divergence_is_reported_and_the_others_stand(go):
    found = go(("baseline", "loss@1:max_lr=1e30:batch_normalised=false"), budget="40steps", batch_normalised=False)
    baseline, loss = found.summaries
    assert (baseline.diverged, loss.diverged) == (0, 2)
    assert loss.val_accuracy is None
    assert found.target == pytest.approx(baseline.val_accuracy.mean)


# ---- Tuning ----


def test_each_method_is_tuned_by_validation_on_a_seed_apart(go, trained, tmp_path, judged_by):
    judged = []

    def scripted(evaluate, training, split, *more):
        settings = training.settings
        judged.append((settings.label, settings.seed, settings.max_lr, split))
        loss = evaluate(training, split, *more)[1]
        if split == "test":
            return 0.9, loss
        # The baseline does best at .1, loss@1 at .01; on the test split it would be the other way around.
        best = {"baseline": 0.1, "loss@1": 0.01}[settings.label]
        return (0.8 if settings.max_lr == best else 0.3), loss

    judged_by(scripted)
    found = go(("baseline", "loss@1"), sweep="max_lr=1e-1,1e-2", evaluations=1)
    assert found.tuned == {"baseline": "1e-1", "loss@1": "1e-2"}
    assert trained == [
        ("baseline", TUNING_SEED, 0.1),
        ("baseline", TUNING_SEED, 0.01),
        ("loss@1", TUNING_SEED, 0.1),
        ("loss@1", TUNING_SEED, 0.01),
        ("baseline", 0, 0.1),
        ("loss@1", 0, 0.01),
        ("baseline", 1, 0.1),
        ("loss@1", 1, 0.01),
    ]
    tested = [entry[:3] for entry in judged if entry[3] == "test"]
    assert tested == [("baseline", 0, 0.1), ("loss@1", 0, 0.01), ("baseline", 1, 0.1), ("loss@1", 1, 0.01)]
    assert recorded(tmp_path / "c")["tuned"] == found.tuned
    assert all(summary.val_accuracy.mean == 0.8 for summary in found.summaries)
    # The runs that tuned are not reported.
    assert {row["seed"] for row in csv.DictReader((tmp_path / "c" / "evaluations.csv").read_text().splitlines())} == {
        "0",
        "1",
    }


def test_what_diverges_is_not_chosen(go):
    found = go(("baseline",), seeds=1, sweep="max_lr=1e30,1e-3", budget="40steps", batch_normalised=False)
    assert found.tuned == {"baseline": "1e-3"}


def test_a_sweep_that_changes_the_price_keeps_the_budget(go, tmp_path, monkeypatch):
    def by_share(configs, tasks, *_, **__):
        return [module.StepCosts(0.1, 0.1 / config.training.keep) for config in configs]

    monkeypatch.setattr(module, "measure_costs", by_share)
    found = go(("loss@1",), seeds=1, sweep="keep=0.5,0.25", budget="4s")
    steps = {
        share: recorded(tmp_path / "c" / "tuning" / f"loss@1-keep{share}", "header.json")["total_steps"]
        for share in ("0.5", "0.25")
    }
    assert steps == {"0.5": 20, "0.25": 10}
    assert found.summaries[0].steps == steps[found.tuned["loss@1"]]
    assert found.summaries[0].reference_s == pytest.approx(4.0)


# ---- Going on ----


def test_an_interrupted_comparison_goes_on(go, trained, tmp_path, monkeypatch, interrupting):
    """Interrupted in its fourth run: the first three are not trained again, and the prices stay."""
    go(name="whole")
    trained.clear()
    with interrupting(lambda training: len(trained) == 4 and training.step == 5):
        found = go()
    assert (found.status, found.summaries, len(found.results)) == ("interrupted", [], 3)
    costs = recorded(tmp_path / "c")["step_costs"]
    assert len(trained) == 4
    trained.clear()
    monkeypatch.setattr(module, "measure_costs", lambda *_, **__: pytest.fail("measured again"))
    found = go()
    assert [(label, seed) for label, seed, _ in trained] == [(method, 1) for method in METHODS]
    assert found.status == "finished"
    assert recorded(tmp_path / "c")["step_costs"] == costs

    def without_times(name):
        return [
            {key: cell for key, cell in row.items() if not key.endswith("_s")}
            for row in csv.DictReader((tmp_path / name / "evaluations.csv").read_text().splitlines())
        ]

    assert without_times("c") == without_times("whole")
    trained.clear()
    again = go()
    assert trained == []
    assert again.summaries == found.summaries


def test_ctrl_c_in_the_last_step_of_a_run_ends_the_comparison(go, trained, interrupting):
    """That run is finished; the next one does not begin."""
    with interrupting(lambda training: len(trained) == 2 and training.step == 8):
        assert go(seeds=1).status == "interrupted"
    assert [label for label, _, _ in trained] == ["baseline", "random"]
    trained.clear()
    assert go(seeds=1).status == "finished"
    assert [label for label, _, _ in trained] == ["loss@1"]


def test_a_second_comparison_in_the_folder_is_refused_while_the_first_runs(go, monkeypatch):
    refused = []
    measure = module.measure_costs

    def second(*arguments, **options):
        monkeypatch.setattr(module, "measure_costs", measure)
        with pytest.raises(ValueError, match=rf"c is being written to by process {os.getpid()} on"):
            go(seeds=1)
        refused.append(True)
        return measure(*arguments, **options)

    monkeypatch.setattr(module, "measure_costs", second)
    assert go(seeds=1).status == "finished"
    assert refused == [True]


def test_a_run_at_the_prices_of_another_comparison_is_refused(go, tmp_path):
    go(seeds=1)
    path = tmp_path / "c" / "compare.json"
    content = recorded(tmp_path / "c")
    content["step_costs"]["random"]["plain_s"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="random-seed0 was trained at costs of"):
        go(seeds=1)


def test_a_comparison_that_lost_a_price_is_named(go, tmp_path):
    go(seeds=1)
    content = recorded(tmp_path / "c")
    del content["step_costs"]["random"]
    (tmp_path / "c" / "compare.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"compare\.json: step_costs lacks 'random'"):
        go(seeds=1)


def test_a_comparison_goes_on_with_the_data_it_began_with(go, tmp_path):
    go(seeds=1)
    path = tmp_path / "c" / "compare.json"
    path.write_text(json.dumps({**recorded(tmp_path / "c"), "data": {"content": "abc"}}))
    with pytest.raises(ValueError, match=r"data are not those that .*c began with: .*'abc'.* there, .*'tiny'.* here"):
        go(seeds=2)


def test_a_comparison_replaces_no_run(go, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "header.json").write_text("{}")
    with pytest.raises(ValueError, match=r"c is of something else, which has a header\.json"):
        go(seeds=1)


def test_a_comparison_that_lost_its_record_is_not_begun_anew(go, tmp_path):
    go(seeds=1)
    (tmp_path / "c" / "compare.json").unlink()
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"c holds runs, such as .*-seed0, but no compare\.json"):
        go(seeds=1)
    assert sorted(tmp_path.rglob("*")) == there


def test_an_interrupted_tuning_goes_on(go, trained, interrupting):
    with interrupting(lambda training: len(trained) == 2 and training.step == 3):
        assert go(("baseline",), seeds=1, sweep="max_lr=1e-2,1e-3").status == "interrupted"
    trained.clear()
    found = go(("baseline",), seeds=1, sweep="max_lr=1e-2,1e-3")
    assert found.status == "finished"
    assert [seed for _, seed, _ in trained] == [TUNING_SEED, 0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"methods": ("baseline", "random")}, "methods"),
        ({"max_lr": 0.5}, r"max_lr \(\S+ there, 0.5 here\)"),
        ({"sweep": "max_lr=1e-2,1e-3"}, "sweep"),
    ],
)
def test_another_comparison_in_the_folder_is_refused(go, trained, tmp_path, values, named):
    go(seeds=1)
    before = (tmp_path / "c" / "compare.json").read_text()
    trained.clear()
    with pytest.raises(ValueError, match=rf"c has another comparison: its .*{named}.* differ"):
        go(**{"seeds": 1, **values})
    assert trained == []
    assert (tmp_path / "c" / "compare.json").read_text() == before


def test_an_older_comparison_goes_on_by_what_the_error_says(go, trained):
    """Begun with other values: as where a key's default has changed since."""
    go(seeds=1, max_lr=0.5, warmup_share=0.25)
    trained.clear()
    with pytest.raises(ValueError, match="differ") as caught:
        go(seeds=1)
    words = str(caught.value).partition(", or go on with it by ")[2].split()
    given = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
    assert sorted(given) == ["max_lr", "warmup_share"]
    assert go(seeds=1, **given).status == "finished"
    assert trained == []


def test_a_list_is_given_as_the_command_line_takes_it(tmp_path):
    depths = {"task": "resnet", "hidden_sizes": [8, 8], "exit_stage": 1}
    here, there = build("x", {**depths, "depths": [1, 1]}), build("x", {**depths, "depths": [2, 1]})
    recorded = {"config": json.loads(json.dumps(there.values()))}
    with pytest.raises(ValueError, match=r"its depths \(2,1 there, 1,1 here\) differ\..* by --depths 2,1$"):
        check_same("comparison", tmp_path, here, recorded, [])
    with pytest.raises(ValueError, match=r"here\), seeds differ\. Choose another --name, or remove it$"):
        check_same("comparison", tmp_path, here, recorded, ["seeds"])
    check_same("comparison", tmp_path, there, recorded, [])


def test_seeds_may_be_added(go, trained, tmp_path):
    go(seeds=1)
    begun = json.loads((tmp_path / "c" / "compare.json").read_text())
    trained.clear()
    found = go(seeds=2)
    assert {seed for _, seed, _ in trained} == {1}
    assert {summary.runs for summary in found.summaries} == {2}
    header = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert header["seeds"] == 2
    assert [header[name] for name in ("date", "step_costs")] == [begun[name] for name in ("date", "step_costs")]


def test_seeds_beyond_the_last_are_refused_before_the_first_run(go, trained, tmp_path):
    with pytest.raises(ValueError, match="seed = 9223372036854775808 must be less than or equal to 92233720368547758"):
        go(seeds=2, seed=2**63 - 1)
    assert trained == []
    assert not (tmp_path / "c").exists()


def test_epochs_of_the_baseline_are_one_time_for_all(go):
    """Also for a method whose own plain steps have another price."""
    found = go(("baseline", "loss@1", "baseline:batch_size=16"), seeds=1, budget="3baseline-epochs")
    prices = found.costs["baseline"].plain_s
    # 64 rows in steps of 8: 8 steps an epoch.
    for summary in found.summaries:
        assert summary.reference_s <= 24 * prices * (1 + 1e-9)
        assert summary.reference_s > 24 * prices - max(price.selecting_s for price in found.costs.values())


def test_a_damaged_record_names_the_file(go, tmp_path):
    go(seeds=1)
    (tmp_path / "c" / "compare.json").write_text("{")
    with pytest.raises(ValueError, match=r"compare\.json cannot be read"):
        go(seeds=1)


def test_another_target_needs_no_training(go, trained):
    go(seeds=1)
    trained.clear()
    assert go(seeds=1, target=0.2).target == 0.2
    assert trained == []


def test_a_task_without_a_test_split(go):
    found = go(seeds=1, splits=("validation",))
    assert all(summary.test_accuracy is None for summary in found.summaries)
