"""A warm step that selects never makes the program wait for its device, and has as many operators at every size.

On the device "meta" (see `tests/host_waits.py`). How labels are read and how many there are is learnt on the CPU, since
learning looks at values: it is done once.
"""

import functools
import warnings
from collections import Counter

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from gsgd import selectors  # noqa: E402
from gsgd.scores import entropy, gradient_norm_bound, margin  # noqa: E402
from gsgd.sift import Sift, exit_view  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402

SIZES = ((16, 80, 30_522), (32, 128, 50_257))
"""Rows, tokens of a row, vocabulary: at both, more logits than are taken without a look at the labels."""
IMAGE_SIZES = ((16, 32, 10), (32, 64, 100))
"""Rows, pixels of a side, classes."""
ATOMIC = ("index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "bincount")
"""What adds in an order of its own on CUDA, so that scores would differ from run to run."""


def width(**more):
    common = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    return common | {"max_position_embeddings": 256} | more


def bert(vocabulary, kind=None):
    return (kind or hf.BertForMaskedLM)(hf.BertConfig(**width(vocab_size=vocabulary)))


def bert_for_pretraining(vocabulary):
    return bert(vocabulary, hf.BertForPreTraining)


def gpt2(vocabulary):
    special = {"bos_token_id": 1, "eos_token_id": 2}
    size = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 256, "vocab_size": vocabulary}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**size, **special))


def llama(vocabulary):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**width(vocab_size=vocabulary), num_key_value_heads=2))


def vit(classes, side):
    return hf.ViTForImageClassification(
        hf.ViTConfig(**width(image_size=side, patch_size=side // 4, num_labels=classes))
    )


def resnet(classes, side):
    from training.images.resnet import EarlyExitResNet

    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 1], layer_type="basic", num_labels=classes
    )
    return EarlyExitResNet(config)


def tokens(rows, length, vocabulary, *, causal):
    """Causal models' labels are the tokens; of others the first 20 of each row's tokens are masked."""
    ids = torch.arange(rows * length).reshape(rows, length) % vocabulary
    return {"input_ids": ids, "labels": ids.clone() if causal else ids.where(torch.arange(length) < 20, -100)}


def images(rows, side, classes):
    return {"pixel_values": torch.zeros(rows, 3, side, side), "labels": torch.arange(rows) % classes}


@pytest.fixture(autouse=True)
def _without_reads_of_the_models_own(monkeypatch):
    """Decoders of transformers look at positions, for sequences packed into one row, before they make a mask."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)


def on_meta(batch):
    return {name: torch.empty_like(value, device="meta") for name, value in batch.items()}


@pytest.fixture
def built():
    """built(kind, size) -> (model on meta, batch on meta, how labels are read and how many there are)."""

    def make(kind, size):
        rows, length, classes = size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of modules that transformers imports late
            if kind in (vit, resnet):
                build, batch = (lambda number: kind(number, length)), images(rows, length, classes)
                small, few = kind(10, 32), images(4, 32, 10)
            else:
                causal = kind in (gpt2, llama)
                build, batch = kind, tokens(rows, length, classes, causal=causal)
                small, few = kind(100), tokens(4, 24, 100, causal=causal)
            if kind is bert_for_pretraining:
                batch["next_sentence_label"], few["next_sentence_label"] = (
                    torch.zeros(2, rows).long()[0],
                    torch.ones(4).long(),
                )
            learnt = Sift(small.train()).scorer.convention(few)
            with torch.device("meta"):
                model = build(classes)
        most = None if batch["labels"].dim() < 2 else int((batch["labels"] != -100).sum(dim=1).max())
        return model.train(), on_meta(batch), {"convention": learnt, "most_labels": most}

    return make


@pytest.fixture
def warm_step(built, host_waits):
    """warm_step(kind, size, **options) -> operators of (choosing, all) of the third step, none of which waits."""

    def run(kind, size, **options):
        model, batch, learnt = built(kind, size)
        sift = Sift(model, **({"check": False, "reuse": False} | options))
        if sift.scorer.function is not None:
            sift.scorer.assume(batch, **learnt)
        optimizer = torch.optim.AdamW(model.parameters())

        def step(counts):
            rows = sift.choose(batch)
            assert len(rows["labels"]) == size[0] // 2
            chosen = Counter(counts)
            sift.forward_kept(rows).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return chosen

        for _ in range(2):
            step({})
        with host_waits.NoHostWaits() as counts:
            chosen = step(counts)
        return chosen, counts

    return run


LANGUAGE = [
    pytest.param(bert, {}, id="bert"),
    pytest.param(bert, {"labelled_head": True}, id="bert-labelled-head"),
    pytest.param(bert, {"labelled_head": True, "exit_layer": 3}, id="bert-labelled-head-last-exit"),
    pytest.param(bert_for_pretraining, {}, id="bert-for-pretraining"),
    pytest.param(gpt2, {}, id="gpt2"),
    pytest.param(llama, {}, id="llama"),
    pytest.param(bert, {"score": "entropy"}, id="entropy"),
    pytest.param(bert, {"score": margin}, id="margin"),
    pytest.param(bert, {"score": gradient_norm_bound}, id="gradient-norm"),
    pytest.param(bert, {"score": "random"}, id="random"),
    pytest.param(bert, {"select": selectors.select_online_batch}, id="online-batch"),
    pytest.param(bert, {"select": selectors.select_selective_backprop}, id="selective-backprop"),
    pytest.param(
        bert,
        {"select": functools.partial(selectors.trim, share=0.1, select=selectors.select_random)},
        id="trimmed-random",
    ),
    pytest.param(bert, {"scoring_mode": "eval"}, id="eval-mode"),
]


def check_equal(one, other):
    """Also that nothing adds in an order of its own."""
    for small, large in zip(one, other, strict=True):
        assert small == large, {
            name: (small[name], large[name]) for name in {*small, *large} if small[name] != large[name]
        }
    assert not set(one[0]) & set(ATOMIC)


@pytest.mark.parametrize(("kind", "options"), LANGUAGE)
def test_language_models(warm_step, kind, options):
    check_equal(*(warm_step(kind, size, **options) for size in SIZES))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(vit, {}, id="vit"),
        pytest.param(resnet, {}, id="resnet"),
        pytest.param(resnet, {"batchnorm": "gross"}, id="resnet-gross"),
        pytest.param(resnet, {"score": entropy}, id="resnet-entropy"),
    ],
)
def test_image_models(warm_step, kind, options):
    check_equal(*(warm_step(kind, size, **options) for size in IMAGE_SIZES))


def test_few_logits(warm_step):
    """All positions are taken: how many have labels need not be learnt."""
    sizes = ((8, 16, 1000), (16, 24, 5000))
    check_equal(*(warm_step(bert, size) for size in sizes))


def test_scoring_in_parts_grows_with_the_parts_only(warm_step):
    counts = [warm_step(bert, size, score_batch_size=size[0] // 2)[0] for size in SIZES]
    assert counts[0] == counts[1]
    alone = warm_step(bert, SIZES[0])[0]
    assert alone.total() < counts[0].total() < 2.5 * alone.total()


def test_choosing_takes_few_operators_beside_the_models_own(warm_step, built, host_waits):
    """Each costs a GPU's program a launch. Two losses are scored, of words and of sentences."""
    model, batch, _ = built(bert_for_pretraining, SIZES[0])
    with torch.no_grad(), host_waits.NoHostWaits() as own:
        exit_view(model, 1)(**batch)
    chosen = warm_step(bert_for_pretraining, SIZES[0], labelled_head=True)[0]
    assert chosen.total() - own.total() < 100


def test_more_logits_than_memory_should_hold_are_scored_in_parts(warm_step, monkeypatch):
    whole = warm_step(bert, SIZES[0])[0]
    # 20 labels expected: P = 40.
    monkeypatch.setattr("gsgd.sift.scoring_pass.forward.ON_DEVICE_AT_ONCE", 4 * 40 * SIZES[0][2])
    parts = warm_step(bert, SIZES[0])[0]
    assert whole["softplus"] == 1
    assert parts["softplus"] == 4


def test_the_trainers_step(built, host_waits, monkeypatch, tmp_path):
    """Scoring, loss and backward pass as `SiftTrainer` runs them. Its loop and its optimizer are the Trainer's."""
    own = hf.TrainingArguments.device.fget  # it also prepares what is asked for later
    meta = property(lambda arguments: (own(arguments), torch.device("meta"))[1])
    monkeypatch.setattr(hf.TrainingArguments, "device", meta)
    monkeypatch.setattr(SiftTrainer, "_learn_loss_scale", lambda *_: True)  # it is made once, and reads losses
    counted = []
    for size in SIZES:
        model, batch, learnt = built(bert, size)
        arguments = hf.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], save_strategy="no", max_steps=9)
        sift = SiftArguments(check=False, reuse=False, labelled_head=True)
        trainer = SiftTrainer(model=model, args=arguments, train_dataset=[batch], sift=sift)
        trainer.sift.scorer.assume(batch, **learnt)
        optimizer = torch.optim.AdamW(model.parameters())
        for number in range(3):
            trainer.state.global_step = number
            with host_waits.NoHostWaits() as counts:
                trainer.training_step(model, dict(batch))
                optimizer.step()
                optimizer.zero_grad()
        assert trainer.sift.last.selected
        counted.append(counts)
    assert counted[0] == counted[1]


# ---- What is refused ----

REFUSED = {
    "item": lambda x, mask, whole: x.sum().item(),
    "float": lambda x, mask, whole: float(x.sum()),
    "int": lambda x, mask, whole: int(whole.sum()),
    "bool": lambda x, mask, whole: bool(mask.any()),
    "index": lambda x, mask, whole: [1, 2][whole.sum()],
    "tolist": lambda x, mask, whole: x.tolist(),
    "numpy": lambda x, mask, whole: x.numpy(),
    "cpu": lambda x, mask, whole: x.cpu(),
    "to cpu": lambda x, mask, whole: x.to("cpu"),
    "to cpu, not blocking": lambda x, mask, whole: x.to("cpu", non_blocking=True),
    "copy_ to cpu": lambda x, mask, whole: torch.empty(4, 8).copy_(x),
    "nonzero": lambda x, mask, whole: mask.nonzero(),
    "where": lambda x, mask, whole: torch.where(mask),
    "read by mask": lambda x, mask, whole: x[mask],
    "write by mask": lambda x, mask, whole: x.__setitem__(mask, 0.0),
    "masked_select": lambda x, mask, whole: x.masked_select(mask),
    "unique": lambda x, mask, whole: whole.unique(),
    "bincount": lambda x, mask, whole: whole.bincount(minlength=4),
    "repeat_interleave": lambda x, mask, whole: whole.repeat_interleave(whole),
    "equal": lambda x, mask, whole: torch.equal(x, x),
    "allclose": lambda x, mask, whole: torch.allclose(x, x),
    "upload": lambda x, mask, whole: torch.arange(4).to("meta"),
    "copy_ to the device": lambda x, mask, whole: x.copy_(torch.empty(4, 8)),
    "tensor": lambda x, mask, whole: torch.tensor([1.0, 2.0], device="meta"),
}
ADMITTED = {
    "arange": lambda x, mask, whole: torch.arange(4, device="meta"),
    "nothing": lambda x, mask, whole: torch.tensor([], device="meta"),
    "full": lambda x, mask, whole: torch.full((4,), 2.0, device="meta"),
    "times a number": lambda x, mask, whole: x * 2.0 + 1,
    "read by places": lambda x, mask, whole: x[whole, whole],
    "masked_fill": lambda x, mask, whole: x.masked_fill(mask, 0.0),
    "where of three": lambda x, mask, whole: torch.where(mask, x, 0.0),
    "topk": lambda x, mask, whole: x.topk(2),
    "sort": lambda x, mask, whole: x.sort(stable=True),
    "dropout": lambda x, mask, whole: torch.nn.functional.dropout(x),
    "upload, not blocking": lambda x, mask, whole: torch.arange(4).to("meta", non_blocking=True),
    "copy_, not blocking": lambda x, mask, whole: x.copy_(torch.empty(4, 8), non_blocking=True),
    "host": lambda x, mask, whole: float(torch.ones(3).sum()),
    "host by mask": lambda x, mask, whole: torch.ones(3)[torch.ones(3) > 0],
}


@pytest.fixture
def operands():
    return (
        torch.empty(4, 8, device="meta"),
        torch.empty(4, 8, dtype=torch.bool, device="meta"),
        torch.empty(4, dtype=torch.int64, device="meta"),
    )


@pytest.mark.parametrize("name", REFUSED)
def test_refused(host_waits, operands, name):
    with host_waits.NoHostWaits(), pytest.raises(host_waits.HostWait):
        REFUSED[name](*operands)


@pytest.mark.parametrize("name", ADMITTED)
def test_admitted(host_waits, operands, name):
    with host_waits.NoHostWaits():
        ADMITTED[name](*operands)


def test_operators_are_counted(host_waits, operands):
    with host_waits.NoHostWaits() as counts:
        _ = operands[0] + 1, operands[0] + 2, operands[0].sort()
    assert (counts["add"], counts["sort"], counts["mul"]) == (2, 1, 0)


# ---- On a GPU ----


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize(("kind", "options"), LANGUAGE)
def test_cuda_waits_for_nothing(kind, options):
    """As torch itself finds it, which sees all but waits for events; also that an error comes with its step."""
    torch.manual_seed(0)
    batch = tokens(*SIZES[0], causal=kind in (gpt2, llama))
    if kind is bert_for_pretraining:
        batch["next_sentence_label"] = torch.arange(SIZES[0][0]) % 2
    batch = {name: value.cuda() for name, value in batch.items()}
    model = kind(SIZES[0][2]).cuda().train()
    sift = Sift(model, **({"reuse": False} | options))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    try:
        for number in range(5):
            torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")
            sift(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    sift.finish_checks()
    if options.get("score") == "random":
        return
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    sift(**batch)
    with pytest.raises(ValueError, match=r"scores\[0\] is nan at step 5"):
        sift.finish_checks()
