"""Local files in the hub's layouts, image folders, and data sets of the hub without the hub."""

import os
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from training.images import sources, tables  # noqa: E402
from training.images.sources import find_source  # noqa: E402


@pytest.fixture
def cifar100(tmp_path, make):
    """As uoft-cs/cifar100: img, fine_label, coarse_label; train and test."""
    root = tmp_path / "cifar100"
    fine, coarse = [f"fine {k}" for k in range(6)], ["rough a", "rough b"]
    for split, count in (("train", 12), ("test", 6)):
        numbers = np.arange(count) % 6
        make.parquet(
            root / f"{split}-00000-of-00001.parquet",
            make.images(count, (32, 32, 3), count),
            {"fine_label": fine, "coarse_label": coarse},
            fine_label=numbers,
            coarse_label=numbers // 3,
        )
    return root


def test_cifar100_has_fine_labels(cifar100, make):
    source = find_source(str(cifar100))
    assert set(source.splits()) == {"train", "test"}
    assert source.class_names() == tuple(f"fine {k}" for k in range(6))
    assert list(source.labels("train")) == [0, 1, 2, 3, 4, 5] * 2
    assert source.labels("test").dtype == np.int64
    found = list(source.images("train"))
    assert [encoded for _, encoded in found] == [make.png(image) for image in make.images(12, (32, 32, 3), 12)]
    assert found[7][0] == "train-00000-of-00001.parquet, row 7"


def test_cifar100_has_coarse_labels_if_told(cifar100):
    source = find_source(str(cifar100), label_column="coarse_label")
    assert source.class_names() == ("rough a", "rough b")
    assert list(source.labels("test")) == [0, 0, 0, 1, 1, 1]
    assert source.identity() != find_source(str(cifar100)).identity()


def test_shards_are_read_in_order_of_their_names(tmp_path, make):
    """As ethz/food101: image, label, several files a split, and validation in place of test."""
    for number in (2, 0, 1):
        images = [make.png(make.images(1, (8 + number, 9, 3))[0])] * 2
        make.parquet(tmp_path / f"train-0000{number}-of-3.parquet", images, image="image", label=[number, 3])
    make.parquet(tmp_path / "validation-00000-of-00001.parquet", images, image="image", label=[0, 4])
    source = find_source(str(tmp_path))
    assert set(source.splits()) == {"train", "validation"}
    assert list(source.labels("train")) == [0, 3, 1, 3, 2, 3]
    assert source.class_names() == ("0", "1", "2", "3", "4")
    assert [where.split(",")[0][6:11] for where, _ in source.images("train")] == ["00000"] * 2 + ["00001"] * 2 + [
        "00002"
    ] * 2


def test_folders_of_the_converted_layout_tell_the_split(tmp_path, make):
    for split in ("train", "test"):
        make.parquet(tmp_path / "plain_text" / split / "0000.parquet", make.images(2, (4, 4, 3)), label=[0, 1])
    assert set(find_source(str(tmp_path)).splits()) == {"train", "test"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cifar10-train.parquet", "train"),
        ("x_val.parquet", "validation"),
        ("testing.parquet", "test"),
        ("a.parquet", "all"),
    ],
)
def test_a_file_tells_its_split(tmp_path, make, name, split):
    path = make.parquet(tmp_path / name, make.images(2, (4, 4, 3)), label=[0, 1])
    assert find_source(str(path)).splits() == (split,)


def test_a_pattern_takes_some_of_a_folder(tmp_path, make):
    for name in ("cifar-train", "cifar-test"):
        make.parquet(tmp_path / f"{name}.parquet", make.images(2, (4, 4, 3)), label=[0, 1])
    (tmp_path / "books-train.parquet").write_bytes(b"no images")
    source = find_source(str(tmp_path / "cifar-*.parquet"))
    assert set(source.splits()) == {"train", "test"}
    assert list(source.labels("test")) == [0, 1]
    with pytest.raises(ValueError, match="matches no parquet file"):
        find_source(str(tmp_path / "cifar100-*.parquet"))


def test_strings_are_numbered_in_alphabetical_order(tmp_path, make):
    make.parquet(tmp_path / "train.parquet", make.images(3, (4, 4, 3)), label=["pear", "apple", "pear"])
    make.parquet(tmp_path / "test.parquet", make.images(1, (4, 4, 3)), label=["fig"])
    source = find_source(str(tmp_path))
    assert source.class_names() == ("apple", "fig", "pear")
    assert (list(source.labels("train")), list(source.labels("test"))) == ([2, 0, 2], [1])


def test_images_may_be_a_column_of_bytes(tmp_path, make):
    encoded = [make.png(image) for image in make.images(3, (4, 4))]
    pq.write_table(pa.table({"image": encoded, "labels": [0, 1, 1]}), tmp_path / "train.parquet")
    assert [found for _, found in find_source(str(tmp_path)).images("train")] == encoded


def test_parquet_is_read_a_batch_at_a_time(tmp_path, make, monkeypatch):
    path = make.parquet(tmp_path / "train.parquet", make.images(10, (4, 4, 3)), row_group_size=10, label=[0] * 10)
    monkeypatch.setattr(tables, "BATCH", 3)
    (table,) = tables.parquet_tables({"train": [path]})["train"]
    assert [len(values) for values in table.values("img")] == [3, 3, 3, 1]


def table_with(tmp_path, make, **columns):
    return str(make.parquet(tmp_path / "train.parquet", make.images(2, (4, 4, 3)), **columns))


def test_missing_label_column(tmp_path, make):
    with pytest.raises(
        ValueError, match=r"none of label, fine_label, labels is among its columns img, kind; label_column"
    ):
        find_source(table_with(tmp_path, make, kind=[0, 1])).labels("train")
    source = find_source(str(tmp_path / "train.parquet"), label_column="sort")
    with pytest.raises(ValueError, match="label_column = 'sort' is not among its columns img, kind"):
        source.labels("train")


def test_missing_image_column(tmp_path, make):
    source = find_source(table_with(tmp_path, make, image="picture", label=[0, 1]))
    with pytest.raises(ValueError, match="none of img, image is among its columns picture, label; image_column"):
        next(source.images("train"))
    assert len(list(find_source(str(tmp_path / "train.parquet"), image_column="picture").images("train"))) == 2


def test_two_label_columns_that_could_be_meant(tmp_path, make):
    with pytest.raises(ValueError, match="label and labels: say by label_column which one is meant"):
        find_source(table_with(tmp_path, make, label=[0, 1], labels=[1, 0])).labels("train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], r"label -1 must lie in 0\.\.1"),
        ([0, 2], r"label 2 must lie in 0\.\.1"),
        ([0, None], "row 1: there is no label"),
        ([0.5, 1.0], "must be whole numbers or strings"),
        (["a", "c"], "label 'c' is not among the 2 names"),
    ],
)
def test_labels_that_are_none(tmp_path, make, labels, message):
    with pytest.raises(ValueError, match=message):
        find_source(table_with(tmp_path, make, names={"label": ["a", "b"]}, label=labels)).labels("train")


def test_images_that_are_none(tmp_path, make):
    path = make.parquet(tmp_path / "train.parquet", [make.images(1, (4, 4, 3))[0], None], label=[0, 1])
    with pytest.raises(ValueError, match=r"train\.parquet, row 1 holds no bytes, and its path cannot be read"):
        list(find_source(str(path)).images("train"))
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), path)
    with pytest.raises(ValueError, match=r"must be \{bytes, path\} or binary"):
        list(find_source(str(path)).images("train"))


def test_files_that_tell_no_split_or_two(tmp_path, make):
    make.parquet(tmp_path / "train.parquet", make.images(1, (4, 4, 3)), label=[0])
    other = make.parquet(tmp_path / "more.parquet", make.images(1, (4, 4, 3)), label=[0])
    with pytest.raises(ValueError, match=r"more\.parquet tells no split"):
        find_source(str(tmp_path))
    other.rename(tmp_path / "train-test.parquet")
    with pytest.raises(ValueError, match="names test and train: a file can be of one split only"):
        find_source(str(tmp_path))


def test_not_parquet(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"train\.parquet cannot be read as parquet"):
        find_source(str(tmp_path)).labels("train")
    (tmp_path / "train.csv").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no parquet file"):
        find_source(str(tmp_path / "train.csv"))


@pytest.mark.parametrize("data", ["/nowhere/at/all", "nothing.parquet", "a/b/c", "~/none"])
def test_there_is_nothing_of_that_name(data):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        find_source(data)


def image_folder(root, make, splits=("train", "test"), kinds=("cat", "dog")):
    for split in splits:
        for kind in kinds:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.png").write_bytes(make.png(make.images(1, (5, 6, 3), number)[0]))
    return root


def test_image_folder_with_splits(tmp_path, make):
    root = image_folder(tmp_path, make, ("train", "val"))
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"no image")
    (root / ".git").mkdir()
    source = find_source(str(root))
    assert set(source.splits()) == {"train", "validation"}
    assert source.class_names() == ("cat", "dog")
    assert list(source.labels("train")) == [0, 0, 1, 1]
    where, encoded = list(source.images("validation"))[3]
    assert where == str(root / "val" / "dog" / "1.png")
    assert encoded == make.png(make.images(1, (5, 6, 3), 1)[0])


def test_image_folder_without_splits(tmp_path, make):
    source = find_source(str(image_folder(tmp_path, make, (".",))))
    assert source.splits() == ("all",)
    assert list(source.labels("all")) == [0, 0, 1, 1]


def test_the_identity_follows_the_files(tmp_path, make):
    root = image_folder(tmp_path, make)
    before = find_source(str(root)).identity()
    assert find_source(str(root)).identity() == before
    image = root / "train" / "cat" / "0.png"
    os.utime(image, ns=(1, 1))
    touched = find_source(str(root)).identity()
    assert touched != before
    image.unlink()
    assert find_source(str(root)).identity() not in (before, touched)


def test_image_folder_that_is_not_clear(tmp_path, make):
    root = image_folder(tmp_path, make)
    (root / "extra").mkdir()
    (root / "extra" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds test, train beside 'extra', which names no split"):
        find_source(str(root))
    (root / "extra" / "1.png").unlink()
    (root / "test" / "cow").mkdir()
    (root / "test" / "cow" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="test: label 'cow' is not among the 2 names of classes"):
        find_source(str(root)).labels("test")


def test_folder_without_images(tmp_path, make):
    with pytest.raises(ValueError, match="holds no images: there must be folders class/image"):
        find_source(str(tmp_path))
    image_folder(tmp_path, make, ("train",))
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no images in test"):
        find_source(str(tmp_path))


def test_columns_are_of_tables(tmp_path, make):
    root = image_folder(tmp_path, make)
    with pytest.raises(ValueError, match="label_column = 'label' is of tables"):
        find_source(str(root), label_column="label")


def test_what_is_shipped(make):
    source = find_source("embedded")
    assert set(source.splits()) == {"train", "test"}
    assert source.class_names()[0] == "T-shirt/top"
    assert list(np.bincount(source.labels("train"))) == [500] * 10
    assert list(np.bincount(source.labels("test"))) == [100] * 10
    files = sorted(sources.EMBEDDED.iterdir())
    assert [path.name for path in files] == ["NOTICE", "fashion-mnist-test.parquet", "fashion-mnist-train.parquet"]
    assert sum(path.stat().st_size for path in files) < 2.5e6


class Hub:
    """Stands in for `datasets.load_dataset`: answers with data sets of the real package."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __call__(self, *name):
        self.asked.append(name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture
def on_hub(datasets, make):
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=["x", "y", "z"]),
            "coarse_label": datasets.ClassLabel(names=["v"]),
        }
    )
    rows = {
        "img": [{"bytes": make.png(image), "path": None} for image in make.images(5, (6, 7, 3))],
        "fine_label": [2, 0, 1, 2, 0],
        "coarse_label": [0] * 5,
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(train=data, test=data.select([0, 3]))


def test_a_name_on_the_hub(on_hub, datasets, monkeypatch, make):
    hub = Hub(on_hub)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    source = find_source("uoft-cs/cifar100:plain")
    assert source.identity()["hub"] == "uoft-cs/cifar100"
    assert hub.asked == []  # a cached data set needs no network
    assert set(source.splits()) == {"train", "test"}
    assert source.class_names() == ("x", "y", "z")
    assert list(source.labels("train")) == [2, 0, 1, 2, 0]
    found = list(source.images("train"))
    assert [encoded for _, encoded in found] == [make.png(image) for image in make.images(5, (6, 7, 3))]
    assert found[4][0] == "uoft-cs/cifar100 train, row 4"
    assert [encoded for _, encoded in source.images("test")] == [found[0][1], found[3][1]]
    assert hub.asked == [("uoft-cs/cifar100", "plain")]


def test_the_default_configuration(on_hub, datasets, monkeypatch):
    hub = Hub(on_hub)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert find_source("cifar100").class_names() == ("x", "y", "z")
    assert hub.asked == [("cifar100", None)]


def test_the_hub_cannot_be_reached(datasets, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", Hub(ConnectionError("no route")))
    with pytest.raises(
        ValueError, match=r"'ethz/food101' is no local path.*ConnectionError: no route.*local parquet files"
    ):
        find_source("ethz/food101").splits()


def test_datasets_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package datasets: install it .*local parquet"):
        find_source("ethz/food101").splits()


def test_unknown_split_on_the_hub(on_hub, datasets, monkeypatch):
    on_hub["extra"] = on_hub["test"]
    monkeypatch.setattr(datasets, "load_dataset", Hub(on_hub))
    with pytest.raises(ValueError, match="has the split 'extra'"):
        find_source("some/name").splits()


# ---- Names of classes, table by table ----


def test_numbers_mean_the_names_of_their_own_table(tmp_path, make):
    images = make.images(3, (4, 4))
    make.parquet(tmp_path / "test.parquet", images, {"label": ["dog", "cat"]}, label=[0, 1, 1])
    make.parquet(tmp_path / "train.parquet", images, {"label": ["cat", "dog"]}, label=[0, 1, 1])
    source = find_source(str(tmp_path))
    assert source.class_names() == ("cat", "dog")
    assert (list(source.labels("train")), list(source.labels("test"))) == ([0, 1, 1], [1, 0, 0])


def test_numbers_without_names_are_those_of_the_other_tables_if_these_agree(tmp_path, make):
    images = make.images(2, (4, 4))
    make.parquet(tmp_path / "train.parquet", images, {"label": ["cat", "dog"]}, label=[1, 0])
    make.parquet(tmp_path / "test.parquet", images, label=[1, 0])
    source = find_source(str(tmp_path))
    assert (source.class_names(), list(source.labels("test"))) == (("cat", "dog"), [1, 0])
    make.parquet(tmp_path / "validation.parquet", images, {"label": ["dog", "cat"]}, label=[1, 0])
    with pytest.raises(ValueError, match=r"test\.parquet, column label: labels are numbers without names"):
        find_source(str(tmp_path)).labels("test")


@pytest.mark.parametrize("largest", [1000, 10**6, 2**40])
def test_a_column_of_ids_is_no_column_of_classes(tmp_path, make, largest):
    path = make.parquet(tmp_path / "train.parquet", make.images(3, (4, 4)), label=[0, largest, 1])
    message = rf"3 distinct labels of 3 images are numbered up to {largest}, but there may be 1000 classes at most"
    with pytest.raises(ValueError, match=message):
        find_source(str(path)).labels("train")
    make.parquet(path, make.images(3, (4, 4)), label=[0, 999, 1])
    assert len(find_source(str(path)).class_names()) == 1000


# ---- Files ----


def test_capitals_in_extensions_and_links_are_followed(tmp_path, make):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (root / "cat").mkdir(parents=True)
    elsewhere.mkdir()
    encoded = make.png(make.images(1, (4, 4))[0])
    (root / "cat" / "1.PNG").write_bytes(encoded)
    (elsewhere / "2.JPeG").write_bytes(encoded)
    (root / "cat" / "3.png").symlink_to(elsewhere / "2.JPeG")
    (root / "dog").symlink_to(elsewhere, target_is_directory=True)
    source = find_source(str(root))
    assert source.class_names() == ("cat", "dog")
    assert [where for where, _ in source.images("all")] == [
        str(root / name) for name in ("cat/1.PNG", "cat/3.png", "dog/2.JPeG")
    ]
    table = make.parquet(tmp_path / "train.PARQUET", make.images(2, (4, 4)), label=[0, 1])
    assert list(find_source(str(table)).labels("train")) == [0, 1]


def test_images_below_or_beside_the_folders_of_classes_are_counted_and_named(tmp_path, make):
    root = image_folder(tmp_path, make)
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "0.png").write_bytes(b"")
    for number in range(2):
        (root / "train" / "cat" / "more" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 images, such as .*train/0\.png, are not in folders class/image"):
        find_source(str(root))
