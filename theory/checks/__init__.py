"""What verifies each formula: one module per subject, each check registered under the statement it is about."""

from __future__ import annotations

import importlib
import pkgutil

from theory.verdict import Check, registered


def load() -> dict[str, Check]:
    """Import every module of this room and return all checks by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return registered()
