"""Scores of `gsgd.scores` against loops in double precision, SciPy, torch's loss and closed forms for two classes."""

import functools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd import host
from gsgd.scores import cross_entropy, entropy, gradient_norm_bound, margin, of_positions
from gsgd.selectors import select_top_k

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
both = pytest.mark.parametrize("lib", [np, pytest.param(torch, marks=needs_torch)], ids=["numpy", "torch"])
repeatable = settings(derandomize=True, deadline=None, max_examples=60)

SCORES = {f.__name__: f for f in (cross_entropy, entropy, margin, gradient_norm_bound)}
all_scores = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
LOWEST = {"cross_entropy": 0.0, "entropy": 0.0, "gradient_norm_bound": 0.0}  # margin: finfo.min of its dtype


@pytest.fixture(autouse=True, scope="module", params=["held", "on a device"])
def place(request):
    """Everything holds in both places; "on a device" no value is looked at, which can be tried on the CPU, too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "on a device":
            patch.setattr(host, "holds", lambda array: False)
        yield request.param


def reference(name, z, y):
    """One position, as the definitions read, in double precision."""
    top = max(z)
    total = math.fsum(math.exp(v - top) for v in z)
    p = [math.exp(v - top) / total for v in z]
    match name:
        case "cross_entropy":
            return math.log(total) + top - z[y]
        case "entropy":
            return math.fsum(-q * math.log(q) for q in p if q > 0)
        case "margin":
            return max(v for j, v in enumerate(z) if j != y) - z[y]
        case "gradient_norm_bound":
            return math.hypot(*(q - (j == y) for j, q in enumerate(p)))


def reference_rows(name, logits, labels, lowest, ignore_index=-100):
    rows = []
    for z, y in zip(logits.reshape(len(logits), -1, logits.shape[-1]), labels.reshape(len(labels), -1), strict=True):
        kept = [reference(name, a.tolist(), int(b)) for a, b in zip(z, y, strict=True) if b != ignore_index]
        rows.append(math.fsum(kept) / len(kept) if kept else lowest)
    return rows


@st.composite
def batches(draw, ignore=True):
    """logits (B, ..., C) in double precision and labels with some positions, now and then whole rows, left out."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    c = draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = generator.standard_normal((*shape, c)) * draw(st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    labels = generator.integers(0, c, shape)
    if ignore:
        labels[generator.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = -100
    return logits, labels


# --- values -----------------------------------------------------------------------------------------------------------


@both
@all_scores
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@repeatable
@given(batch=batches())
def test_scores_are_their_definitions_averaged_over_labelled_positions(lib, score, dtype, tolerance, batch):
    logits, labels = batch[0].astype(dtype), batch[1]
    lowest = LOWEST.get(score.__name__, float(np.finfo(dtype).min))
    expected = reference_rows(score.__name__, logits.astype(np.float64), labels, lowest)
    scores = score(lib.asarray(logits), lib.asarray(labels))
    assert scores.dtype == getattr(lib, dtype)
    assert tuple(scores.shape) == (len(logits),)
    np.testing.assert_allclose(np.asarray(scores), expected, rtol=tolerance, atol=tolerance)


@needs_torch
@repeatable
@given(batch=batches())
def test_cross_entropy_is_torchs(batch):
    logits, labels = torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
    flat = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100, reduction="none"
    ).reshape(len(labels), -1)
    expected = flat.sum(1) / (labels.reshape(len(labels), -1) != -100).sum(1).clamp(min=1)
    torch.testing.assert_close(cross_entropy(logits, labels), expected, rtol=1e-12, atol=1e-12)


@repeatable
@given(batch=batches(ignore=False))
def test_cross_entropy_and_entropy_are_scipys(batch):
    logits, labels = batch
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    log_p = scipy.special.log_softmax(logits, axis=-1)
    np.testing.assert_allclose(cross_entropy(logits, labels), -log_p[np.arange(len(labels)), labels], atol=1e-12)
    np.testing.assert_allclose(entropy(logits, labels), scipy.stats.entropy(np.exp(log_p), axis=-1), atol=1e-12)


@needs_torch
@repeatable
@given(batch=batches(ignore=False))
def test_gradient_norm_bound_is_the_norm_of_the_losss_gradient_and_bounds_that_of_the_mean(batch):
    logits, labels = torch.from_numpy(batch[0]).requires_grad_(), torch.from_numpy(batch[1])
    c = logits.shape[-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, c), labels.reshape(-1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    gradient = gradient.reshape(len(labels), -1, c)
    scores = gradient_norm_bound(logits.detach(), labels)
    torch.testing.assert_close(scores, gradient.norm(dim=-1).mean(1), rtol=1e-9, atol=1e-12)
    assert bool((scores >= gradient.mean(1).norm(dim=-1) * (1 - 1e-9) - 1e-12).all())


def test_larger_is_harder_by_hand():
    logits = np.array([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    labels = np.array([0, 2, 1])
    assert margin(logits, labels).tolist() == [-2.0, 3.0, 0.0]  # right by 2, wrong by 3, undecided
    np.testing.assert_allclose(entropy(logits, labels)[2], math.log(3), rtol=1e-14)
    np.testing.assert_allclose(cross_entropy(logits, labels)[2], math.log(3), rtol=1e-14)
    np.testing.assert_allclose(gradient_norm_bound(logits, labels)[2], math.sqrt(2 / 3), rtol=1e-14)
    for score in (cross_entropy, margin, gradient_norm_bound):
        assert select_top_k(score(logits, labels), 3).tolist() == [1, 2, 0]
    assert select_top_k(entropy(logits, labels), 1).tolist() == [2]


def test_one_class_is_certain():
    logits, labels = np.array([[3.0], [-1.0]]), np.array([0, 0])
    for score in (cross_entropy, entropy, gradient_norm_bound):
        assert score(logits, labels).tolist() == [0.0, 0.0]


# --- precision --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("gap", [-80.0, -60.0, -20.0, -1.0, 0.0, 1.0, 20.0, 200.0])
def test_two_classes_keep_their_relative_precision_where_p_y_is_near_1(lib, gap):
    """float32 rounds 1 - p_y to 0 from gap = -17 on, and the square of p_wrong from gap = -52 on."""
    logits = lib.asarray([[0.0, gap]], dtype=lib.float32)
    labels = lib.asarray([0])
    loss = max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))
    norm = math.sqrt(2) / (1 + math.exp(-gap))
    np.testing.assert_allclose(float(cross_entropy(logits, labels)[0]), loss, rtol=1e-6)
    np.testing.assert_allclose(float(gradient_norm_bound(logits, labels)[0]), norm, rtol=1e-5)


EXTREME = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, 9984.0, -1e4]]


FLOATS = [(np, "float16"), (np, "float32"), (np, "float64")]
FLOATS += [pytest.param(torch, dtype, marks=needs_torch) for dtype in ("float16", "bfloat16", "float32", "float64")]


@all_scores
@pytest.mark.parametrize(("lib", "dtype"), FLOATS)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_logits_of_ten_thousand(lib, score, dtype, label):
    logits = lib.asarray(EXTREME, dtype=getattr(lib, dtype))
    with np.errstate(all="raise", under="ignore"):
        scores = score(logits, lib.asarray([label] * 5))
    assert scores.dtype == (lib.float64 if dtype == "float64" else lib.float32)
    held = [[float(v) for v in row] for row in logits]  # bfloat16 rounds 1e4 to 9984
    expected = [reference(score.__name__, row, label) for row in held]
    np.testing.assert_allclose(np.asarray(scores), expected, rtol=1e-6, atol=1e-7)


@needs_torch
@all_scores
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_accumulated_in_float32(score, dtype):
    generator = np.random.default_rng(3)
    logits = torch.from_numpy(generator.standard_normal((8, 5, 1000))).to(getattr(torch, dtype))
    labels = generator.integers(0, 1000, (8, 5))
    expected = reference_rows(score.__name__, logits.double().numpy(), labels, None)
    # Half precision itself would be off by 1e-3 and more.
    np.testing.assert_allclose(score(logits, torch.from_numpy(labels)).numpy(), expected, rtol=3e-6)


@both
@all_scores
@repeatable
@given(batch=batches())
def test_a_class_masked_out_by_minus_infinity_might_as_well_not_exist(lib, score, batch):
    logits, labels = batch
    masked = np.concatenate([np.full((*labels.shape, 1), -np.inf), logits, np.full((*labels.shape, 1), -np.inf)], -1)
    moved = np.where(labels == -100, -100, labels + 1)
    with np.errstate(all="raise", under="ignore"):
        scores = np.asarray(score(lib.asarray(masked), lib.asarray(moved)))
    lowest = LOWEST.get(score.__name__, float(np.finfo(np.float64).min))
    expected = reference_rows(score.__name__, logits, labels, lowest)
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-12)


@both
def test_masks_that_leave_only_the_label_or_not_even_it(lib):
    inf = math.inf
    logits, labels = lib.asarray([[1.0, -inf, -inf], [-inf, 1.0, 2.0]]), lib.asarray([0, 0])
    with np.errstate(all="raise", under="ignore"):
        assert cross_entropy(logits, labels).tolist() == [0.0, inf]
        assert margin(logits, labels).tolist() == [-inf, inf]
        norms = gradient_norm_bound(logits, labels).tolist()
        entropies = entropy(logits, labels).tolist()
    p = 1 / (1 + math.e)
    assert norms == pytest.approx([0.0, math.hypot(1.0, p, 1 - p)], rel=1e-6)
    assert entropies == pytest.approx([0.0, -p * math.log(p) - (1 - p) * math.log(1 - p)], rel=1e-6)


@both
@all_scores
@pytest.mark.parametrize("row", [[math.nan, 1.0], [1.0, math.nan], [-math.inf, -math.inf]])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_has_no_score_is_nan_and_refused_by_name(lib, score, row):
    scores = score(lib.asarray([[0.0, 1.0], row]), lib.asarray([0, 0]))
    with pytest.raises(ValueError, match=r"scores\[1\] is nan"):
        select_top_k(scores, 1)


@needs_torch
@all_scores
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("gap", [0.0, 0.1, 5.0, 30.0, 39.0, 41.0, 80.0])
def test_what_needs_no_gradient_is_computed_alike(score, dtype, tolerance, gap):
    """By fused kernels; also on both sides of where log(1 + e^d) becomes d, and where p_y is all but 1."""
    logits = torch.randn((6, 7), generator=torch.Generator().manual_seed(0), dtype=getattr(torch, dtype))
    logits[:3, 2] += gap
    logits[3:, 2] -= gap
    labels = torch.full((6,), 2)
    expected = score(logits.clone().requires_grad_(), labels).detach()
    # Near certainty both ways of taking an entropy round what is left of it next to 1.
    absolute = 2 * torch.finfo(logits.dtype).eps if score is entropy else 0
    torch.testing.assert_close(score(logits, labels), expected, rtol=tolerance, atol=absolute)


@both
@repeatable
@given(batch=batches(ignore=False))
def test_of_positions_is_the_score_without_checks_and_masks(lib, batch):
    logits, labels = batch
    z, y = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    for name, score in SCORES.items():
        expected = [reference(name, row.tolist(), int(label)) for row, label in zip(z, y, strict=True)]
        found = np.asarray(of_positions(score)(lib.asarray(z), lib.asarray(y)))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    smoothed = functools.partial(cross_entropy, label_smoothing=0.1, ignore_index=-1)
    expected = [0.9 * reference("cross_entropy", row, label) for row, label in zip(z.tolist(), y.tolist(), strict=True)]
    for place, row in enumerate(z.tolist()):
        expected[place] += 0.1 * math.fsum(reference("cross_entropy", row, j) for j in range(len(row))) / len(row)
    found = np.asarray(of_positions(smoothed)(lib.asarray(z), lib.asarray(y)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


# --- which positions count --------------------------------------------------------------------------------------------


@both
@all_scores
def test_a_row_without_labelled_position_ranks_last_and_is_finite(lib, score):
    logits = lib.zeros((3, 2, 4), dtype=lib.float32)
    logits[:, :, 0] = 1e4  # as easy as they come: the others score 0, or -1e4 by margin
    labels = lib.asarray([[0, 0], [-100, -100], [0, -100]])
    scores = score(logits, labels)
    assert scores[1] == LOWEST.get(score.__name__, float(np.finfo(np.float32).min))
    assert bool(lib.all(lib.isfinite(scores)))
    assert bool(lib.all(scores >= scores[1]))
    assert score(logits[:, 0], labels[:, 0])[1] == scores[1]
    if score is margin:
        assert select_top_k(scores, 3).tolist() == [0, 2, 1]


@both
@all_scores
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nothing_leaks_from_unlabelled_positions(lib, score):
    logits = np.random.default_rng(0).standard_normal((2, 3, 4))
    labels = np.array([[1, -100, 2], [-100, 0, -100]])
    spoilt = np.where((labels == -100)[..., None], np.nan, logits)
    expected = reference_rows(score.__name__, logits, labels, None)
    np.testing.assert_allclose(np.asarray(score(lib.asarray(spoilt), lib.asarray(labels))), expected, rtol=1e-12)


@both
@all_scores
@pytest.mark.parametrize("ignore_index", [0, 3, -1])
def test_ignore_index_is_the_callers(lib, score, ignore_index):
    logits = np.random.default_rng(0).standard_normal((4, 6, 4))
    labels = np.random.default_rng(1).integers(0, 4, (4, 6))
    labels[0, :3] = ignore_index
    expected = reference_rows(score.__name__, logits, labels, None, ignore_index)
    scores = score(lib.asarray(logits), lib.asarray(labels), ignore_index=ignore_index)
    np.testing.assert_allclose(np.asarray(scores), expected, rtol=1e-12)


@both
def test_entropy_without_labels_counts_every_position(lib):
    logits = np.random.default_rng(0).standard_normal((4, 6, 5))
    expected = scipy.stats.entropy(scipy.special.softmax(logits, axis=-1), axis=-1).mean(1)
    np.testing.assert_allclose(np.asarray(entropy(lib.asarray(logits))), expected, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(entropy(lib.asarray(logits), ignore_index=0)), expected, rtol=1e-12)


@both
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_labels_of_any_integer_type(lib, dtype):
    labels = lib.asarray([3, 1, 0], dtype=getattr(lib, dtype))
    logits = lib.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    assert cross_entropy(logits, labels).tolist() == cross_entropy(logits, lib.asarray([3, 1, 0])).tolist()


@both
def test_label_156_in_uint8_is_not_minus_100(lib):
    """torch compares a uint8 tensor with -100 modulo 256, which is 156."""
    scores = cross_entropy(lib.zeros((1, 200)), lib.asarray([156], dtype=lib.uint8))
    assert float(scores[0]) == pytest.approx(math.log(200), rel=1e-6)


# --- as a guest in torch and NumPy ------------------------------------------------------------------------------------


@needs_torch
@all_scores
def test_gradients_are_those_of_finite_differences(score):
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.standard_normal((3, 4, 5))).requires_grad_()
    labels = torch.tensor([[0, 1, -100, 4], [-100, -100, -100, -100], [2, 3, 1, 0]])
    assert torch.autograd.gradcheck(lambda z: score(z, labels), (logits,))


@needs_torch
@all_scores
def test_gradients_are_finite_at_masks_and_extremes(score):
    logits = torch.tensor([[1e4, -1e4, -math.inf, 5.0], [-1e4, 1e4, 0.0, -math.inf]], requires_grad=True)
    score(logits, torch.tensor([0, 0])).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


@needs_torch
@all_scores
def test_a_nan_without_a_label_has_no_gradient(score):
    logits = torch.zeros(2, 2, 3, requires_grad=True)
    with torch.no_grad():
        logits[0, 1] = math.nan
    score(logits, torch.tensor([[0, -100], [-100, 1]])).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert logits.grad[0, 1].tolist() == [0.0, 0.0, 0.0]


@needs_torch
@all_scores
def test_no_grad_is_respected_and_inputs_are_not_written_to(score):
    logits = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[1, -100, 3], [0, 2, 1]])
    before = logits.detach().clone(), labels.clone(), logits._version, labels._version
    assert score(logits, labels).requires_grad
    with torch.no_grad():
        assert not score(logits, labels).requires_grad
    with torch.inference_mode():
        assert score(logits, labels).shape == (2,)
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])
    assert (logits._version, labels._version) == before[2:]


@all_scores
def test_read_only_numpy_inputs_suffice(score):
    logits, labels = np.random.default_rng(0).standard_normal((2, 3, 4)), np.array([[1, -100, 3], [0, 2, 1]])
    expected = score(logits, labels).tolist()
    logits.flags.writeable = labels.flags.writeable = False
    assert score(logits, labels).tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(torch is None or not torch.cuda.is_available(), reason="needs a CUDA device")
@all_scores
def test_scores_lie_on_the_device_of_the_logits(score):
    logits = torch.randn((4, 7, 11), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(1))
    scores = score(logits.cuda(), labels.cuda())
    assert scores.device.type == "cuda"
    torch.testing.assert_close(scores.cpu(), score(logits, labels), rtol=1e-5, atol=1e-6)


# --- bad input --------------------------------------------------------------------------------------------------------


@both
@all_scores
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, 1.0]], [0, 1], r"labels has shape \(2,\) but must have that of logits without its last axis, \(1,\)"),
        ([[[0.0, 1.0]]], [0], r"labels has shape \(1,\) but must .* \(1, 1\)"),
        ([[0.0, 1.0]], [2], r"labels\[0\] is 2 but must be in 0\.\.1, or ignore_index = -100"),
        ([[[0.0, 1.0], [0.0, 1.0]]], [[0, -1]], r"labels\[0, 1\] is -1 but must be in 0\.\.1"),
        ([[0.0, 1.0]], [0.0], r"labels has dtype .*float\d\d but must be integer"),
        ([[0.0, 1.0]], [True], r"labels has dtype .*bool but must be integer"),
        ([0.0, 1.0], 0, r"logits has shape \(2,\) but must be \(B, C\) or \(B, \.\.\., C\)"),
        ([[0, 1]], [0], r"logits has dtype .*int64 but must be real floating"),
    ],
)
def test_bad_input(lib, score, logits, labels, message, place):
    if "must be in 0" in message and place == "on a device":
        assert math.isnan(score(lib.asarray(logits), lib.asarray(labels))[0])
        return
    with pytest.raises(ValueError, match=message):
        score(lib.asarray(logits), lib.asarray(labels))


@both
@all_scores
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (2, 0)])
def test_empty_batch(lib, score, shape):
    with pytest.raises(ValueError, match="but no axis may be empty"):
        score(lib.zeros(shape), lib.zeros(shape[:-1], dtype=lib.int64))


@both
@all_scores
def test_ignore_index_must_be_an_integer(lib, score):
    for wrong in (None, -100.0, True):
        with pytest.raises(ValueError, match=f"ignore_index = {wrong} but must be an integer"):
            score(lib.zeros((1, 2)), lib.asarray([0]), ignore_index=wrong)


@all_scores
def test_no_arrays(score):
    with pytest.raises(ValueError, match="logits is a list but must be a NumPy array or a torch tensor"):
        score([[0.0, 1.0]], np.array([0]))
    with pytest.raises(ValueError, match="logits is a ndarray and labels a list"):
        score(np.zeros((1, 2)), [0])


@needs_torch
@all_scores
def test_logits_and_labels_of_different_libraries(score):
    with pytest.raises(ValueError, match="logits is a Tensor and labels a ndarray: both must be"):
        score(torch.zeros((1, 2)), np.array([0]))


@both
def test_margin_needs_a_wrong_class(lib):
    with pytest.raises(ValueError, match="logits has 1 class, but a margin needs a wrong class"):
        margin(lib.zeros((3, 1)), lib.zeros((3,), dtype=lib.int64))


@both
def test_entropy_without_labels_checks_its_logits(lib):
    with pytest.raises(ValueError, match="logits has shape"):
        entropy(lib.zeros((3,)))
