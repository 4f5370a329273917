"""Selection by losses that are not those of the moment: seen earlier, computed elsewhere, or off by a little.

Throughout, f(., x) >= 0 is L-smooth on the whole space, candidates are drawn i.i.d. given the past, every candidate has
a score s(x) >= 0; S are the k of B candidates with the largest score, S* those with the largest loss f(w_t, .), and F^
is the mean of S* in expectation. The paper's Assumption 5.12 (multiplicative noise) covers none of this.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas._numbers import at_least, finite_arrays, plain, positive
from theory.formulas.convergence import sgd_bound
from theory.formulas.improved import gsgd_bound_improved


def selected_by_scores(losses: Any, scores: Any, k: int) -> tuple[float, float]:
    """(mean loss of the k rows with the largest scores, a lower bound on it from the batch), for any score.

        sqrt(mean_S f)  >=  (sqrt(mean_S* f) - delta_S - delta_S*)^+,    delta_A^2 = mean over A of (sqrt s - sqrt f)^2

    Proof. In the norm |v|_A = (mean over A of v^2)^(1/2): |sqrt f|_S >= |sqrt s|_S - delta_S by Minkowski's inequality,
    |sqrt s|_S >= |sqrt s|_S* as S has the largest scores, and |sqrt s|_S* >= |sqrt f|_S* - delta_S*.

    Args:
        losses, scores: (B,), >= 0.
        k: how many are kept, 1 <= k <= B.

    Raises:
        ValueError: if shapes differ, k is out of range, or a number is negative or not finite.
    """
    f, s = finite_arrays(losses=losses, scores=scores)
    if f.ndim != 1 or f.shape != s.shape or not 1 <= k <= f.size:
        raise ValueError(f"losses {f.shape} and scores {s.shape} must be one axis of the same length, k = {k} in 1..B")
    at_least("losses", f, 0.0)
    at_least("scores", s, 0.0)
    kept, largest = np.argsort(-s, kind="stable")[:k], np.argsort(-f, kind="stable")[:k]
    off = (np.sqrt(s) - np.sqrt(f)) ** 2
    root = np.sqrt(f[largest].mean()) - np.sqrt(off[kept].mean()) - np.sqrt(off[largest].mean())
    return float(f[kept].mean()), float(max(0.0, root) ** 2)


def stale_factor(F_hat: Any, L: float, distance: Any) -> Any:
    """theta with F^_stale(w_t) >= theta F^(w_t), if scores are the same losses at iterates within `distance` of w_t.

        theta = ((1 - sqrt(2 L / F^) d)^+)^2

    Proof. |grad sqrt f| = |grad f| / (2 sqrt f) <= sqrt(L/2) by Fact A.1, so |sqrt s - sqrt f| <= sqrt(L/2) d, and
    `selected_by_scores` gives sqrt(mean_S f) >= sqrt(mean_S* f) - sqrt(2 L) d. In expectation, by Minkowski's
    inequality in L2, sqrt(F^_stale) >= sqrt(F^) - sqrt(2 L) (E d^2)^(1/2), where `distance` may be this root of the
    mean square. For any score with |sqrt s - sqrt f| <= delta, put sqrt(2/L) delta for d.

    With F^_stale >= theta F^ at all iterates, every bound on GSGD holds with theta rho in place of rho, as long as that
    is at least 1. A share e of the kept rows at random costs a further factor 1 - e at most.

    Args:
        F_hat: F^(w_t) > 0.
        L: smoothness constant, > 0.
        distance: >= 0.
    """
    F_hat, d = finite_arrays(F_hat=F_hat, distance=distance)
    positive("F_hat", F_hat)
    positive("L", np.asarray(L, float))
    at_least("distance", d, 0.0)
    return plain(np.maximum(0.0, 1 - np.sqrt(2 * L) * d / np.sqrt(F_hat)) ** 2)


def stale_factor_of_age(eta: Any, L: float, age: Any) -> Any:
    """theta with F^_stale >= theta F^ for plain SGD steps and scores at most `age` steps old, while losses are level.

        theta = 1 / (1 + 2 h tau)^2,    h = eta L, tau the largest age

    Proof. A step moves eta |g| <= eta sqrt(2 L f(w_s, x^_s)), so if E f(w_s, x^_s) <= m over the age, (E d^2)^(1/2) <=
    tau eta sqrt(2 L m) and sqrt(F^_stale) >= sqrt(F^) - 2 h tau sqrt m. Level means m = F^_stale: solve for it.

    Sufficient, not necessary: near h = 1 an age of one step takes all of it, and networks have no finite L. Rows that
    are not trained on keep an old score: bound their age by visiting them, or tau is not bounded.
    """
    eta, age = finite_arrays(eta=eta, age=age)
    positive("eta", eta)
    positive("L", np.asarray(L, float))
    at_least("age", age, 0.0)
    return plain((1 + 2 * eta * L * age) ** -2.0)


def additive_error_bound(
    K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any, error: Any, alpha: Any = None
) -> Any:
    """`improved.gsgd_bound_improved` for scores within `error` of the losses: it gets 2 error / rho more.

    Proof. |s - f| <= e at every iterate and candidate: f(x^) >= s(x^) - e >= s(x*) - e >= f(x*) - 2 e, so E f(w_t, x^)
    >= F^(w_t) - 2 e >= rho F(w_t) - 2 e. With it the step is 2 eta alpha 2 e more; divide by 2 eta alpha rho.

    Args and Raises: as `gsgd_bound_improved`; `error` >= 0.
    """
    (error,) = finite_arrays(error=error)
    at_least("error", error, 0.0)
    bound = gsgd_bound_improved(K, eta=eta, L=L, D0=D0, rho=rho, Delta=Delta, alpha=alpha)
    return plain(bound + 2 * error / np.asarray(rho, float))


def unbiased_bound(K: Any, *, eta: Any, L: float, D0: Any, F_star: Any, share: float) -> Any:
    """SGD's bound (Theorem 5.8) for scores that are used without bias: L / e in place of L.

    Row j of B is drawn with probability q_j >= e/B, and its gradient weighted by 1 / (B q_j) <= 1/e: the mean is that
    of the batch, and E|g|^2 = sum_j |g_j|^2 / (B^2 q_j) <= (1/e) mean_j |g_j|^2 <= (2 L / e) F. What scores can gain
    here is variance; what they can cost is the factor 1/e.

    Args and Raises: as `convergence.sgd_bound` with eta < e / L; `share` e in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share = {share} must lie in (0, 1]")
    return sgd_bound(K, eta=eta, L=L / share, D0=D0, F_star=F_star)
