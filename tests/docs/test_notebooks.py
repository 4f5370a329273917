"""The notebooks run from the first cell to the last, offline, and have their output with them."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("torch")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_two():
    assert IDS == ["a_theorem", "does_it_pay"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_output_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    kinds = {kind for cell in cells(notebook) for output in cell.outputs for kind in output.get("data", ())}
    assert "image/png" in kinds
    assert not any(output.output_type == "error" for cell in cells(notebook) for output in cell.outputs)
    assert path.stat().st_size < 250_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the client's, which is no part of what is tested
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_it_runs(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    before = [output.data["text/plain"] for cell in cells(notebook) for output in cell.outputs if "data" in output]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = [output.data["text/plain"] for cell in cells(notebook) for output in cell.outputs if "data" in output]
    assert len(after) == len(before)
