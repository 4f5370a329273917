"""The paper's statements in the order of the text, each with what it is about: the headings of the table."""

from __future__ import annotations

STATEMENTS: dict[str, str] = {
    "Equation 1": "the step of SGD",
    "Section 3": "notation",
    "Equation 2": "erf and erfc",
    "Definition 4.1": "the oracle: R candidates with approximate losses, one gradient",
    "Equation 3": "GSGD picks the largest approximate loss",
    "Equation 4": "the update",
    "Section 5": "the minimisers of F are closed and compact",
    "Assumption 5.1": "continuity",
    "Assumption 5.2": "convexity",
    "Assumption 5.3": "L-smoothness",
    "Assumption 5.4": "every sample's loss has minimum 0",
    "Assumption 5.5": "approximate losses preserve the argmax",
    "Definition 5.6": "F^_R, rho_R and Delta_R",
    "Equation 5": "1 < rho*_R <= Delta_R / F*",
    "Theorem 5.7": "convergence of GSGD",
    "Beyond 5.5": "stale and other approximate losses: scores that cost nearly nothing",
    "Beyond 5.6": "how much selection can gain at most",
    "Beyond 5.7": "sharper, for eta < 2/L, any comparator, the last iterate; the k largest of B",
    "Theorem 5.8": "convergence of SGD",
    "Remark 5.9": "GSGD may be worse than SGD asymptotically",
    "Corollary 5.10": "up to which iteration GSGD's bound is better",
    "Beyond 5.10": "where the bounds cross, each at its own best step",
    "Remark 5.11": "GSGD reaches a constant factor of F* sooner",
    "Assumption 5.12": "noisy losses f exp(mu + sigma zeta)",
    "Definition 5.13": "F^_approx and rho_approx",
    "Beyond 5.13": "what noise can do at most",
    "Theorem 5.14": "convergence of GSGD with noisy losses",
    "Beyond 5.14": "noisy losses: a sharper bound, and the k largest of B",
    "Theorem 5.15": "noise costs at most the factor p(sigma), R = 2",
    "Beyond 5.15": "p_R(sigma) for every R, noise level and law; noise is never worse than random",
    "Corollary 5.16": "up to which noise level GSGD gains",
    "Beyond 5.16": "the noise level from p_R",
    "Equation 6": "the squared loss of a parameterised model",
    "Assumption 5.17": "the prediction error is Gaussian",
    "Theorem 5.18": "rho_R under Gaussian prediction errors",
    "Beyond 5.18": "sharper or wider than Theorem 5.18",
    "Corollary 5.19": "rho_R grows like log R",
    "Beyond 5.19": "rho*_R of the linear Gaussian model, exactly",
    "Equation 7": "the deep linear network",
    **{f"Equation {number}": "early predictions and their losses" for number in (8, 9, 10, 11)},
    "Equation 12": "p_j, the probability that the argmax is preserved",
    "Assumption 6.1": "Gaussian differences of signed samples",
    "Theorem 6.2": "probability that the early exit preserves the argmax",
    "Equation 13": "p_j as an integral",
    "Equation 14": "lower bound of p_j",
    "Beyond 6.2": "closed form, sharper bound, general R, and the overlap of top halves",
    "Corollary 6.3": "p_j near beta = 1",
    "Beyond 6.3": "sharper near beta = 1",
    "Section 7": "batches and gains of the experiments",
    "Beyond 8": "losses that are not convex, which the conclusion asks for",
    "Fact A.1": "|grad g|^2 <= 2 L (g - min g)",
    "Fact A.2": "Cantelli's inequality",
    "Fact A.3": "an upper bound of erf",
    "Fact A.4": "an upper bound of erfc",
    "Beyond A.4": "sharper: erfc(t) <= e^{-t^2}",
    "Fact A.5": "the half Gaussian integral",
    **{f"Equation {number}": "proof of Fact A.4 or A.5" for number in (15, 16)},
    **{f"Equation {number}": "proof of Theorem 5.7" for number in range(17, 27)},
    **{f"Equation {number}": "proof of Theorem 5.15" for number in range(27, 41)},
    "Lemma C.1": "the largest value of h(t; sigma)",
    "Beyond C.1": "the best constant of Lemma C.1",
    **{f"Equation {number}": "proof of Lemma C.1" for number in range(41, 47)},
    "Theorem D.1": "Theorem 5.18, restated",
    **{f"Equation {number}": "proof of Theorem 5.18" for number in range(47, 59)},
    **{f"Equation {number}": "proof of Theorem 6.2" for number in range(59, 83)},
}

_PLACE = {statement: place for place, statement in enumerate(STATEMENTS)}


def place(statement: str) -> int:
    """Where `statement` stands in the paper.

    Raises:
        ValueError: if the paper has no such statement.
    """
    if statement not in _PLACE:
        raise ValueError(f"{statement!r} is no statement of the paper")
    return _PLACE[statement]
