"""How models read their labels: scores against the loss that the model, or a cut copy, gives for each row alone."""

import copy
import functools
import types
import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput, TokenClassifierOutput  # noqa: E402

from gsgd.sift import Scorer, Sift, SiftOptions  # noqa: E402
from gsgd.sift.scoring_pass.labels import LabelConvention, found_shift, label_names  # noqa: E402
from gsgd.sift.scoring_pass.row_losses import LossCall  # noqa: E402

WORDS, ROWS = 40, 6
SMALL = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(model_class, config_class, seed=0, **config):
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return model_class(config_class(**config)).train()


def ids(*shape, seed=1, low=3):
    return torch.randint(low, WORDS, shape, generator=torch.Generator().manual_seed(seed))


def losses_alone(model, batch):
    mode = model.training
    model.eval()
    with torch.no_grad():
        rows = [{name: value[[row]] for name, value in batch.items()} for row in range(len(batch["labels"]))]
        found = torch.stack([model(**row).loss for row in rows])
    model.train(mode)
    return found


def cut(model, stack, layers):
    """A deep copy with its stack of layers cut by hand."""
    short = copy.deepcopy(model)
    parent, _, leaf = stack.rpartition(".")
    owner = short.get_submodule(parent)
    setattr(owner, leaf, nn.ModuleList(list(getattr(owner, leaf))[:layers]))
    return short


def scorer_of(model, **options):
    return Scorer(model, SiftOptions(scoring_mode="eval", **options))


def is_exact(model, batch, stack, exits=None, rtol=1e-4, **options):
    """At every exit; and `Sift` keeps the rows with the largest losses, with nothing said by the check."""
    layers = len(model.get_submodule(stack))
    scorer = scorer_of(model, **options)
    for exit_layer in exits or range(1, layers + 1):
        expected = losses_alone(cut(model, stack, exit_layer), batch)
        found = scorer.scores(batch, exit_layer)
        torch.testing.assert_close(found.float(), expected.float(), rtol=rtol, atol=1e-5)
        assert len(set(found.tolist())) == len(found)
        sift = Sift(model, exit_layer=exit_layer, scoring_mode="eval", **options)
        sift(**batch).loss.backward()
        assert sift.last.indices.tolist() == sorted(expected.topk(len(found) // 2).indices.tolist())
    return scorer.convention(batch)


# ---- Language models: which shift ----


class OwnShift(transformers.LlamaPreTrainedModel):
    """A class that no list knows, whose forward cuts logits and labels."""

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def loss(self, logits, labels):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def forward(self, input_ids=None, labels=None, **more):
        logits = self.lm_head(self.model(input_ids=input_ids, use_cache=False).last_hidden_state)
        return CausalLMOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)


class OwnWithout(OwnShift):
    """Whose labels come shifted already."""

    def loss(self, logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class OwnMoved(OwnShift):
    """Which moves the labels instead of cutting, and weighs nothing."""

    def loss(self, logits, labels):
        moved = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return F.cross_entropy(logits.transpose(1, 2), moved)


class OwnArithmetic(OwnShift):
    """Which uses no loss function at all."""

    def loss(self, logits, labels):
        chosen = logits[:, :-1].log_softmax(-1).gather(2, labels[:, 1:, None].clamp(min=0))[..., 0]
        counts = labels[:, 1:] != -100
        return -(chosen * counts).sum() / counts.sum()


@pytest.mark.parametrize(("model_class", "shift"), [(OwnShift, 1), (OwnWithout, 0), (OwnMoved, 1), (OwnArithmetic, 1)])
@pytest.mark.parametrize("prompt", [0, 6])
def test_a_class_of_ones_own(model_class, shift, prompt):
    model, batch = make(model_class, transformers.LlamaConfig, **SMALL), {"input_ids": ids(ROWS, 10)}
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :prompt] = -100
    sift = Sift(model, exit_layer=3, scoring_mode="eval")
    sift(**batch)
    torch.testing.assert_close(sift.last.scores, losses_alone(model, batch), rtol=1e-4, atol=1e-5)
    assert sift.causal == bool(shift)
    assert (sift.scorer.convention(batch).doubt is None) == (model_class is not OwnArithmetic)


@pytest.mark.parametrize(
    ("names", "config", "stack", "shift"),
    [
        ("OPTForCausalLM OPTConfig", {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3, "dropout": 0.0,
                                      "max_position_embeddings": 64}, "model.decoder.layers", 1),
        ("XLNetLMHeadModel XLNetConfig", {"d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32, "dropout": 0.0},
         "transformer.layer", 0),
        ("BartForCausalLM BartConfig", {"d_model": 16, "decoder_layers": 3, "encoder_layers": 2, "dropout": 0.0,
                                        "decoder_attention_heads": 2, "encoder_attention_heads": 2, "init_std": 0.3,
                                        "decoder_ffn_dim": 32, "encoder_ffn_dim": 32, "is_decoder": True,
                                        "is_encoder_decoder": False}, "model.decoder.layers", 0),
        ("MixtralForCausalLM MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4}, "model.layers", 1),
        ("GPTNeoXForCausalLM GPTNeoXConfig", {}, "gpt_neox.layers", 1),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_language_models(names, config, stack, shift):
    """Some shift labels and some do not, and some have a base model that the head never calls."""
    model = make(*(getattr(transformers, name) for name in names.split()), **(SMALL | config))
    batch = {"input_ids": ids(ROWS, 10)}
    for labels in ("all", "few"):
        batch["labels"] = batch["input_ids"].clone()
        if labels == "few":
            batch["labels"][:, :-2] = -100
            batch["labels"][1, -3] = 7
        reading = is_exact(model, batch, stack, exits=(1, 3))
        assert (reading.shift, reading.doubt) == (shift, None)


def test_rows_times_length_as_many_as_labels_is_no_excuse():
    """OPT: 32 rows of 32 with one label each are as many positions as rows are long."""
    model = make(
        transformers.OPTForCausalLM, transformers.OPTConfig, **SMALL, ffn_dim=32, word_embed_proj_dim=16, init_std=0.3,
        dropout=0.0, max_position_embeddings=64,
    )  # fmt: skip
    for rows, length, labelled in ((8, 12, 2), (32, 32, 1), (16, 32, 2), (8, 32, 4)):
        batch = {"input_ids": ids(rows, length)}
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        batch["labels"][:, -labelled:] = batch["input_ids"][:, -labelled:]
        sift = Sift(model, exit_layer=3)
        sift(**batch)
        torch.testing.assert_close(sift.last.scores, losses_alone(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("when", ["at first", "after a plain pass"])
def test_router_losses_are_no_part_of_a_rows_score(when):
    """They are of the whole batch. The model trained on still has them."""
    for names, config in (
        ("MixtralForCausalLM MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4}),
        ("Qwen2MoeForCausalLM Qwen2MoeConfig", {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2,
                                                "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
    ):  # fmt: skip
        model = make(*(getattr(transformers, name) for name in names.split()), **(SMALL | config))
        batch = {"input_ids": ids(ROWS, 10), "labels": ids(ROWS, 10)}
        expected = losses_alone(model, batch)
        model.config.output_router_logits = True
        if when != "at first":
            model(**batch)
        sift = Sift(model, exit_layer=3, scoring_mode="eval")
        loss = sift(**batch).loss
        torch.testing.assert_close(sift.last.scores, expected, rtol=1e-4, atol=1e-5)
        kept = {name: value[sift.last.indices] for name, value in batch.items()}
        assert loss.item() == pytest.approx(model(**kept).loss.item(), rel=1e-5)
        assert model.config.output_router_logits


# ---- Encoder-decoders ----

BART = {
    "vocab_size": WORDS, "d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
    "init_std": 0.3, "dropout": 0.0,
}  # fmt: skip
T5 = {
    "vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2,
    "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "initializer_factor": 3.0,
}  # fmt: skip
DECODERS = {
    "BartForConditionalGeneration": ("BartConfig", BART, "model.decoder.layers"),
    "MBartForConditionalGeneration": ("MBartConfig", BART, "model.decoder.layers"),
    "PegasusForConditionalGeneration": ("PegasusConfig", BART, "model.decoder.layers"),
    "MarianMTModel": ("MarianConfig", BART, "model.decoder.layers"),
    "T5ForConditionalGeneration": ("T5Config", T5, "decoder.block"),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        BART | {"num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 32},
        "model.decoder.layers",
    ),
}


@pytest.mark.parametrize("decoder_layers", [2, 3])
@pytest.mark.parametrize("length", [5, 12])
@pytest.mark.parametrize("name", DECODERS)
def test_the_decoder_exits_early(name, length, decoder_layers):
    """Of encoder and decoder of one depth or of two, with targets shorter and longer than sources."""
    config_name, config, stack = DECODERS[name]
    depth = "num_decoder_layers" if "num_decoder_layers" in config else "decoder_layers"
    model = make(getattr(transformers, name), getattr(transformers, config_name), **(config | {depth: decoder_layers}))
    labels = ids(ROWS, length)
    labels[1, 4:], labels[4, 2:] = -100, -100
    if name.startswith("Whisper"):
        source = {"input_features": torch.randn(ROWS, 4, 16, generator=torch.Generator().manual_seed(0))}
    else:
        source = {"input_ids": ids(ROWS, 9, seed=5)}
    is_exact(model, {**source, "labels": labels}, stack, exits=(1, decoder_layers))


def test_an_exit_behind_the_decoders_end():
    model = make(transformers.MBartForConditionalGeneration, transformers.MBartConfig, **BART)
    with pytest.raises(ValueError, match=r"exit_layer = 3 must be a whole number in 1\.\.2, the decoder's layers"):
        Sift(model, exit_layer=3)


def test_a_callable_gets_logits_of_the_decoder_on_its_own_inputs():
    model = make(transformers.BartForConditionalGeneration, transformers.BartConfig, **BART)
    batch = {"input_ids": ids(ROWS, 9, seed=5), "labels": ids(ROWS, 6)}
    own = lambda z, y: torch.stack([F.cross_entropy(a, b) for a, b in zip(z, y, strict=True)])  # noqa: E731
    found = scorer_of(model, score=own).scores(batch, 2)
    torch.testing.assert_close(found, losses_alone(model, batch), rtol=1e-4, atol=1e-5)


# ---- Other tasks ----


def test_connectionist_temporal_classification():
    model = make(
        transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, vocab_size=20, hidden_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, hidden_dropout=0.0, activation_dropout=0.0,
        attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, apply_spec_augment=False,
        pad_token_id=0, ctc_loss_reduction="mean", initializer_range=0.3,
    )  # fmt: skip
    labels = ids(ROWS, 8) % 19 + 1
    labels[1, 5:], labels[4, 3:] = -100, -100
    batch = {"input_values": torch.randn(ROWS, 800, generator=torch.Generator().manual_seed(0)), "labels": labels}
    assert is_exact(model, batch, "wav2vec2.encoder.layers").way == "own loss"


@pytest.mark.parametrize("named", [(), ("start_positions", "end_positions")])
def test_question_answering(named):
    model = make(transformers.BertForQuestionAnswering, transformers.BertConfig, **SMALL)
    draw = torch.Generator().manual_seed(3)
    positions = torch.randint(9, (2, ROWS), generator=draw)
    batch = {"input_ids": ids(ROWS, 9), "start_positions": positions[0], "end_positions": positions[1]}
    sift = Sift(model, exit_layer=3, scoring_mode="eval", label_names=named)
    sift(**batch)
    model.eval()
    expected = [model(**{name: value[[row]] for name, value in batch.items()}).loss.item() for row in range(ROWS)]
    assert sift.last.scores.tolist() == pytest.approx(expected, rel=1e-4)


def test_labels_by_another_name():
    class Renamed(transformers.BertForSequenceClassification):
        def forward(self, input_ids=None, wanted=None, **more):
            return super().forward(input_ids=input_ids, labels=wanted, **more)

    model = make(Renamed, transformers.BertConfig, **SMALL, num_labels=4)
    batch = {"input_ids": ids(ROWS, 9), "wanted": ids(ROWS) % 4}
    with pytest.raises(ValueError, match=r"scoring needs `labels` in the batch.*label_names says other names"):
        Sift(model)(**batch)
    sift = Sift(model, exit_layer=3, scoring_mode="eval", label_names=["wanted"])
    sift(**batch)
    plain = F.cross_entropy(model.eval()(batch["input_ids"]).logits, batch["wanted"], reduction="none")
    torch.testing.assert_close(sift.last.scores, plain, rtol=1e-4, atol=1e-5)


def test_labels_in_a_column():
    """(B, 1), as image data sets often have them."""
    model = make(transformers.BertForSequenceClassification, transformers.BertConfig, **SMALL, num_labels=4)
    batch = {"input_ids": ids(ROWS, 9), "labels": ids(ROWS, 1) % 4}
    assert is_exact(model, batch, "bert.encoder.layer").way == "logits"


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_the_models_own_problem_type(kind):
    several = {"num_labels": 4} if kind.startswith("multi") else {"num_labels": 2}
    model = make(
        transformers.BertForSequenceClassification, transformers.BertConfig, **SMALL, **several, problem_type=kind
    )
    draw = torch.Generator().manual_seed(3)
    labels = torch.rand(ROWS, several["num_labels"], generator=draw)
    batch = {"input_ids": ids(ROWS, 9), "labels": labels.round() if kind.startswith("multi") else labels}
    assert is_exact(model, batch, "bert.encoder.layer").way == "own loss"


class Ignores255(transformers.BertForTokenClassification):
    def forward(self, input_ids=None, labels=None, **more):
        logits = super().forward(input_ids=input_ids).logits
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=255)
        return TokenClassifierOutput(loss=loss, logits=logits)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
def test_another_label_that_does_not_count(kind):
    model = make(Ignores255, transformers.BertConfig, **SMALL, num_labels=4)
    labels = ids(ROWS, 9) % 4
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = 255
    labels[:, 0] = 1
    if kind is torch.uint8:
        model.forward = types.MethodType(
            lambda self, input_ids=None, labels=None, **more: Ignores255.forward(
                self, input_ids, None if labels is None else labels.long()
            ),
            model,
        )
    reading = is_exact(model, {"input_ids": ids(ROWS, 9), "labels": labels.to(kind)}, "bert.encoder.layer")
    assert (reading.ignore_index, reading.doubt) == (255, None)


class Weighted(transformers.BertForSequenceClassification):
    """Class weights and smoothing, which its own loss knows."""

    def forward(self, input_ids=None, labels=None, **more):
        logits = super().forward(input_ids=input_ids).logits
        weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
        loss = None if labels is None else F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def test_class_weights_and_smoothing_of_the_models_own():
    model = make(Weighted, transformers.BertConfig, **SMALL, num_labels=4)
    assert is_exact(model, {"input_ids": ids(ROWS, 9), "labels": ids(ROWS) % 4}, "bert.encoder.layer").way == "own loss"


# ---- A forward that was replaced ----

KEPT_GLOBALLY = None


def through_a_global(self, *args, **kwargs):
    return KEPT_GLOBALLY(*args, **kwargs)


def patched(model, how):
    global KEPT_GLOBALLY
    original = KEPT_GLOBALLY = model.forward

    @functools.wraps(type(model).forward)
    def wrapper(self, *args, fused_lm_head=False, **kwargs):
        return original(*args, **kwargs)

    def rebindable(self, *args, **kwargs):
        return type(self).forward(self, *args, **kwargs)

    model.forward = {
        "closure": types.MethodType(wrapper, model),
        "global": types.MethodType(through_a_global, model),
        "partial": functools.partial(original),
        "function": lambda *args, **kwargs: original(*args, **kwargs),
        "own class": types.MethodType(rebindable, model),
    }[how]


@pytest.mark.parametrize("how", ["closure", "global", "partial", "function", "own class"])
def test_a_replaced_forward_exits_early_all_the_same(how):
    """TRL replaces it by one that holds on to the original model in its closure."""
    model, batch = make(transformers.LlamaForCausalLM, transformers.LlamaConfig, **SMALL), {"input_ids": ids(ROWS, 8)}
    batch["labels"] = batch["input_ids"]
    own = lambda z, y: z.logsumexp(-1).mean(-1)  # noqa: E731
    expected = [(scorer_of(model, score=s).scores(batch, exit)) for s in ("loss", own) for exit in (1, 3)]
    assert not torch.equal(expected[0], expected[1])
    patched(model, how)
    for score, pair in (("loss", expected[:2]), (own, expected[2:])):
        for exit_layer, wanted in zip((1, 3), pair, strict=True):
            sift = Sift(model, exit_layer=exit_layer, score=score, scoring_mode="eval")
            sift(**batch)
            torch.testing.assert_close(sift.last.scores, wanted)


def test_a_replaced_forward_that_computes_something_else_is_found_out():
    model, batch = make(transformers.LlamaForCausalLM, transformers.LlamaConfig, **SMALL), {"input_ids": ids(ROWS, 8)}
    original = model.forward

    def doubled(self, labels=None, **inputs):
        logits = 2 * original(**inputs).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    model.forward = types.MethodType(doubled, model)
    with pytest.raises(ValueError, match=r"the scores of LlamaForCausalLM are not its losses: row \d of the batch has"):
        Sift(model)(**batch, labels=batch["input_ids"])


# ---- The small functions ----


def test_the_first_labels_are_what_scores_are_made_of():
    batch = {"end_positions": 1, "labels": 1, "x": 1, "start_positions": 1, "mine": 1}
    assert label_names(nn.Linear(1, 1), batch) == ["labels", "start_positions", "end_positions"]
    assert label_names(nn.Linear(1, 1), batch, ["mine", "missing", "labels"]) == ["mine", "labels"]
    assert label_names(nn.Linear(1, 1), {"x": 1}) == []


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([[5, 6, 7]], 0),
        ([[6, 7, -100]], 1),
        ([[6, 7]], 1),
        ([[6, 7, 5]], None),
        ([[7, -100, -100]], None),
        ([[5, 6]], None),
    ],
)
def test_a_shift_by_what_the_loss_function_got(targets, expected):
    call = LossCall("cross_entropy", torch.tensor(targets), plain=True)
    assert found_shift([call], torch.tensor([[5, 6, 7]])) == expected
    assert found_shift([call, call], torch.tensor([[5, 6, 7]])) is None
    assert found_shift([LossCall("cross_entropy", torch.tensor(targets))], torch.tensor([[5, 6, 7]])) is None
    assert found_shift([], torch.tensor([[5, 6, 7]])) is None


def test_labels_beside_their_predictions():
    labels = torch.tensor([[1, 2, 255], [4, 255, 6]])
    assert LabelConvention("positions").aligned(labels).tolist() == labels.tolist()
    assert LabelConvention("positions", shift=1).aligned(labels).tolist() == [[2, 255, -100], [255, 6, -100]]
    assert LabelConvention("positions", 1, 255).aligned(labels.to(torch.uint8)).tolist() == [
        [2, -100, -100],
        [-100, 6, -100],
    ]
    assert LabelConvention("logits", shift=1).aligned(torch.tensor([1, 2])).tolist() == [1, 2]
