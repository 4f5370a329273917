"""A batch's size and its kept rows, by hand."""

import collections
import copy
import dataclasses
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence  # noqa: E402

from gsgd.sift.batches.batch import ROW_NAMES, BatchRows, batch_size, is_packed, take_rows  # noqa: E402

KEPT = torch.tensor([1, 3])


def test_rows_are_counted_on_tensors_that_have_them():
    batch = {"scale": torch.tensor(2.0), "flag": True, "input_ids": torch.zeros(3, 7), "labels": torch.zeros(3)}
    assert batch_size(batch) == 3


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "no tensor with rows; it holds: nothing"),
        ({"scale": torch.tensor(1.0), "names": ["a", "b"]}, "no tensor with rows; it holds: scale, names"),
        ({"input_ids": torch.zeros(0, 3)}, "the batch has 0 rows"),
        (
            {"input_ids": torch.zeros(4, 3), "labels": torch.zeros(3)},
            "same number of rows, but have: input_ids 4, labels 3",
        ),
    ],
)
def test_batches_without_a_common_number_of_rows_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        batch_size(batch)


def test_rows_are_taken_from_every_tensor_and_the_rest_is_passed_on():
    scale, names = torch.tensor(2.0), ["a", "b"]
    batch = {
        "x": torch.arange(8).reshape(4, 2),
        "y": torch.tensor([10, 11, 12, 13]),
        "mask": torch.tensor([True, False, True, False]),
        "scale": scale,
        "names": names,
        "none": None,
    }
    taken = take_rows(batch, torch.tensor([0, 3]))
    assert taken["x"].tolist() == [[0, 1], [6, 7]]
    assert taken["y"].tolist() == [10, 13]
    assert taken["mask"].tolist() == [True, False]
    assert taken["scale"] is scale
    assert taken["names"] is names
    assert taken["none"] is None
    assert list(taken) == list(batch)
    assert batch["x"].shape == (4, 2)  # the batch itself stays whole


def test_a_run_of_rows_is_the_same_rows_and_a_view():
    padded = torch.arange(12.0).reshape(4, 3)
    batch = {
        "input_ids": torch.arange(8).reshape(4, 2),
        "position_ids": torch.arange(24).reshape(3, 4, 2),
        "pixel_values": torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "labels": np.arange(4),
        "text": list("abcd"),
        "inputs": torch.nn.utils.rnn.pack_padded_sequence(padded, torch.tensor([3, 2, 2, 1]), batch_first=True),
    }
    rows = BatchRows(rows=("text", "pixel_values"))
    run, one_by_one = rows.take(batch, range(1, 3)), rows.take(batch, torch.tensor([1, 2]))
    assert run["text"] == one_by_one["text"] == ["b", "c"]
    assert run["labels"].tolist() == [1, 2]
    for name in ("input_ids", "position_ids", "pixel_values"):
        assert torch.equal(run[name], one_by_one[name])
        assert run[name].untyped_storage().data_ptr() == batch[name].untyped_storage().data_ptr()
    assert torch.equal(run["inputs"].data, one_by_one["inputs"].data)


def test_taken_rows_own_their_memory():
    """Writing into the kept rows must not reach the loader's batch."""
    batch = {"x": torch.zeros(3, 2)}
    take_rows(batch, torch.tensor([0, 1, 2]))["x"].fill_(1.0)
    assert batch["x"].sum() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_taken_rows_are_laid_out_as_the_batch(layout):
    images = torch.arange(4 * 3 * 2 * 5.0).view(4, 3, 2, 5).to(memory_format=layout)
    taken = take_rows({"x": images}, torch.tensor([1, 3]))["x"]
    assert taken.tolist() == [images[1].tolist(), images[3].tolist()]
    assert taken.is_contiguous(memory_format=layout)


def test_taken_rows_of_a_transposed_batch_come_out_right():
    x = torch.arange(2 * 3 * 4 * 5).view(5, 4, 3, 2).permute(3, 1, 0, 2)
    assert take_rows({"x": x}, torch.tensor([1]))["x"].tolist() == [x[1].tolist()]


# What has rows is told by name, by the forward's arguments and by the samples' fields.


def ids(rows, length=3):
    return torch.arange(rows * length).reshape(rows, length)


@pytest.mark.parametrize("name", sorted(ROW_NAMES - {"pixel_values", "input_ids"}))
def test_every_known_name_has_rows(name):
    value = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])
    assert take_rows({"decoder_input_ids": ids(4), name: value}, KEPT)[name].tolist() == [[2, 3], [6, 7]]


def test_class_weights_as_long_as_the_batch_stay_whole():
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    cost = torch.eye(4)
    batch = {"input_ids": ids(4), "labels": torch.tensor([0, 1, 2, 3]), "class_weights": weights, "cost": cost}
    taken = take_rows(batch, KEPT)
    assert taken["class_weights"] is weights
    assert taken["cost"] is cost
    assert taken["labels"].tolist() == [1, 3]


def test_what_is_of_another_length_than_the_rows_stays_whole():
    weights = torch.zeros(7)
    assert take_rows({"input_ids": ids(4), "prior": weights}, KEPT)["prior"] is weights


def test_named_entries_are_cut():
    rows = BatchRows(rows=("weights", "x.extra", "note"))
    batch = {
        "x": {"extra": torch.tensor([0, 1, 2, 3]), "table": torch.tensor([0, 1, 2, 3])},
        "y": torch.tensor([0, 1, 2, 3]),
        "weights": torch.tensor([4.0, 5.0, 6.0, 7.0]),
        "deep": {"note": ["a", "b", "c", "d"], "extra": torch.tensor([0, 1, 2, 3])},
    }
    taken = rows.take(batch, KEPT)
    assert taken["weights"].tolist() == [5.0, 7.0]
    assert taken["x"]["extra"].tolist() == [1, 3]
    assert taken["x"]["table"] is batch["x"]["table"]
    assert taken["deep"]["note"] == ["b", "d"]
    assert taken["deep"]["extra"] is batch["deep"]["extra"]
    assert rows.cut_names(batch) == ["x.extra", "y", "weights", "deep.note"]


def test_all_members_of_a_named_container_are_cut():
    batch = {"y": torch.zeros(4), "more": {"a": torch.tensor([0, 1, 2, 3]), "b": ["p", "q", "r", "s"], "c": 5}}
    assert BatchRows(rows=("more",)).take(batch, KEPT)["more"]["b"] == ["q", "s"]
    assert BatchRows(rows=("more",)).take(batch, KEPT)["more"]["a"].tolist() == [1, 3]


def test_named_entries_of_another_length_are_refused():
    with pytest.raises(ValueError, match="have: input_ids 4, weights 3"):
        BatchRows(rows=("weights",)).size({"input_ids": ids(4), "weights": torch.zeros(3)})


@pytest.mark.parametrize("option", ["rows", "label_names"])
@pytest.mark.parametrize("value", ["weights", (1,), ("",), 5])
def test_names_that_are_none_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} = .* must be a sequence of names"):
        BatchRows(**{option: value})


def test_label_names_have_rows():
    batch = {"x": ids(4), "grade": torch.tensor([4, 5, 6, 7])}
    assert take_rows(batch, KEPT)["grade"] is batch["grade"]
    assert BatchRows(label_names=("grade",)).take(batch, KEPT)["grade"].tolist() == [5, 7]
    with pytest.raises(ValueError, match="x 4, grade 3"):
        BatchRows(label_names=("grade",)).size({"x": ids(4), "grade": torch.zeros(3)})


def test_sample_fields_have_rows_if_their_length_is_the_batch_size():
    rows = BatchRows()
    rows.learn_fields(["name", "weight", "boxes", "pair"])
    batch = {
        "input_ids": ids(4),
        "name": ["a", "b", "c", "d"],
        "weight": [0.0, 1.0, 2.0, 3.0],
        "boxes": torch.zeros(9, 4),
        "pair": {"left": torch.tensor([0, 1, 2, 3])},
        "array": np.array([0.0, 1.0, 2.0, 3.0]),
    }
    taken = rows.take(batch, KEPT)
    assert taken["name"] == ["b", "d"]
    assert taken["weight"] == [1.0, 3.0]
    assert taken["boxes"] is batch["boxes"]
    assert taken["pair"]["left"].tolist() == [1, 3]
    assert taken["array"] is batch["array"]


class Model(torch.nn.Module):
    def forward(self, signal, prior, *, flag=None, labels=None, extra=None):
        return signal, prior, flag, labels, extra

    def early_logits(self, exit_layer, signal, side):
        return exit_layer, signal, side


def test_arguments_that_the_model_cannot_do_without_have_rows_if_they_have_two_axes():
    rows = BatchRows(Model())
    batch = {
        "signal": ids(4),
        "prior": torch.zeros(4),
        "side": np.arange(8).reshape(4, 2),
        "extra": torch.zeros(4, 4),
        "exit_layer": torch.zeros(4, 4),
    }
    taken = rows.take(batch, KEPT)
    assert taken["signal"].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert taken["side"].tolist() == [[2, 3], [6, 7]]
    assert all(taken[name] is batch[name] for name in ("prior", "extra", "exit_layer"))
    assert take_rows({"labels": torch.zeros(4), **batch}, KEPT)["prior"] is batch["prior"]


def test_where_only_labels_are_known_what_has_two_axes_is_the_input():
    batch = {"signal": ids(4), "prior": torch.zeros(4), "labels": torch.tensor([0, 1, 2, 3])}
    taken = take_rows(batch, KEPT)
    assert taken["signal"].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert taken["labels"].tolist() == [1, 3]
    assert taken["prior"] is batch["prior"]


def test_where_nothing_is_known_all_tensors_have_rows():
    assert take_rows({"a": torch.tensor([0, 1, 2, 3])}, KEPT)["a"].tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"have: a 4, b 3; if only some .*rows=\(\"a\",\)"):
        batch_size({"a": torch.zeros(4), "b": torch.zeros(3)})
    assert BatchRows(rows=("a",)).size({"a": torch.zeros(4), "b": torch.zeros(3)}) == 4


def test_names_that_often_mean_something_else_are_cut_only_if_as_long():
    batch = {
        "x": ids(4),
        "mask": torch.zeros(7, 7),
        "text": "all",
        "features": ["age", "height"],
        "labels": [0, 1, 2, 3],
    }
    taken = take_rows(batch, KEPT)
    assert all(taken[name] is batch[name] for name in ("mask", "text", "features"))
    assert taken["labels"] == [1, 3]
    assert take_rows({"x": ids(4), "text": ["a", "b", "c", "d"]}, KEPT)["text"] == ["b", "d"]


def test_what_holds_for_all_rows_stays_whole():
    batch = {
        "input_ids": ids(4),
        "position_ids": torch.arange(3).reshape(1, 3),
        "attention_mask": torch.ones(1, 1, 3, 3),
        "temperature": torch.tensor(2.0),
        "use_cache": False,
        "labels": None,
    }
    taken = take_rows(batch, KEPT)
    assert all(taken[name] is value for name, value in batch.items() if name != "input_ids")
    assert take_rows({"input_ids": ids(4), "position_ids": torch.arange(4)}, KEPT)["position_ids"].tolist() == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(ValueError, match="input_ids 4, position_ids 2"):
        batch_size({"input_ids": ids(4), "position_ids": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="input_ids 4, labels 1"):
        batch_size({"input_ids": ids(4), "labels": torch.zeros(1, 3)})
    assert batch_size({"input_ids": ids(1), "position_ids": torch.zeros(1, 3)}) == 1


def test_positions_in_time_height_and_width_are_cut_along_their_second_axis():
    positions = torch.arange(12).reshape(3, 4, 1).expand(3, 4, 2)
    taken = take_rows({"input_ids": ids(4), "position_ids": positions}, KEPT)["position_ids"]
    assert taken.tolist() == [[[1, 1], [3, 3]], [[5, 5], [7, 7]], [[9, 9], [11, 11]]]
    square = torch.arange(9).reshape(3, 3, 1)
    taken = take_rows({"input_ids": ids(3), "position_ids": square}, torch.tensor([2]))["position_ids"]
    assert taken.tolist() == [[[2]], [[5]], [[8]]]
    once = torch.zeros(3, 1, 2)
    assert take_rows({"input_ids": ids(4), "position_ids": once}, KEPT)["position_ids"] is once


# Containers.


class Pair(NamedTuple):
    x: Any
    scale: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Any
    y: Any
    scale: float = 2.0


def test_tuples_and_lists_of_tensors_are_cut_by_place():
    x, y, name = ids(4), torch.tensor([0, 1, 2, 3]), ("a", "b", "c", "d")
    taken = take_rows((x, y, name, {"unknown": torch.tensor([4, 5, 6, 7])}), KEPT)
    assert isinstance(taken, tuple)
    assert taken[0].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert taken[1].tolist() == [1, 3]
    assert taken[2] == ("b", "d")
    assert taken[3]["unknown"].tolist() == [5, 7]
    assert BatchRows().cut_names((x, y)) == ["0", "1"]
    assert [part.tolist() for part in take_rows([y, y], KEPT)] == [[1, 3], [1, 3]]
    with pytest.raises(ValueError, match="have: 0 4, 1 3"):
        batch_size((x, torch.zeros(3)))
    assert BatchRows(rows=("0",)).take((x, torch.zeros(3)), KEPT)[1].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="holds: nothing"):
        batch_size(())


def test_a_batch_of_two_samples_of_two_is_cut_by_place():
    taken = take_rows([torch.tensor([[0, 1], [2, 3]]), torch.tensor([4, 5])], torch.tensor([1]))
    assert [part.tolist() for part in taken] == [[[2, 3]], [5]]


def test_structures_keep_their_type():
    x, y = torch.tensor([[0], [1], [2], [3]]), torch.tensor([4, 5, 6, 7])
    named = take_rows(Pair(x, 3), KEPT)
    assert isinstance(named, Pair)
    assert named.x.tolist() == [[1], [3]]
    assert named.scale == 3
    sample = take_rows(Sample(x, y), KEPT)
    assert isinstance(sample, Sample)
    assert (sample.x.tolist(), sample.y.tolist(), sample.scale) == ([[1], [3]], [5, 7], 2.0)
    ordered = take_rows({"y": y, "x": collections.OrderedDict(b=x, a=x)}, KEPT)["x"]
    assert isinstance(ordered, collections.OrderedDict)
    assert list(ordered) == ["b", "a"]
    assert ordered["b"].tolist() == [[1], [3]]
    nested = take_rows({"y": y, "x": (x, [x, Sample(x, None)])}, KEPT)["x"]
    assert nested[0].tolist() == [[1], [3]]
    assert isinstance(nested[1], list)
    assert nested[1][1].x.tolist() == [[1], [3]]
    untouched = {"table": torch.zeros(7), "names": ["a"]}
    assert take_rows({"y": y, "x": x, "other": untouched}, KEPT)["other"] is untouched


def test_outputs_of_models_and_tokenizers_keep_their_attributes():
    hidden = torch.arange(8.0).reshape(4, 2)
    output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)
    taken = take_rows({"labels": torch.zeros(4), "encoder_outputs": output}, KEPT)["encoder_outputs"]
    assert type(taken) is type(output)
    assert taken.last_hidden_state.tolist() == taken[0].tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert output.last_hidden_state is hidden
    encoding = transformers.BatchEncoding({"input_ids": ids(4)})
    encoding._encodings = ["first", "second", "third", "fourth"]
    taken = take_rows(encoding, KEPT)
    assert isinstance(taken, transformers.BatchEncoding)
    assert taken.input_ids.tolist() == [[3, 4, 5], [9, 10, 11]]
    assert taken.encodings == ["second", "fourth"]
    assert encoding.encodings == ["first", "second", "third", "fourth"]
    assert encoding.input_ids.shape == (4, 3)


def test_members_of_a_known_container_have_rows_if_they_have_two_axes():
    x = {
        "a": torch.tensor([[0], [1], [2], [3]]),
        "weights": torch.zeros(4),
        "table": torch.zeros(7, 7),
        "mask": torch.ones(4),
    }
    taken = take_rows({"x": x, "labels": torch.zeros(4)}, KEPT)["x"]
    assert taken["a"].tolist() == [[1], [3]]
    assert taken["mask"].tolist() == [1, 1]
    assert taken["weights"] is x["weights"]
    assert taken["table"] is x["table"]
    assert batch_size({"x": {"a": torch.zeros(4, 1)}}) == 4
    taken = take_rows({"more": {"input_ids": ids(4)}, "labels": torch.zeros(4)}, KEPT)
    assert taken["more"]["input_ids"].tolist() == [[3, 4, 5], [9, 10, 11]]


def test_arrays_and_lists_are_cut():
    jagged = [torch.zeros(3, 2, 2), torch.ones(3, 5, 4), None, torch.full((3, 1, 1), 2.0)]
    array = np.array([["a"], ["b"], ["c"], ["d"]], dtype=object)
    taken = take_rows(
        {"y": torch.zeros(4), "images": jagged, "x": array, "inputs": [[1, 2], [3], [4, 5, 6], [7]]}, KEPT
    )
    assert [image is jagged[row] for image, row in zip(taken["images"], (1, 3), strict=True)] == [True, True]
    assert taken["x"].tolist() == [["b"], ["d"]]
    assert taken["inputs"] == [[3], [7]]
    assert batch_size({"input_ids": [[1, 2], [3]]}) == 2


def test_lists_of_images_and_targets_are_cut_by_row():
    images = [torch.full((3, 2, 2), float(row)) for row in range(4)]
    targets = [{"boxes": torch.zeros(2, 4), "labels": torch.tensor([row, row])} for row in range(4)]
    for batch in ((tuple(images), tuple(targets)), {"images": images, "targets": targets}):
        taken = take_rows(batch, KEPT)
        found = list(taken.values() if isinstance(taken, dict) else taken)
        assert [int(image[0, 0, 0]) for image in found[0]] == [1, 3]
        assert [target["labels"].tolist() for target in found[1]] == [[1, 1], [3, 3]]
    taken = take_rows({"pixel_values": torch.zeros(2, 3, 5, 5), "labels": targets[:2]}, torch.tensor([1]))
    assert [target["labels"].tolist() for target in taken["labels"]] == [[1, 1]]  # two rows with two boxes each


def test_lists_that_may_have_rows_or_hold_columns_are_refused():
    with pytest.raises(ValueError, match=r'images is a list of 4 things of length 3.*rows=\("images",\).*"images.0"'):
        batch_size({"images": [torch.zeros(3, 2, 2)] * 4})
    batch = {"x": [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5], [6, 7]])], "y": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=r'x is a list of 2 things of length 2.*rows=\("x.0", "x.1"\)'):
        take_rows(batch, torch.tensor([1]))
    by_row = BatchRows(rows=("x",)).take(batch, torch.tensor([1]))["x"]
    assert [part.tolist() for part in by_row] == [[[4, 5], [6, 7]]]
    columns = BatchRows(rows=("x.0", "x.1")).take(batch, torch.tensor([1]))["x"]
    assert [part.tolist() for part in columns] == [[[2, 3]], [[6, 7]]]
    rows = BatchRows()
    rows.learn({"x": [torch.zeros(3, 2)] * 2, "y": torch.zeros(3)})
    assert [part.tolist() for part in rows.take(batch, torch.tensor([1]))["x"]] == [[[2, 3]], [[6, 7]]]
    rows = BatchRows()
    rows.learn({"x": [torch.zeros(2, 2)] * 3, "y": torch.zeros(3)})
    assert [part.tolist() for part in rows.take(batch, torch.tensor([1]))["x"]] == [[[4, 5], [6, 7]]]
    mixed = {"x": [torch.tensor([[0.0], [1.0]]), torch.tensor([4, 5])], "y": torch.tensor([0, 1])}
    assert take_rows(mixed, torch.tensor([1]))["x"][0].tolist() == [[1.0]]


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences_are_packed_again(enforce_sorted):
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4, 5]), torch.tensor([6, 7]), torch.tensor([8])]
    order = [0, 1, 2, 3] if enforce_sorted else [3, 0, 2, 1]
    packed = pack_sequence([rows[row] for row in order], enforce_sorted=enforce_sorted)
    taken = take_rows({"anything": packed, "y": torch.arange(4)}, KEPT)
    assert isinstance(taken["anything"], PackedSequence)
    assert (taken["anything"].sorted_indices is None) == enforce_sorted
    padded, lengths = pad_packed_sequence(taken["anything"], batch_first=True)
    expected = ([[4, 5], [8, 0]], [2, 1]) if enforce_sorted else ([[1, 2, 3], [4, 5, 0]], [3, 2])
    assert (padded.tolist(), lengths.tolist()) == expected
    assert batch_size({"anything": packed}) == 4
    _, lengths = pad_packed_sequence(take_rows((packed,), torch.tensor([3, 0]))[0], batch_first=True)
    assert lengths.tolist() == ([1, 3] if enforce_sorted else [2, 1])


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_cut(layout):
    parts = [torch.zeros(2, 3), torch.ones(1, 3), torch.zeros(4, 3), torch.full((3, 3), 2.0)]
    taken = take_rows({"any": torch.nested.nested_tensor(parts, layout=layout), "y": torch.zeros(4)}, KEPT)["any"]
    assert taken.layout == layout
    assert [part.tolist() for part in taken.unbind()] == [[[1.0] * 3], [[2.0] * 3] * 3]


def test_other_things_are_no_batch():
    with pytest.raises(ValueError, match="the batch is a Tensor, but must be a mapping, a tuple or list"):
        batch_size(torch.zeros(4))
    shape, settings = torch.Size([4, 3, 2, 2]), object()
    batch = {"x": ids(4), "y": shape, "settings": settings}
    assert take_rows(batch, KEPT)["y"] is shape
    assert take_rows(batch, KEPT)["settings"] is settings


# What follows the batch's length.


def of_size(size, **more):
    return {"input_ids": ids(size), **more}


def test_lengths_that_follow_the_batch_are_cut_from_the_second_size_on():
    rows = BatchRows()
    four = of_size(4, weight=torch.arange(4), names=list("abcd"), deep={"a": np.arange(4)}, prior=torch.zeros(4))
    two = of_size(2, weight=torch.tensor([7, 8]), names=["p", "q"], deep={"a": np.array([5, 6])}, prior=torch.zeros(4))
    for _ in range(3):  # the same batch again tells nothing
        rows.learn(four)
        assert rows.cut_names(four) == ["input_ids"]
    rows.learn(two)
    assert rows.cut_names(two) == ["input_ids", "weight", "names", "deep.a"]
    taken = rows.take(four, KEPT)
    assert taken["weight"].tolist() == [1, 3]
    assert taken["names"] == ["b", "d"]
    assert taken["deep"]["a"].tolist() == [1, 3]
    assert taken["prior"] is four["prior"]
    assert "is not known" not in rows.describe(four)  # the prior's length stayed: it is whole for good


def test_a_length_that_was_another_once_is_whole():
    rows = BatchRows()
    rows.learn(of_size(3, mask=torch.zeros(4, 4), prior=torch.zeros(4)))
    four = of_size(4, mask=torch.zeros(4, 4), prior=torch.zeros(4))
    rows.learn(four)
    rows.learn(of_size(5, mask=torch.zeros(5, 5), prior=torch.zeros(5)))
    assert rows.cut_names(four) == ["input_ids"]
    assert BatchRows().cut_names(four) == ["input_ids", "mask"]


def test_taking_and_counting_learn_nothing():
    rows, batch = BatchRows(), of_size(4, prior=torch.zeros(4))
    for _ in range(2):
        kept = rows.take(batch, KEPT)
        assert rows.size(kept) == 2
        assert kept["prior"] is batch["prior"]
    rows.learn(batch)
    rows.learn(of_size(2, prior=torch.zeros(2)))
    assert rows.cut_names(batch) == ["input_ids", "prior"]


@pytest.mark.parametrize("moved", [copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_what_was_learnt_is_copied_and_pickled(moved):
    rows = BatchRows(Model(), rows=("note",), label_names=("grade",))
    rows.learn_fields(["name"])
    rows.learn(of_size(4, prior=torch.zeros(4)))
    rows = moved(rows)
    rows.learn(of_size(2, prior=torch.zeros(2)))
    batch = of_size(
        4, prior=torch.zeros(4), name=list("abcd"), note=torch.zeros(4), grade=torch.zeros(4), signal=ids(4)
    )
    assert rows.cut_names(batch) == ["input_ids", "prior", "name", "note", "grade", "signal"]
    assert not any(isinstance(value, torch.nn.Module) for value in vars(rows).values())


# Images beside text.


class Config:
    image_token_id = 9


class Vision(torch.nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = config or Config()

    def forward(self, input_ids=None, pixel_values=None):
        return input_ids, pixel_values


# 0, 1, 1 and 2 images of two tokens each.
TEXT = torch.tensor([[1, 1, 1, 1, 1], [9, 9, 1, 1, 1], [1, 9, 9, 1, 1], [9, 9, 1, 9, 9]])
IMAGES = torch.arange(4.0).reshape(4, 1, 1, 1)


def test_images_beside_text_are_refused_if_nothing_tells_whose_they_are():
    batch = {"input_ids": TEXT, "labels": TEXT, "pixel_values": IMAGES}
    assert batch_size(batch) == 4
    with pytest.raises(ValueError, match=r'pixel_values has 4 entries beside text of 4 rows.*rows=\("pixel_values",\)'):
        take_rows(batch, KEPT)
    assert BatchRows(rows=("pixel_values",)).take(batch, KEPT)["pixel_values"].flatten().tolist() == [1.0, 3.0]
    both = {**batch, "pixel_mask": torch.zeros(4, 2)}
    assert BatchRows(rows=("pixel_values",)).cut_names(both) == ["input_ids", "labels", "pixel_values", "pixel_mask"]
    for name in ("pixel_values_videos", "image_grid_thw", "input_features"):
        with pytest.raises(ValueError, match=f"{name} has 3 entries"):
            take_rows({"input_ids": TEXT, name: torch.zeros(3, 3)}, KEPT)
    assert take_rows({"input_ids": TEXT, "pixel_values": None}, KEPT)["pixel_values"] is None
    assert take_rows({"pixel_values": IMAGES, "labels": TEXT}, KEPT)["pixel_values"].flatten().tolist() == [1.0, 3.0]


def test_images_are_taken_with_the_rows_whose_text_shows_them():
    sizes = torch.tensor([[2, 2]] * 4)
    batch = {"input_ids": TEXT, "pixel_values": IMAGES, "image_sizes": sizes}
    rows = BatchRows(Vision())
    for kept, own in (([1, 2], [0.0, 1.0]), ([0, 3], [2.0, 3.0]), ([3, 1], [2.0, 3.0, 0.0])):
        taken = rows.take(batch, torch.tensor(kept))
        assert taken["pixel_values"].flatten().tolist() == own
        assert len(taken["image_sizes"]) == len(own)
    assert rows.take(batch, torch.tensor([0]))["pixel_values"] is None
    inner = Vision(type("Outer", (), {})())
    inner.config.text_config = Config()
    assert BatchRows(inner).take(batch, torch.tensor([3]))["pixel_values"].flatten().tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "more",
    [
        {"image_sizes": torch.tensor([[2, 2], [2, 2], [4, 2], [2, 2]])},  # larger images may take more tokens
        {"pixel_values": torch.zeros(3, 1, 1, 1)},  # 8 tokens of 3 images
        {"pixel_values": torch.zeros(2, 1, 1, 1)},  # 4 tokens each, but two rows have 2
        {"pixel_values": torch.zeros(4, 5)},
        {"input_ids": torch.ones(4, 5, dtype=torch.long)},
    ],
)
def test_images_of_unequally_many_tokens_are_refused(more):
    with pytest.raises(ValueError, match="nothing tells which row each belongs to"):
        BatchRows(Vision()).take({"input_ids": TEXT, "pixel_values": IMAGES, **more}, KEPT)


def test_images_with_an_axis_for_those_of_a_row_have_rows():
    images = torch.arange(8.0).reshape(4, 2, 1, 1, 1)
    batch = {"input_ids": TEXT, "pixel_values": images}
    assert take_rows(batch, KEPT)["pixel_values"].flatten().tolist() == [2.0, 3.0, 6.0, 7.0]
    marked = {**batch, "pixel_attention_mask": torch.zeros(4, 2, 1, 1)}
    taken = BatchRows(Vision()).take(marked, KEPT)
    assert taken["pixel_values"].flatten().tolist() == [2.0, 3.0, 6.0, 7.0]
    assert taken["pixel_attention_mask"].shape == (2, 2, 1, 1)
    # Of LLaVA-NeXT the first axis are images, the second their tiles.
    tiles = {**batch, "image_sizes": torch.ones(4, 2)}
    with pytest.raises(ValueError, match="pixel_values has 4 entries"):
        take_rows(tiles, KEPT)
    assert BatchRows(Vision()).take(tiles, torch.tensor([1, 2]))["pixel_values"].flatten().tolist() == [
        0.0,
        1.0,
        2.0,
        3.0,
    ]


# What is said.


def test_the_description_says_what_is_cut_and_what_is_not():
    batch = {
        "input_ids": ids(4),
        "x": {"a": ids(4), "w": torch.zeros(4)},
        "scale": torch.tensor(1.0),
        "prior": torch.zeros(4),
    }
    assert BatchRows(rows=("wieghts",)).describe(batch) == (
        "selection takes the kept rows of input_ids, x.a; scale stays whole; whether x.w, prior (as long as the batch) "
        'has one entry per row is not known, so it stays whole: if it has, name it, rows=("x.w", "prior"); rows= names '
        "wieghts, which this batch does not have"
    )
    assert BatchRows().describe((ids(4), torch.zeros(4))) == "selection takes the kept rows of 0, 1"


@pytest.mark.parametrize(
    ("batch", "packed"),
    [
        ({"input_ids": ids(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}, True),
        ({"input_ids": ids(1, 6), "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5]])}, False),
        ({"input_ids": ids(1, 6), "position_ids": torch.tensor([[0, 0, 0, 1, 2, 3]])}, False),  # padded on the left
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": torch.tensor([0, 3, 6])}, True),
        ({"input_ids": ids(1, 6), "seq_idx": torch.zeros(1, 6)}, True),
        ({"input_ids": ids(1, 6), "seq_idx": None}, False),
        ({"input_ids": ids(2, 6), "position_ids": torch.tensor([[0, 1, 0, 1, 2, 3]] * 2)}, False),
        ({"seq_idx": None, "position_ids": torch.zeros(0, 3)}, False),
        ((ids(1, 6),), False),
    ],
)
def test_packed_batches_are_noticed(batch, packed):
    assert is_packed(batch) is packed


@given(st.data())
def test_rows_of_nested_batches_stay_together(data):
    """Every leaf holds its row's number, so the kept ones must hold the kept numbers, wherever they are."""
    size = data.draw(st.integers(1, 6))
    kept = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size))
    leaf = st.sampled_from(
        [
            lambda: torch.arange(size).reshape(size, 1).expand(size, 7),
            lambda: np.arange(size).reshape(size, 1),
            lambda: [torch.full((row % 3 + 9, 8), row) for row in range(size)],
            lambda: torch.arange(size),
            lambda: [str(row) for row in range(size)],
        ]
    ).map(lambda make: make())
    nested = st.recursive(
        leaf,
        lambda inner: (
            st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1) | st.builds(Pair, inner, st.none())
        ),
        max_leaves=6,
    )
    rows = BatchRows(rows=("more",))
    taken = rows.take({"input_ids": ids(size), "more": data.draw(nested)}, torch.tensor(kept))

    def check(value):
        if isinstance(value, dict):
            for member in value.values():
                check(member)
        elif isinstance(value, Pair):
            check(value.x)
        elif isinstance(value, list):
            assert [int(row if isinstance(row, str) else row[0, 0]) for row in value] == kept
        else:
            assert value.reshape(len(kept), -1)[:, 0].tolist() == kept

    check(taken["more"])
