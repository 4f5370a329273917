"""Names and numbers as the page writes them: the filters of its templates."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from figures.text import DASH

FILTERS = ("anchor", "counted", "full", "shown", "worded")


def anchor(name: str, kind: str) -> str:
    """An id for what is called `name`, the same each time; different names have different ids."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    if plain == name:
        return f"{kind}-{plain}"
    # What had to be replaced could have been something else.
    return f"{kind}-{plain.strip('-')}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def counted(count: int, noun: str) -> str:
    """A count with its noun, such as "1 check" and "2 checks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shown(value: float | None, digits: int = 4, decimals: int | None = None) -> str:
    """A number to be read: so many significant digits, or decimals; a dash for none."""
    if value is None or math.isnan(value):
        return DASH
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}g}"


def full(value: float | None) -> str:
    """A number with all its digits; nothing for none."""
    return "" if value is None or math.isnan(value) else repr(value)


def worded(value: Any, depth: int = 0) -> str:
    """An entry of a header in words: "train 45000, test 10000"."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        words = ", ".join(f"{key} {worded(entry, depth + 1)}" for key, entry in value.items())
    elif isinstance(value, list):
        words = ", ".join(worded(entry, depth + 1) for entry in value)
    else:
        return json.dumps(value, ensure_ascii=False)
    return f"({words})" if depth else words
