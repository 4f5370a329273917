"""idx files, written here by hand as their format is described."""

import gzip
import struct

import numpy as np
import pytest

from training.images.arrays import cached_arrays, decode
from training.images.sources import find_source

NAMES = {"train": "train", "test": "t10k"}


def idx(array, kind=8):
    """The array as an idx file: two zeros, the type of entry, the number of dimensions, the sizes, the entries."""
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def digits():
    """Split -> (images, labels): 12 and 5 of 9x7 pixels."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (count, 9, 7), dtype=np.uint8), (np.arange(count) % 3).astype(np.uint8))
        for split, count in (("train", 12), ("test", 5))
    }


@pytest.fixture
def folder(tmp_path, digits):
    for split, (images, labels) in digits.items():
        (tmp_path / f"{NAMES[split]}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{NAMES[split]}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_images_and_labels_are_what_was_written(folder, digits):
    source = find_source(str(folder))
    assert set(source.splits()) == {"train", "test"}
    assert source.class_names() == ("0", "1", "2")
    for split, (images, labels) in digits.items():
        assert source.labels(split).tolist() == labels.tolist()
        found = list(source.images(split))
        assert len(found) == len(images)
        assert found[3][0].endswith("image 3")
        for (where, encoded), image in zip(found, images, strict=True):
            # The middle square of the upright image, at its own size.
            assert np.array_equal(decode(encoded, where, 7, 1)[..., 0], image[1:8])


def test_they_are_cached_as_grey_images(folder, digits, tmp_path):
    arrays, names = cached_arrays(find_source(str(folder)), 7, tmp_path / "cache")
    assert names == ("0", "1", "2")
    assert np.array_equal(arrays["train"].images[..., 0], digits["train"][0][:, 1:8])


def test_other_names(tmp_path, digits):
    """As EMNIST and torchvision's copies name theirs, in folders below."""
    below = tmp_path / "EMNIST" / "raw"
    below.mkdir(parents=True)
    images, labels = digits["train"]
    (below / "emnist-balanced-train-images-idx3-ubyte").write_bytes(idx(images))
    (below / "emnist-balanced-train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert list(find_source(str(tmp_path)).splits()) == ["train"]


def test_changed_files_are_other_data(folder, digits):
    before = find_source(str(folder)).identity()
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(digits["test"][1][:4]))
    assert find_source(str(folder)).identity() != before


def cut(content):
    return content[:-1]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-labels-idx1-ubyte", cut, r"train-labels-idx1-ubyte has 11 entries, but says that it has \(12,\)"),
        ("train-labels-idx1-ubyte", lambda content: content + b"\0", "has 13 entries"),
        ("train-labels-idx1-ubyte", lambda content: content[:6], "begins with"),
        ("train-labels-idx1-ubyte", lambda content: b"\x89PNG" + content, "but an idx file of unsigned bytes in 1"),
        ("train-labels-idx1-ubyte", lambda content: content[:2] + b"\x0d" + content[3:], "begins with"),
        ("train-images-idx3-ubyte.gz", cut, "train-images-idx3-ubyte.gz cannot be read"),
        ("train-images-idx3-ubyte.gz", lambda content: content[:60] + b"????" + content[64:], "cannot be read"),
        ("train-images-idx3-ubyte.gz", lambda content: content[:1], "begins with"),
    ],
)
def test_damaged_files(folder, name, change, message):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    source = find_source(str(folder))
    with pytest.raises(ValueError, match=message):
        _read_all(source)


def _read_all(source):
    return [(source.labels(split), list(source.images(split))) for split in source.splits()]


def test_a_file_is_missing(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="has no labels beside it, which test needs"):
        find_source(str(folder))


def test_two_data_sets(folder, digits):
    (folder / "kmnist-train-images-idx3-ubyte").write_bytes(idx(digits["train"][0]))
    with pytest.raises(ValueError, match="several data sets of idx files"):
        find_source(str(folder))


def test_fewer_images_than_labels(folder, digits, tmp_path):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(digits["train"][0][:11])))
    with pytest.raises(ValueError, match="train has 11 images but 12 labels"):
        cached_arrays(find_source(str(folder)), 7, tmp_path / "cache")
