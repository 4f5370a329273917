"""`gsgd verify` driven as a user would, and the runner behind it."""

import contextlib
import csv
import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gsgd.cli import main
from theory import checks, curves, verify
from theory.checks import available
from theory.statements import STATEMENTS, place
from theory.verdict import Check, Route, Scope, Status, Verdict

FIELDS = {
    "name": str,
    "statement": str,
    "claim": str,
    "route": str,
    "scope": str,
    "status": str,
    "expected": str,
    "value": (float, int, str, type(None)),
    "bound": (float, int, str, type(None)),
    "slack": (float, int, str, type(None)),
    "witness": (str, type(None)),
    "detectable": (float, int, type(None)),
    "seconds": (float, int),
}


def gsgd_verify(folder, *arguments, columns=100, jobs=1):
    """Called in this process, where the solver's answers are kept for all tests and nothing is imported anew."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("COLUMNS", str(columns))
        try:
            code = main(["verify", "--jobs", str(jobs), *arguments])
        except SystemExit as end:  # argparse's
            code = end.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Every check and every table; of the worst cases two step sizes, the rest is in a slow test of theirs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "worst_cases", functools.partial(curves.worst_cases, rates=(0.1, 0.5)))
        return folder, gsgd_verify(folder, "--json", "copy.json")


@pytest.mark.slow
def test_a_whole_run_exits_0_and_shows_every_statement(whole_run):
    _, result = whole_run
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "Every status is the expected one." in result.stdout
    for check in verify.all_checks():
        assert f"\n{check.statement}  {STATEMENTS[check.statement]}" in result.stdout


@pytest.mark.slow
def test_a_whole_run_writes_json_with_every_field(whole_run):
    folder, _ = whole_run
    content = json.loads((folder / "results" / "theory" / "verify.json").read_text(), parse_constant=pytest.fail)
    assert set(content) == {"header", "checks"}
    assert set(content["header"]) >= {"versions", "seed", "alpha", "date", "commit"}
    assert [c["name"] for c in content["checks"]] == [c.name for c in verify.all_checks()]
    for check in content["checks"]:
        assert set(check) == set(FIELDS)
        for field, kinds in FIELDS.items():
            assert isinstance(check[field], kinds), (check["name"], field)
        assert check["expected"] in {str(status) for status in Status}
        assert check["route"] in {str(route) for route in Route}
        assert check["scope"] in {str(scope) for scope in Scope}
    assert json.loads((folder / "copy.json").read_text()) == content


@pytest.mark.slow
def test_every_check_comes_out_as_expected_and_by_sampling_with_its_power(whole_run):
    """By the record of the whole run; test_checks.py pushes each of them past the truth."""
    folder, _ = whole_run
    found = json.loads((folder / "results" / "theory" / "verify.json").read_text())["checks"]
    assert [check for check in found if check["status"] != check["expected"]] == []
    sampled = [c for c in found if (c["route"], c["expected"]) == (str(Route.MONTE_CARLO), str(Status.CONSISTENT))]
    assert len(sampled) > 10
    assert all((check["detectable"] or 0) > 0 for check in sampled), sampled


@pytest.mark.slow
def test_what_holds_everywhere_is_counted_apart(whole_run):
    folder, result = whole_run
    found = json.loads((folder / "results" / "theory" / "verify.json").read_text())["checks"]
    holding = [check["scope"] for check in found if check["status"] in ("proved", "consistent")]
    assert f"Of what holds, {holding.count('everywhere')} everywhere" in " ".join(result.stdout.split())
    # A numerical method proves nothing, and samples reach no further than themselves.
    assert {check["status"] for check in found if check["route"] in ("numerical", "quadrature")} <= {
        "consistent",
        "refuted",
        "assumption-violated",
    }
    assert all(check["scope"] == "samples" for check in found if check["route"] == "monte-carlo")


@pytest.mark.slow
def test_a_whole_run_writes_tables_for_the_figures(whole_run):
    folder, _ = whole_run
    tables = sorted(path.name for path in (folder / "results" / "theory").glob("*.csv"))
    expected = ["agreement.csv", "gaussian_rho.csv", "lemma_c1.csv", "noise.csv", "top_k.csv", "trajectories.csv"]
    assert tables == expected + ["worst_case.csv"] * available("worst_case")
    for name in tables:
        with open(folder / "results" / "theory" / name, newline="") as file:
            assert len(list(csv.DictReader(file))) > 50


@pytest.mark.slow
def test_progress_and_results_stay_out_of_each_others_way(whole_run):
    _, result = whole_run
    assert "checking" not in result.stdout
    assert "Written: results/theory/verify.json" in result.stdout


def test_outcomes_depend_on_the_seed_but_not_on_jobs(tmp_path):
    def outcomes(*arguments, jobs):
        path = tmp_path / "x.json"
        only = ["--only", "Definition 4.1", "Fact A.1"]
        result = gsgd_verify(tmp_path, *only, "--no-results", "--json", str(path), *arguments, jobs=jobs)
        assert result.returncode == 0
        return [{k: v for k, v in c.items() if k != "seconds"} for c in json.loads(path.read_text())["checks"]]

    one = outcomes(jobs=1)
    assert one == outcomes(jobs=2)
    assert one != outcomes("--seed", "1", jobs=1)


def test_only_runs_the_statements_asked_for_and_keeps_the_record_of_whole_runs(tmp_path):
    (tmp_path / "results" / "theory").mkdir(parents=True)
    record = tmp_path / "results" / "theory" / "verify.json"
    record.write_text("a whole run")
    result = gsgd_verify(tmp_path, "--only", "theorem 5.8", "Remark 5.9", columns=140)
    assert result.returncode == 0
    assert "Theorem 5.8  convergence of SGD" in result.stdout
    assert "Remark 5.9" in result.stdout
    assert "Theorem 5.7" not in result.stdout
    assert record.read_text() == "a whole run"


def test_no_results_writes_nothing(tmp_path):
    assert gsgd_verify(tmp_path, "--only", "Fact A.5", "--no-results").returncode == 0
    assert not list(tmp_path.iterdir())


def test_list_names_claims_without_checking(tmp_path):
    """In a process of its own, as the shell starts it."""
    command = [sys.executable, "-m", "gsgd", "verify", "--list"]
    environment = os.environ | {"COLUMNS": "100"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0
    said = "".join(result.stdout.split())
    for check in verify.all_checks():
        # A claim that is longer than a line goes on in deeper ones, a word that is longer than a line in two.
        assert "".join(f"{check.claim} [{check.route}".split()) in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "Theorem 5.77"), "did you mean"),
        (("--alpha", "2"), "must be a number in (0, 0.1]"),
        (("--alpha", "x"), "must be a number"),
        (("--seed", "-1"), "at least 0"),
        (("--jobs", "0"), "at least 1"),
        (("--frobnicate",), "unrecognized"),
    ],
)
def test_bad_usage_exits_with_2_and_says_why(tmp_path, arguments, message):
    result = gsgd_verify(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_statement_that_only_an_extra_checks_is_told_from_none(monkeypatch, tmp_path):
    others = [check for check in verify.all_checks() if check.statement != "Equation 53"]
    monkeypatch.setattr("theory.cli.all_checks", lambda: others)
    result = gsgd_verify(tmp_path, "--only", "Equation 53")
    assert result.returncode == 2
    assert "the paper has it, but nothing checks it" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    result = gsgd_verify(tmp_path, "--only", "Fact A.5", "--results", "file/below")
    assert result.returncode == 2
    assert "cannot write to" in result.stderr


def _registered(monkeypatch, *checks):
    entries = {check.name: check for check in checks}
    monkeypatch.setattr(verify, "load", lambda: entries)
    return list(checks)


def _check(function, expected=Status.PROVED):
    return Check("x.check", "Fact A.1", "a claim", Route.EXACT, expected, function)


def test_a_check_that_cannot_be_carried_out_is_inconclusive_not_fatal(monkeypatch):
    def broken(context):
        raise ZeroDivisionError("by hand")

    checks = _registered(
        monkeypatch,
        _check(broken),
        Check(
            "x.mc",
            "Fact A.1",
            "another",
            Route.MONTE_CARLO,
            Status.CONSISTENT,
            lambda c: Verdict(status=Status.CONSISTENT),
        ),
    )
    first, second = verify.run_checks(checks, seed=0, alpha=1e-6, jobs=1)
    assert first.verdict.status is Status.INCONCLUSIVE
    assert "ZeroDivisionError: by hand" in first.verdict.witness
    assert not first.as_expected
    assert second.as_expected


def test_alpha_is_split_over_the_monte_carlo_checks(monkeypatch):
    seen = []

    def record(context):
        seen.append(context.alpha)
        return Verdict(status=Status.CONSISTENT)

    checks = [
        Check(f"x.{number}", "Fact A.1", "a claim", Route.MONTE_CARLO, Status.CONSISTENT, record) for number in range(4)
    ]
    _registered(monkeypatch, *checks)
    verify.run_checks(checks[:2], seed=0, alpha=1e-4, jobs=1)
    assert seen == [2.5e-5, 2.5e-5]


def test_an_unexpected_status_exits_with_1(monkeypatch, capsys, tmp_path):
    from theory import cli

    surprise = _check(lambda context: Verdict(status=Status.REFUTED, witness="two is odd"))
    monkeypatch.setattr(cli, "all_checks", lambda: [surprise])
    monkeypatch.setattr(
        cli, "run_checks", lambda checks, **_: [verify.Outcome(surprise, surprise.run(seed=0, alpha=1), 0.1)]
    )
    assert main(["verify", "--no-results", "--json", str(tmp_path / "x.json")]) == 1
    output = capsys.readouterr().out
    assert "NOT as expected" in output
    assert "two is odd" in output


def test_statements_have_places_and_others_are_refused():
    assert place("Assumption 5.1") < place("Theorem 5.7") < place("Equation 17") < place("Lemma C.1")
    with pytest.raises(ValueError, match=r"'Theorem 9\.9' is no statement"):
        place("Theorem 9.9")


def test_extras_that_would_add_checks_are_named(monkeypatch, capsys):
    monkeypatch.setattr("theory.cli.missing", lambda: ["rigorous", "worst-case"])
    assert main(["verify", "--only", "Theorem 5.8", "--no-results", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "pip install 'gsgd[rigorous]'" in said
    assert "pip install 'gsgd[worst-case]'" in said


def test_an_extra_is_missing_if_one_of_its_packages_is(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "clarabel" else found(name))
    assert "worst-case" in checks.missing()
    assert not checks.available("worst_case")
    assert checks.available("convergence")
