"""A cheaper form of the batch: scores against losses of rows that were made cheaper by hand."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import torch.nn.functional as F  # noqa: E402

from gsgd.sift import AveragePooled, CheaperInput, FirstTokens, Sift  # noqa: E402


class Pictures(torch.nn.Module):
    """A convolution and a mean over the picture, whatever its size; one exit."""

    exit_layers = 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 5)

    def early_logits(self, exit_layer, pixel_values):
        return self.head(torch.relu(self.convolution(pixel_values)).mean(dim=(2, 3)))

    def forward(self, pixel_values, labels=None):
        logits = self.early_logits(1, pixel_values)
        return {"loss": None if labels is None else F.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, 3, 9, 8, generator=generator)
    return {"pixel_values": values, "labels": torch.randint(5, (8,), generator=generator)}


def by_loops(values, factor):
    """Means over squares, one at a time."""
    height, width = (side // factor for side in values.shape[2:])
    found = torch.empty(*values.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            square = values[:, :, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            found[:, :, row, column] = square.double().mean(dim=(2, 3)).float()
    return found


@pytest.mark.parametrize("factor", [2, 3])
def test_smaller_pictures_score_and_whole_ones_are_trained_on(factor, pictures):
    net = Pictures()
    with torch.no_grad():
        logits = net(by_loops(pictures["pixel_values"], factor))["logits"]
        expected = F.cross_entropy(logits, pictures["labels"], reduction="none")
    sift = Sift(net, score=CheaperInput(AveragePooled(factor)), exit_layer=1, keep=0.5)
    kept = sift.choose(pictures)
    assert torch.allclose(sift.last.scores, expected, rtol=1e-5)
    rows = sorted(expected.topk(4).indices.tolist())
    assert sift.last.indices.tolist() == rows
    assert torch.equal(kept["pixel_values"], pictures["pixel_values"][rows])
    (reading,) = sift.read(pictures)
    with torch.no_grad():
        exact = F.cross_entropy(net(pictures["pixel_values"])["logits"], pictures["labels"], reduction="none")
    assert reading.overlap == len(set(rows) & set(exact.topk(4).indices.tolist())) / 4


def test_scores_in_parts_are_those_of_the_whole(pictures):
    scores = []
    for size in (None, 3):
        sift = Sift(Pictures(), score=CheaperInput(AveragePooled(2)), exit_layer=1, score_batch_size=size)
        sift.choose(pictures)
        scores.append(sift.last.scores)
    assert torch.allclose(*scores, rtol=1e-6)


def test_fewer_tokens_score(build, make_batch):
    """A causal model on the first 5 of 9 tokens, labels and mask cut with them; of no row all labels are gone."""
    model, batch = build("gpt2"), make_batch("gpt2")
    short = {name: value[:, :5] for name, value in batch.items()}
    expected = []
    with torch.no_grad():
        for row in range(len(batch["labels"])):
            one = {name: value[row : row + 1] for name, value in short.items()}
            expected.append(float(model(**one).loss) if bool((one["labels"][:, 1:] != -100).any()) else None)
    sift = Sift(model, score=CheaperInput(FirstTokens(5)), exit_layer=4, keep=0.5)
    sift.choose(batch)
    for found, wanted in zip(sift.last.scores.tolist(), expected, strict=True):
        assert found == (pytest.approx(wanted, rel=1e-4) if wanted is not None else torch.finfo(torch.float32).min)
    assert None in expected


def test_fewer_bits_score(pictures):
    net = Pictures()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = copy.deepcopy(net)(pictures["pixel_values"])["logits"].float()
    expected = F.cross_entropy(logits, pictures["labels"], reduction="none")
    sift = Sift(net, score=CheaperInput(autocast=torch.bfloat16), exit_layer=1)
    sift.choose(pictures)
    assert torch.allclose(sift.last.scores.float(), expected, rtol=1e-5)
    exact = Sift(net, exit_layer=1)
    exact.choose(pictures)
    assert not torch.allclose(sift.last.scores.float(), exact.last.scores, rtol=1e-4)
    assert torch.allclose(sift.last.scores.float(), exact.last.scores, rtol=0.05)


def test_what_training_cannot_take_over_is_not_captured(pictures):
    sift = Sift(Pictures(), score=CheaperInput(AveragePooled(2)), exit_layer=1, reuse=True)
    sift.choose(pictures)
    assert sift.captured_bytes == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheaperInput(), "form and autocast are both None"),
        (lambda: CheaperInput(2), "form = 2 must be callable"),
        (lambda: CheaperInput(autocast="bf16"), "autocast = 'bf16' must be a torch.dtype of floating point"),
        (lambda: AveragePooled(1), "factor = 1 must be a whole number of at least 2"),
        (lambda: FirstTokens(0), "tokens = 0 must be a whole number of at least 1"),
        (lambda: AveragePooled(2)({"pixel_values": torch.zeros(4, 3, 1, 8)}), r"is \(4, 3, 1, 8\), but to be pooled"),
        (lambda: FirstTokens(2)({"labels": torch.zeros(3)}), "'input_ids' is NoneType, but to be cut"),
        (
            lambda: Sift(Pictures(), score=CheaperInput(AveragePooled(2)), exit_layer=1, batchnorm="gross"),
            "score = CheaperInput must not be",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_form_with_other_rows_is_refused(pictures):
    def fewer(batch):
        return {name: value[:4] for name, value in batch.items()}

    sift = Sift(Pictures(), score=CheaperInput(fewer), exit_layer=1)
    with pytest.raises(ValueError, match=r"CheaperInput returned scores of shape \(4,\), but must return \(8,\)"):
        sift.choose(pictures)
