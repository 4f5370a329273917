"""Arguments of forward passes, against their definitions as they stand here."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from gsgd.sift.models.forward_arguments import ForwardArguments  # noqa: E402


class Plain(nn.Module):
    def forward(self, x, y=None, *, flag=False): ...


class Wrapper(nn.Module):
    def forward(self, x, **others): ...


class Open(nn.Module):
    def forward(self, x, y, **others): ...


class Exits(Wrapper):
    exit_layers = 2

    def early_logits(self, exit_layer, x, mask=None): ...


class OpenExits(Plain):
    exit_layers = 2

    def early_logits(self, exit_layer, **inputs): ...


def names(text):
    return frozenset(text.split())


@pytest.mark.parametrize(
    ("kind", "named", "required", "others", "known"),
    [
        (Plain, "x y flag", "x", False, True),
        (Wrapper, "x", "x", True, False),
        (Open, "x y", "x y", True, True),
        (Exits, "x mask", "x", False, True),
        (OpenExits, "x y flag", "x", True, False),
    ],
)
def test_what_a_class_takes(kind, named, required, others, known):
    assert ForwardArguments.of(kind()) == ForwardArguments(names(named), names(required), others, known)


def test_of_a_model_of_transformers_all_count_as_required(build):
    found = ForwardArguments.of(build("bert-mlm"))
    assert found.named == found.required >= names("input_ids attention_mask labels")
    assert found.known


def test_what_was_put_on_the_instance_tells_nothing():
    model = Plain()
    model.forward = lambda *arguments, **others: None
    assert ForwardArguments.of(model).named == names("x y flag")


def test_of_nothing_nothing_is_known():
    assert ForwardArguments.of(None) == ForwardArguments()
