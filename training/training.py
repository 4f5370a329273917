"""One training run in progress: the step that everything else is about, and the state it changes."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from gsgd import host
from gsgd.sift import Sift
from gsgd.sift.exits import count_exits
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.timing import Elapsed
from training.batches import Batches
from training.config import Config
from training.methods import PROXY, WEIGHTED
from training.optimization import build_scheduler, parameter_groups
from training.run_folder.schema import check_like
from training.settings import TrainingSettings
from training.task import Task
from training.weighting import hard_row_weights, hard_weights, label_losses, reweighted, row_means

LOSSES_APART = 256
"""So many losses that nobody has asked for are put into one tensor: small ones that stay would scatter the memory."""


class Training:
    """Model, optimizer, schedule, order of the data, selection and counters of one run.

    Args:
        config: what is trained and how.
        task: of the config.
        accelerator: of this process; several ranks train on shares of each batch.
        total_steps: length of the run; the learning rate's schedule and the shares of selection end with it.
        row_log: folder of the log of rows, if the settings ask for one; None for no log.

    Raises:
        ValueError: if the model has no such exit, or a step takes more rows than there are.
    """

    def __init__(
        self, config: Config, task: Task, accelerator: Accelerator, total_steps: int, row_log: Path | None = None
    ):
        settings = config.training
        self.settings, self.task, self.accelerator, self.total_steps = settings, task, accelerator, total_steps
        ranks, rank = accelerator.num_processes, accelerator.process_index
        if settings.gross_size * ranks > task.train_size:
            raise ValueError(
                f"a gross batch has {settings.gross_size * ranks} rows, but the training set {task.train_size}: "
                "lower batch_size or raise keep"
            )
        torch.manual_seed(settings.seed)
        model: Any = task.build_model()
        # All ranks begin with the same weights, and draw dropout masks of their own.
        torch.manual_seed(settings.seed + 1_000_003 * (rank + 1))
        self.optimizer: Any = torch.optim.AdamW(
            parameter_groups(model, settings),
            lr=settings.max_lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            # One kernel for all weights; on the CPU the default is as quick.
            fused=True if accelerator.device.type == "cuda" else None,
        )
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model, self.optimizer = accelerator.prepare(model, self.optimizer)
        # On the optimizer itself: a prepared scheduler would step once per rank.
        self.scheduler = build_scheduler(getattr(self.optimizer, "optimizer", self.optimizer), settings, total_steps)
        self.model: nn.Module = model.train()
        proxy = self.built_proxy() if settings.method == PROXY else None
        self.sift = build_sift(model, settings, total_steps, task.train_size, row_log, proxy)
        self.batches = Batches(task, settings, accelerator, total_steps)
        self.step = 0
        self.wall_clock_s = 0.0
        self.seconds = {"selection_s": 0.0, "forward_s": 0.0, "backward_s": 0.0}
        self._selection, self._forward, self._backward = Elapsed(), Elapsed(), Elapsed()
        self._losses: list[Tensor] = []  # (n,) each, of n micro-batches
        self.first_loss: float | None = None  # before anything was learnt
        self._loss_sum, self._loss_count = 0.0, 0
        self._begun: float | None = None

    def built_proxy(self) -> nn.Module:
        """A new network of a proxy; the model's draws go on as without it.

        Raises:
            ValueError: if the task has none.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            network: Any = self.task.build_proxy().to(self.accelerator.device)
        return network.to(memory_format=torch.channels_last) if self.settings.channels_last else network

    # ---- A step ----

    def train_step(self) -> None:
        """One optimizer step: draw a gross batch, select, train on the kept rows."""
        settings = self.settings
        # Paper: does not say which batch a step without selection trains on; here: as many rows as any other step.
        rows = settings.drawn_at(self.sift.next_keep) if self.sift.next_selects else settings.plain_size
        for micro in range(settings.accumulation_steps):
            last = micro + 1 == settings.accumulation_steps
            batch = self.batches.next(rows)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._forward_and_backward(batch)
            self._losses.append(loss.detach().reshape(1))
            if len(self._losses) == LOSSES_APART:
                self._losses = [torch.cat(self._losses)]
        if settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _forward_and_backward(self, batch: dict[str, Tensor]) -> Tensor:
        device = self.accelerator.device
        # Autocast lives on the prepared model's forward, which scoring goes around.
        with self.accelerator.autocast():
            kept = self.sift.choose(batch)
        with self._forward.measure(device):
            loss = self._loss(kept)
        with self._backward.measure(device):
            self.accelerator.backward(loss / self.settings.accumulation_steps)
        if self.sift.last is not None and self.sift.last.elapsed is not None:
            self._selection.add(self.sift.last.elapsed)
        return loss

    def _loss(self, kept: dict[str, Tensor]) -> Tensor:
        """The model's loss on the kept rows, with weights where the method has any; what a sampler needs is noted."""
        settings = self.settings
        if settings.method in WEIGHTED:
            labels = kept["labels"]
            output = self.sift.forward_kept(kept, weights=functools.partial(hard_row_weights, labels, settings))
            losses = label_losses(output, labels)
            return reweighted(output.loss, losses, hard_weights(losses, labels, settings), labels)
        sampled = self.batches.last_sampled
        if self.batches.sampled is None or sampled is None:
            return self.sift.forward_kept(kept).loss
        labels = kept["labels"]
        weights = host.sent(torch.from_numpy(sampled.weights), labels.device)
        output = self.sift.forward_kept(kept, weights=weights)
        losses = label_losses(output, labels)
        self.batches.sampled.sampler.note(torch.from_numpy(sampled.ids), row_means(losses.detach(), labels))
        return reweighted(output.loss, losses, weights.reshape(-1, *[1] * (labels.dim() - 1)), labels)

    # ---- The clock ----

    def start_clock(self) -> None:
        """From here on the time counts."""
        host.finished(self.accelerator.device)
        self._begun = time.perf_counter()

    def stop_clock(self) -> None:
        """Add the time since `start_clock`, and read the stopwatches."""
        if self._begun is None:
            return
        host.finished(self.accelerator.device)
        self.wall_clock_s += time.perf_counter() - self._begun
        self._begun = None
        watches = {"selection_s": self._selection, "forward_s": self._forward, "backward_s": self._backward}
        self.seconds = {name: watch.seconds for name, watch in watches.items()}

    def mean_loss(self) -> float:
        """Mean training loss since it was last asked for, over ranks; NaN if there was no step."""
        self.sift.finish_checks()  # the losses are waited for, too
        if not self._losses:
            return float("nan")
        # In float64 the sum of float32 losses does not depend on how they are grouped: an interrupted run, which logs
        # at other steps, records the same mean.
        losses = torch.cat(self._losses).double()
        total, count = float(self.accelerator.reduce(losses.sum(), "mean")), len(losses)
        if self._loss_count == 0 and self.step == count // self.settings.accumulation_steps:
            self.first_loss = float(self.accelerator.reduce(losses[0], "mean"))
        self._loss_sum += total
        self._loss_count += count
        self._losses = []
        return total / count

    def loss_since_evaluation(self) -> float | None:
        """Mean of what `mean_loss` returned since this was last asked for."""
        total, count, self._loss_sum, self._loss_count = self._loss_sum, self._loss_count, 0.0, 0
        return total / count if count else None

    # ---- State ----

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as this one would have; every rank must call it."""
        return {**self._shared_state(), "ranks": gather_object([self._state_of_rank()])}

    def _state_of_rank(self) -> dict[str, Any]:
        cuda = self.accelerator.device.type == "cuda"
        return {
            "sift": self.sift.state_dict(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.accelerator.device) if cuda else None,
            "losses": torch.cat(self._losses).tolist() if self._losses else [],
        }

    def _shared_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model, keep_torch_compile=False).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            **self.batches.state_dict(),
            "wall_clock_s": self.wall_clock_s,
            "seconds": dict(self.seconds),
            "loss_since_evaluation": [self._loss_sum, self._loss_count],
            "first_loss": self.first_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it was written by another number of ranks, or has entries that no state of this run has.
        """
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        if len(state["ranks"]) != ranks:
            raise ValueError(
                f"the checkpoint is of {len(state['ranks'])} processes, but there are {ranks}: "
                "resume with as many, or begin anew with --overwrite"
            )
        if state["step"] > self.total_steps:
            raise ValueError(f"step = {state['step']} is beyond the {self.total_steps} steps of the run")
        own = state["ranks"][rank]
        self._check_state(state, own)
        self.step = state["step"]
        self.accelerator.unwrap_model(self.model, keep_torch_compile=False).load_state_dict(state["model"])
        # All else of optimizer and schedule follows from the settings and the device.
        groups = [
            {**own_group, "lr": group["lr"], "betas": tuple(group["betas"])}
            for own_group, group in zip(
                self.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], strict=True
            )
        ]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        rates = [group["lr"] for group in self.optimizer.param_groups]
        place = {"last_epoch": self.step, "_step_count": self.step + 1, "_last_lr": rates}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state)
        self.wall_clock_s = state["wall_clock_s"]
        self.seconds = dict(state["seconds"])
        self._selection = Elapsed(self.seconds["selection_s"])
        self._forward, self._backward = Elapsed(self.seconds["forward_s"]), Elapsed(self.seconds["backward_s"])
        self._loss_sum, self._loss_count = state["loss_since_evaluation"]
        self.first_loss = state.get("first_loss")
        self._losses = [torch.tensor(own["losses"], device=self.accelerator.device)] if own["losses"] else []
        self.sift.load_state_dict(own["sift"])
        torch.set_rng_state(own["torch"])
        if own["cuda"] is not None:
            torch.cuda.set_rng_state(own["cuda"], self.accelerator.device)

    def _check_state(self, state: dict[str, Any], of_rank: dict[str, Any]) -> None:
        """Whether a state is built as one of this run, before anything is taken from it."""
        trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments = {
            number: {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
            for number, weight in enumerate(trained)
        }
        shared = self._shared_state()
        shared["optimizer"] = {**shared["optimizer"], "state": moments}
        # Those are of the device, which may be another one now.
        check_like({**state, "scaler": None}, {**shared, "scaler": None}, "its entry")
        for number, found in state["optimizer"]["state"].items():
            if lacking := moments.get(number, {}).keys() - found.keys():
                raise ValueError(f"its entry optimizer.state.{number} lacks {', '.join(sorted(lacking))}")
        check_like({**of_rank, "cuda": None}, {**self._state_of_rank(), "cuda": None}, "its entry ranks")


def build_sift(
    model: nn.Module,
    settings: TrainingSettings,
    total_steps: int,
    train_size: int,
    row_log: Path | None = None,
    proxy: nn.Module | None = None,
) -> Sift:
    """The engine of a run; for the baseline one that never selects."""
    return Sift(model, settings.sift_options(total_steps, count_exits(unwrap(model)), train_size, row_log, proxy))


def saved_model(training: Training) -> nn.Module:
    """The model without what distributes or compiles it."""
    return innermost(training.accelerator.unwrap_model(training.model, keep_torch_compile=False))
