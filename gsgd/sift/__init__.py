"""SIFT: early-exit sample selection for any PyTorch loop and the Hugging Face Trainer (extra `train`)."""

from gsgd.sift.candidates.token_level import ReferenceLosses
from gsgd.sift.choice import Selection
from gsgd.sift.engine import Sift
from gsgd.sift.exits import EarlyExit, count_exits, exit_view
from gsgd.sift.measures.diagnosis import Diagnosis
from gsgd.sift.measures.readings import Reading
from gsgd.sift.options import AutoExit, SiftOptions
from gsgd.sift.schedules.keep import KeepByAccuracy
from gsgd.sift.schedules.schedule import Schedule
from gsgd.sift.score_source import ScoreSource
from gsgd.sift.scorer import Scorer
from gsgd.sift.sources.cheaper_input import AveragePooled, CheaperInput, FirstTokens
from gsgd.sift.sources.class_balanced import ClassBalanced
from gsgd.sift.sources.corrected_exit import CorrectedExit
from gsgd.sift.sources.last_seen import LastSeen
from gsgd.sift.sources.linear_probe import LinearProbe
from gsgd.sift.sources.mean_of_ranks import ExitLoss, MeanOfRanks
from gsgd.sift.sources.predicted_loss import PredictedLoss
from gsgd.sift.sources.proxy import Proxy
from gsgd.sift.sources.reducible_loss import ReducibleLoss
from gsgd.sift.sources.samplers import ImportanceSampler, InfoBatchSampler, LastSeenSampler, WithIds

__all__ = [
    "AutoExit",
    "AveragePooled",
    "CheaperInput",
    "ClassBalanced",
    "CorrectedExit",
    "Diagnosis",
    "EarlyExit",
    "ExitLoss",
    "FirstTokens",
    "ImportanceSampler",
    "InfoBatchSampler",
    "KeepByAccuracy",
    "LastSeen",
    "LastSeenSampler",
    "LinearProbe",
    "MeanOfRanks",
    "PredictedLoss",
    "Proxy",
    "Reading",
    "ReducibleLoss",
    "ReferenceLosses",
    "Schedule",
    "ScoreSource",
    "Scorer",
    "Selection",
    "Sift",
    "SiftOptions",
    "WithIds",
    "count_exits",
    "exit_view",
]
