"""Which candidates a step trains on: scores -> indices, for NumPy arrays and torch tensors alike.

Every rule has the signature `rule(scores, k, rng) -> indices` (`Selector`). `scores` has shape (..., B), one real
number for each of B candidates, larger = harder; leading axes are independent problems. `indices` has shape (..., k),
is int64 and lies on the scores' device; 1 <= k <= B, and of equal scores the earlier candidate counts as the harder. A
rule of one's own is any function with this signature; hyperparameters are fixed beforehand:

    rule = functools.partial(trim, share=0.05, select=select_online_batch)

`rng` is a `numpy.random.Generator` (for either library, and then both select the same rows) or a `torch.Generator`
(torch scores only); random rules need it. All raise ValueError for scores that are not finite, for k out of range and
for hyperparameters out of theirs. Checking that scores are finite reads one boolean from their device: a NaN loss must
stop a run, not win it. Whoever has seen to that calls `unchecked(rule)`, which reads nothing.
"""

import functools
import math
import numbers
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_torch_namespace

from gsgd import host
from gsgd.ranges import within

Array = Any  # numpy.ndarray or torch.Tensor: torch may be absent, so neither can be named here


class Selector(Protocol):
    """What the training engine takes as its rule; it passes all three arguments by position."""

    def __call__(self, scores: Array, k: int, rng: Any = None, /) -> Array: ...


Rule = TypeVar("Rule", bound=Callable[..., Any])


def _checked(rule: Rule, *, number: bool = False) -> Rule:
    """A rule that first sees whether its scores and k are good; by `number` B itself may stand for the scores."""

    @functools.wraps(rule)
    def checked(scores: Array, k: int, rng: Any = None, **hyperparameters: Any) -> Array:
        _check(scores, k, number=number)
        return rule(scores, k, rng, **hyperparameters)

    checked.__dict__["_unchecked"] = rule
    return cast(Rule, checked)


def unchecked(rule: Selector) -> Selector:
    """The same rule for finite scores of the right form: a built-in one without its check, another as it is.

    Args:
        rule: `functools.partial` of a built-in rule counts as one.
    """
    if isinstance(rule, functools.partial) and not rule.args:
        inner = unchecked(rule.func)
        return rule if inner is rule.func else functools.partial(inner, **rule.keywords)
    return getattr(rule, "_unchecked", rule)


@_checked
def select_top_k(scores: Array, k: int, rng: Any = None) -> Array:
    """The k largest scores: GSGD's choice for k = 1 (Eq. 3), SIFT's for k = B/2 (Section 7).

        argmax_{x in S} f~(w, x)

    Indices come in descending order of score; `rng` is not used.

    Reference:
        With exact losses this is OHEM (Shrivastava et al. 2016) and ordered SGD (Kawaguchi & Lu, arXiv:1907.04371).
    """
    return _largest(scores, k)


@functools.partial(_checked, number=True)
def select_random(scores: Array, k: int, rng: Any = None) -> Array:
    """k candidates uniformly without replacement, in random order: SGD's choice, and the control of every comparison.

    Args:
        scores: (..., B), whose values are not used; or the number B itself, where no scores were computed: then indices
            are (k,) in the library and on the device of `rng`.
    """
    if _is_integer(scores):
        return _successive_draws(None, (scores,), k, rng)
    return _beside(scores, _successive_draws(None, scores.shape, k, rng, array_namespace(scores)))


@_checked
def select_online_batch(scores: Array, k: int, rng: Any = None, *, selection_pressure: float = 100.0) -> Array:
    """Online batch selection: probability decaying exponentially with the rank of the loss (Loshchilov & Hutter 2015).

        p_i  proportional to  1 / exp(log(s_e) / B)^i,     i = 0 for the largest score .. B - 1 for the smallest

    The largest is s_e^((B - 1)/B) times likelier to be drawn first than the smallest: s_e for large B, 56 for s_e = 100
    and B = 8. Indices come in the order drawn.

    Args:
        selection_pressure: s_e >= 1, finite; 1 is `select_random`.

    Reference:
        Loshchilov & Hutter, Online Batch Selection for Faster Training of Neural Networks, arXiv:1511.06343.
    """
    # Paper: ranks the whole training set by each datapoint's latest known loss and draws with replacement; here:
    # ranks the B candidates of this step by their present scores and draws without, because a step needs k distinct
    # rows of its batch.
    within("selection_pressure", selection_pressure, "be a number in [1, inf)", lambda value: value >= 1)
    n = scores.shape[-1]
    return _draw_by_rank(scores, -np.arange(n) * math.log(selection_pressure) / n, k, rng)


@_checked
def select_selective_backprop(scores: Array, k: int, rng: Any = None, *, beta: float | None = None) -> Array:
    """Selective-Backprop: probability a power of the loss's percentile (Jiang et al. 2019; form of MosaicML Composer).

        p_i  proportional to  percentile_i^beta,     percentile_i = (B - i - 1/2) / B,     i = 0 for the largest score

    Indices come in the order drawn.

    Args:
        beta: finite, >= 0; 0 is `select_random`. None takes Composer's B/k - 1, for which Jiang's independent choices
            would keep k of B on average: the integral of u^beta over [0, 1] is 1/(beta + 1).

    Reference:
        Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, arXiv:1910.00762;
        `select_using_loss` in mosaicml/composer, composer/algorithms/selective_backprop/selective_backprop.py.
    """
    # Paper: percentile among the most recent losses (1,024 in the authors' code), each candidate kept independently
    # with probability percentile^beta, until a batch is full; here: percentile within the batch and exactly k rows
    # drawn without replacement (as Composer), because a selector keeps no state and the training step a fixed shape.
    n = scores.shape[-1]
    if beta is None:
        beta = n / k - 1.0
    within("beta", beta, "be a number in [0, inf)", lambda value: value >= 0)
    percentile = (n - np.arange(n) - 0.5) / n
    return _draw_by_rank(scores, beta * np.log(percentile), k, rng)


@_checked
def trim(scores: Array, k: int, rng: Any = None, *, share: float, select: Selector = select_top_k) -> Array:
    """Applies `select` to what is left without the floor(share B) highest scores: mislabelled rows lose the most.

    Indices are into the original B candidates, in the order of `select`; k of them must remain.

    Args:
        share: of the candidates to leave out, in [0, 1); about the share of wrong labels.
        select: the rule for the rest, which it sees in their original order, with `rng`.
    """
    xp, n = array_namespace(scores), scores.shape[-1]
    within("share", share, "be a number in [0, 1)", lambda value: 0 <= value < 1)
    dropped = math.floor(share * n + 1e-9)  # 0.29 * 100 is 28.999999999999996 in floating point, and means 29
    if k > n - dropped:
        raise ValueError(f"k = {k} but only {n - dropped} of {n} candidates remain after trimming share = {share}")
    rest = xp.sort(_descending(scores)[..., dropped:], axis=-1)
    # Scores and k are good, so `select` need not look at them again.
    return xp.take_along_axis(rest, unchecked(select)(xp.take_along_axis(scores, rest, axis=-1), k, rng), axis=-1)


def _descending(scores: Array) -> Array:
    return array_namespace(scores).argsort(scores, axis=-1, descending=True, stable=True)


def _largest(scores: Array, k: int) -> Array:
    if k == 1:  # both libraries return the first maximum, in O(B)
        return array_namespace(scores).argmax(scores, axis=-1, keepdims=True)
    return _descending(scores)[..., :k]


def _draw_by_rank(scores: Array, log_weights: np.ndarray, k: int, rng: Any) -> Array:
    """k candidates, the one of rank i (0 = hardest) with weight exp(log_weights[i]).

    The race is run over ranks, before it is known who holds them, so only k integers travel to the scores' device.
    """
    xp = array_namespace(scores)
    ranks = _beside(scores, _successive_draws(log_weights, scores.shape, k, rng, xp))
    return xp.take_along_axis(_descending(scores), ranks, axis=-1)


def _beside(scores: Array, draws: Array) -> Array:
    """Draws in the library and on the device of the scores."""
    xp = array_namespace(scores)
    if host.holds(scores) or not host.holds(draws):
        return xp.asarray(draws, device=device(scores))
    return host.sent(xp.asarray(draws), device(scores))


def _successive_draws(log_weights: Array | None, shape: tuple[int, ...], k: int, rng: Any, xp: Any = None) -> Array:
    """k successive draws without replacement from 0..shape[-1]-1, each by the weights of those still there.

    An exponential race: runner i finishes at time E_i / w_i, E_i ~ Exp(1), and the first k finishers, in order, have
    exactly this law (Efraimidis & Spirakis 2006). In logarithms no weight underflows. `log_weights` None: all equal.

    Returns shape (*shape[:-1], k) in the library and on the device of `rng`; `xp` is the scores' library, None for any.
    """
    torch = sys.modules.get("torch")  # whoever holds a torch.Generator has imported torch; nobody else should have to
    if isinstance(rng, np.random.Generator):
        race = rng.standard_exponential(shape)
        return _largest(-race if log_weights is None else log_weights - np.log(race), k)
    if torch is not None and isinstance(rng, torch.Generator):
        if xp is not None and not is_torch_namespace(xp):
            raise ValueError("rng is a torch.Generator, but for scores that are no tensor it must be a NumPy Generator")
        race = torch.empty(shape, dtype=torch.float64, device=rng.device).exponential_(generator=rng)
        return _largest(-race if log_weights is None else _beside(race, log_weights) - race.log(), k)
    if rng is None:
        raise ValueError("rng is None but this rule is random: pass a numpy.random.Generator or a torch.Generator")
    raise ValueError(f"rng is a {type(rng).__name__} but must be a numpy.random.Generator or a torch.Generator")


def _check(scores: Array, k: int, *, number: bool) -> None:
    """Raise unless k of the scores can be chosen by their values."""
    if number and _is_integer(scores):
        return _check_k(k, scores)
    if not is_array_api_obj(scores):
        raise ValueError(f"scores is a {type(scores).__name__} but must be a NumPy array or a torch tensor")
    if scores.ndim == 0:
        raise ValueError(f"scores = {scores!r} has no axis: its last axis must hold the candidates")
    xp = array_namespace(scores)
    if not xp.isdtype(scores.dtype, ("real floating", "integral")):
        raise ValueError(f"scores has dtype {scores.dtype} but must be real: floating or integer")
    _check_k(k, scores.shape[-1])
    finite = xp.isfinite(scores)
    if not bool(xp.all(finite)):
        first = tuple(int(axis[0]) for axis in xp.nonzero(~finite))
        raise ValueError(f"scores[{', '.join(map(str, first))}] is {float(scores[first])}: scores must be finite")


def _check_k(k: int, n: int) -> None:
    if n < 1:
        raise ValueError(f"the number of candidates is {n} but must be at least 1")
    if not _is_integer(k):
        raise ValueError(f"k = {k!r} but must be an integer")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} but must be between 1 and the number of candidates, {n}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
