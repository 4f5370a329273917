"""What selection is expected to be worth: against means by hand, and a run whose losses are kept in a dictionary."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn.functional import cross_entropy

from gsgd.sift.measures.expected_factor import EXPONENT, SPREAD
from training.data.order import Order
from training.diagnose.forecast import BATCHES, POINTS, PROXY_EXPONENT, Look, forecast
from training.diagnose.measure import diagnose_config
from training.training import Training


def test_a_factor_is_what_is_kept_over_what_it_costs():
    looks = [
        Look(1, 2.0, 0.5, {"last-seen": 1.2, "loss@last": 1.4}),
        Look(2, 1.0, 1.5, {"last-seen": 1.6, "loss@last": 1.8}),
    ]
    found = forecast("last-seen", looks, 1.0, 8, 32)
    assert found.progress == pytest.approx(1.4)
    assert found.ceiling == pytest.approx(1 + (0.5 + 1.5) / 2 * math.sqrt(3))
    assert found.factor == pytest.approx(1.4**EXPONENT)
    assert (found.low, found.high) == pytest.approx((found.factor / SPREAD, found.factor * SPREAD))
    assert found.verdict == "is expected to pay"
    dear = forecast("loss@last", looks, 2.5, 8, 32)
    assert dear.factor == pytest.approx(1.6**EXPONENT / 2.5)
    assert dear.verdict == "is not expected to pay"
    assert forecast("loss@last", looks, 1.5, 8, 32).verdict == "may pay or not"
    of_proxy = forecast("proxy", [Look(1, 2.0, 0.5, {"proxy": 1.4, "loss@last": 1.4})], 1.5, 8, 32)
    assert of_proxy.factor == pytest.approx(1.4**PROXY_EXPONENT / 1.5)
    # Training rows that are as good as validation rows at the end: no wrong labels, and nothing out of reach.
    assert forecast("last-seen", looks, 1.0, 8, 32, validation_loss=1.0) == found
    assert forecast("last-seen", looks, 1.0, 8, 32, validation_loss=0.0).verdict  # all of it wrong labels, then
    # Of a loss of 5 training rows hold a fifth.
    assert forecast("last-seen", looks, 1.0, 8, 32, validation_loss=5.0).progress == pytest.approx(1 + 0.4 / 5)
    with pytest.raises(ValueError, match="nothing is forecast of a model that was not trained"):
        forecast("last-seen", [], 1.0, 8, 32)


def test_loss_of_wrong_labels_is_no_gain():
    """A fifth of the rows with a loss that no training takes away, which any selection of the hardest keeps whole."""
    rng = np.random.default_rng(0)
    rows = 4000
    learnable = rng.exponential(size=rows)
    wrong = np.arange(rows) < rows // 5
    learnable[wrong] = 0
    losses = learnable + 20.0 * wrong
    hardest = np.argsort(-losses)[: rows // 2]
    ratio = losses[hardest].mean() / losses.mean()
    look = Look(1, losses.mean(), losses.std() / losses.mean(), {"loss@last": ratio, "random": 1.0})
    found = forecast("loss@last", [look], 1.0, rows // 2, rows, validation_loss=learnable.mean())
    assert found.progress == pytest.approx(learnable[hardest].mean() / learnable.mean(), rel=1e-9)
    assert found.progress < ratio
    # Rows at random keep as much of either.
    assert forecast("random", [look], 1.0, rows // 2, rows, learnable.mean()).progress == pytest.approx(1)


def expected_of_kept(losses, order, kept, drawn):
    """The expected mean loss of the first of an order, with so many of them drawn from the others."""
    top, others = losses[order[: kept - drawn]], losses[order[kept - drawn :]]
    return (top.sum() + (drawn * others.mean() if drawn else 0)) / kept


def test_what_is_watched_is_what_a_loop_by_hand_finds(tiny, accelerator):
    """Plain training with the losses of its rows in a dictionary, on a model without anything random."""
    steps = POINTS
    config = tiny(batch_normalised=False, rows=128, **{"dropout": 0.0, "method": "loss@1"})
    found = diagnose_config(config, accelerator, after=[0, steps], batches=2)

    plain = Training(config.with_values({"method": "baseline"}), config.build_task(), accelerator, 24)
    settings, task = config.training, plain.task
    seen: dict[int, float] = {}
    looked, order = Order(task.train_size, settings.seed + 2), Order(task.train_size, settings.seed)
    means, classes = [], []
    ratios: dict[str, list[float]] = {"last-seen": [], "loss@1": [], "loss@last": [], "proxy": []}
    torch.manual_seed(settings.seed)
    proxy = task.build_proxy()
    optimizer = torch.optim.AdamW(proxy.parameters(), lr=settings.proxy_lr)
    for _ in range(steps):
        rows, epoch = order.take(settings.batch_size)
        batch = task.training_batch(rows, epoch)
        with torch.no_grad():
            losses = cross_entropy(plain.model(batch["x"]).logits, batch["labels"], reduction="none")
        plain.train_step()
        loss = cross_entropy(proxy.train()(batch["x"]).logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.update(zip(rows.tolist(), losses.tolist(), strict=True))
        for _ in range(BATCHES):
            rows, epoch = looked.take(settings.gross_size)
            batch = task.training_batch(rows, epoch)
            with torch.no_grad():
                of_exits = {
                    name: cross_entropy(plain.model.early_logits(layer, batch["x"]), batch["labels"], reduction="none")
                    for name, layer in (("loss@1", 1), ("loss@last", 2))
                }
                logits = proxy.eval()(batch["x"]).logits
                of_exits["proxy"] = cross_entropy(logits, batch["labels"], reduction="none")
            exact, kept = of_exits["loss@last"].double().numpy(), settings.kept_size
            means.append(exact.mean())
            classes.append(batch["labels"].tolist())
            for name, scores in of_exits.items():
                of_score, drawn = np.argsort(-scores.numpy(), kind="stable"), kept // 4 if name == "proxy" else 0
                ratios[name].append(expected_of_kept(exact, of_score, kept, drawn) / exact.mean())
            by_age = sorted(range(len(rows)), key=lambda place: -seen.get(int(rows[place]), math.inf))
            # In the first pass no row would have been seen: rows are drawn from those that remain of it.
            first_pass = len(means) <= BATCHES * ((task.train_size - 1) // settings.batch_size)
            of_seen = expected_of_kept(exact, by_age, kept, kept // 4) / exact.mean()
            ratios["last-seen"].append(1.0 if first_pass else of_seen)
    assert [each.score for each in found.forecasts] == ["last-seen", "loss@1", "loss@last", "proxy"]
    # Training rows are no worse than validation rows, so that none counts as wrongly labelled.
    quarter = len(means) // 4
    late = float(np.mean(means[-quarter:]))
    # Validation rows count as often as their class is among those rows.
    (held_out,) = task.held_out("validation", 1000)
    with torch.no_grad():
        logits = plain.model.eval()(held_out["x"]).logits
    losses = cross_entropy(logits, held_out["labels"], reduction="none").double()
    of_class = {int(label): losses[held_out["labels"] == label].mean() for label in held_out["labels"].unique()}
    validation = float(np.mean([of_class[label] for labels in classes[-quarter:] for label in labels]))
    assert late < validation
    for each in found.forecasts:
        wanted = 1 + (np.mean(ratios[each.score]) - 1) * late / validation
        assert each.progress == pytest.approx(wanted, rel=1e-5)
    assert found.forecasts[0].cost == 1
    # Forward, and backward of the weights alone: the proxy has one layer, whose input needs no gradient.
    products = [sum(w.numel() for w in net.parameters() if w.dim() == 2) for net in (proxy, plain.model)]
    of_row = products[0] / products[1]
    assert found.forecasts[-1].cost == pytest.approx(1 + of_row / (3 * settings.keep) + 2 * of_row / 3)


def test_exponents_and_spread_are_those_of_what_was_recorded():
    """From the recorded files alone: forecasts beside the factors of the ladders of the same names and budgets."""
    recorded = pathlib.Path(__file__).parents[3] / "recorded"
    found, found_linear, beyond = [], [], []
    for path in sorted((recorded / "forecasts").glob("*/diagnosis.json")):
        diagnosis = json.loads(path.read_text())
        with open(recorded / "ladders" / path.parent.name / "ladder.csv") as table:
            rows = [
                row for row in csv.DictReader(table) if f"{float(row['budget']):g}" in diagnosis["config"]["budget"]
            ]
        for each in diagnosis["forecasts"]:
            pairs = [(each, float(row["by_accuracy_factor"])) for row in rows if row["method"] == each["score"]]
            places = [row["by_accuracy_place"] for row in rows if row["method"] == each["score"]]
            found += pairs
            found_linear += pairs if path.parent.name == "fashion-mnist-linear" else []
            beyond += pairs if places != ["on the ladder"] else []
    assert (len(found), len(beyond)) == (28, 3)
    # Not of the linear model, which cannot fit its rows: there the rule is wrong. Nor of what lies beyond its ladder.
    fitting = [pair for pair in found if pair not in found_linear + beyond]

    def fitted(of_proxies: bool, count: int) -> float:
        pairs = [(each, factor) for each, factor in fitting if (each["score"] == "proxy") == of_proxies]
        assert len(pairs) == count
        x = np.log([each["progress"] for each, _ in pairs])
        y = np.log([factor * each["cost"] for each, factor in pairs])
        return float(x @ y / (x @ x))

    # It was chosen by the first twelve, and stays while later ones come near.
    assert fitted(False, 18) == pytest.approx(EXPONENT, abs=0.07)
    assert fitted(True, 5) == pytest.approx(PROXY_EXPONENT, abs=0.1)
    assert sum(each["low"] <= factor <= each["high"] for each, factor in found) == 21


def test_nothing_is_forecast_of_a_model_that_was_not_trained(tiny, accelerator):
    assert diagnose_config(tiny(rows=128, method="loss@1"), accelerator, after=[0], batches=2).forecasts == []
