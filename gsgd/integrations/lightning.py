"""Selection in Lightning's `Trainer` (extra `lightning`).

trainer = Trainer(callbacks=[SiftCallback("model", exit_layer=1, keep=0.5)])
trainer.fit(module, loader)

The module's `training_step` is called with the kept rows of each batch in place of the whole batch; validation, testing
and prediction see theirs as ever. `"model"` names the attribute of the module that holds the network which scores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gsgd.commands.arguments import install
from gsgd.sift.engine import Sift
from gsgd.sift.options import SiftOptions

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: {install('lightning')}", name=error.name) from error


class SiftCallback(pl.Callback):
    """Chooses the rows that a module's `training_step` trains on.

    Steps are counted as optimizer steps, with the trainer's `accumulate_grad_batches`. Checkpoints have the state of
    all ranks, and a run that goes on from one selects as it would have. Logged at each batch, for loggers that the
    trainer has: `gross_samples`, `kept_samples`.

    Losses last seen and `log_rows` read the losses of rows from what the network returns in `training_step`; batches
    need ids (`gsgd.sift.WithIds`).

    Not tested: several processes, FSDP, DeepSpeed, manual optimization, several optimizers.

    Args:
        model: the attribute of the module that holds the network, "" for the module itself.
        options: of `Sift`, or by name.
        **named: as of `Sift`; `accumulation_steps` is the trainer's to say.

    Attributes:
        sift: the engine, from the start of training on.

    Raises:
        ValueError: for options out of range, or that are the trainer's to say.
    """

    def __init__(self, model: str = "model", options: SiftOptions | None = None, **named: Any):
        self.model = model
        if "accumulation_steps" in named or (options is not None and options.accumulation_steps != 1):
            raise ValueError("accumulation_steps is the trainer's to say: its accumulate_grad_batches")
        known = {} if options is None else {name: getattr(options, name) for name in SiftOptions.help()}
        self.options = SiftOptions.of({**known, **named})
        if self.options.labelled_head:
            raise ValueError("labelled_head=True is not for SiftCallback, since the module calls its network itself")
        self.sift: Sift | None = None
        self._state: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = self._network(pl_module)
        values = {name: getattr(self.options, name) for name in SiftOptions.help()}
        self.sift = Sift(network, SiftOptions(**{**values, "accumulation_steps": trainer.accumulate_grad_batches}))
        if self._state is not None:
            self.sift.load_state_dict(self._state["ranks"][trainer.global_rank])
            self._state = None
        step = pl_module.training_step
        sift = self.sift

        @functools.wraps(step)
        def on_kept_rows(batch: Any, *args: Any, **kwargs: Any) -> Any:
            rows = sift.choose(batch)
            outputs: list[Any] = []
            hook = network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            try:
                with sift.sharing(rows):
                    result = step(rows, *args, **kwargs)
            finally:
                hook.remove()
            if sift.notes_rows:
                sift.note(outputs[-1], rows)
            return result

        pl_module.training_step = on_kept_rows  # type: ignore[method-assign]

    def _network(self, pl_module: pl.LightningModule) -> nn.Module:
        network: Any = pl_module
        for name in self.model.split(".") if self.model else ():
            network = getattr(network, name, None)
        if not isinstance(network, nn.Module):
            inside = ", ".join(name for name, _ in pl_module.named_children()) or "none"
            raise ValueError(
                f"{type(pl_module).__name__} has no network {self.model!r}: name the attribute that holds it, "
                f"SiftCallback(NAME, ...); there are: {inside}"
            )
        return network

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert self.sift is not None
        totals = self.sift.totals
        rows = {"gross_samples": totals.gross_samples, "kept_samples": totals.backprop_samples}
        pl_module.log_dict({name: float(number) for name, number in rows.items()})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.sift is not None:
            self.sift.finish_checks()
            self.sift.write_rows()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._give_back(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._give_back(pl_module)

    def _give_back(self, pl_module: pl.LightningModule) -> None:
        """Its own `training_step` to the module."""
        vars(pl_module).pop("training_step", None)
        if self.sift is not None:
            self.sift.finish_checks()
            self.sift.write_rows()

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks; every rank calls this, as Lightning does."""
        if self.sift is None:
            return self._state or {}
        own = self.sift.state_dict()
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return {"ranks": [own]}
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._state = dict(state_dict) or None
