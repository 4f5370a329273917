"""The methods of a run: what their names say, and the scores that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gsgd import scores
from gsgd.sift import (
    AveragePooled,
    CheaperInput,
    ClassBalanced,
    CorrectedExit,
    FirstTokens,
    LinearProbe,
    PredictedLoss,
    Proxy,
)

SCORES = ("loss", "entropy", "margin")
CORRECTED, PROXY, BALANCED = "corrected", "proxy", "class-balanced"
PREDICTED = "predicted"
HEADS = {"probe": LinearProbe, PREDICTED: PredictedLoss}
"""Scores by a head of their own on an exit's features."""
OF_EXIT = (CORRECTED, *HEADS)
"""Scores that stand on an exit before the last, whose losses are exact."""
WEIGHTED = ("focal", "loss-power")
"""Methods that train on all rows, with weights (`training.weighting`)."""
SAMPLED = ("infobatch", "importance")
"""Methods that choose rows before they are read (`training.sampled`)."""


@dataclass(frozen=True)
class Method:
    """What decides which rows are trained on.

    "baseline", "random", "class-balanced", "last-seen", one of `SAMPLED` or `WEIGHTED`, for which nothing is scored; a
    "proxy"; or an early prediction: "loss@1", "entropy@6", "loss@last", "loss@auto", "corrected@1", "probe@1".
    """

    score: str | None
    exit_layer: int | None
    """None for the last layer, one that moves, and where no exit scores."""
    auto: bool = False
    """Whether the exit moves (`gsgd.sift.AutoExit`)."""


def parse_method(text: str) -> Method:
    """The method that `text` names.

    Raises:
        ValueError: if it names none.
    """
    if text in ("baseline", *SAMPLED, *WEIGHTED):
        return Method(None, None)
    if text in ("random", "last-seen", BALANCED, PROXY):
        return Method(text, None)
    score, _, layer = text.partition("@")
    if score in SCORES and layer in ("last", "auto"):
        return Method(score, None, auto=layer == "auto")
    if score in (*SCORES, *OF_EXIT) and layer.isascii() and layer.isdigit() and int(layer) >= 1:
        return Method(score, int(layer))
    if score in OF_EXIT and layer in ("last", "auto"):
        raise ValueError(
            f"method = {text!r} stands on an exit of its own, before the last, whose losses are exact: {score}@1"
        )
    raise ValueError(
        f"method = {text!r} must be baseline, random, last-seen, {', '.join((*SAMPLED, *WEIGHTED, BALANCED, PROXY))}, "
        f"or SCORE@LAYER with a score of {', '.join((*SCORES, *OF_EXIT))} "
        'and an exit layer of 1, 2, ..., "last" or "auto", such as loss@1'
    )


def parse_cheaper(text: str) -> CheaperInput | None:
    """What scores cheaper input: "pool2", "first64" or "bf16"; None for the empty text.

    Raises:
        ValueError: if `text` names none.
    """
    if not text:
        return None
    if text == "bf16":
        return CheaperInput(autocast=torch.bfloat16)
    found = re.fullmatch(r"(pool|first)([0-9]{1,6})", text)
    if found is None or int(found[2]) < (2 if found[1] == "pool" else 1):
        raise ValueError(
            f"cheaper = {text!r} must be poolN (pictures as means over squares of N pixels a side, N at least 2), "
            "firstN (the first N tokens), bf16 (autocast), or empty"
        )
    return CheaperInput((AveragePooled if found[1] == "pool" else FirstTokens)(int(found[2])))


def engine_score(text: str, cheaper: str, proxy: nn.Module | None, proxy_lr: float, head_lr: float) -> Any:
    """The engine's option `score` for a method.

    Args:
        text: of the method.
        cheaper: what its exit scores, as of `parse_cheaper`.
        proxy: the network of a proxy; None for one that stands in its place, to see whether all else goes together.
        proxy_lr: its learning rate.
        head_lr: that of a head on an exit's features.
    """
    score = parse_method(text).score
    if score == PROXY:
        return Proxy(nn.Linear(1, 1) if proxy is None else proxy, lr=proxy_lr)
    if score == BALANCED:
        return ClassBalanced()
    if score == CORRECTED:
        return CorrectedExit()
    if score in HEADS:
        return HEADS[score](lr=head_lr)
    named: dict[str | None, Any] = {None: "random", "margin": scores.margin}
    source = parse_cheaper(cheaper) if score == "loss" else None
    return named.get(score, score) if source is None else source
