"""What stays two passes, and why; what wraps models: checkpointing, compiled layers, adapters, accelerate."""

import contextlib
import functools

import pytest
import torch
import torch.nn.functional as F
from passes import assert_same, inputs, tower
from torch.utils.checkpoint import checkpoint

from gsgd.sift import Sift


@pytest.fixture
def equal(build, make_batch):
    """equal(prepare, ...): BERT with and without sharing, scored in `choosing`, all of it in `around`; no dropout."""
    no = contextlib.nullcontext

    def run(prepare=lambda model: model, choosing=no, around=no, dtype="float64", tolerance=1e-12, **options):
        torch._dynamo.reset()
        models = [prepare(build("bert-mlm", dtype=dtype)) for _ in range(2)]
        sifts = [Sift(m, exit_layer=2, reuse=reuse, **options) for m, reuse in zip(models, (True, False), strict=True)]
        with around():
            for seed in range(3):
                losses = []
                for sift in sifts:
                    with choosing():
                        rows = sift.choose(make_batch("bert-mlm", seed=seed))
                    if choosing is torch.inference_mode:
                        rows = {name: value.clone() for name, value in rows.items()}
                    losses.append(sift.forward_kept(rows).loss)
                assert sifts[0].last.indices.tolist() == sifts[1].last.indices.tolist()
                with torch.autocast("cpu", enabled=False):
                    assert_same(*losses, *models, tolerance)
        torch._dynamo.reset()

    return run


def changed(change):
    """A model that is changed in place."""
    return {"prepare": lambda model: (change(model), model)[1]}


def checkpoint_layers(model):  # the name in transformers since 5.18, or the one before
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")()


def wrap_the_first_layer(model):
    layers = model.bert.encoder.layer
    layers[0] = torch.compile(layers[0], backend="eager")


def adapted(model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.0, init_lora_weights=False)
    return peft.get_peft_model(model, config)


def accelerated(model):
    """Its autocast lives on the model's forward, which the scoring view takes over; a loop may add its own."""
    accelerate = pytest.importorskip("accelerate")
    reset = functools.partial(accelerate.state.AcceleratorState._reset_state, reset_partial_state=True)
    reset()  # the process has one, of whichever test came first
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    reset()
    return prepared


BF16 = functools.partial(torch.autocast, "cpu", torch.bfloat16)
ACCELERATED = {"prepare": accelerated, "dtype": "float32", "tolerance": 3e-2}
PARTS = "parts of the model up to the exit"
WHOLE = "torch.compile runs the whole model"
CASES = {
    "adapters": ({"prepare": adapted}, None),
    "accelerate": (ACCELERATED, None),
    "accelerate and a block around scoring": ({**ACCELERATED, "choosing": BF16}, None),
    "accelerate and a block around all": ({**ACCELERATED, "around": BF16}, None),
    "another precision": ({"choosing": BF16, "dtype": "float32", "tolerance": 1e-6}, "training shares only a part"),
    "eval": ({"scoring_mode": "eval"}, "scoring_mode='eval' scores another function"),
    "parts": ({"score_batch_size": 3}, "score_batch_size bounds the memory"),
    "inference mode": ({"choosing": torch.inference_mode}, "inference mode"),
    "checkpointed": (changed(checkpoint_layers), "activation checkpointing"),
    "compiled": ({"prepare": lambda model: torch.compile(model, backend="eager")}, WHOLE),
    "compiled in place": (changed(lambda model: model.compile(backend="eager")), WHOLE),
    "a compiled layer": (changed(wrap_the_first_layer), PARTS),
    "compiled embeddings": (changed(lambda model: model.bert.embeddings.compile(backend="eager")), PARTS),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # by peft's own calls
@pytest.mark.parametrize(("options", "reason"), CASES.values(), ids=CASES)
def test_what_is_shared_and_what_makes_two_passes_and_says_why(options, reason, equal, warnings_said):
    equal(**options)
    assert [reason in text for text in warnings_said()] == [True] * (reason is not None), "said once"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # while scoring, of the reentrant kind
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_a_models_own(reentrant, warnings_said):
    """No flag says so; the hooks on saved tensors do, or the missing gradients, and what is drawn is drawn once."""
    seen = []

    def inner(self, h):
        seen.append(F.dropout(torch.ones_like(h), 0.5))
        return self.two(h) * seen[-1]

    sift = Sift(tower(lambda s, x: s.norm(checkpoint(inner, s, s.one(x), use_reentrant=reentrant))), keep=3 / 8)
    for seed in range(3):
        sift(**inputs(seed)).backward()
        assert len(seen[-1]) == 3
        assert torch.equal(seen[-1], seen[-2]), "the backward pass drew anew"
    assert warnings_said()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_after_the_exit_are_compiled_and_the_others_shared(equal, warnings_said):
    ran = []

    def backend(graph, example_inputs):
        return lambda *args: (ran.append(1), graph.forward(*args))[1]

    def compile_the_last(model):
        for layer in model.bert.encoder.layer[2:]:
            layer.compile(backend=backend, dynamic=False)

    equal(**changed(compile_the_last))
    assert len(ran) == 3 * 2 * 2, "the layers after the exit ran uncompiled"
    assert not warnings_said()
