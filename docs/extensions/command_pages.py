"""The reference of the command line: what `--help` says of every command, and the keys of a configuration."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from sphinx.application import Sphinx

from gsgd.cli import BENCH, COMMANDS, main
from training.config import TASKS

PAGE = Path(__file__).parents[1] / "reference" / "commands.md"
INTRODUCTION = """\
<!-- made by extensions/command_pages.py -->
# Commands

`gsgd COMMAND --help` says the same in a terminal. All commands return 2 for bad usage, and say in one sentence what is
wrong. Where a terminal shows colours, `NO_COLOR=1` keeps them away.
"""


def page() -> str:
    """The page in Markdown."""
    return "\n".join([INTRODUCTION, *_of_commands(), *_of_keys()])


def _of_commands() -> Iterator[str]:
    for name in COMMANDS:
        if name == "bench":
            continue
        yield _section(f"gsgd {name}", printed(name, "--help"))
    for name in BENCH:
        yield _section(f"gsgd bench {name}", printed("bench", name, "--help"))


def _of_keys() -> Iterator[str]:
    yield "## Keys of a configuration\n"
    for task in TASKS:
        yield f"### Task {task}\n\n```text\n{printed('train', '--keys', task)}```\n"


def _section(title: str, text: str) -> str:
    return f"## `{title}`\n\n```text\n{text}```\n"


def printed(*words: str) -> str:
    """What `gsgd` prints on standard output, 80 columns wide."""
    shown = io.StringIO()
    plain = {"COLUMNS": "80", "NO_COLOR": "1"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main(words)
    if not shown.getvalue():
        raise RuntimeError(f"gsgd {' '.join(words)} printed nothing")
    return shown.getvalue()


def _write(app: Sphinx) -> None:
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the page before Sphinx looks for pages."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
