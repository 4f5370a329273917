"""The sources of scores that `gsgd bench step` measures beside the exits of a model."""

from __future__ import annotations

from typing import Any

Ways = dict[tuple[int, str], dict[str, Any]]
"""(exit, way) -> the engine's options that make it."""

LAST_SEEN = (0, "last-seen")
"""Exit and way of a choice by losses last seen: it has no exit, nor has a proxy."""
PROXY = (0, "proxy")
PROXY_UNITS = 32


def sources_of(model: Any, batch: dict[str, Any], exits: int) -> Ways:
    """The ways that a model of the benchmark has beside its own exits.

    Losses last seen; the first exit, corrected, and where rows have one class each two heads on its features; of a
    cheaper form of the batch the last exit's loss, of pictures where the model takes them in any size; and of pictures
    a proxy.

    Args:
        exits: how many the model has.
    """
    import transformers

    from gsgd.sift import AveragePooled, CheaperInput, CorrectedExit, FirstTokens, LinearProbe, PredictedLoss, Proxy
    from training.images.resnet import EarlyExitResNet
    from training.images.small_net import SmallNet, SmallNetConfig

    by_ids = {"data_rows": len(batch["labels"])}
    found: Ways = {
        LAST_SEEN: {"score": "last-seen", **by_ids},
        (1, "corrected"): {"score": CorrectedExit(), "exit_layer": 1, "reuse": False, **by_ids},
    }
    if batch["labels"].dim() == 1 and exits > 1:
        for way, head in (("probe", LinearProbe()), ("predicted", PredictedLoss())):
            found[1, way] = {"score": head, "exit_layer": 1, "reuse": False}
    if "pixel_values" not in batch:
        half = batch["input_ids"].shape[1] // 2
        return {**found, (exits, f"first {half} tokens"): _last(CheaperInput(FirstTokens(half)), exits)}
    if isinstance(model, EarlyExitResNet):
        found[exits, "pooled by 2"] = _last(CheaperInput(AveragePooled(2)), exits)
    config: transformers.PretrainedConfig = model.config
    channels, side = batch["pixel_values"].shape[1:3]
    sizes = {"num_channels": channels, "image_size": side, "hidden_size": PROXY_UNITS}
    found[PROXY] = {"score": Proxy(SmallNet(SmallNetConfig("lenet", num_labels=config.num_labels, **sizes)))}
    return found


def _last(score: Any, exits: int) -> dict[str, Any]:
    return {"score": score, "exit_layer": exits}
