"""Bars and tables."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from gsgd.commands.console import bar, print_table


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_shows_what_is_done_on_a_terminal_and_nothing_elsewhere(terminal):
    file = io.StringIO()
    with bar(Console(file=file, force_terminal=terminal, width=100), "reading", 4000, "rows") as moving:
        moving.advance(1234)
        moving.note("so far")
        moving.to(3456, what="reading on")
    shown = file.getvalue()
    assert all((text in shown) == terminal for text in ("3,456 rows", "so far", "reading on"))


def test_a_table_folds_what_does_not_fit():
    file = io.StringIO()
    print_table(Console(file=file, width=20), ("name", "number"), [("a long name that folds", "1.5"), ("b", "10.25")])
    shown = file.getvalue()
    assert "…" not in shown
    assert all(line.endswith(("number ", "1.5 ", "10.25 ", "       ")) for line in shown.splitlines())


def test_neither_needs_torch():
    code = (
        "import sys, gsgd.commands.console, gsgd.commands.arguments;"
        "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
