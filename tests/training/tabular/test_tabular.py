"""Tables, their preparation by hand, the made-up one, and the run that is judged by average precision."""

import numpy as np
import pytest
import torch

from gsgd.sift import EarlyExit, Sift, count_exits
from training.config import build
from training.tabular.network import TabularNet, TabularNetConfig
from training.tabular.settings import TabularSettings
from training.tabular.synthetic import rare_positives
from training.tabular.tables import read_table
from training.tabular.task import TabularTask


@pytest.fixture
def csv(tmp_path):
    """60 rows of three columns, of which a third of the first is missing; a quarter is of the class "yes"."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 2)) * [3, 0.1] + [5, -2]
    lines = ["a,b,flag,answer"]
    for number, (a, b) in enumerate(values.tolist()):
        shown = "" if number % 3 == 0 else repr(a)
        lines.append(f"{shown},{b!r},{'true' if number % 2 else 'false'},{'yes' if number % 4 == 0 else 'no'}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path, values


def test_a_csv_file_is_read(csv):
    path, values = csv
    table = read_table(str(path), "answer")
    assert (table.columns, table.class_names) == (("a", "b", "flag"), ("no", "yes"))
    assert np.isnan(table.values[::3, 0]).all()
    np.testing.assert_array_equal(table.values[1::3, 0], values[1::3, 0])
    np.testing.assert_array_equal(table.values[:, 2], np.arange(60) % 2)
    np.testing.assert_array_equal(table.labels, np.arange(60) % 4 == 0)
    assert read_table(str(path), "answer", ("b",)).columns == ("b",)


def test_a_parquet_file_is_read_alike(csv, tmp_path):
    import pyarrow.csv
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.csv.read_csv(csv[0]), tmp_path / "table.parquet")
    assert read_table(str(tmp_path / "table.parquet"), "answer").content == read_table(str(csv[0]), "answer").content


@pytest.mark.parametrize(
    ("text", "target", "columns", "message"),
    [
        ("a,b\n1,2\n3,4\n", "c", (), "target = 'c' is not among the columns"),
        ("a,b\n1,2\n3,4\n", "b", ("c",), "columns: 'c' is not among those"),
        ("a,b\nx,2\ny,4\n", "b", (), "column a: values are of type string, but must be numbers"),
        ("a,b\n1,0.5\n3,1.5\n", "b", (), "column b: classes are of type double"),
        ("a,b\n1,2\n3,\n", "b", (), "column b: row 1 has no class"),
        ("a,b\n1,2\n3,2\n", "b", (), "column b: there must be at least 2 classes, but there are 1"),
        ("a,b\n1,2\ninf,4\n", "b", (), "column a: row 1 is not finite"),
        ("a,a,b\n1,2,3\n", "b", (), "two columns of the name 'a'"),
        ("b\n1\n2\n", "b", (), "has no column beside the target 'b'"),
        ("a,b\n1,2,3\n", "b", (), "cannot be read as a table"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(tmp_path, text, target, columns, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(str(path), target, columns)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_table(str(tmp_path / "none.csv"), "b")
    (tmp_path / "table.txt").write_text("a,b\n")
    with pytest.raises(ValueError, match="must be synthetic, or a file that ends in"):
        read_table(str(tmp_path / "table.txt"), "b")


def test_columns_are_standardised_by_the_training_rows(csv):
    path, values = csv
    task = TabularTask(TabularSettings(data=str(path), target="answer", validation_share=0.2, test_share=0.2), 0)
    batch = task.training_batch(np.arange(task.train_size), 0)
    rows = batch["values"].double().numpy()
    assert (task.train_size, task.splits) == (39, ("validation", "test"))  # 29 and 10 of 45 and 15
    np.testing.assert_allclose(rows[:, 1:].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(rows[:, 1:].std(axis=0), 1, atol=1e-6)
    # Where the first column is missing it is 0, and the rest of it has mean 0 and variance 1.
    known = rows[:, 0] != 0
    assert 20 <= known.sum() < 39
    np.testing.assert_allclose([rows[known, 0].mean(), rows[known, 0].std()], [0, 1], atol=1e-6)
    held = torch.cat([part["values"] for part in task.held_out("test", 5)]).double().numpy()
    shown = held[:, 1] * task.std[1] + task.mean[1]
    assert np.isin(np.round(shown, 5), np.round(values[:, 1], 5)).all()
    assert sum(int(part["labels"].sum()) for part in task.held_out("validation", 50)) == 2  # a fifth of 12, then of 15


def test_a_class_that_is_none_is_refused(csv):
    with pytest.raises(ValueError, match="positive = 'maybe' is not among the classes: no, yes"):
        TabularTask(TabularSettings(data=str(csv[0]), target="answer", positive="maybe"), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_share": 0.0}, "validation_share = 0 leaves nothing to validate on"),
        ({"validation_share": 0.5, "test_share": 0.5}, "must together be less than 1"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        TabularSettings(**changes)


def test_the_made_up_table_has_so_many_positives_and_three_kinds_of_columns():
    values, classes = rare_positives(np.random.default_rng(0), rows=20_000, positive_share=0.05)
    assert values.shape == (20_000, 30)
    # Two in a thousand are flipped, nearly all of them to positive: 1,000 + 38, standard error 6.
    assert abs(int(classes.sum()) - 1036) < 40
    # Mixtures lie in the span of the informative columns, noise does not: the rank is that of 12 + 10.
    assert np.linalg.matrix_rank(values - values.mean(axis=0), tol=1e-6 * len(values)) == 22
    again, _ = rare_positives(np.random.default_rng(0), rows=20_000, positive_share=0.05)
    np.testing.assert_array_equal(values, again)


def test_the_network_by_its_formula():
    torch.manual_seed(0)
    model = TabularNet(TabularNetConfig(columns=5, hidden_sizes=(7, 4), num_labels=3)).double()
    assert isinstance(model, EarlyExit)
    assert count_exits(model) == 1
    weights = dict(model.named_parameters())
    values, labels = torch.randn(6, 5).double(), torch.arange(6) % 3
    hidden = values
    for place in ("layers.0", "layers.2"):
        hidden = (hidden @ weights[f"{place}.weight"].T + weights[f"{place}.bias"]).clamp(min=0)
    expected = hidden @ weights["classifier.weight"].T + weights["classifier.bias"]
    output = model(values, labels)
    torch.testing.assert_close(output.logits, expected, rtol=1e-12, atol=1e-12)
    losses = -expected.log_softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(output.loss, losses.mean(), rtol=1e-12, atol=1e-12)
    sift = Sift(model, exit_layer=1, keep=0.5)
    sift.choose({"values": values, "labels": labels})
    assert sorted(sift.last.indices.tolist()) == sorted(losses.argsort(descending=True)[:3].tolist())
    with pytest.raises(ValueError, match="exit_layer = 2"):
        model.early_logits(2, values)


def test_a_run_is_judged_by_the_average_precision_of_the_rare_class(csv):
    from accelerate import Accelerator

    from training.run.evaluation import evaluate_split
    from training.training import Training

    values = {"task": "tabular", "data": str(csv[0]), "target": "answer", "hidden_sizes": "4", "batch_size": "8"}
    found = {}
    for positive in ("", "yes"):
        config = build("x", {**values, "positive": positive, "evaluation_batch_size": "3"})
        task = config.build_task()
        training = Training(config, task, Accelerator(cpu=True), 1)
        found[positive] = evaluate_split(training, "test")
        training.model.eval()
        with torch.no_grad():
            parts = [(part["labels"], training.model(**part).logits) for part in task.held_out("test", 50)]
    labels, logits = (torch.cat(each).double().numpy() for each in zip(*parts, strict=True))
    odds = logits[:, 1] - logits[:, 0]
    order = np.argsort(-odds)
    hits = np.cumsum(labels[order])
    precision = (hits / np.arange(1, len(hits) + 1))[labels[order] == 1].mean()
    assert found[""][0] == pytest.approx(((odds > 0) == labels).mean())
    assert found["yes"][0] == pytest.approx(precision, abs=1e-9)
    assert found[""][1] == pytest.approx(found["yes"][1])
