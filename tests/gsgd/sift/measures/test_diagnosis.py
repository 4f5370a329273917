"""Diagnosis of models whose answer is known, against gradients written out by hand; and what it must not touch."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from gsgd.sift import ClassBalanced, ExitLoss, MeanOfRanks, Sift  # noqa: E402
from gsgd.sift.measures import diagnosis  # noqa: E402
from gsgd.sift.measures.readings import Reading  # noqa: E402
from gsgd.sift.ranks import Ranks  # noqa: E402

FEATURES = 6


class Linear(nn.Module):
    """Logits (0, x . w) of two classes; the early ones are `early` (B, exits - 1).

    The clock turns by 1 a row that is trained on, and by 0.05 a row and layer of the others.
    """

    exit_layers = 3

    def __init__(self, weight, clock=None):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        clock = clock or [0.0]
        # Not as an attribute: scoring puts what a model holds back as it was, and time does not go back.
        self.turn = lambda seconds: clock.__setitem__(0, clock[0] + seconds)

    def logits(self, values):
        return torch.stack([torch.zeros_like(values), values], dim=1)

    def early_logits(self, exit_layer, x, early):
        self.turn(0.05 * exit_layer * len(x))
        return self.logits(x @ self.weight if exit_layer == self.exit_layers else early[:, exit_layer - 1])

    def forward(self, x, early, labels):
        self.turn(len(x))
        return SimpleNamespace(loss=cross_entropy(self.logits(x @ self.weight), labels))


def linear_batch(rng, rows=8, labels=None):
    x = rng.normal(size=(rows, FEATURES))
    labels = rng.integers(2, size=rows) if labels is None else labels
    early = rng.normal(size=(rows, Linear.exit_layers - 1))
    return {"x": torch.tensor(x), "early": torch.tensor(early), "labels": torch.tensor(labels)}


def losses_by_hand(values, labels):
    """log(1 + e^v) of label 0, log(1 + e^-v) of label 1."""
    return np.log1p(np.exp(np.where(labels == 0, values, -values)))


def gradient_by_hand(weight, batch, rows):
    """Mean over rows of (sigmoid(x . w) - y) x."""
    x, labels = batch["x"].numpy()[rows], batch["labels"].numpy()[rows]
    return ((1 / (1 + np.exp(-x @ weight)) - labels)[:, None] * x).mean(axis=0)


def cosine(one, other):
    return one @ other / math.sqrt((one @ one) * (other @ other))


def top(values, k):
    return np.sort(np.argsort(-values, kind="stable")[:k])


@pytest.fixture
def clock(monkeypatch):
    """Time as the model turns it: `Stopwatch` reads it."""
    now = [0.0]

    class Watch:
        def __init__(self, device):
            pass

        def __enter__(self):
            self.begin = now[0]
            return self

        def __exit__(self, *_):
            self.seconds = now[0] - self.begin

    monkeypatch.setattr("gsgd.sift.measures.step_trials.Stopwatch", Watch)
    return now


# ---- CachedOperation answers ----


def test_identical_layers_agree(build, make_batch):
    """Layers that add nothing to their input: all exits see the same, through the same dropout masks."""
    model = build("gpt2", dropout=0.1)
    for layer in model.transformer.h:
        for projection in (layer.attn.c_proj, layer.mlp.c_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
    found = Sift(model, keep=0.5).diagnose([make_batch("gpt2", seed=seed) for seed in range(4)], draws=1)
    assert [each.exit_layer for each in found.exits] == [1, 2, 3, 4]
    for each in found.exits:
        assert (each.means["overlap"], each.overlap_half_width) == (1.0, 0.0)
        assert each.means["sigma"] == 0.0
        assert each.means["rho_approx"] == each.means["rho"] > 1
    assert (found.cheapest, found.batches, found.pairs) == (1, 4, 2)


def test_random_layers_agree_by_half():
    """Early scores that know nothing: the overlap of two halves of 64 rows is 1/2 on average.

    The mean of 20 hypergeometric shares lies 0.1 or more away with probability below 2 exp(-2 20 32 0.1^2) = 6e-6
    (Hoeffding 1963, who covers drawing without replacement).
    """
    rng = np.random.default_rng(0)
    sift = Sift(Linear(rng.normal(size=FEATURES)), keep=0.5)
    found = sift.diagnose([linear_batch(rng, rows=64) for _ in range(20)], draws=1)
    for each in found.exits[:2]:
        assert each.means["overlap"] == pytest.approx(0.5, abs=0.1)
        assert abs(each.means["rank_correlation"]) < 0.15
    assert found.exits[2].means["overlap"] == 1.0
    assert found.cheapest is None


def test_means_and_half_widths():
    rng = np.random.default_rng(1)
    sift = Sift(Linear(rng.normal(size=FEATURES)), keep=0.25)
    batches = [linear_batch(rng) for _ in range(5)]  # the fifth has no pair, and is read
    found = sift.diagnose(batches, exits=[2, 1, 2], level=0.3)
    assert [each.exit_layer for each in found.exits] == [1, 2]
    assert (found.batches, found.pairs) == (5, 2)
    for place, each in enumerate(found.exits):
        readings = [sift.read(batch, exits=[1, 2])[place] for batch in batches]
        assert each.readings == tuple(readings)
        assert set(each.means) == {field.name for field in dataclasses.fields(Reading)} - {"step", "exit_layer"}
        overlaps = np.array([reading.overlap for reading in readings])
        assert each.means["overlap"] == pytest.approx(overlaps.mean())
        # t(0.975, 4) = 2.776 (tables).
        assert each.overlap_half_width == pytest.approx(2.776 * np.std(overlaps, ddof=1) / math.sqrt(5), rel=1e-3)
    holds = [each.exit_layer for each in found.exits if each.means["overlap"] >= 0.3]
    assert found.cheapest == min(holds, default=None)


@pytest.mark.parametrize("rule", ["top-k", "of one's own"])
@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_alignment_by_hand(rule, keep):
    """In each pair by the gradient of the first batch, all its rows."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=FEATURES)
    batches = [linear_batch(rng) for _ in range(6)]
    easiest = {"select": lambda scores, k, generator: torch.argsort(scores)[:k]} if rule != "top-k" else {}
    found = Sift(Linear(weight), keep=keep, **easiest).diagnose(batches)
    k = round(8 * keep)
    aligned = {layer: [] for layer in (1, 2, 3)}
    for other, batch in ((batches[0], batches[1]), (batches[2], batches[3]), (batches[4], batches[5])):
        target = gradient_by_hand(weight, other, np.arange(8))
        labels, early = batch["labels"].numpy(), batch["early"].numpy()
        for layer in (1, 2, 3):
            values = batch["x"].numpy() @ weight if layer == 3 else early[:, layer - 1]
            losses = losses_by_hand(values, labels)
            kept = top(losses if rule == "top-k" else -losses, k)
            aligned[layer].append(cosine(gradient_by_hand(weight, batch, kept), target))
    for each in found.exits:
        assert each.alignment == pytest.approx(np.mean(aligned[each.exit_layer]), rel=1e-6)
        assert each.gain == pytest.approx(each.alignment / each.random_alignment)
        assert each.gain_low < each.gain < each.gain_high


def test_random_alignment_by_hand():
    """One of two rows: two disjoint draws are both of them, whatever the draw."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=FEATURES)
    batches = [linear_batch(rng, rows=2) for _ in range(4)]
    found = Sift(Linear(weight), keep=0.5).diagnose(batches, draws=2)
    expected = [
        cosine(gradient_by_hand(weight, batch, [row]), gradient_by_hand(weight, other, [0, 1]))
        for other, batch in ((batches[0], batches[1]), (batches[2], batches[3]))
        for row in (0, 1)
    ]
    assert [each.random_alignment for each in found.exits] == pytest.approx([np.mean(expected)] * 3, rel=1e-6)


def test_draws_are_sets_of_as_many_rows_as_are_kept(monkeypatch):
    """Of 7 rows, 2 at a time: three disjoint sets from each permutation."""
    rng = np.random.default_rng(0)
    batches = [linear_batch(rng, rows=7) for _ in range(2)]
    rows = []
    sift = Sift(Linear(rng.normal(size=FEATURES)), keep=0.3)
    sift.scorer.convention(batches[0])  # takes a pass
    forward = Linear.forward
    monkeypatch.setattr(
        Linear, "forward", lambda self, x, early, labels: rows.append(x) or forward(self, x, early, labels)
    )
    sift.diagnose(batches, draws=4, exits=[3])
    # The pair is gone through twice, to warm up. Each time the first batch in 3 sets, and of the second 4 sets that are
    # drawn and one that is selected.
    assert [len(each) for each in rows] == [2] * 16
    for batch, taken in ((batches[0]["x"], rows[:3]), (batches[1]["x"], rows[3:7])):
        places = [[int((batch == row).all(dim=1).nonzero()) for row in each] for each in taken]
        assert len({place for each in places[:3] for place in each}) == 6
        assert all(one < other for one, other in places)


def signal_and_noise(signal, rng):
    """16 rows, eight of them hard, eight easy; those of `signal` share a direction, the others have each their own."""
    hard = np.arange(16) % 2 == 0
    x = np.zeros((16, 41))
    x[:, 0] = np.where(hard, 0.1, -0.1)  # with weight 1 and label 0 the margin is -0.1 or 0.1
    common = hard == (signal == "hard")
    x[common, 1] = 1.0
    noise = rng.normal(size=(16, 39))
    x[~common, 2:] = (4 * noise / np.linalg.norm(noise, axis=1, keepdims=True))[~common]
    early = np.stack([x[:, 0], -x[:, 0]], axis=1)  # exit 1 knows the hard rows, exit 2 takes the easy ones for hard
    return {"x": torch.tensor(x), "early": torch.tensor(early), "labels": torch.zeros(16, dtype=torch.int64)}


@pytest.mark.parametrize("signal", ["hard", "easy"])
def test_the_verdict(clock, signal):
    rng = np.random.default_rng(5)
    weight = np.zeros(41)
    weight[0] = 1.0
    batches = [signal_and_noise(signal, rng) for _ in range(24)]
    found = Sift(Linear(weight, clock), keep=0.5).diagnose(batches)
    first, second, last = found.exits
    # A pass to exit j takes 0.1 j of the time of a training pass.
    for layer, each in enumerate(found.exits, start=1):
        assert (each.cost, each.cost_low, each.cost_high) == (pytest.approx(0.1 * layer),) * 3
        assert each.break_even == pytest.approx(1 + 0.1 * layer)
        assert each.worth == pytest.approx(each.gain / (1 + 0.1 * layer))
    assert found.plain_s == pytest.approx(8.0)
    assert (first.means["overlap"], second.means["overlap"], last.means["overlap"]) == (1.0, 0.0, 1.0)
    assert found.cheapest == 1
    good, bad = (first, second) if signal == "hard" else (second, first)
    assert good.worth_low > 1.2
    assert bad.worth_high < 0.8
    assert found.verdict == "pays"
    assert found.recommended == good.exit_layer
    assert f"at exit {good.exit_layer} is expected to pay" in found.reason
    # Without the exit that is right, the exits that are left do not pay.
    others = Sift(Linear(weight, clock), keep=0.5).diagnose(batches, exits=[1, 3] if signal == "easy" else [2])
    assert (others.verdict, others.recommended) == ("does not pay", None)
    assert "is not expected to pay" in others.reason
    # One pair says nothing about others.
    few = Sift(Linear(weight, clock), keep=0.5).diagnose(batches[:2])
    assert (few.verdict, few.recommended) == ("undecided", None)
    assert math.isinf(few.exits[0].gain_high)
    assert "Not decided by these batches" in few.reason
    assert "(unknown)" in few.reason
    # Nor that it does not pay, even where it looks so.
    few = Sift(Linear(weight, clock), keep=0.5).diagnose(batches[:2], exits=[bad.exit_layer])
    assert few.exits[0].worth < 1
    assert (few.verdict, few.recommended) == ("undecided", None)


def test_a_gain_that_the_cost_eats_up(clock):
    """The best exit's gain is above 1, and its worth below."""
    rng = np.random.default_rng(5)
    weight = np.zeros(41)
    weight[0] = 1.0
    model = Linear(weight, clock)
    model.early_logits = lambda exit_layer, **inputs: (
        clock.__setitem__(0, clock[0] + 40.0) or Linear.early_logits(model, exit_layer, **inputs)
    )
    found = Sift(model, keep=0.5).diagnose([signal_and_noise("hard", rng) for _ in range(24)])
    assert found.exits[0].gain_low > 1.2
    assert found.exits[0].cost == pytest.approx(5.1)
    assert found.verdict == "does not pay"


def test_the_cost_is_a_median_over_pairs(clock):
    """One pair in three is slow: it is within the interval, and not the median."""
    slow = iter([0.0, 0.0, 0.0, 12.0])  # the first of them warms up
    rng = np.random.default_rng(5)
    model = Linear(rng.normal(size=FEATURES), clock)

    def early_logits(exit_layer, **inputs):
        if clock[0] and not torch.is_grad_enabled() and selecting[0]:
            clock[0] += next(slow)
        return Linear.early_logits(model, exit_layer, **inputs)

    selecting = [False]
    choose = Sift.choose

    def chosen(self, batch):
        selecting[0] = True
        try:
            return choose(self, batch)
        finally:
            selecting[0] = False

    model.early_logits = early_logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sift, "choose", chosen)
        (found,) = Sift(model, keep=0.5).diagnose([linear_batch(rng) for _ in range(6)], exits=[1]).exits
    assert (found.cost, found.cost_low, found.cost_high) == pytest.approx((0.1, 0.1, 3.1))


@pytest.mark.parametrize(
    ("gain", "worth"),
    [
        ((0.6, 1.5), (0.4, 1.25)),
        ((-0.6, 1.5), (-0.5, 1.25)),
        ((-0.6, -0.3), (-0.5, -0.2)),
        ((0.6, math.inf), (0.4, math.inf)),
    ],
)
def test_the_worth_of_the_ends(gain, worth):
    """At costs between 0.2 and 0.5: the extremes over both."""
    (some,) = (
        Sift(Linear([1.0] * FEATURES), keep=0.5)
        .diagnose([linear_batch(np.random.default_rng(seed)) for seed in range(2)], exits=[1])
        .exits
    )
    each = dataclasses.replace(some, cost=0.3, cost_low=0.2, cost_high=0.5, gain_low=gain[0], gain_high=gain[1])
    assert (each.worth_low, each.worth_high) == pytest.approx(worth)


def test_the_cost_is_a_share_of_the_pairs_own_plain_step(clock):
    """Batches of 8, 16 and 32 rows: other times, and the same shares."""
    rng = np.random.default_rng(5)
    batches = [linear_batch(rng, rows=rows) for rows in (8, 8, 16, 16, 32, 32)]
    for each in Sift(Linear(rng.normal(size=FEATURES), clock), keep=0.5).diagnose(batches).exits:
        assert (each.cost, each.cost_low, each.cost_high) == pytest.approx((0.1 * each.exit_layer,) * 3)


def test_steps_that_lead_nowhere():
    """Batches of a pair that pull in opposite directions: not even random rows help."""
    rng = np.random.default_rng(6)
    batches = [linear_batch(rng, labels=np.zeros(8, dtype=np.int64)) for _ in range(4)]
    for number, batch in enumerate(batches):
        batch["x"] = batch["x"].abs() * (1 if number % 2 else -1)
    found = Sift(Linear(np.zeros(FEATURES)), keep=0.5).diagnose(batches)
    assert all(math.isnan(each.gain) and math.isnan(each.worth) for each in found.exits)
    assert found.exits[0].random_alignment < 0
    assert found.verdict == "undecided"
    assert "not even a step on random rows" in found.reason


def test_intervals_are_of_all_exits_at_once():
    """The same numbers with more exits beside them: a wider interval (Bonferroni)."""
    rng = np.random.default_rng(7)
    batches = [linear_batch(rng, rows=32) for _ in range(8)]
    batches = [{**batch, "labels": (batch["x"][:, 0] > 0).long()} for batch in batches]
    sift = Sift(Linear(np.zeros(FEATURES)), keep=0.5)
    (alone,) = sift.diagnose(batches, exits=[3]).exits
    *_, among = sift.diagnose(batches).exits
    assert among.gain == pytest.approx(alone.gain)
    assert among.gain_low < alone.gain_low < alone.gain_high < among.gain_high


def test_the_table():
    rng = np.random.default_rng(8)
    found = Sift(Linear(rng.normal(size=FEATURES)), keep=0.5).diagnose([linear_batch(rng) for _ in range(4)])
    head, *rows, reason = str(found).splitlines()
    assert head.split()[:3] == ["exit", "overlap", "sigma"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert f"{found.exits[0].means['overlap']:.3f} ± " in rows[0]
    assert diagnosis._range(0.5, 1.25) == "0.50 to 1.25"
    assert diagnosis._range(0.5, math.inf) == "0.50 or more"
    assert diagnosis._range(-math.inf, 1.25) == "at most 1.25"
    assert reason == found.reason


def test_progress_and_seed():
    rng = np.random.default_rng(9)
    batches = [linear_batch(rng) for _ in range(6)]
    sift = Sift(Linear(rng.normal(size=FEATURES)), keep=0.25)
    seen = []
    found = [
        sift.diagnose(batches, seed=seed, draws=1, progress=lambda *done: seen.append(done)).exits[0]
        for seed in (0, 0, 1)
    ]
    assert seen[:3] == [(1, 3), (2, 3), (3, 3)]
    assert found[0].random_alignment == found[1].random_alignment != found[2].random_alignment


# ---- What it leaves alone ----


def state_of(sift):
    """All that training depends on, by value."""
    model = sift.model
    return copy.deepcopy(
        {
            "weights": list(model.state_dict().values()),
            "gradients": [parameter.grad for parameter in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "generator": torch.get_rng_state(),
            "engine": [sift.state_dict(), sift.exit_layer, str(sift.readings), id(sift.last)],
        }
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("mode", ["train", "eval", "a part in eval"])
@pytest.mark.parametrize("gradients", [True, False])
def test_nothing_is_touched(build, make_batch, mode, gradients):
    """A model with dropout, a buffer that moves, gradients and an engine in mid-training."""
    model = build("bert-classifier", dropout=0.2)
    model.classifier = nn.Sequential(nn.BatchNorm1d(32), model.classifier)
    sift = Sift(model, exit_layer=1, keep=0.5, batchnorm="kept", start_step=1, meter_every=1)
    for seed in range(2):
        sift(**make_batch("bert-classifier", seed=seed)).loss.backward()
    if mode == "eval":
        model.eval()
    elif mode == "a part in eval":
        model.bert.eval()
    before = state_of(sift)
    with torch.set_grad_enabled(gradients):
        found = sift.diagnose([make_batch("bert-classifier", seed=seed) for seed in range(4)], draws=1)
        assert torch.is_grad_enabled() == gradients
    assert same(state_of(sift), before)
    assert all(0 < abs(each.alignment) <= 1 for each in found.exits)


def test_training_goes_on_as_without(build, make_batch):
    """Between selecting and training on the rows, and after a step: weights are bit for bit the same."""

    def train(diagnosed):
        model = build("bert-classifier", dropout=0.2)
        sift = Sift(model, exit_layer=2, keep=0.5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        torch.manual_seed(3)
        shared = []
        for seed in range(3):
            rows = sift.choose(make_batch("bert-classifier", seed=seed))
            if diagnosed:
                sift.diagnose([make_batch("bert-classifier", seed=seed) for seed in range(2)], draws=1)
            shared.append(sift.captured_bytes)
            sift.forward_kept(rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.detach() for parameter in model.parameters()], shared

    (plain, shared), (watched, still_shared) = train(False), train(True)
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    assert shared == still_shared
    assert min(shared) > 0


def test_no_hook_of_the_weights_runs():
    """Loops that step within the backward pass hook the accumulation of gradients."""
    rng = np.random.default_rng(0)
    model = Linear(rng.normal(size=FEATURES))
    model.weight.register_post_accumulate_grad_hook(lambda parameter: pytest.fail("a gradient was accumulated"))
    Sift(model, keep=0.5).diagnose([linear_batch(rng) for _ in range(2)])
    assert model.weight.grad is None


def test_an_engine_whose_exit_moves():
    rng = np.random.default_rng(0)
    sift = Sift(Linear(rng.normal(size=FEATURES)), exit_layer="auto", keep=0.5, meter_every=1)
    before = state_of(sift)
    found = sift.diagnose([linear_batch(rng) for _ in range(2)])
    assert len(found.exits) == 3
    assert same(state_of(sift), before)


# ---- What cannot be diagnosed ----


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"score": "random"}, {}, 'score = "random" scores nothing'),
        ({"score": ClassBalanced()}, {}, "score = ClassBalanced scores nothing"),
        ({"score": MeanOfRanks(ExitLoss(), ExitLoss())}, {}, "but score = MeanOfRanks takes one further"),
        ({"keep": 1.0}, {}, r"keep = 1 keeps all 8 rows of batches\[0\]: there is nothing to select"),
        ({}, {"batches": 1}, "batches has 1, but must have at least 2"),
        ({}, {"draws": 0}, "draws = 0 must be a whole number of at least 1"),
        ({}, {"level": 1.5}, r"level = 1.5 must lie in \[0, 1\]"),
        ({}, {"exits": [4]}, r"exit_layer = 4 must be a whole number in 1..3"),
        ({}, {"exits": []}, r"exits = \[\] must have at least one of 1..3"),
    ],
)
def test_bad_arguments(options, arguments, message):
    rng = np.random.default_rng(0)
    batches = [linear_batch(rng) for _ in range(arguments.pop("batches", 2))]
    with pytest.raises(ValueError, match=message):
        Sift(Linear(rng.normal(size=FEATURES)), **{"keep": 0.5, **options}).diagnose(batches, **arguments)


def test_several_ranks_are_refused(monkeypatch):
    rng = np.random.default_rng(0)
    sift = Sift(Linear(rng.normal(size=FEATURES)), keep=0.5)
    monkeypatch.setattr(diagnosis.Ranks, "here", lambda scope: Ranks(0, 2, False))
    with pytest.raises(ValueError, match="diagnose runs on a single process, without FSDP"):
        sift.diagnose([linear_batch(rng) for _ in range(2)])


def test_a_model_without_loss_or_weights_is_refused():
    rng = np.random.default_rng(0)
    batches = [linear_batch(rng) for _ in range(2)]
    model = Linear(rng.normal(size=FEATURES))
    model.forward = lambda **inputs: model.early_logits(3, inputs["x"], inputs["early"])
    with pytest.raises(ValueError, match="Linear returned no loss"):
        Sift(model, keep=0.5).diagnose(batches)
    frozen = Linear(rng.normal(size=FEATURES)).requires_grad_(False)
    with pytest.raises(ValueError, match="Linear has no weights that train"):
        Sift(frozen, keep=0.5).diagnose(batches)
