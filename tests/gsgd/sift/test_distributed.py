"""Two processes on the CPU (gloo): the scenarios of distributed_worker.py, each against one process.

The two ranks are started once and run one scenario after the other; every wait is bounded, so a hang fails a test.
"""

import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import threading
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

WORKER = pathlib.Path(__file__).with_name("distributed_worker.py")
START_S, SCENARIO_S, SECOND_RANK_S = 90, 60, 30


def environment(**more):
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {**os.environ, **interface, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


class Rank:
    """A worker process; its answers arrive through a thread, so that waiting for them can end."""

    def __init__(self, rank, folder):
        self.errors = folder / f"rank{rank}.txt"
        # accelerate reads these; torch itself meets through the file.
        as_torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), str(rank), str(folder / "rendezvous")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", **as_torchrun),
            )
        self.answers = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self):
        for line in self.process.stdout:
            self.answers.put(json.loads(line))
        self.answers.put(f"the process ended; its errors: {self.errors.read_text()[-3000:]}")

    def stop(self):
        self.process.kill()
        self.process.wait(timeout=10)
        self.listener.join(timeout=10)
        self.process.stdin.close()
        self.process.stdout.close()


class Pair:
    def __init__(self, folders):
        self.folders, self.ranks = folders, []

    def run(self, scenario):
        """What the ranks answered, None where one did not in time. After a failure both start anew."""
        patience = SCENARIO_S
        if not self.ranks:
            folder = self.folders.mktemp("ranks")
            self.ranks = [Rank(rank, folder) for rank in range(2)]
            patience += START_S
        for rank in self.ranks:
            rank.process.stdin.write(f"{scenario}\n")
            rank.process.stdin.flush()
        answers, deadline = [None, None], time.monotonic() + patience
        while None in answers and time.monotonic() < deadline:
            for index, rank in enumerate(self.ranks):
                try:
                    answers[index] = answers[index] or rank.answers.get(timeout=0.02)
                except queue.Empty:
                    continue
                if answers[index] != "ok":
                    # The other one may wait for it in vain.
                    deadline = min(deadline, time.monotonic() + SECOND_RANK_S)
        if answers != ["ok", "ok"]:
            self.stop()
        return answers

    def stop(self):
        for rank in self.ranks:
            rank.stop()
        self.ranks = []


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory)
    yield pair
    pair.stop()


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param("rank_scope_gradients_are_those_of_the_union", marks=pytest.mark.slow),
        "rank_scope_masked_lm_averages_the_ranks_losses",
        "ranks_agree_on_the_schedule",
        "accumulation_with_no_sync",
        "state_is_per_rank",
        "sharing_the_forward_pass_changes_nothing",
        "ranks_decide_alike_and_at_once_whether_to_share",
        "sharded_models_make_two_passes",
        "global_scope_is_one_selection_over_all_batches",
        "random_rule_agrees_over_all_ranks_only_if_they_select_together",
        "unlike_batches_raise_on_every_rank",
        "a_rank_without_labels_ranks_last",
        "bad_scores_on_one_rank",
        "raising_over_all_ranks_raises_on_every_rank",
        "raising_per_rank_raises_where_the_score_is",
        pytest.param("compile_and_ddp_in_either_order", marks=pytest.mark.slow),
        "accelerate_bf16",
        "fsdp2_equals_one_process",
        "fsdp1_equals_one_process",
        "fsdp_ranks_score_equally_often",
        "a_wrong_loss_is_refused_on_every_rank",
        "a_rank_without_labels_is_an_error_on_every_rank_that_shards",
        "fsdp_and_the_exit_protocol",
        "fsdp_and_peft",
        pytest.param("fsdp_peft_compile_and_a_labelled_head", marks=pytest.mark.slow),
        "fsdp_around_compile_is_refused",
        "compile_around_fsdp",
        "every_rank_notes_what_all_have_seen",
        "every_rank_corrects_an_exit_by_what_all_have_seen",
        "a_proxy_is_one_network_on_all_ranks",
        "a_head_on_features_is_one_on_all_ranks",
        pytest.param("ranks_begin_and_end_selection_together", marks=pytest.mark.slow),
        "sources_look_at_the_rows_of_all_ranks",
        "samplers_deal_out_batches_and_agree",
        "every_row_is_logged_by_one_rank",
    ],
)
def test_scenario(pair, scenario):
    answers = pair.run(scenario)
    assert answers == ["ok", "ok"], "\n".join(
        f"rank {rank}: {answer or 'no answer in time'}" for rank, answer in enumerate(answers)
    )


@pytest.mark.slow
def test_a_rank_that_raises_ends_the_job():
    """on_bad_scores="raise" per rank: rank 0 waits in its backward pass, until torchrun ends it. No hang."""
    raising = str(WORKER.with_name("raising_worker.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", raising]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode != 0
    assert "ValueError: scores[1] is nan at step 1: scores must be finite" in done.stderr
    # Of step 0, and no other. The two processes may write their line ends in any order.
    assert sorted(re.findall(r"rank \d trained", done.stdout)) == ["rank 0 trained", "rank 1 trained"]
