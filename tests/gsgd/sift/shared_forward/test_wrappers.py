"""What stays two passes, and why; what wraps models: checkpointing, compiled layers, adapters, accelerate, Trainer."""

import contextlib
import functools

import pytest
import torch
import torch.nn.functional as F
from passes import Computed, assert_same, counted, follow, inputs, tower
from torch.utils.checkpoint import checkpoint

from gsgd.sift import Sift


@pytest.fixture
def equal(build, make_batch):
    """equal(prepare, ...): a prepared BERT with and without sharing; without dropout, as both draw for themselves."""

    def run(prepare=lambda model: model, choosing=contextlib.nullcontext, dtype="float64", **options):
        torch._dynamo.reset()
        models = [prepare(build("bert-mlm", dtype=dtype)) for _ in range(2)]
        sifts = [Sift(m, exit_layer=2, reuse=reuse, **options) for m, reuse in zip(models, (True, False), strict=True)]
        for seed in range(3):
            with choosing():
                rows = [sift.choose(make_batch("bert-mlm", seed=seed)) for sift in sifts]
            assert sifts[0].last.indices.tolist() == sifts[1].last.indices.tolist()
            if choosing is torch.inference_mode:
                rows = [{name: value.clone() for name, value in part.items()} for part in rows]
            losses = [sift.forward_kept(part).loss for sift, part in zip(sifts, rows, strict=True)]
            assert_same(*losses, *models, 1e-12 if dtype == "float64" else 1e-6)
        torch._dynamo.reset()

    return run


def changed(change):
    """A model that is changed in place."""
    return lambda model: (change(model), model)[1]


def checkpointed(reentrant):
    def enable(model):  # the name in transformers since 5.18, or the one before
        name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": reentrant})

    return changed(enable)


def wrap_the_first_layer(model):
    layers = model.bert.encoder.layer
    layers[0] = torch.compile(layers[0], backend="eager")


PARTS = "parts of the model up to the exit"
WHOLE = "torch.compile runs the whole model"
TWO_PASSES = {
    "eval": ({"scoring_mode": "eval"}, "scoring_mode='eval' scores another function"),
    "parts": ({"score_batch_size": 3}, "score_batch_size bounds the memory"),
    "inference mode": ({"choosing": torch.inference_mode}, "inference mode"),
    "checkpointed": ({"prepare": checkpointed(False)}, "activation checkpointing"),
    "checkpointed, reentrant": ({"prepare": checkpointed(True)}, "activation checkpointing"),
    "compiled": ({"prepare": lambda model: torch.compile(model, backend="eager")}, WHOLE),
    "compiled in place": ({"prepare": changed(lambda model: model.compile(backend="eager"))}, WHOLE),
    "a compiled layer": ({"prepare": changed(wrap_the_first_layer)}, PARTS),
    "compiled embeddings": ({"prepare": changed(lambda model: model.bert.embeddings.compile(backend="eager"))}, PARTS),
    "compiled layers": (
        {"prepare": changed(lambda model: [layer.compile(backend="eager") for layer in model.bert.encoder.layer])},
        PARTS,
    ),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
@pytest.mark.parametrize(("options", "reason"), TWO_PASSES.values(), ids=TWO_PASSES)
def test_what_makes_two_passes_and_says_why(options, reason, equal, warnings_said):
    equal(**options)
    assert [reason in text for text in warnings_said()] == [True], "said once"


def test_scoring_in_another_precision_is_not_taken_for_the_training_pass(equal, warnings_said):
    equal(choosing=functools.partial(torch.autocast, "cpu", torch.bfloat16), dtype="float32")
    assert "training shares only a part" in warnings_said()[0]


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # by peft's own calls
def test_adapters_are_shared(equal, warnings_said):
    peft = pytest.importorskip("peft")

    def adapted(model):
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.0, init_lora_weights=False)
        return peft.get_peft_model(model, config)

    equal(adapted)
    assert not warnings_said()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # while scoring, of the reentrant kind
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_a_models_own(reentrant, drops, warnings_said):
    """No flag says so; the hooks on saved tensors do, or the missing gradients, and what is drawn is drawn once."""
    seen = []

    def inner(self, h):
        seen.append(F.dropout(torch.ones_like(h), 0.5, training=drops))
        return self.two(h) * seen[-1]

    model = tower(lambda s, x: s.norm(checkpoint(inner, s, s.one(x), use_reentrant=reentrant)))
    if not drops:
        follow(model, *map(inputs, range(3)))
        return
    sift = Sift(model, keep=3 / 8)
    for seed in range(3):
        sift(**inputs(seed)).backward()
        assert len(seen[-1]) == 3
        assert torch.equal(seen[-1], seen[-2]), "the backward pass drew anew"
    assert warnings_said()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_after_the_exit_are_compiled_and_the_others_shared(build, make_batch, warnings_said):
    ran = []

    def backend(graph, example_inputs):
        return lambda *args: (ran.append(1), graph.forward(*args))[1]

    torch._dynamo.reset()
    model, reference = (build("bert-mlm", dtype="float64") for _ in range(2))
    for layer in model.bert.encoder.layer[2:]:
        layer.compile(backend=backend, dynamic=False)
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        ran.clear()
        rows = sift.choose(make_batch("bert-mlm", seed=seed))
        found = sift.forward_kept(rows).loss
        assert_same(found, reference(**rows).loss, model, reference)
        assert len(ran) >= 2, "the layers after the exit ran uncompiled"
    assert not warnings_said()
    torch._dynamo.reset()


@pytest.mark.parametrize("around", ["nothing", "scoring", "both", "all steps"])
def test_accelerate_in_bf16(around, build, make_batch, warnings_said):
    """Its autocast lives on the prepared model's forward, which the scoring view takes over; a loop may add its own."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # the process has one, of whichever test came first
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    models = [accelerator.prepare(build("bert-mlm")) for _ in range(2)]
    sifts = [Sift(model, exit_layer=2, reuse=reuse) for model, reuse in zip(models, (True, False), strict=True)]

    def autocast(*where):
        return accelerator.autocast() if around in where else contextlib.nullcontext()

    with autocast("all steps"):
        for step in range(3):
            found = []
            for sift in sifts:
                with autocast("both"):
                    with autocast("scoring"):
                        rows = sift.choose(make_batch("bert-mlm", seed=step))
                    found.append(counted(sift.forward_kept, rows))
            with torch.autocast("cpu", enabled=False):
                assert_same(*(loss for loss, _ in found), *models, 3e-2)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert [calls["addmm"] for _, calls in found] == [2 * 6 + 3 + 2, 4 * 6 + 2]
    assert not warnings_said()


def test_trainer_with_and_without_sharing_gives_the_same_weights(build, make_batch, tmp_path, warnings_said):
    from transformers import TrainingArguments

    from gsgd.sift.trainer import SiftArguments, SiftTrainer

    batch = make_batch("bert-mlm", rows=32)
    rows = [{name: value[row] for name, value in batch.items()} for row in range(32)]

    def run(reuse, accumulation=1, **options):
        model = build("bert-mlm", dtype="float64")
        arguments = TrainingArguments(
            str(tmp_path), max_steps=4, per_device_train_batch_size=8 // accumulation, report_to=[], save_strategy="no",
            gradient_accumulation_steps=accumulation, use_cpu=True, disable_tqdm=True, learning_rate=1e-3, seed=0,
        )  # fmt: skip
        sift = SiftArguments(exit_layer=2, reuse=reuse, **options)
        trainer = SiftTrainer(model=model, args=arguments, train_dataset=rows, sift=sift)
        with Computed() as computed:
            trainer.train()
        assert trainer.sift.totals.selected_steps == 4 * accumulation
        return model.state_dict(), computed.calls["addmm"]

    for options in ({}, {"labelled_head": True}):
        (found, fewer), (wanted, more) = run(True, **options), run(False, **options)
        # Two layers of six products, less three behind the last attention, in three of four steps: in the first they
        # are compared.
        assert more - fewer == 3 * (2 * 6 - 3)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)
    assert not warnings_said()
    run(True, accumulation=2)
    assert [text for text in warnings_said() if "micro-batches" in text], "it did not say why"
