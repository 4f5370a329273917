"""How hard a sample is: logits -> one score per sample, larger = harder, for NumPy arrays and torch tensors alike.

Every score has the signature `score(logits, labels, *, ignore_index) -> scores` and takes

    logits  (B, C) or (B, ..., C)   unnormalised log-probabilities; -inf masks a class out
    labels  (B,)   or (B, ...)      classes 0..C-1, or `ignore_index` at a position that does not count

and returns (B,) on the logits' device, differentiable in torch. A sample's score is the mean over its labelled
positions, as in masked language modelling; for causal language models the caller shifts (`logits[:, :-1]`,
`labels[:, 1:]`). A sample without a labelled position gets the lowest score there is, so that it ranks last. Only
labelled positions are read. Half precision is computed and returned in float32, float64 in float64.

Finite logits give finite scores, unless their differences overflow. A NaN logit, or a mask that leaves a position no
class at all, gives NaN; a label that is masked out gets loss and margin inf. The selectors refuse such scores by
name.

Shapes that do not match, an empty batch, and types that are not floating or integer are refused with a ValueError. So
are labels out of range, except on a device (`gsgd.host`): to find them the program would have to wait for it. There
they give NaN. What is computed there is the same, of all positions, unlabelled ones masked. Who has seen to labels and
masks calls `of_positions(score)`, which looks at neither.

Where torch needs no gradients, loss and entropy are made of its fused softmax: a few operators in place of a dozen, of
which each costs a launch on a GPU.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace, device, is_array_api_obj, is_torch_namespace

from gsgd import host

Array = Any  # numpy.ndarray or torch.Tensor: torch may be absent, so neither can be named here

PositionScore = Callable[[Array, Array], Array]
"""`(logits (n, C), labels (n,)) -> (n,)`, the score of each position."""


def cross_entropy(logits: Array, labels: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy loss, in nats: the f~ of loss-based SIFT (Section 6).

        -log p_y  =  log(1 + e^d),     d = log sum_{j != y} e^{z_j} - z_y,     p = softmax(z)

    With label smoothing s it is  (1 - s) (-log p_y) + s mean_j (-log p_j), as in torch and the Hugging Face Trainer.

    Scores are >= 0, and 0 for a sample without a labelled position.

    Raises:
        ValueError: also if s is not in [0, 1).
    """
    position_loss = functools.partial(_position_loss, label_smoothing=label_smoothing)
    return _mean_over_labelled(position_loss, logits, labels, ignore_index, lowest=0.0)


def entropy(logits: Array, labels: Array | None = None, *, ignore_index: int = -100) -> Array:
    """Entropy of the prediction, in nats: the score of entropy-based SIFT (Section 7.1).

        -sum_j p_j log p_j  =  log sum_j e^{s_j}  -  sum_j p_j s_j,     s = z - max_j z_j,     p = softmax(z)

    Scores lie in [0, log C], and are 0 for a sample without a labelled position.

    Args:
        labels: say only which positions count, all of them where None.
    """
    if labels is None:
        _check_logits(logits)
        xp = array_namespace(logits)
        labels = xp.zeros(logits.shape[:-1], dtype=xp.int64, device=device(logits))
        ignore_index = -100  # whatever was asked for, label 0 must not be it
    return _mean_over_labelled(_position_entropy, logits, labels, ignore_index, lowest=0.0)


def margin(logits: Array, labels: Array, *, ignore_index: int = -100) -> Array:
    """How far the label falls short of the best wrong class: > 0 where the prediction is wrong.

        max_{j != y} z_j - z_y

    The usual margin is its negative, large for easy samples; here larger = harder, as every selector expects. Scores
    are in units of the logits, the most negative finite number of their dtype for a sample without a labelled position,
    and -inf where every wrong class is masked out.

    Raises:
        ValueError: also if there is no wrong class (C < 2).
    """
    _check_logits(logits)
    if logits.shape[-1] < 2:
        raise ValueError(f"logits has {logits.shape[-1]} class, but a margin needs a wrong class: at least 2")
    return _mean_over_labelled(_position_margin, logits, labels, ignore_index, lowest=None)


def gradient_norm_bound(logits: Array, labels: Array, *, ignore_index: int = -100) -> Array:
    """Norm of the loss's gradient in the logits, the per-sample factor of a bound on its gradient in the weights.

        ||softmax(z) - onehot(y)||_2  =  (1 - p_y) sqrt(1 + sum_{j != y} q_j^2),     q = softmax(z without z_y)

    The norm of a sample's weight gradient is at most this times a constant of the network (Katharopoulos & Fleuret
    2018, who take it for all samples alike). For sequences: the mean over labelled positions, which bounds the norm
    of the mean. Scores lie in [0, sqrt 2], and are 0 for a sample without a labelled position.

    Reference:
        Katharopoulos & Fleuret, Not All Samples Are Created Equal: Deep Learning with Importance Sampling,
        arXiv:1803.00942.
    """
    return _mean_over_labelled(_position_norm, logits, labels, ignore_index, lowest=0.0)


@functools.lru_cache(maxsize=64)
def of_positions(score: Callable[..., Array]) -> PositionScore:
    """A score of this module for single positions with good labels: neither checked nor masked.

    Args:
        score: one of this module's, or `functools.partial` of one.
    """
    function, options = (score.func, dict(score.keywords)) if isinstance(score, functools.partial) else (score, {})
    options.pop("ignore_index", None)  # every label counts
    of_position = _OF_POSITION[function]

    def position_score(z: Array, y: Array) -> Array:
        xp = array_namespace(z)
        return of_position(xp, xp.astype(z, _computed_in(xp, z), copy=False), y, **options)

    return position_score


def check_labels(labels: Array, labelled: Array, classes: int, *, ignore_index: int = -100) -> None:
    """Raises a ValueError for the first of the labels that count, `labelled`, that is not in 0..classes-1."""
    xp = array_namespace(labels)
    bad = labelled & ((labels < 0) | (labels >= classes))
    if bool(xp.any(bad)):
        first = tuple(int(axis[0]) for axis in xp.nonzero(bad))
        raise ValueError(
            f"labels[{', '.join(map(str, first))}] is {int(labels[first])} but must be in 0..{classes - 1}, "
            f"or ignore_index = {ignore_index}"
        )


def _position_loss(xp: Any, z: Array, y: Array, *, label_smoothing: float = 0.0) -> Array:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing = {label_smoothing!r} must lie in [0, 1)")
    if _is_fused(xp, z):
        loss = _fused_loss(z, y)
    else:
        log_odds, _, _ = _wrong_classes(xp, z, y)
        loss = xp.logaddexp(xp.zeros_like(log_odds), log_odds)  # log sum e^z - z_y would round small losses to 0
    if not label_smoothing:
        return loss
    at_label = _at_label(xp, z, y)
    return loss + label_smoothing * xp.mean(at_label[:, None] - z, axis=-1)


def _position_entropy(xp: Any, z: Array, y: Array) -> Array:
    if _is_fused(xp, z):
        return xp.sum(xp.special.entr(xp.softmax(z, -1)), axis=-1)
    shifted = z - xp.max(z, axis=-1, keepdims=True)
    weight = xp.exp(shifted)
    total = xp.sum(weight, axis=-1)
    # 0 * -inf is NaN in the value as in the gradient; a class masked out adds nothing to either.
    shifted = xp.where(weight > 0, shifted, 0.0)
    return xp.log(total) - xp.sum(weight * shifted, axis=-1) / total


def _position_margin(xp: Any, z: Array, y: Array) -> Array:
    return xp.max(_without_label(xp, z, y), axis=-1) - _at_label(xp, z, y)


def _position_norm(xp: Any, z: Array, y: Array) -> Array:
    log_odds, weight, total = _wrong_classes(xp, z, y)
    # 1 - p_y = 1 / (1 + e^-d): subtracting from 1 would leave nothing where p_y is near 1.
    p_wrong = xp.exp(-xp.logaddexp(xp.zeros_like(log_odds), -log_odds))
    return p_wrong * xp.sqrt(1.0 + xp.sum(weight * weight, axis=-1) / (total * total))


_OF_POSITION: dict[Callable[..., Array], Callable[..., Array]] = {
    cross_entropy: _position_loss,
    entropy: _position_entropy,
    margin: _position_margin,
    gradient_norm_bound: _position_norm,
}


def _is_fused(xp: Any, z: Array) -> bool:
    """Whether torch's fused kernels serve: their gradients are NaN where a probability is 0."""
    return is_torch_namespace(xp) and not z.requires_grad


def _fused_loss(z: Array, y: Array) -> Array:
    """log(1 + e^d) with  d = log sum_{j != y} p_j - log p_y,  by torch.

    Each of the two logarithms is rounded where the other one decides; log_softmax subtracts the largest logit first, as
    `_wrong_classes` does.
    """
    import torch

    log_p, at = torch.log_softmax(z, -1), y[:, None]
    log_p_label = log_p.gather(-1, at)
    p_wrong = log_p.exp_().scatter_(-1, at, 0.0).sum(-1)
    # The threshold, from which on d itself is returned, is where e^-d is below float64's rounding.
    return torch.nn.functional.softplus(p_wrong.log() - log_p_label[:, 0], threshold=40)


def _computed_in(xp: Any, logits: Array) -> Any:
    return xp.float64 if logits.dtype == xp.float64 else xp.float32


def _at_label(xp: Any, z: Array, y: Array) -> Array:
    return xp.take_along_axis(z, y[:, None], axis=-1)[:, 0]


def _without_label(xp: Any, z: Array, y: Array) -> Array:
    return xp.where(xp.arange(z.shape[-1], device=device(z)) == y[:, None], -math.inf, z)


def _wrong_classes(xp: Any, z: Array, y: Array) -> tuple[Array, Array, Array]:
    """d = log sum_{j != y} e^{z_j} - z_y, and q_j = weight_j / total; -inf, 0 and 1 where no wrong class is left."""
    wrong = _without_label(xp, z, y)
    top = xp.max(wrong, axis=-1)
    weight = xp.exp(wrong - xp.where(top == -math.inf, 0.0, top)[:, None])
    total = xp.sum(weight, axis=-1)
    total = xp.where(total == 0, 1.0, total)
    # In this order: at logits of 1e4, top + log(total) would round the logarithm away before z_y is subtracted.
    return (top - _at_label(xp, z, y)) + xp.log(total), weight, total


def _mean_over_labelled(
    position_score: Callable[[Any, Array, Array], Array],
    logits: Array,
    labels: Array,
    ignore_index: int,
    *,
    lowest: float | None,
) -> Array:
    """Mean of `position_score(xp, z, y)` over each sample's labelled positions.

    `position_score` sees z (n, C) and y (n,), and returns (n,). `lowest` is the score of a sample without labelled
    positions, None for the dtype's most negative finite number.
    """
    xp, labels, labelled = _check(logits, labels, ignore_index)
    dtype = _computed_in(xp, logits)
    least = float(xp.finfo(dtype).min) if lowest is None else lowest
    at_labelled = _at_picked if host.holds(logits) else _at_all_masked
    positions = tuple(range(1, labels.ndim))
    values = at_labelled(position_score, logits, labels, labelled, 0.0 if positions else least)
    if not positions:
        return values
    count = xp.sum(xp.astype(labelled, dtype), axis=positions)
    values = xp.sum(values, axis=positions) / xp.clip(count, 1.0, None)
    return xp.where(count > 0, values, least)


def _at_picked(
    position_score: Callable[..., Array], logits: Array, labels: Array, labelled: Array, unlabelled: float
) -> Array:
    """Scores in the shape of labels, `unlabelled` where there is no label, of labelled positions picked out.

    In masked language modelling the others are 85% of the work, and nothing they hold can leak into a score.
    """
    xp = array_namespace(logits)
    dtype = _computed_in(xp, logits)
    values = xp.full(labels.shape, unlabelled, dtype=dtype, device=device(logits))
    values[labelled] = position_score(xp, xp.astype(logits[labelled], dtype, copy=False), labels[labelled])
    return values


def _at_all_masked(
    position_score: Callable[..., Array], logits: Array, labels: Array, labelled: Array, unlabelled: float
) -> Array:
    """The same from all positions, without a look at any value; a label out of range gives NaN."""
    xp, classes = array_namespace(logits), logits.shape[-1]
    z, y, counts = xp.reshape(logits, (-1, classes)), xp.reshape(labels, (-1,)), xp.reshape(labelled, (-1,))
    if getattr(logits, "requires_grad", False):
        # A NaN logit would get a NaN gradient although nothing depends on it: 0 times NaN.
        z = xp.where(counts[:, None], z, 0.0)
    within = xp.clip(y, 0, classes - 1)
    values = position_score(xp, xp.astype(z, _computed_in(xp, logits), copy=False), within)
    values = xp.where(counts, xp.where(within == y, values, math.nan), unlabelled)
    return xp.reshape(values, labels.shape)


def _check(logits: Array, labels: Array, ignore_index: int) -> tuple[Any, Array, Array]:
    """The namespace, the labels as int64 and the mask of labelled positions, once all arguments are found good."""
    _check_logits(logits)
    try:
        xp = array_namespace(logits, labels)
    except TypeError as error:
        raise ValueError(
            f"logits is a {type(logits).__name__} and labels a {type(labels).__name__}: "
            "both must be NumPy arrays or both torch tensors"
        ) from error
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} but must have that of logits without its last axis, "
            f"{tuple(logits.shape[:-1])}"
        )
    if not xp.isdtype(labels.dtype, "integral"):
        raise ValueError(f"labels has dtype {labels.dtype} but must be integer")
    integer = isinstance(ignore_index, numbers.Integral) and not isinstance(ignore_index, bool)
    if not integer:
        raise ValueError(f"ignore_index = {ignore_index!r} but must be an integer")
    labels = xp.astype(labels, xp.int64)  # first: torch compares uint8 with -100 as if it were 156
    labelled = labels != int(ignore_index)
    if host.holds(logits):
        check_labels(labels, labelled, logits.shape[-1], ignore_index=int(ignore_index))
    return xp, labels, labelled


def _check_logits(logits: Array) -> None:
    if not is_array_api_obj(logits):
        raise ValueError(f"logits is a {type(logits).__name__} but must be a NumPy array or a torch tensor")
    shape = tuple(logits.shape)
    if len(shape) < 2:
        raise ValueError(f"logits has shape {shape} but must be (B, C) or (B, ..., C)")
    if 0 in shape:
        raise ValueError(f"logits has shape {shape} but no axis may be empty")
    if not array_namespace(logits).isdtype(logits.dtype, "real floating"):
        raise ValueError(f"logits has dtype {logits.dtype} but must be real floating")
