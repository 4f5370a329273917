"""A loss, one value a row, against loops that call the same loss on each row alone."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from gsgd import scores  # noqa: E402
from gsgd.sift.scoring_pass.row_losses import IGNORED, NoRowLoss, RowLosses  # noqa: E402

B, T, C = 5, 7, 6


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def classes(*shape, of=C, ignored=0.0, index=IGNORED):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(of, shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < ignored
    if labels.dim() > 1:
        hidden[:, ..., 0] = False  # something counts in every row
    return torch.where(hidden, index, labels)


def by_rows(loss, *tensors, rows=B, **options):
    with RowLosses(rows, **options) as losses:
        found = loss(*tensors)
    return found, losses


def alone(loss, *tensors):
    return torch.stack([loss(*(tensor[[row]] for tensor in tensors)) for row in range(len(tensors[0]))])


def flat(loss):
    """Called as language models do: (B, T, C) and (B, T) laid out in one line."""
    return lambda logits, labels: loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def behind(loss):
    """Called with the classes as second axis."""
    return lambda logits, labels: loss(logits.movedim(-1, 1), labels)


WEIGHT = torch.linspace(0.5, 2.0, C, dtype=torch.float64)
ARGUMENTS = [
    {},
    {"reduction": "sum"},
    {"weight": WEIGHT},
    {"weight": WEIGHT, "reduction": "sum"},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.2, "weight": WEIGHT},
    {"ignore_index": 0},
    {"ignore_index": 255},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("shape", ["(B, C)", "(B T, C)", "(B, C, T)", "(B, C, H, W)"])
def test_cross_entropy(shape, arguments):
    index = arguments.get("ignore_index", IGNORED)
    call, places = {
        "(B, C)": (lambda loss: loss, ()),
        "(B T, C)": (flat, (T,)),
        "(B, C, T)": (behind, (T,)),
        "(B, C, H, W)": (behind, (3, 4)),
    }[shape]
    loss = call(lambda logits, labels: F.cross_entropy(logits, labels, **arguments))
    logits, labels = draw(B, *places, C), classes(B, *places, ignored=0.4 if places else 0.0, index=index)
    if index == 0 and not places:
        labels = labels.clamp(min=1)
    found, losses = by_rows(loss, logits, labels)
    torch.testing.assert_close(found, alone(loss, logits, labels), rtol=1e-9, atol=1e-12)
    assert len(set(found.tolist())) == B
    (made,) = losses.calls
    assert (made.name, made.ignore_index) == ("cross_entropy", index)
    assert made.plain == (not {"weight", "label_smoothing"} & set(arguments))
    assert torch.equal(made.targets, labels.reshape(B, -1))
    assert losses.labelled.tolist() == [True] * B


@pytest.mark.parametrize("places", [(), (T,)])
def test_probabilities_as_targets(places):
    loss = behind(F.cross_entropy) if places else F.cross_entropy
    targets = draw(B, *places, C).softmax(-1)
    wanted = (lambda z, y: F.cross_entropy(z.movedim(-1, 1), y.movedim(-1, 1))) if places else loss
    logits = draw(B, *places, C) * 2
    found, losses = by_rows(wanted, logits, targets)
    torch.testing.assert_close(found, alone(wanted, logits, targets), rtol=1e-9, atol=1e-12)
    assert losses.calls[0].targets is None
    assert not losses.calls[0].plain


def test_rows_without_labels_are_told_apart():
    """Their own loss is the mean of nothing, NaN; here they have 0, and are not `labelled`."""
    labels = classes(B, T)
    labels[[1, 3]] = IGNORED
    found, losses = by_rows(flat(F.cross_entropy), draw(B, T, C), labels)
    assert losses.labelled.tolist() == [True, False, True, False, True]
    assert found[[1, 3]].tolist() == [0.0, 0.0]
    assert (found[[0, 2, 4]] > 0).all()


def test_no_label_at_all():
    found, losses = by_rows(flat(F.cross_entropy), draw(B, T, C), torch.full((B, T), IGNORED))
    assert found.tolist() == [0.0] * B
    assert not losses.labelled.any()


def test_a_shift_in_the_model_shows_in_the_targets():
    """Twice: as Llama shifts (labels moved, the last position ignored), and by cutting."""
    logits, labels = draw(B, T, C), classes(B, T)
    moved = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    found, losses = by_rows(flat(F.cross_entropy), logits, moved)
    cut, others = by_rows(lambda z, y: flat(F.cross_entropy)(z[:, :-1], y[:, 1:]), logits, labels)
    torch.testing.assert_close(found, cut)
    assert torch.equal(losses.calls[0].targets, moved)
    assert torch.equal(others.calls[0].targets, labels[:, 1:])


def test_negative_log_likelihood_is_the_cross_entropy_of_log_probabilities():
    for arguments in ({}, {"weight": WEIGHT}, {"reduction": "sum"}, {"ignore_index": 3}):
        loss = flat(lambda z, y, arguments=arguments: F.nll_loss(z.log_softmax(-1), y, **arguments))
        logits, labels = draw(B, T, C), classes(B, T, ignored=0.3, index=arguments.get("ignore_index", IGNORED))
        found, _ = by_rows(loss, logits, labels)
        torch.testing.assert_close(found, alone(loss, logits, labels), rtol=1e-9, atol=1e-12)


BINARY = (draw(B, C) > 0).double()
PAIRS = [
    (F.mse_loss, {}),
    (F.mse_loss, {"reduction": "sum"}),
    (F.l1_loss, {}),
    (F.smooth_l1_loss, {"beta": 0.5}),
    (F.huber_loss, {"delta": 0.7}),
    (F.binary_cross_entropy_with_logits, {}),
    (F.binary_cross_entropy_with_logits, {"reduction": "sum", "pos_weight": WEIGHT}),
    (F.binary_cross_entropy_with_logits, {"weight": WEIGHT}),
    (lambda x, y: F.binary_cross_entropy(x.sigmoid(), y), {}),
    (lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1)), {}),
    (lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"), {}),
    (lambda x, y: F.kl_div(x.log_softmax(-1), y.log_softmax(-1), reduction="sum", log_target=True), {}),
    (nn.MSELoss(), {}),
    (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), {}),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
@pytest.mark.parametrize(("loss", "arguments"), PAIRS)
def test_losses_of_numbers(loss, arguments):
    call = lambda x, y: loss(x, y, **arguments)  # noqa: E731
    found, _ = by_rows(call, draw(B, C), BINARY)
    torch.testing.assert_close(found, alone(call, draw(B, C), BINARY), rtol=1e-9, atol=1e-12)
    assert len(set(found.tolist())) == B


def test_one_number_a_row():
    found, _ = by_rows(F.mse_loss, draw(B), draw(B, 1).squeeze(1))
    torch.testing.assert_close(found, (draw(B) - draw(B, 1).squeeze(1)) ** 2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_connectionist_temporal_classification(reduction, zero_infinity):
    frames, letters = 12, 5
    targets = classes(B, letters, of=C - 1) + 1
    frame_counts, letter_counts = torch.tensor([12, 9, 12, 7, 10]), torch.tensor([5, 4, 3, 2, 1])
    if zero_infinity:
        frame_counts[3] = 1  # fewer frames than letters: no alignment

    def loss(logits, targets, frame_counts, letter_counts):
        return F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), targets, frame_counts, letter_counts,
            reduction=reduction, zero_infinity=zero_infinity,
        )  # fmt: skip

    tensors = draw(B, frames, C), targets, frame_counts, letter_counts
    found, losses = by_rows(loss, *tensors)
    torch.testing.assert_close(found, alone(loss, *tensors), rtol=1e-9, atol=1e-12)
    assert (found == 0).tolist() == [False, False, False, zero_infinity, False]
    assert losses.calls[0].name == "ctc_loss"


def test_ctc_with_targets_in_one_line():
    """As Wav2Vec2 gives them: the labels that count, of all rows end to end."""
    lengths, letters = torch.tensor([3, 1, 4, 2, 2]), [classes(n) % (C - 1) + 1 for n in (3, 1, 4, 2, 2)]
    logits, frames = draw(B, 12, C).log_softmax(-1), torch.full((B,), 12)
    found, _ = by_rows(lambda: F.ctc_loss(logits.transpose(0, 1), torch.cat(letters), frames, lengths))
    wanted = [
        F.ctc_loss(logits[[row]].transpose(0, 1), letters[row], frames[[row]], lengths[[row]]) for row in range(B)
    ]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_what_a_model_does_with_its_losses_is_done_row_by_row():
    """Question answering: the mean of two; a sum with a factor."""
    starts, ends, logits = classes(B), classes(B).flip(0), draw(B, C, 2)

    def loss(logits, starts, ends):
        return (F.cross_entropy(logits[..., 0], starts) + 3 * F.cross_entropy(logits[..., 1], ends)) / 2

    found, losses = by_rows(loss, logits, starts, ends)
    torch.testing.assert_close(found, alone(loss, logits, starts, ends), rtol=1e-9, atol=1e-12)
    assert len(losses.calls) == 2


@pytest.mark.parametrize("score", [scores.entropy, scores.margin, scores.gradient_norm_bound])
def test_other_scores_of_the_same_predictions(score):
    logits, labels = draw(B, T, C), classes(B, T, ignored=0.4)
    found, _ = by_rows(flat(F.cross_entropy), logits, labels, score=score)
    torch.testing.assert_close(found, score(logits, labels), rtol=1e-9, atol=1e-12)


def test_entropy_of_several_labels_at_once():
    """Of C independent predictions, each yes or no: the mean of their entropies."""
    logits = draw(B, C)
    found, _ = by_rows(F.binary_cross_entropy_with_logits, logits, BINARY, score=scores.entropy)
    expected = torch.distributions.Bernoulli(logits=logits).entropy().mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_labelled_positions_alone():
    """The model was given N of the B x T positions, as one row; their rows are told."""
    logits, labels = draw(B, T, C), classes(B, T, ignored=0.6)
    labels[2] = IGNORED
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    chosen = labels[rows, columns].unsqueeze(0)
    for loss in (flat(F.cross_entropy), flat(lambda z, y: F.cross_entropy(z, y, weight=WEIGHT, reduction="sum"))):
        whole, all_rows = by_rows(loss, logits, labels)
        found, losses = by_rows(loss, logits[rows, columns].unsqueeze(0), chosen, labels=chosen, label_rows=rows)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
        assert torch.equal(losses.labelled, all_rows.labelled)


def test_half_precision_is_computed_in_float32():
    logits, labels = draw(B, C).bfloat16(), classes(B)
    found, _ = by_rows(F.cross_entropy, logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(logits.float(), labels, reduction="none"))


def test_many_predictions_are_scored_in_parts(monkeypatch):
    logits, labels = draw(B, T, C), classes(B, T, ignored=0.3)
    whole, _ = by_rows(flat(F.cross_entropy), logits, labels)
    monkeypatch.setattr("gsgd.sift.scoring_pass.row_losses.SCORED_AT_ONCE", 4 * C)
    for arguments in ({}, {"label_smoothing": 0.0}, {"weight": torch.ones(C, dtype=torch.float64)}):
        found, _ = by_rows(flat(lambda z, y, a=arguments: F.cross_entropy(z, y, **a)), logits, labels)
        torch.testing.assert_close(found, whole)


def test_outside_the_block_losses_are_torchs():
    by_rows(F.cross_entropy, draw(B, C), classes(B))
    assert F.cross_entropy(draw(B, C), classes(B)).dim() == 0


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (lambda: F.cross_entropy(draw(B + 1, C), classes(B + 1)), {}, "has 6 predictions for 5 rows, not as many for"),
        (lambda: F.mse_loss(draw(B + 2), draw(B + 2)), {}, "its loss has 7 predictions for 5 rows"),
        (lambda: F.cross_entropy(draw(B, C), classes(B), reduction="none"), {}, "asked for with reduction='none'"),
        (lambda: F.mse_loss(draw(B), draw(B)), {"score": scores.entropy}, "entropy needs the probabilities of classes"),
        (
            lambda: F.binary_cross_entropy_with_logits(draw(B, C), BINARY),
            {"score": scores.margin},
            "margin needs the probabilities of classes, but the model's loss is binary_cross_entropy_with_logits",
        ),
        (
            lambda: F.cross_entropy(draw(B, C), BINARY.softmax(-1)),
            {"score": scores.margin},
            "margin needs the probabilities of classes",
        ),
        (
            lambda: F.ctc_loss(draw(9, 3, C), classes(3, 4), torch.full((3,), 9), torch.full((3,), 4)),
            {},
            "ctc_loss was given 3 sequences for 5 rows",
        ),
    ],
)
def test_what_has_no_value_for_each_row_is_refused(loss, options, message):
    with pytest.raises(NoRowLoss, match=message):
        by_rows(loss, **options)
