"""Decoding against Pillow, and a cache that is reused exactly as long as its inputs stay."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pyarrow")
Image = pytest.importorskip("PIL.Image")

from training.images import arrays  # noqa: E402
from training.images.arrays import cached_arrays, decode  # noqa: E402
from training.images.sources import find_source  # noqa: E402


@pytest.fixture
def table(tmp_path, make):
    images = make.images(7, (8, 8, 3))
    return make.parquet(tmp_path / "train.parquet", images, label=[0, 1, 2, 0, 1, 2, 0]), images


def read(path, tmp_path, size=8):
    return cached_arrays(find_source(str(path)), size, tmp_path / "cache")


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir())


def test_images_of_the_right_size_stay_as_they_are(table, tmp_path):
    splits, names = read(table[0], tmp_path)
    np.testing.assert_array_equal(splits["train"].images, table[1])
    np.testing.assert_array_equal(splits["train"].labels, [0, 1, 2, 0, 1, 2, 0])
    assert splits["train"].images.dtype == np.uint8
    assert isinstance(splits["train"].images, np.memmap)
    assert names == ("0", "1", "2")


@pytest.mark.parametrize(("height", "width"), [(20, 30), (31, 20), (9, 9), (3, 5)])
def test_decode_resizes_the_middle_square(make, height, width):
    pixels = make.images(1, (height, width, 3))[0]
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    square = (left, top, left + side, top + side)
    expected = Image.fromarray(pixels).resize((10, 10), Image.Resampling.BICUBIC, box=square)
    np.testing.assert_array_equal(decode(make.png(pixels), "here", 10, 3), np.asarray(expected))


def test_decode_turns_photographs_upright(make):
    pixels = make.images(1, (6, 6, 3))[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(file.getvalue(), "here", 6, 3), np.rot90(pixels, -1))


def encode(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_decode_modes_of_8_bits(make, mode):
    original = Image.fromarray(make.images(1, (6, 6, 3))[0]).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    expected = np.asarray(original.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(original, kind), "here", 6, 3), expected)


def test_decode_refuses_what_would_be_clipped():
    deep = Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16))
    with pytest.raises(ValueError, match="photo 3: the image cannot be read: its mode I;16 is none of"):
        decode(encode(deep), "photo 3", 4, 1)


def test_grey_images_have_one_channel(tmp_path, make):
    images = make.images(5, (6, 6))
    splits, _ = read(make.parquet(tmp_path / "train.parquet", images, label=[0] * 5), tmp_path, 6)
    np.testing.assert_array_equal(splits["train"].images, images[..., None])
    assert splits["train"].moments.shape == (5, 2)


def test_one_colour_image_makes_all_coloured(tmp_path, make):
    grey, colour = make.images(3, (6, 6)), make.images(1, (6, 6, 3))
    make.parquet(tmp_path / "data" / "train.parquet", list(grey), label=[0] * 3)
    make.parquet(tmp_path / "data" / "test.parquet", [*grey[:1], *colour], label=[0] * 2)
    splits, _ = read(tmp_path / "data", tmp_path, 6)
    np.testing.assert_array_equal(splits["train"].images, np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(splits["test"].images[1], colour[0])


def test_more_images_than_a_chunk(tmp_path, make, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 3)
    images = make.images(7, (4, 4, 3))
    splits, _ = read(make.parquet(tmp_path / "train.parquet", images, label=[0] * 7), tmp_path, 4)
    np.testing.assert_array_equal(splits["train"].images, images)


def test_mean_and_std_are_of_the_rows_asked_for(table, tmp_path):
    train = read(table[0], tmp_path)[0]["train"]
    rows = np.array([1, 4, 5])
    scaled = table[1][rows].astype(np.float64) / 255
    mean, std = train.mean_and_std(rows)
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)


def test_a_constant_channel_is_not_divided_by_0(tmp_path, make):
    path = make.parquet(tmp_path / "train.parquet", np.full((3, 4, 4), 51, np.uint8), label=[0] * 3)
    mean, std = read(path, tmp_path, 4)[0]["train"].mean_and_std(np.arange(3))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


class Counted:
    """A source that counts how often its images are read."""

    def __init__(self, source):
        self.source, self.read = source, 0

    def __getattr__(self, name):
        return getattr(self.source, name)

    def images(self, split):
        self.read += 1
        return self.source.images(split)


def test_the_cache_is_reused(table, tmp_path):
    first = read(table[0], tmp_path)[0]["train"]
    again = Counted(find_source(str(table[0])))
    found, names = cached_arrays(again, 8, tmp_path / "cache")
    assert again.read == 0
    assert names == ("0", "1", "2")
    assert found["train"].content == first.content
    np.testing.assert_array_equal(found["train"].images, first.images)


def test_the_cache_is_of_its_inputs(table, tmp_path, make):
    path, images = table
    before = read(path, tmp_path)[0]["train"]
    assert read(path, tmp_path, 6)[0]["train"].images.shape == (7, 6, 6, 3)
    assert len(folders(tmp_path)) == 2
    status = path.stat()
    changed = 255 - images
    make.parquet(path, changed, label=[0] * 7)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = read(path, tmp_path)[0]["train"]
    np.testing.assert_array_equal(after.images, changed)
    np.testing.assert_array_equal(after.labels, [0] * 7)
    assert after.content != before.content
    assert len(folders(tmp_path)) == 3


def test_a_file_of_the_same_size_written_later_is_another_input(table, tmp_path):
    read(table[0], tmp_path)
    os.utime(table[0], ns=(1, 1))
    read(table[0], tmp_path)
    assert len(folders(tmp_path)) == 2


def test_a_new_version_makes_a_new_cache(table, tmp_path, monkeypatch):
    read(table[0], tmp_path)
    monkeypatch.setattr(arrays, "VERSION", arrays.VERSION + 1)
    read(table[0], tmp_path)
    assert len(folders(tmp_path)) == 2


def test_content_is_the_same_wherever_the_files_are(table, tmp_path, make):
    elsewhere = make.parquet(tmp_path / "other" / "train.parquet", table[1], label=[0, 1, 2, 0, 1, 2, 0])
    assert read(elsewhere, tmp_path)[0]["train"].content == read(table[0], tmp_path)[0]["train"].content
    labelled = make.parquet(tmp_path / "third" / "train.parquet", table[1], label=[2, 1, 2, 0, 1, 2, 0])
    assert read(labelled, tmp_path)[0]["train"].content != read(table[0], tmp_path)[0]["train"].content


@pytest.mark.parametrize("broken", [b"", b"not an image", "truncated"])
@pytest.mark.parametrize("channels", [1, 3])
def test_broken_images_are_named(tmp_path, make, broken, channels):
    images = make.images(4, (8, 8) if channels == 1 else (8, 8, 3))
    rows = [make.png(image) for image in images]
    rows[2] = make.png(images[2])[:60] if broken == "truncated" else broken
    path = make.parquet(tmp_path / "train.parquet", rows, label=[0] * 4)
    with pytest.raises(ValueError, match=r"train\.parquet, row 2: the image cannot be read"):
        read(path, tmp_path)
    assert folders(tmp_path) == []


def test_a_broken_file_of_a_folder_is_named(tmp_path, make):
    folder = tmp_path / "data" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(make.png(make.images(1, (4, 4, 3))[0]))
    (folder / "2.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cat/2\.jpg: the image cannot be read"):
        read(tmp_path / "data", tmp_path)


def test_an_interrupted_cache_leaves_nothing(table, tmp_path):
    class Interrupted(Counted):
        def images(self, split):
            yield from list(self.source.images(split))[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_arrays(Interrupted(find_source(str(table[0]))), 8, tmp_path / "cache")
    assert folders(tmp_path) == []
    np.testing.assert_array_equal(read(table[0], tmp_path)[0]["train"].images, table[1])


@pytest.mark.slow
def test_processes_that_start_together(tmp_path, make):
    count = 300
    path = make.parquet(tmp_path / "train.parquet", make.images(count, (8, 8, 3)), label=[0] * count)
    program = (
        "import sys\n"
        "from training.images.arrays import cached_arrays; from training.images.sources import find_source\n"
        "print(cached_arrays(find_source(sys.argv[1]), 8, sys.argv[2])[0]['train'].content)"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    outputs = [out.splitlines() for out, _ in ended]
    assert len({lines[-1] for lines in outputs}) == 1
    assert len(folders(tmp_path)) == 1


def test_too_large_for_the_disk(table, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1343})())
    with pytest.raises(
        ValueError, match=r"decoded images take 1\.34 kB, but .* has 1\.34 kB left: name another folder by cache_dir"
    ):
        read(table[0], tmp_path)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1344})())
    read(table[0], tmp_path)  # 7 * 8 * 8 * 3 = 1344


def test_cache_that_cannot_be_written(table, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot write to .*cache.* free there\); name another folder for the cache"):
        read(table[0], tmp_path)


def test_a_split_without_images(tmp_path, make):
    import pyarrow.parquet as pq

    path = make.parquet(tmp_path / "train.parquet", make.images(1, (4, 4, 3)), label=[0])
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(ValueError, match="the split train has no images"):
        read(path, tmp_path)


def test_the_cache_says_what_it_was_made_from(table, tmp_path):
    read(table[0], tmp_path)
    inputs = json.loads((tmp_path / "cache" / "images" / folders(tmp_path)[0] / "inputs.json").read_text())
    assert inputs["parquet"]["train"][0][0] == str(table[0])
    assert inputs["size"] == 8
