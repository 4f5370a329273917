"""Files that are not what they should be are refused by file, line and field."""

import json
import math

import pytest

pytest.importorskip("pandas")

from figures.checked import Cell, Missing, choice, field, read_object, read_table

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
            "line 3, column count: '1.5' must be a whole number",
        ),
        (["name,count,value,low,loss", "a,1,x,3,4"], "line 2, column value: 'x' must be a finite number"),
        (["name,count,value,low,loss", "a,1,nan,3,4"], "column value: 'nan' must be a finite number"),
        (["name,count,value,low,loss", "a,1,,3,4"], "column value: the cell is empty"),
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


def test_fields(tmp_path):
    path = tmp_path / "header.json"
    content = {"config": {"seed": 3, "on": True}, "costs": None}
    assert field(content, "config.seed", int, path) == 3
    assert field(content, "costs", (dict, type(None)), path) is None
    with pytest.raises(ValueError, match=r"header\.json has no field 'config\.label'"):
        field(content, "config.label", str, path)
    with pytest.raises(ValueError, match=r"field 'config\.seed': 3 must be str or null"):
        field(content, "config.seed", (str, type(None)), path)
    with pytest.raises(ValueError, match="True must be int"):
        field(content, "config.on", int, path)
    with pytest.raises(ValueError, match="here: 'x' must be one of: a, b"):
        choice("x", ("a", "b"), "here")
