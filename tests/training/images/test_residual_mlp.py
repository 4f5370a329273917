"""The residual MLP by its formula, exit by exit, and what the engine makes of its exits."""

import pytest
import torch

from gsgd.sift import EarlyExit, Sift, count_exits
from training.images.residual_mlp import ResidualMLP, ResidualMLPConfig


def build(**changes):
    torch.manual_seed(0)
    sizes = {"num_channels": 2, "image_size": 6, "hidden_size": 9, "blocks": 3, "num_labels": 4, **changes}
    return ResidualMLP(ResidualMLPConfig(**sizes)).double()


def normed(hidden, weight, bias):
    centred = hidden - hidden.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight + bias


def by_hand(model, pixels, blocks):
    weights = dict(model.named_parameters())

    def linear(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    hidden = linear("embedding", pixels.reshape(len(pixels), -1))
    for number in range(blocks):
        at = f"blocks.{number}"
        inner = linear(f"{at}.inner", normed(hidden, weights[f"{at}.norm.weight"], weights[f"{at}.norm.bias"]))
        hidden = hidden + linear(f"{at}.outer", inner.clamp(min=0))
    return linear("classifier", normed(hidden, weights["norm.weight"], weights["norm.bias"]))


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(8, 2, 6, 6).double(), "labels": torch.arange(8) % 4}


def test_logits_of_every_exit_and_loss(batch):
    model = build()
    assert isinstance(model, EarlyExit)
    assert count_exits(model) == 3
    for exit_layer in (1, 2, 3):
        expected = by_hand(model, batch["pixel_values"], exit_layer)
        torch.testing.assert_close(
            model.early_logits(exit_layer, batch["pixel_values"]), expected, rtol=1e-10, atol=1e-10
        )
    output = model(**batch)
    picked = expected.log_softmax(1)[torch.arange(8), batch["labels"]]
    torch.testing.assert_close(output.logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output.loss, -picked.mean(), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="exit_layer = 4"):
        model.early_logits(4, batch["pixel_values"])


@pytest.mark.parametrize("exit_layer", [1, 2, 3])
def test_the_engine_keeps_the_rows_of_the_largest_loss_at_the_exit(batch, exit_layer):
    model = build()
    sift = Sift(model, exit_layer=exit_layer, keep=0.5)
    sift.choose(batch)
    losses = -by_hand(model, batch["pixel_values"], exit_layer).log_softmax(1)[torch.arange(8), batch["labels"]]
    assert sorted(sift.last.indices.tolist()) == sorted(losses.argsort(descending=True)[:4].tolist())


@pytest.mark.parametrize("exit_layer", [1, 2, 3])
def test_a_shared_pass_trains_on_what_an_own_one_does(batch, exit_layer):
    def gradients(reuse):
        model = build()
        sift = Sift(model, exit_layer=exit_layer, keep=0.5, reuse=reuse)
        sift.forward_kept(sift.choose(batch)).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for shared, own in zip(gradients("cpu"), gradients(False), strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-9, atol=1e-12)


def test_a_saved_model_is_read_back(tmp_path, batch):
    model = build(blocks=2)
    model.save_pretrained(tmp_path)
    read = ResidualMLP.from_pretrained(tmp_path, dtype=torch.float64)
    assert read.exit_layers == 2
    assert torch.equal(read(**batch).logits, model(**batch).logits)
