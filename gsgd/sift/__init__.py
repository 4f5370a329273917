"""SIFT: early-exit sample selection for any PyTorch loop and the Hugging Face Trainer (extra `train`)."""

from gsgd.sift.choice import Selection
from gsgd.sift.engine import Sift
from gsgd.sift.exits import EarlyExit, count_exits, exit_view
from gsgd.sift.measures.diagnosis import Diagnosis
from gsgd.sift.measures.readings import Reading
from gsgd.sift.options import AutoExit, SiftOptions
from gsgd.sift.schedules.keep import KeepByAccuracy
from gsgd.sift.schedules.schedule import Schedule
from gsgd.sift.scorer import Scorer
from gsgd.sift.sources.last_seen import LastSeen
from gsgd.sift.sources.samplers import ImportanceSampler, InfoBatchSampler, LastSeenSampler, WithIds
from gsgd.sift.token_level import ReferenceLosses

__all__ = [
    "AutoExit",
    "Diagnosis",
    "EarlyExit",
    "ImportanceSampler",
    "InfoBatchSampler",
    "KeepByAccuracy",
    "LastSeen",
    "LastSeenSampler",
    "Reading",
    "ReferenceLosses",
    "Schedule",
    "Scorer",
    "Selection",
    "Sift",
    "SiftOptions",
    "WithIds",
    "count_exits",
    "exit_view",
]
