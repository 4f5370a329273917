"""The proofs as checks: repeated at other precisions, given too few boxes or bits, and without the extra."""

import subprocess
import sys
from pathlib import Path

import pytest

import theory

pytest.importorskip("flint")

from theory.checks import load, rigorous_lemma_c1
from theory.verdict import Route, Status

PROOFS = [name for name, check in load().items() if check.route is Route.RIGOROUS]
ROOT = Path(theory.__file__).parents[1]


def test_every_rigorous_check_takes_that_route_and_only_those():
    assert [name for name in load() if name.startswith("rigorous_")] == PROOFS


@pytest.mark.parametrize("name", [name for name in PROOFS if name != "rigorous_gaussian_proof.collected"])
def test_a_proof_can_be_repeated_at_higher_precision(name):
    check = load()[name]
    found = check.run(seed=0, alpha=1e-8, precision=160)
    assert found.status is check.expected
    if found.status is Status.PROVED:
        assert found.witness.endswith("160 bits")


@pytest.mark.parametrize("name", [name for name in PROOFS if name != "rigorous_gaussian_proof.collected"])
def test_too_few_bits_leave_a_claim_open_but_never_turn_it_round(name):
    check = load()[name]
    found = check.run(seed=0, alpha=1e-8, precision=20)
    assert found.status in (check.expected, Status.INCONCLUSIVE)


def test_twenty_digits_need_more_than_forty_bits():
    found = load()["rigorous_lemma_c1.best_constant"].run(seed=0, alpha=1e-8, precision=40)
    assert found.status is Status.INCONCLUSIVE
    assert "undecided" in found.witness
    assert "40 bits" in found.witness


@pytest.mark.parametrize(
    ("constant", "status"),
    [("0.72", Status.PROVED), ("0.515", Status.PROVED), ("0.5112", Status.PROVED), ("0.511", Status.REFUTED)],
)
def test_lemma_c1_boxes_decide_the_constants_on_both_sides_of_the_best(constant, status):
    assert rigorous_lemma_c1.prove(constant, precision=64).status is status


def test_lemma_c1_boxes_give_up_where_they_cannot_decide():
    found = rigorous_lemma_c1.prove("0.51114550441745910941", precision=100, max_boxes=300)
    assert found.status is Status.INCONCLUSIVE
    assert "boxes are undecided" in found.witness


def test_without_the_extra_the_other_checks_load_as_before(tmp_path):
    # A finder that hides python-flint, as if it were not installed.
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "flint":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "flint" else real(name, package)
from theory.checks import load
names = list(load())
assert names and not any(name.startswith("rigorous_") for name in names)
assert "flint" not in sys.modules
print(len(names))
"""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == len(load()) - len(PROOFS)
