"""Comparisons and runs, which made the numbers of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from figures.methods import look
from figures.report.words import anchor, worded
from figures.results import Results

HEADER_ENTRIES = {
    **{name: name for name in ("command", "date", "commit", "device", "machine")},
    "python": "Python",
    **{name: name for name in ("versions", "processes", "parameters", "seeds", "sweep", "tuned")},
    "target": "target accuracy",
    "data": "data",
}
"""Entries of a header that are shown where there are any -> what they are called."""
_OF_NO_NOTE = (
    *("method", "seed", "label", "test", "cache_dir", "tensorboard", "checkpoint_every_s", "save_model", "budget"),
)
"""Keys in which a run differs from its comparison without being another method."""


@dataclass(frozen=True)
class Training:
    """All runs and comparisons of a folder of results.

    Attributes:
        runs: the table "runs".
        comparisons: name -> content of compare.json.
        origins: comparison or place of a single run -> who made it.
    """

    runs: pd.DataFrame
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Comparisons, then groups of single runs."""
        return list(dict.fromkeys([*self.comparisons, *self.runs["group"]]))

    @property
    def single(self) -> list[str]:
        """The group of each run that is of no comparison."""
        return [group for group in self.runs["group"] if group not in self.comparisons]

    def told(self, key: str, length: int | None = None) -> list[str]:
        """The values of a key in all headers, cut to so many characters, each once."""
        headers = [*self.runs["header"], *self.comparisons.values()]
        return sorted({str(header[key])[:length] for header in headers if header.get(key)})

    def target(self, group: str, method: str | None = None) -> str:
        """The id of the first run of a method of a group; of the group where there is none."""
        rows = self.runs[(self.runs["group"] == group) & (self.runs["method"] == method)]
        return anchor(rows["place"].iloc[0], "run") if len(rows) else anchor(group, "group")

    def origins_of(self, group: str) -> list[str]:
        """Who made a comparison, or the runs of a group, each once."""
        places = [group] if group in self.comparisons else self.runs[self.runs["group"] == group]["place"]
        return list(dict.fromkeys(self.origins[place] for place in places))

    def unfinished(self, finished: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """(group, runs that have ended, runs that are planned) of each comparison but those."""
        for group, content in self.comparisons.items():
            if group not in finished:
                rows = self.runs[self.runs["group"] == group]
                seeds = content.get("seeds")
                planned = len(rows) if seeds is None else len(content["methods"]) * seeds
                yield group, int((rows["status"] == "finished").sum()), planned

    def rows(self, group: str) -> list[dict[str, Any]]:
        """The row of `runs` of each run of a group, with its label, share of scoring, and changes."""
        base = self.comparisons.get(group, {}).get("config")
        found = []
        for run in self.runs[self.runs["group"] == group].to_dict("records"):
            share = run["selection_s"] / run["wall_clock_s"] if run["wall_clock_s"] > 0 else math.nan
            changed = [] if base is None else _changed(run["config"], base)
            changes = ", ".join(f"{key} = {worded(run['config'][key])}" for key in changed)
            found.append({**run, "label": look(run["method"]).label, "scoring_share": share, "changes": changes})
        return found


def _changed(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """The keys in which a run's configuration differs from its comparison's, but for what its name and seed tell."""
    return [key for key, value in config.items() if key not in _OF_NO_NOTE and value != base.get(key)]


def read(results: Results) -> Training:
    """Comparisons and runs of the results; there may be none.

    Raises:
        ValueError: if a file is malformed, naming it and the field.
    """
    comparisons = {name: content for name, _, content in results.comparisons}
    return Training(results.runs_if_any(), comparisons, results.origins)
