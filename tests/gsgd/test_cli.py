import subprocess
import sys

import pytest

from gsgd import __version__, bench, cli


def gsgd(*arguments):
    return subprocess.run([sys.executable, "-m", "gsgd", *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_shows_examples():
    result = gsgd("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in cli.COMMANDS)
    assert "examples:" in result.stdout


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


def test_an_unknown_command_is_answered_with_those_that_exist(capsys):
    assert cli.main(["verfy"]) == 2
    assert "verify" in capsys.readouterr().err


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
