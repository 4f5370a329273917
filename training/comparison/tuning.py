"""What is tuned before a ladder: as many trials for every method, judged by validation on seeds of their own.

Trials are drawn without repetition from all combinations of the values given, anew for each method, and a method is
tuned at every rung by itself. Plain training has the smallest grid, since some keys change nothing for it, and is tried
in full unless fewer trials are asked for: no method has more trials than plain training.

The batch of a control such as "baseline:batch_size=k/2" is not tuned: it is a part of plain training's, which is tuned
first.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.comparison.contenders import Contender
from training.costs import ONLY_SELECTING

OF_SELECTION = ONLY_SELECTING | {
    *("start_step", "end_step", "start_share", "end_share", "auto_level", "auto_every", "random_share", "max_age")
}
"""Keys that change nothing where no step selects."""
Values = tuple[tuple[str, str], ...]
"""Keys with their values, as on the command line."""


@dataclass(frozen=True)
class Trial:
    """What one combination of values came to.

    Attributes:
        accuracies, losses: final ones on the validation split, by tuning seed; none where a run diverged.
    """

    values: Values
    accuracies: Sequence[float]
    losses: Sequence[float]
    diverged: bool = False


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Key -> the values to try, of texts such as "max_lr=1e-3,2e-3".

    Raises:
        ValueError: for what is none, or a key that is given twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        key = name.replace("-", "_")
        found = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
        if not key or not found:
            raise ValueError(f"--tune {text!r} must be key=value,value,..., as in max_lr=1e-3,2e-3")
        if key in grid:
            raise ValueError(f"--tune names {key} twice: give all its values at once")
        grid[key] = found
    return grid


def combinations(grid: Mapping[str, Sequence[str]], contender: Contender) -> list[Values]:
    """All that may be tried of a contender: keys that it sets itself, or that change nothing for it, are left out."""
    baseline = contender.values["method"] == "baseline"
    own = set(contender.values) | ({"batch_size"} if contender.part_of_plain else set())
    keys = [key for key in grid if key not in own and not (baseline and key in OF_SELECTION)]
    return [tuple(zip(keys, values, strict=True)) for values in itertools.product(*(grid[key] for key in keys))]


def draw_trials(
    grid: Mapping[str, Sequence[str]], contenders: Sequence[Contender], trials: int | None
) -> dict[str, list[Values]]:
    """Label -> what is tried at each rung, the same whenever asked for.

    Args:
        contenders: the first with the method "baseline" is plain training.
        trials: of each method; None for as many as there are combinations for plain training.

    Raises:
        ValueError: if plain training has fewer combinations than `trials`.
    """
    possible = {contender.label: combinations(grid, contender) for contender in contenders}
    plain = possible["baseline"]
    if trials is not None and trials > len(plain):
        raise ValueError(
            f"--trials {trials}: plain training has {len(plain)} combinations of what is tuned, and no method may have "
            "more trials than it: name more values of keys that it has, such as max_lr and batch_size"
        )
    count = len(plain) if trials is None else trials
    drawn = {}
    for label, found in possible.items():
        rng = np.random.default_rng([count, zlib.crc32(label.encode())])
        chosen = np.sort(rng.permutation(len(found))[:count])
        drawn[label] = [found[place] for place in chosen]
    return drawn


def with_parts(found: Sequence[Values], contender: Contender, sizes: Iterable[int]) -> list[Values]:
    """Trials of a contender with every batch size that its part of plain training's may come to.

    Args:
        sizes: rows of a batch that plain training may be given.

    Raises:
        ValueError: if a part of one of them is no whole number.
    """
    if contender.part_of_plain is None:
        return list(found)
    return [(*values, part_of(contender, rows)) for rows in sorted(set(sizes)) for values in found]


def part_of(contender: Contender, rows: int) -> tuple[str, str]:
    """The batch size of a contender beside a plain batch of so many rows, as key and value.

    Raises:
        ValueError: if it is no whole number.
    """
    part, rest = divmod(rows, contender.part_of_plain or 1)
    if rest:
        raise ValueError(f"{contender.label}: plain training may be given a batch of {rows} rows, which leaves {rest}")
    return "batch_size", str(part)


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest mean accuracy; of equal ones that with the least loss.

    Raises:
        ValueError: if every one diverged.
    """
    good = [trial for trial in trials if not trial.diverged]
    if not good:
        raise ValueError("every configuration that was tried diverged: try smaller learning rates")
    return max(good, key=lambda trial: (float(np.mean(trial.accuracies)), -float(np.mean(trial.losses))))


def at_an_edge(values: Values, grid: Mapping[str, Sequence[str]]) -> list[str]:
    """Keys of which the least or the largest number that could be tried was chosen, of three or more."""
    found = []
    for key, value in values:
        try:
            numbers = sorted(float(each) for each in grid[key])
            chosen = float(value)
        except ValueError:
            continue
        if len(numbers) > 2 and chosen in (numbers[0], numbers[-1]):
            found.append(key)
    return found


def in_words(values: Values) -> str:
    """As behind the colons of a method: "max_lr=2e-3:keep=0.5"; a dash for nothing."""
    return ":".join(f"{key}={value}" for key, value in values) or "-"
