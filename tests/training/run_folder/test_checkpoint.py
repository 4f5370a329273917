"""Checkpoints are whole or not there."""

import builtins
import errno
import io
import os

import pytest
import torch

from training.run_folder import checkpoint

STATE = {"step": 3, "model": {"w": torch.arange(4.0)}, "ranks": [{"torch": torch.get_rng_state(), "cuda": None}]}


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "new" / "run"
    assert checkpoint.load(folder) is None
    checkpoint.save(folder, STATE)
    found = checkpoint.load(folder)
    assert found["step"] == 3
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    assert torch.equal(found["ranks"][0]["torch"], STATE["ranks"][0]["torch"])
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_one_before(tmp_path):
    checkpoint.save(tmp_path, STATE)
    with pytest.raises(Exception, match=r"pickle|local"):
        checkpoint.save(tmp_path, {"step": 4, "bad": lambda: None})
    assert checkpoint.load(tmp_path)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint"])
def test_a_corrupt_one_says_what_to_do(tmp_path, damage):
    checkpoint.save(tmp_path, STATE)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .*remove it to start the run anew"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], None, torch.ones(3)])
def test_what_is_whole_but_no_checkpoint_says_what_to_do(tmp_path, content):
    checkpoint.save(tmp_path, content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt holds a \w+, no checkpoint: remove it"):
        checkpoint.load(tmp_path)


def test_a_flipped_byte_is_found_wherever_it_is(tmp_path):
    checkpoint.save(tmp_path, STATE)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read"):
            checkpoint.load(tmp_path)
    path.write_bytes(whole)
    assert checkpoint.load(tmp_path)["step"] == 3


def test_one_of_a_version_without_a_checksum_is_held_against_the_sums_of_its_parts(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(STATE, path)
    assert checkpoint.load(tmp_path)["step"] == 3
    whole = path.read_bytes()
    place = whole.index(torch.arange(4.0).numpy().tobytes()) + 5
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read"):
        checkpoint.load(tmp_path)


def test_a_disk_that_fills_up_is_the_systems_error_not_torchs(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 100:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(builtins, "open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint.save(tmp_path, {**STATE, "large": torch.zeros(10_000)})
    assert caught.value.filename == str(tmp_path / "checkpoint.pt")
    assert list(tmp_path.iterdir()) == []


def test_removed_with_what_killed_processes_left(tmp_path):
    checkpoint.save(tmp_path, STATE)
    (tmp_path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    (tmp_path / "header.json").write_text("{}")
    checkpoint.remove(tmp_path)
    checkpoint.remove(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["header.json"]


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_signal_that_ends_the_process_while_it_writes_is_no_error_of_torch(tmp_path, monkeypatch, writes):
    """As a cluster's handler does, whichever write it comes in."""
    checkpoint.save(tmp_path, STATE)
    begun = []
    write = checkpoint._Summed.write

    class Handled:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            begun.append(data)
            if len(begun) > writes:
                raise SystemExit(144)
            return self.file.write(data)

    def handled(self, data):
        self.file = self.file if isinstance(self.file, Handled) else Handled(self.file)
        return write(self, data)

    monkeypatch.setattr(checkpoint._Summed, "write", handled)
    with pytest.raises(SystemExit, match="144"):
        checkpoint.save(tmp_path, {"weights": torch.zeros(10**6)})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    monkeypatch.undo()
    assert checkpoint.load(tmp_path).keys() == STATE.keys()


def test_nor_is_one_between_two_writes(tmp_path, monkeypatch):
    def save(state, file):
        try:
            raise SystemExit(144)
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit, match="144"):
        checkpoint.save(tmp_path, STATE)
    assert list(tmp_path.iterdir()) == []
