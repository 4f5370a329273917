import csv
import json
import os

import pytest

from gsgd import results


def test_a_table_reads_back_as_it_was_written(tmp_path):
    path = results.write_table(tmp_path / "deep" / "t.csv", ("a", "b", "c"), [(1, 0.1, None), (2, 1e-300, "x, y")])
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"a": "1", "b": "0.1", "c": ""}, {"a": "2", "b": "1e-300", "c": "x, y"}]
    assert float(rows[1]["b"]) == 1e-300


def test_a_row_of_the_wrong_length_is_named(tmp_path):
    with pytest.raises(ValueError, match="has 1 cells, but there are 2 columns"):
        results.write_table(tmp_path / "t.csv", ("a", "b"), [(1,)])
    assert not list(tmp_path.iterdir())


def test_json_holds_no_bare_infinity(tmp_path):
    path = results.write_json(tmp_path / "x.json", {"a": [float("inf"), float("-inf"), float("nan"), 1.5]})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": ["inf", "-inf", "nan", 1.5]}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = results.write_atomic(tmp_path / "x", b"old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        results.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_names_versions_and_date():
    header = results.provenance()
    assert set(header) >= {"date", "commit", "python", "versions", "machine"}
    assert "numpy" in header["versions"]
    assert header["date"].endswith("+00:00")
