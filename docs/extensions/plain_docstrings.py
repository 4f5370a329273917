"""Docstrings are plain text with code between backticks; here they become the reStructuredText that Sphinx reads.

Formulas, which stand four columns further right behind a blank line, become literal blocks; stars, bars and trailing
underscores outside of code, which mean something to Sphinx, are escaped.
"""

import re
from typing import Any

from sphinx.application import Sphinx

_SECTION = re.compile(r"^(Args|Arguments|Attributes|Raises|Returns|Yields|Reference|References|Example|Note):$")
_MARKER = re.compile(r"(\d+\.|-) ")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_MEANS_SOMETHING = re.compile(r"([*|])|(?<=\w)(_)(?!\w)")


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText, sections as napoleon wants them."""
    text = "\n".join(lines)
    # Code that a line break divides is put together, so that no half of a pair of backticks is left on a line.
    text = re.sub(r"`[^`]+`", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
    found: list[str] = []
    in_section, indent, formula = False, 0, None
    for line in text.split("\n"):
        own = len(line) - len(line.lstrip())
        if formula is not None and (not line.strip() or own >= formula):
            found.append(line)
            continue
        if formula is not None and found[-1].strip():
            found.append("")
        formula = None
        if line.strip() and own == 0:
            in_section = _SECTION.match(line) is not None
        elif line.strip() and not in_section and own >= indent + 4 and not found[-1].strip():
            found += [f"{' ' * indent}::", "", line]
            formula = own
            continue
        found.append(_escaped(line))
        if line.strip():
            marker = _MARKER.match(line.lstrip())
            indent = own + (len(marker[0]) if marker else 0)
    return found


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    for place, part in enumerate(parts):
        if _CODE.fullmatch(part):
            parts[place] = f"``{part.strip('`')}``"
        else:
            parts[place] = _MEANS_SOMETHING.sub(r"\\\1\2", part)
    return "".join(parts)


def _convert(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if name.split(".")[0] in ("gsgd", "theory"):
        lines[:] = converted(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Convert before napoleon, whose priority is the default, 500."""
    app.connect("autodoc-process-docstring", _convert, priority=400)
    return {"parallel_read_safe": True}
