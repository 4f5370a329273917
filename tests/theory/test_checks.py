"""Every check stops to come out as expected when the formula it tests is pushed past the truth; see test_verify.py.

`mutants/` holds, for each check of `theory/checks/`, the replacement that must make it fail: a bound tightened too far,
or, for an expected refutation or violation, what is true instead.
"""

import runpy
from pathlib import Path

import pytest

from theory.checks import load
from theory.statements import STATEMENTS, place
from theory.verdict import Status

CHECKS = load()
FILES = [runpy.run_path(str(path))["MUTANTS"] for path in sorted((Path(__file__).parent / "mutants").glob("*.py"))]
# A check may have several mutants, then it stands with a list of them.
MUTANTS = [
    pytest.param(name, mutant, id=f"{name}-{number}")
    for file in FILES
    for name, entry in file.items()
    for number, mutant in enumerate(entry if isinstance(entry, list) else [entry])
]
# About what each Monte Carlo check gets of a default run. With some 40 of them a correct check fails at a given seed
# with probability below 1e-6.
ALPHA = 2e-8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_check_fails_when_pushed_past_the_truth(name, mutant):
    verdict = CHECKS[name].run(seed=0, alpha=ALPHA, **mutant)
    assert verdict.status is not CHECKS[name].expected, verdict


def test_every_check_has_a_mutant():
    assert sorted(name for file in FILES for name in file) == sorted(CHECKS)


def test_every_check_belongs_to_a_statement_of_the_paper():
    assert {check.statement for check in CHECKS.values()} <= set(STATEMENTS)
    assert place("Theorem 5.7") < place("Theorem 5.8") < place("Lemma C.1")


# The numbered statements of the paper's text (Section 5 to 6 and Appendix A to D), from its table of contents.
NUMBERED = [
    "Definition 4.1",
    *(f"Assumption 5.{n}" for n in (1, 2, 3, 4, 5, 12, 17)),
    "Definition 5.6",
    "Theorem 5.7",
    "Theorem 5.8",
    "Remark 5.9",
    "Corollary 5.10",
    "Remark 5.11",
    "Definition 5.13",
    "Theorem 5.14",
    "Theorem 5.15",
    "Corollary 5.16",
    "Theorem 5.18",
    "Corollary 5.19",
    "Assumption 6.1",
    "Theorem 6.2",
    "Corollary 6.3",
    *(f"Fact A.{n}" for n in (1, 2, 3, 4, 5)),
    "Lemma C.1",
    "Theorem D.1",
]


PROOFS = [f"Equation {number}" for number in range(27, 47)]


@pytest.mark.parametrize("statement", [*NUMBERED, *PROOFS])
def test_every_numbered_statement_is_checked(statement):
    assert any(check.statement == statement for check in CHECKS.values())


@pytest.mark.parametrize(
    "statement",
    [
        "Theorem 5.7",
        "Theorem 5.8",
        "Theorem 5.14",
        "Theorem 5.15",
        "Theorem 5.18",
        "Theorem 6.2",
        "Lemma C.1",
        "Fact A.2",
    ],
)
def test_the_main_statements_have_two_independent_routes(statement):
    checks = [check for check in CHECKS.values() if check.statement == statement]
    positive = [check for check in checks if check.expected in (Status.PROVED, Status.CONSISTENT)]
    assert len(positive) >= 2


def test_claims_say_when_they_quote_the_print():
    for check in CHECKS.values():
        if check.claim.startswith("as printed"):
            assert check.expected is Status.REFUTED, check.name
