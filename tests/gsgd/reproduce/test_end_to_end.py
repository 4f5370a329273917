"""The real thing, small: Ctrl-C on a terminal in the middle of the training, and the same command to the end."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from gsgd.cli import COMMANDS

COMMAND = [sys.executable, "-m", "gsgd", "reproduce", "--budget", "1s"]


def on_a_terminal(folder, environment, until):
    """Run the command on a terminal of its own and press Ctrl-C when `until()`. Returns (exit code, what it showed)."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(COMMAND[0], COMMAND, {**environment, "TERM": "xterm"})
    shown, pressed, deadline = b"", False, time.monotonic() + 600
    while time.monotonic() < deadline:
        if not pressed and until():
            os.write(terminal, b"\x03")
            pressed = True
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # as Linux says that the other side is closed
                break
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.mark.slow
@pytest.mark.skipif("report" not in COMMANDS, reason="there is no gsgd report yet")
def test_interrupted_while_it_trains_and_the_same_command_goes_on_to_the_report(tmp_path):
    # A thread each: where others work, too, several would wait for one another.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    results = tmp_path / "results"
    comparison = results / "laptop" / "bert-tiny-1s"
    code, shown = on_a_terminal(tmp_path, environment, lambda: any(comparison.glob("*/evaluations.csv")))
    assert code == 130, shown
    assert "Traceback" not in shown
    assert "measuring the cost of a step" in shown  # its moving bar came through
    assert "interrupted; `gsgd reproduce --budget 1s` goes on from here" in shown
    before = json.loads((results / "laptop" / "reproduce.json").read_text())["stages"]
    assert {name: record["status"] for name, record in before.items()} == {
        "verify": "finished",
        "bert-tiny-1s": "begun",
    }
    begun = json.loads((comparison / "compare.json").read_text())

    # Not on a terminal now, as in CI.
    again = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    lines = again.stdout.splitlines()
    assert lines[-1] == "results/report.html"
    assert "<html" in (tmp_path / lines[-1]).read_text().lower()
    assert any(line.startswith("[1/5] verify: finished ") for line in lines)
    assert re.search(r"bert-tiny-1s +about \d+ \w+ +goes on where it stopped", again.stdout)
    # At the prices of the first part, and to the end.
    whole = json.loads((comparison / "compare.json").read_text())
    assert whole["step_costs"] == begun["step_costs"]
    assert {entry["method"] for entry in whole["summary"]} == {"baseline", "random", "loss@1"}
    after = json.loads((results / "laptop" / "reproduce.json").read_text())["stages"]
    assert [record["status"] for record in after.values()] == ["finished"] * 5
    assert after["verify"] == before["verify"]
    assert after["bert-tiny-1s"]["seconds"] > before["bert-tiny-1s"]["seconds"] > 0
    assert any((results / "figures").glob("*.svg"))
