"""A view cut after layer j against a deep copy cut by hand, on every architecture."""

import copy
import types

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from gsgd.sift import EarlyExit, count_exits, exit_view  # noqa: E402
from gsgd.sift.exits import find_layers, layers_after  # noqa: E402
from gsgd.sift.models.wrappers import unwrap  # noqa: E402

EXITS = range(1, 5)


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name not in ("labels", "next_sentence_label")}


@torch.no_grad()
def predict(model, batch):
    return model(**inputs_of(batch))[0]


def describe(model):
    """What must not change: names, identities, modes, hooks, and the bytes of every entry of the state dict."""
    return (
        [(name, id(module), module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, value.data_ptr(), value.clone()) for name, value in model.state_dict().items()],
    )


def assert_unchanged(before, after):
    assert before[0] == after[0]
    assert [entry[:2] for entry in before[1]] == [entry[:2] for entry in after[1]]
    assert all(torch.equal(a[2], b[2]) for a, b in zip(before[1], after[1], strict=True))


def test_a_view_predicts_as_a_truncated_copy_bit_for_bit(name, build, make_batch, stack_of, truncated):
    model, batch = build(name, dropout=0.1).eval(), make_batch(name)
    for j in EXITS:
        expected = predict(truncated(model, stack_of(name), j), batch)
        assert torch.equal(predict(exit_view(model, j), batch), expected)
    assert torch.equal(predict(exit_view(model, 4), batch), predict(model, batch))
    early, late = predict(exit_view(model, 1), batch), predict(exit_view(model, 4), batch)
    assert not torch.allclose(early, late, atol=1e-2)  # or the above would say nothing


def test_layers_are_found_where_the_architecture_keeps_them(name, build, stack_of):
    model = build(name)
    found, layers = find_layers(model)
    assert found == stack_of(name)
    assert layers is model.get_submodule(stack_of(name))
    assert count_exits(model) == 4


def test_a_view_shares_every_weight_and_buffer(name, build, stack_of):
    model = build(name)
    own = {key: value.data_ptr() for key, value in (*model.named_parameters(), *model.named_buffers())}
    view = exit_view(model, 2)
    seen = dict((*view.named_parameters(), *view.named_buffers()))
    assert all(value.data_ptr() == own[key] for key, value in seen.items())
    cut = {key for key in own if key.startswith((f"{stack_of(name)}.2.", f"{stack_of(name)}.3."))}
    assert cut
    assert set(seen) == set(own) - cut


def test_a_view_sees_a_weight_that_is_replaced(build, make_batch):
    """Loading and casting may put new tensors in a module's table: the table itself is shared."""
    model, batch = build("bert-mlm").eval(), make_batch("bert-mlm")
    view = exit_view(model, 1)
    before = predict(view, batch)
    model.cls.predictions.decoder.bias = nn.Parameter(torch.arange(100.0))
    assert torch.allclose(predict(view, batch) - before, torch.arange(100.0), atol=1e-4)


def test_making_and_running_a_view_leaves_the_model_untouched(name, build, make_batch):
    model, batch = build(name), make_batch(name)
    before = describe(model)
    for j in EXITS:
        predict(exit_view(model, j), batch)
    assert_unchanged(before, describe(model))


def test_a_view_follows_the_mode(build, make_batch):
    model, batch = build("bert-mlm", dropout=0.5), make_batch("bert-mlm")
    view = exit_view(model, 2)
    assert not torch.equal(predict(view, batch), predict(view, batch))  # dropout
    model.eval()
    view = exit_view(model, 2)
    assert not view.training
    assert torch.equal(predict(view, batch), predict(view, batch))


def test_a_hook_on_a_view_is_not_on_the_model_and_one_on_the_model_runs_in_a_view(build, make_batch):
    model, batch, seen = build("bert-mlm"), make_batch("bert-mlm"), []
    model.register_forward_hook(lambda *_: seen.append("model"))
    model.bert.register_forward_hook(lambda *_: seen.append("base"))
    view = exit_view(model, 1)
    view.register_forward_hook(lambda *_: seen.append("view"))
    view.bert.register_forward_hook(lambda *_: seen.append("base of view"))
    predict(model, batch)
    assert seen == ["base", "model"]
    predict(view, batch)
    assert seen[2:] == ["base", "base of view", "model", "view"]


def test_a_gradient_through_a_view_arrives_at_the_models_weights(build, make_batch, stack_of, truncated):
    model, batch = build("gpt2", dtype="float64"), make_batch("gpt2")
    reference = truncated(model, stack_of("gpt2"), 2)
    exit_view(model, 2)(**batch).loss.backward()
    reference(**batch).loss.backward()
    expected = {key: value.grad for key, value in reference.named_parameters()}
    for key, value in model.named_parameters():
        if key in expected:
            assert torch.equal(value.grad, expected[key])
        else:
            assert value.grad is None


def test_a_forward_that_accelerate_put_on_the_instance_is_not_the_whole_model(build, make_batch, stack_of, truncated):
    model, batch = build("bert-mlm").eval(), make_batch("bert-mlm")
    expected = predict(truncated(model, stack_of("bert-mlm"), 2), batch)
    plain = model.forward
    model.forward = lambda *args, **kwargs: plain(*args, **kwargs)
    assert torch.equal(predict(exit_view(model, 2), batch), expected)
    model.forward = types.MethodType(type(model).forward, model)
    assert torch.equal(predict(exit_view(model, 2), batch), expected)


def test_a_prepared_model_of_accelerate_is_cut_too(build, make_batch, stack_of, truncated):
    accelerate = pytest.importorskip("accelerate")
    model, batch = build("bert-mlm").eval(), make_batch("bert-mlm")
    short = truncated(model, stack_of("bert-mlm"), 2)
    # The process has one state, of whichever test came first.
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(model)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = short(**inputs_of(batch)).logits.float()
        within = exit_view(unwrap(prepared), 2)(**inputs_of(batch)).logits.float()
    with torch.no_grad():
        by_itself = exit_view(unwrap(prepared), 2)(**inputs_of(batch)).logits
    assert torch.equal(within, expected)
    assert torch.equal(by_itself, expected)  # accelerate's own autocast comes along


def test_a_model_compiled_in_place_is_cut_too(build, make_batch, stack_of, truncated):
    model, batch = build("bert-mlm").eval(), make_batch("bert-mlm")
    expected = predict(truncated(model, stack_of("bert-mlm"), 2), batch)
    model.compile(backend="eager")
    predict(model, batch)
    assert torch.equal(predict(exit_view(model, 2), batch), expected)


@pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "modernbert"])
def test_hidden_states_asked_of_a_view_first_come_once_from_the_model(kind, build, make_batch):
    """transformers hooks the layers when first asked: hooks left by a view would double the model's states."""
    model, batch = build(kind).eval(), make_batch(kind)
    expected = copy.deepcopy(model)(**inputs_of(batch), output_hidden_states=True).hidden_states
    exit_view(model, 2)(**inputs_of(batch), output_hidden_states=True)
    found = model(**inputs_of(batch), output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_stack_that_is_replaced_or_shortened_is_found_anew(build):
    model = build("bert-mlm")
    first = find_layers(model)[1]
    model.bert.encoder.layer = nn.ModuleList(reversed(first))
    found = find_layers(model)[1]
    assert found is model.bert.encoder.layer
    assert list(found) == list(reversed(first))
    del found[-1]
    model.config.num_hidden_layers -= 1
    assert len(find_layers(model)[1]) == len(first) - 1
    del found[-1]
    with pytest.raises(ValueError, match="has no stack of layers to exit from"):
        find_layers(model)


def test_layers_after_an_exit(build):
    model = build("bert-mlm")
    layers = list(find_layers(model)[1])
    assert layers_after(model, 1) == layers[1:]
    assert layers_after(model, len(layers)) == []
    model.bert.encoder.layer = nn.ModuleList([layers[0]] * len(layers))
    assert layers_after(model, 1) == []


def test_lists_inside_the_layers_as_long_as_the_stack_do_not_confuse():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = types.SimpleNamespace(num_hidden_layers=3)
            self.layers = nn.ModuleList([Layer() for _ in range(3)])

    assert find_layers(Model())[0] == "layers"


class TestErrors:
    def test_a_model_without_a_stack_names_what_was_looked_for(self):
        with pytest.raises(ValueError, match=r"Linear has no stack of layers.*found 0.*EarlyExit"):
            exit_view(nn.Linear(2, 2), 1)

    def test_two_stacks_are_named(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = transformers.PretrainedConfig(num_hidden_layers=2)
                self.one, self.other = (nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]) for _ in range(2))

        with pytest.raises(ValueError, match=r"found 2; its ModuleLists are: one \(2\), other \(2\)"):
            exit_view(Two(), 1)

    @pytest.mark.parametrize("exit_layer", [0, 5, -1, True, 1.0, "1", None])
    def test_an_exit_out_of_range_names_value_and_range(self, exit_layer, build):
        with pytest.raises(ValueError, match=r"exit_layer = .* must be a whole number in 1\.\.4"):
            exit_view(build("gpt2"), exit_layer)


class TestUnwrap:
    def test_compile_and_data_parallel_are_taken_off(self, build):
        model = build("gpt2")
        assert unwrap(model) is model
        assert unwrap(torch.compile(model, backend="eager")) is model
        assert unwrap(nn.DataParallel(model)) is model
        assert unwrap(nn.DataParallel(torch.compile(model, backend="eager"))) is model

    # peft 0.21 asks transformers 5.23 for an attribute that the latter has renamed.
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_peft_is_taken_off_with_its_adapters_in_place(self, build):
        peft = pytest.importorskip("peft")
        model = build("gpt2")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
        assert unwrap(wrapped) is model
        assert any("lora_A" in key for key, _ in unwrap(wrapped).named_parameters())


def test_the_protocol_is_recognised_by_its_two_members():
    class Model(nn.Module):
        exit_layers = 7

        def early_logits(self, exit_layer, **inputs):
            raise AssertionError("not called")

    assert isinstance(Model(), EarlyExit)
    assert count_exits(Model()) == 7
    assert not isinstance(nn.Linear(1, 1), EarlyExit)
