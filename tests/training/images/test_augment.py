"""Augmentation of a batch against one image at a time with Pillow."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from PIL import ImageOps  # noqa: E402

from training.data.draws import uniforms  # noqa: E402
from training.images.augment import centre_crop, crop_flip, normalise, resized_crop_flip  # noqa: E402


def pictures(count, size, channels=3):
    return np.random.default_rng(count).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def smooth_pictures(count, size):
    """Slow waves: noise would make any difference between two ways of resizing large."""
    phase = np.random.default_rng(count).uniform(0, 6, (count, 1, 1, 3))
    y, x = np.mgrid[:size, :size] / size
    return (127 + 120 * np.sin((5 * y + 7 * x)[..., None] + phase)).astype(np.uint8)


def in_pillow(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def channels_first(picture):
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_flip_is_pad_crop_and_mirror(channels):
    images, rows = pictures(40, 12, channels), np.arange(40) * 17
    found = crop_flip(images, rows, seed=3, epoch=2)
    assert found.shape == (40, channels, 12, 12)
    assert found.dtype == torch.uint8
    for image, draws, result in zip(images, uniforms(3, 2, rows, 3), found, strict=True):
        down, right = math.floor(draws[0] * 9), math.floor(draws[1] * 9)
        expected = ImageOps.expand(in_pillow(image), 4).crop((right, down, right + 12, down + 12))
        if draws[2] < 0.5:
            expected = ImageOps.mirror(expected)
        np.testing.assert_array_equal(result, channels_first(expected))


def test_resized_crop_flip_is_crop_resize_and_mirror():
    images, rows = smooth_pictures(24, 40), np.arange(24) + 5
    found = resized_crop_flip(images, rows, 28, seed=3, epoch=2)
    assert found.shape == (24, 3, 28, 28)
    assert found.dtype == torch.uint8
    for image, draws, result in zip(images, uniforms(3, 2, rows, 5), found, strict=True):
        area = (0.08 + 0.92 * draws[0]) * 1600
        ratio = 0.75 * (16 / 9) ** draws[1]
        wide, high = min(round(math.sqrt(area * ratio)), 40), min(round(math.sqrt(area / ratio)), 40)
        left, top = math.floor(draws[3] * (41 - wide)), math.floor(draws[2] * (41 - high))
        # Cropped first: given the box, Pillow would let pixels outside it weigh in.
        crop = in_pillow(image).crop((left, top, left + wide, top + high))
        expected = crop.resize((28, 28), Image.Resampling.BILINEAR)
        if draws[4] < 0.5:
            expected = ImageOps.mirror(expected)
        difference = np.abs(result.numpy().astype(int) - channels_first(expected))
        assert difference.max() <= 1  # both round fixed-point weights, not quite alike


def augmented(kind, images, rows, **at):
    return crop_flip(images, rows, **at) if kind == "crop-flip" else resized_crop_flip(images, rows, 20, **at)


@pytest.mark.parametrize("kind", ["crop-flip", "resized-crop-flip"])
def test_a_row_is_augmented_the_same_in_any_batch_but_not_in_any_epoch(kind):
    images, rows = pictures(30, 24), np.arange(30)
    whole = augmented(kind, images, rows, seed=1, epoch=4)
    order = np.random.default_rng(0).permutation(30)
    assert torch.equal(augmented(kind, images[order], rows[order], seed=1, epoch=4), whole[order])
    assert torch.equal(augmented(kind, images[8:9], rows[8:9], seed=1, epoch=4)[0], whole[8])
    assert not torch.equal(augmented(kind, images, rows, seed=1, epoch=5), whole)
    assert not torch.equal(augmented(kind, images, rows, seed=2, epoch=4), whole)
    assert not torch.equal(augmented(kind, images, rows + 1, seed=1, epoch=4), whole)


@pytest.mark.parametrize("kind", ["crop-flip", "resized-crop-flip"])
def test_half_of_the_images_are_flipped(kind):
    """20,000 images: a fair flip fails with probability 1e-6 (4.9 standard errors), a rate off by .03 is found."""
    count = 20_000
    ramp = np.broadcast_to(
        np.arange(20, 240, 20, dtype=np.uint8)[:11, None], (count, 11, 11, 1)
    )  # brighter to the right
    found = augmented(kind, np.ascontiguousarray(ramp), np.arange(count), seed=0, epoch=0)[:, 0]
    size = found.shape[-1]
    row = found[:, size // 2].int()
    # Of a row that ascends from the middle's left to its right, never black there, the step tells.
    step = row[:, size // 2 + 1] - row[:, size // 2 - 1]
    assert (step != 0).all()
    flips = int((step < 0).sum())
    assert abs(flips / count - 0.5) < 4.9 * 0.5 / math.sqrt(count)


def test_every_offset_of_the_crop_is_as_likely():
    """81 offsets, 40,000 images: uniform ones fail with probability below 1e-4 (5.2 standard errors, 81 cells)."""
    count = 40_000
    dot = np.zeros((count, 9, 9, 1), dtype=np.uint8)
    dot[:, 4, 4] = 255  # stays in the picture whatever the crop
    found = crop_flip(dot, np.arange(count), seed=0, epoch=0).view(count, 81)
    assert (found.sum(1, dtype=torch.int64) == 255).all()
    cells = np.bincount(found.argmax(1).numpy(), minlength=81)
    assert np.abs(cells - count / 81).max() < 5.2 * math.sqrt(count / 81)


def test_centre_crop():
    images = pictures(2, 9)
    np.testing.assert_array_equal(centre_crop(images, 4), images[:, 2:6, 2:6].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(centre_crop(images, 9), images.transpose(0, 3, 1, 2))


def test_normalise():
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    before = images.clone()
    found = normalise(images, (0.5, 0.2), (0.25, 0.1))
    torch.testing.assert_close(found, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]))
    assert torch.equal(images, before)
    assert found.dtype == torch.float32
