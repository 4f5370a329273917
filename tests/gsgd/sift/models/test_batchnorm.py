"""BatchNorm under selection: each semantics against two passes written out here, running statistics included."""

import collections
import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gsgd.sift import Sift  # noqa: E402
from training.images.resnet import EarlyExitResNet  # noqa: E402

KINDS = nn.modules.batchnorm._BatchNorm
ROWS, KEPT, CLASSES = 8, 3, 4


def resnet(dtype=torch.float64, momentum=0.1):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6, 8], depths=[2, 1, 1], layer_type="basic", num_labels=CLASSES,
        exit_stage=2, small_images=True, downsample_in_first_stage=False,
    )  # fmt: skip
    model = EarlyExitResNet(config)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, KINDS):
            module.momentum = momentum
            # Other values than ones and zeros, so that a mix-up shows.
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator)
            module.running_mean.normal_(generator=generator)
    return model.to(dtype).train()


def images(seed=0, dtype=torch.float64, rows=ROWS):
    draw = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(rows, 3, 8, 8, generator=draw).to(dtype),
        "labels": torch.randint(CLASSES, (rows,), generator=draw),
    }


def take(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def loss_of(output):
    return output if isinstance(output, torch.Tensor) else output.loss


def by_hand(norm, x, mean, variance):
    shape = (1, -1) + (1,) * (x.dim() - 2)
    normal = (x - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()
    return normal if norm.weight is None else normal * norm.weight.view(shape) + norm.bias.view(shape)


def move(norm, mean, unbiased):
    """The running statistics of the documentation: exponential, or with momentum=None the mean over all batches."""
    if norm.running_mean is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.copy_((1 - share) * norm.running_mean + share * mean)
    norm.running_var.copy_((1 - share) * norm.running_var + share * unbiased)


def two_passes(model, batch, exit_layer, semantics):
    """(loss, kept rows) of a model whose BatchNorm is replaced by one written out; backward has been called.

    Pass 1 normalises the gross batch by itself and changes no state. Pass 2 normalises the kept rows by their own
    statistics ("kept") or, in the modules that pass 1 went through, by those of pass 1 as constants ("gross").
    """
    norms = [module for module in model.modules() if isinstance(module, KINDS) and module.training]
    taken = collections.defaultdict(collections.deque)
    scoring = True

    def normalise(norm, x):
        dims = [dim for dim in range(x.dim()) if dim != 1]
        count = x.numel() // x.shape[1]
        mean, variance = x.mean(dims), x.var(dims, unbiased=False)
        if scoring:
            taken[norm].append((mean, variance, count))
            return by_hand(norm, x, mean, variance)
        if semantics == "gross" and taken[norm]:
            mean, variance, count = taken[norm].popleft()
        with torch.no_grad():
            move(norm, mean.detach(), variance.detach() * count / (count - 1))
        return by_hand(norm, x, mean, variance)

    for norm in norms:
        norm.forward = lambda x, norm=norm: normalise(norm, x)
    try:
        with torch.no_grad():
            logits = model.early_logits(exit_layer, **{k: v for k, v in batch.items() if k != "labels"})
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
            kept = losses.topk(KEPT).indices.sort().values
        scoring = False
        loss = loss_of(model(**take(batch, kept)))
        loss.backward()
    finally:
        for norm in norms:
            del norm.forward
    return loss.detach(), kept.tolist()


class Computed(TorchDispatchMode):
    """Counts the operations that are really carried out; entered outside of Sift's own mode."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[str(function.overloadpacket).removeprefix("aten.")] += 1
        return function(*args, **(kwargs or {}))


def follow(model, batches, exit_layer=1, tolerance=1e-11, **options):
    """Steps of Sift and of the reference on models that begin alike; returns what each training pass computed."""
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=exit_layer, keep=KEPT / ROWS, **options)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, reference)]
    counts = []
    for batch in batches:
        for m in (model, reference):
            m.zero_grad()
        rows = sift.choose(batch)
        with Computed() as computed:
            found = loss_of(sift.forward_kept(rows))
        counts.append(computed.calls)
        found.backward()
        wanted, kept = two_passes(reference, batch, exit_layer, options.get("batchnorm", "kept"))
        assert sift.last.indices.tolist() == kept
        torch.testing.assert_close(found.detach(), wanted, rtol=tolerance, atol=tolerance)
        for (name, one), two in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None), name
            if one.grad is not None:
                torch.testing.assert_close(one.grad, two.grad, rtol=tolerance, atol=tolerance, msg=name)
        for (name, one), two in zip(model.named_buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance, msg=name)
        for optimizer in optimizers:
            optimizer.step()
        assert not any("forward" in module.__dict__ for module in model.modules())
    return counts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("semantics", ["kept", "gross"])
@pytest.mark.parametrize("exit_layer", [1, 2])
def test_resnet_equals_its_two_passes(exit_layer, semantics, reuse, dtype, warnings_said):
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    batches = [images(seed, dtype) for seed in range(4)]
    counts = follow(resnet(dtype), batches, exit_layer, tolerance, reuse=reuse, batchnorm=semantics)
    # Of all convolutions gross sharing leaves those after the exit: two in the last stage, and its shortcut's. Before
    # the exit it leaves shortcuts, by 1x1 of few channels: of the second stage, and for exit 2 of the last.
    every = 1 + 2 * 2 + (2 + 1) + (2 + 1)
    after_exit, shortcuts = (3, 1) if exit_layer == 1 else (0, 2)
    left = every if not reuse else every - 1 if semantics == "kept" else after_exit + shortcuts
    assert counts[-1]["convolution"] == left
    # With "kept" it is said that sharing ends.
    assert len(warnings_said()) == (reuse and semantics == "kept")


@pytest.mark.parametrize("exit_layer", [1, 2])
def test_resnet_with_the_channels_last(exit_layer, warnings_said):
    """Its images end as single pixels, whose convolutions are computed as products, and whose mean is laid out anew."""
    layout = torch.channels_last
    batches = [
        {**batch, "pixel_values": batch["pixel_values"].to(memory_format=layout)} for batch in map(images, range(3))
    ]
    model = resnet()
    model.resnet.encoder.stages[2].layers[0].layer[0].convolution.stride = (4, 4)
    model.resnet.encoder.stages[2].layers[0].shortcut.convolution.stride = (4, 4)
    counts = follow(model.to(memory_format=layout), batches, exit_layer, batchnorm="gross")
    assert counts[-1]["convolution"] == (4 if exit_layer == 1 else 2)
    assert counts[-1]["addmm"] == (1 if exit_layer == 1 else 0)  # the classifiers
    assert warnings_said() == []


@pytest.mark.parametrize("semantics", ["kept", "gross"])
def test_the_rest_of_the_model_is_not_followed(semantics):
    """Where a model says which module ends its exit."""
    model, followed = resnet(), []
    for stage in model.resnet.encoder.stages:
        stage.register_forward_hook(lambda *_: followed.append(_get_current_dispatch_mode() is not None))
    sift = Sift(model, exit_layer=1, keep=KEPT / ROWS, batchnorm=semantics, check=False)
    sift.scorer.convention(images())
    followed.clear()
    sift(**images())
    assert followed == [True, True, True, True, False]  # of scoring two stages, of training three


@pytest.mark.parametrize("semantics", ["kept", "gross"])
def test_cumulative_running_statistics(semantics):
    model = resnet(momentum=None)
    follow(model, [images(seed) for seed in range(3)], batchnorm=semantics)
    assert model.resnet.embedder.embedder.normalization.num_batches_tracked == 3


def test_the_two_semantics_differ():
    losses = []
    for semantics in ("kept", "gross"):
        losses.append(loss_of(Sift(resnet(), keep=KEPT / ROWS, batchnorm=semantics)(**images())).item())
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("semantics", ["kept", "gross"])
def test_two_rows_at_least_are_kept(semantics):
    """By its own a row has no variance where the image is a single pixel."""
    model = Net(lambda self, x: self.norm(self.one(x.mean((2, 3)))), 2).double()
    model.late_norm = nn.Identity()
    sift = Sift(model, keep=1 / ROWS, batchnorm=semantics)
    sift(**images()).backward()
    assert sift.last.kept == 2
    assert sift.last.indices.tolist() == sorted(sift.last.scores.topk(2).indices.tolist())
    assert model.norm.weight.grad.abs().max() > 0
    for rows, selected in ((2, 0), (3, 1)):  # of two rows there is nothing to select
        found = Sift(model, keep=0.5, batchnorm=semantics)
        found(**images(rows=rows)).backward()
        assert (found.totals.selected_steps, found.totals.idle_steps) == (selected, 1 - selected)
        assert found.last.kept == 2
    for module in model.modules():
        if isinstance(module, KINDS):
            module.eval()
    sift(**images())
    assert sift.last.kept == 1


class Net(nn.Module):
    """A block with an exit after it, which is any function of (self, pixels)."""

    exit_layers = 2

    def __init__(self, block, dims=4, **options):
        super().__init__()
        torch.manual_seed(0)
        kind = nn.BatchNorm2d if dims == 4 else nn.BatchNorm1d
        self.block, self.calls, self.dims = block, 0, dims
        self.norm, self.other, self.late_norm = (kind(3, **options) for _ in range(3))
        self.one, self.two = (nn.Linear(3, 3) if dims < 4 else nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.early, self.late = nn.Linear(3, CLASSES), nn.Linear(3, CLASSES)

    def flat(self, h):
        return h if h.dim() == 2 else h.mean((2, 3))

    def forward(self, labels=None, pixel_values=None):
        self.calls += 1
        hidden = self.block(self, pixel_values)
        early = self.early(self.flat(hidden))
        hidden = self.late_norm(self.two(hidden))
        return F.cross_entropy(early + self.late(self.flat(hidden)), labels)

    def early_logits(self, exit_layer, pixel_values):
        self.calls += 1
        return self.early(self.flat(self.block(self, pixel_values)))


def plain(self, x):
    return self.norm(self.one(x)).relu()


def twice(self, x):
    return self.norm(self.one(self.norm(self.one(x)).relu_())).relu_()


def two_norms_in_any_order(self, x):
    """Scoring goes through both, one before the other; training the other way round."""
    first, second = (self.norm, self.other) if len(x) == ROWS else (self.other, self.norm)
    return second(self.one(first(self.one(x))))


def one_norm_is_skipped(self, x):
    h = self.one(x)
    return self.other(self.norm(h) if len(x) == ROWS else h)


def with_an_instance_norm(self, x):
    return self.norm(F.instance_norm(self.one(x))).relu()


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("semantics", ["kept", "gross"])
@pytest.mark.parametrize("block", [plain, twice, two_norms_in_any_order, one_norm_is_skipped, with_an_instance_norm])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_norms_get_their_own_statistics(options, block, semantics, reuse):
    if "affine" in options and block in (two_norms_in_any_order, one_norm_is_skipped):
        pytest.skip("without weights nothing tells two norms of as many channels apart: they are told by their order")
    follow(Net(block, **options).double(), [images(seed) for seed in range(3)], reuse=reuse, batchnorm=semantics)


@pytest.mark.parametrize("semantics", ["kept", "gross"])
def test_frozen_norms_are_by_their_running_statistics(semantics):
    """As fine-tuning has them: a module in eval mode in a model that trains. It is no obstacle to sharing."""
    model = Net(plain).double()
    model.norm.running_mean.uniform_()
    model.norm.eval()
    counts = follow(model, [images(seed) for seed in range(3)], batchnorm=semantics)
    assert counts[-1]["convolution"] == 1  # the one after the exit
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize("semantics", ["kept", "gross"])
def test_a_function_in_place_of_a_module(semantics, warnings_said):
    """F.batch_norm has no module to be told the gross statistics: it takes the kept rows', and sharing ends."""

    def block(self, x):
        return self.one(F.batch_norm(self.one(x), None, None, training=True)).relu()

    model = Net(block).double()
    reference = copy.deepcopy(model)
    sift = Sift(model, keep=KEPT / ROWS, batchnorm=semantics)
    for seed in range(3):
        model.zero_grad()
        reference.zero_grad()
        rows = sift.choose(images(seed))
        found = sift.forward_kept(rows)
        found.backward()
        wanted = reference(**rows)
        wanted.backward()
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(model.one.weight.grad, reference.one.weight.grad, rtol=1e-11, atol=1e-12)
    reason = {"kept": "BatchNorm normalises the kept rows by their own statistics", "gross": "is not what it was"}
    assert reason[semantics] in warnings_said()[0]


@pytest.mark.parametrize("reuse", [True, False])
def test_gross_statistics_do_not_end_where_sharing_does(reuse):
    """Draws that cannot be cut end the sharing, and the norm after them still goes by the gross batch."""
    seen = []

    def block(self, x):
        return self.norm(self.one(x) + 0 * torch.randperm(3, dtype=x.dtype).view(1, 3, 1, 1))

    model = Net(block).double()
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    sift = Sift(model, keep=KEPT / ROWS, batchnorm="gross", reuse=reuse, check=False)
    sift.scorer.convention(images())
    for seed in range(2):
        seen.clear()
        sift(**images(seed)).backward()
        (gross, _), (kept, normal) = seen
        mean, variance = gross.mean((0, 2, 3)), gross.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(normal, by_hand(model.norm, kept, mean, variance), rtol=1e-10, atol=1e-10)


def test_a_forward_of_the_users_own_comes_back():
    model = Net(plain).double()
    mine = model.norm.forward
    model.norm.forward = mine
    Sift(model, keep=KEPT / ROWS, batchnorm="gross")(**images())
    assert model.norm.__dict__["forward"] is mine
    assert "forward" not in model.other.__dict__


@pytest.mark.parametrize("when", ["scoring", "training"])
def test_an_exception_restores_the_norms(when):
    model = Net(plain).double()
    sift = Sift(model, keep=KEPT / ROWS, batchnorm="gross")
    rows = sift.choose(images())

    def failing(*_):
        raise RuntimeError("in the middle")

    hook = model.norm.register_forward_hook(failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        sift.choose(images()) if when == "scoring" else sift.forward_kept(rows)
    hook.remove()
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert all(module.track_running_stats for module in model.modules() if isinstance(module, KINDS))
    before = model.norm.num_batches_tracked.clone()
    sift(**images()).backward()
    assert model.norm.num_batches_tracked == before + 1


def test_other_rows_are_normalised_by_their_own():
    model = Net(plain).double()
    reference = copy.deepcopy(model)
    sift = Sift(model, keep=KEPT / ROWS, batchnorm="gross")
    sift.choose(images())
    other = images(7, rows=4)
    torch.testing.assert_close(sift.forward_kept(other), reference(**other), rtol=1e-12, atol=0)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # while scoring, of the reentrant kind
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_norms_are_refused(reentrant, reuse):
    """The backward pass would normalise again, when the gross statistics are gone."""

    def block(self, x):
        return checkpoint(lambda h: self.norm(self.one(h)), x, use_reentrant=reentrant)

    sift = Sift(Net(block).double(), keep=KEPT / ROWS, batchnorm="gross", reuse=reuse)
    with pytest.raises(ValueError, match="activation checkpointing"):
        sift(**images())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"score": "random"}, "score = 'random'"),
        ({"scoring_mode": "eval"}, "scoring_mode = 'eval'"),
        ({"scoring_mode": "frozen-batchnorm"}, "scoring_mode = 'frozen-batchnorm'"),
        ({"scope": "global"}, "scope = 'global'"),
        ({"score_batch_size": 4}, "score_batch_size = 4"),
    ],
)
def test_gross_statistics_need_a_scoring_pass_of_the_whole_batch(options, text):
    with pytest.raises(ValueError, match=text):
        Sift(Net(plain), batchnorm="gross", **options)


def test_gross_statistics_and_a_compiled_model_are_refused():
    sift = Sift(torch.compile(Net(plain), backend="eager"), batchnorm="gross", keep=KEPT / ROWS)
    with pytest.raises(ValueError, match=r"torch\.compile"):
        sift(**images(dtype=torch.float32))
