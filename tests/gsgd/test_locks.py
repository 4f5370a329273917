"""One writer a folder: who holds it is named, who waits gets it, who dies leaves it."""

import errno
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from gsgd import locks, results
from gsgd.locks import one_writer

HOLD = """
import pathlib, sys, time
from gsgd.locks import one_writer
with one_writer(pathlib.Path(sys.argv[1])):
    (pathlib.Path(sys.argv[1]) / "kept").touch()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_message_names_host_process_and_since_when(tmp_path, holder):
    expected = rf"run is being written to by process {holder.pid} on {platform.node()} since 20\d\d-\d\d-\d\dT.*--wait"
    with pytest.raises(ValueError, match=expected), one_writer(tmp_path / "run"):
        pytest.fail("both write")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_waits_gets_it_when_the_other_is_gone(tmp_path, holder, number):
    told = []
    timer = threading.Timer(0.3, lambda: holder.send_signal(number))
    timer.start()
    with one_writer(tmp_path / "run", told.append):
        assert holder.wait() == -number
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), one_writer(tmp_path / "run"):
            pytest.fail("both write")
    assert [f"process {holder.pid}" in text for text in told] == [True]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


def test_many_that_wait_have_it_one_after_another(tmp_path):
    inside, most = [], []

    def work():
        with one_writer(tmp_path / "deep" / "run", lambda text: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_was_there_stays(tmp_path):
    with one_writer(tmp_path):
        pass
    assert tmp_path.is_dir()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_there_is_one_warning(tmp_path, monkeypatch, caplog, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "gsgd"), one_writer(tmp_path / "run"):
        (tmp_path / "run" / "kept").touch()
    assert len(caplog.records) == 1
    assert f"cannot be locked ({os.strerror(code)})" in caplog.text
    assert (tmp_path / "run" / "kept").exists()


def test_what_dead_processes_of_this_host_left_is_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = platform.node()
    left = tmp_path / f".header.json.{here}.{dead.pid}.tmp"
    others = [f".header.json.{here}.{os.getpid()}.tmp", f".header.json.elsewhere.{dead.pid}.tmp", ".notes.tmp", "a.tmp"]
    for path in (left, *(tmp_path / name for name in others)):
        path.write_text("half")
    results.write_atomic(tmp_path / "table.csv", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "table.csv"])


# ---- Places that cannot be written to ----


def a_file(folder):
    (folder / "in the way").touch()


def a_dangling_link(folder):
    (folder / "in the way").symlink_to(folder / "nowhere")


@pytest.mark.parametrize(
    ("place", "obstacle", "words"),
    [
        ("in the way/run", a_file, "Not a directory"),
        ("in the way/run", a_dangling_link, "File exists|No such file"),
        ("n" * 300, lambda folder: None, "File name too long"),
        ("new/" + "n" * 300, lambda folder: None, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_named_and_nothing_is_left(tmp_path, place, obstacle, words):
    obstacle(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=words) as caught, one_writer(tmp_path / place):
        pytest.fail("went on")
    assert str(tmp_path / place) in results.disk_trouble(caught.value)
    assert "B free there)" in results.disk_trouble(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.parent / "mine.txt"), os.mkfifo])
def test_a_lock_file_that_is_none_is_named_and_left_as_it_is(tmp_path, make):
    (tmp_path / "mine.txt").write_text("years of work")
    make(tmp_path / locks.LOCK)
    with pytest.raises(ValueError, match=r"\.writer\.lock must be a file .* no link, folder or pipe: remove it"):
        one_writer(tmp_path).__enter__()
    assert (tmp_path / "mine.txt").read_text() == "years of work"
    assert os.path.lexists(tmp_path / locks.LOCK)


def test_room_is_asked_for(tmp_path):
    results.check_writable(tmp_path / "a" / "b", room=1000)
    with pytest.raises(OSError, match=r"1e\+03 TB are needed"):
        results.check_writable(tmp_path / "b", room=10**15)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1_320_000_000, "1.32 GB"), (10**13, "10 TB")],
)
def test_bytes_in_words(count, words):
    assert results.in_bytes(count) == words
