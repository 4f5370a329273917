"""Cached folders appear whole, once, and are found again by what they were made from."""

import errno
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from training.data import cache
from training.data.cache import cached_folder, default_cache


def write_two(folder):
    (folder / "a").write_text("first")
    time.sleep(0.05)
    (folder / "b").write_text("second")


def race(root, build, callers=6):
    ready = threading.Barrier(callers)

    def ask(_):
        ready.wait()
        return cached_folder(root, "thing", {"x": 1}, build)

    with ThreadPoolExecutor(callers) as pool:
        return set(pool.map(ask, range(callers)))


@pytest.mark.parametrize("locks", [True, False])
def test_callers_that_race_get_one_whole_folder(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(cache, "fcntl", None)
    elif cache.fcntl is None:
        pytest.skip("this system has no file locks")
    built = []

    def build(folder):
        built.append(folder)
        write_two(folder)

    (folder,) = race(tmp_path, build)
    assert {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ""} == {
        "a": "first",
        "b": "second",
    }
    assert len(built) == 1 if locks else len(built) > 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_equal_inputs_are_found_and_others_are_not(tmp_path):
    built = []

    def ask(kind, inputs):
        return cached_folder(tmp_path, kind, inputs, lambda folder: built.append(folder))

    first = ask("a", {"x": 1, "y": [2]})
    assert ask("a", {"y": [2], "x": 1}) == first
    assert len(built) == 1
    assert len({first, ask("a", {"x": 2, "y": [2]}), ask("b", {"x": 1, "y": [2]})}) == len(built) == 3


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cached_folder(tmp_path, "thing", {}, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (cached_folder(tmp_path, "thing", {}, write_two) / "b").exists()


def test_default_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gsgd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "gsgd"


def test_what_is_damaged_is_named_and_what_is_gone_is_made_anew(tmp_path):
    """Of files that are read whole; of larger ones the size tells."""

    def ask():
        return cached_folder(tmp_path, "thing", {"x": 1}, write_two)

    path = ask() / "a"
    path.write_text("fIrst")
    with pytest.raises(ValueError, match=r"a cannot be read \(it is not what was written\): remove its folder"):
        ask()
    path.unlink()
    with pytest.raises(ValueError, match=r"a cannot be read \(it is gone\): remove its folder"):
        ask()
    shutil.rmtree(path.parent)
    assert (ask() / "a").read_text() == "first"


def test_of_a_large_file_the_size_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "READ_WHOLE", 3)
    path = cached_folder(tmp_path, "thing", {"x": 1}, write_two) / "a"
    path.write_text("fIrst")
    assert cached_folder(tmp_path, "thing", {"x": 1}, write_two) == path.parent
    path.write_text("firs")
    with pytest.raises(ValueError, match="a cannot be read"):
        cached_folder(tmp_path, "thing", {"x": 1}, write_two)


def test_a_folder_of_an_older_version_has_no_checksums(tmp_path):
    folder = cached_folder(tmp_path, "thing", {"x": 1}, write_two)
    (folder / cache.CHECKSUMS).unlink()
    assert cached_folder(tmp_path, "thing", {"x": 1}, write_two) == folder
    (folder / "bad.npy").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"bad\.npy cannot be read \(.*\): remove its folder"):
        cache.read_array(folder / "bad.npy")


@pytest.mark.parametrize("locks", [True, False])
def test_what_a_killed_process_had_begun_goes_where_nobody_else_can_be_at_it(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(cache.fcntl, "flock", refuse)
    folder = cached_folder(tmp_path, "thing", {"x": 1}, write_two)
    shutil.rmtree(folder)
    left = tmp_path / f".{folder.name}.0123.tmp"
    others = tmp_path / f".thing-{'0' * 20}.0123.tmp"
    for each in (left, others):
        each.mkdir()
        (each / "half").write_bytes(b"x")
    assert cached_folder(tmp_path, "thing", {"x": 1}, write_two) == folder
    assert left.exists() == (not locks)
    assert others.exists()


def refuse(*_):
    raise OSError("no locks here")


def test_a_disk_that_is_full_names_the_cache_and_the_remedy_and_nothing_is_left(tmp_path):
    def build(folder):
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of a file that is open: it names no path

    with pytest.raises(ValueError, match=r"No space left on device \(.* free there\); name another folder") as caught:
        cached_folder(tmp_path / "root", "thing", {"x": 1}, build)
    assert str(tmp_path / "root") in str(caught.value)
    assert [path for path in (tmp_path / "root").iterdir() if path.suffix != ".lock"] == []


def test_a_folder_above_the_cache_that_is_in_the_way_names_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/a/root: Not a directory \(.*\); name another folder .* by cache_dir"):
        cached_folder(tmp_path / "file" / "a" / "root", "thing", {"x": 1}, lambda folder: None)


def test_a_file_of_the_data_that_cannot_be_read_is_not_laid_to_the_cache(tmp_path):
    def build(folder):
        open(tmp_path / "gone.txt").close()

    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        cached_folder(tmp_path / "root", "thing", {"x": 1}, build)
