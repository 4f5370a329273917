"""A pass inside `unchanged` leaves a model as it was: every module class of torch.nn, and what users' modules hold."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import inspect
import random
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gsgd.sift.scoring_pass.module_state import unchanged, uninitialised

WIDTH = 6


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def classes(*shape: int, below: int = 3) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(2))


def pooled(axes: int) -> tuple[Tensor, Tensor]:
    return getattr(nn, f"MaxPool{axes}d")(2, return_indices=True)(numbers(2, 3, *[4] * axes))


def image(axes: int) -> Tensor:
    return numbers(4, WIDTH, *[5] * axes)


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]


def case(build: Callable[..., nn.Module], *inputs: Any, **options: Any) -> Case:
    return functools.partial(build, **options), lambda: inputs


ELEMENTWISE = (
    *("AlphaDropout", "CELU", "Dropout", "ELU", "FeatureAlphaDropout", "Flatten", "GELU", "GLU", "Hardshrink"),
    *("Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU"),
    *("ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
)
LOSSES = ("HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "PoissonNLLLoss", "SmoothL1Loss")


def cases() -> dict[str, Case]:
    """Of each module class of torch.nn that can run by itself: how to build one, and what to call it with."""
    flat, sequence = numbers(4, WIDTH), numbers(5, 4, WIDTH)
    found: dict[str, Case] = {name: case(getattr(nn, name), flat) for name in ELEMENTWISE}
    found |= {name: case(getattr(nn, name), flat, numbers(4, WIDTH).sigmoid()) for name in LOSSES}
    for axes in (1, 2, 3):
        one, two = (f"{axes}d", image(axes))
        padding = [1] * (2 * axes)
        for name in ("AdaptiveAvgPool", "AdaptiveMaxPool"):
            found[name + one] = case(getattr(nn, name + one), two, output_size=2)
        for name in ("AvgPool", "MaxPool"):
            found[name + one] = case(getattr(nn, name + one), two, kernel_size=2)
        found["LPPool" + one] = case(getattr(nn, "LPPool" + one), two.abs(), norm_type=2, kernel_size=2)
        found["MaxUnpool" + one] = case(getattr(nn, "MaxUnpool" + one), *pooled(axes), kernel_size=2)
        found["Dropout" + one] = case(getattr(nn, "Dropout" + one), two)
        for name in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad"):
            found[name + one] = case(getattr(nn, name + one), two, padding=tuple(padding))
        found["ConstantPad" + one] = case(getattr(nn, "ConstantPad" + one), two, padding=1, value=2.0)
        for name in ("Conv", "ConvTranspose"):
            build = getattr(nn, name + one)
            found[name + one] = case(build, two, in_channels=WIDTH, out_channels=3, kernel_size=2)
            lazy = getattr(nn, f"Lazy{name}{one}")
            found[f"Lazy{name}{one}"] = case(lazy, two, out_channels=3, kernel_size=2)
        for name in ("BatchNorm", "InstanceNorm"):
            build = getattr(nn, name + one)
            found[name + one] = case(build, two, num_features=WIDTH, track_running_stats=True, affine=True)
            found[f"Lazy{name}{one}"] = case(getattr(nn, f"Lazy{name}{one}"), two, track_running_stats=True)
    for name in ("RNN", "LSTM", "GRU"):
        found[name] = case(getattr(nn, name), sequence, input_size=WIDTH, hidden_size=3, num_layers=2, dropout=0.5)
        found[f"{name}Cell"] = case(getattr(nn, f"{name}Cell"), flat, input_size=WIDTH, hidden_size=3)
    layer: dict[str, Any] = {"d_model": WIDTH, "nhead": 2, "dim_feedforward": 8}
    encoder, decoder = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
    probabilities, signs = flat.sigmoid(), classes(4, WIDTH, below=2) * 2 - 1
    return found | {
        "AdaptiveLogSoftmaxWithLoss": case(
            nn.AdaptiveLogSoftmaxWithLoss, flat, classes(4, below=9), in_features=WIDTH, n_classes=9, cutoffs=[4]
        ),
        "BCELoss": case(nn.BCELoss, probabilities, probabilities),
        "BCEWithLogitsLoss": case(nn.BCEWithLogitsLoss, flat, probabilities, weight=probabilities),
        "Bilinear": case(nn.Bilinear, flat, flat, in1_features=WIDTH, in2_features=WIDTH, out_features=2),
        "CTCLoss": case(
            nn.CTCLoss, sequence.log_softmax(-1), classes(4, 2) + 1, torch.full((4,), 5), torch.full((4,), 2)
        ),
        "ChannelShuffle": case(nn.ChannelShuffle, image(2), groups=2),
        "CosineEmbeddingLoss": case(nn.CosineEmbeddingLoss, flat, -flat, signs[:, 0]),
        "CosineSimilarity": case(nn.CosineSimilarity, flat, -flat),
        "CrossEntropyLoss": case(nn.CrossEntropyLoss, flat, classes(4), weight=probabilities[0]),
        "CrossMapLRN2d": case(nn.CrossMapLRN2d, image(2), size=2),
        "Embedding": case(nn.Embedding, classes(4, 5), num_embeddings=3, embedding_dim=WIDTH, max_norm=0.5),
        "EmbeddingBag": case(nn.EmbeddingBag, classes(4, 5), num_embeddings=3, embedding_dim=WIDTH, max_norm=0.5),
        "Fold": case(nn.Fold, numbers(2, 8, 9), output_size=(4, 4), kernel_size=2),
        "FractionalMaxPool2d": case(nn.FractionalMaxPool2d, image(2), kernel_size=2, output_size=3),
        "FractionalMaxPool3d": case(nn.FractionalMaxPool3d, image(3), kernel_size=2, output_size=3),
        "GaussianNLLLoss": case(nn.GaussianNLLLoss, flat, -flat, probabilities),
        "GroupNorm": case(nn.GroupNorm, flat, num_groups=2, num_channels=WIDTH),
        "HingeEmbeddingLoss": case(nn.HingeEmbeddingLoss, flat, signs),
        "LayerNorm": case(nn.LayerNorm, flat, normalized_shape=WIDTH),
        "LazyLinear": case(nn.LazyLinear, flat, out_features=3),
        "Linear": case(nn.Linear, flat, in_features=WIDTH, out_features=3),
        "LinearCrossEntropyLoss": (
            lambda: nn.LinearCrossEntropyLoss(WIDTH, 3),  # newer than the oldest torch that is supported
            lambda: (flat, classes(4)),
        ),
        "LocalResponseNorm": case(nn.LocalResponseNorm, image(2), size=2),
        "LogSoftmax": case(nn.LogSoftmax, flat, dim=1),
        "MarginRankingLoss": case(nn.MarginRankingLoss, flat, -flat, signs),
        "MultiLabelMarginLoss": case(nn.MultiLabelMarginLoss, flat, classes(4, WIDTH)),
        "MultiLabelSoftMarginLoss": case(nn.MultiLabelSoftMarginLoss, flat, probabilities),
        "MultiMarginLoss": case(nn.MultiMarginLoss, flat, classes(4)),
        "MultiheadAttention": case(
            nn.MultiheadAttention, sequence, sequence, sequence, embed_dim=WIDTH, num_heads=2, dropout=0.5
        ),
        "NLLLoss": case(nn.NLLLoss, flat.log_softmax(-1), classes(4)),
        "NLLLoss2d": case(nn.NLLLoss2d, image(2).log_softmax(1), classes(4, 5, 5)),
        "PairwiseDistance": case(nn.PairwiseDistance, flat, -flat),
        "PixelShuffle": case(nn.PixelShuffle, numbers(2, 8, 3, 3), upscale_factor=2),
        "PixelUnshuffle": case(nn.PixelUnshuffle, numbers(2, 2, 4, 4), downscale_factor=2),
        "RMSNorm": case(nn.RMSNorm, flat, normalized_shape=WIDTH),
        "Sequential": (lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)), lambda: (flat,)),
        "SoftMarginLoss": case(nn.SoftMarginLoss, flat, signs),
        "Softmax": case(nn.Softmax, flat, dim=1),
        "Softmax2d": case(nn.Softmax2d, image(2)),
        "Softmin": case(nn.Softmin, flat, dim=1),
        "Threshold": case(nn.Threshold, flat, threshold=0.1, value=0.0),
        "Transformer": case(nn.Transformer, sequence, sequence, num_encoder_layers=1, num_decoder_layers=1, **layer),
        "TransformerDecoder": (lambda: nn.TransformerDecoder(decoder(**layer), 2), lambda: (sequence, sequence)),
        "TransformerDecoderLayer": case(decoder, sequence, sequence, **layer),
        "TransformerEncoder": (lambda: nn.TransformerEncoder(encoder(**layer), 2), lambda: (sequence,)),
        "TransformerEncoderLayer": case(encoder, sequence, **layer),
        "TripletMarginLoss": case(nn.TripletMarginLoss, flat, -flat, probabilities),
        "TripletMarginWithDistanceLoss": case(nn.TripletMarginWithDistanceLoss, flat, -flat, probabilities),
        "Unflatten": case(nn.Unflatten, flat, dim=1, unflattened_size=(2, 3)),
        "Unfold": case(nn.Unfold, image(2), kernel_size=2),
        "Upsample": case(nn.Upsample, image(2), scale_factor=2),
        "UpsamplingBilinear2d": case(nn.UpsamplingBilinear2d, image(2), scale_factor=2),
        "UpsamplingNearest2d": case(nn.UpsamplingNearest2d, image(2), scale_factor=2),
    }


CASES = cases()
WITHOUT_CASE = {
    "Module": "abstract",
    "Container": "abstract",
    "RNNBase": "abstract",
    "RNNCellBase": "abstract",
    "ModuleList": "is no function; test_containers_of_modules",
    "ModuleDict": "is no function; test_containers_of_modules",
    "ParameterList": "is no function; test_containers_of_modules",
    "ParameterDict": "is no function; test_containers_of_modules",
    "DataParallel": "a wrapper for several GPUs; what is inside of it is scored",
    "SyncBatchNorm": "runs on GPUs only; it holds what BatchNorm holds",
}
EVERY_CLASS = sorted(name for name, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module))


def same(found: Any, expected: Any, seen: set[tuple[int, int]] | None = None) -> bool:
    """Whether two objects hold the same, bit for bit; written for this test, from what deepcopy copies."""
    seen = set() if seen is None else seen
    if (id(found), id(expected)) in seen:
        return True
    seen.add((id(found), id(expected)))
    if type(found) is not type(expected):
        return False
    if isinstance(found, Tensor):
        alike = found.dtype == expected.dtype and found.shape == expected.shape
        return alike and torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))
    if isinstance(found, weakref.ref):
        return same(found(), expected(), seen)
    if isinstance(found, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key], seen) for key in found)
    if isinstance(found, (list, tuple, collections.deque)):
        return len(found) == len(expected) and all(map(functools.partial(same, seen=seen), found, expected))
    if isinstance(found, np.ndarray):
        return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
    if isinstance(found, torch.Generator):
        return torch.equal(found.get_state(), expected.get_state())
    if isinstance(found, np.random.Generator):
        return found.bit_generator.state == expected.bit_generator.state
    if isinstance(found, random.Random):
        return found.getstate() == expected.getstate()
    if isinstance(found, (nn.Module, types.SimpleNamespace)) or type(found).__module__ == __name__:
        one, two = vars(found), vars(expected)  # deepcopy of recurrent layers keeps no order here
        return one.keys() == two.keys() and all(same(one[name], two[name], seen) for name in one)
    return found is expected or found == expected


def run(model: nn.Module, *inputs: Any) -> Any:
    """What the model returns with draws that are always the same."""
    torch.manual_seed(3)
    return model(*inputs)


@pytest.mark.parametrize("name", EVERY_CLASS)
@pytest.mark.filterwarnings("ignore")  # some classes are deprecated
def test_every_module_class_of_torch_nn(name: str) -> None:
    if name in WITHOUT_CASE:
        pytest.skip(WITHOUT_CASE[name])
    assert name in CASES, f"torch.nn.{name} is new: add how to build and call it, or why it is not tested"
    torch.manual_seed(0)
    build, inputs = CASES[name]
    model = build().train()
    if uninitialised(model):
        model(*inputs())
    before = copy.deepcopy(model)
    with torch.no_grad(), unchanged(model):
        run(model, *inputs())
        run(model, *inputs())
    assert same(model.state_dict(), before.state_dict())
    assert same(list(model.named_buffers()), list(before.named_buffers()))
    assert same(model, before)
    torch.testing.assert_close(run(model, *inputs()), run(before, *inputs()))
    assert same(model.state_dict(), before.state_dict())


def test_every_case_is_of_a_class() -> None:
    assert {*CASES, *WITHOUT_CASE} - set(EVERY_CLASS) <= {"LinearCrossEntropyLoss"}
    assert not CASES.keys() & WITHOUT_CASE.keys()


@pytest.mark.filterwarnings("ignore")  # some classes are deprecated
def test_the_pass_itself_would_have_changed_them() -> None:
    """Else the test above would say nothing: these are the classes whose state a forward pass changes."""
    changed = set()
    for name in sorted(CASES.keys() & set(EVERY_CLASS)):
        torch.manual_seed(0)
        build, inputs = CASES[name]
        if name.startswith("Lazy"):
            continue
        model = build().train()
        before = copy.deepcopy(model)
        with torch.no_grad():
            run(model, *inputs())
        if not same(model, before):
            changed.add(name)
    norms = {f"{kind}Norm{axes}d" for kind in ("Batch", "Instance") for axes in (1, 2, 3)}
    assert changed == {*norms, "Sequential", "Embedding", "EmbeddingBag"}


class Holder(nn.Module):
    """Has a layer, and in its forward pass does to itself what a test says."""

    def __init__(self, change: Callable[[Any], None] = lambda module: None, **attributes: Any):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", torch.arange(3.0))
        self.register_buffer("cache", torch.arange(4.0), persistent=False)
        for name, value in attributes.items():
            setattr(self, name, value)
        self.change = change

    def forward(self, hidden: Tensor) -> Tensor:
        self.change(self)
        return self.layer(hidden)


class Calls:
    def __init__(self) -> None:
        self.count = 7
        self.seen = [1, {"inner": [2]}]
        self.itself = self


@dataclasses.dataclass
class Moments:
    mean: Tensor
    count: int = 0


class Log(list):
    pass


def do(statement: str) -> Callable[[Any], None]:
    """What the statement says about `m`, the module."""
    return lambda m: exec(statement, {"torch": torch, "nn": nn, "m": m})


def test_of_modules_that_do_not_run_only_what_others_hold_is_followed() -> None:
    """A counter that a layer has of its own stays as the block left it; a list that it shares does not."""
    used = Holder(do("m.seen.append(1)"), seen=[])
    unused, root = Holder(seen=used.seen, calls=1), nn.ModuleList([used])
    root.append(unused)
    with torch.no_grad(), unchanged(root, unused=[unused]):
        used(torch.ones(WIDTH))
        unused.calls = 2
        assert used.seen == [1]
    assert used.seen == []
    assert unused.calls == 2


CHANGES: dict[str, tuple[dict[str, Callable[[], Any]], str]] = {
    # what is done: attributes, what the forward pass does to the module m
    "counter": ({"calls": lambda: 1000}, "m.calls += 1"),
    "flag": ({}, "m.eval()"),
    "part of the flags": ({}, "m.layer.training = False"),
    "new attribute": ({}, "m.fresh = 1"),
    "deleted attribute": ({"calls": lambda: 1}, "del m.calls"),
    "list": ({"seen": lambda: [1, 2]}, "m.seen.append(3)"),
    "emptied list": ({"seen": lambda: [1, 2]}, "m.seen.clear()"),
    "subclass of list": ({"seen": lambda: Log([1, 2])}, "m.seen.append(3); m.seen.extra = 4"),
    "dict": ({"seen": lambda: {"a": 1, "b": 2}}, "m.seen['c'] = m.seen.pop('a')"),
    "order of a dict": ({"seen": lambda: {"a": 1, "b": 2}}, "m.seen['a'] = m.seen.pop('a')"),
    "order": ({"seen": lambda: collections.OrderedDict(a=1, b=2)}, "m.seen.move_to_end('a')"),
    "defaultdict": ({"seen": lambda: collections.defaultdict(int)}, "m.seen['a'] += 1"),
    "counts": ({"seen": lambda: collections.Counter("aab")}, "m.seen.update('bc')"),
    "set": ({"seen": lambda: {1, 2}}, "m.seen ^= {2, 3}"),
    "deque": ({"seen": lambda: collections.deque([1, 2], maxlen=2)}, "m.seen.append(3)"),
    "bytes": ({"seen": lambda: bytearray(b"ab")}, "m.seen += b'c'"),
    "nested": ({"seen": lambda: {"a": [({"b": [1]},)]}}, "m.seen['a'][0][0]['b'].append(2)"),
    "tensor in a list": ({"seen": lambda: [(torch.ones(2),)]}, "m.seen[0][0].add_(1)"),
    "array": ({"seen": lambda: np.arange(3)}, "m.seen += 1"),
    "tensor in place": ({"last": lambda: torch.ones(3)}, "m.last.mul_(2)"),
    "tensor, another": ({"last": lambda: torch.ones(3)}, "m.last = m.last * 2"),
    "tensor, other data": ({"last": lambda: torch.ones(3)}, "m.last.data = torch.zeros(5)"),
    "tensor, resized": ({"last": lambda: torch.ones(3)}, "m.last.resize_(2, 5).fill_(4)"),
    "expanded tensor": ({"last": lambda: torch.ones(1, 3).expand(4, 3)}, "m.last[0].zero_()"),
    "transposed tensor": ({"last": lambda: torch.arange(6.0).view(2, 3).T}, "m.last.add_(1)"),
    "empty tensor": ({"last": lambda: torch.ones(0, 3)}, "m.last = torch.ones(1, 3)"),
    "half precision": ({"last": lambda: torch.ones(3, dtype=torch.bfloat16)}, "m.last.add_(1)"),
    "buffer in place": ({}, "m.mean.mul_(0.9).add_(1); m.cache += 1"),
    "buffer behind autograd": ({}, "m.mean.data.mul_(0.9); m.cache.data.copy_(m.cache + 1)"),
    "buffer, another": ({}, "m.mean = m.mean + 1"),
    "buffer, grown": ({}, "m.register_buffer('cache', torch.arange(9.0), persistent=False)"),
    "buffer, persistent": ({}, "m.register_buffer('cache', torch.arange(9.0))"),
    "new buffer": ({}, "m.register_buffer('late', torch.ones(2))"),
    "buffer as None": ({}, "m.mean = None"),
    "order of buffers": ({}, "m._buffers['mean'] = m._buffers.pop('mean')"),
    "parameter, another": ({}, "m.layer.weight = nn.Parameter(m.layer.weight * 2)"),
    "parameter, other data": ({}, "m.layer.weight.data = m.layer.weight.data / 2"),
    "new module": ({}, "m.late = nn.Linear(1, 1)"),
    "another module": ({}, "m.spare, m.layer = m.layer, nn.Linear(6, 6)"),
    "hidden module": ({"teachers": lambda: [Holder()]}, "m.teachers[0].mean += 1"),
    "generator": ({"rng": lambda: torch.Generator().manual_seed(1)}, "torch.rand(2, generator=m.rng)"),
    "generator of NumPy": ({"rng": lambda: np.random.default_rng(1)}, "m.rng.random(2)"),
    "generator of Python": ({"rng": lambda: random.Random(1)}, "m.rng.random()"),
    "object": ({"calls": Calls}, "m.calls.count += 1; m.calls.seen[1]['inner'].append(3); m.calls.new = 1"),
    "dataclass": ({"moments": lambda: Moments(torch.ones(2))}, "m.moments.mean.add_(1); m.moments.count += 1"),
    "namespace": ({"moments": lambda: types.SimpleNamespace(count=1)}, "m.moments.count += 1"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_forward_pass_changes(name: str, fails: bool) -> None:
    attributes, statement = CHANGES[name]
    model = nn.Sequential(Holder(do(statement), **{key: build() for key, build in attributes.items()}))
    before, inside = copy.deepcopy(model), dict(vars(model[0]))
    with torch.no_grad(), contextlib.suppress(ZeroDivisionError), unchanged(model):
        model(numbers(2, WIDTH))
        assert not same(model, before)
        if fails:
            raise ZeroDivisionError
    assert same(model, before)
    assert all(vars(model[0])[key] is value for key, value in inside.items())


class Average(nn.Module):
    """Subtracts a moving average, as quantisers keep theirs: behind autograd's back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(WIDTH))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.average.data.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
            self.steps += 1
        return hidden - self.average


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral norm, old": lambda: nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm, old": lambda: nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "average": Average,
    "cumulative": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*spectral_norm:FutureWarning")
def test_training_goes_on_as_if_the_pass_had_not_been(name: str) -> None:
    def trained(scored: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), WRAPPED[name](), nn.Linear(WIDTH, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            if scored:
                with torch.no_grad(), unchanged(model):
                    model(numbers(8, WIDTH) * step)
            model(numbers(4, WIDTH)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    assert same(trained(scored=True), trained(scored=False))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_that_a_hook_computes_is_the_one_of_before() -> None:
    model = nn.utils.weight_norm(nn.Linear(WIDTH, 2))
    model(numbers(2, WIDTH))
    computed = model.weight
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
        assert model.weight is not computed
    assert model.weight is computed


def test_containers_of_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.listed = nn.ModuleList([nn.BatchNorm1d(WIDTH), Average()])
            self.named = nn.ModuleDict({"norm": nn.BatchNorm1d(WIDTH)})
            self.scales = nn.ParameterList([torch.ones(WIDTH), "not a tensor"])
            self.shifts = nn.ParameterDict({"shift": torch.zeros(WIDTH)})

        def forward(self, hidden: Tensor) -> Tensor:
            for module in [*self.listed, *self.named.values()]:
                hidden = module(hidden)
            self.named["late"] = nn.Identity()
            self.listed.append(nn.Identity())
            self.shifts["late"] = torch.ones(2)
            self.scales.append(torch.ones(2))
            return hidden * self.scales[0] + self.shifts["shift"]

    model = Net()
    before = copy.deepcopy(model)
    with torch.no_grad(), unchanged(model):
        model(numbers(4, WIDTH))
        assert len(model.scales) == 3
    assert same(model, before)
    assert (len(model.listed), list(model.named), len(model.scales), list(model.shifts)) == (2, ["norm"], 2, ["shift"])
    assert torch.equal(model.named["norm"].running_var, torch.ones(WIDTH))


def test_a_buffer_that_two_modules_share_stays_shared() -> None:
    model = nn.Sequential(Holder(do("m.mean = m.mean + 1")), Holder(do("m.mean += 1")))
    model[1].mean = model[0].mean
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
    assert model[0].mean is model[1].mean
    assert model[0].mean.tolist() == [0, 1, 2]


def test_graphs_of_before_can_be_used_after() -> None:
    """Of a buffer that the block did not write to: else the model itself would have spoilt them, too."""
    model = Holder(do("m.cache += 1"))
    weight = torch.ones(3, requires_grad=True)
    product = weight * model.mean  # saves the buffer
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
    product.sum().backward()
    assert weight.grad.tolist() == [0, 1, 2]
    assert model.cache.tolist() == [0, 1, 2, 3]


def test_graphs_that_the_model_spoils_are_still_known_as_spoilt() -> None:
    model = Holder(do("m.mean += 1"))
    product = torch.ones(3, requires_grad=True) * model.mean
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
        inside = model.mean._version
    assert model.mean._version > inside  # whoever noted this one saw other values
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_tensors_made_in_inference_mode() -> None:
    model = Holder(do("m.mean += 1; m.cache = m.cache + 1"))
    with torch.inference_mode():
        model.mean = torch.arange(3.0)
        model.seen = [torch.ones(2)]
    for mode in (torch.no_grad, torch.inference_mode):
        with contextlib.suppress(RuntimeError), unchanged(model), mode():
            model(numbers(2, WIDTH))  # refuses to write to them without inference mode
        assert model.mean.is_inference()
        assert (model.mean.tolist(), model.cache.tolist()) == ([0, 1, 2], [0, 1, 2, 3])


def test_other_layouts_and_devices() -> None:
    model = Holder(do("m.sparse.mul_(2); m.far += 1; m.scaled.view(torch.uint8).zero_()"))
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    model.far = torch.ones(3, device="meta")
    model.scaled = torch.ones(2).to(torch.float8_e4m3fn)
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
        assert model.sparse.to_dense().tolist() == [[2, 0], [0, 2]]
    assert model.sparse.to_dense().tolist() == [[1, 0], [0, 1]]
    assert model.scaled.float().tolist() == [1, 1]


def test_memory_that_was_released_is_left_alone() -> None:
    model = Holder(view=torch.ones(3))
    model.view.untyped_storage().resize_(0)
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
    assert model.view.untyped_storage().nbytes() == 0


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("m.layer.weight.mul_(2)", "0.layer.weight"),
        ("m.layer.bias.zero_(); m.layer.weight[0] = 1", "0.layer.weight, 0"),
    ],
)
def test_writing_to_parameters_is_refused_by_name(statement: str, names: str) -> None:
    model = nn.Sequential(Holder(do(f"m.mean += 1; {statement}")))
    with pytest.raises(ValueError, match=rf"Sequential writes to its parameters \({names}"), torch.no_grad():  # noqa: SIM117
        with unchanged(model):
            model(numbers(2, WIDTH))
    assert model[0].mean.tolist() == [0, 1, 2]


def test_what_the_block_raises_is_not_covered_up() -> None:
    model = Holder(do("m.layer.weight.zero_(); m.layer.missing"))
    with pytest.raises(AttributeError, match="missing"), torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))


def test_a_tied_embedding_that_is_rescaled() -> None:
    model = nn.Sequential(nn.Embedding(3, WIDTH, max_norm=0.1), nn.Linear(WIDTH, 3, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    with torch.no_grad(), unchanged(model):
        model(torch.arange(3))
        assert model[0].weight.norm(dim=1).max() < 0.2
    assert torch.equal(model[0].weight, before)


def test_shared_generators_are_spent() -> None:
    model = Holder(do("torch.rand(1)"), rng=torch.default_generator, draws=[np.random.mtrand._rand])
    before = torch.get_rng_state(), np.random.mtrand._rand.get_state()[2]
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
        np.random.mtrand._rand.random_sample()
    assert not torch.equal(torch.get_rng_state(), before[0])
    assert np.random.mtrand._rand.get_state()[2] != before[1]


def test_objects_of_packages_are_left_alone_but_not_lost() -> None:
    config = pytest.importorskip("transformers").BertConfig()
    model = Holder(do("m.config.hidden_size = 5; m.other = None"), config=config, other=config)
    with torch.no_grad(), unchanged(model):
        model(numbers(2, WIDTH))
    assert model.other is model.config is config
    assert config.hidden_size == 5


def test_hooks_stay_as_the_block_leaves_them() -> None:
    model = nn.Linear(WIDTH, 2)
    with unchanged(model):
        handle = model.register_forward_hook(lambda module, arguments, output: output + 1)
    assert list(model._forward_hooks) == [handle.id]


def test_names_of_what_has_no_shape_yet() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4, bias=False), nn.LazyBatchNorm1d())
    lazy = ["1.weight", "2.weight", "2.bias", "2.running_mean", "2.running_var"]
    assert uninitialised(model) == lazy
    with unchanged(model):
        pass
    assert uninitialised(model) == lazy
    model(torch.ones(5, 2))
    assert uninitialised(model) == []


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_a_gpu_is_never_waited_for() -> None:
    model = nn.Sequential(*[nn.BatchNorm1d(WIDTH) for _ in range(5)], Average()).cuda()
    before = copy.deepcopy(model.state_dict())
    hidden = numbers(4, WIDTH).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad(), unchanged(model):
            model(hidden)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
