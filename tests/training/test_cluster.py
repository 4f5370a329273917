"""Every run of a comparison a job of its own: results are those of runs one by one, and preempted ones go on."""

import os
import pathlib
import signal
import sys
import time

import pytest

pytest.importorskip("submitit")

from gsgd.cli import main
from training.budget import StepCosts
from training.comparison.cluster import Cluster, parse_options
from training.comparison.compare import compare, parse_sweep
from training.comparison.contenders import parse_contender
from training.comparison.jobs import Job
from training.config import load
from training.run import train
from training.run_folder.records import read_evaluations

TIMES = ("wall_clock_s", "selection_s", "forward_s", "backward_s", "reference_s")
SMALL = ["--batch_size", "4", "--tensorboard", "false", "--validation_share", "0.01", "--seeds", "1"]


def rows(folder):
    """All evaluations of a comparison without their times."""
    found = []
    for row in read_evaluations(folder):
        values = {name: value for name, value in vars(row).items() if name not in TIMES}
        found.append(values)
    return found


@pytest.fixture
def go(tiny, accelerator, tmp_path):
    """`go(name, cluster, sweep)`: a comparison of two methods on two seeds in a folder of this name."""

    def run(name, cluster=None, sweep=None):
        return compare(
            tiny(evaluations=2, budget="8steps"),
            [parse_contender(method) for method in ("baseline", "loss@1")],
            tmp_path / name,
            seeds=2,
            accelerator=accelerator,
            sweep=parse_sweep(sweep) if sweep else None,
            cluster=cluster,
        )

    return run


@pytest.mark.parametrize("sweep", [None, "max_lr=1e-2,1e-3"])
def test_jobs_in_this_process_give_what_runs_do(go, tmp_path, sweep):
    found = [go("here", None, sweep), go("jobs", Cluster("debug"), sweep)]
    assert [each.status for each in found] == ["finished", "finished"]
    assert rows(tmp_path / "jobs") == rows(tmp_path / "here")
    assert found[0].tuned == found[1].tuned
    assert [each.val_accuracy for each in found[0].summaries] == [each.val_accuracy for each in found[1].summaries]


def test_what_has_ended_is_no_job_again(go, note_runs, tmp_path):
    trained = note_runs("label", "seed")
    first = go("jobs", Cluster("debug"))
    number = len(trained)
    again = go("jobs", Cluster("debug"))
    assert number >= 4
    assert len(trained) == number
    assert again.summaries == first.summaries


def test_an_interrupted_job_ends_the_comparison_and_goes_on(go, interrupting, tmp_path):
    with interrupting(lambda training: training.settings.seed == 1 and training.step == 3):
        assert go("jobs", Cluster("debug")).status == "interrupted"
    assert not (tmp_path / "jobs" / "loss@1-seed1").exists(), "what comes behind it has not begun"
    assert go("jobs", Cluster("debug")).status == "finished"
    go("here")
    assert rows(tmp_path / "jobs") == rows(tmp_path / "here")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, make_accelerator):
    """`command(name, *more)`: `gsgd compare resnet-tiny` of two methods; its exit code."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)

    def run(name, *more):
        words = ["compare", "resnet-tiny", "--methods", "baseline,loss@1", *SMALL, "--cache_dir", str(tmp_path / "c")]
        return main([*words, "--name", name, *more])

    return run


@pytest.mark.slow
def test_processes_of_this_machine_give_what_runs_do(command, tmp_path, capsys):
    short = ("--budget", "4steps", "--evaluations", "2")
    assert command("here", *short) == 0
    capsys.readouterr()
    assert command("jobs", *short, "--executor", "local", "--executor-options", "timeout_min=10") == 0
    said = capsys.readouterr().err
    assert "[1/2]" in said
    assert "finished (job " in said
    assert rows(tmp_path / "results" / "jobs") == rows(tmp_path / "results" / "here")
    logs = (tmp_path / "results" / "jobs" / "jobs").glob("[0-9]*")
    assert len(list(logs)) == 2, "a folder of logs for each"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the job's process is found in /proc")
def test_a_preempted_job_goes_on_from_its_checkpoint(accelerator, tmp_path, monkeypatch):
    """As a cluster preempts: a signal to the job's process, which ends, and the same job again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    values = {"batch_size": 4, "validation_share": 0.01, "cache_dir": str(tmp_path / "cache"), "budget": "60steps"}
    config = load("resnet-tiny", {**values, "evaluations": 30, "tensorboard": False, "save_model": False})
    folder, costs, wait, before = tmp_path / "jobs" / "run", StepCosts(1.0, 1.0), Cluster._wait, []

    def preempting(self, waiting, *rest):
        (job,) = waiting
        deadline = time.monotonic() + 200
        while not (folder / "evaluations.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        (task,) = pathlib.Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
        os.kill(int(task), signal.SIGUSR2)
        before.append(len(read_evaluations(folder)))
        wait(self, waiting, *rest)
        before.append(job.stderr() + job.stdout())

    monkeypatch.setattr(Cluster, "_wait", preempting)
    jobs = [Job(config, folder, costs, "run", 1.0)]
    said = []
    cluster = Cluster("local", {"timeout_min": 10})
    assert cluster.train(jobs, tmp_path / "jobs", accelerator=accelerator, say=said.append)
    assert 1 <= before[0] < 30
    assert "Caught signal SIGUSR2" in before[1]
    train(config, tmp_path / "here", accelerator=accelerator, costs=costs)
    assert rows(folder) == rows(tmp_path / "here")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--executor-options", "a=1"], "--executor-options are of an --executor"),
        (["--executor", "debug", "--executor-options", "gpus"], "--executor-options 'gpus' must be NAME=VALUE"),
        (["--executor", "debug", "--ladder", "3"], "--executor is of a comparison at one budget"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, said, tiny, accelerator, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text('task = "tiny"\nbatch_size = 8\nbudget = "8steps"\nevaluations = 2\n')
    assert main(["compare", "tiny.toml", "--methods", "baseline,loss@1", *words]) == 2
    assert said in capsys.readouterr().err


def test_options_of_an_executor():
    found = parse_options("timeout_min=240, slurm_partition=gpu,gpus_per_node=1")
    assert found == {"timeout_min": 240, "slurm_partition": "gpu", "gpus_per_node": 1}


def test_options_that_submitit_does_not_know_are_refused(go):
    with pytest.raises(ValueError, match=r"--executor-options: .*gpu_count"):
        go("jobs", Cluster("local", {"gpu_count": 1}))
    with pytest.raises(ValueError, match="--executor = 'pbs' must be one of: debug, local, slurm"):
        Cluster("pbs")
