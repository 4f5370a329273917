"""`gsgd figures`: what it writes, leaves out and refuses."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures import style, write
from figures.registry import ENTRIES
from figures.results import Results
from gsgd.cli import main

THEORY = ("gaussian_rho", "noise", "lemma_c1", "agreement", "overlap", "trajectories", "top_k", "worst_case")
TABLES = ("table_1", "table_2", "table_3", "table_4", "table_5", "table_6", "crossing")


def test_all_that_the_results_have_and_nothing_else(theory, tmp_path, capsys):
    assert main(["figures", "--results", str(theory), "--out", str(tmp_path / "out"), "--format", "svg"]) == 0
    wanted = {f"{name}.svg" for name in THEORY} | {f"{name}.{kind}" for name in TABLES for kind in ("csv", "md")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    said = capsys.readouterr()
    assert {line.rsplit("/", 1)[1] for line in said.out.splitlines()} == wanted
    made = len(THEORY) + len(TABLES)
    assert f"left out ({len(ENTRIES) - made}):" in said.err
    assert re.search(r"figure_1 \S+ has no evaluated run \(gsgd train", " ".join(said.err.split()))
    assert f"[ 1/{made}]" in said.err
    # In one process they are the same, byte for byte.
    options = ["--results", str(theory), "--out", str(tmp_path / "alone"), "--format", "svg", "--jobs", "1"]
    assert main(["figures", *options]) == 0
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes(), path.name


def test_it_is_said_who_made_what(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recorded.write_theory(tmp_path / "recorded")
    recorded.write_comparison(tmp_path / "results" / "c", {"baseline": [[0.2, 0.4]]})
    before = sorted((tmp_path / "recorded").rglob("*"))
    assert main(["figures", "noise", "figure_1", "--format", "svg"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["results/figures/noise.svg", "results/figures/figure_1.svg"]
    assert "\nrecorded by the project: theory\nmade here: c\n" in said.err
    assert sorted((tmp_path / "recorded").rglob("*")) == before


@pytest.mark.slow
def test_the_same_results_make_the_same_bytes(recorded, tmp_path):
    """In another process, other hashes of strings: nothing of the order of sets, of the clock or of the machine."""
    recorded.write_theory(tmp_path / "results")
    recorded.write_comparison(tmp_path / "results" / "c", {"baseline": [[0.2, 0.4]], "loss@1:keep=0.7": [[0.3, 0.5]]})
    names = ["figure_1", "differences", "step_cost", "noise", "worst_case", "table_1", "comparisons"]
    options = ["--results", str(tmp_path / "results"), "--format", "svg,png,pdf"]
    assert main(["figures", *names, *options, "--out", str(tmp_path / "here")]) == 0
    environment = {**os.environ, "PYTHONHASHSEED": "2", "DISPLAY": ""}
    command = [sys.executable, "-m", "gsgd", "figures", *names, *options, "--out", str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment, timeout=120, capture_output=True)
    contents = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / out).iterdir())} for out in ("here", "there")
    ]
    assert len(contents[0]) == 5 * 3 + 2 * 2
    assert contents[0] == contents[1]
    assert not re.search(rb"<dc:date>|\d{4}-\d\d-\d\d", contents[0]["figure_1.svg"])


def test_malformed_results_stop_it_before_anything_is_written(recorded, tmp_path, capsys):
    recorded.write_theory(tmp_path)
    path = tmp_path / "theory" / "top_k.csv"
    path.write_text(path.read_text().replace("1.6", "many"))
    assert main(["figures", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "top_k.csv, line 5, column value: 'many' must be a valid number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # What does not need the malformed table is still drawn when asked for.
    assert (
        main(["figures", "noise", "--results", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "png"]) == 0
    )
    assert (tmp_path / "out" / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_asked_for_by_name_must_have_data(theory, tmp_path, capsys):
    assert (
        main(["figures", "figure_1", "noise", "--results", str(theory), "--out", str(tmp_path), "--format", "svg"]) == 2
    )
    assert "no data for figure_1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["noise.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure_11"], "there is no figure or table 'figure_11'; did you mean figure_1"),
        (["xyz"], "there are: figure_1,"),
        (["--format", "gif"], "--format gif: there is png, svg, pdf"),
        (["--format", ","], "names no format"),
        (["--results", "/nowhere/at/all"], "there is no folder /nowhere/at/all"),
    ],
)
def test_bad_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert main(["figures", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["figures", "report"])
@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_no_number_of_processes(command, jobs, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, f"--jobs={jobs}"])
    assert ended.value.code == 2
    assert f"--jobs: '{jobs}' must be a whole number of at least 1" in capsys.readouterr().err


def test_a_figure_by_its_old_name(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.2, 0.4]], "loss@1": [[0.3, 0.5]]})
    with pytest.warns(FutureWarning, match="variants is called differences now"):
        assert main(["figures", "variants", "--results", str(tmp_path), "--format", "svg"]) == 0
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["differences.svg"]


def test_help_has_examples_and_list_names_everything(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["figures", "--help"])
    assert leaving.value.code == 0
    assert "examples:" in capsys.readouterr().out
    assert main(["figures", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in ENTRIES)
    assert "theory/noise" in listed


@pytest.mark.parametrize("command", [["figures", "noise"], ["report"]])
def test_a_folder_that_cannot_be_written_is_told_before_results_are_read(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*command, "--results", str(tmp_path / "nowhere"), "--out", str(tmp_path / "file")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gsgd {command[0]}: cannot write to {tmp_path / 'file'}")
    assert said.endswith(" free there)\n")


def test_inline_svg_can_share_a_page(theory):
    def inline(name):
        with style.sheet():
            entry = ENTRIES[name]
            figure = entry.make(*entry.read(Results(theory)))
            return write.inline_svg(figure, name, 'says "<so>"')

    one, two = inline("noise"), inline("agreement")
    assert one.startswith("<svg ")
    assert 'aria-label="says &quot;&lt;so&gt;&quot;"' in one
    roots = [ElementTree.fromstring(text) for text in (one, two)]
    ids = [{element.get("id") for element in root.iter() if element.get("id")} for root in roots]
    assert not ids[0] & ids[1]
    for root, known in zip(roots, ids, strict=True):
        links = [v[1:] for e in root.iter() for k, v in e.attrib.items() if k.endswith("href") and v.startswith("#")]
        links += re.findall(r"url\(#([^)]+)\)", ElementTree.tostring(root, "unicode"))
        assert links
        assert set(links) <= known
    # Drawn type: a page looks the same where this font is not installed.
    assert not [element for root in roots for element in root.iter() if element.tag.endswith("}text")]


def test_nothing_opens_a_display_or_keeps_figures(theory, tmp_path):
    code = (
        "import sys; from gsgd.cli import main; "
        f"main(['figures', 'top_k', '--results', {str(theory)!r}, '--out', {str(tmp_path)!r}]); "
        "sys.exit(int('matplotlib.pyplot' in sys.modules))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, capture_output=True).returncode == 0
    )
