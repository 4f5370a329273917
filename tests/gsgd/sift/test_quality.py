"""Selection quality: overlap with the exact top rows, and the rank correlation, against counting."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import BertConfig, BertForSequenceClassification  # noqa: E402

from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.quality import selection_quality  # noqa: E402


class TwoExits(torch.nn.Module):
    """Its logits are the inputs: `early` and `late` (B, C)."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def early_logits(self, exit_layer, early, late):
        return self.weight * (early if exit_layer == 1 else late)


def batch_with_losses(early, late):
    """Rows whose cross-entropies grow with the given numbers: logits (0, v) lose log(1 + e^v) on label 0."""

    def logits(values):
        return torch.tensor([[0.0, value] for value in values])

    return {"early": logits(early), "late": logits(late), "labels": torch.zeros(len(early), dtype=torch.int64)}


def spearman(one, two):
    """1 - 6 sum d^2 / (n (n^2 - 1)), without ties."""
    rank = [sorted(values).index for values in (one, two)]
    n = len(one)
    return 1 - 6 * sum((rank[0](a) - rank[1](b)) ** 2 for a, b in zip(one, two, strict=True)) / (n * (n**2 - 1))


@pytest.mark.parametrize(
    ("early", "late", "keep", "overlap"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.5, 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], 0.5, 0.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], 0.75, 2 / 3),
        # The two largest: rows 2, 3 and rows 1, 3.
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.5, 0.5),
        # round(.4 * 6) = 2: rows 0, 5 and rows 4, 5.
        ([5, 0, 1, 2, 3, 6], [0, 1, 2, 3, 5, 6], 0.4, 0.5),
        # max(1, round(.1 * 4)) = 1.
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.1, 0.0),
    ],
)
def test_by_hand(early, late, keep, overlap):
    sift = Sift(TwoExits(), exit_layer=1, keep=keep)
    found = selection_quality(sift, batch_with_losses(early, late))
    assert found == (pytest.approx(overlap), pytest.approx(spearman(early, late)))


def test_the_scores_are_the_engines_and_the_judge_is_the_exact_loss():
    """Entropy of (0, v) falls with |v|, while the loss rises with v: the opposite order on positive v."""
    sift = Sift(TwoExits(), exit_layer=1, keep=0.5, score="entropy")
    assert selection_quality(sift, batch_with_losses([1, 2, 3, 4], [1, 2, 3, 4])) == (0.0, pytest.approx(-1))
    assert selection_quality(sift, batch_with_losses([4, 3, 2, 1], [1, 2, 3, 4])) == (1.0, pytest.approx(1))


def test_constant_scores_have_no_rank_correlation():
    overlap, correlation = selection_quality(Sift(TwoExits()), batch_with_losses([1, 1, 1, 1], [4, 3, 2, 1]))
    assert overlap == 1.0  # ties go to the first rows, which are the exact top half here
    assert math.isnan(correlation)


def test_random_has_no_scores():
    with pytest.raises(ValueError, match='score = "random" has no scores to compare with exact losses'):
        selection_quality(Sift(TwoExits(), score="random"), batch_with_losses([1, 2], [1, 2]))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_transformer(mode):
    """The loss of the head on layer 1 and of the full model, and nothing of either changes."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=4,
            hidden_dropout_prob=0.0 if mode == "train" else 0.5,
            attention_probs_dropout_prob=0.0 if mode == "train" else 0.5,
            classifier_dropout=0.0 if mode == "train" else 0.5,
            initializer_range=0.5,
        )
    ).train()
    batch = {"input_ids": torch.randint(50, (12, 8)), "labels": torch.randint(4, (12,))}
    sift = Sift(model, exit_layer=1, keep=0.25, scoring_mode=mode)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    totals, generator = str(sift.totals), sift.generator.get_state()
    found = selection_quality(sift, batch)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (str(sift.totals), sift.calls, sift.last) == (totals, 0, None)
    assert torch.equal(sift.generator.get_state(), generator)
    with torch.no_grad():
        model.eval()
        hidden = model.bert(batch["input_ids"], output_hidden_states=True).hidden_states
        losses = [
            torch.nn.functional.cross_entropy(
                model.classifier(model.bert.pooler(layer)), batch["labels"], reduction="none"
            ).tolist()
            for layer in (hidden[1], hidden[3])
        ]
    top = [set(sorted(range(12), key=lambda row: -values[row])[:3]) for values in losses]
    assert found == (pytest.approx(len(top[0] & top[1]) / 3), pytest.approx(spearman(*losses), abs=1e-9))
