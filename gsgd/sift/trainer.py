"""SIFT in the Hugging Face Trainer: selection, loss scale, meters, and checkpoints that a killed run resumes from.

trainer = SiftTrainer(model=model, args=training_arguments, train_dataset=data, sift=SiftArguments(exit_layer=1))
trainer.train(resume_from_checkpoint=True)
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from gsgd.sift.batch import BatchRows
from gsgd.sift.engine import Selection, Sift
from gsgd.sift.exits import EarlyExit, exit_view
from gsgd.sift.huggingface.checkpoints import STAGING, last_complete_checkpoint, publish, what_is_missing
from gsgd.sift.huggingface.collator import MaskingCollator, WatchedCollator, own_generator, warn_not_resumable
from gsgd.sift.huggingface.trainer_log import StepMeters
from gsgd.sift.options import SiftOptions
from gsgd.sift.scoring_pass.mode import draws_kept, scoring_mode, without_router_losses
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.timing import Stopwatch
from gsgd.sift.wrappers import innermost, unwrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SiftArguments(SiftOptions):
    """The options of `Sift`, under the same names and with the same defaults: see `SiftOptions`.

    Only `accumulation_steps` is the Trainer's to say, by its `gradient_accumulation_steps`; `label_smoothing` and
    `label_names` are taken from its arguments, too, where they are left out here.

    Raises:
        ValueError: as `SiftOptions`; that the model has an exit `exit_layer` is for `SiftTrainer` to see.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulation_steps != 1:
            raise ValueError(
                f"accumulation_steps = {self.accumulation_steps} is the Trainer's to say: set "
                "gradient_accumulation_steps in its TrainingArguments"
            )


class SiftTrainer(Trainer):
    """A `Trainer` that scores every training batch by an early prediction and trains on the kept rows.

    Evaluation and prediction are the Trainer's own. Differences in training:

    - All micro-batches of an optimizer step are selected before the first of them is trained on, since the loss of
      each is divided by what all of them keep. Whether a step selects depends on `state.global_step` alone.
    - The loss of a step is the mean over all its kept label positions for models that take `num_items_in_batch`
      (GPT-2, Llama), and the mean of the micro-batches' losses for those that do not. A model that takes it and does
      nothing with it (BERT) is recognised by its behaviour; the plain Trainer makes its gradients
      `gradient_accumulation_steps` times too large.
    - Logs have `selection_s`, `forward_s`, `backward_s` and `step_s` (seconds per optimizer step since the last log,
      on the device's clock, mean over ranks; `step_s` includes loading data and the optimizer, and none of them
      evaluation, checkpoints or logging), `gross_samples` and `kept_samples` (since the start of training, all
      ranks), the same `_per_s`, `bad_score_rows`, and quantiles of the gross scores; with `meter_every` also `meter_s`
      and the readings' means since the last log and over ranks (`meters_overlap`, ...).
    - On a GPU a warm step makes the program wait for nothing but the Trainer's own `logging_nan_inf_filter`, which
      looks at every micro-batch's loss, twice: pass `logging_nan_inf_filter=False`. Then the logged loss is NaN or
      infinite where a step's was.
    - Evaluation leaves the global generators as they were, and masks as in epoch 0 if a `MaskingCollator` masks.
    - A checkpoint gets its name only when it is complete, and `resume_from_checkpoint=True` passes over incomplete
      ones. It has one `sift_<rank>.pt` per rank, and `training_args.json` in place of a pickle.

    Not tested: DeepSpeed, tensor parallelism, DataParallel on several GPUs of one process, TPUs.

    Args:
        sift: the selection's options; None for the defaults.
        *args, **kwargs: as `Trainer`.

    Raises:
        ValueError: for options that the model does not admit.
    """

    def __init__(self, *args: Any, sift: SiftArguments | None = None, **kwargs: Any):
        if not isinstance(sift, (SiftArguments, type(None))):
            raise ValueError(f"sift is a {type(sift).__name__} but must be SiftArguments")
        super().__init__(*args, **kwargs)
        self.sift_arguments = SiftArguments() if sift is None else sift
        if self.sift_arguments.labelled_head and (self.compute_loss_func is not None or self.label_smoother):
            raise ValueError("labelled_head=True needs the model's own loss: no compute_loss_func, no label smoothing")
        self.sift = self._build_sift()
        self._window: list[Any] = []
        self._kept: deque[tuple[Any, dict[str, Any], Selection]] = deque()
        self._num_items: Any = None
        self._probed = False
        self._warned = False
        self._resumed_from: str | None = None
        self._staging: str | None = None
        self._pushes: list[str] = []
        self._meters = StepMeters(self.args.device)
        self.add_callback(_Hooks(self))

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; True resumes from the last complete checkpoint in `args.output_dir`.

        Raises:
            ValueError: if there is none, or the one named is not complete.
        """
        if resume_from_checkpoint is True:
            folder = str(self.args.output_dir)
            resume_from_checkpoint = last_complete_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(f"there is no complete checkpoint in {folder} to resume from")
        elif resume_from_checkpoint and (problem := what_is_missing(resume_from_checkpoint)):
            raise ValueError(f"the checkpoint {resume_from_checkpoint} is not complete: {problem}")
        self._resumed_from = str(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _begin(self) -> None:
        """Start selecting anew: training begins, with weights and state as they were loaded."""
        self.sift = self._build_sift()
        self._learn_rows(self.sift.scorer.rows)
        self._meters = StepMeters(self.args.device)
        self._probed = False
        if self._resumed_from is not None:
            self._load_sift(self._resumed_from)
        if self.args.should_save:
            for leftover in Path(self._get_output_dir(getattr(self, "_trial", None))).glob(f"{STAGING}*"):
                shutil.rmtree(leftover)

    def _build_sift(self) -> Sift:
        model: Any = self.model
        chosen = self.sift_arguments
        own_labels = tuple(self.args.label_names or ())
        options = {entry.name: getattr(chosen, entry.name) for entry in dataclasses.fields(SiftOptions)} | {
            "accumulation_steps": self.args.gradient_accumulation_steps,
            "label_smoothing": chosen.label_smoothing or float(self.args.label_smoothing_factor),
            "label_names": chosen.label_names or own_labels,
        }
        sift = Sift(model, SiftOptions(**options))
        sift.holds_window = True
        sift.scorer.reference = self._loss_of_row
        return sift

    def _loss_of_row(self, row: Mapping[str, Any]) -> Tensor:
        """What this trainer trains on, of one row: scores are held against it."""
        model = unwrap(self.sift.model)
        with without_router_losses(model):
            return self.compute_loss(model, row if not isinstance(row, Mapping) else dict(row))

    def _learn_rows(self, rows: BatchRows) -> None:
        """Tell which entries of a batch the collator makes of the samples: those that two samples give two of, say.

        Of a stream only its column names are known; a collator is asked only where the Trainer leaves in the batch what
        the model's forward does not name.
        """
        data: Any = self.train_dataset
        rows.learn_fields(getattr(data, "column_names", None) or ())
        if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or len(data) == 0:
            return
        with draws_kept(self.sift.model):
            samples = [data[number % len(data)] for number in range(3)]
            if isinstance(samples[0], Mapping):
                rows.learn_fields(str(name) for name in samples[0])
            if self.args.remove_unused_columns:
                return
            collate = copy.deepcopy(self.data_collator)  # with any generator of its own
            for number in (2, 3):
                rows.learn(collate(samples[:number]))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        self._meters.begin_step()
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        # Not selected here: the generators are restored from a checkpoint only after the first batches were fetched.
        self._window = list(batches)
        self._kept.clear()
        return batches, num_items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of one micro-batch's kept rows, after its backward pass."""
        model.train()
        if not self._kept or self._kept[0][0] is not inputs:
            in_window = any(batch is inputs for batch in self._window)
            self._select(model, self._window if in_window else [inputs], num_items_in_batch)
            self._window = []
        _, rows, self.sift.last = self._kept.popleft()
        with Stopwatch(self.args.device) as watch:
            loss = super().training_step(model, rows, self._num_items)
        self._meters.micro_batch(self.sift.last, watch)
        return loss

    def _select(self, model: nn.Module, batches: list[Any], num_items: Any) -> None:
        prepared = [self._prepare_inputs(batch) for batch in batches]
        probed = self._probed or self._probe_loss_scale(model, prepared)
        self.sift.model = model
        self.sift.step = self.state.global_step
        self._kept.clear()
        for batch, inputs in zip(batches, prepared, strict=True):
            # Autocast lives on the prepared model's forward, which scoring goes around.
            with self.accelerator.autocast():
                rows = self.sift.choose(inputs)
            assert self.sift.last is not None
            self._kept.append((batch, rows, self.sift.last))
        changed = any(chosen.selected for _, _, chosen in self._kept) or probed != self._probed
        self._probed = probed
        self._num_items = (
            self._get_num_items_in_batch([rows for _, rows, _ in self._kept], self.args.device)
            if changed
            else num_items
        )

    def _probe_loss_scale(self, model: nn.Module, batches: list[Any]) -> bool:
        """Find out whether the model's loss heeds `num_items_in_batch`; False if these batches cannot tell.

        transformers tells by the signature: whatever takes **kwargs is expected to divide by it. Only what a model
        says of itself (`accepts_loss_kwargs`) needs no test.
        """
        inner = innermost(model)
        if not self.model_accepts_loss_kwargs or hasattr(inner, "accepts_loss_kwargs"):
            return True
        row = self._most_labelled_row(batches)
        if row is None:
            return False
        callee = unwrap(model)

        def loss(count: int) -> float:
            found = self.compute_loss(
                callee,
                dict(row) if isinstance(row, Mapping) else row,
                num_items_in_batch=torch.tensor(count, device=self.args.device),
            )
            return float(found.mean())

        modes = unchanged(callee), scoring_mode(callee, "eval"), self.accelerator.autocast()
        with torch.no_grad(), draws_kept(callee), modes[0], modes[1], modes[2]:
            few, many = loss(1), loss(1000)
        # Dividing by it makes a factor of 1000; what else is in a loss (of routing, say) dilutes that.
        known = bool(np.isfinite([few, many]).all()) and few != 0
        heeds = torch.tensor([int(known), int(known and abs(few - many) > 0.01 * abs(few))], device=self.args.device)
        if self.accelerator.num_processes > 1:
            # A rank without any label has no answer, and all must go by the same one.
            heeds = self.accelerator.gather(heeds[None]).amax(dim=0)
        if not heeds[0]:
            return False
        self.model_accepts_loss_kwargs = bool(heeds[1])
        if not heeds[1]:
            logger.info("%s ignores num_items_in_batch: losses are averaged over micro-batches", type(inner).__name__)
        return True

    def _most_labelled_row(self, batches: list[Any]) -> Any:
        """The row of the batches with the most labels, as a batch of one; None if they have no labels."""
        rows, found, most = self.sift.scorer.rows, None, 0
        for batch in batches:
            labels = batch.get("labels") if isinstance(batch, Mapping) else None
            if not isinstance(batch, Mapping):
                return rows.take(batch, torch.tensor([0]))
            if not isinstance(labels, Tensor) or labels.dim() == 0:
                continue
            counts = (labels != IGNORED).reshape(rows.size(batch), -1).sum(dim=1)
            if int(counts.max()) > most:
                found, most = rows.take(batch, counts.argmax().reshape(1)), int(counts.max())
        return found

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        with Stopwatch(self.args.device) as watch:
            if self.sift.labelled_head:
                # The Trainer does nothing with the model here but call it.
                call: Any = lambda **rows: self.sift.forward_kept(rows)  # noqa: E731
                result = super().compute_loss(call, inputs, *args, **kwargs)
            else:
                with self.sift.sharing(inputs):
                    result = super().compute_loss(model, inputs, *args, **kwargs)
        self._meters.forward(watch)
        return result

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of the last micro-batch: training on its kept rows, and scoring the gross ones."""
        flops = super().floating_point_ops(inputs)
        last = self.sift.last
        if last is None or not last.selected or not flops:
            return flops
        trained = flops * last.kept // last.gross
        model = unwrap(self.sift.model)
        if self.sift.scorer.function is None or isinstance(innermost(model), EarlyExit):
            return trained
        # transformers counts 2 operations per weight and token forward, 4 backward.
        parts: list[Any] = [exit_view(model, self.sift.exit_layer), innermost(model)]
        weights = [part.num_parameters(exclude_embeddings=True) for part in parts]
        return trained + flops * weights[0] // (3 * weights[1])

    # ---- Data and evaluation ----

    def get_train_dataloader(self) -> Any:
        source = own_generator(self.data_collator)
        if source is None:
            with self._collating(WatchedCollator(self.data_collator)):
                return super().get_train_dataloader()
        if not self._warned:
            warn_not_resumable(self.data_collator, source)
            self._warned = True
        return super().get_train_dataloader()

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with self._collating(_for_evaluation(self.data_collator)):
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with self._collating(_for_evaluation(self.data_collator)):
            return super().get_test_dataloader(*args, **kwargs)

    @contextlib.contextmanager
    def _collating(self, collator: Any) -> Iterator[None]:
        own, self.data_collator = self.data_collator, collator
        try:
            yield
        finally:
            self.data_collator = own

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Iterating over any loader draws a seed. A run resumed from a checkpoint after which it was evaluated would
        # not draw it, and go another way.
        self.sift.finish_checks()
        with draws_kept(self.sift.model):
            return super().evaluate(*args, **kwargs)

    # ---- Logs ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs or "train_runtime" in logs:
            self.sift.finish_checks()  # the Trainer has just waited for the loss
            logs.update(self._meters.report(self.accelerator, self.sift, whole_run="train_runtime" in logs))
        super().log(logs, *args, **kwargs)

    # ---- Checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else self._staging

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Written beside its place and then renamed: whenever the process is killed, what has the name is complete.
        run_dir = super()._get_output_dir(trial)
        name = f"checkpoint-{self.state.global_step}"
        staging = os.path.join(run_dir, f"{STAGING}{self.state.global_step}")
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            os.makedirs(staging)
        self.accelerator.wait_for_everyone()
        written, final = os.path.join(staging, name), os.path.join(run_dir, name)
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if not self.args.save_only_model:
            os.makedirs(written, exist_ok=True)
            torch.save(self.sift.state_dict(), os.path.join(written, _sift_file(self.args.process_index)))
        if self.state.best_model_checkpoint == written:
            self.state.best_model_checkpoint = final
            if self.args.should_save:
                self.state.save_to_json(os.path.join(written, "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(written, final)
        self.accelerator.wait_for_everyone()
        # A node with a disk of its own has the files of its ranks still there.
        if self.is_local_process_zero() and os.path.isdir(written):
            publish(written, final)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        if self._pushes:
            self._pushes.clear()
            super()._push_from_checkpoint(final)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)
        else:
            # Uploads run in the background, and would lose their files to the renaming.
            self._pushes.append(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        folder = Path(str(self.args.output_dir) if output_dir is None else output_dir)
        pickled = folder / "training_args.bin"
        if self.args.should_save and pickled.exists():
            # Nobody reads it to resume, and reading it would run whatever code it holds.
            pickled.unlink()
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def _load_sift(self, checkpoint: str) -> None:
        path = os.path.join(checkpoint, _sift_file(self.args.process_index))
        if os.path.isfile(path):
            self.sift.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            logger.warning(
                "%s does not exist: selection goes on from the checkpoint's step, but with new counters and a new "
                "generator",
                path,
            )


class _Hooks(TrainerCallback):
    """What the Trainer tells only callbacks."""

    def __init__(self, trainer: SiftTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Here, because `model_init` and the search for a batch size begin anew, and nothing has been trained yet.
        self.trainer._begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After a resumption in mid-epoch `state.epoch` is a fraction.
        if hasattr(self.trainer.data_collator, "set_epoch"):
            self.trainer.data_collator.set_epoch(int(state.epoch or 0))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._meters.end_step()


def _for_evaluation(collator: Any) -> Any:
    return collator.at_epoch(0) if isinstance(collator, MaskingCollator) else collator


def _sift_file(rank: int) -> str:
    return f"sift_{rank}.pt"
