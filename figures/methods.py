"""One label, colour, marker and line for each method, everywhere, by its name alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from figures import style

# Okabe and Ito's palette: told apart with any of the usual colour vision deficiencies.
_SCORES = {
    "loss": ("#0072B2", "#56B4E9", "o", "p", "h"),
    "entropy": ("#D55E00", "#E69F00", "^", "<", ">"),
    "margin": ("#009E73", "#66C7A8", "D", "d", "H"),
    "corrected": ("#332288", "#8878D8", "8", "X", "P"),
    "probe": ("#117733", "#6FBF86", "*", "X", "P"),
    "predicted": ("#AA3377", "#D98CB8", "p", "X", "P"),
}
"""Score -> (colour at the first exit, colour at the last, markers: of exits, of what is called the last, of "auto")."""
_UNSCORED = {
    "class-balanced": ("random rows, even classes", "#661100", "x"),
    "infobatch": ("InfoBatch", "#882255", "v"),
    "importance": ("importance sampling", "#44AA99", "d"),
    "proxy": ("loss of a proxy", "#DDAA33", ">"),
    "focal": ("all rows, focal weights", "#999933", "*"),
    "loss-power": ("all rows, weights by loss", "#AA4499", "1"),
}
"""Method without a score of its own -> label, colour, marker."""
_CHANGES = {
    "keep": "#CC79A7",
    "start_share": "#6B4C9A",
    "start_step": "#6B4C9A",
    "end_share": "#8C6D31",
    "end_step": "#8C6D31",
    "trim": "#009E73",
    "select": "#E69F00",
    "max_lr": "#B22222",
    "score_batch_size": "#5D737E",
    "scoring_mode": "#2F8F9D",
    "auto_level": "#4B2E83",
}
"""Setting that a variant changes -> colour."""
_OTHER_CHANGES = ("#A6761D", "#7570B3", "#66A61E", "#B3396B", "#4C6E91")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.2, 1.2)), (0, (7, 1.5, 1.2, 1.5)))
_EXIT_LINES = {1: 0, 2: 1, 3: 2, 6: 3}
LAST_KNOWN_EXIT = 12


@dataclass(frozen=True)
class Look:
    """Label, colour, marker and line of a method; a variant's marker is hollow.

    Attributes:
        order: methods are listed by it: baseline, control, scores by their exits, variants after what they vary.
    """

    label: str
    colour: str
    marker: str
    line: Any
    filled: bool
    order: tuple[Any, ...]

    @property
    def brief(self) -> str:
        """The label in titles and remarks of figures: a long one without its middle, where a dollar is a dollar."""
        return style.verbatim(style.shortened(self.label, style.LONGEST_NAME))

    @property
    def curve(self) -> dict[str, Any]:
        """Arguments of a line with markers."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgecolor": self.colour,
            "label": style.verbatim(self.label),
        }


def look(method: str) -> Look:
    """The looks of a method, such as "loss@1" or "loss@1:keep=0.7".

    A name that no method has still gets looks, by its hash: what a table calls a method is the table's business.
    """
    base, *changes = method.split(":")
    plain = _plain(base)
    if not changes:
        return plain
    words = [change.replace("_", " ").replace("=", " ") for change in changes]
    key = changes[0].partition("=")[0].replace("-", "_")
    line = _LINES[_step(changes) % len(_LINES)]
    colour = _CHANGES.get(key, _OTHER_CHANGES[_hash(key) % len(_OTHER_CHANGES)])
    label = ", ".join([plain.label, *words])
    return Look(label, colour, plain.marker, line, False, (*plain.order[:2], 1, method))


def _step(changes: list[str]) -> int:
    """A number that neighbouring values of one change do not share: tenths, counted."""
    if len(changes) == 1:
        try:
            value = float(changes[0].partition("=")[2])
        except ValueError:
            return _hash(changes[0])
        if 0 < value < 1:
            return round(10 * value)
    return _hash(":".join(changes))


def _plain(name: str) -> Look:
    if name == "baseline":
        return Look("baseline (all rows)", "#000000", "P", "-", True, (0, 0.0, 0, name))
    if name == "random":
        return Look("random rows", "#808080", "s", (0, (4, 2)), True, (1, 0.0, 0, name))
    if name == "last-seen":
        return Look("loss last seen", "#009e73", "h", "-", True, (1, 1.0, 0, name))
    if name in _UNSCORED:
        label, colour, marker = _UNSCORED[name]
        return Look(label, colour, marker, "-", True, (1, 2.0 + list(_UNSCORED).index(name), 0, name))
    score, _, layer = name.partition("@")
    if score not in _SCORES or not (layer in ("last", "auto") or layer.isdigit()):
        colour = _OTHER_CHANGES[_hash(name) % len(_OTHER_CHANGES)]
        return Look(name, colour, "X", _LINES[_hash(name) % len(_LINES)], True, (9, 0.0, 0, name))
    first, last, marker, last_marker, auto_marker = _SCORES[score]
    depth_of = float(layer) if layer.isdigit() else math.inf
    order = (2 + list(_SCORES).index(score), depth_of, 0, name)
    if layer == "auto":
        red, green, blue = (0.55 * part for part in to_rgb(first))
        return Look(f"{score} at a moving exit", to_hex((red, green, blue)), auto_marker, "-", True, order)
    if layer == "last":
        return Look(f"{score} at last exit", last, last_marker, _LINES[4], True, order)
    depth = min(math.log(max(int(layer), 1)) / math.log(LAST_KNOWN_EXIT), 1.0)
    red, green, blue = ((1 - depth) * a + depth * b for a, b in zip(to_rgb(first), to_rgb(last), strict=True))
    colour = to_hex((red, green, blue))
    return Look(f"{score} at exit {layer}", colour, marker, _LINES[_EXIT_LINES.get(int(layer), 4)], True, order)


def in_order(methods: Any) -> list[str]:
    """Methods without repetition, in the order of `Look.order`."""
    return sorted(set(methods), key=lambda method: look(method).order)


def labels_in_order(methods: Any) -> list[str]:
    """The labels of their curves, in that order."""
    return [look(method).curve["label"] for method in in_order(methods)]


def _hash(text: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
