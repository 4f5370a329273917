"""The Monte Carlo route: finite-sample tests whose error probability holds for every sample size, not in the limit.

Each test states its false-alarm probability `alpha` (the claim is true and is called refuted) and its power:
`detectable`, the width of the confidence interval. The truth lies in the interval with probability 1 - alpha, so a
violation by more than its width passes with probability at most alpha; `sample_size` bounds that width beforehand.
Nothing here rests on the central limit theorem.

Reference: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2024) for the
betting bound; Clopper & Pearson (1934) for probabilities; Massart (1990) for distribution functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from theory.verdict import Status, Verdict


def sample_size(detectable: float, alpha: float) -> int:
    """Samples in [0, 1] after which a mean off by `detectable` is caught with probability 1 - alpha (Hoeffding).

        n = 2 log(2 / alpha) / detectable^2

    The bound's half-width and the sample mean's own deviation together take no more than `detectable`: every
    one-sided bound below is at least as close to the sample mean as Hoeffding's at level alpha / 2 (Clopper-Pearson's
    by Chernoff's inequality, the betting bound by construction). For samples in [0, cap] it is in units of cap.

    Raises:
        ValueError: unless 0 < detectable < 1 and 0 < alpha < 1.
    """
    if not 0 < detectable < 1:
        raise ValueError(f"detectable = {detectable} must lie in (0, 1)")
    _require_alpha(alpha)
    return int(np.ceil(2 * np.log(2 / alpha) / detectable**2))


def probability_bounds(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Two-sided Clopper-Pearson bounds for a probability: both hold together with probability 1 - alpha.

    Raises:
        ValueError: unless 0 <= successes <= n, n >= 1 and 0 < alpha < 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes = {successes} must lie in [0, n] = [0, {n}], with n >= 1")
    _require_alpha(alpha)
    # By the quantiles of the beta law: 1 - alpha, which other routines take, is 1 in float64 for alpha < 1e-16.
    low = special.betaincinv(successes, n - successes + 1, alpha / 2) if successes > 0 else 0.0
    high = special.betainccinv(successes + 1, n - successes, alpha / 2) if successes < n else 1.0
    return float(low), float(high)


def probability_equals(successes: int, n: int, p: float, alpha: float) -> Verdict:
    """Is the success probability `p`? Refuted if `p` falls outside the Clopper-Pearson interval."""
    low, high = probability_bounds(successes, n, alpha)
    value = successes / n
    slack = min(p - low, high - p)
    return _verdict(slack >= 0, value, p, slack, _interval(low, high), high - low)


def probability_at_most(successes: int, n: int, p: float, alpha: float) -> Verdict:
    """Is the success probability at most `p`? Refuted if its Clopper-Pearson lower bound exceeds `p`; alpha < 1/2."""
    low, high = probability_bounds(successes, n, 2 * alpha)
    return _verdict(low <= p, successes / n, p, p - low, _interval(low, high), high - low)


def probability_at_least(successes: int, n: int, p: float, alpha: float) -> Verdict:
    """Is the success probability at least `p`? Refuted if its Clopper-Pearson upper bound is below `p`; alpha < 1/2."""
    low, high = probability_bounds(successes, n, 2 * alpha)
    return _verdict(high >= p, successes / n, p, high - p, _interval(low, high), high - low)


def mean_lower(samples: Any, alpha: float, *, cap: float) -> float:
    """A number below the mean of non-negative `samples` with probability 1 - alpha, by betting.

    The samples are cut off at `cap` first: E min(X, cap) <= E X, so the bound holds for unbounded X too.
    `cap` must be chosen without looking at the samples.
    """
    x = _unit(samples, cap)
    return cap * (1.0 - _betting_upper(1.0 - x, alpha))


def mean_upper(samples: Any, alpha: float, *, cap: float) -> float:
    """A number above the mean of `samples` in [0, cap] with probability 1 - alpha, by betting.

    Raises:
        ValueError: if a sample exceeds `cap`; no finite-sample upper bound exists for an unbounded mean.
    """
    x, largest = _unit(samples, cap), np.max(samples)
    if largest > cap:
        raise ValueError(f"sample {largest} exceeds cap = {cap}: an upper bound needs bounded samples")
    return cap * _betting_upper(x, alpha)


def mean_at_most(samples: Any, bound: float, alpha: float, *, cap: float) -> Verdict:
    """Is E X <= bound for non-negative X? Refuted if the betting lower bound of E min(X, cap) exceeds it.

    `detectable` is about E min(X, cap), too: an excess that lies in the samples beyond `cap` goes unseen.
    """
    low, high = mean_lower(samples, alpha, cap=cap), mean_upper(np.minimum(samples, cap), alpha, cap=cap)
    text = f"mean >= {low:.6g} at 1 - {alpha:.1e}"
    return _verdict(low <= bound, float(np.mean(samples)), bound, bound - low, text, high - low)


def mean_at_least(samples: Any, bound: float, alpha: float, *, cap: float) -> Verdict:
    """Is E X >= bound for X in [0, cap]? Refuted if the betting upper bound of E X is below it."""
    low, high = mean_lower(samples, alpha, cap=cap), mean_upper(samples, alpha, cap=cap)
    text = f"mean <= {high:.6g} at 1 - {alpha:.1e}"
    return _verdict(high >= bound, float(np.mean(samples)), bound, high - bound, text, high - low)


def mean_equals(samples: Any, expected: float, alpha: float, *, cap: float) -> Verdict:
    """Is E X = expected for X in [0, cap]? Two-sided, alpha / 2 on each side."""
    low, high = mean_lower(samples, alpha / 2, cap=cap), mean_upper(samples, alpha / 2, cap=cap)
    slack = min(expected - low, high - expected)
    return _verdict(slack >= 0, float(np.mean(samples)), expected, slack, _interval(low, high), high - low)


def distribution_equals(samples: Any, cdf: Any, alpha: float) -> Verdict:
    """Are the samples drawn from the continuous law `cdf`? By the Dvoretzky-Kiefer-Wolfowitz inequality.

    `value` is the largest distance between the empirical distribution function and `cdf`, `bound` what
    1 - alpha allows: sqrt(log(2 / alpha) / (2 n)).

    Raises:
        ValueError: if there are no samples, or one is NaN.
    """
    x = np.sort(np.asarray(samples, float).ravel())
    n = len(x)
    if n == 0 or np.isnan(x[-1]):
        raise ValueError(f"{n} samples{', with a NaN among them' if n else ''}: a distribution function needs numbers")
    _require_alpha(alpha)
    at = cdf(x)
    distance = float(max(np.max(np.arange(1, n + 1) / n - at), np.max(at - np.arange(n) / n)))
    allowed = hoeffding_width(n, alpha / 2)
    return _verdict(
        distance <= allowed,
        distance,
        allowed,
        allowed - distance,
        f"distance {distance:.4g} between the distribution functions exceeds {allowed:.4g}",
        2 * allowed,
    )


def hoeffding_width(n: int, alpha: float) -> float:
    """sqrt(log(1 / alpha) / (2 n)): how far a mean of n samples in [0, 1] strays one-sidedly at level alpha."""
    return float(np.sqrt(np.log(1 / alpha) / (2 * n)))


def _betting_upper(x: np.ndarray, alpha: float) -> float:
    """Upper confidence bound for the mean of i.i.d. `x` in [0, 1] (capital process of Waudby-Smith & Ramdas, 2024).

    A gambler bets that the mean is below m, with stakes that depend on the past alone. While the mean is at least
    m, the capital is a non-negative supermartingale and exceeds 1 / alpha with probability at most alpha (Ville).
    Betting alone may end further from the sample mean than Hoeffding's bound (seen: by a percent), which would leave
    `sample_size` without a proof. So either gets alpha / 2, and the smaller of the two is taken.
    """
    _require_alpha(alpha)
    alpha = alpha / 2
    n = len(x)
    t = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    past = np.concatenate(([0.25], variance[:-1]))
    stake = np.sqrt(2 * np.log(1 / alpha) / (n * past))

    def rejected(m: float) -> bool:
        # At most .75 of what would risk ruin, so that the logarithm stays finite.
        capital = np.cumsum(np.log1p(-np.minimum(stake, 0.75 / (1 - m)) * (x - m)))
        return bool(capital.max() >= np.log(1 / alpha))

    # The capital increases with m (each factor does), so the rejected m form an interval up to 1: bisect its end,
    # and keep the rejected side, which is a valid bound at every width.
    low, high = 0.0, min(1.0, float(x.mean()) + hoeffding_width(n, alpha))
    for _ in range(30):
        middle = (low + high) / 2
        if rejected(middle):
            high = middle
        else:
            low = middle
    return high


def _require_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha} must lie in (0, 1)")


def _unit(samples: Any, cap: float) -> np.ndarray:
    if not 0 < cap < np.inf:
        raise ValueError(f"cap = {cap} must be positive and finite")
    samples = np.asarray(samples, float).ravel()
    if samples.size == 0:
        raise ValueError("no samples: a mean needs at least one")
    if not samples.min() >= 0:
        raise ValueError(f"sample {samples.min()} is negative or NaN: these bounds need samples in [0, cap]")
    return np.minimum(samples, cap) / cap


def _interval(low: float, high: float) -> str:
    return f"confidence interval [{low:.6g}, {high:.6g}]"


def _verdict(holds: bool, value: float, bound: float, slack: float, witness: str, detectable: float) -> Verdict:
    return Verdict(
        status=Status.CONSISTENT if holds else Status.REFUTED,
        value=value,
        bound=float(bound),
        slack=float(slack),
        witness=None if holds else witness,
        # After a step in the samples the two bounds may cross: such samples are not i.i.d.
        detectable=max(float(detectable), 0.0),
    )
