"""The small networks against their formulas, and what the engine and the task make of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gsgd.sift import EarlyExit, Sift, count_exits
from training.images.small_net import SmallNet, SmallNetConfig


def build(network, **changes):
    torch.manual_seed(0)
    sizes = {"num_channels": 1, "image_size": 12, "hidden_size": 7, "num_labels": 4, **changes}
    return SmallNet(SmallNetConfig(network, **sizes)).double()


def by_hand(model, pixels):
    weights = dict(model.named_parameters())
    if model.config.network == "lenet":
        for layer in (0, 3):
            pixels = F.conv2d(pixels, weights[f"layers.{layer}.weight"], weights[f"layers.{layer}.bias"], padding=2)
            # The maximum over 2x2, of what is above 0.
            pixels = torch.stack([pixels[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]).amax(0).clamp(min=0)
    hidden = pixels.flatten(1)
    if model.config.network != "linear":
        place = 7 if model.config.network == "lenet" else 1
        hidden = (hidden @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]).clamp(min=0)
    return hidden @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize("network", ["linear", "mlp", "lenet"])
def test_logits_and_loss(network):
    model = build(network)
    pixels, labels = torch.randn(5, 1, 12, 12).double(), torch.arange(5) % 4
    output = model(pixels, labels)
    expected = by_hand(model, pixels)
    torch.testing.assert_close(output.logits, expected, rtol=1e-12, atol=1e-12)
    picked = expected.log_softmax(1)[torch.arange(5), labels]
    torch.testing.assert_close(output.loss, -picked.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.early_logits(1, pixels), expected, rtol=1e-12, atol=1e-12)


def test_the_last_layer_is_its_only_exit():
    model = build("mlp")
    assert isinstance(model, EarlyExit)
    assert count_exits(model) == 1
    with pytest.raises(ValueError, match="exit_layer = 2"):
        model.early_logits(2, torch.zeros(1, 1, 12, 12).double())
    with pytest.raises(ValueError, match="network = 'vgg' must be one of: linear, mlp, lenet"):
        SmallNetConfig("vgg")


def test_the_engine_keeps_the_rows_of_the_largest_loss():
    model = build("mlp")
    pixels, labels = torch.randn(8, 1, 12, 12).double(), torch.arange(8) % 4
    sift = Sift(model, exit_layer=1, keep=0.5)
    sift.choose({"pixel_values": pixels, "labels": labels})
    losses = -by_hand(model, pixels).log_softmax(1)[torch.arange(8), labels]
    assert sorted(sift.last.indices.tolist()) == sorted(np.argsort(-losses.detach().numpy())[:4].tolist())


def test_a_saved_model_is_read_back(tmp_path):
    model = build("lenet", num_channels=3)
    model.save_pretrained(tmp_path)
    read = SmallNet.from_pretrained(tmp_path, dtype=torch.float64)
    pixels = torch.randn(2, 3, 12, 12).double()
    # Not to the last bit: channels lie in another order in memory.
    assert torch.allclose(read(pixels).logits, model(pixels).logits, rtol=1e-12, atol=1e-12)
