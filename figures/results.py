"""The one reader of results/, which makes tables of what `gsgd verify`, `gsgd train` and `gsgd compare` wrote.

Tables of the theory are named "theory/noise" and so on. Of the training there are six, each over all that is recorded:

    evaluations  one row an evaluation of a run; `diverged` says whether any run of its method did
    runs         one row a run, with its configuration and where it ended
    summaries    one row a method of a finished comparison
    costs        one row a method of a comparison: the measured prices of its steps
    readings     one row a reading of a run's scores, beside what the formulas say
    diagnosis    one row an exit at a point of a diagnosis

Two folders are read together: what was made here, and what the project recorded. A result is a folder (the theory, a
comparison, a run, a diagnosis), and one that was made here hides the project's of the same name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Cell, Missing, choice, field, read_object, read_table
from figures.measured import DIAGNOSIS, READINGS, read_diagnoses, read_readings

OWN, RECORDED = Path("results"), Path("recorded")
"""Folders of what commands make here, and of what the project recorded, where it is a checkout."""
STATUSES = ("finished", "running", "interrupted", "diverged")
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
_HEADER: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "status", "config.method", "config.label", "config.budget"), str),
    **dict.fromkeys(("processes", "config.seed", "config.batch_size", "config.accumulation_steps"), int),
    **dict.fromkeys(("config.keep", "config.max_lr"), (int, float)),
}
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
                hidden = any((self.folder / outer / COMPARE).exists() for outer in (place, *place.parents))
                if folder == self.folder or not hidden:
                    found.setdefault(place.as_posix(), path)
        return found

    def origins(self) -> dict[str, str]:
        """Folder in the results -> "recorded by the project" or "made here on" a date: the theory, each header."""
        files = {"theory": self.theory / "verify.json"}
        for name in (DIAGNOSIS, HEADER, COMPARE):
            files |= self.found(name)
        return {place: _origin(path) for place, path in files.items() if path.parent.is_dir()}

    def by_origin(self) -> dict[str, list[str]]:
        """Who made what is there -> the names of what they made: the theory, comparisons and single runs."""
        names: dict[str, list[str]] = {}
        comparisons = self.found(COMPARE)
        for place, origin in self.origins().items():
            if not any(outer.as_posix() in comparisons for outer in Path(place).parents):
                names.setdefault(origin, []).append(place)
        return names

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
        return pd.DataFrame([row for _, row, _ in self.runs], columns=list(_RUN_COLUMNS))

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
            "readings": (lambda: read_readings(self.found(READINGS)), meters),
            "diagnosis": (
                lambda: read_diagnoses(self.found(DIAGNOSIS)),
                "no diagnosis (gsgd diagnose CONFIG writes it)",
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
            content = read_object(path)
            for name, kinds in (("name", str), ("config.budget", str), ("methods", list), ("step_costs", dict)):
                field(content, name, kinds, path)
            found.append((place, path.parent, content))
        return found

    @functools.cached_property
    def runs(self) -> list[tuple[Path, dict[str, Any], pd.DataFrame]]:
        """(folder, row of the table "runs", evaluations) of each run but those that tuned, comparisons' first."""
        found = []
        for name, folder, content in self.comparisons:
            # Runs that tuned lie one folder deeper.
            for path in sorted(folder.glob(f"*/{HEADER}")):
                run = _read_run(path, f"{name}/{path.parent.name}")
                run[1].update(group=name, budget=content["config"]["budget"])
                found.append(run)
        beneath = [folder for _, folder, _ in self.comparisons]
        single = [
            _read_run(path, place)
            for place, path in self.found(HEADER).items()
            if not any(folder in path.parents for folder in beneath)
        ]
        _tell_apart([row for _, row, _ in single])
        return found + single

    def _evaluations(self) -> pd.DataFrame:
        parts = [
            evaluations.assign(**{name: row[name] for name in ("group", "run", "method", "status", "keep")})
            for _, row, evaluations in self.runs
            if len(evaluations)
        ]
        diverged = {(row["group"], row["method"]) for _, row, _ in self.runs if row["status"] == "diverged"}
        having = {part["group"].iloc[0] for part in parts}
        for name, folder, content in self.comparisons:
            # Without the folders of its runs there is still the table of them all.
            if name not in having and (folder / EVALUATIONS).exists():
                keep = field(content, "config.keep", (int, float), folder / COMPARE)
                part = read_table(folder / EVALUATIONS, _EVALUATION)
                run = part["method"] + "-seed" + part["seed"].astype(str)
                parts.append(part.assign(group=name, run=run, status="finished", keep=keep))
        if not parts:
            return pd.DataFrame()
        found = pd.concat(parts, ignore_index=True)
        # A run may diverge before its first evaluation: its method still has a run that diverged.
        of = zip(found["group"], found["method"], strict=True)
        return found.assign(diverged=[method in diverged for method in of])

    def _summaries(self) -> pd.DataFrame:
        parts = []
        for name, folder, content in self.comparisons:
            if (folder / SUMMARY).exists():
                target = field(content, "target", (int, float), folder / COMPARE)
                parts.append(read_table(folder / SUMMARY, _SUMMARY).assign(group=name, target=float(target)))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _costs(self) -> pd.DataFrame:
        rows = []
        for name, folder, content in self.comparisons:
            for method in content["methods"]:
                costs = {
                    kind: field(content["step_costs"].get(method, {}), kind, (int, float), folder / COMPARE)
                    for kind in ("plain_s", "selecting_s")
                }
                rows.append({"group": name, "method": method, **costs})
        return pd.DataFrame(rows)


def _origin(path: Path) -> str:
    if RECORDED.resolve() in path.resolve().parents:
        return "recorded by the project"
    content = read_object(path) if path.exists() else {}
    date = content.get("header", content).get("date")
    return f"made here on {date[:10]}" if isinstance(date, str) else "made here"


def _read_run(path: Path, place: str) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    header = read_object(path)
    found = {name: field(header, name, kind, path) for name, kind in _HEADER.items()}
    choice(found["status"], STATUSES, f"{path}, field 'status'")
    tested = header.get("test_accuracy") is not None
    table = path.parent / EVALUATIONS
    evaluations = read_table(table, _EVALUATION) if table.exists() else pd.DataFrame()
    last = evaluations.iloc[-1] if len(evaluations) else {}
    row = {
        # Runs of one family of presets, such as cifar100/same-time, are shown together.
        "group": found["name"].rpartition("/")[0] or found["name"],
        "run": path.parent.name,
        "place": place,
        "preset": found["name"],
        "method": found["config.label"] or found["config.method"],
        "base_method": found["config.method"],
        "status": found["status"],
        **{name: found[f"config.{name}"] for name in ("seed", "budget", "keep", "max_lr")},
        "samples_per_step": found["config.batch_size"] * found["config.accumulation_steps"] * found["processes"],
        "config": header["config"],
        "header": header,
        **{name: float(last.get(name, math.nan)) for name in ("step", *_MEASURED)},
        "test_accuracy": float(field(header, "test_accuracy", (int, float), path)) if tested else math.nan,
    }
    return path.parent, row, evaluations


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
