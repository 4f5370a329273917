"""Every block of code in README, CONTRIBUTING and the documentation: Python is run, commands are read and run small.

What `.ci/run` runs as it stands, README's two commands of set-up, is only read here.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gsgd import cli
from training import config as configs

ROOT = Path(__file__).parents[2]
GIVEN = Path(__file__).with_name("given.py")
MADE = ("docs/theory/statements/", "docs/reference/commands.md")
"""Pages that are made from the code when the site is built, and not committed."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if not path.relative_to(ROOT).as_posix().startswith(MADE)),
]
BLOCK = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.M | re.S)
WHOLE = {"docs/tutorials/practitioners.md", "docs/tutorials/theorists.md", "docs/how-to/packed_batches.md"}
"""Pages whose Python needs nothing from elsewhere."""
NEEDS = {"docs/tutorials/practitioners.md": "trl", "docs/tutorials/theorists.md": "matplotlib"}
OTHER_PROGRAMS = {"pip", "pytest", "sphinx-build", "torchrun", "accelerate"}
SHORTER = {
    "verify": ["--only", "Fact A.5"],
    "train": ["--budget", "2steps"],
    "compare": ["--seeds", "1", "--budget", "2steps"],
    "diagnose": ["--after", "0", "--batches", "4", "--exits", "1"],
    "figures": ["--results", str(ROOT / "recorded")],
    "report": [],
    "bench step": ["--model", "gpt2-tiny", "--rounds", "1", "--seq", "8"],
    "examine": ["--K", "20", "--runs", "2"],
}
"""Command -> options that make it short; the last of two that say the same counts."""


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """(line of the page, text) of its blocks in that language."""
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(2)].count("\n"), found[2]) for found in BLOCK.finditer(text) if found[1] == language]


def script(page):
    """The page's blocks of Python as one script, in which each line has the number that it has on the page."""
    lines = []
    for line, text in blocks(page, "python"):
        lines += [""] * (line - len(lines)) + text.splitlines()
    return "\n".join(lines) + "\n"


def commands(page):
    """The words of every command in the page's blocks for a shell."""
    for _, text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if words := shlex.split(part, comments=True):
                    yield words


def of_gsgd(words):
    """The arguments of `gsgd`, called by itself or by a launcher; None for another program."""
    if words[0] == "gsgd":
        return words[1:]
    return words[words.index("gsgd") + 1 :] if "gsgd" in words and "-m" in words else None


GSGD = sorted({tuple(given) for page in PAGES for words in commands(page) if (given := of_gsgd(words)) is not None})


def test_every_block_says_what_it_is_in_words_that_are_known():
    known = {"python", "sh", "toml", "text", "", "{toctree}", "{include}", "{eval-rst}"}
    for page in PAGES:
        fences = page.read_text(encoding="utf-8").count("```")
        found = BLOCK.findall(page.read_text(encoding="utf-8"))
        assert fences == 2 * len(found), f"{name(page)} has a fence that closes nothing"
        assert {language if language[:1] != "{" else language.split("}")[0] + "}" for language, _ in found} <= known


def test_there_are_blocks():
    assert sum(bool(blocks(page, "python")) for page in PAGES) >= 8
    assert len(GSGD) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_runs(page, tmp_path):
    pytest.importorskip(NEEDS.get(name(page), "torch"))
    path = tmp_path / page.with_suffix(".py").name
    path.write_text(script(page), encoding="utf-8")
    run = "import runpy, sys; given = {} if sys.argv[2] == '' else runpy.run_path(sys.argv[2])"
    run = f"{run}; runpy.run_path(sys.argv[1], given, '__main__')"
    given = "" if name(page) in WHOLE else str(GIVEN)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", run, str(path), given],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=offline,
    )
    assert done.returncode == 0, f"line numbers are those of {name(page)}:\n{done.stderr[-3000:]}"


def test_what_is_given_can_be_trained():
    given = runpy.run_path(str(GIVEN))
    assert given["model"](**given["batches"][0]).loss.isfinite()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_other_programs_are_those_that_are_installed(page):
    for words in commands(page):
        assert words[0] == "gsgd" or words[0] in OTHER_PROGRAMS, words
        extras = re.findall(r"\[([\w,-]+)\]", " ".join(words)) if words[0] == "pip" else []
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        assert {extra for each in extras for extra in each.split(",")} <= set(known)


@pytest.mark.parametrize("words", GSGD, ids=" ".join)
def test_the_command_line_takes_the_command(words):
    parser = cli.Command(cli.COMMANDS, cli.EXAMPLES, prog="gsgd")
    options = parser.parse_args(words)
    config = getattr(options, "config", None)
    if config is not None and not config.endswith(".toml"):
        values = {**options.key_values, **({"budget": options.budget} if getattr(options, "budget", None) else {})}
        assert configs.load(config, values).name == config


def shortened(words):
    """The command with less to do; None for what is too long however it is called, or needs a GPU or the hub's data."""
    if words[0] == "reproduce" or "--list" in words or "--keys" in words:
        return list(words) if words[0] != "reproduce" else None
    if {"bert-base/entropy-6", "cifar100/common", "cuda", "gpu"} & set(words):
        return None
    known = " ".join(words[:2]) if words[0] == "bench" else words[0]
    more = SHORTER[known]
    if "--ladder" in words:
        more = ["--seeds", "2", "--budget", "1600work", "--tune", "batch_size=32"]
    if words[:2] == ("diagnose", "results/my-run"):
        more = []
    return [*words, *more]


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in GSGD if shortened(words)], ids=" ".join)
def test_the_command_runs(words, tmp_path):
    pytest.importorskip("matplotlib")
    shutil.copytree(ROOT / "recorded" / "diagnoses" / "books-bert-75s", tmp_path / "results" / "my-run")
    (tmp_path / "my.toml").write_text('base = "bert-tiny"\n', encoding="utf-8")
    rows = "\n".join(f"{n % 7},{(3 * n) % 5},{int(n % 7 > (3 * n) % 5)}" for n in range(60))
    (tmp_path / "my.csv").write_text(f"a,b,y\n{rows}\n", encoding="utf-8")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "gsgd", *shortened(words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name)
def test_configurations_are_read(page, tmp_path):
    (tmp_path / "my-books.parquet").touch()
    for line, text in blocks(page, "toml"):
        path = tmp_path / f"line{line}.toml"
        path.write_text(text, encoding="utf-8")
        assert configs.load(str(path)).values().items() >= {"task": "bert", "method": "entropy@6"}.items()
