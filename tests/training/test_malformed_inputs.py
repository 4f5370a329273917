"""Malformed configurations, arguments and data files: exit code 2, one sentence, and nothing is written.

A kind of malformed input is a function `(rng, place) -> arguments of gsgd`, marked with how many of it are drawn. It
writes what it wants into the folder `place`, where the command is then run, and must make inputs that are wrong however
the draw falls out. A case that failed is drawn again by its name: pytest -k "damaged_parquet-7".
"""

import gzip
import io
import json
import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gsgd.cli import main
from training.config import TASKS
from training.keys import described
from training.settings import TrainingSettings

KINDS = {}

SMALL = {
    "task": '"resnet"',
    "depths": "[1, 1]",
    "hidden_sizes": "[8, 16]",
    "embedding_size": "4",
    "exit_stage": "1",
    "layer_type": '"basic"',
    "image_size": "8",
    "batch_size": "4",
    "budget": '"1steps"',
    "evaluations": "1",
    "tensorboard": "false",
    "save_model": "false",
}


def malformed(count):
    """Draw `count` cases of the kind."""

    def add(kind):
        KINDS[kind.__name__] = (count, kind)
        return kind

    return add


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the commands keep what they prepare: beside the folder that is watched."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path, cache, accelerator, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def listing(folder):
    """Every path below, with what it is and holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
        else:
            found[path] = "folder" if path.is_dir() else "neither"
    return found


# ---- What is well-formed, to be spoilt ----


def toml(values):
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def config(place, name="mine.toml", **values):
    """A small configuration, with other values as TOML."""
    (place / name).write_text(toml({**SMALL, **values}), encoding="utf-8")
    return name


def picture(value, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 2 * value, 99)).convert(mode).save(file, kind)
    return file.getvalue()


PICTURES = [picture(value) for value in range(24)]


def table(path, encoded=PICTURES, **columns):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": each, "path": None} for each in encoded], kind)
    columns = columns or {"label": [number % 3 for number in range(len(encoded))]}
    pq.write_table(pa.table({"image": image, **columns}), path, compression="none", write_page_checksum=True)


def folders(place):
    """Pictures in folders class/image."""
    for number, encoded in enumerate(PICTURES):
        folder = place / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encoded)
    return place / "pictures"


def text(path, count=200):
    documents = [f"Sentence one of document {n}. The second is {n * n}. A third one ends it." for n in range(count)]
    pq.write_table(pa.table({"text": documents}), path, compression="none", write_page_checksum=True)


SMALL_BERT = [
    "--layers",
    "1",
    "--hidden_size",
    "8",
    "--heads",
    "1",
    "--intermediate_size",
    "8",
    "--tensorboard",
    "false",
]


def bert(data):
    return ["train", "bert-tiny", "--data", str(data), "--budget", "1steps", "--evaluations", "1", *SMALL_BERT]


# ---- Configurations ----


def keys_of(task):
    """(key, default) of all numbers, words and switches."""
    return [(name, default) for kind in (TrainingSettings, TASKS[task][0]) for name, default, _ in described(kind)]


NO_NUMBERS = ['"many"', "nan", "-1", "[1]", "{ a = 1 }", "2020-01-01", "-inf", f"-{'9' * 400}", "true", '"1e999x"']
NO_SWITCHES = ['"perhaps"', "2", "0.5", "[true]", "nan", "1979-05-27T07:32:00Z"]
NO_WORDS = ["3", "true", "nan", "[['a']]", "{ a = 1 }", "07:32:00"]


@malformed(80)
def value_of_a_key(rng, place):
    name, default = rng.choice(keys_of("resnet"))
    if name == "reuse":
        bad = rng.choice(['"perhaps"', "2", "nan"])
    elif isinstance(default, bool):
        bad = rng.choice(NO_SWITCHES)
    elif isinstance(default, (int, float)):
        bad = rng.choice([*NO_NUMBERS, "99999999999999999999"]) if isinstance(default, int) else rng.choice(NO_NUMBERS)
    elif isinstance(default, tuple):
        bad = rng.choice(["3", "[]", "[1, 0.5]", '"a"', "[nan]", "[[1]]", "[-1]", "[99999999999999999999]"])
    else:
        bad = rng.choice(NO_WORDS)
    return ["train", config(place, **{name: bad})]


@malformed(30)
def value_on_the_command_line(rng, place):
    key, bad = rng.choice(
        [
            *[
                (key, bad)
                for key in ("max_lr", "eps", "keep")
                for bad in ("inf", "nan", "-1", "fast", "", "1e999", "0x1")
            ],
            *[("seed", bad) for bad in ("-1", "9223372036854775808", "1.5", "1e30", "", "9" * 5000)],
            *[("budget", bad) for bad in ("0s", "-1steps", "9" * 400 + "s", "1e308epochs", "1fortnight", "nan s", "")],
            *[("method", bad) for bad in ("loss@0", "loss@x", "loss@99", "hard", "loss@", "@1", "")],
            *[("depths", bad) for bad in (",", "1,x", "0,1", "1;2")],
            *[("data", bad) for bad in ("nowhere.parquet", "/dev/null", "~nobody/x", "a b", "*.csv", "\n")],
        ]
    )
    table(place / "train.parquet")
    given = ["--data", "train.parquet"] if key != "data" else []
    return ["train", config(place), *given, f"--{key}={bad}"]


@malformed(20)
def unknown_key(rng, place):
    name = rng.choice(keys_of("resnet"))[0]
    at = rng.randrange(len(name))
    spoilt = rng.choice(
        [name[:at] + name[at + 1 :], name[:at] + "q" + name[at:], name.upper(), f"{name}s", f'"{name} "']
    )
    if rng.random() < 0.3:
        return ["train", config(place, **{"x": f"{{ {name} = 1 }}"})]
    return ["train", config(place, **{spoilt or "q": "1"})]


@malformed(40)
def bytes_of_a_configuration(rng, place):
    good = toml(SMALL)
    spoilt = rng.choice(
        [
            lambda: good.encode() + bytes([rng.choice((0, 7, 0xFF, 0xC3, 0x80))]) + b"\n",
            lambda: good.encode("utf-16"),
            lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + good.encode(),
            lambda: good.replace(" = ", rng.choice((" : ", " ", " == ", "=\n")), 1).encode(),
            lambda: (good + rng.choice(list(good.splitlines()))).encode(),
            lambda: (good + f"data = {'[' * rng.choice((200, 3000, 100000))}").encode(),
            lambda: (good + "data = " + "[" * 150 + "]" * 150).encode(),
            lambda: (good + "data = " + "{a=" * 3000 + "1" + "}" * 3000).encode(),
            lambda: (good + f"seed = {'9' * rng.choice((30, 5000))}").encode(),
            lambda: (good + f"[{rng.choice(('training', 'a.b', 'data'))}]\nmax_lr = 1").encode(),
            lambda: (good + "[[seed]]\nx = 1").encode(),
            lambda: good.replace(
                '"resnet"', rng.choice(('["bert"]', "{ a = 1 }", "nan", '"vit"', "'''\n'''"))
            ).encode(),
            lambda: good[: good.rindex("=") + 1].encode(),
            lambda: b"",
        ]
    )
    (place / "mine.toml").write_bytes(spoilt())
    return ["train", "mine.toml"]


@malformed(20)
def base_of_a_configuration(rng, place):
    """Circles of one to four files, under other spellings, and bases that are none."""
    (place / "d").mkdir()
    if rng.random() < 0.4:
        base = rng.choice(["3", "true", "['a.toml']", "{ a = 1 }", '""', '"nowhere"', '"d"', '"d.toml"', '"../place"'])
        (place / "d.toml").mkdir()
        return ["train", config(place, base=base)]
    names = [f"{rng.choice(('', 'd/'))}{number}.toml" for number in range(rng.randint(1, 4))]
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        up = "../" if "/" in name else ""
        spelling = rng.choice(
            [f"{up}{following}", f"./{up}{following}", f"{up}d/../{following}", str(place / following)]
        )
        (place / name).write_text(f'base = "{spelling}"\n')
    return ["train", names[0]]


@malformed(10)
def configuration_that_is_no_file(rng, place):
    name = rng.choice(["pipe.toml", "folder.toml", "link.toml", "loop.toml", "gone.toml", "nothing", ""])
    os.mkfifo(place / "pipe.toml")
    (place / "folder.toml").mkdir()
    (place / "link.toml").symlink_to("nowhere.toml")
    (place / "loop.toml").symlink_to("loop.toml")
    return [rng.choice(["train", "diagnose"]), name]


# ---- Arguments ----


@malformed(30)
def arguments(rng, place):
    return rng.choice(
        [
            *[
                ["bench", "step", flag, bad]
                for flag in ("--keep", "--dropout")
                for bad in ("nan", "inf", "-1", "2", "x")
            ],
            *[
                ["bench", "step", flag, bad]
                for flag in ("--gross", "--rounds", "--seq")
                for bad in ("0", "1.5", "", "-3")
            ],
            *[["bench", "gpu", "--limit", bad] for bad in ("nan", "inf", "-1", "soon")],
            *[["diagnose", "bert-tiny", "--level", bad] for bad in ("nan", "inf", "-0.1", "1.1", "x")],
            *[["diagnose", "bert-tiny", "--batches", bad] for bad in ("1", "0", "-2", "x", "1e3")],
            *[["diagnose", "bert-tiny", "--exits", bad] for bad in ("0", ",", "a", "-1")],
            *[["train", "bert-tiny", flag] for flag in ("--seed", "--data", "--name", "--results")],
            *[["train", *more] for more in (["--keys", "vit"], ["bert-tny"], ["a", "b"], ["bert-tiny", "--", "--x"])],
            *[["compare", "bert-tiny", "--sweep", bad] for bad in ("max_lr=nan", "max_lr=inf,1", "max_lr", "x=1", "=")],
            *[["compare", "bert-tiny", "--target", bad] for bad in ("nan", "inf", "x")],
            *[["compare", "bert-tiny", "--budget", bad] for bad in ("nan", "inf s", "1e999s", "s", "-1s")],
            *[["compare", "bert-tiny", "--seeds", bad] for bad in ("0", "-1", "x", "nan")],
            *[
                ["compare", "bert-tiny", "--methods", bad]
                for bad in ("", ",", "loss@0", "loss", "loss@1:keep=2", "x:y")
            ],
        ]
    )


# ---- Pictures ----


def on_pictures(place, data, *more):
    return ["train", config(place), "--data", str(data), *more]


@malformed(40)
def damaged_parquet(rng, place):
    """Cut, or with bytes changed where a checksum of the page tells; of pictures or of text."""
    path = place / "train.parquet"
    of_text = rng.random() < 0.5
    (text if of_text else table)(path)
    good = bytearray(path.read_bytes())
    if rng.random() < 0.4:
        good = good[: rng.randrange(1, len(good))]
    elif rng.random() < 0.2:
        good[-8:-4] = rng.randbytes(4)  # the length of the footer
        good[-5] |= 0x40
    else:
        middle = len(good) // 2
        at = rng.randrange(len(good) // 4, middle)
        good[at : at + 16] = bytes(255 - byte for byte in good[at : at + 16])
    path.write_bytes(good)
    return bert(path) if of_text else on_pictures(place, path)


@malformed(40)
def table_of_pictures(rng, place):
    count = len(PICTURES)
    path, more = place / "train.parquet", []
    labels = [number % 3 for number in range(count)]
    change = rng.choice(
        [
            "huge",
            "many",
            "negative",
            "missing",
            "type",
            "no label",
            "no image",
            "empty",
            "bytes",
            "mode",
            "column",
            "twice",
        ]
    )
    row = rng.randrange(count)
    if change == "huge":
        labels[row] = rng.choice((2**40, 2**62, 10**6, 50_000))
        table(path, label=labels)
    elif change == "many":
        table(path, label=pa.array(range(10**6 - count, 10**6)))
    elif change == "negative":
        labels[row] = -rng.randint(1, 2**40)
        table(path, label=labels)
    elif change == "missing":
        labels[row] = None
        table(path, label=labels)
    elif change == "type":
        table(
            path, label=rng.choice([[0.5] * count, [b"a"] * count, [[1]] * count, [True] * count, [{"a": 1}] * count])
        )
    elif change == "no label":
        table(path, kind=labels)
    elif change == "no image":
        pq.write_table(
            pa.table({"image": rng.choice([[1] * count, ["a"] * count, [[b"a"]] * count]), "label": labels}), path
        )
    elif change == "empty":
        table(path, [], label=pa.array([], pa.int64()))
    elif change == "bytes":
        spoilt = rng.choice([b"", b"no picture", PICTURES[row][:40], None, PICTURES[row][:-20] + b"\0" * 20])
        table(path, [*PICTURES[:row], spoilt, *PICTURES[row + 1 :]])
    elif change == "mode":
        strange = rng.choice([picture(3, "LAB", "TIFF"), picture(3, "F", "TIFF"), picture(3, "I", "TIFF")])
        table(path, [*PICTURES[:row], strange, *PICTURES[row + 1 :]])
    elif change == "column":
        table(path)
        more = [rng.choice(["--label_column", "--image_column"]), "nothing"]
    else:
        table(path)
        whole = pq.read_table(path)
        pq.write_table(pa.Table.from_arrays([*whole.columns, whole["label"]], [*whole.column_names, "label"]), path)
    return on_pictures(place, path, *more)


@malformed(12)
def names_of_classes(rng, place):
    """Every table names its classes by itself: others than those of the training split, twice the same, or too few."""
    own = {"train": ["cat", "dog", "cow"], "test": ["dog", "cat", "cow"]}
    spoilt = rng.choice([["dog", "cat", "pig"], ["dog", "dog", "cow"], ["dog"], ["a"] * 3])
    own[rng.choice(["train", "test"])] = spoilt
    for split, names in own.items():
        path = place / f"{split}.parquet"
        table(path)
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps(about)}), path)
    return on_pictures(place, place)


@malformed(24)
def folder_of_pictures(rng, place):
    root = folders(place)
    spot = root / rng.choice("ab")
    change = rng.choice(
        ["link", "loop", "pipe", "below", "beside", "folder", "broken", "empty", "split", "up", "stranger", "none"]
    )
    if change == "link":
        (spot / rng.choice(["z.png", "z.PNG", "z.JPeG"])).symlink_to("/nowhere.png")
    elif change == "loop":
        (spot / "z.png").symlink_to("z.png")
    elif change == "pipe":
        os.mkfifo(spot / "z.png")
    elif change == "below":
        (spot / "more").mkdir()
        (spot / "more" / "x.jpg").write_bytes(PICTURES[0])
    elif change == "beside":
        (root / "x.png").write_bytes(PICTURES[0])
    elif change == "folder":
        (spot / "inside.png").mkdir()
        (spot / "inside.png" / "x.png").write_bytes(PICTURES[0])
    elif change == "broken":
        (spot / "x.GIF").write_bytes(rng.choice([b"", b"GIF89a", rng.randbytes(50)]))
    elif change == "empty":
        shutil.rmtree(root / "a")
        shutil.rmtree(root / "b")
    elif change == "split":
        spot.rename(root / "Test")
    elif change == "up":
        (spot / "up").symlink_to(root, target_is_directory=True)
    elif change == "stranger":
        for split in ("train", "test"):
            shutil.copytree(root / "a", root / split / ("a" if split == "train" else "z"))
        shutil.rmtree(root / "a")
        shutil.rmtree(root / "b")
    else:
        return on_pictures(place, root, "--label_column", "label")
    return on_pictures(place, root)


@malformed(12)
def data_that_are_no_files(rng, place):
    table(place / "good.parquet")
    name = rng.choice(
        ["pipe.parquet", "link.parquet", "folder.parquet", "good.csv", "loop.parquet", "x.PARQUET", "dev"]
    )
    os.mkfifo(place / "pipe.parquet")
    (place / "link.parquet").symlink_to("nowhere")
    (place / "loop.parquet").symlink_to("loop.parquet")
    (place / "folder.parquet").mkdir()
    (place / "good.csv").write_text("label,image\n1,2\n")
    (place / "x.PARQUET").write_bytes(b"PAR1")
    (place / "dev").symlink_to("/dev/zero")
    if rng.random() < 0.5 and name not in ("good.csv", "dev"):
        return bert(place / name)
    return on_pictures(place, place / name)


# ---- Text ----


@malformed(30)
def files_of_text(rng, place):
    path = place / "book.txt"
    whole = b"A sentence here. Another one there.\n\n\n" * 300
    change = rng.choice(
        ["bytes", "gzip", "cut", "type", "columns", "one", "empty", "blank", "rows", "suffix", "loop", "few"]
    )
    if change == "bytes":
        path.write_bytes(whole + rng.choice([b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80"]) + whole)
    elif change == "gzip":
        path = place / rng.choice(["book.txt.gz", "book.TXT.GZ"])
        good = bytearray(gzip.compress(rng.randbytes(5000).hex().encode()))
        good[len(good) // 2] ^= 0x55
        path.write_bytes(good)
    elif change == "cut":
        path = place / "book.txt.gz"
        path.write_bytes(gzip.compress(whole)[: rng.choice((-1, -9, 20, 5))])
    elif change == "type":
        path = place / "book.parquet"
        pq.write_table(
            pa.table({"text": rng.choice([[1, 2], [b"a", b"b"], [["a"], ["b"]], [None, None], [1.5, 2.5]])}), path
        )
    elif change == "columns":
        path = place / "book.parquet"
        pq.write_table(pa.table({rng.choice(["body", "Text", "text "]): ["a", "b"]}), path)
    elif change == "one":
        path.write_text("One document. It has two sentences.")
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "blank":
        path.write_bytes(rng.choice([b"\n\n\n\n", b" \t \n", b"\xef\xbb\xbf"]))
    elif change == "rows":
        path = place / "book.parquet"
        pq.write_table(pa.table({"text": pa.array(rng.choice([[], ["", " "], [None]]), pa.string())}), path)
    elif change == "suffix":
        path = place / rng.choice(["book.md", "book.gz", "book.doc", "txt"])
        path.write_bytes(whole)
    elif change == "loop":
        path = place / "books"
        path.mkdir()
        (path / "again").symlink_to(path, target_is_directory=True)
    else:
        path.write_text("One. Two.\n\n\nThree. Four.\n\n\nFive. Six.")
    return bert(path)


@malformed(12)
def vocabulary(rng, place):
    path, entries = place / "vocab.txt", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "one"]
    text(place / "book.parquet")
    spoilt = rng.choice(
        [
            lambda: entries[: rng.randrange(5)],
            lambda: [*entries, rng.choice(entries)],
            lambda: entries[1:] + entries[:1],
            lambda: [*entries, *map(str, range(70_000))],
            lambda: [f"{entry} " for entry in entries],
        ]
    )
    content = "\n".join(spoilt()).encode()
    path.write_bytes(rng.choice([content, content, content + b"\n\xff", b"\x80\x81", b""]))
    return [*bert(place / "book.parquet"), "--vocabulary", str(rng.choice([path, place, path, "/dev/null", "nowhere"]))]


# ---- What was prepared ----


@malformed(16)
def damaged_cache(rng, place):
    """One that was made in the folder itself, and is spoilt in the folder's own copy."""
    table(place / "train.parquet")
    text(place / "book.parquet")
    of_text = rng.random() < 0.5
    kept = ["--cache_dir", str(place / "cache")]
    arguments = [*(bert(place / "book.parquet") if of_text else on_pictures(place, place / "train.parquet")), *kept]
    assert main([*arguments, "--results", str(place / "results")]) == 0
    shutil.rmtree(place / "results")
    kinds = ["tokens", "pairs"] if of_text else ["images"]
    (folder,) = list((place / "cache").rglob(f"{kinds[0]}-*"))[:1]
    path = rng.choice(sorted(path for path in folder.iterdir()))
    good = bytearray(path.read_bytes())
    change = rng.choice(["cut", "bytes", "gone", "folder", "longer"])
    if change == "gone" and path.name == "checksums.json":
        change = "cut"  # as older versions left it
    if change == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif change == "bytes":
        at = rng.randrange(len(good))
        good[at] ^= 1 << rng.randrange(8)
        path.write_bytes(good)
    elif change == "longer":
        path.write_bytes(good + b"\0")
    else:
        path.unlink()
        if change == "folder":
            path.mkdir()
    return arguments


CASES = [(kind, number) for kind, (count, _) in KINDS.items() for number in range(count)]


def test_there_are_enough():
    assert len(CASES) >= 300


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_is_refused(kind, number, place, capsys):
    arguments = KINDS[kind][1](random.Random(f"{kind} {number}"), place)
    capsys.readouterr()
    before = listing(place)
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's
        code = error.code
    out, err = capsys.readouterr()
    said = err.strip().splitlines()
    said = said[-1:] if said and said[0].startswith("usage: ") else said
    assert code == 2, (arguments, out, err)
    assert out == ""
    assert len(said) == 1, (arguments, err)
    assert said[0].startswith("gsgd")
    assert len(said[0]) > len("gsgd train: ") + 10
    assert listing(place) == before, arguments
