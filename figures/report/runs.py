"""Recorded comparisons and runs: what made the numbers of the training, each with an anchor to link to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from figures import checked
from figures.methods import look
from figures.report.markup import Html, anchor, counted, head_cell, number_cell, table, tag
from figures.results import COMPARE, HEADER, Results

_TOLD: tuple[tuple[str, str, type | tuple[type, ...]], ...] = (
    ("command", "command", str),
    ("date", "date", str),
    ("commit", "commit", (str, NoneType)),
    ("device", "device", (str, NoneType)),
    ("machine", "machine", str),
    ("python", "Python", str),
    ("versions", "versions", dict),
    ("processes", "processes", int),
    ("parameters", "parameters", (int, NoneType)),
    ("seeds", "seeds", int),
    ("sweep", "sweep", (dict, NoneType)),
    ("tuned", "tuned", (dict, NoneType)),
    ("target", "target accuracy", (int, float)),
    ("data", "data", dict),
)
"""Entries of a header that are shown where there are any: (key, what it is called, type)."""
_OF_NO_NOTE = (
    "method",
    "seed",
    "label",
    "test",
    "cache_dir",
    "tensorboard",
    "checkpoint_every_s",
    "save_model",
    "budget",
)
"""Keys in which a run differs from its comparison without being another method."""


@dataclass(frozen=True)
class Recorded:
    """What was recorded of the training.

    Attributes:
        runs: the table "runs", with the columns `place` (folder in the results) and `header` (of header.json).
        comparisons: name -> content of compare.json.
        origins: folder in the results -> who made what is there.
    """

    runs: pd.DataFrame
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Comparisons, then groups of single runs."""
        return list(dict.fromkeys([*self.comparisons, *self.runs["group"]]))

    def target(self, group: str, method: str | None = None) -> str | None:
        """The id of the first run of a method of a group; of the group where there is none, None without the group."""
        rows = self.runs[(self.runs["group"] == group) & (self.runs["method"] == method)]
        if len(rows):
            return run_anchor(rows["place"].iloc[0])
        return group_anchor(group) if group in self.groups else None


def group_anchor(group: str) -> str:
    """The id of a comparison, or of a group of single runs."""
    return anchor("group", group)


def run_anchor(place: str) -> str:
    """The id of a run, by its folder in the results."""
    return anchor("run", place)


def read(results: Results) -> Recorded:
    """Comparisons and runs of the results; there may be none.

    Raises:
        ValueError: if a file is malformed, naming it and the field.
    """
    comparisons = {place: _told(path) for place, path in results.found(COMPARE).items()}
    runs = results.runs_if_any()
    files = results.found(HEADER)
    single: dict[tuple[str, str, str], list[str]] = {}
    for place, path in files.items():
        header = checked.read_object(path)
        single.setdefault(_key(path.parent.name, header.get("name"), header.get("config")), []).append(place)
    places, headers = [], []
    for _, run in runs.iterrows():
        place = (Path(run["group"]) / run["run"]).as_posix()
        if run["group"] not in comparisons or place not in files:
            place = single[_key(run["run"], run["preset"], run["config"])].pop(0)
        places.append(place)
        headers.append(_told(files[place]))
    return Recorded(runs.assign(place=places, header=headers), comparisons, results.origins())


def _key(folder: str, name: Any, config: Any) -> tuple[str, str, str]:
    return folder, str(name), json.dumps(config, sort_keys=True)


def _told(path: Path) -> dict[str, Any]:
    """A header of which all that is shown is what it should be; older ones may lack some of it."""
    content = checked.read_object(path)
    for key, _, kinds in _TOLD:
        if key in content:
            checked.field(content, key, kinds, path)
    checked.field(content, "config", dict, path)
    return content


def section(recorded: Recorded) -> Html:
    """Every comparison, and the single runs, group by group."""
    parts: list[Any] = [tag("h2", "Comparisons and runs", id="runs-title")]
    parts.append(
        tag(
            "p",
            "What made the numbers of the training: one row a run, named by its folder in the results. Unfold a name "
            "for its command, commit, device and versions. Times are of the real clock.",
        )
    )
    for group in recorded.groups:
        rows = recorded.runs[recorded.runs["group"] == group]
        content = recorded.comparisons.get(group)
        made = dict.fromkeys(recorded.origins[place] for place in ([group] if content is not None else rows["place"]))
        kind = f"{'comparison' if content is not None else 'single runs'}, {', '.join(made)}"
        statuses = rows["status"].value_counts(sort=False)
        told = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        parts.append(tag("h3", group, " ", tag("span", kind, class_="kind"), id=group_anchor(group)))
        parts.append(tag("p", f"{counted(len(rows), 'run')}{f': {told}' if told else ' in folders of their own'}."))
        if content is not None:
            parts.append(_details("How this comparison was made", content))
        if len(rows):
            parts.append(_table(group, rows, content))
    return tag("section", parts, id="runs", aria_labelledby="runs-title")


def _table(group: str, rows: pd.DataFrame, comparison: Mapping[str, Any] | None) -> Html:
    changes = [_otherwise(config, comparison) for config in rows["config"]]
    columns = _COLUMNS if any(changes) else _COLUMNS[:-1]
    head = [head_cell(name, sort, class_="number" if sort == "number" else None) for name, sort in columns]
    body = []
    for (_, run), changed in zip(rows.iterrows(), changes, strict=True):
        header = run["header"]
        share = run["selection_s"] / run["wall_clock_s"] if run["wall_clock_s"] > 0 else math.nan
        title = run["place"].removeprefix(f"{group}/")
        body.append(
            tag(
                "tr",
                tag("th", _details(title, header), scope="row", data_value=run["place"]),
                tag("td", look(run["method"]).label, class_="method"),
                number_cell(run["seed"], decimals=0),
                tag("td", run["status"]),
                *(number_cell(run[name], decimals=0) for name in ("steps", "backprop_samples", "wall_clock_s")),
                number_cell(share, decimals=3),
                *(number_cell(run[name], decimals=4) for name in ("val_accuracy", "test_accuracy")),
                tag("td", str(header.get("date", ""))[:10], data_value=header.get("date", ""), class_="date"),
                tag("td", changed, class_="changes") if any(changes) else None,
                id=run_anchor(run["place"]),
            )
        )
    return table(f"Runs of {group}", head, body, class_="sortable runs")


_COLUMNS = (
    *(("run", "text"), ("method", "text"), ("seed", "number"), ("status", "text"), ("steps", "number")),
    *(("samples", "number"), ("seconds", "number"), ("scoring share", "number"), ("validation accuracy", "number")),
    *(("test accuracy", "number"), ("date", "text"), ("set otherwise", None)),
)


def _otherwise(config: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str:
    """What a run's configuration has that its comparison's has not, but for what its name and seed tell."""
    if comparison is None:
        return ""
    base = comparison["config"]
    changed = [key for key in config if key not in _OF_NO_NOTE and config[key] != base.get(key)]
    return ", ".join(f"{key} = {_text(config[key])}" for key in changed)


def _details(title: str, header: Mapping[str, Any]) -> Html:
    entries: list[Any] = []
    for key, name, _ in _TOLD:
        if header.get(key) is not None:
            entries.append(tag("div", tag("dt", name), tag("dd", _text(header[key]))))
    config = [tag("div", tag("dt", key), tag("dd", _text(value))) for key, value in header["config"].items()]
    return tag(
        "details",
        tag("summary", title),
        tag("dl", entries, class_="told"),
        tag("p", "Configuration:"),
        tag("dl", config, class_="config"),
    )


def _text(value: Any, depth: int = 0) -> str:
    """An entry of a header in words: "train 45000, test 10000"."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        words = ", ".join(f"{key} {_text(entry, depth + 1)}" for key, entry in value.items())
    elif isinstance(value, list):
        words = ", ".join(_text(entry, depth + 1) for entry in value)
    else:
        return json.dumps(value, ensure_ascii=False)
    return f"({words})" if depth else words
