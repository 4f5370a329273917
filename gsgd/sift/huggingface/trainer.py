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
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback

from gsgd.sift.batches.batch import BatchRows
from gsgd.sift.choice import Selection
from gsgd.sift.engine import Sift
from gsgd.sift.exits import EarlyExit, exit_view
from gsgd.sift.huggingface.checkpoints import last_complete_checkpoint, list_files, outdate, what_is_missing
from gsgd.sift.huggingface.collator import MaskingCollator, warn_not_resumable
from gsgd.sift.huggingface.loss_scale import heeds_number_of_items
from gsgd.sift.huggingface.trainer_log import StepMeters
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.scoring_pass.mode import draws_kept, without_router_losses
from gsgd.sift.sources.samplers import WithIds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SiftArguments(SiftOptions):
    """The options of `Sift`, under the same names and with the same defaults: see `SiftOptions`.

    Only `accumulation_steps` is the Trainer's to say, by its `gradient_accumulation_steps`; `label_smoothing` and
    `label_names` are taken from its arguments, too, where they are left out here, and `data_rows` from its data set.

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

    def _check_data_rows(self) -> None:
        """The Trainer counts them."""


# A mixin's superclass is any Trainer; for what reads types it is the one of transformers.
_Base: Any = object
if TYPE_CHECKING:
    _Base = Trainer


class SiftMixin(_Base):
    """Makes a `Trainer` score every training batch by an early prediction and train on the kept rows.

    class MyTrainer(SiftMixin, SomeTrainer): ...

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
    - A checkpoint has one `sift_<rank>.pt` per rank and a list of its files; what tells that it is complete,
      `trainer_state.json`, is written when all ranks have written theirs, and before older checkpoints are deleted.
      `resume_from_checkpoint=True` passes over incomplete ones.

    - Where losses last seen score, or `log_rows` logs, training samples carry their index as `id_key`, unless they
      have an entry of that name, and the Trainer leaves it in the batch, whatever `remove_unused_columns` says.

    Of transformers it overrides one private method, `_save_rng_state`, and calls three, `_prepare_inputs`,
    `_get_num_items_in_batch` and `_set_signature_columns_if_needed`.

    Not tested: DeepSpeed, tensor parallelism, DataParallel on several GPUs of one process, TPUs.

    Args:
        sift: the selection's options; None for the defaults.
        *args, **kwargs: as the Trainer's.

    Raises:
        ValueError: for options that the model does not admit.
    """

    data_collator: Any
    train_dataset: Any
    _signature_columns: Any
    model_accepts_loss_kwargs: bool

    def __init__(self, *args: Any, sift: SiftArguments | None = None, **kwargs: Any):
        if not isinstance(sift, (SiftArguments, type(None))):
            raise ValueError(f"sift is a {type(sift).__name__} but must be SiftArguments")
        super().__init__(*args, **kwargs)
        self.sift_arguments = SiftArguments() if sift is None else sift
        if self.sift_arguments.labelled_head and (self.compute_loss_func is not None or self.label_smoother):
            raise ValueError("labelled_head=True needs the model's own loss: no compute_loss_func, no label smoothing")
        if self.sift_arguments.needs_ids:
            self._number_rows()
        self.sift = self._build_sift()
        self._window: list[Any] = []
        self._kept: deque[tuple[Any, dict[str, Any], Selection]] = deque()
        self._num_items: Any = None
        self._probed = False
        self._resumed_from: str | None = None
        self._meters = StepMeters(self.args.device)
        self.add_callback(_Hooks(self))

    # ---- Ids of rows ----

    def _number_rows(self) -> None:
        """Have training samples carry their index, unless they carry ids of their own, and the Trainer leave it there.

        Raises:
            ValueError: for a stream, whose samples have none.
        """
        key, data = self.sift_arguments.id_key, self.train_dataset
        if data is None or isinstance(data, WithIds) or key in (getattr(data, "column_names", None) or ()):
            pass
        elif not isinstance(data, IterableDataset):  # a stream's samples may have ids, which its batches show
            self.train_dataset = WithIds(data, key)
        self._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or ()), key]

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
        warn_not_resumable(self.data_collator)
        if self._resumed_from is not None:
            self._load_sift(self._resumed_from)

    def _build_sift(self) -> Sift:
        chosen = self.sift_arguments
        own_labels = tuple(self.args.label_names or ())
        options = {entry.name: getattr(chosen, entry.name) for entry in dataclasses.fields(SiftOptions)} | {
            "accumulation_steps": self.args.gradient_accumulation_steps,
            "label_smoothing": chosen.label_smoothing or float(self.args.label_smoothing_factor),
            "label_names": chosen.label_names or own_labels,
        }
        if chosen.scores_by_ids and chosen.data_rows is None:
            if not hasattr(self.train_dataset, "__len__"):
                raise ValueError(f"{chosen.score_in_words} needs data_rows, how many ids a stream without a length has")
            options["data_rows"] = len(self.train_dataset)
        sift = Sift(self._scored_model(), SiftOptions(**options))
        sift.holds_window = True
        sift.scorer.reference = self._loss_of_row
        return sift

    def _scored_model(self) -> nn.Module:
        """The model that scores are of."""
        model: Any = self.model
        return model

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
        self._meters.selected(self.sift.last)
        with self._meters.micro_batch.measure(self.args.device):
            return super().training_step(model, rows, self._num_items)

    def _select(self, model: nn.Module, batches: list[Any], num_items: Any) -> None:
        prepared = [self._prepare_inputs(batch) for batch in batches]
        probed = self._probed or self._learn_loss_scale(model, prepared)
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

    def _learn_loss_scale(self, model: nn.Module, batches: list[Any]) -> bool:
        """Whether it is known if the model's loss heeds `num_items_in_batch`; False if these batches cannot tell."""
        if not self.model_accepts_loss_kwargs or hasattr(innermost(model), "accepts_loss_kwargs"):
            return True
        rows = self.sift.scorer.rows
        heeds = heeds_number_of_items(unwrap(model), batches, rows, self.compute_loss, self.accelerator)
        if heeds is None:
            return False
        self.model_accepts_loss_kwargs = heeds
        return True

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        with self._meters.forward.measure(self.args.device):
            if self.sift.labelled_head:
                # The Trainer does nothing with the model here but call it.
                call: Any = lambda **rows: self.sift.forward_kept(rows)  # noqa: E731
                return super().compute_loss(call, inputs, *args, **kwargs)
            if self.sift.notes_rows:
                wants_output = kwargs.pop("return_outputs", False)
                with self.sift.sharing(inputs):
                    # A copy, since the Trainer takes labels out where it computes the loss itself.
                    loss, output = super().compute_loss(model, dict(inputs), *args, return_outputs=True, **kwargs)
                items = kwargs.get("num_items_in_batch") if self.model_accepts_loss_kwargs else None
                self.sift.note(output, inputs, items=items)
                return (loss, output) if wants_output else loss
            with self.sift.sharing(inputs):
                return super().compute_loss(model, inputs, *args, **kwargs)

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

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with self._masking_as_ever():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with self._masking_as_ever():
            return super().get_test_dataloader(*args, **kwargs)

    @contextlib.contextmanager
    def _masking_as_ever(self) -> Iterator[None]:
        own = self.data_collator
        if isinstance(own, MaskingCollator):
            self.data_collator = own.at_epoch(0)
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
            self.sift.write_rows()
            logs.update(self._meters.report(self.accelerator, self.sift, whole_run="train_runtime" in logs))
        super().log(logs, *args, **kwargs)

    # ---- Checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.sift.finish_checks()
        if _internal_call and output_dir is not None and self.args.should_save:
            outdate(output_dir)  # of an earlier run that came this far
        super().save_model(output_dir, _internal_call=_internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        # The last thing that every rank writes of a checkpoint, before trainer_state.json makes it complete.
        super()._save_rng_state(output_dir)
        torch.save(self.sift.state_dict(), os.path.join(output_dir, _sift_file(self.args.process_index)))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            list_files(output_dir)

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


class SiftTrainer(SiftMixin, Trainer):
    """The `Trainer` of transformers with selection: see `SiftMixin`."""


class _Hooks(TrainerCallback):
    """What the Trainer tells only callbacks."""

    def __init__(self, trainer: SiftMixin):
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


def _sift_file(rank: int) -> str:
    return f"sift_{rank}.pt"
