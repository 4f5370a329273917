"""Readings against loops over rows and pairs, in plain Python; and that taking one changes nothing of a run."""

import copy
import dataclasses
import math
import statistics
import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from gsgd import scores as gsgd_scores  # noqa: E402
from gsgd.sift import Scorer, Sift, gross_scores  # noqa: E402
from gsgd.sift.measures import readings  # noqa: E402
from gsgd.sift.measures.readings import Reading, read, read_batch  # noqa: E402
from training.images.resnet import EarlyExitResNet  # noqa: E402

LEAST = float(torch.finfo(torch.float32).min)
WORDS = ("bert-mlm", "bert-classifier", "gpt2", "vit")


# ---- The plain route ----


def top(values, k):
    """The k largest, of equal ones the earlier first."""
    return set(sorted(range(len(values)), key=lambda row: (-values[row], row))[:k])


def share(rows, losses):
    mean = math.fsum(losses) / len(losses)
    return math.nan if mean == 0 or not rows else math.fsum(losses[row] for row in rows) / len(rows) / mean


def pairs_of(count):
    return [(one, two) for one in range(count) for two in range(one)]


def margin(loss):
    """-log(e^loss - 1), to 40 digits and more."""
    with localcontext() as context:
        context.prec = 400
        return float(-((Decimal(loss).exp() - 1).ln()))


def quietly(correlation, one, two):
    if len(one) < 2 or len(set(one)) == 1 or len(set(two)) == 1:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant columns
        return float(correlation(one, two).statistic)


def by_hand(scores, losses, kept):
    """All the numbers of a reading but where it is from."""
    count = len(losses)
    chosen, hardest = top(scores, kept), top(losses, kept)
    mean = math.fsum(losses) / count
    larger, taken, alike = [], [], []
    for one, two in pairs_of(count):
        larger.append(max(losses[one], losses[two]))
        if scores[one] == scores[two]:
            taken.append((losses[one] + losses[two]) / 2)
        else:
            taken.append(losses[one if scores[one] > scores[two] else two])
        if scores[one] == scores[two] or losses[one] == losses[two]:
            alike.append(0.5)
        else:
            alike.append(float((scores[one] > scores[two]) == (losses[one] > losses[two])))
    positive = min(scores) > 0 and min(losses) > 0
    ratios = [score / loss for score, loss in zip(scores, losses, strict=True)] if positive else []
    no_pairs = count < 2
    return {
        "rows": count,
        "kept": kept,
        "rho": share(hardest, losses),
        "rho_approx": share(chosen, losses),
        "rho_pairs": math.nan if no_pairs or mean == 0 else statistics.fmean(larger) / mean,
        "rho_pairs_approx": math.nan if no_pairs or mean == 0 else statistics.fmean(taken) / mean,
        "sigma": statistics.stdev(map(math.log, ratios)) if positive and not no_pairs else math.nan,
        "independence": quietly(scipy.stats.spearmanr, ratios, losses) if positive else math.nan,
        "margin_correlation": quietly(
            scipy.stats.pearsonr, [margin(score) for score in scores], [margin(loss) for loss in losses]
        )
        if positive
        else math.nan,
        "pairwise_agreement": math.nan if no_pairs else statistics.fmean(alike),
        "overlap": len(chosen & hardest) / kept,
        "rank_correlation": quietly(scipy.stats.spearmanr, scores, losses),
        "delta_chosen": delta(chosen, scores, losses),
        "delta_hardest": delta(hardest, scores, losses),
    }


def delta(rows, scores, losses):
    """The distance in mean square of the roots over some rows."""
    if min(scores) < 0:
        return math.nan
    return math.sqrt(statistics.fmean((math.sqrt(scores[row]) - math.sqrt(losses[row])) ** 2 for row in rows))


def numbers(reading):
    found = dataclasses.asdict(reading)
    return {name: value for name, value in found.items() if name not in ("step", "exit_layer")}


def agrees(reading, expected, rel=1e-9):
    found = numbers(reading)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=1e-9, nan_ok=True), name


# ---- read ----

# Few digits, so that columns are constant or clearly not; from a grid, so that there are ties.
GRID = [0.0, 1e-9, 1e-3, 0.1, 0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 7.0, 30.0, 800.0]
VALUES = st.sampled_from(GRID) | st.floats(1e-5, 20).map(lambda value: float(f"{value:.2g}"))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.data())
def test_against_loops(rows, data):
    scores, losses = ([row[column] for row in rows] for column in (0, 1))
    kept = data.draw(st.integers(1, len(rows)))
    agrees(read(np.array(scores), np.array(losses), kept=kept), by_hand(scores, losses, kept), rel=1e-7)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.data())
def test_ranges(rows, data):
    """1 <= rho_approx's best, rho; everything within the range that it says."""
    scores, losses = ([row[column] for row in rows] for column in (0, 1))
    found = read(scores, losses, kept=data.draw(st.integers(1, len(rows))))
    ranges = {
        "rho": (1, len(rows)),
        "rho_approx": (0, found.rho),
        "rho_pairs": (1, 2),
        "rho_pairs_approx": (0, found.rho_pairs),
        "sigma": (0, math.inf),
        "independence": (-1, 1),
        "margin_correlation": (-1, 1),
        "pairwise_agreement": (0, 1),
        "overlap": (0, 1),
        "rank_correlation": (-1, 1),
        "delta_chosen": (0, math.inf),
        "delta_hardest": (0, math.inf),
    }
    for name, (low, high) in ranges.items():
        value = getattr(found, name)
        assert math.isnan(value) or low - 1e-9 <= value <= high + 1e-9, name


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.data())
def test_what_any_score_loses_is_bounded_by_both_deltas(rows, data):
    """sqrt(mean of the chosen) >= sqrt(mean of the hardest) - delta_chosen - delta_hardest, whatever the score."""
    scores, losses = ([row[column] for row in rows] for column in (0, 1))
    kept = data.draw(st.integers(1, len(rows)))
    found = read(scores, losses, kept=kept)
    means = [statistics.fmean(losses[row] for row in top(of, kept)) for of in (scores, losses)]
    chosen, hardest = map(math.sqrt, means)
    assert chosen >= hardest - found.delta_chosen - found.delta_hardest - 1e-9 * (1 + hardest)


def test_a_large_batch_with_ties():
    rng = np.random.default_rng(0)
    scores, losses = np.round(rng.exponential(size=(2, 200)), 2) + 0.01
    agrees(read(scores, losses, kept=100), by_hand(scores.tolist(), losses.tolist(), 100))


@pytest.mark.parametrize("make", [list, np.array, lambda values: torch.tensor(values, dtype=torch.float64)])
def test_lists_arrays_and_tensors(make):
    scores, losses = [0.3, 1.5, 0.2, 4.0], [1.0, 2.0, 0.1, 0.4]
    found = read(make(scores), make(losses), kept=2, step=17, exit_layer=3)
    assert (found.step, found.exit_layer) == (17, 3)
    agrees(found, by_hand(scores, losses, 2))


def test_half_precision_is_read_as_it_is():
    scores = torch.tensor([0.3, 1.5, 0.2], dtype=torch.bfloat16)
    losses = torch.tensor([1.0, 2.0, 0.1], dtype=torch.float32, requires_grad=True)
    agrees(read(scores, losses, kept=1), by_hand(scores.tolist(), losses.tolist(), 1))


def test_scores_that_are_the_exact_losses():
    """Losses 1..B: the mean is (B + 1)/2, the larger of two different rows on average 2 (B + 1)/3."""
    losses = np.arange(1.0, 9.0)
    found = read(losses, losses, kept=2)
    assert found.rho == found.rho_approx == 7.5 / 4.5
    assert found.rho_pairs == found.rho_pairs_approx == pytest.approx(4 / 3, rel=1e-14)
    assert (found.sigma, found.overlap, found.pairwise_agreement) == (0.0, 1.0, 1.0)
    assert (found.rank_correlation, found.margin_correlation) == (pytest.approx(1), pytest.approx(1))
    assert math.isnan(found.independence)


def test_scores_in_the_opposite_order():
    """The smaller of two different rows is on average (B + 1)/3."""
    losses = np.arange(1.0, 9.0)
    found = read(9.0 - losses, losses, kept=4)
    assert (found.overlap, found.pairwise_agreement) == (0.0, 0.0)
    assert found.rank_correlation == pytest.approx(-1)
    assert found.rho_pairs_approx == pytest.approx(2 / 3, rel=1e-14)
    assert found.rho_approx == pytest.approx(2.5 / 4.5, rel=1e-14)


def test_noise_of_assumption_5_12():
    """log(score / loss) = mu + sigma zeta: sigma is found whatever mu is."""
    zeta, losses = [1.0, -1.0, 1.0, -1.0, 0.5, -0.5], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    for mu in (-3.0, 0.0, 2.0):
        scores = [loss * math.exp(mu + 0.3 * noise) for loss, noise in zip(losses, zeta, strict=True)]
        assert read(scores, losses, kept=3).sigma == pytest.approx(0.3 * statistics.stdev(zeta), rel=1e-12)


def test_noise_that_grows_with_the_loss_is_not_independent():
    losses = np.linspace(0.1, 2, 20)
    assert read(losses * np.exp(losses), losses, kept=10).independence == pytest.approx(1)
    assert read(losses / np.exp(losses), losses, kept=10).independence == pytest.approx(-1)


def test_independence_ranks_the_quotients_themselves():
    """Neighbouring numbers have one logarithm on this processor, and another's may tell them apart."""
    first = 1e10
    second = math.nextafter(first, math.inf)
    third = math.nextafter(second, math.inf)
    assert read([first, 2 * second, 4 * third], [1.0, 2.0, 4.0], kept=1).independence == pytest.approx(1)


def test_margins_from_losses_of_any_size():
    """The logistic losses of known margins, from e^-700 to 700, give back the margins' correlation."""
    rng = np.random.default_rng(1)
    one = np.concatenate([[-700.0, -40.0, -1e-9, 40.0, 700.0], rng.normal(size=20)])
    two = one + rng.normal(size=25) * 30
    losses = [np.logaddexp(0, -margins) for margins in (one, two)]
    found = read(*losses, kept=12).margin_correlation
    assert found == pytest.approx(np.corrcoef(one, two)[0, 1], rel=1e-9)


def test_the_smallest_numbers_there_are():
    with np.errstate(all="raise"):
        found = read([5e-324, 1.0, 1e300], [1e300, 1.0, 5e-324], kept=1)
    assert found.sigma == pytest.approx(statistics.stdev([math.log(5e-324) - math.log(1e300), 0.0, 1435.217]), rel=1e-5)
    assert found.margin_correlation == pytest.approx(-1 / 2, rel=1e-12)  # of (0, 0, -1e300) and (-1e300, 0, 0)


def test_no_processors_underflow_is_an_error(monkeypatch):
    """Whether expm1 of the smallest losses counts as an underflow depends on which of its loops NumPy runs."""
    exact = np.expm1

    def underflowing(numbers):
        assert np.float64(5e-324) * np.float64(0.5) == 0
        return exact(numbers)

    monkeypatch.setattr(np, "expm1", underflowing)
    losses = [5e-324, 1e-310, 2e-308, 1e-200, 1.0, 40.0]
    scores = [losses[row] for row in (1, 0, 5, 3, 2, 4)]
    with np.errstate(all="raise"):
        found = read(scores, losses, kept=3).margin_correlation
    one, two = ([margin(loss) for loss in column] for column in (scores, losses))
    assert found == pytest.approx(statistics.correlation(one, two), rel=1e-12)


def test_one_row():
    found = read([2.0], [3.0], kept=1)
    assert (found.rho, found.rho_approx, found.overlap) == (1.0, 1.0, 1.0)
    undefined = {"rho_pairs", "rho_pairs_approx", "sigma", "independence", "margin_correlation", "rank_correlation"}
    undefined |= {"pairwise_agreement"}
    assert {name for name, value in numbers(found).items() if math.isnan(value)} == undefined


def test_two_rows():
    found = read([1.0, 2.0], [0.0, 3.0], kept=1)
    assert (found.rho, found.rho_pairs, found.rho_pairs_approx) == (2.0, 2.0, 2.0)
    assert (found.pairwise_agreement, found.rank_correlation) == (1.0, pytest.approx(1.0))
    assert math.isnan(found.sigma)  # of a loss of 0 there is no logarithm


def test_equal_scores_say_nothing_and_take_half_of_both():
    found = read([1.0] * 4, [4.0, 3.0, 2.0, 1.0], kept=2)
    assert (found.pairwise_agreement, found.rho_pairs_approx) == (0.5, 1.0)
    assert (found.overlap, found.rho_approx) == (1.0, 3.5 / 2.5)  # ties to the earlier rows
    assert math.isnan(found.rank_correlation)
    assert math.isnan(found.margin_correlation)


def test_losses_of_zero():
    found = read([1.0, 2.0], [0.0, 0.0], kept=1)
    assert all(math.isnan(getattr(found, name)) for name in ("rho", "rho_approx", "rho_pairs", "rho_pairs_approx"))
    assert (found.pairwise_agreement, found.overlap) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("scores", "losses", "kept", "message"),
    [
        ([1.0, 2.0], [1.0], 1, "scores has 2 rows and losses 1"),
        ([], [], 1, r"scores has shape \(0,\)"),
        ([[1.0]], [[1.0]], 1, r"scores has shape \(1, 1\)"),
        ([1.0, math.nan], [1.0, 2.0], 1, r"scores\[1\] is nan"),
        ([1.0, 2.0], [math.inf, 2.0], 1, r"losses\[0\] is inf"),
        ([1.0, 2.0], [0.0, -1.0], 1, r"losses\[1\] = -1.0 must be at least 0"),
        ([1.0, 2.0], [0.0, 1.0], 0, "kept = 0 must be a whole number of at least 1 and at most 2"),
        ([1.0, 2.0], [0.0, 1.0], 3, r"kept = 3"),
        ([1.0, 2.0], [0.0, 1.0], 1.0, r"kept = 1\.0"),
        ([1.0, 2.0], [0.0, 1.0], True, r"kept = True"),
    ],
)
def test_bad_columns(scores, losses, kept, message):
    with pytest.raises(ValueError, match=message):
        read(scores, losses, kept=kept)


# ---- read_batch ----


def resnet():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6, 8], depths=[2, 1, 1], layer_type="basic", num_labels=5,
        exit_stage=2, small_images=True, downsample_in_first_stage=False,
    )  # fmt: skip
    return EarlyExitResNet(config).train()


def images(seed=0, rows=10):
    draw = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(rows, 3, 8, 8, generator=draw),
        "labels": torch.randint(5, (rows,), generator=draw),
    }


def plain(rows_of_scores, rows_of_losses, keep):
    """By hand, of the rows with labels."""
    there = [row for row, loss in enumerate(rows_of_losses) if math.isfinite(loss)]
    columns = [[column[row] for row in there] for column in (rows_of_scores, rows_of_losses)]
    return by_hand(*columns, max(1, round(keep * len(there))))


@pytest.mark.parametrize("score", ["loss", "entropy"])
@pytest.mark.parametrize("model", WORDS)
def test_the_exits_of_a_transformer(build, make_batch, truncated, stack_of, row_scores, model, score):
    """Against models that are cut by hand, with all their logits."""
    full, batch = build(model, dtype="float64"), make_batch(model, rows=9, dtype="float64")
    sift = Sift(full, exit_layer=2, keep=0.3, score=score)
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "next_sentence_label")}

    def column(layer, kind):
        with torch.no_grad():
            logits = truncated(full, stack_of(model), layer)(**inputs).logits
        return row_scores(logits, batch["labels"], kind, causal=model == "gpt2")

    exact = column(4, "loss")
    readings = sift.read(batch, exits=[1, 4, 2])
    assert [reading.exit_layer for reading in readings] == [1, 4, 2]
    for reading, layer in zip(readings, (1, 4, 2), strict=True):
        agrees(reading, plain(column(layer, score), exact, 0.3), rel=1e-6)
    assert sift.read(batch) == read_batch(sift.scorer, batch, exits=[2]) == readings[2:]
    assert readings[0].rows == (9 if model in ("bert-classifier", "vit") else 8)  # one row has no label


@pytest.mark.parametrize("mode", ["train", "eval", "frozen-batchnorm"])
def test_the_exits_of_a_resnet(mode):
    model, batch = resnet(), images()
    for seed in range(3):
        model(images(seed)["pixel_values"])
    sift = Sift(model, exit_layer=1, keep=0.5, scoring_mode=mode)
    readings = sift.read(batch, exits=(1, 2))
    judge = copy.deepcopy(model)
    if mode != "train":
        judge.eval()
    losses = []
    with torch.no_grad():
        for layer in (1, 2):
            logits = judge.early_logits(layer, pixel_values=batch["pixel_values"])
            losses.append(nn.functional.cross_entropy(logits, batch["labels"], reduction="none").double().tolist())
    for reading, scores in zip(readings, losses, strict=True):
        agrees(reading, by_hand(scores, losses[1], 5), rel=1e-4)


def identical_layers(build):
    """A GPT-2 whose layers add nothing to what they are given; its embeddings are dropped out."""
    model = build("gpt2", dropout=0.3)
    for block in model.transformer.h:
        for layer in (block.attn.c_proj, block.mlp.c_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("parts", [None, 3])
def test_identical_layers_keep_the_same_rows_at_every_exit(build, make_batch, parts):
    """Also with dropout, because all passes draw the same masks."""
    sift = Sift(identical_layers(build), exit_layer=1, score_batch_size=parts)
    readings = sift.read(make_batch("gpt2", rows=10), exits=(1, 2, 3, 4))
    for reading in readings:
        assert (reading.overlap, reading.pairwise_agreement, reading.sigma) == (1.0, 1.0, 0.0)
        assert reading.rho_approx == reading.rho > 1
    assert len({str(numbers(reading)) for reading in readings}) == 1


def test_masks_are_drawn_anew_for_every_part(build):
    """Ten equal rows have ten losses: no two of them, in whatever part, have the same mask."""
    batch = {"input_ids": torch.full((10, 6), 7), "labels": torch.full((10, 6), 7)}
    seen = watch_columns(Sift(identical_layers(build), score_batch_size=5), batch)
    assert len(set(seen[1].tolist())) == 10


def watch_columns(sift, batch, **options):
    """(scores, losses) that a reading of the batch is of."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "read", lambda scores, losses, **_: seen.append((scores, losses)))
        sift.read(batch, **options)
    return seen[0]


def test_what_is_read_are_the_scores_that_select(build, make_batch):
    """With dropout: the masks of the reading are those that the step draws for its own scoring pass."""
    batch = make_batch("bert-mlm")
    sift = Sift(build("bert-mlm", dropout=0.3), exit_layer=2, reuse=False)
    seen, _ = watch_columns(sift, batch)
    sift(**batch)
    labelled = sift.last.scores > LEAST
    assert torch.equal(seen, sift.last.scores[labelled])


def test_rows_that_cannot_be_read_are_left_out(make_batch):
    """Without a label, or where a score is not finite: as the run itself may drop them."""

    class TwoExits(nn.Module):
        exit_layers = 2

        def early_logits(self, exit_layer, early, late):
            return early if exit_layer == 1 else late

    def logits(values):
        return torch.tensor([[0.0, value] for value in values], dtype=torch.float64)

    early, late = [1.0, math.nan, 3.0, 2.0, 9.0, 0.5], [2.0, 1.0, 3.0, 5.0, math.inf, 1.0]
    batch = {"early": logits(early), "late": logits(late), "labels": torch.tensor([0, 0, 0, -100, 0, 0])}
    (found,) = Sift(TwoExits(), keep=0.7).read(batch)
    losses = [[math.log1p(math.exp(column[row])) for row in (0, 2, 5)] for column in (early, late)]
    agrees(found, by_hand(*losses, 2))
    (found,) = Sift(TwoExits()).read(batch | {"labels": torch.full((6,), -100)}, step=4)
    assert (found.step, found.exit_layer, found.rows, found.kept) == (4, 1, 0, 0)
    assert all(math.isnan(value) for name, value in numbers(found).items() if name not in ("rows", "kept"))


def test_what_cannot_be_read(build, make_batch):
    model, batch = build("bert-classifier"), make_batch("bert-classifier")
    with pytest.raises(ValueError, match='score = "random" has no scores to compare with exact losses'):
        Sift(model, score="random").read(batch)
    with pytest.raises(ValueError, match=r"exit_layer = 5 must be a whole number in 1\.\.4"):
        Sift(model).read(batch, exits=(1, 5))
    with pytest.raises(ValueError, match="scoring needs `labels`"):
        Sift(model).read({"input_ids": batch["input_ids"]})
    by_size = Sift(Watched(), score=lambda logits, labels: logits[:, 0])
    with pytest.raises(ValueError, match="need classes"):
        by_size.read(vectors(0) | {"labels": torch.rand(10)})


def test_a_causal_model_predicts_nothing_from_the_last_position_and_not_the_first(build, make_batch):
    """A row that is labelled at its first position only has no exact loss."""
    batch = make_batch("gpt2", rows=6)
    batch["labels"][:] = batch["input_ids"]
    batch["labels"][4, 1:] = -100
    (found,) = Sift(build("gpt2")).read(batch)
    assert (found.rows, found.kept) == (5, 2)


class Watched(nn.Module):
    """A classifier with all that a forward pass may change: running statistics, a spectral norm's vectors, dropout."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 12))
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.4)
        self.early, self.last = nn.Linear(12, 5), nn.Linear(12, 5)

    def early_logits(self, exit_layer, x):
        hidden = self.dropout(torch.relu(self.norm(self.first(x))))
        return self.early(hidden) if exit_layer == 1 else self.last(self.dropout(hidden))

    def forward(self, x, labels):
        return nn.functional.cross_entropy(self.early_logits(2, x), labels)


def vectors(seed, rows=10):
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, 6, generator=draw), "labels": torch.randint(5, (rows,), generator=draw)}


@pytest.mark.parametrize("mode", ["train", "eval", "frozen-batchnorm"])
@pytest.mark.parametrize("kind", ["watched", "resnet", "bert-mlm"])
def test_reading_touches_nothing(build, make_batch, kind, mode):
    model = {"watched": Watched, "resnet": resnet}.get(kind, lambda: build("bert-mlm", dropout=0.3))()
    batch = {"watched": lambda: vectors(0), "resnet": images}.get(kind, lambda: make_batch("bert-mlm"))()
    sift = Sift(model, scoring_mode=mode, select=lambda scores, k, rng: torch.randperm(len(scores), generator=rng)[:k])
    sift(**batch)

    def everything():
        tensors = [*model.state_dict().values(), *model.buffers(), torch.get_rng_state(), sift.generator.get_state()]
        modes = [module.training for module in model.modules()]
        rest = (str(sift.totals), sift.calls, sift.last.indices.tolist(), sift.readings, sift.meter_s, modes)
        return [tensor.clone() for tensor in tensors], str(rest), [p.grad for p in model.parameters()]

    before = everything()
    first = sift.read(batch, exits=(1, 2))
    after = everything()
    assert all(torch.equal(one, two) for one, two in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    assert sift.read(batch, exits=(1, 2)) == first


def test_a_reading_that_fails_puts_everything_back():
    model, batch = Watched(), vectors(0)
    before = [value.clone() for value in [*model.state_dict().values(), torch.get_rng_state()]]

    def fails(logits, labels):
        raise KeyError

    with pytest.raises(KeyError):
        Sift(model, score=fails).read(batch)
    after = [*model.state_dict().values(), torch.get_rng_state()]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


# ---- Sift(meter_every=...) ----


def train(model, batches, steps=6, **options):
    """(engine, weights, losses) after some steps of AdamW."""
    torch.manual_seed(11)
    sift = Sift(model, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        output = sift(**batches(step))
        loss = output if isinstance(output, torch.Tensor) else output.loss
        loss.backward()
        losses.append(loss.item())
        if (step + 1) % options.get("accumulation_steps", 1) == 0:
            optimizer.step()
            optimizer.zero_grad()
    return sift, [value.clone() for value in [*model.state_dict().values(), torch.get_rng_state()]], losses


RUNS = {
    "bert-mlm": [{}, {"labelled_head": True}, {"exit_layer": 4, "labelled_head": True}, {"score_batch_size": 3}],
    "gpt2": [{"scoring_mode": "eval"}],
    "resnet": [{}, {"batchnorm": "gross"}, {"accumulation_steps": 2}],
    "watched": [{}, {"exit_layer": 2}, {"score": gsgd_scores.margin}],
}


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(("kind", "options"), [(kind, options) for kind, every in RUNS.items() for options in every])
def test_a_run_with_meters_is_the_run_without(build, make_batch, kind, options, reuse):
    """Weights, buffers and generator to the last bit, with dropout, BatchNorm and a rule that draws."""
    found = []
    for every in (0, 1, 2):
        model = {"watched": Watched, "resnet": resnet}.get(kind, lambda: build(kind, dropout=0.2))()
        batches = {"watched": vectors, "resnet": images}.get(kind, lambda step: make_batch(kind, seed=step))
        rule = {"select": lambda scores, k, rng: torch.randperm(len(scores), generator=rng)[:k]} if reuse else {}
        found.append(train(model, batches, reuse=reuse, meter_every=every, **options, **rule))
    plain, often, rarely = found
    accumulated = options.get("accumulation_steps", 1)
    assert [len(sift.readings) for sift, _, _ in found] == [0, 6 // accumulated, 3 if accumulated == 1 else 2]
    for metered in (often, rarely):
        assert plain[2] == metered[2]
        assert all(torch.equal(one, two) for one, two in zip(plain[1], metered[1], strict=True))
        assert metered[0].totals == plain[0].totals
    assert plain[0].meter_s == 0 < often[0].meter_s


@pytest.mark.gpu
def test_on_a_gpu_draws_are_put_back_and_seconds_are_the_devices():
    found, device = [], torch.device("cuda")
    for every in (0, 1):
        torch.cuda.manual_seed(5)
        sift = Sift(Watched().to(device), meter_every=every)
        losses = []
        for step in range(4):
            losses.append(sift(**{name: value.to(device) for name, value in vectors(step).items()}).item())
        found.append((losses, torch.cuda.get_rng_state(device)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert len(sift.readings) == 4
    assert sift.meter_s > 0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"meter_every": 1}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"meter_every": 4}, [0, 4, 8]),
        ({"meter_every": 100}, [0]),
        ({"meter_every": 4, "start_step": 3, "end_step": 10}, [3, 7]),
        # Steps that do not select are not counted: 0, 1, 3, 4, 6, 7, ...
        ({"meter_every": 4, "interrupt": 3}, [0, 6]),
        ({"meter_every": 4, "interrupt": lambda step: step % 4 == 0}, [1, 6, 11]),
        ({"meter_every": 2, "accumulation_steps": 3}, [0, 2]),
        ({"meter_every": 2, "keep": 1.0}, []),
    ],
)
def test_when_it_is_read(options, steps):
    sift = Sift(Watched(), **options)
    for call in range(12):
        sift(**vectors(call))
    assert [reading.step for reading in sift.readings] == steps
    assert all(isinstance(reading, Reading) and reading.exit_layer == 1 for reading in sift.readings)


def test_nothing_is_read_in_evaluation():
    sift = Sift(Watched(), meter_every=1)
    sift.model.eval()
    sift(**vectors(0))
    assert sift.readings == []


def test_the_reading_is_of_the_steps_own_batch_before_it_is_trained_on():
    model = Watched()
    sift = Sift(model, meter_every=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected = []
    for step in range(4):
        if step in (0, 3):
            expected += sift.read(vectors(step))
        sift(**vectors(step)).backward()
        optimizer.step()
    assert sift.readings == expected


def test_a_resumed_run_reads_at_the_same_steps():
    def go(sift, calls):
        for call in calls:
            sift(**vectors(call))
        return sift

    whole = go(Sift(Watched(), meter_every=3, accumulation_steps=2), range(20))
    first = go(Sift(Watched(), meter_every=3, accumulation_steps=2), range(9))
    second = Sift(Watched(), meter_every=3, accumulation_steps=2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.meter_s == first.meter_s > 0
    go(second, range(9, 20))
    assert [r.step for r in [*first.readings, *second.readings]] == [r.step for r in whole.readings] == [0, 3, 6, 9]
    assert second.meter_s > first.meter_s


def test_the_state_of_an_engine_without_meters_loads():
    sift = Sift(Watched(), meter_every=1)
    sift(**vectors(0))
    state = sift.state_dict()
    del state["meter_s"]
    sift.load_state_dict(state)
    assert sift.meter_s == 0


def test_seconds_are_the_meters_own(monkeypatch):
    """A clock that stands still but for readings, of 100 s, and scoring, of 1 s."""
    now = [0.0]
    monkeypatch.setattr("gsgd.sift.timing.time.perf_counter", lambda: now[0])
    scoring = Scorer.scores

    def slowly(what, seconds):
        def run(*args, **kwargs):
            now[0] += seconds
            return what(*args, **kwargs)

        return run

    monkeypatch.setattr(Scorer, "scores", slowly(scoring, 1))
    monkeypatch.setattr(gross_scores, "columns_of_batch", slowly(lambda *_, **__: [], 100))
    sift = Sift(Watched(), meter_every=2)
    selections = []
    for call in range(3):
        sift(**vectors(call))
        selections.append(sift.last.selection_s)
    assert sift.meter_s == 200
    assert selections == [1, 1, 1]


def test_rows_that_are_dropped_do_not_stop_the_meters(make_batch):
    def broken(logits, labels):
        return torch.where(torch.arange(len(labels)) == 2, torch.nan, logits[:, 0])

    sift = Sift(Watched(), score=broken, on_bad_scores="drop", meter_every=1)
    sift(**vectors(0))
    assert sift.readings[0].rows == 9


@pytest.mark.parametrize("value", [-1, 1.5, True, "2", None])
def test_how_often_is_a_whole_number(value):
    with pytest.raises(ValueError, match=r"meter_every = .* must be a whole number of at least 0"):
        Sift(Watched(), meter_every=value)


def test_random_selection_has_nothing_to_meter():
    with pytest.raises(ValueError, match=r'meter_every = 5, but score = "random" has no early prediction to measure'):
        Sift(Watched(), score="random", meter_every=5)
