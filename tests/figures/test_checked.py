"""Files that are not what they should be are refused by file, line and field."""

import json
import math
from typing import Literal

import pytest

pytest.importorskip("pandas")

from pydantic import Field

from figures.checked import Cell, Missing, Number, Record, checked, read_object, read_table

COLUMNS = {"name": Cell.TEXT, "count": Cell.WHOLE, "value": Cell.NUMBER, "low": Cell.OPTIONAL, "loss": Cell.ANY_NUMBER}


def table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_good_table(tmp_path):
    path = table(tmp_path, "loss,name,count,value,low,more", 'nan,"a, b",3,0.5,,x', "inf,c,4,-1e-3,2,")
    found = read_table(path, COLUMNS)
    assert list(found.columns) == list(COLUMNS)
    assert found["name"].tolist() == ["a, b", "c"]
    assert found["count"].tolist() == [3, 4]
    assert found["value"].tolist() == [0.5, -1e-3]
    assert math.isnan(found["low"][0])
    assert found["low"][1] == 2
    assert math.isnan(found["loss"][0])
    assert found["loss"][1] == math.inf


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,count,value,low", "a,1,2,3"], "no column 'loss'"),
        (["name,count,value,low,loss"], "no rows"),
        ([""], "no column 'name'"),
        (["name,count,value,low,loss", "a,1,2,3"], "line 2: 4 cells under 5 columns"),
        (["name,count,value,low,loss", "a,1,2,3,4,5"], "line 2: 6 cells under 5 columns"),
        (
            ["name,count,value,low,loss", "a,1,2,3,4", "a,1.5,2,3,4"],
            "line 3, column count: '1.5' must be a valid integer",
        ),
        (["name,count,value,low,loss", "a,1,x,3,4"], "line 2, column value: 'x' must be a valid number"),
        (["name,count,value,low,loss", "a,1,nan,3,4"], "column value: 'nan' must be a finite number"),
        (["name,count,value,low,loss", "a,1,,3,4"], "column value: the cell is empty but must be a valid number"),
        (["name,count,value,low,loss", "a,1,1,inf,4"], "column low: 'inf'"),
        (["name,count,value,low,loss", ",1,1,,4"], "column name: the cell is empty"),
        (['name,count,value,low,loss"', 'a,1,1,,"4'], "table.csv"),
    ],
)
def test_a_bad_table_is_refused_by_file_and_field(tmp_path, lines, message):
    path = table(tmp_path, *lines)
    with pytest.raises(ValueError, match=r"table\.csv") as error:
        read_table(path, COLUMNS)
    assert message in str(error.value)


def test_no_table_is_another_matter_than_a_bad_one(tmp_path):
    with pytest.raises(Missing, match=r"none\.csv"):
        read_table(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(Missing, match=r"none\.json"):
        read_object(tmp_path / "none.json")
    assert not issubclass(Missing, ValueError)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"name,\xff\xfe\n")
    with pytest.raises(ValueError, match=r"table\.csv cannot be read"):
        read_table(path, COLUMNS)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[1]", "holds a list")])
def test_objects(tmp_path, text, message):
    path = tmp_path / "header.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_object(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_object(path) == {"a": 1}


class Inner(Record):
    kind: Literal["a", "b"]
    cost: Number | None


class Outer(Record):
    seed: int
    parts: list[Inner] = Field(default_factory=list)


def test_records(tmp_path):
    path = tmp_path / "header.json"
    found = checked(
        {"seed": 3, "parts": [{"kind": "a", "cost": "inf"}, {"kind": "b", "cost": None}], "more": 1}, Outer, path
    )
    assert found.seed == 3
    assert [part.cost for part in found.parts] == [math.inf, None]
    assert isinstance(checked({"kind": "a", "cost": 1}, Inner, path).cost, float)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "header.json has no field 'seed'"),
        ({"seed": 1, "parts": [{"kind": "a"}]}, "header.json has no field 'parts[0].cost'"),
        ({"seed": "3"}, "header.json, field 'seed': '3' must be a valid integer"),
        ({"seed": True}, "header.json, field 'seed': True must be a valid integer"),
        ({"seed": 1, "parts": [{"kind": "c", "cost": 1}]}, "field 'parts[0].kind': 'c' must be 'a' or 'b'"),
        ({"seed": 1, "parts": [{"kind": "a", "cost": "dear"}]}, "field 'parts[0].cost': 'dear' must be a valid number"),
        ({"seed": 1, "parts": [{"kind": "a", "cost": True}]}, "field 'parts[0].cost': True must be a valid number"),
    ],
)
def test_what_is_no_record_is_refused_by_its_field(tmp_path, content, message):
    with pytest.raises(ValueError, match=r"header\.json") as error:
        checked(content, Outer, tmp_path / "header.json")
    assert message in str(error.value)
