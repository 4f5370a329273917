"""HTML that is escaped by construction: text becomes markup only through `tag`."""

from __future__ import annotations

import hashlib
import html
import math
import re
from typing import Any

from figures.text import DASH

_VOID = ("br", "input", "link", "meta")


class Html(str):
    """Markup, which is not escaped again. Made by this module alone, from text that it has escaped."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        children: markup as it is, any other text escaped; lists and tuples of them; None is left out.
        attributes: `class_` for class, underscores for hyphens; True for one without a value, None and False for none.
    """
    found = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    return Html(f"<{name}{found}>" if name in _VOID else f"<{name}{found}>{join(children)}</{name}>")


def join(children: Any) -> Html:
    """Children of an element one behind the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, (list, tuple)):
        return Html("".join(join(child) for child in children))
    return Html(html.escape(str(children), quote=True))


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


def link(target: str, *children: Any, **attributes: Any) -> Html:
    """A link to the element of this page whose id is `target`."""
    return tag("a", *children, href=f"#{target}", **attributes)


def anchor(kind: str, *names: str) -> str:
    """An id for what `names` name, the same each time; different names have different ids."""
    name = "/".join(names)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    if plain == name:
        return f"{kind}-{plain}"
    # What had to be replaced could have been something else.
    return f"{kind}-{plain.strip('-')}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def shown(value: float | None, digits: int = 4) -> str:
    """A number to be read: so many significant digits, a dash for none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}g}"


def number_cell(
    value: float | None, digits: int = 4, *, decimals: int | None = None, target: str | None = None
) -> Html:
    """A table's cell with a number; in full it is the cell's title and what the table is sorted by.

    Args:
        decimals: instead of significant digits.
        target: id of the element that the number links to.
    """
    none = value is None or math.isnan(value)
    text = f"{value:,.{decimals}f}" if decimals is not None and not none else shown(value, digits)
    full = "" if none else repr(value)
    return tag("td", quiet(target, text), class_="number", data_value=full, title=full or None)


def quiet(target: str | None, text: str) -> Html | str:
    """Text that links to what made it; its row's heading has the same link, so it is none to stop at by keyboard."""
    return text if target is None or text == DASH else link(target, text, class_="quiet", tabindex="-1")


def listed(parts: list[Any]) -> list[Any]:
    """Parts of a sentence with commas, and "and" before the last one."""
    found: list[Any] = []
    for number, part in enumerate(parts):
        if number:
            found.append(" and " if number == len(parts) - 1 else ", ")
        found.append(part)
    return found


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 check", "2 checks"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def region(label: str, *children: Any, class_: str = "scroll") -> Html:
    """A part of the page that scrolls by itself, with the keyboard, too."""
    return tag("div", *children, class_=class_, role="region", aria_label=label, tabindex="0")


def table(label: str, head: list[Any], rows: list[Any], *, class_: str | None = None, id: str | None = None) -> Html:
    """A table that scrolls by itself.

    Args:
        label: what it is, for those who do not see it.
        head: its cells, of `tag("th", ...)`.
        rows: of `tag("tr", ...)`.
    """
    content = tag(
        "table", tag("thead", tag("tr", *head)), "\n", tag("tbody", [(row, "\n") for row in rows]), class_=class_, id=id
    )
    return region(label, content)


def head_cell(text: str, sort: str | None = None, **attributes: Any) -> Html:
    """A column's heading; `sort` is "number" or "text" where the table can be sorted by it."""
    return tag("th", text, scope="col", data_sort=sort, **attributes)


def figure_svg(text: str) -> Html:
    """An SVG element of `figures.write.inline_svg`, which has escaped what it says."""
    # Its comments repeat the text that its glyphs draw; a page of many figures can do without.
    return Html(re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL))
