"""A page for every statement that is checked: what the print says wrongly, what holds, the formulas, and every check.

Statements, claims, routes and scopes come from the registry of `theory`, verdicts from what the project recorded, and
pictures are drawn from the recorded tables.
"""

import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

import theory.formulas
from figures import style, verified, write
from figures.registry import ENTRIES, Entry
from figures.report import exhibits
from figures.results import Results
from figures.verified import Check as Outcome
from theory.statements import STATEMENTS
from theory.verdict import Check
from theory.verify import all_checks

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "theory" / "statements"
PICTURES = DOCS / "theory" / "pictures"
RECORDED = DOCS.parent / "recorded"
HOLDS = ("proved", "consistent")

logger = logging.getLogger(__name__)


def write_pages(app: Sphinx) -> None:
    """Draw the pictures and write the pages, those that have changed."""
    checks = {statement: list(group) for statement, group in groupby(all_checks(), key=lambda each: each.statement)}
    recorded = verified.read(RECORDED / "theory")
    outcomes = {outcome.name: outcome for outcome in recorded.checks}
    unrecorded = [each.name for group in checks.values() for each in group if each.name not in outcomes]
    if unrecorded:
        logger.info("checks that recorded/theory/verify.json does not have yet: %s", ", ".join(unrecorded))
    pictures = _draw()
    for statement, group in checks.items():
        shown = [picture for picture in pictures if statement in picture.statements]
        _put(FOLDER / f"{slug(statement)}.md", "\n".join(_page(statement, group, outcomes, shown)))
    _put(FOLDER / "index.md", "\n".join(_index(checks, outcomes, recorded.header)))


def slug(statement: str) -> str:
    """The name of a statement's page."""
    return re.sub(r"[ .]", "-", statement.lower())


class Picture:
    """A figure drawn from the recorded tables, with how it is read and the statements that it shows."""

    def __init__(self, entry: Entry, caption: dict[str, object]):
        self.entry = entry
        self.reading = str(caption["reading"])
        self.statements = [str(name) for name in caption.get("checked", ())]  # type: ignore[attr-defined]

    @property
    def path(self) -> Path:
        return PICTURES / f"{self.entry.name}.svg"


def _draw() -> list[Picture]:
    captions = tomllib.loads(Path(exhibits.__file__).with_name("captions.toml").read_text(encoding="utf-8"))
    results = Results(RECORDED)
    found = []
    for entry in ENTRIES.values():
        if entry.kind == "figure" and entry.needs and all(name.startswith("theory/") for name in entry.needs):
            picture = Picture(entry, captions[entry.name])
            with style.sheet():
                _put(picture.path, write.encode(entry.make(*entry.read(results)), "svg", "screen").decode("utf-8"))
            found.append(picture)
    return found


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# ---- A page ----


def _page(
    statement: str, checks: list[Check], outcomes: dict[str, Outcome], pictures: Iterable[Picture]
) -> Iterator[str]:
    known = [outcomes[check.name] for check in checks if check.name in outcomes]
    yield f"# {statement}: {_plain(STATEMENTS[statement])}\n"
    yield f"{_verdict(known)}\n"
    wrong = [outcome for outcome in known if outcome.wrong_in_print]
    if wrong:
        yield "## False as printed\n"
        for outcome in wrong:
            yield f"- {_plain(outcome.claim)}. Witness: {_plain(outcome.witness or 'none')}."
        yield "\nWhat holds instead, each a check of its own:\n"
        mends = [outcome for outcome in known if outcome.status in HOLDS and outcome.as_expected]
        first = [outcome for outcome in mends if outcome.claim.startswith(("mended", "corrected"))] or mends
        yield from (f"- {_plain(outcome.claim)}" for outcome in first)
        yield "\n[The paper's sentences that are wrong](../slips.md) has all of them.\n"
    for picture in pictures:
        yield f"## {_plain(picture.entry.shows)}\n"
        yield f"![{_plain(picture.entry.shows)}](../pictures/{picture.path.name})\n"
        yield f"{_plain(picture.reading)}\n"
    formulas = list(formulas_of(statement))
    if formulas:
        yield "## Formulas\n"
        yield "```{eval-rst}"
        yield from (f".. autofunction:: {name}\n   :no-index:\n" for name in formulas)
        yield "```\n"
    yield "## Checks\n"
    yield "| | claim | how, where | found | bound | slack |"
    yield "|---|---|---|---|---|---|"
    yield from (_row(check, outcomes.get(check.name)) for check in checks)
    yield "\nWhat statuses, routes and scopes mean stands [here](../verify.md). In a terminal:\n"
    yield f'```sh\ngsgd verify --only "{statement}"\n```\n'


def _verdict(outcomes: list[Outcome]) -> str:
    holding = [outcome for outcome in outcomes if outcome.status in HOLDS and outcome.as_expected]
    wrong = sum(outcome.wrong_in_print for outcome in outcomes)
    controls = len(outcomes) - len(holding) - wrong
    parts = []
    if wrong:
        parts.append(f"**{wrong} sentence{'s are' if wrong > 1 else ' is'} false as printed.**")
    if holding:
        everywhere = sum(outcome.scope == "everywhere" for outcome in holding)
        routes = ", ".join(dict.fromkeys(outcome.route for outcome in holding))
        reach = f", {everywhere} of them everywhere in the range of the claim" if everywhere else ""
        checks = f"{len(holding)} check{'s' if len(holding) > 1 else ''}"
        what = "What takes its place" if wrong else "What is checked"
        parts.append(f"{what} holds, by {checks} ({routes}){reach}.")
    if controls:
        parts.append(f"{controls} more {'are controls' if controls > 1 else 'is a control'}, which must not hold.")
    return " ".join(parts) or "Nothing of it is recorded yet."


def _row(check: Check, outcome: Outcome | None) -> str:
    claim = _plain(check.claim)
    if outcome is None:
        return f"| not recorded | {claim} | {check.route}, {check.scope} | | | |"
    if outcome.witness:
        claim += f"<br>*{_plain(outcome.witness)}*"
    numbers = (_number(value) for value in (outcome.value, outcome.bound, outcome.slack))
    return f"| {outcome.status} | {claim} | {check.route}, {check.scope} | {' | '.join(numbers)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _plain(text: str) -> str:
    """Text as it stands, whatever Markdown would make of it."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$^@])", r"\\\1", text)


def formulas_of(statement: str) -> Iterator[str]:
    """Dotted names of the formulas whose docstring's first line names the statement."""
    kind, _, number = statement.partition(" ")
    beyond = kind == "Beyond"
    names = rf"\b(?:{kind}|Eq)[a-z.]*" if not beyond else r"\b[Bb]eyond"
    wanted = re.compile(rf"{names}\b.*(?<![\d.]){re.escape(number)}(?![\d]|\.\d)")
    for name, function in _formulas():
        first = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        if wanted.search(first) and ("eyond" in first) == beyond:
            yield name


def _formulas() -> Iterator[tuple[str, Callable[..., object]]]:
    for found in pkgutil.iter_modules(theory.formulas.__path__):
        if not found.name.startswith("_"):
            module = importlib.import_module(f"theory.formulas.{found.name}")
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if not name.startswith("_") and function.__module__ == module.__name__:
                    yield f"{module.__name__}.{name}", function


# ---- The list of all ----


def _index(checks: dict[str, list[Check]], outcomes: dict[str, Outcome], header: verified.Header) -> Iterator[str]:
    count = sum(map(len, checks.values()))
    yield "# The statements, one by one\n"
    yield (
        f"{count} checks of {len(checks)} statements, in the order of the text; what goes beyond the print stands "
        f"behind what it goes beyond. Verdicts are those of `{header.command}`, {header.date[:10]} ({header.machine}), "
        "which `recorded/theory/verify.json` has in full.\n"
    )
    yield "| statement | about | checks | what came out |"
    yield "|---|---|---|---|"
    for statement, group in checks.items():
        known = [outcomes[check.name] for check in group if check.name in outcomes]
        wrong = sum(outcome.wrong_in_print for outcome in known)
        said = f"{wrong} false as printed, mended" if wrong else "as printed" if not _is_ours(statement) else "ours"
        yield f"| [{statement}]({slug(statement)}.md) | {_plain(STATEMENTS[statement])} | {len(group)} | {said} |"
    yield "\n```{toctree}\n:hidden:\n:maxdepth: 1\n"
    yield from map(slug, checks)
    yield "```\n"


def _is_ours(statement: str) -> bool:
    return statement.startswith("Beyond")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
