"""Every figure and table: its name, what it shows, and the tables of results it is made from."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from figures import pages
from figures.checked import Missing
from figures.results import Results


@dataclass(frozen=True)
class Entry:
    """A figure or table.

    Attributes:
        name: of it, of its module in `figures.plots` or its maker in `figures.tables`, and of its files.
        kind: "figure" or "table".
        shows: in one line, for lists and captions.
        needs: tables of `Results` that it is not made without.
        takes: tables that it is made without, too; they come behind, as None where there are none.
    """

    name: str
    kind: str
    shows: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    def read(self, results: Results) -> list[Any]:
        """The arguments of `make`.

        Raises:
            Missing, ValueError: as `Results.table`.
        """
        return [*(results.table(name) for name in self.needs), *(_if_any(results, name) for name in self.takes)]

    def make(self, *tables: Any) -> Any:
        """The matplotlib figure, drawn on the `style.sheet` that is in force, or the pandas table.

        Raises:
            Missing: if the tables lack what it shows.
        """
        if self.kind == "figure":
            return self._draw(*tables)
        return importlib.import_module("figures.tables").MAKERS[self.name](*tables)

    def pictures(self, *tables: Any) -> list[Any]:
        """The matplotlib figures of a figure: several, of whole groups each, where one would be too tall.

        Raises:
            Missing: as `make`.
        """
        return pages.split(self._draw, list(tables))

    @property
    def _draw(self) -> Callable[..., Any]:
        draw: Callable[..., Any] = importlib.import_module(f"figures.plots.{self.name}").draw
        return draw


def _if_any(results: Results, name: str) -> Any:
    if name == "runs":
        # A table beside the paper's is shown without any run, too, with dashes.
        return results.runs_if_any()
    try:
        return results.table(name)
    except Missing:
        return None


RENAMED = {"variants": "differences", "live": "readings"}
"""Old name of a figure -> its name; the old one works for one version."""
ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("figure_1", "figure", "Figure 1: validation accuracy against backpropagated samples", ("evaluations",)),
        Entry("figure_2", "figure", "Figure 2: validation accuracy against time", ("evaluations",)),
        Entry("table_1", "table", "Table 1: BERT base, validation accuracy, the paper's and ours", takes=("runs",)),
        Entry("table_2", "table", "Table 2: CIFAR-100, same time, test accuracy in percent", takes=("runs",)),
        Entry("table_3", "table", "Table 3: CIFAR-100, same samples, test accuracy in percent", takes=("runs",)),
        Entry("table_4", "table", "Table 4: Food-101, same time, test accuracy in percent", takes=("runs",)),
        Entry("table_5", "table", "Table 5: Food-101, same samples, test accuracy in percent", takes=("runs",)),
        Entry("table_6", "table", "Table 6: BERT base, hours of scoring by exit layer", takes=("runs",)),
        Entry("crossing", "table", "Section 1: BERT base, hours to 64% accuracy", takes=("runs", "evaluations")),
        Entry("comparisons", "table", "Comparisons: accuracies, differences and costs of each method", ("summaries",)),
        Entry("differences", "figure", "Against plain training: differences to the baseline", ("summaries",)),
        Entry("differences_to_random", "figure", "Against random rows: differences to these", ("summaries",)),
        Entry("speed_ups", "figure", "Speed-ups against tuned plain training, by budget", ("ladders",), ("claims",)),
        Entry("forecasts", "figure", "What selection was forecast to be worth, and what it was", ("forecasts",)),
        Entry("map", "figure", "Methods by settings: what each is worth in budget", ("claims",)),
        Entry(
            "speed_ups_in_seconds",
            "figure",
            "Speed-ups by the clock, beside those by budget",
            ("claims_in_seconds",),
            ("claims",),
        ),
        Entry("time_to_target", "figure", "Time and samples to the target accuracy", ("summaries",)),
        Entry("step_cost", "figure", "Where the time of a step goes, and its cost", ("runs",), ("costs",)),
        Entry("selection_quality", "figure", "Overlap and rank correlation with exact losses", ("evaluations",)),
        Entry("readings", "figure", "Scores in training beside Theorems 5.15 and 6.2", ("readings",)),
        Entry("overlap_in_training", "figure", "How scores agree with exact losses over training", ("readings",)),
        Entry("times_chosen", "figure", "How often each row of the data was chosen", ("chosen",)),
        Entry("chosen_rows", "table", "Rows of the data that were never and always chosen", ("chosen",)),
        Entry("diagnosis", "figure", "Can selection help: cost, overlap and gain by exit", ("diagnosis",)),
        Entry("gaussian_rho", "figure", "Theorem 5.18: rho_R exact and bounded", ("theory/gaussian_rho",)),
        Entry("noise", "figure", "Theorem 5.15: what noisy losses cost", ("theory/noise",)),
        Entry("lemma_c1", "figure", "Lemma C.1: the constant 0.72 and the least one", ("theory/lemma_c1",)),
        Entry("agreement", "figure", "Theorem 6.2: how often an early exit picks the same", ("theory/agreement",)),
        Entry("overlap", "figure", "What an early exit keeps of the top half of a batch", ("theory/agreement",)),
        Entry("trajectories", "figure", "Corollary 5.10: GSGD against SGD, with bounds", ("theory/trajectories",)),
        Entry("worst_case", "figure", "Theorems 5.7, 5.8, 5.14: how loose the bounds are", ("theory/worst_case",)),
        Entry("top_k", "figure", "rho of the k largest of B losses, and its limit", ("theory/top_k",)),
    )
}


def named(name: str) -> str:
    """The name of an entry, for its old name, too.

    Raises:
        ValueError: if there is none, with names that are like it.
    """
    if name in RENAMED:
        # Unlike a DeprecationWarning this one is shown to who types a command.
        warnings.warn(f"the figure {name} is called {RENAMED[name]} now", FutureWarning, stacklevel=2)
        return RENAMED[name]
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(ENTRIES)}"
        raise ValueError(f"there is no figure or table {name!r}; {hint}")
    return name
