"""`gsgd report`: what it writes, prints and refuses."""

import os
import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures.registry import ENTRIES
from gsgd.cli import main


def test_writes_one_file_and_prints_where(tools, tmp_path, capsys):
    tools.write_verify(tmp_path / "results")
    assert main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    said = capsys.readouterr()
    first, second = said.out.splitlines()
    assert first.startswith(f"{path} (")
    assert first.endswith(" MB)")
    assert second == path.resolve().as_uri()
    # What could be made, in the registry's order, and no line of what could not.
    lines = [re.fullmatch(r"\[ ?(\d+)/(\d+)\] (\S+) +\d+\.\d s", line) for line in said.err.splitlines()]
    assert [line[1] for line in lines] == [str(number) for number in range(1, len(lines) + 1)]
    assert {line[2] for line in lines} == {str(len(lines))}
    names = [line[3] for line in lines]
    assert 0 < len(names) < len(ENTRIES)
    assert names == [name for name in ENTRIES if name in names]


def test_by_default_into_the_results(tools, tmp_path, monkeypatch):
    tools.write_verify(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 0
    assert (tmp_path / "results" / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_it_is_said_who_made_what(tools, recorded, tmp_path, monkeypatch):
    tools.write_verify(tmp_path / "recorded")
    recorded.write_comparison(tmp_path / "results" / "c", {"baseline": [[0.2, 0.4]]})
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 0
    root = tools.read_page((tmp_path / "results" / "report.html").read_text())
    assert "; recorded by the project" in root.id("provenance").text
    assert "comparison, made here" in root.id("runs").text
    assert not (tmp_path / "recorded" / "report.html").exists()


def test_without_results(tmp_path, capsys):
    assert main(["report", "--results", str(tmp_path / "nowhere")]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert main(["report", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has nothing to report: run `gsgd verify`" in said
    assert "`gsgd compare`" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "prooved"}, "verify.json, field 'checks[1].status': 'prooved' must be 'proved', 'consistent'"),
        ({"claim": None}, "verify.json, field 'checks[1].claim': None must be a valid string"),
        ({"slack": "much"}, "verify.json, field 'checks[1].slack': 'much' must be a valid number"),
        ({"value": True}, "verify.json, field 'checks[1].value': True must be"),
        ({"seconds": None}, "verify.json, field 'checks[1].seconds': None must be a valid number"),
        ({"name": "subject.check_0"}, "field 'checks': checks[1] is called 'subject.check_0', and so is checks[0]"),
    ],
)
def test_malformed_checks_name_file_and_field(tools, tmp_path, capsys, change, message):
    tools.write_verify(tmp_path, [tools.check(0), tools.check(1, **change)])
    (tmp_path / "report.html").write_text("old")
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "verify.json cannot be read"),
        ("[]", "verify.json holds a list"),
        ('{"checks": []}', "verify.json has no field 'header'"),
        ('{"header": {"date": 1}}', "verify.json, field 'header.date': 1 must be a valid string"),
    ],
)
def test_malformed_file(tmp_path, capsys, text, message):
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory" / "verify.json").write_text(text)
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_no_checks_in_the_file(tools, tmp_path, capsys):
    tools.write_verify(tmp_path, [])
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "field 'checks': there is no check" in capsys.readouterr().err


def test_malformed_headers_of_runs(recorded, tmp_path, capsys):
    recorded.write_run(tmp_path / "run", [0.1], header={"command": ["a", "list"]})
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "header.json, field 'command': ['a', 'list'] must be a valid string" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tools, tmp_path, capsys):
    tools.write_verify(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert "gsgd report: " in capsys.readouterr().err


def test_the_page_is_whole_or_not_there(tools, tmp_path, monkeypatch, capsys):
    tools.write_verify(tmp_path)
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "full" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "theory"]


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["report", "--help"])
    assert leaving.value.code == 0
    assert "examples:" in capsys.readouterr().out
