"""A training run from its configuration to its results: resumed where it stopped, evaluated, recorded."""

from training.run.accelerator import make_accelerator, running
from training.run.loop import train
from training.run.resumption import Ending

__all__ = ["Ending", "make_accelerator", "running", "train"]
