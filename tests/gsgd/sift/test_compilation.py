"""`compile`: the eager engine's scores, rows, losses and gradients to the last bit, and graphs that are made once.

The backend "aot_eager" makes the same graphs as inductor and runs torch's own kernels, in eager order. Compiling takes
its time for each layer: models have one layer after the last exit that is read, and no more.
"""

import copy
import logging
import pickle

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch._dynamo as dynamo  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from gsgd import host, selectors  # noqa: E402
from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.compilation import Compiled, hardest  # noqa: E402
from gsgd.sift.scoring_pass.head_positions import HeadAtPositions  # noqa: E402

pytestmark = pytest.mark.slow  # what test_engine.py compiles is looked at by default
BACKEND = "aot_eager"
CASES = {
    "bert-mlm": {},
    "bert-mlm, labelled head": {"labelled_head": True},
    "bert-pretraining, labelled head": {"labelled_head": True},
    "bert-pretraining": {},
    "bert-classifier": {},
    "gpt2": {},
    "llama": {},
    "vit": {},
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    dynamo.reset()
    dynamo.utils.counters.clear()


def graphs():
    return dynamo.utils.counters["stats"]["unique_graphs"]


def pair(model, **options):
    """An eager engine on the model, and one that compiles on a copy of it."""
    return Sift(copy.deepcopy(model), reuse=False, **options), Sift(model, compile=BACKEND, **options)


def step(sift, batch, seed):
    """(loss, scores, kept rows, gradients)."""
    torch.manual_seed(seed)
    sift.model.zero_grad()
    loss = sift(**batch).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in sift.model.named_parameters() if p.grad is not None}
    return loss.detach(), sift.last.scores, sift.last.indices, found


def assert_same_step(eager, compiled, batch, seed):
    (loss, scores, rows, wanted), (found_loss, found_scores, found_rows, found) = (
        step(sift, batch, seed) for sift in (eager, compiled)
    )
    assert torch.equal(found_scores, scores)
    assert torch.equal(found_rows, rows)
    assert torch.equal(found_loss, loss)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# Compiling takes seconds: by default each way of reading labels once, on either kind of device.
QUICK = {("bert-mlm, labelled head", True), ("bert-pretraining, labelled head", False), ("vit", True), ("llama", False)}


@pytest.mark.parametrize(
    ("case", "on_a_device"),
    [
        pytest.param(case, device, marks=[] if (case, device) in QUICK else pytest.mark.slow)
        for case in CASES
        for device in (False, True)
    ],
)
def test_the_steps_are_the_eager_ones_and_compiled_once(case, on_a_device, build, make_batch, monkeypatch):
    """On a device score and choice are graphs, too; on the CPU they look at values."""
    if on_a_device:
        monkeypatch.setattr(host, "holds", lambda array: False)
    name = case.split(",")[0]
    model = build(name, dropout=0.1, layers=3)
    eager, compiled = pair(model, exit_layer=2, **CASES[case])
    made = []
    for seed in range(5):
        batch = make_batch(name, seed=seed)
        batch.pop("attention_mask", None)  # models read it to see whether there is padding
        assert_same_step(eager, compiled, batch, seed)
        made.append(graphs())
    # The first batches may differ in the number of labelled positions, and a second graph is then made for any number.
    assert made[0] >= 2
    assert made[-1] == made[2]
    assert (compiled._choice.graph._graphs is not None) == on_a_device
    convention = compiled.scorer.convention(batch)
    at_positions = convention.way == "positions" or convention.below is not None
    assert (compiled.scorer._compiled.function is not None) == (on_a_device and at_positions)
    assert compiled.totals.sharing.startswith("two passes: compile makes graphs")


def test_a_step_that_does_not_select_runs_the_compiled_model(build, make_batch):
    counter = CompileCounterWithBackend(BACKEND)
    sift = Sift(build("bert-mlm", layers=2), end_step=0, compile=BACKEND)
    sift._training_pass.compiled.backend = counter
    for seed in range(3):
        sift(**make_batch("bert-mlm", seed=seed)).loss.backward()
    assert counter.frame_count >= 1
    assert sift._training_pass.compiled._graphs is not None
    sift.model.eval()
    before = counter.frame_count
    sift(**make_batch("bert-mlm"))
    assert counter.frame_count == before, "evaluation is the model's own"


def test_what_is_logged_once_ends_no_graph(build, make_batch):
    """GPT-2's loss says that it takes the usual one; the user's own setting is what it was."""
    counter, before = CompileCounterWithBackend(BACKEND), dynamo.config.ignore_logger_methods
    sift = Sift(build("gpt2", n_layer=1), compile=BACKEND, score="random")
    sift._training_pass.compiled.backend = counter
    batch = make_batch("gpt2")
    del batch["attention_mask"]  # models read it to see whether there is padding
    sift(**batch).loss.backward()
    assert counter.frame_count == 1
    assert not dynamo.utils.counters["graph_break"]
    assert dynamo.config.ignore_logger_methods == before == set()


def test_what_torch_says_of_its_statistics_is_left_out_while_it_compiles(caplog):
    said, statistics = (
        "Unexpected exception logging compilation metrics",
        logging.getLogger("torch._dynamo.metrics_context"),
    )

    def speaks(number):
        statistics.error(said)
        statistics.error("something else")
        return number + 1

    with caplog.at_level(logging.ERROR, statistics.name):
        statistics.addHandler(caplog.handler)  # torch's loggers do not propagate
        try:
            assert Compiled(speaks, "a sum", CompileCounterWithBackend(BACKEND))(1) == 2
            assert "something else" in caplog.messages
            assert said not in caplog.messages
            statistics.error(said)
        finally:
            statistics.removeHandler(caplog.handler)
    assert said in caplog.messages


def test_two_engines_on_one_model_do_not_take_each_others_positions(build, make_batch):
    """What is compiled looks for no hooks that came later."""
    model = build("bert-mlm", dropout=0.0, layers=3)
    first = Sift(model, exit_layer=1, compile=BACKEND, labelled_head=True)
    first(**make_batch("bert-mlm"))
    eager, second = pair(model, exit_layer=2, labelled_head=True)
    hooks = [hook for hook in model.bert._forward_hooks.values() if isinstance(hook.__self__, HeadAtPositions)]
    assert len(hooks) == 1
    for seed in range(2):
        assert_same_step(eager, second, make_batch("bert-mlm", seed=seed), seed)
        first(**make_batch("bert-mlm", seed=seed))


@pytest.mark.parametrize("case", ["bert-pretraining, labelled head", "vit"])
def test_only_weights_and_buffers_count_as_lying_still(case, build, make_batch, monkeypatch):
    """What counts so and moves has a CUDA graph recorded anew at every step."""
    moving = []

    def backend(graph, inputs):
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        still = [node.name for node in nodes if "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})]
        moving.extend(name for name in still if "parameters" not in name and "buffers" not in name)
        assert len(nodes) > len(still)
        return graph

    monkeypatch.setattr(host, "holds", lambda array: False)
    name = f"looks at inputs of {case}"
    dynamo.register_backend(backend, name=name)
    sift = Sift(build(case.split(",")[0]), exit_layer=2, compile=name, **CASES[case])
    for seed in range(2):
        sift(**make_batch(case.split(",")[0], seed=seed)).loss.backward()
    assert sift._training_pass.compiled._graphs is not None
    assert moving == []


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # by peft's own calls
def test_the_labelled_head_of_a_model_with_adapters(build, make_batch):
    """PEFT's model has a `base_model`, too, which is not what lies below the head."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.0, init_lora_weights=False)
    model = peft.get_peft_model(build("bert-mlm", dropout=0.0, layers=3), config)
    eager, compiled = pair(model, exit_layer=2, labelled_head=True)
    for seed in range(2):
        assert_same_step(eager, compiled, make_batch("bert-mlm", seed=seed), seed)


def test_readings_in_another_mode_leave_the_graphs_right(build, make_batch):
    eager, compiled = pair(build("bert-mlm", dropout=0.1, layers=3), exit_layer=2)
    for seed in range(3):
        batch = make_batch("bert-mlm", seed=seed)
        assert_same_step(eager, compiled, batch, seed)
        for sift in (eager, compiled):
            torch.manual_seed(seed)
            sift.readings = sift.read(batch, exits=[1, 2])
        assert [entry.overlap for entry in compiled.readings] == [entry.overlap for entry in eager.readings]


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(build, make_batch, caplog):
    def refuses(graph, inputs):
        raise RuntimeError("no such kernel")

    dynamo.register_backend(refuses, name="refuses")
    caplog.set_level(logging.WARNING, logger="gsgd.sift.compilation")
    model = build("bert-mlm", dropout=0.0, layers=2)
    eager = Sift(copy.deepcopy(model), reuse=False)
    sift = Sift(model, compile="refuses")
    for seed in range(3):
        assert_same_step(eager, sift, make_batch("bert-mlm", seed=seed), seed)
    said = [record.getMessage() for record in caplog.records]
    assert sum("cannot be compiled and runs operator by operator" in text for text in said) == 2
    assert any(text.startswith("compiling the training pass: this can take minutes") for text in said)
    assert any("no such kernel" in text for text in said)


def test_errors_of_the_model_are_its_own(build, make_batch):
    sift = Sift(build("bert-mlm", layers=2), compile=BACKEND)
    batch = make_batch("bert-mlm")
    sift(**batch)
    batch["labels"][0, 1] = 10**6
    with pytest.raises((ValueError, IndexError)):
        sift(**batch)
    assert sift._training_pass.compiled.failed is None


def test_an_unknown_backend_is_named(build):
    with pytest.raises(ValueError, match=r"compile = 'inductr' is no backend .*did you mean 'inductor'"):
        Sift(build("bert-mlm"), compile="inductr")


def test_it_does_not_go_with_gross_statistics(build):
    with pytest.raises(ValueError, match='does not go with batchnorm = "gross"'):
        Sift(build("bert-mlm"), compile=True, batchnorm="gross")


def test_a_used_engine_can_be_pickled_and_goes_on(build, make_batch):
    eager, compiled = pair(build("bert-mlm", dropout=0.0, layers=2), labelled_head=True)
    assert_same_step(eager, compiled, make_batch("bert-mlm"), 0)
    other = pickle.loads(pickle.dumps(compiled))
    assert_same_step(eager, other, make_batch("bert-mlm", seed=1), 1)


@pytest.mark.parametrize("how", ["torch.compile", "model.compile"])
def test_a_model_that_the_user_compiled_is_not_compiled_at_every_step(how, build, make_batch):
    counter = CompileCounterWithBackend(BACKEND)
    model = build("bert-mlm", layers=2)
    if how == "torch.compile":
        model = torch.compile(model, backend=counter)
    else:
        model.compile(backend=counter)
    sift = Sift(model)
    counts = []
    for seed in range(6):
        sift(**make_batch("bert-mlm", seed=seed)).loss.backward()
        counts.append(counter.frame_count)
    assert counts[0] >= 1
    assert counts[-1] == counts[1]


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_the_choice_is_the_rules(kept):
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(4, (8,), generator=draw).double()  # with ties
        wanted = selectors.select_top_k(scores, kept).sort().values
        assert torch.equal(hardest(scores, kept), wanted)
    scores[2], scores[5] = float("nan"), float("inf")
    assert not {2, 5} & set(hardest(scores, 6).tolist())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
def test_inductors_kernels_agree_up_to_rounding(build, make_batch):
    eager, compiled = pair(build("bert-mlm", dropout=0.0, layers=3), exit_layer=2)
    compiled = Sift(compiled.model, exit_layer=2, compile=True)
    for seed in range(3):
        batch = make_batch("bert-mlm", seed=seed)
        loss, scores, rows, wanted = step(eager, batch, seed)
        found_loss, found_scores, found_rows, found = step(compiled, batch, seed)
        torch.testing.assert_close(found_scores, scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(found_rows, rows)
        torch.testing.assert_close(found_loss, loss, rtol=1e-4, atol=0)
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-5)


# ---- On a GPU: graphs are replayed as a whole, and what they return lies in memory that they write to again ----

INDUCTORS_OWN = "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
TF32 = "ignore:TensorFloat32 tensor cores:UserWarning"


@pytest.mark.filterwarnings(INDUCTORS_OWN, TF32, "ignore:(?s).*Online softmax is disabled:UserWarning")
@pytest.mark.gpu
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("keep_gradients", [False, True])
def test_training_by_replayed_graphs_is_the_eager_training(accumulation_steps, keep_gradients, build, make_batch):
    """Losses, scores and rows are read after the last step only, as a log does; between steps the model is evaluated.

    Args:
        keep_gradients: whether gradients are set to zero between steps and their memory is kept.
    """
    model = build("bert-mlm", dropout=0.0).cuda()
    options = {"exit_layer": 2, "labelled_head": True, "accumulation_steps": accumulation_steps, "start_step": 2}
    eager = Sift(copy.deepcopy(model), reuse=False, **options)
    compiled = Sift(model, compile=True, **options)
    found = {}
    for name, sift in (("eager", eager), ("compiled", compiled)):
        optimizer = torch.optim.AdamW(sift.model.parameters(), lr=1e-3, fused=True)
        found[name] = []
        for seed in range(12):
            batch = {key: value.cuda() for key, value in make_batch("bert-mlm", seed=seed).items()}
            batch.pop("attention_mask", None)
            loss = sift(**batch).loss
            loss.backward()
            if (seed + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=not keep_gradients)
            found[name].append((loss, sift.last.scores, sift.last.indices))
            if seed == 7:
                sift.model.eval()
                with torch.no_grad():
                    found[name].append((sift(**batch).loss, None, torch.tensor(0)))
                sift.model.train()
        sift.finish_checks()
    for (loss, scores, rows), (wanted, wanted_scores, wanted_rows) in zip(
        found["compiled"], found["eager"], strict=True
    ):
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
        if scores is not None:
            torch.testing.assert_close(scores, wanted_scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(rows.cpu(), wanted_rows.cpu())
    weights = dict(eager.model.named_parameters())
    for name, weight in compiled.model.named_parameters():
        # AdamW divides by the size of a gradient, so that rounding shows where that is almost nothing.
        torch.testing.assert_close(weight, weights[name], rtol=1e-2, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings(INDUCTORS_OWN, TF32, "ignore:(?s).*Online softmax is disabled:UserWarning")
def test_a_trainers_steps_on_a_gpu_by_replayed_graphs(build, make_batch, tmp_path):
    from transformers import TrainingArguments

    from gsgd.sift import SiftArguments, SiftTrainer

    rows = [{key: value[0] for key, value in make_batch("bert-mlm", seed=seed).items()} for seed in range(64)]
    found = {}
    for compile in (False, True):
        torch.manual_seed(0)
        arguments = TrainingArguments(
            str(tmp_path / str(compile)),
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            max_steps=6,
            bf16=True,
            logging_steps=2,
            report_to=[],
            save_strategy="no",
        )
        sift_arguments = SiftArguments(exit_layer=2, compile=compile, **({} if compile else {"reuse": False}))
        trainer = SiftTrainer(build("bert-mlm", dropout=0.0), arguments, train_dataset=rows, sift=sift_arguments)
        trainer.train()
        found[compile] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(found[True]) == 3
    assert found[True] == pytest.approx(found[False], rel=0.02)
