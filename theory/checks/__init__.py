"""What verifies each formula: one module per subject, each check registered under the statement it is about."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

from theory.verdict import Check, registered

NEEDS = {"rigorous": ("flint",), "worst-case": ("PEPit", "clarabel")}
"""Extra -> packages; modules named after one that is not installed are left out."""


def available(module: str) -> bool:
    """Whether the packages that the module `module` of this package needs are installed."""
    return not any(module.startswith(extra.replace("-", "_")) for extra in missing())


def missing() -> list[str]:
    """The extras that are not installed and would add checks."""
    return [extra for extra, packages in NEEDS.items() if not all(map(importlib.util.find_spec, packages))]


def load() -> dict[str, Check]:
    """Import every module of this package that can be imported here, and return all checks by name."""
    for module in pkgutil.iter_modules(__path__):
        if available(module.name):
            importlib.import_module(f"{__name__}.{module.name}")
    return registered()
