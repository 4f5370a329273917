"""Small recorded results, made here from known numbers, in the files that verify, train and compare write."""

import csv
import json
import math

from scipy.stats import t as student

COLUMNS = (
    *("step", "method", "score", "exit_layer", "seed", "backprop_samples", "gross_samples", "wall_clock_s"),
    *("selection_s", "forward_s", "backward_s", "val_accuracy", "val_loss", "train_loss", "reference_s"),
    *("overlap", "rank_correlation"),
)
INTERVALS = (
    *("val_accuracy", "val_loss", "test_accuracy", "over_baseline", "over_random"),
    *("seconds_to_target", "samples_to_target"),
)
PLAIN = ("steps", "backprop_samples", "wall_clock_s", "reference_s", "scoring_share")


def write_csv(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return path


def config(method="baseline", seed=0, **values):
    """A configuration's values, as headers have them."""
    return {
        "task": "resnet",
        "method": method.split(":")[0],
        "label": method,
        "seed": seed,
        "keep": 0.5,
        "budget": "5s",
        "max_lr": 5e-3,
        "batch_size": 10,
        "accumulation_steps": 1,
        "select": "top-k",
        **values,
    }


def evaluation(step, accuracy, method="baseline", seed=0, **values):
    """An evaluation by round numbers: a step has 10 samples and takes 0.1 s, 0.02 s of it forward, .05 s backward."""
    score, _, layer = method.split(":")[0].partition("@")
    scored = bool(layer)
    row = {
        "step": step,
        "method": method,
        "score": score if scored or method == "random" else None,
        "exit_layer": int(layer) if layer.isdigit() else None,
        "seed": seed,
        "backprop_samples": 10 * step,
        "gross_samples": 20 * step,
        "wall_clock_s": 0.1 * step,
        "selection_s": 0.02 * step if scored else 0.0,
        "forward_s": 0.02 * step,
        "backward_s": 0.05 * step,
        "val_accuracy": accuracy,
        "val_loss": 1 - accuracy,
        "train_loss": None,
        "reference_s": 0.2 * step,
        "overlap": None,
        "rank_correlation": None,
        **values,
    }
    return tuple(row[name] for name in COLUMNS)


def write_run(folder, accuracies, method="baseline", seed=0, status="finished", name="tiny", every=10, **more):
    """A run evaluated every so many steps.

    Args:
        more: `values` of its evaluations, `test` accuracy, `header` entries; all others are its configuration's.
    """
    values, header, test = more.pop("values", {}), more.pop("header", {}), more.pop("test", None)
    content = {
        "name": name,
        "status": status,
        "processes": 1,
        "total_steps": every * len(accuracies),
        "step_costs": None,
        "config": config(method, seed, **more),
        **header,
    }
    if test is not None:
        content["test_accuracy"] = test
    folder.mkdir(parents=True)
    (folder / "header.json").write_text(json.dumps(content))
    rows = [evaluation(every * (i + 1), value, method, seed, **values) for i, value in enumerate(accuracies)]
    if rows:
        write_csv(folder / "evaluations.csv", COLUMNS, rows)
    return folder


def interval(values):
    """(mean, half-width of its 95% interval), by scipy alone."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, student.ppf(0.975, n - 1) * deviation / math.sqrt(n)


def write_comparison(folder, curves, *, target=0.5, costs=None, name="tiny", summary=True, **more):
    """A comparison of `curves`: method -> one list of accuracies a seed; None for a seed whose run diverged.

    Args:
        costs: method -> (plain, selecting) seconds.
        more: as of `write_run`.
    """
    costs = costs or {method: (0.2, 0.2 if method == "baseline" else 0.25) for method in curves}
    for method, seeds in curves.items():
        for seed, accuracies in enumerate(seeds):
            run = folder / f"{method.replace(':', '-')}-seed{seed}"
            status = "diverged" if accuracies is None else "finished"
            write_run(run, accuracies or [], method, seed, status, name, **{**more})
    content = {
        "name": name,
        "config": config(
            "baseline", **{key: value for key, value in more.items() if key not in ("values", "test", "header")}
        ),
        "methods": list(curves),
        "seeds": 2,
        "sweep": None,
        "step_costs": {
            method: dict(zip(("plain_s", "selecting_s"), pair, strict=True)) for method, pair in costs.items()
        },
    }
    if summary:
        content["target"] = target
        columns = ["method", "runs", "diverged", "reached", *PLAIN]
        columns += [column for entry in INTERVALS for column in (entry, f"{entry}_half_width")]
        write_csv(folder / "summary.csv", columns, [_summary(method, curves, target) for method in curves])
    (folder / "compare.json").write_text(json.dumps(content))
    return folder


def _summary(method, curves, target):
    whole = all(curve is not None for curve in curves[method])
    ends = [curve[-1] for curve in curves[method] if curve is not None]

    def over(other):
        if method == other or not whole or None in curves.get(other, [None]):
            return None, None
        return interval([mine - its[-1] for mine, its in zip(ends, curves[other], strict=True)])

    reached = [curve for curve in curves[method] if curve is not None and max(curve) >= target]
    steps = [10 * (1 + next(i for i, value in enumerate(curve) if value >= target)) for curve in reached]
    everywhere = whole and len(reached) == len(curves[method])
    intervals = {
        "val_accuracy": interval(ends) if whole else (None, None),
        "over_baseline": over("baseline"),
        "over_random": over("random"),
        "seconds_to_target": interval([0.2 * step for step in steps]) if everywhere else (None, None),
        "samples_to_target": interval([10.0 * step for step in steps]) if everywhere else (None, None),
    }
    last = 10 * len(next((curve for curve in curves[method] if curve), []))
    share = 0.2 if "@" in method else 0.0
    plain = (last, 10 * last, 0.1 * last, 0.2 * last, share)
    cells = [cell for entry in INTERVALS for cell in intervals.get(entry, (None, None))]
    return [method, len(curves[method]), sum(c is None for c in curves[method]), len(reached), *plain, *cells]


# ---- Tables of the theory, with values that are easy to tell apart ----


def write_theory(folder):
    """Tables as `gsgd verify` writes them, few rows each, in which every bound holds."""
    theory = folder / "theory"
    write_csv(
        theory / "gaussian_rho.csv",
        ("R", "eps_over_delta", "quantity", "value"),
        [
            *((2, 0.0, "exact", 1.5), (10, 0.0, "exact", 4.0), (100, 0.0, "exact", 8.0)),
            *((10, 0.0, "bound", 1.0), (100, 0.0, "bound", 4.0)),
            *((2, 1.0, "exact", 1.2), (10, 1.0, "exact", 2.0), (100, 1.0, "exact", 3.0)),
            *((10, 1.0, "bound", 1.5), (100, 1.0, "bound", 2.7)),
        ],
    )
    curves = [(s, "p", 1 - s, None, None) for s in (0.0, 0.2, 0.3)]
    curves += [(s, "p_sharp", 1 - 0.5 * s, None, None) for s in (0.0, 0.2, 0.3, 1.0)]
    for law, slope in (("gaussian", 0.1), ("rademacher", 0.2)):
        curves += [(s, f"exact, {law}", 1 - slope * s, None, None) for s in (0.0, 0.2, 0.3, 1.0)]
        curves += [(1.0, f"simulated, {law}", 1 - slope, 0.98 - slope, 1.03 - slope)]
    write_csv(theory / "noise.csv", ("sigma", "quantity", "value", "low", "high"), curves)
    ratios = [(s, "ratio", 0.5 + 0.03 * s) for s in (0.0, 0.1, 0.3, 1.0, 5.0, 10.0)]
    write_csv(theory / "lemma_c1.csv", ("sigma", "quantity", "value"), ratios)
    rows = []
    for b in (0.0, 0.5, 0.8, 0.95, 1.0):
        same = 1 - math.acos(b) / math.pi
        bound = 1 - math.sqrt((2 - 2 * b * b) / (2 - b * b))
        rows += [(b, "closed form", same, None, None), (b, "Equation 14", bound, None, None)]
        rows += [(b, "sharper bound", (1 + bound) / 2, None, None), (b, "top-half overlap, limit", same, None, None)]
    rows += [(0.5, "simulated", 0.66, 0.65, 0.68), (0.8, "simulated", 0.79, 0.78, 0.81)]
    rows += [(0.5, "top-half overlap, B = 4", 0.65, 0.62, 0.69), (0.5, "top-half overlap, B = 16", 0.66, 0.65, 0.67)]
    write_csv(theory / "agreement.csv", ("beta", "quantity", "value", "low", "high"), rows)
    rows = []
    for k, fast, slow in ((1, 2.0, 2.0), (10, 0.5, 1.0), (100, 0.4, 0.5), (1000, 0.4, 0.3)):
        rows += [(k, "GSGD", "mean", fast, fast - 0.01, fast + 0.01), (k, "SGD", "mean", slow, slow, slow)]
        rows += [(k, "GSGD", "bound", 50 / k + 1, None, None), (k, "SGD", "bound", 100 / k + 0.5, None, None)]
    rows += [(100.0, "both", "crossing", 1.5, None, None)]
    write_csv(theory / "trajectories.csv", ("K", "method", "quantity", "value", "low", "high"), rows)
    rows = [
        (0.5, 2, "rho", 1.5),
        (1.0, 2, "rho", 1.0),
        (0.25, 4, "rho", 2.1),
        (0.5, 4, "rho", 1.6),
        (1.0, 4, "rho", 1.0),
    ]
    rows += [(q, None, "CVaR limit", 1 - math.log(q)) for q in (0.25, 0.5, 1.0)]
    write_csv(theory / "top_k.csv", ("keep", "B", "quantity", "value"), rows)
    # theorem, n, R, k, sigma, eta, rho, Delta, K, worst case, bound, its share, sharper bound, largest found.
    rows = [
        ("Theorem 5.7", n, 2, 1, 0.0, eta, rho, 0.25, K, 0.5, 0.5 * factor, 1 / factor, 0.5 * sharper, 0.4)
        for n, rho in ((2, 1.0), (3, 1.2))
        for K, sharper in ((2, 1.0), (3, 1.5))
        for eta, factor in ((0.25, 2.5), (0.5, 1.0 + K))
    ]
    rows.append(("Theorem 5.8", 2, 1, 1, 0.0, 0.5, 1.0, 0.25, 2, None, 3.0, None, 1.0, None))
    rows.append(("Theorem 5.8", 2, 1, 1, 0.0, 0.25, 1.0, 0.25, 2, 0.25, 2.0, 0.125, 0.25, None))
    # One iteration stands apart and is not drawn.
    rows.append(("Theorem 5.8", 2, 1, 1, 0.0, 0.25, 1.0, 0.25, 1, 0.25, 9.0, 0.028, 0.25, None))
    columns = ("theorem", "n", "R", "k", "sigma", "eta", "rho", "Delta", "K")
    write_csv(theory / "worst_case.csv", (*columns, "worst_case", "bound", "looseness", "sharper_bound", "found"), rows)
    return folder


# ---- Readings of scores, and diagnoses ----

READING_COLUMNS = (
    *("run", "method", "seed", "step", "exit_layer", "rows", "kept", "rho", "rho_approx", "rho_pairs"),
    *("rho_pairs_approx", "sigma", "independence", "margin_correlation", "pairwise_agreement", "overlap"),
    *("rank_correlation", "overlap_finite", "overlap_limit", "agreement_predicted", "beta_from_agreement"),
    *("sigma_max", "sigma_max_sharp", "rho_pairs_guaranteed", "independence_level"),
)


def reading(step, beta=0.7, method="loss@1", seed=0, **changes):
    """Round numbers: the overlap is 0.05 above its law, and pairs 0.02 below theirs."""
    law = 0.5 + math.asin(beta) / math.pi
    row = {
        **{"run": f"{method}-seed{seed}", "method": method, "seed": seed, "step": step, "exit_layer": 1},
        **{"rows": 16, "kept": 8, "rho": 1.5, "rho_approx": 1.2, "rho_pairs": 1.4, "rho_pairs_approx": 1.2},
        **{"sigma": 0.3 + 0.01 * step, "independence": -0.2, "margin_correlation": beta},
        **{"pairwise_agreement": law - 0.02, "overlap": law - 0.01 + 0.05, "rank_correlation": 0.6},
        **{"overlap_finite": law - 0.01, "overlap_limit": law, "agreement_predicted": law},
        **{"beta_from_agreement": 0.65, "sigma_max": 0.36, "sigma_max_sharp": 0.6},
        **{"rho_pairs_guaranteed": 1.1, "independence_level": 0.3, **changes},
    }
    return tuple(row[name] for name in READING_COLUMNS)


def write_readings(folder, rows, name="readings.csv"):
    """The table that `gsgd diagnose FOLDER` writes, of such rows."""
    return write_csv(folder / name, READING_COLUMNS, rows)


def write_log(run, steps, part=0, rank=0):
    """A part of a log of rows; `steps`: for each, id -> whether it was kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(step, name, kept) for step, drawn in enumerate(steps) for name, kept in drawn.items()]
    step, name, kept = zip(*rows, strict=True)
    (run / "rows").mkdir(exist_ok=True)
    path = run / "rows" / f"rank-{rank}-part-{part:06d}.parquet"
    pq.write_table(pa.table({"step": step, "id": name, "kept": kept}), path)
    return path


def exit_of(layer, cost, gain, overlap=0.8, **changes):
    """An exit of a diagnosis."""
    entry = {
        **{"exit_layer": layer, "means": {"overlap": overlap}, "predicted": {"overlap_finite": overlap - 0.05}},
        **{"overlap_half_width": 0.02, "cost": cost, "cost_low": cost - 0.05, "cost_high": cost + 0.1},
        **{"gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.2, "break_even": 1 + cost},
    }
    return {**entry, **changes}


def write_diagnosis(folder, *points, budget="200work", **factors):
    """A diagnosis of points (step, verdict, recommended, exits).

    Args:
        factors: score, with _ for -, -> its forecast factor, at a cost of 1.
    """
    folder.mkdir(parents=True)
    forecasts = [
        {"score": score.replace("_", "-"), "progress": factor**1.25, "ceiling": 3.0, "cost": 1.0}
        | {"factor": factor, "low": factor / 1.25, "high": factor * 1.25, "verdict": ""}
        for score, factor in factors.items()
    ]
    entries = [
        {"step": step, "level": 0.75, "verdict": verdict, "recommended": recommended, "exits": exits}
        for step, verdict, recommended, exits in points
    ]
    content = {"name": "x", "score": "loss", "points": entries, "config": {"budget": budget}, "forecasts": forecasts}
    (folder / "diagnosis.json").write_text(json.dumps(content))
    return folder / "diagnosis.json"


def write_ladder(folder, claimed, *, runs=3, split="test", in_seconds=None, **cells):
    """A finished ladder of the budgets 100, 200 and 400 work: plain training, and methods with what is claimed of them.

    Args:
        claimed: method -> (factor, low, high), which is also its speed-up at every rung.
        in_seconds: the same by the clock; nothing is claimed by it where None.
        cells: of every method's row at a rung.
    """
    rungs = [100, 200, 400]
    columns = ["method", "budget", "runs", "diverged", "tried"]
    columns += [f"{measure}{half}" for measure in ("accuracy", "loss") for half in ("", "_half_width")]
    columns += [f"by_{measure}_{end}" for measure in ("accuracy", "loss") for end in ("factor", "low", "high")]
    rows = []
    for number, (method, speed_up) in enumerate({"baseline": (None,) * 3, **claimed}.items()):
        for rung, budget in enumerate(rungs):
            values = [0.5 + 0.1 * rung + 0.01 * number, 0.02, 1.5 - 0.1 * rung, 0.03]
            row = dict(zip(columns, [method, budget, runs, 0, 4, *values, *speed_up, *speed_up], strict=True))
            rows.append([{**row, **({} if method == "baseline" else cells)}[name] for name in columns])
    write_csv(folder / "ladder.csv", columns, rows)
    for name, of_table in (("claims", claimed), ("claims_in_seconds", in_seconds or {})):
        claims = [
            [method, measure, 1, *speed_up, "on the ladder"]
            for method, speed_up in of_table.items()
            for measure in ("accuracy", "loss")
        ]
        if claims:
            columns = ["method", "measure", "rungs", "factor", "low", "high", "place"]
            write_csv(folder / f"{name}.csv", columns, claims)
    content = {"date": "2025-03-04T05:06:07+00:00", "rungs": [f"{budget}work" for budget in rungs], "split": split}
    (folder / "ladder.json").write_text(json.dumps(content))
