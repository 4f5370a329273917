import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gsgd import __version__, cli
from gsgd.commands import bench


def gsgd(*arguments, folder=None, **environment):
    command = [sys.executable, "-m", "gsgd", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_shows_examples():
    result = gsgd("--help")
    assert result.returncode == 0
    assert all(re.search(rf"^  {command:11}\w", result.stdout, re.MULTILINE) for command in cli.COMMANDS)
    assert max(map(len, result.stdout.partition("examples:")[0].splitlines())) <= 80
    assert "examples:" in result.stdout


def test_every_command_explains_itself(capsys):
    for command in [*([name] for name in cli.COMMANDS), *(["bench", name] for name in cli.BENCH)]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert said.startswith(f"usage: gsgd {' '.join(command)} ")
        assert "examples:" in said or command == ["bench"]


def test_help_is_cheap(tmp_path):
    code = (
        "import sys, gsgd.cli; gsgd.cli.main(['--help']); sys.exit(any(m in sys.modules for m in ('numpy', 'theory')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_version():
    assert gsgd("--version").stdout.strip() == f"gsgd {__version__}"


@pytest.mark.parametrize(
    "arguments", [("nonsense",), (), ("verify", "--seed", "-1"), ("bench",), ("bench", "simulate", "--runs", "0")]
)
def test_bad_usage_exits_with_2(arguments):
    result = gsgd(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verfy"], "gsgd: error: no command 'verfy'; did you mean verify?"),
        (["xyz"], "no command 'xyz'; there are: reproduce, verify,"),
        (["bench", "stepp"], "gsgd bench: error: no command 'stepp'; did you mean step?"),
        (["verify", "--lost"], "gsgd verify: error: unrecognized arguments: --lost"),
    ],
)
def test_what_there_is_not_is_answered_with_what_is_near(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_hides_a_package_is_named_with_the_remedy(tmp_path):
    """`python -m` and torchrun look for packages in the current folder first."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('not yours')")
    (tmp_path / "theory.py").write_text("raise SystemExit('not yours')")
    where = {"folder": tmp_path, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    result = gsgd("train", "--help", **where)
    remedy = "set PYTHONSAFEPATH=1, or call from another folder"
    assert result.stderr == f"gsgd train: {tmp_path / 'training'} hides gsgd's own package `training`: {remedy}\n"
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{tmp_path / 'theory.py'} hides gsgd's own package `theory`" in gsgd("verify", **where).stderr
    # A command that needs none of them, and the remedy.
    assert gsgd("bench", "simulate", "--help", **where).returncode == 0
    assert gsgd("verify", "--list", **where, PYTHONSAFEPATH="1").returncode == 0
    # A folder that is no package hides nothing.
    (tmp_path / "training" / "__init__.py").unlink()
    (tmp_path / "theory.py").unlink()
    assert gsgd("verify", "--list", **where).returncode == 0


def test_the_simulation_benchmark_reports_ratios_to_numpy(capsys, tmp_path):
    options = ["--runs", "20", "--steps", "20", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    assert cli.main(["bench", "simulate", *options]) == 0
    assert "x NumPy" in capsys.readouterr().out
    figures = bench.measure_simulation(runs=10, steps=10, repeats=1)
    assert figures["batched NumPy, einsum"]["ratio"] == 1.0
    assert (tmp_path / "b.json").exists()


def test_a_reader_that_has_seen_enough_is_no_error():
    options = ["--runs", "2", "--steps", "2", "--repeats", "1"]
    command = [sys.executable, "-m", "gsgd", "bench", "simulate", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # at once: whatever is written meets a closed pipe
        said = process.stderr.read().decode()
        assert process.wait() == 141
    assert said == ""


def test_of_several_processes_one_speaks(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for rank, said in (("0", "gsgd figures: "), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["figures", "nothing-so-called"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert bool(err) == bool(said)


@pytest.mark.parametrize("command", [["verify", "--only", "Fact A.1"], ["bench", "simulate"]])
def test_a_folder_is_no_place_for_json_and_that_is_found_before_the_work(command, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert cli.main([*command, "--json", str(tmp_path / "there")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"cannot write to {tmp_path / 'there'}: Is a directory (" in err
    assert "B free there)" in err
