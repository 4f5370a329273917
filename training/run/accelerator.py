"""What a command trains with: the process's accelerator, and a display that only the first of several processes has."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from rich.console import Console

from gsgd.memory import keep_freed_memory
from training.config import Config
from training.ranks import leaving_in_turn
from training.run.display import Display
from training.run_folder.trackers import check_installed


def make_accelerator(config: Config) -> Accelerator:
    """The process's accelerator: device, ranks and precision; ACCELERATE_USE_CPU=true keeps it off a GPU."""
    # Several processes without a GPU would each take themselves for the only one, if accelerate were not told.
    alone = not torch.accelerator.is_available()
    if alone:
        keep_freed_memory()
    precision = config.training.precision
    return Accelerator(
        mixed_precision=precision, step_scheduler_with_optimizer=False, **({"cpu": True} if alone else {})
    )


@contextlib.contextmanager
def running(config: Config) -> Iterator[tuple[Accelerator, Display]]:
    """What a command runs with: the process's accelerator, and a display that only the first of several has.

    Raises:
        ValueError: for a tracker that is not installed.
    """
    check_installed(config.training.trackers)
    accelerator = make_accelerator(config)
    with leaving_in_turn(accelerator):
        try:
            yield accelerator, Display(Console(stderr=True) if accelerator.is_main_process else None)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the model
            raise
        finally:
            # The model goes before the process group: with gloo a group that is destroyed while a distributed model
            # lives can hang at the end of the process.
            accelerator.free_memory()
            accelerator.end_training()
