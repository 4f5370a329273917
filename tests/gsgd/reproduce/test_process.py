"""The child processes: exit codes, signals told once, and the very gsgd that we are."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gsgd import __version__
from gsgd.reproduce import process
from gsgd.reproduce.process import Interrupted, run_command

CHILD = """
import json, os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1]) / os.environ.get("RANK", "")
folder.mkdir(exist_ok=True)
seen = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: seen.append(int(number)))
about = {"group": os.getpgrp(), "pid": os.getpid(), "stdin": sys.stdin.read()}
(folder / "about.json").write_text(json.dumps(about))
patient = "patient" in sys.argv
begin = time.monotonic()
while (not seen or patient) and time.monotonic() - begin < 60:
    time.sleep(0.01)
    with open(folder / "ticks", "a") as file:
        file.write(".")
time.sleep(0.4)  # for what is told twice
(folder / "seen.json").write_text(json.dumps(seen))
sys.exit(130)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """The module that stands for gsgd: it waits for a signal, and writes down which came."""
    (tmp_path / "waiting_child.py").write_text(CHILD)
    monkeypatch.setitem(process.MODULES, "gsgd", "waiting_child")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def send_when_ready(child, *numbers, ready="ticks"):
    """Sends the signals to this process once the child is ready, a moment apart."""

    def send():
        wait_for(child / ready)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def interrupt(child, *numbers, arguments=()):
    thread = send_when_ready(child, *numbers)
    with pytest.raises(Interrupted) as interrupted:
        run_command(["gsgd", str(child), *arguments])
    thread.join()
    return interrupted.value.number


def test_exit_codes_and_output_are_the_commands(capfd):
    assert run_command(["gsgd", "--version"]) == 0
    assert run_command(["gsgd", "nonsense"]) == 2
    out, err = capfd.readouterr()
    assert out == f"gsgd {__version__}\n"
    assert "no command 'nonsense'" in err


def test_a_package_of_that_name_where_we_are_called_is_not_taken_for_it(tmp_path, monkeypatch, capfd):
    (tmp_path / "gsgd").mkdir()
    (tmp_path / "gsgd" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert run_command(["gsgd", "--version"]) == 0


def test_ctrl_c_is_passed_on_once_and_waited_for(child):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU)
    before = [signal.getsignal(number) for number in numbers]
    assert interrupt(child, signal.SIGINT) == signal.SIGINT
    assert json.loads((child / "seen.json").read_text()) == [signal.SIGINT]
    assert [signal.getsignal(number) for number in numbers] == before
    # The terminal tells the foreground group; the child must hear it from us only.
    about = json.loads((child / "about.json").read_text())
    assert about["group"] == about["pid"] != os.getpgrp()
    assert about["stdin"] == ""


@pytest.mark.parametrize(("ours", "its"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)])
def test_other_ends(child, ours, its):
    # Under nohup it would be ignored.
    before = signal.signal(ours, signal.SIG_DFL)
    try:
        assert interrupt(child, ours) == ours
    finally:
        signal.signal(ours, before)
    assert json.loads((child / "seen.json").read_text()) == [its]


def test_a_child_that_does_not_end_is_killed_in_the_end(child):
    begin = time.monotonic()
    assert interrupt(child, signal.SIGINT, signal.SIGINT, signal.SIGINT, arguments=["patient"]) == signal.SIGINT
    assert time.monotonic() - begin < 50
    assert not (child / "seen.json").exists()


@pytest.mark.parametrize("code", ["sys.exit(130)", "os.kill(os.getpid(), signal.SIGINT)"])
def test_a_child_that_was_interrupted_by_somebody_else(tmp_path, child, code):
    (tmp_path / "waiting_child.py").write_text(
        f"import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); {code}"
    )
    with pytest.raises(Interrupted) as interrupted:
        run_command(["gsgd"])
    assert interrupted.value.number == signal.SIGINT


def test_what_is_ignored_stays_ignored(child):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert interrupt(child, signal.SIGHUP, signal.SIGINT) == signal.SIGINT
    finally:
        signal.signal(signal.SIGHUP, before)
    assert json.loads((child / "seen.json").read_text()) == [signal.SIGINT]


def test_ctrl_z_stops_the_child_too(child):
    code = "import sys; from gsgd.reproduce import process; process.MODULES['gsgd'] = 'waiting_child'; " + (
        "process.run_command(['gsgd', sys.argv[1]])"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(child)], stderr=subprocess.DEVNULL) as parent:
        try:
            wait_for(child / "ticks")
            parent.send_signal(signal.SIGTSTP)
            os.waitid(os.P_PID, parent.pid, os.WSTOPPED | os.WNOWAIT)
            before = (child / "ticks").stat().st_size
            time.sleep(0.5)
            assert (child / "ticks").stat().st_size == before
            parent.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + 30
            while (child / "ticks").stat().st_size == before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert (child / "ticks").stat().st_size > before
            parent.send_signal(signal.SIGINT)
            parent.wait(timeout=60)
        finally:
            parent.kill()
    assert json.loads((child / "seen.json").read_text()) == [signal.SIGINT]


@pytest.mark.slow
def test_torchrun_passes_it_on_once_to_each_process(child):
    (child / "0").mkdir()
    (child / "1").mkdir()
    thread = send_when_ready(child / "1", signal.SIGINT)
    with pytest.raises(Interrupted):
        run_command(["torchrun", "--nproc-per-node", "2", "--master-port", "29617", "-m", "waiting_child", str(child)])
    thread.join()
    for rank in ("0", "1"):
        assert json.loads((child / rank / "seen.json").read_text()) == [signal.SIGINT]
