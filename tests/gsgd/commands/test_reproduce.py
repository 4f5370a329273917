"""`gsgd reproduce` with commands that only leave behind what tells that they are done; and once the real ones."""

import csv
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import figures.paper
from gsgd import __version__
from gsgd.cli import main
from gsgd.commands import reproduce
from gsgd.commands.reproduce import PACKAGES
from gsgd.locks import one_writer
from gsgd.results import provenance
from training.config import load, presets

LAPTOP = ["verify", "bert-tiny", "resnet-tiny", "figures", "report"]
ONE = ("--scale", "paper", "--only", "food101/same-time/last-5e-2", "--yes")


class Runner:
    """Stands for the child processes.

    Attributes:
        lines: the command lines that were run.
        codes: part of a command line -> its exit code; it leaves behind nothing but what `leaves` says then.
    """

    def __init__(self):
        self.lines, self.codes, self.leaves = [], {}, None

    def __call__(self, words):
        self.lines.append(shlex.join(words))
        for part, code in self.codes.items():
            if part in self.lines[-1]:
                if self.leaves:
                    self.leaves[0].write_text(self.leaves[1])
                return code
        results = Path(words[words.index("--results") + 1] if "--results" in words else "results")
        command = words[words.index("gsgd") + 1]
        if command == "verify":
            write(
                results / "theory" / "verify.json", header=made(), checks=[{"status": "proved", "expected": "proved"}]
            )
        elif command == "compare":
            write(results / words[words.index("--name") + 1] / "compare.json", **made(), summary=[])
        elif command == "train":
            write(results / words[words.index("--name") + 1] / "header.json", **made(), status="finished")
        return 0

    @property
    def names(self):
        """The commands that were run, by what tells them apart."""
        short = []
        for line in self.lines:
            words = line.split()
            name = words[words.index("gsgd") + 1]
            short.append(words[words.index("--name") + 1].split("/", 1)[1] if "--name" in words else name)
        return short


def made(**other):
    return {**provenance(), **other}


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner in an empty folder, on a machine with all extras and 8 GPUs."""
    runner = Runner()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run_command", runner)
    monkeypatch.setattr(reproduce, "cuda_devices", lambda: 8)
    monkeypatch.setattr("gsgd.commands.reproduce.provenance", lambda: made_once)
    monkeypatch.setattr(sys.modules[__name__], "provenance", lambda: made_once)
    return runner


made_once = provenance()  # git takes its time


@pytest.fixture
def run(runner, capsys, monkeypatch):
    """`run(arguments...)`: (exit code, stdout, stderr)."""

    def call(*arguments):
        runner.lines.clear()
        monkeypatch.setattr(sys, "argv", ["gsgd", "reproduce", *arguments])
        code = main(["reproduce", *arguments])
        return code, *capsys.readouterr()

    return call


# ---- The laptop scale ----


def test_all_stages_in_order_and_the_path_of_the_report_as_the_last_line(run, runner):
    code, out, err = run()
    assert (code, err, runner.names) == (0, "", LAPTOP)
    assert runner.lines[1].startswith("gsgd compare bert-tiny --methods baseline,random,loss@1 --seeds 3 --budget 6s ")
    assert out.splitlines()[0] == "5 stages, about 5 minutes on two idle cores, results in results"
    assert [line for line in out.splitlines() if line.endswith(" s")] == [
        f"[{number}/5] {name}: 0 s" for number, name in enumerate(LAPTOP, start=1)
    ]
    assert "all 5 stages are done" in out
    assert out.splitlines()[-1] == "results/report.html"


def test_what_is_done_is_not_run_again_but_for_figures_and_report(run, runner):
    run()
    _, out, _ = run()
    assert runner.names == ["figures", "report"]
    assert f"[1/5] verify: finished {made()['date'][:10]}\n" in out


def test_what_other_code_made_is_kept_and_named(run, runner):
    run()
    write(Path("results/laptop/bert-tiny/compare.json"), **made(commit="0123"), summary=[])
    _, out, _ = run()
    assert runner.names == ["figures", "report"]
    assert "[2/5] bert-tiny: finished " in out
    assert "by other code; --fresh begins anew" in out


@pytest.mark.parametrize("content", ["{", "[]", '{"checks": 1}', '{"header": {}, "checks": [{}]}', None])
def test_a_header_that_says_nothing_is_not_done(run, runner, content):
    run()
    path = Path("results/theory/verify.json")
    path.unlink() if content is None else path.write_text(content)
    run()
    assert runner.names == ["verify", "figures", "report"]


@pytest.mark.parametrize("number", range(5))
def test_an_interrupted_stage_is_run_again_and_those_before_are_not(run, runner, number):
    runner.codes[f"gsgd {LAPTOP[number]}" if number in (0, 3, 4) else LAPTOP[number]] = 130
    code, _, err = run()
    assert (code, runner.names) == (130, LAPTOP[: number + 1])
    assert err == "gsgd reproduce: interrupted; `gsgd reproduce` goes on from here\n"
    runner.codes.clear()
    run()
    assert runner.names == LAPTOP[min(number, 3) :]


def test_interrupted_when_a_stage_was_just_done(run, runner):
    run()
    header = Path("results/laptop/bert-tiny/compare.json")
    before = header.read_text()
    header.unlink()
    runner.codes["bert-tiny"] = 130
    runner.leaves = (header, before)
    assert run()[0] == 130
    assert runner.names == ["bert-tiny"]


def test_a_failing_stage_stops_with_its_exit_code(run, runner):
    runner.codes["resnet-tiny"] = 3
    code, out, err = run("--results", "else where")
    assert (code, runner.names) == (3, LAPTOP[:3])
    assert all(line.endswith(" --results 'else where'") for line in runner.lines)
    assert "resnet-tiny failed with exit code 3; `gsgd reproduce --results 'else where'` goes on from here" in err
    assert "report.html" not in out


def test_checks_that_do_not_come_out_as_expected_stop_all_each_time(run, runner):
    write(Path("results/theory/verify.json"), header=made(), checks=[{"status": "refuted", "expected": "proved"}])
    runner.codes["verify"] = 1
    assert run()[0] == 1
    assert runner.names == ["verify"]


def test_another_budget_has_folders_of_its_own(run, runner):
    run()
    _, out, _ = run("--budget", "40s")
    assert runner.names == ["bert-tiny-40s", "resnet-tiny-40s", "figures", "report"]
    assert "about 17 minutes" in out  # 21 runs of 40 s


@pytest.mark.parametrize("budget", ["40", "0s", "-1s", "2epochs", "s", "1e9s", "nan s", "9" * 400 + "s"])
def test_a_budget_that_is_none_is_refused_before_anything_starts(run, runner, budget):
    code, _, err = run(f"--budget={budget}")
    assert (code, runner.lines) == (2, [])
    assert f"{budget!r} must be a number of seconds above 0, such as 40s" in err


def test_fresh_removes_the_stages_folders_and_nothing_else(run, runner):
    run()
    kept = [Path("results/theory/noise.csv"), Path("results/laptop/mine/compare.json"), Path("results/a/header.json")]
    for path in kept:
        write(path)
    runner.codes["verify"] = 130
    assert "`gsgd reproduce` goes on" in run("--fresh")[2]  # without --fresh
    assert all(path.exists() for path in kept)
    runner.codes.clear()
    run()
    assert runner.names == LAPTOP


def a_file_of_mine(folder):
    (folder / "thesis.csv").write_text("years of work")


def a_link(folder):
    (folder / "summary.csv").symlink_to("/etc/hostname")


def in_the_place_of_a_link(folder):
    folder.rename(folder.with_name("moved"))
    folder.symlink_to("moved")


@pytest.mark.parametrize("spoil", [a_file_of_mine, a_link, in_the_place_of_a_link])
def test_fresh_removes_no_folder_that_holds_anything_else(run, runner, spoil):
    run()
    spoil(Path("results/laptop/resnet-tiny"))
    before = sorted(Path("results").rglob("*"))
    runner.lines.clear()
    code, _, err = run("--fresh")
    assert (code, runner.lines) == (2, [])
    assert "results/laptop/resnet-tiny" in err
    assert "--fresh does not remove it" in err
    assert sorted(Path("results").rglob("*")) == before


def test_fresh_removes_no_folder_that_another_command_writes_to(run, runner):
    run()
    runner.lines.clear()
    with one_writer(Path("results/laptop/bert-tiny")):
        code, _, err = run("--fresh")
    assert (code, runner.lines) == (2, [])
    assert "results/laptop/bert-tiny is being written to by process" in err
    assert Path("results/laptop/bert-tiny/compare.json").exists()


@pytest.mark.parametrize(
    ("lacks", "extras"),
    [(["torch"], "train"), (["matplotlib", "jinja2"], "figures"), (["pandas", "PIL"], "figures,train")],
)
def test_missing_extras_are_told_before_anything_starts(run, runner, monkeypatch, lacks, extras):
    monkeypatch.setattr(reproduce, "installed", lambda name: name not in lacks)
    code, out, err = run("--fresh")
    assert (code, runner.lines, out) == (2, [], "")
    assert f"not installed: {', '.join(lacks)}. Install: pip install 'gsgd[{extras}]'" in err
    assert f"pip install -c constraints.txt '.[{extras}]'" in err


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_dry_run_prints_the_commands_and_nothing_else(run, runner, scale):
    code, out, _ = run("--scale", scale, "--dry-run")
    assert (code, runner.lines) == (0, [])
    run("--scale", scale, *(["--yes"] if scale == "paper" else []))
    assert out.splitlines() == runner.lines


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["--only", "bert-base"], "only"), (["--yes"], "yes"), (["--scale", "paper", "--budget", "40s"], "budget")],
)
def test_options_of_the_other_scale(run, runner, arguments, option):
    code, _, err = run(*arguments)
    assert (code, runner.lines) == (2, [])
    assert f"--{option} is not for the " in err


# ---- The paper's scale ----


def numbers(name, column):
    """A column of the paper's own numbers, by preset."""
    with open(Path(figures.paper.__file__).with_name(f"{name}.csv"), newline="") as file:
        return {f"bert-base/{row['method'].replace('@', '-')}": float(row[column]) for row in csv.DictReader(file)}


def hours(plan, column=3):
    """Of the plan that is shown, a column by run."""
    rows = [line.split() for line in plan.splitlines() if line.startswith(("bert-base/", "cifar100/", "food101/"))]
    return {row[0]: float(row[column]) for row in rows if len(row) > column}


def test_the_plan_comes_first_and_is_all_there_is_without_yes(run, runner):
    code, out, err = run("--scale", "paper")
    assert (code, err, runner.lines) == (0, "", [])
    assert "The paper gives ~57 h to 64% accuracy" in out
    assert "12.9 GB of text" in out
    assert "51 runs, one after another: 764 hours, 31.8 days" in out
    assert "Nothing was started: --yes starts it" in out


def test_every_preset_of_the_paper_is_a_run_but_what_they_have_in_common(run, runner):
    run("--scale", "paper", "--yes")
    papers = ("bert-base/", "cifar100/", "food101/")
    wanted = {name for name in presets() if name.startswith(papers) and not name.endswith("/common")}
    assert runner.names[0] == "verify"
    assert runner.names[-2:] == ["figures", "report"]
    assert len(runner.names) == 51 + 3
    assert set(runner.names[1:-2]) == wanted


@pytest.mark.parametrize("gpus", [1, 2, 8, 32])
def test_a_step_has_the_papers_rows_on_any_number_of_gpus(gpus):
    """256 of BERT (32 on each of 8), 125 of ResNet-50, read by the training's own parser."""
    for stage in reproduce.paper(gpus, None)[0][1:-2]:
        words = stage.line.split()
        many = words[0] == "torchrun"
        assert words[: 5 * many] == ["torchrun", "--nproc-per-node", str(gpus), "-m", "gsgd"][: 5 * many]
        words = words[words.index("train") + 1 :]
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert options.pop("--name") == f"paper/{words[0]}"
        settings = load(words[0], {key.removeprefix("--"): value for key, value in options.items()}).training
        rows = settings.batch_size * settings.accumulation_steps * (gpus if many else 1)
        assert rows == (256 if words[0].startswith("bert-base") else 125)


def test_the_hours_of_bert_are_the_papers(run):
    """Scoring adds to 57 h what it adds to 3.8 h forward and 7.9 h backward in Table 6."""
    plan = run("--scale", "paper")[1]
    assert hours(plan, 4) == numbers("crossing", "hours")
    found = {run: value for run, value in hours(plan).items() if run.startswith("bert-base/")}
    assert found.pop("bert-base/baseline") == 57
    table = numbers("table_6", "selection_h")
    assert found == {run: pytest.approx(57 * (1 + selection / 11.7), abs=0.06) for run, selection in table.items()}
    assert hours(run("--scale", "paper", "--gpus", "2")[1])["bert-base/baseline"] == 4 * 57


def test_the_hours_of_resnet_by_hand(run):
    found = hours(run("--scale", "paper")[1])
    # 68,175 images x 100 epochs x 3 passes (5 with exact scores of twice as many) of 8.2 GFLOP, at 14% of 312 TFLOP/s.
    pass_h = 68_175 * 100 * 8.2e9 / (0.14 * 312e12) / 3600
    assert found["food101/same-samples/baseline-*"] == pytest.approx(3 * pass_h, abs=0.06)
    assert found["food101/same-samples/last-*"] == pytest.approx(5 * pass_h, abs=0.06)
    # 36,000 steps of 0.03 s.
    assert found["cifar100/same-samples/baseline-*"] == 0.3


@pytest.mark.parametrize("gpus", ["3", "512", "0", "-1"])
def test_gpus_that_the_papers_rows_cannot_be_dealt_out_to(run, runner, gpus):
    code, _, err = run("--scale", "paper", f"--gpus={gpus}")
    assert (code, runner.lines) == (2, [])
    assert f"--gpus {gpus} must be" in err


def test_what_is_missing_stops_it_after_the_plan(run, runner, monkeypatch):
    monkeypatch.setattr(reproduce, "cuda_devices", lambda: 4)
    monkeypatch.setattr(reproduce, "installed", lambda name: name != "datasets")
    code, out, err = run("--scale", "paper", "--gpus", "8", "--yes")
    assert (code, runner.lines) == (2, [])
    assert "bert-base/loss-12" in out
    assert "not installed: datasets. Install: pip install 'gsgd[train]'" in err
    assert "8 GPUs are asked for, but torch can use 4" in err


@pytest.mark.parametrize(
    ("pattern", "count"), [("bert-base", 11), ("bert-base/loss-*", 5), ("*/same-time", 16), ("food101/*/early-1e-2", 2)]
)
def test_only_some(run, runner, pattern, count):
    assert run("--scale", "paper", "--only", pattern, "--yes")[0] == 0
    assert len(runner.names) == count + 2
    code, _, err = run("--scale", "paper", "--only", "imagenet", "--yes")
    assert (code, runner.lines) == (2, [])
    assert "'imagenet' matches no run" in err


def test_a_run_that_diverged_is_a_result(run, runner):
    """As the paper's own two on Food-101 did at 5e-2."""
    runner.codes["train"] = 1
    assert run(*ONE)[0] == 1
    assert len(runner.lines) == 1
    path = Path("results/paper/food101/same-time/last-5e-2/header.json")
    write(path, **made(), status="running")
    assert run(*ONE)[0] == 1
    write(path, **made(), status="diverged")
    _, out, _ = run(*ONE)
    assert runner.names == ["figures", "report"]
    assert "last-5e-2: diverged " in out


# ---- The child processes ----


def test_exit_codes_and_output_are_the_commands(tmp_path, monkeypatch, capfd):
    # A package of that name where we are called is not taken for it.
    (tmp_path / "gsgd").mkdir()
    (tmp_path / "gsgd" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert reproduce.run_command(["gsgd", "--version"]) == 0
    assert reproduce.run_command(["gsgd", "nonsense"]) == 2
    assert capfd.readouterr().out == f"gsgd {__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_child(tmp_path, monkeypatch, number):
    """SIGINT comes to the child from the terminal, which there is none of here; SIGTERM is passed on."""
    (tmp_path / "torch" / "distributed").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "distributed" / "__init__.py").touch()
    (tmp_path / "torch" / "distributed" / "run.py").write_text(
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "open(sys.argv[1], 'w').close(); time.sleep(2)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ready = tmp_path / "ready"

    def send():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=send)
    thread.start()
    assert reproduce.run_command(["torchrun", str(ready)]) == 130
    thread.join()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock on the stage's folder keeps a second one out")
def test_a_stage_ends_with_its_parent_however_that_ends(tmp_path):
    (tmp_path / "torch" / "distributed").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "distributed" / "__init__.py").touch()
    (tmp_path / "torch" / "distributed" / "run.py").write_text(
        "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)\n"
    )
    ready = tmp_path / "ready"
    code = f"from gsgd.commands.reproduce import run_command; run_command(['torchrun', {str(ready)!r}])"
    path = os.pathsep.join([str(tmp_path), str(PACKAGES)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    while not (ready.exists() and ready.read_text()):
        time.sleep(0.01)
    child = Path("/proc", ready.read_text())
    assert child.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process):
    """Whether it is there, and not only waits to be asked how it ended."""
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


def test_a_second_one_is_refused_in_the_same_folder(run, runner):
    with one_writer(Path("results")):
        code, out, err = run()
    assert (code, runner.lines, out) == (2, [], "")
    assert f"results is being written to by process {os.getpid()} on " in err


COMMAND = [sys.executable, "-m", "gsgd", "reproduce", "--budget", "1s"]


def on_a_terminal(folder, environment, until):
    """Run the command on a terminal of its own and press Ctrl-C when `until()`. Returns (exit code, what it showed)."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(COMMAND[0], COMMAND, {**environment, "TERM": "xterm"})
    shown, pressed, deadline = b"", False, time.monotonic() + 600
    while time.monotonic() < deadline:
        if not pressed and until():
            os.write(terminal, b"\x03")
            pressed = True
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # as Linux says that the other side is closed
                break
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.mark.slow
def test_interrupted_while_it_trains_and_the_same_command_goes_on_to_the_report(tmp_path):
    # A thread each: where others work, too, several would wait for one another.
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**os.environ, **settings}
    # The checks are the project's, as they take a minute.
    shutil.copytree(Path(__file__).parents[3] / "recorded" / "theory", tmp_path / "results" / "theory")
    comparison = tmp_path / "results" / "laptop" / "bert-tiny-1s"
    code, shown = on_a_terminal(tmp_path, environment, lambda: any(comparison.glob("*/evaluations.csv")))
    assert code == 130, shown
    assert "Traceback" not in shown
    assert "measuring the cost of a step" in shown  # its moving bar came through
    assert "interrupted; `gsgd reproduce --budget 1s` goes on from here" in shown
    begun = json.loads((comparison / "compare.json").read_text())
    assert "summary" not in begun

    # Not on a terminal now, as in CI.
    again = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    lines = again.stdout.splitlines()
    assert any(line.startswith("[1/5] verify: finished ") for line in lines)
    assert lines[-1] == "results/report.html"
    assert "<html" in (tmp_path / lines[-1]).read_text().lower()
    # At the prices of the first part, and to the end.
    whole = json.loads((comparison / "compare.json").read_text())
    assert whole["step_costs"] == begun["step_costs"]
    assert {entry["method"] for entry in whole["summary"]} == {"baseline", "random", "loss@1"}
    assert any((tmp_path / "results" / "figures").glob("*.svg"))
