"""Every statement of the paper as a formula, and checks of each by independent routes."""

from typing import Any

import gsgd as gsgd  # it knows the old names of what has moved


def __getattr__(name: str) -> Any:
    """`theory.examine`, which is imported when it is asked for: the formulas do without its packages."""
    if name == "examine":
        from theory.examination import examine

        return examine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
