"""`gsgd reproduce` with a runner that runs nothing: it writes what commands would leave behind, and remembers them."""

import json
import shlex

import pytest

from gsgd.reproduce import cli, state

COMMIT = "0123456789abcdef+"
OUTPUTS = {"verify": "theory/verify.json", "figures": "figures/figure_1.svg", "report": "report.html"}


class Runner:
    """Stands for the child processes.

    Attributes:
        lines: the command lines that were run.
        answers: part of a command line -> what happens instead: an exit code, or an exception.
    """

    def __init__(self, here):
        self.here = here
        self.lines = []
        self.answers = {}

    def __call__(self, words):
        line = shlex.join(words)
        self.lines.append(line)
        results = self.results(words)
        for part, answer in self.answers.items():
            if part in line:
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        name = words[words.index("gsgd") + 1]
        if name in OUTPUTS:
            self.write(results / OUTPUTS[name])
        else:
            self.write(
                results / words[words.index("--name") + 1] / ("summary.csv" if name == "compare" else "header.json")
            )
        return 0

    def results(self, words):
        """The folder that the command line writes to."""
        return self.here / (words[words.index("--results") + 1] if "--results" in words else "results")

    @staticmethod
    def write(path, content="new"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    @property
    def names(self):
        """The commands that were run, shortened to what tells them apart."""
        short = []
        for line in self.lines:
            words = line.split()
            name = words[words.index("gsgd") + 1]
            short.append(words[words.index("--name") + 1].split("/", 1)[1] if "--name" in words else name)
        return short


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner in an empty folder, with results/ in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "provenance", lambda: {"commit": COMMIT})  # git takes its time
    return Runner(tmp_path)


@pytest.fixture
def reproduce(runner, capsys):
    """`reproduce(arguments, ...)`: (exit code, stdout, stderr), on a machine with everything but what `lacks` names."""

    def call(*arguments, lacks=(), gpus=0, ask=None):
        code = cli.main(arguments, run=runner, installed=lambda name: name not in lacks, gpus=lambda: gpus, ask=ask)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def recorded(tmp_path):
    """The content of the record of a scale: name -> record; `recorded(changes...)` writes it back changed."""

    def call(scale="laptop", **changes):
        path = tmp_path / "results" / scale / "reproduce.json"
        content = json.loads(path.read_text())
        for name, entries in changes.items():
            content["stages"][name.replace("_", "-")].update(entries)
        if changes:
            path.write_text(json.dumps(content))
        return content["stages"]

    return call
