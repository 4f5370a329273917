"""SIFT: early-exit sample selection for any PyTorch loop and the Hugging Face Trainer (extra `train`)."""

from gsgd.sift.diagnosis import Diagnosis
from gsgd.sift.engine import Selection, Sift
from gsgd.sift.exits import EarlyExit, count_exits, exit_view
from gsgd.sift.moving_exit import AutoExit
from gsgd.sift.schedule import Schedule

__all__ = ["AutoExit", "Diagnosis", "EarlyExit", "Schedule", "Selection", "Sift", "count_exits", "exit_view"]
