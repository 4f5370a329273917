"""What an examination found: its numbers, a table of them in a terminal and in a notebook, and the curves."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from rich.console import Console

from gsgd.commands.console import print_table
from theory.examination.finite import Assumption
from theory.routes import montecarlo

ALPHA = 1e-6
"""Probability that one measured mean is said to exceed a bound that holds."""

# Title, headings, rows, and the places of the columns of words.
Section = tuple[str, Sequence[str], list[list[str]], Sequence[int]]

_BOUNDS = ("method", "bound", "at most", "measured", "holds")


@dataclass(frozen=True)
class Curve:
    """E F(average of the first k iterates) for k in `steps`: exact where `samples` is None, else a mean over runs.

    Attributes:
        steps: (T,).
        mean: (T,).
        samples: (T, runs), F of the average iterate of every run.
    """

    steps: np.ndarray
    mean: np.ndarray
    samples: np.ndarray | None

    @property
    def how(self) -> str:
        return "exact" if self.samples is None else f"mean of {self.samples.shape[1]} runs"

    @property
    def errors(self) -> np.ndarray:
        """(T,), standard errors of the means; 0 where exact."""
        if self.samples is None:
            return np.zeros(len(self.steps))
        return self.samples.std(axis=1, ddof=1) / np.sqrt(self.samples.shape[1])


@dataclass(frozen=True)
class Bound:
    """An upper bound on E F(average of the first k iterates), k in `steps`, and whether the measurement agrees."""

    name: str
    method: str
    steps: np.ndarray
    values: np.ndarray
    holds: bool

    @property
    def value(self) -> float:
        """At the last step."""
        return float(self.values[-1])


@dataclass(frozen=True)
class PromisedGain:
    """What k of R candidates promise: `until` is how many steps GSGD's bound is below SGD's, each at its own best step.

    Attributes:
        rho, Delta: of k of R candidates with exact losses, rho over visited iterates. `until` counts the noise in.
        sigma: noise of the approximate losses, of any law, below which rho stays above 1.
    """

    R: int
    k: int
    rho: float
    Delta: float
    until: float
    sigma: float


@dataclass
class Examination:
    """What `examine` found.

    Attributes:
        method: "GSGD", or "own rule".
        n, dim: samples and parameters.
        K, R, k, eta, sigma: steps, candidates, kept ones, step size, noise.
        L: smoothness constant.
        D0, F0: |w_0 - w*|, F(w_0).
        F_star, Delta: F and F^ at the minimiser; None if there is none, as D0 and `minimiser`.
        rho: the least F^ / F over the visited iterates, and at most Delta / F*: what the bounds are evaluated with.
        rho_ball: the least over sampled points of the ball around w* through w_0; the infimum may be lower.
        noise_factor: at least this share of F^ is left by the noise.
        assumptions: what was looked at, numerically.
        curves: method -> F of the average iterate.
        bounds: all of them, of both methods.
        promises: for several R, and of each for k = 1, R / 2 and what was asked for.
        predicted: steps up to which GSGD's bound is below SGD's at this step size (Corollary 5.10); None: not promised.
        remarks: what else must be said.
    """

    method: str
    n: int
    dim: int
    K: int
    R: int
    k: int
    eta: float
    sigma: float
    L: float
    D0: float | None
    F0: float
    F_star: float | None
    Delta: float | None
    rho: float
    rho_ball: float | None
    noise_factor: float
    minimiser: np.ndarray | None
    assumptions: list[Assumption]
    curves: dict[str, Curve]
    bounds: list[Bound] = field(default_factory=list)
    promises: list[PromisedGain] = field(default_factory=list)
    predicted: float | None = None
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, method: str, steps: np.ndarray, values: Any) -> None:
        """Add a bound, compared with the measurement at every exact step, or at the last step of runs."""
        curve, values = self.curves[method], np.asarray(values, float)
        if curve.samples is None:
            holds = bool((curve.mean <= values * (1 + 1e-11)).all())
        else:
            # The cap is chosen without a look at the runs: F(w_0) and multiples of it are known before.
            cap = max(4 * self.F0, 1e-300)
            holds = bool(montecarlo.mean_lower(curve.samples[-1], ALPHA, cap=cap) <= values[-1])
        self.bounds.append(Bound(name, method, steps, values, holds))

    @property
    def measured(self) -> float | None:
        """The first recorded step at which GSGD's F of the average iterate is above SGD's; None if there is none.

        Of runs it must be above by three standard errors.
        """
        main, other = self.curves[self.method], self.curves["SGD"]
        at = np.searchsorted(other.steps, main.steps)
        margin = 3 * np.hypot(main.errors, other.errors[at]) + 1e-12 * other.mean[at]
        # Before the first step both stand at w_0.
        above = (main.mean > other.mean[at] + margin) & (main.steps > 1)
        return float(main.steps[np.argmax(above)]) if above.any() else None

    def record(self) -> dict[str, Any]:
        """All of it in numbers, lists and words, as it stands in a JSON file; of several runs the mean curve."""
        plain = ("assumptions", "curves", "bounds", "promises", "minimiser")
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in plain}
        return {
            **found,
            "measured": self.measured,
            "minimiser": None if self.minimiser is None else self.minimiser.tolist(),
            "assumptions": [asdict(item) for item in self.assumptions],
            "curves": {
                name: {"how": curve.how, "steps": curve.steps.tolist(), "mean": curve.mean.tolist()}
                for name, curve in self.curves.items()
            },
            "bounds": [
                {
                    "name": bound.name,
                    "method": bound.method,
                    "holds": bound.holds,
                    "steps": bound.steps.tolist(),
                    "values": bound.values.tolist(),
                }
                for bound in self.bounds
            ],
            "promises": [asdict(promise) for promise in self.promises],
        }

    def __str__(self) -> str:
        return self.text(120)

    def text(self, width: int) -> str:
        """The tables and what they say in words, for a terminal with so many columns."""
        text = io.StringIO()
        console = Console(file=text, width=width, highlight=False, markup=False)
        for title, headings, rows, left in self._sections():
            console.print(title)
            print_table(console, headings, rows, left=left)
            console.print()
        for remark in self._words():
            console.print(remark)
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        parts = []
        for title, headings, rows, _ in self._sections():
            head = "".join(f"<th>{html.escape(name)}</th>" for name in headings)
            body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
            caption = f"<caption>{html.escape(title)}</caption>"
            parts.append(f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        return "".join(parts) + "".join(f"<p>{html.escape(words)}</p>" for words in self._words())

    def plot(self, ax: Any = None) -> Any:
        """Draw F of the average iterate and the bounds over steps; returns the axes. Needs the extra `figures`."""
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")[1] if ax is None else ax
        colours = {self.method: "#D55E00", "SGD": "#0072B2"}
        for name, curve in self.curves.items():
            ax.loglog(curve.steps, curve.mean, color=colours[name], lw=2, label=f"{name}, {curve.how}")
        lines = {"improved, best alpha": "--", "best comparator u": ":"}
        for bound in self.bounds:
            if bound.name in lines:
                label = f"{bound.method}'s bound: {bound.name}"
                ax.loglog(
                    bound.steps, bound.values, lines[bound.name], color=colours[bound.method], lw=1.2, label=label
                )
        if self.F_star:
            ax.axhline(self.F_star, color="#888888", lw=0.8, label="F*")
        ax.set(xlabel="steps K", ylabel="F of the average iterate")
        ax.legend(fontsize=8)
        return ax

    def _sections(self) -> list[Section]:
        seen = {True: "seen to hold", False: "NO", None: "not verified"}
        assumptions = [[item.name, seen[item.holds], item.how] for item in self.assumptions]
        runs = self.curves[self.method].samples
        seen_in = "" if runs is None else f" in {runs.shape[1]} runs, a sample"
        constants = [
            ["L", _digits(self.L), "smoothness of every loss"],
            ["eta", _digits(self.eta), f"step size; eta L = {self.eta * self.L:.3g}"],
            ["D0", _digits(self.D0), "distance from w_0 to the minimiser"],
            ["F*", _digits(self.F_star), "least mean loss"],
            ["Delta", _digits(self.Delta), "mean of the selected loss at the minimiser"],
            ["rho", _digits(self.rho), f"selected over mean loss, the least over the iterates visited{seen_in}"],
            [
                "rho, ball",
                _digits(self.rho_ball),
                "a sample, no bound: the least of 512 points of the ball around w* through w_0",
            ],
        ]
        constants = [row for row in constants if row[1] != "none"]
        if self.sigma:
            constants.append(["p", _digits(self.noise_factor), f"share that noise of sigma = {self.sigma:g} leaves"])
        measured = {name: curve.mean[-1] for name, curve in self.curves.items()}
        bounds = [
            [item.method, item.name, _digits(item.value), _digits(measured[item.method]), "yes" if item.holds else "NO"]
            for item in self.bounds
        ]
        what = f"{self.n} samples, {self.dim} parameters, {self.k} of {self.R} candidates"
        sections: list[Section] = [
            (f"{what}: assumptions, at sampled points", ("assumption", "", "how"), assumptions, (0, 1, 2)),
            ("Constants", ("", "value", "meaning"), constants, (0, 2)),
            (f"F of the average iterate, K = {self.K}", _BOUNDS, bounds, (0, 1, 4)),
        ]
        promises = [
            [str(item.R), str(item.k), _digits(item.rho), _digits(item.Delta), _steps(item.until), f"{item.sigma:.3g}"]
            for item in self.promises
        ]
        if any(item.until > 0 for item in self.promises):
            title = (
                "GSGD's bound is the lower one for K below, each method at its best step (rho over iterates seen here)"
            )
            sections.append((title, ("R", "k", "rho", "Delta", "K below", "noise below"), promises, ()))
        return sections

    def _words(self) -> list[str]:
        words = list(self.remarks)
        enough = [f"{item.k} of {item.R}" for item in self.promises if item.until >= self.K]
        if enough:
            words.append(
                f"At K = {self.K} the bounds promise a gain, if rho is as seen here, keeping {', '.join(enough)}."
            )
        elif self.promises:
            largest = self.promises[-1].R
            words.append(f"At K = {self.K} no gain is promised, be 1 or half of up to {largest} candidates kept.")
        for name, curve in self.curves.items():
            error = f" +- {curve.errors[-1]:.1g} (standard error)" if curve.samples is not None else ""
            words.append(f"{name}: {curve.mean[-1]:.6g}{error}, {curve.how}.")
        until = self.predicted
        predicted = "no gain is promised"
        if until:
            which = "at every K" if np.isinf(until) else f"up to K = {until:.4g}"
            predicted = f"with this rho GSGD's bound is lower {which}"
        measured = self.measured
        crossed = f"above SGD at K = {measured:g}" if measured else f"not above SGD up to K = {self.K}"
        words.append(f"Crossing at this step size: predicted: {predicted}; measured: {self.method} is {crossed}.")
        return words


def _digits(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _steps(value: float) -> str:
    return "every K" if np.isinf(value) else f"{value:.4g}"
