"""Files of figures and tables, with the same bytes for the same results."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from figures.text import markdown
from gsgd.results import write_atomic

# No date and no program's name: the same results make the same file.
FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Format -> metadata that is left out."""
SIZES = {"print": 1.0, "screen": 1.45}
"""A screen's figure is a printed one (3.4 and 7 inches wide, type of 8 points), enlarged so many times."""


def encode(figure: Figure, format: str, size: str = "print") -> bytes:
    """The figure's file in a format, "png", "svg" or "pdf"; to be called on the `style.sheet` it was drawn on.

    Args:
        size: one of SIZES, for pictures and pages: whoever places a PDF enlarges it.

    Raises:
        ValueError: for another format or size.
    """
    for name, value, known in (("format", format, FORMATS), ("size", size, SIZES)):
        if value not in known:
            raise ValueError(f"{name} = {value!r} must be one of: {', '.join(known)}")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    dots = SIZES[size] * matplotlib.rcParams["savefig.dpi"]
    figure.savefig(buffer, format=format, dpi=dots, metadata=FORMATS[format])
    if format != "svg" or size == "print":
        return buffer.getvalue()
    # The first width and height are those of the whole, in which its view stays as it is.
    return re.sub(
        rb'(width|height)="([\d.]+)pt"',
        lambda found: b'%s="%gpt"' % (found[1], SIZES[size] * float(found[2])),
        buffer.getvalue(),
        count=2,
    )


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for a page of HTML.

    Its ids begin with `name`, so that several figures can share a page; it can shrink, and is read out as
    `description`.
    """
    text = encode(figure, "svg", "screen").decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    said = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{said}" style="max-width:100%;height:auto"', 1)


def save_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str], size: str) -> list[Path]:
    """Write `name.png` and so on to `folder`, which is created. Returns the files."""
    return [write_atomic(folder / f"{name}.{format}", encode(figure, format, size)) for format in formats]


def save_table(table: pd.DataFrame, folder: Path, name: str, title: str) -> list[Path]:
    """Write `name.csv`, numbers in full, and `name.md`, to be read. Returns the files."""
    return [
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n")),
        write_atomic(folder / f"{name}.md", markdown(table, title)),
    ]
