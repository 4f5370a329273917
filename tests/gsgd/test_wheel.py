"""The wheel, as it is installed, in a folder that has packages of gsgd's names."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder to put on the path, with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("there is no package index to take the build's own needs from")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("gsgd-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_torchrun_in_a_folder_with_a_training_of_its_own_names_that_folder_in_one_sentence(unpacked, tmp_path):
    """torchrun puts the current folder first, so that a stranger's package is found in place of gsgd's."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('a stranger ran')")
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    environment.pop("PYTHONSAFEPATH", None)

    def run(*words, **more):
        command = [sys.executable, *words]
        where = {"cwd": tmp_path, "env": {**environment, **more}}
        return subprocess.run(command, **where, capture_output=True, text=True, timeout=120)

    assert Path(run("-c", "import gsgd; print(gsgd.__file__)").stdout).is_relative_to(unpacked)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "gsgd", "train")
    refused = run(*torchrun, "bert-tiny")
    remedy = "set PYTHONSAFEPATH=1, or call from another folder"
    sentence = f"gsgd train: {tmp_path / 'training'} hides gsgd's own package `training`: {remedy}"
    assert [line for line in refused.stderr.splitlines() if "hides" in line] == [sentence]
    assert re.search(r"exitcode +: 2 ", refused.stderr)
    assert "a stranger ran" not in refused.stderr + refused.stdout
    assert not (tmp_path / "results").exists()
    # The remedy helps.
    listed = run(*torchrun, "--list", PYTHONSAFEPATH="1")
    assert listed.returncode == 0, listed.stderr
    assert "bert-tiny" in listed.stdout
