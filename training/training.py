"""One training run in progress: the step that everything else is about, and the state it changes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from gsgd import host
from gsgd.sift import Selection, Sift, SiftOptions
from gsgd.sift.exits import count_exits
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.scoring_pass.head_positions import positions_only
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.timing import Elapsed
from training.config import Config
from training.data.order import Order
from training.methods import PROXY, SAMPLED, WEIGHTED
from training.metrics.average_precision import AveragePrecision
from training.metrics.calibration import Calibration
from training.optimization import build_scheduler, parameter_groups
from training.run_folder.schema import check_like
from training.sampled import SampledOrder
from training.settings import TrainingSettings
from training.task import Task
from training.weighting import hard_row_weights, hard_weights, label_losses, reweighted, row_means


@dataclass(frozen=True)
class _Ahead:
    """A batch that is prepared before it is asked for."""

    rows: int
    before: dict[str, int]
    """Where the order of the data stood before it."""
    batch: Future[dict[str, Tensor]]


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
        self.order = Order(task.train_size, settings.seed)
        self.sampled: SampledOrder | None = None
        if settings.method in SAMPLED:
            self.sampled = SampledOrder(settings, task.train_size, total_steps, ranks=ranks, rank=rank)
        # Read ahead or not, the first is of the batch that is trained on next: ids (k,), weights (k,).
        self._sampled: deque[tuple[np.ndarray, np.ndarray]] = deque()
        # While a GPU works, the processor prepares the next batch; where both are one, that would only take turns.
        self.reader = ThreadPoolExecutor(1) if accelerator.device.type == "cuda" else None
        self._ahead: _Ahead | None = None
        self.step = 0
        self.wall_clock_s = 0.0
        self.seconds = {"selection_s": 0.0, "forward_s": 0.0, "backward_s": 0.0}
        self._selections: list[Selection] = []
        self._forward, self._backward = Elapsed(), Elapsed()
        self._losses: list[Tensor] = []
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
            batch = self.next_batch(rows)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._forward_and_backward(batch)
            self._losses.append(loss.detach())
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
        assert self.sift.last is not None
        self._selections.append(self.sift.last)
        return loss

    def _loss(self, kept: dict[str, Tensor]) -> Tensor:
        """The model's loss on the kept rows, with weights where the method has any; what a sampler needs is noted."""
        settings = self.settings
        if settings.method in WEIGHTED:
            labels = kept["labels"]
            output = self.sift.forward_kept(kept, weights=functools.partial(hard_row_weights, labels, settings))
            losses = label_losses(output, labels)
            return reweighted(output.loss, losses, hard_weights(losses, labels, settings), labels)
        if self.sampled is None:
            return self.sift.forward_kept(kept).loss
        labels, (ids, of_rows) = kept["labels"], self._sampled.popleft()
        weights = host.sent(torch.from_numpy(of_rows), labels.device)
        output = self.sift.forward_kept(kept, weights=weights)
        losses = label_losses(output, labels)
        self.sampled.sampler.note(torch.from_numpy(ids), row_means(losses.detach(), labels))
        return reweighted(output.loss, losses, weights.reshape(-1, *[1] * (labels.dim() - 1)), labels)

    def next_batch(self, rows: int) -> dict[str, Tensor]:
        """The next `rows` rows of this rank, on its device."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.rows == rows:
            batch = ahead.batch.result()
        else:
            if ahead is not None:
                # Selection begins or ends here, and the batch has another size.
                self.order.load_state_dict(ahead.before)
            batch = self._fetching(rows)()
        if self.reader is not None:
            before = self.order.state_dict()
            self._ahead = _Ahead(rows, before, self.reader.submit(self._fetching(rows)))
        return self.placed(batch)

    def _fetching(self, rows: int) -> Callable[[], dict[str, Tensor]]:
        """Moves on in the order of the data, and leaves what is to be done for the batch to whoever calls it."""
        if self.sampled is not None:
            ids, weights, epoch = self.sampled.take()
            self._sampled.append((ids, weights))
            return functools.partial(self._read, ids, epoch)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        taken, epoch = self.order.take(rows * ranks)
        return functools.partial(self._read, taken[rank * rows : (rank + 1) * rows], epoch)

    def _read(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        batch = {**self.task.training_batch(rows, epoch), SiftOptions.id_key: torch.from_numpy(rows.astype(np.int64))}
        if self.accelerator.device.type != "cuda":
            return batch
        # Here, by the thread that reads ahead: what is not pinned is not copied beside the program.
        return {name: value.pin_memory() for name, value in batch.items()}

    def placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of the task on this rank's device, laid out as the settings say."""
        placed = {name: host.sent(value, self.accelerator.device) for name, value in batch.items()}
        if not self.settings.channels_last:
            return placed
        last = torch.channels_last
        return {name: value.to(memory_format=last) if value.dim() == 4 else value for name, value in placed.items()}

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
        selection_s = self.seconds["selection_s"] + sum(selection.selection_s for selection in self._selections)
        self._selections.clear()
        passes = {"forward_s": self._forward.seconds, "backward_s": self._backward.seconds}
        self.seconds = {"selection_s": selection_s, **passes}

    def mean_loss(self) -> float:
        """Mean training loss since it was last asked for, over ranks; NaN if there was no step."""
        self.sift.finish_checks()  # the losses are waited for, too
        if not self._losses:
            return float("nan")
        # In float64 the sum of float32 losses does not depend on how they are grouped: an interrupted run, which logs
        # at other steps, records the same mean.
        total = float(self.accelerator.reduce(torch.stack(self._losses).double().sum(), "mean"))
        if self._loss_count == 0 and self.step == len(self._losses) // self.settings.accumulation_steps:
            self.first_loss = float(self.accelerator.reduce(self._losses[0].double(), "mean"))
        count = len(self._losses)
        self._loss_sum += total
        self._loss_count += count
        self._losses = []
        return total / count

    def loss_since_evaluation(self) -> float | None:
        """Mean of what `mean_loss` returned since this was last asked for."""
        total, count, self._loss_sum, self._loss_count = self._loss_sum, self._loss_count, 0.0, 0
        return total / count if count else None

    # ---- Evaluation ----

    @torch.no_grad()
    def evaluate(self, split: str, calibration: Calibration | None = None) -> tuple[float, float]:
        """(accuracy, mean loss) on "validation" or "test"; every rank judges its share of the batches.

        Of a task with a rare class its average precision is in the place of accuracy.

        Args:
            calibration: takes the confidence of the predictions, where rows are classified.
        """
        self.sift.finish_checks()
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        sums = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        rare = self.task.rare_class
        precision = None if rare is None else AveragePrecision(rare, self.accelerator.device)
        model.eval()
        try:
            for number, batch in enumerate(self.task.held_out(split, self.settings.evaluation_batch_size)):
                if number % ranks != rank:
                    continue
                batch = self.placed(batch)
                with self.accelerator.autocast():
                    output, batch = _labelled_only(model, batch)
                sums += torch.stack([value.double() for value in self.task.judge(output, batch)])
                # Of a language model labelled positions are predicted, not rows.
                if calibration is not None and batch["labels"].dim() == 1:
                    calibration.add(output.logits, batch["labels"])
                if precision is not None:
                    precision.add(output.logits, batch["labels"])
        finally:
            self.model.train()
        if calibration is not None:
            calibration.sums = self.accelerator.reduce(calibration.sums, "sum")
        correct, loss, predictions = self.accelerator.reduce(sums, "sum").tolist()
        if precision is None:
            return correct / predictions, loss / predictions
        precision.sums = self.accelerator.reduce(precision.sums, "sum")
        return precision.value(), loss / predictions

    def quality(self) -> tuple[float, float] | tuple[None, None]:
        """(overlap with the exact top rows, rank correlation), means over `quality_batches` gross batches.

        The batches are the same at every evaluation; neither the run's generators nor its data order move.
        """
        settings = self.settings
        if not settings.quality_batches or not settings.scores_gross_batches:
            return None, None
        order = Order(self.task.train_size, settings.seed + 1)
        found = []
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.accelerator.autocast():
            for number in range(settings.quality_batches):
                torch.manual_seed(settings.seed + number)
                batch = self._read(*order.take(settings.drawn_at(self.sift.next_keep)))
                (reading,) = self.sift.read(self.placed(batch))
                found.append((reading.overlap, reading.rank_correlation))
        overlap, correlation = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
        return overlap, correlation

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
            "losses": [float(loss) for loss in self._losses],
        }

    def _shared_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model, keep_torch_compile=False).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "order": self.order.state_dict() if self._ahead is None else self._ahead.before,
            "sampler": None if self.sampled is None else self.sampled.state_dict(),
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
        self.order.load_state_dict(state["order"])
        self._ahead = None
        self._sampled.clear()
        if self.sampled is not None:
            self.sampled.load_state_dict(state["sampler"])
        self.wall_clock_s = state["wall_clock_s"]
        self.seconds = dict(state["seconds"])
        self._forward, self._backward = Elapsed(self.seconds["forward_s"]), Elapsed(self.seconds["backward_s"])
        self._loss_sum, self._loss_count = state["loss_since_evaluation"]
        self.first_loss = state.get("first_loss")
        self._losses = [torch.tensor(loss, device=self.accelerator.device) for loss in own["losses"]]
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


def _labelled_only(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The model's output, of a language model at labelled positions only, and the batch that it belongs to.

    All positions' logits would be 4 GB for 64 rows of 512 tokens with BERT's vocabulary.
    """
    labels = batch["labels"]
    if labels.dim() < 2:
        return model(**batch), batch
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    batch = {**batch, "labels": labels[rows, columns].unsqueeze(0)}
    with positions_only(model, rows, columns):
        return model(**batch), batch


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
