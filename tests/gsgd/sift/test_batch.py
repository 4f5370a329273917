"""A batch's size and its kept rows, by hand."""

import pytest

torch = pytest.importorskip("torch")

from gsgd.sift.batch import batch_size, take_rows  # noqa: E402


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
