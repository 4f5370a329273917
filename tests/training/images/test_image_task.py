"""The image task: which rows are where, batches by hand, the model and how it is judged."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

from training.config import build  # noqa: E402
from training.images.settings import ImageSettings  # noqa: E402
from training.images.task import ResNetTask, build_resnet  # noqa: E402

SMALL = {"depths": (1, 1), "hidden_sizes": (8, 16), "embedding_size": 4, "exit_stage": 1, "layer_type": "basic"}


@pytest.fixture
def data(tmp_path, make):
    """As uoft-cs/cifar10, with 3 classes: 60 training and 12 test images of 8x8."""
    root = tmp_path / "cifar10"
    names = {"label": ["cat", "dog", "cow"]}
    train, test = make.images(60, (8, 8, 3), 1), make.images(12, (8, 8, 3), 2)
    make.parquet(root / "train-00000-of-00001.parquet", train, names, label=np.arange(60) % 3)
    make.parquet(root / "test-00000-of-00001.parquet", test, names, label=np.arange(12) % 3)
    return SimpleNamespace(root=root, train=train, test=test)


@pytest.fixture
def task_of(data, tmp_path):
    def build(seed=0, **changes):
        values = {"data": str(data.root), "image_size": 8, "cache_dir": str(tmp_path / "cache"), **SMALL, **changes}
        return ResNetTask(ImageSettings(**values), seed)

    return build


def rows_of(batches, task, images):
    """Numbers of the images (N, H, W, C) that the batches show, found by their pixels; each is different."""
    pixels = torch.cat([batch["pixel_values"] for batch in batches]).double()
    shown = pixels * torch.tensor(task.std).view(-1, 1, 1) + torch.tensor(task.mean).view(-1, 1, 1)
    shown = (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    place = {image.tobytes(): number for number, image in enumerate(images)}
    return [place[np.ascontiguousarray(image).tobytes()] for image in shown]


def training_rows(task, images):
    return rows_of([task.training_batch(np.arange(task.train_size), 0)], task, images)


def held_rows(task, split, images):
    return rows_of(list(task.held_out(split, 5)), task, images)


def test_training_and_validation_share_the_training_split(task_of, data):
    task = task_of(augment="none", validation_share=0.2)
    train, held = training_rows(task, data.train), held_rows(task, "validation", data.train)
    assert sorted(train + held) == list(range(60))
    assert list(np.bincount(np.array(held) % 3)) == [4, 4, 4]
    assert (task.train_size, len(train)) == (48, 48)
    assert held_rows(task, "test", data.test) == list(range(12))
    other = task_of(augment="none", validation_share=0.2, seed=5)
    assert held_rows(other, "validation", data.train) == held


def test_labels_belong_to_their_images(task_of, data):
    task = task_of(augment="none")
    rows = np.array([5, 0, 17])
    batch = task.training_batch(rows, 0)
    assert list(batch["labels"]) == [row % 3 for row in rows_of([batch], task, data.train)]
    assert batch["labels"].dtype == torch.int64
    for batch in task.held_out("validation", 4):
        assert list(batch["labels"]) == [row % 3 for row in rows_of([batch], task, data.train)]


def test_the_papers_way_validates_on_the_test_split(task_of, data):
    task = task_of(augment="none", validation_share=0.0)
    assert task.train_size == 60
    assert held_rows(task, "validation", data.test) == held_rows(task, "test", data.test) == list(range(12))
    assert task.description["validation"] == "the test split"


def test_pixels_are_normalised_by_what_is_trained_on(task_of, data):
    task = task_of(augment="none", validation_share=0.2, train_limit=30)
    rows = training_rows(task, data.train)
    scaled = data.train[rows].astype(np.float64) / 255
    np.testing.assert_allclose(task.mean, scaled.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(task.std, scaled.std(axis=(0, 1, 2)))
    found = task.training_batch(np.arange(30), 0)["pixel_values"]
    expected = (scaled - scaled.mean(axis=(0, 1, 2))) / scaled.std(axis=(0, 1, 2))
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert found.dtype == torch.float32


def test_a_limit_is_balanced_and_leaves_validation_alone(task_of, data):
    whole, limited = task_of(augment="none"), task_of(augment="none", train_limit=9)
    rows = training_rows(limited, data.train)
    assert list(np.bincount(np.array(rows) % 3)) == [3, 3, 3]
    assert set(rows) < set(training_rows(whole, data.train))
    assert held_rows(limited, "validation", data.train) == held_rows(whole, "validation", data.train)
    with pytest.raises(ValueError, match="train_limit = 55 but there are 54 training images"):
        task_of(train_limit=55)


def test_a_validation_split_of_its_own(task_of, data, make):
    extra = make.images(6, (8, 8, 3), 3)
    make.parquet(data.root / "validation.parquet", extra, label=np.arange(6) % 3)
    task = task_of(augment="none")
    assert held_rows(task, "validation", extra) == list(range(6))
    assert held_rows(task, "test", data.test) == list(range(12))
    assert task.train_size == 60


def test_the_only_held_out_split_is_the_test(task_of, data, tmp_path, make):
    """As ethz/food101: image, label, validation; photographs of different sizes."""
    root = tmp_path / "food101"
    photographs = [make.images(1, (20 + number, 30 - number, 3), number)[0] for number in range(20)]
    make.parquet(root / "train.parquet", photographs, image="image", label=np.arange(20) % 2)
    make.parquet(root / "validation.parquet", photographs[:3], image="image", label=[0, 1, 0])
    task = task_of(data=str(root), image_size=14, augment="resized-crop-flip")
    assert task.description["sizes"] == {"train": 18, "validation": 2, "test": 3}
    assert task.training_batch(np.arange(18), 0)["pixel_values"].shape == (18, 3, 14, 14)
    (batch,) = task.held_out("test", 10)
    assert batch["pixel_values"].shape == (3, 3, 14, 14)
    # 16 = 14 * 256 / 224, and the middle 14 of it; the first photograph is 20 high, 30 wide.
    from PIL import Image

    resized = Image.fromarray(photographs[0]).resize((16, 16), Image.Resampling.BICUBIC, box=(5, 0, 25, 20))
    middle = np.asarray(resized)[1:15, 1:15] / 255
    expected = (middle - np.array(task.mean)) / np.array(task.std)
    np.testing.assert_allclose(batch["pixel_values"][0], expected.transpose(2, 0, 1), atol=1e-5)


def test_the_test_set_may_be_elsewhere(task_of, data):
    train, test = (str(next(data.root.glob(f"{split}-*"))) for split in ("train", "test"))
    task = task_of(data=train, test_data=test, augment="none")
    assert held_rows(task, "test", data.test) == list(range(12))
    assert task.train_size == 54
    with pytest.raises(ValueError, match="has a training split only"):
        task_of(data=train, test_data=train)
    with pytest.raises(ValueError, match="has no training split, only test"):
        task_of(data=test)


@pytest.mark.parametrize("names", [["cat", "dog"], ["cat", "cow", "dog"], ["cat", "dog", "cow", "pig"]])
def test_classes_of_the_test_set_must_be_the_same(task_of, data, tmp_path, make, names):
    other = make.parquet(tmp_path / "other.parquet", make.images(2, (8, 8, 3)), {"label": names}, label=[0, 1])
    with pytest.raises(ValueError, match="they must be the same"):
        task_of(test_data=str(other))


def test_a_test_set_without_names_may_lack_a_class(task_of, tmp_path, make):
    other = make.parquet(tmp_path / "other.parquet", make.images(2, (8, 8, 3)), label=[0, 1])
    assert task_of(test_data=str(other)).num_labels == 3


def test_a_test_split_is_carved_where_there_is_none(task_of, tmp_path, make):
    images = make.images(40, (8, 8, 3), 7)
    for number, image in enumerate(images):
        folder = tmp_path / "folder" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.png").write_bytes(make.png(image))
    task = task_of(data=str(tmp_path / "folder"), augment="none", test_share=0.2, validation_share=0.25)
    train = training_rows(task, images)
    validation, test = held_rows(task, "validation", images), held_rows(task, "test", images)
    assert sorted(train + validation + test) == list(range(40))
    assert (len(train), len(validation), len(test)) == (24, 8, 8)
    assert sum(row % 2 for row in test) == 4
    no_test = task_of(data=str(tmp_path / "folder"), test_share=0.0)
    with pytest.raises(ValueError, match="the test split is empty"):
        no_test.held_out("test", 4)
    with pytest.raises(ValueError, match="test_share = 0 leaves it empty"):
        task_of(data=str(tmp_path / "folder"), test_share=0.0, validation_share=0.0)


@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop-flip"])
def test_batches_depend_on_seed_epoch_and_rows_alone(task_of, augment):
    task = task_of(augment=augment, seed=3)
    rows = np.arange(task.train_size, dtype=np.uint32)
    whole = task.training_batch(rows, 2)["pixel_values"]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (no global generator may matter)
    for part in (rows[10:11], rows[::-7], rows[30:]):
        assert torch.equal(task.training_batch(part, 2)["pixel_values"], whole[part.astype(int)])
    again = task_of(augment=augment, seed=3).training_batch(rows, 2)["pixel_values"]
    assert torch.equal(again, whole)
    for other in (task.training_batch(rows, 3), task_of(augment=augment, seed=4).training_batch(rows, 2)):
        assert not torch.equal(other["pixel_values"], whole)


def test_an_image_is_augmented_alike_whatever_is_held_out(task_of, data):
    """Draws belong to the image, so that runs that hold out more compare on the same views."""
    few = task_of(validation_share=0.0)
    many = task_of(validation_share=0.4)
    numbers = training_rows(task_of(validation_share=0.4, augment="none"), data.train)

    def shown(task, rows):
        pixels = task.training_batch(rows, 0)["pixel_values"]
        return pixels * torch.tensor(task.std).view(-1, 1, 1) + torch.tensor(task.mean).view(-1, 1, 1)

    torch.testing.assert_close(shown(many, np.arange(36)), shown(few, np.array(numbers)), atol=1e-5, rtol=0)


def test_held_out_batches_come_in_the_same_order_again(task_of):
    task = task_of()
    first, second = list(task.held_out("test", 5)), list(task.held_out("test", 5))
    assert [len(batch["labels"]) for batch in first] == [5, 5, 2]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["pixel_values"], b["pixel_values"])


def test_unknown_split_and_batch_size(task_of):
    task = task_of()
    with pytest.raises(ValueError, match="split = 'train' must be one of: validation, test"):
        task.held_out("train", 5)
    with pytest.raises(ValueError, match="batch_size = 0 must be at least 1"):
        task.held_out("test", 0)


def test_judge_by_hand(task_of):
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    labels = torch.tensor([0, 1, 2])
    correct, loss, count = task_of().judge(SimpleNamespace(logits=logits), {"labels": labels})
    e = np.exp
    by_hand = np.log(3) - np.log(e(1) / (e(2) + e(1) + 1)) - np.log(e(5) / (2 + e(5)))
    # Ties go to the first class, so the first row is right.
    assert (int(correct), int(count)) == (2, 3)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    assert loss.dim() == correct.dim() == count.dim() == 0


def test_judge_sums_in_float32(task_of):
    """In bfloat16, a sum stops growing at 256 when 1 is added."""
    logits = torch.zeros(1000, 3, dtype=torch.bfloat16)
    labels = torch.zeros(1000, dtype=torch.int64)
    _, loss, _ = task_of().judge(SimpleNamespace(logits=logits), {"labels": labels})
    assert float(loss) == pytest.approx(1000 * np.log(3), rel=1e-5)


def test_the_model_takes_the_batch(task_of):
    task = task_of()
    model = task.build_model()
    output = model(**task.training_batch(np.arange(6), 0))
    assert output.logits.shape == (6, 3)
    output.loss.backward()
    assert model.exit_stage == 1
    assert model.config.layer_type == "basic"


def test_grey_data_have_one_channel(task_of, tmp_path, make):
    images = make.images(20, (8, 8))
    path = make.parquet(tmp_path / "grey.parquet", images, label=np.arange(20) % 2)
    task = task_of(data=str(path))
    assert (task.channels, task.description["channels"], len(task.mean)) == (1, 1, 1)
    assert task.training_batch(np.arange(4), 0)["pixel_values"].shape == (4, 1, 8, 8)
    task.build_model()(**next(task.held_out("validation", 2)))


def test_grey_training_images_meet_a_coloured_test_set(task_of, data, tmp_path, make):
    grey = make.parquet(tmp_path / "grey.parquet", make.images(30, (8, 8)), label=np.arange(30) % 3)
    test = str(next(data.root.glob("test-*")))
    task = task_of(data=str(grey), test_data=test, augment="none")
    assert task.channels == 3
    pixels = task.training_batch(np.arange(4), 0)["pixel_values"]
    assert pixels.shape == (4, 3, 8, 8)
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert held_rows(task, "test", data.test) == list(range(12))


def test_the_description_is_json_and_names_no_folder(task_of, data, tmp_path):
    text = json.dumps(task_of().description)
    assert str(tmp_path) not in text
    description = json.loads(text)
    assert description["class_names"] == ["cat", "dog", "cow"]
    assert description["sizes"] == {"train": 54, "validation": 6, "test": 12}
    assert len(description["content"]["train"]) == 64


def test_what_is_shipped_works_offline(tmp_path):
    task = ResNetTask(ImageSettings(image_size=28, cache_dir=str(tmp_path)), 0)
    assert (task.train_size, task.num_labels, task.channels) == (4500, 10, 1)
    # Of all 60,000 images these are .2860 and .3530; a subset of 4,500 images has a mean within .01.
    assert task.mean[0] == pytest.approx(0.2860, abs=0.01)
    assert task.std[0] == pytest.approx(0.3530, abs=0.01)
    # Nearest class mean is right on about two thirds of Fashion-MNIST; chance is a tenth: labels fit images.
    batch = ResNetTask(dataclasses.replace(task.settings, augment="none"), 0).training_batch(np.arange(4500), 0)
    means = torch.stack([batch["pixel_values"][batch["labels"] == k].mean(0).flatten() for k in range(10)])
    (test,) = task.held_out("test", 1000)
    nearest = torch.cdist(test["pixel_values"].flatten(1), means).argmin(1)
    assert 0.6 < (nearest == test["labels"]).float().mean() < 0.8


def test_resnet50_has_the_published_number_of_parameters():
    """torchvision's ResNet-50 has 25,557,032 with its 1,000 classes, so 23,508,032 without its classifier."""
    with torch.device("meta"):
        model = build_resnet(ImageSettings(), channels=3, num_labels=100)
    expected = 23_508_032 + (2048 + 1) * 100 + (512 + 1) * 100
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model.device.type == "meta"


def test_the_small_stem_keeps_the_resolution():
    model = build_resnet(ImageSettings(**SMALL, small_images=True), channels=3, num_labels=5)
    assert model.resnet.embedder(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "data = '' must have at least 1 character"),
        ({"validation_share": 1.0}, "validation_share = 1.0 must be less than 1"),
        ({"test_share": -0.1}, "test_share = -0.1 must be greater than or equal to 0"),
        ({"train_limit": -1}, "train_limit = -1 must be greater than or equal to 0"),
        ({"image_size": 4}, "image_size = 4 must be greater than or equal to 8"),
        ({"embedding_size": 0}, "embedding_size = 0 must be greater than or equal to 1"),
        ({"augment": "flip"}, "augment = 'flip' must be 'crop-flip', 'resized-crop-flip' or 'none'"),
        ({"layer_type": "wide"}, "layer_type = 'wide' must be 'basic' or 'bottleneck'"),
        ({"depths": (3, 4)}, r"depths = \(3, 4\) and hidden_sizes = .* must be as long as each other"),
        ({"depths": ()}, "depths = .* must have at least 1 item"),
        ({"depths": (3, 0, 6, 3)}, "depths = 0 must be greater than or equal to 1"),
        ({"exit_stage": 4}, r"exit_stage = 4 must lie in 1\.\.3"),
        ({"exit_stage": 0}, "exit_stage = 0 must be greater than or equal to 1"),
        ({"hidden_sizes": (256, 510, 1024, 2048)}, "hidden_sizes has 510, but a bottleneck's must be divisible by 4"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        build("x", {"task": "resnet", **changes})


def test_lists_become_tuples():
    assert ImageSettings(depths=[1, 2, 3, 4]).depths == (1, 2, 3, 4)


# ---- Altered training sets ----


def test_what_is_held_out_is_never_altered(task_of, data):
    plain = task_of(augment="none", validation_share=0.2)
    hard = task_of(augment="none", validation_share=0.2, imbalance=8, wrong_labels=0.5, copies=2)
    for split in ("validation", "test"):
        for before, after in zip(plain.held_out(split, 5), hard.held_out(split, 5), strict=True):
            assert list(before["labels"]) == list(after["labels"])
        assert held_rows(plain, split, data.train if split == "validation" else data.test) == held_rows(
            hard, split, data.train if split == "validation" else data.test
        )


def test_wrong_labels_are_of_training_rows_only(task_of, data):
    task = task_of(augment="none", validation_share=0.2, wrong_labels=0.25)
    batch = task.training_batch(np.arange(task.train_size), 0)
    rows = np.array(rows_of([batch], task, data.train))
    wrong = batch["labels"].numpy() != rows % 3
    assert np.bincount(rows[wrong] % 3).tolist() == [4, 4, 4]
    for batch in task.held_out("validation", 4):
        assert list(batch["labels"]) == [row % 3 for row in rows_of([batch], task, data.train)]


def test_copies_of_an_image_are_rows_of_their_own(task_of, data):
    task = task_of(augment="none", validation_share=0.2, train_limit=6, copies=4)
    assert task.train_size == 24
    assert np.unique(training_rows(task, data.train), return_counts=True)[1].tolist() == [4] * 6
    moved = task_of(augment="crop-flip", validation_share=0.2, train_limit=6, copies=4)
    batch = moved.training_batch(np.arange(24), 0)["pixel_values"]
    assert len(torch.unique(batch.flatten(1), dim=0)) > 6  # each copy is cropped and flipped by itself


def test_the_fingerprint_of_altered_data_is_another(task_of):
    described = [
        task_of(**changes).description for changes in ({}, {"imbalance": 4}, {"wrong_labels": 0.2}, {"copies": 2})
    ]
    assert len({each["content"]["train"] for each in described}) == 4
    assert len({each["content"]["validation"] for each in described}) == 1
    assert "altered" not in described[0]
    assert described[1]["altered"]["class_sizes"] == [18, 9, 4]
