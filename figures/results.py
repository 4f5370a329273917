"""The one reader of results/, which makes tables of what `gsgd verify`, `gsgd train` and `gsgd compare` wrote.

Tables of the theory are named "theory/noise" and so on. Of the training there are eight, over all that is recorded:

    evaluations  one row an evaluation of a run; `diverged` says whether any run of its method did
    runs         one row a run, with its configuration and where it ended
    summaries    one row a method of a finished comparison; those of one preset stand together
    costs        one row a method of a comparison: what its steps cost, as measured
    readings     one row a reading of a run's scores, beside what the formulas say
    diagnosis    one row an exit at a point of a diagnosis
    ladders      one row a method at a rung of a finished ladder of budgets
    claims       one row a method of such a ladder and a measure of its speed-up
    claims_in_seconds    the same by the clock, of ladders whose runs had one machine to themselves

Two folders are read together: what was made here, and what the project recorded. A result is a folder (the theory, a
comparison, a run, a diagnosis), and one that was made here hides the project's of the same name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from figures.checked import Cell, Missing, fields, read_object, read_table
from figures.chosen import read_chosen
from figures.forecasts import read_forecasts
from figures.ladders import CLAIMS_IN_SECONDS, LADDER, read_claims, read_rows
from figures.measured import DIAGNOSIS, OLD_READINGS, READINGS, read_diagnoses, read_readings

OWN, RECORDED = Path("results"), Path("recorded")
"""Folders of what commands make here, and of what the project recorded, where it is a checkout."""
HEADER, COMPARE, EVALUATIONS, SUMMARY = "header.json", "compare.json", "evaluations.csv", "summary.csv"

_CURVE = {"quantity": Cell.TEXT, "value": Cell.NUMBER}
_SIMULATED = {**_CURVE, "low": Cell.OPTIONAL, "high": Cell.OPTIONAL}
THEORY: dict[str, tuple[dict[str, Cell], tuple[str, ...]]] = {
    "gaussian_rho": ({"R": Cell.NUMBER, "eps_over_delta": Cell.NUMBER, **_CURVE}, ("exact", "bound")),
    "noise": ({"sigma": Cell.NUMBER, **_SIMULATED}, ("p", "p_sharp")),
    "lemma_c1": ({"sigma": Cell.NUMBER, **_CURVE}, ("ratio",)),
    "agreement": (
        {"beta": Cell.NUMBER, **_SIMULATED},
        ("closed form", "Equation 14", "sharper bound", "simulated", "top-half overlap, limit"),
    ),
    "trajectories": ({"K": Cell.NUMBER, "method": Cell.TEXT, **_SIMULATED}, ("mean", "bound", "crossing")),
    "top_k": ({"keep": Cell.NUMBER, "B": Cell.OPTIONAL, **_CURVE}, ("rho", "CVaR limit")),
    "worst_case": (
        {
            "theorem": Cell.TEXT,
            **dict.fromkeys(("n", "R", "k", "K"), Cell.WHOLE),
            **dict.fromkeys(("sigma", "eta", "rho", "Delta", "bound", "sharper_bound"), Cell.NUMBER),
            **dict.fromkeys(("worst_case", "found"), Cell.OPTIONAL),
        },
        (),
    ),
}
"""Table -> (its columns, what its column `quantity` must have at least once)."""

_MEASURED = ("backprop_samples", "val_accuracy", "wall_clock_s", "selection_s", "forward_s", "backward_s")
"""Columns of an evaluation; a run has those of its last one."""
_EVALUATION = {
    "method": Cell.TEXT,
    **dict.fromkeys(("step", "seed"), Cell.WHOLE),
    **dict.fromkeys(_MEASURED, Cell.NUMBER),
    **dict.fromkeys(("reference_s", "overlap", "rank_correlation"), Cell.OPTIONAL),
}
_INTERVALS = (
    *("val_accuracy", "test_accuracy", "over_baseline", "over_random", "seconds_to_target", "samples_to_target"),
)
_SUMMARY = {
    "method": Cell.TEXT,
    **dict.fromkeys(("runs", "diverged", "reached"), Cell.WHOLE),
    **dict.fromkeys(("steps", "backprop_samples", "reference_s", "scoring_share"), Cell.ANY_NUMBER),
    **{f"{name}{half}": Cell.OPTIONAL for name in _INTERVALS for half in ("", "_half_width")},
}
_RUN_COLUMNS = (
    *("group", "run", "place", "preset", "method", "base_method", "seed", "status", "budget", "keep", "max_lr"),
    *("samples_per_step", "config", "header", "step", "test_accuracy", *_MEASURED),
)
_HEADER = {
    "name": str,
    "status": Literal["finished", "running", "interrupted", "diverged"],
    "processes": int,
    **dict.fromkeys(("config.method", "config.label", "config.budget"), str),
    **dict.fromkeys(("config.seed", "config.batch_size", "config.accumulation_steps"), int),
    **dict.fromkeys(("config.keep", "config.max_lr"), float),
}
_COMPARE = {"name": str, "config.budget": str, "config.keep": float, "methods": list[str], "step_costs": dict}
_PROVENANCE = {
    **dict.fromkeys(("command", "date", "machine", "python"), str),
    **dict.fromkeys(("commit", "device"), str | None),
    **dict.fromkeys(("versions", "data"), dict),
    **dict.fromkeys(("sweep", "tuned"), dict | None),
    **{"parameters": int | None, "seeds": int, "target": float, "test_accuracy": float | None},
}
"""What headers say of where something came from; older ones lack some of it."""
_NOT_A_VARIANT = ("seed", "label", "test", "cache_dir", "tensorboard", "checkpoint_every_s", "save_model", "method")
"""Keys by which two single runs may differ and still be of one method."""


class Results:
    """Results in a folder, and behind them those that the project recorded, read when they are asked for."""

    def __init__(self, folder: str | Path, recorded: Path | None = None):
        self.folder = Path(folder)
        self.folders = [self.folder] if recorded is None else [self.folder, recorded]

    @classmethod
    def of(cls, given: Path | None) -> Results:
        """The results in the folder given; by default what was made here and what the project recorded.

        Raises:
            ValueError: if there is no such folder.
        """
        results = cls(OWN, RECORDED) if given is None else cls(given)
        if not any(folder.is_dir() for folder in results.folders):
            raise ValueError(
                f"there is no folder {results.folder}: gsgd verify, gsgd train and gsgd compare write results"
            )
        return results

    @property
    def theory(self) -> Path:
        """The folder of what `gsgd verify` wrote."""
        there = [folder / "theory" for folder in self.folders if (folder / "theory").is_dir()]
        return there[0] if there else self.folder / "theory"

    def found(self, name: str) -> dict[str, Path]:
        """Folder in the results -> its file of that name; what was made here first."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted(folder.rglob(name)):
                place = path.parent.relative_to(folder)
                hidden = any(
                    (self.folder / outer / whole).exists()
                    for outer in (place, *place.parents)
                    for whole in (COMPARE, LADDER)
                )
                if folder == self.folder or not hidden:
                    found.setdefault(place.as_posix(), path)
        return found

    @functools.cached_property
    def origins(self) -> dict[str, str]:
        """Theory, diagnoses, single runs, comparisons -> "recorded by the project" or "made here on" a date."""
        theory = {"theory": self.theory / "verify.json"} if self.theory.is_dir() else {}
        found = {**theory, **self.found(DIAGNOSIS), **self.single, **self.found(COMPARE), **self.found(LADDER)}
        return {name: _origin(path) for name, path in found.items()}

    def table(self, name: str) -> pd.DataFrame:
        """The table of that name, with at least one row.

        Raises:
            Missing: if nothing of it was recorded, naming the file and the command that writes it.
            ValueError: if what was recorded is malformed, naming the file and the field; or if no table is so called.
        """
        if name.startswith("theory/") and name.removeprefix("theory/") in THEORY:
            return self._theory(name.removeprefix("theory/"))
        if name not in self._of_training:
            known = [*(f"theory/{table}" for table in THEORY), *self._of_training]
            raise ValueError(f"there is no table {name!r}; there are: {', '.join(known)}")
        read, nothing = self._of_training[name]
        rows = read()
        if rows.empty:
            raise Missing(f"{self.folder} has {nothing}")
        return rows

    def runs_if_any(self) -> pd.DataFrame:
        """The table "runs", without rows where no run was recorded."""
        return pd.DataFrame([row for row, _ in self.runs], columns=list(_RUN_COLUMNS))

    @functools.cached_property
    def _of_training(self) -> dict[str, tuple[Callable[[], pd.DataFrame], str]]:
        """Table -> (how it is read, what is missing where it has no rows)."""
        both = "(gsgd train and gsgd compare write them)"
        meters = "no readings (train with --meter_every 20, say, then gsgd diagnose FOLDER writes them)"
        return {
            "evaluations": (self._evaluations, f"no evaluated run {both}"),
            "runs": (self.runs_if_any, f"no run {both}"),
            "summaries": (self._summaries, "no finished comparison (gsgd compare writes them)"),
            "costs": (self._costs, "no comparison (gsgd compare writes them)"),
            "readings": (lambda: read_readings(self.found(OLD_READINGS) | self.found(READINGS)), meters),
            "diagnosis": (
                lambda: read_diagnoses(self.found(DIAGNOSIS)),
                "no diagnosis (gsgd diagnose CONFIG writes it)",
            ),
            "chosen": (self._chosen, "no log of rows (train with --log_rows true)"),
            "ladders": (
                lambda: read_rows(self.found(LADDER)),
                "no finished ladder (gsgd compare --ladder writes them)",
            ),
            "forecasts": (
                lambda: read_forecasts(self.found(DIAGNOSIS), self.found(LADDER)),
                "no setting with both a forecast (gsgd diagnose) and a ladder (gsgd compare --ladder) of one name",
            ),
            "claims": (
                lambda: read_claims(self.found(LADDER)),
                "no claim of a ladder (gsgd compare --ladder writes them)",
            ),
            "claims_in_seconds": (
                lambda: read_claims(self.found(LADDER), CLAIMS_IN_SECONDS),
                "no claim of a ladder in seconds (gsgd compare --ladder --jobs 1 writes them)",
            ),
        }

    def _theory(self, name: str) -> pd.DataFrame:
        columns, quantities = THEORY[name]
        path = self.theory / f"{name}.csv"
        try:
            found = read_table(path, columns)
        except Missing as missing:
            extra = ", with the extra worst-case" if name == "worst_case" else ""
            raise Missing(f"{missing} (gsgd verify writes it{extra})") from None
        for quantity in quantities:
            if quantity not in set(found["quantity"]):
                raise ValueError(f"{path}, column quantity: no row has {quantity!r}")
        return found

    @functools.cached_property
    def comparisons(self) -> list[tuple[str, Path, dict[str, Any]]]:
        """(name, folder, content of compare.json) of each comparison."""
        found = []
        for place, path in self.found(COMPARE).items():
            content = _read_header(path)
            fields(content, _COMPARE, path)
            found.append((place, path.parent, content))
        return found

    @functools.cached_property
    def single(self) -> dict[str, Path]:
        """Place -> header of each run that is of no comparison, nor of a ladder, which has tables of its own."""
        found = {}
        ladders = [path.parent for path in self.found(LADDER).values()]
        taken = {f"{name}/{path.parent.name}" for name, folder, _ in self.comparisons for path in _runs(folder)}
        for place, path in self.found(HEADER).items():
            if not any(folder in path.parents for folder in [*ladders, *(folder for _, folder, _ in self.comparisons)]):
                # A comparison that the project recorded keeps its runs, whatever was made here in their place.
                found[f"{place} (made here)" if place in taken else place] = path
        return found

    @functools.cached_property
    def runs(self) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        """(row of the table "runs", evaluations) of each run but those that tuned, comparisons' first."""
        found = []
        for name, folder, content in self.comparisons:
            for path in _runs(folder):
                row, evaluations = _read_run(path, f"{name}/{path.parent.name}")
                found.append(({**row, "group": name, "budget": content["config"]["budget"]}, evaluations))
        single = [_read_run(path, place) for place, path in self.single.items()]
        _tell_apart([row for row, _ in single])
        return found + single

    def _evaluations(self) -> pd.DataFrame:
        parts = [
            evaluations.assign(**{name: row[name] for name in ("group", "run", "method", "status", "keep")})
            for row, evaluations in self.runs
            if len(evaluations)
        ]
        diverged = {(row["group"], row["method"]) for row, _ in self.runs if row["status"] == "diverged"}
        having = {part["group"].iloc[0] for part in parts}
        for name, folder, content in self.comparisons:
            # Without the folders of its runs there is still the table of them all.
            if name not in having and (folder / EVALUATIONS).exists():
                part = read_table(folder / EVALUATIONS, _EVALUATION)
                run = part["method"] + "-seed" + part["seed"].astype(str)
                parts.append(part.assign(group=name, run=run, status="finished", keep=content["config"]["keep"]))
        if not parts:
            return pd.DataFrame()
        found = pd.concat(parts, ignore_index=True)
        # A run may diverge before its first evaluation: its method still has a run that diverged.
        of = zip(found["group"], found["method"], strict=True)
        return found.assign(diverged=[method in diverged for method in of])

    def _chosen(self) -> pd.DataFrame:
        folders = {
            f"{name}/{path.parent.name}": path.parent for name, folder, _ in self.comparisons for path in _runs(folder)
        }
        folders |= {place: path.parent for place, path in self.single.items()}
        return read_chosen({folders[row["place"]]: row for row, _ in self.runs})

    def _summaries(self) -> pd.DataFrame:
        parts: dict[str, list[pd.DataFrame]] = {}
        for name, folder, content in self.comparisons:
            if (folder / SUMMARY).exists():
                target = fields(content, {"target": float}, folder / COMPARE)["target"]
                found = read_table(folder / SUMMARY, _SUMMARY)
                of_preset = parts.setdefault(content["name"], [])
                of_preset.append(found.assign(group=name, preset=content["name"], target=target))
        together = [part for of_preset in parts.values() for part in of_preset]
        return pd.concat(together, ignore_index=True) if together else pd.DataFrame()

    def _costs(self) -> pd.DataFrame:
        rows = []
        for name, folder, content in self.comparisons:
            for method in content["methods"]:
                kinds = {"plain_s": float, "selecting_s": float}
                costs = fields(content["step_costs"].get(method, {}), kinds, folder / COMPARE)
                rows.append({"group": name, "method": method, **costs})
        return pd.DataFrame(rows)


def _origin(path: Path) -> str:
    if RECORDED.resolve() in path.resolve().parents:
        return "recorded by the project"
    content = read_object(path) if path.exists() else {}
    date = content.get("header", content).get("date")
    return f"made here on {date[:10]}" if isinstance(date, str) else "made here"


def _runs(comparison: Path) -> list[Path]:
    """The headers of a comparison's runs; those that tuned lie one folder deeper."""
    return sorted(comparison.glob(f"*/{HEADER}"))


def _read_header(path: Path) -> dict[str, Any]:
    content = read_object(path)
    fields(content, {name: kind for name, kind in _PROVENANCE.items() if name in content}, path)
    return content


def _read_run(path: Path, place: str) -> tuple[dict[str, Any], pd.DataFrame]:
    header = _read_header(path)
    row = fields(header, _HEADER, path)
    table = path.parent / EVALUATIONS
    evaluations = read_table(table, _EVALUATION) if table.exists() else pd.DataFrame()
    last = evaluations.iloc[-1] if len(evaluations) else {}
    tested = header.get("test_accuracy")
    row |= {
        # Runs of one family of presets, such as cifar100/same-time, are shown together.
        "group": row["name"].rpartition("/")[0] or row["name"],
        "run": path.parent.name,
        "place": place,
        "preset": row["name"],
        "method": row["label"] or row["method"],
        "base_method": row["method"],
        "samples_per_step": _samples_per_step(row, header["config"].get("draw", 0)),
        "config": header["config"],
        "header": header,
        **{name: float(last.get(name, math.nan)) for name in ("step", *_MEASURED)},
        "test_accuracy": math.nan if tested is None else float(tested),
    }
    return row, evaluations


def _samples_per_step(row: dict[str, Any], draw: int) -> float:
    """Rows that all devices together train on in a step; NaN where steps with selection have fewer than others.

    Args:
        draw: rows drawn in every step, in place of `batch_size`; 0 for none.
    """
    if draw and row["method"] not in ("baseline", "focal", "loss-power"):
        return math.nan
    return float((draw or row["batch_size"]) * row["accumulation_steps"] * row["processes"])


def _tell_apart(rows: list[dict[str, Any]]) -> None:
    """Give single runs of one method whose configurations differ different names, as a comparison would call them."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["group"], row["base_method"]), []).append(row)
    for runs in kinds.values():
        keys = [key for key in runs[0]["config"] if key not in _NOT_A_VARIANT]
        differing = [key for key in keys if len({str(row["config"].get(key)) for row in runs}) > 1]
        taken: set[tuple[str, int]] = set()
        for row in runs:
            row["method"] = ":".join([row["method"], *(f"{key}={row['config'].get(key)}" for key in differing)])
            if (row["method"], row["seed"]) in taken:
                row["method"] = f"{row['method']}:run={row['run']}"
            taken.add((row["method"], row["seed"]))
