from theory.checks import lemma_c1
from theory.formulas import noise

MUTANTS = {
    "lemma_c1.by_maximiser": [{"ratio": lambda sigma: noise.lemma_c1_ratio(1.01 * sigma)}, {"constant": 0.5111}],
    "lemma_c1.ratio_increases": {"ratio": lambda sigma: 1 - noise.lemma_c1_ratio(sigma)},
    "lemma_c1.stationary": {"t_star": lambda sigma: noise.t_star(sigma) * (1 + 1e-5)},
    "lemma_c1.series": {"nu": lambda t: lemma_c1.nu_series(t) - t / 100},
    "lemma_c1.root_above": {"share": 0.9},
    "lemma_c1.nu_below": {"bound": 1.59},
    "lemma_c1.root_below": {"share": 0.793},
    "lemma_c1.root_below_sharp": {"share": 0.793},
    "lemma_c1.dropped_root": {"without_root": noise.t_star_share()},
    "lemma_c1.rounding_slip": {"share": 1 / noise.NU_LIMIT},  # .627, not yet cut to .62
    "lemma_c1.corrected": {"constant": 0.6146},  # 0.61465 cut, not rounded up: the print's slip again
}
