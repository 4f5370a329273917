"""Documents packed into one row: scored as rows, kept as a pack; loss and gradient are those of the rows padded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gsgd.sift import AutoExit, Sift  # noqa: E402
from gsgd.sift.candidates.packed_documents import Pack  # noqa: E402

VOCABULARY = 50
LENGTHS = (5, 9, 3, 12, 7, 2)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
DROPOUT = dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), 0.0)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}


def built(kind):
    torch.manual_seed(0)
    more = {**SPECIAL, **DROPOUT} if kind == "ModernBert" else {"num_key_value_heads": 2, "use_cache": False}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, max_position_embeddings=64, attn_implementation="sdpa", **SMALL, **more
    )
    head = "ForMaskedLM" if kind == "ModernBert" else "ForCausalLM"
    return getattr(transformers, kind + head)(config).double().train()


def documents(lengths=LENGTHS, seed=0, *, masked=False):
    """[(tokens, labels), ...]; a causal model's first token is no label, a masked one has about half of them."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        tokens = torch.randint(3, VOCABULARY, (length,), generator=rng)
        labels = tokens.clone()
        if masked:
            labels[torch.rand(length, generator=rng) < 0.5] = -100
            labels[0] = tokens[0]
        else:
            labels[0] = -100
        found.append((tokens, labels))
    return found


def packed(found, *, block_mask=False):
    positions = torch.cat([torch.arange(len(tokens)) for tokens, _ in found])
    batch = {
        "input_ids": torch.cat([tokens for tokens, _ in found]).unsqueeze(0),
        "labels": torch.cat([labels for _, labels in found]).unsqueeze(0),
        "position_ids": positions.unsqueeze(0),
    }
    if block_mask:
        number = (positions == 0).cumsum(0)
        batch["attention_mask"] = (number.unsqueeze(0) == number.unsqueeze(1))[None, None]
    return batch


def padded(found):
    """The documents one a row, padded by hand."""
    longest = max(len(tokens) for tokens, _ in found)
    batch = {
        "input_ids": torch.zeros(len(found), longest, dtype=torch.int64),
        "labels": torch.full((len(found), longest), -100),
        "attention_mask": torch.zeros(len(found), longest, dtype=torch.int64),
    }
    for row, (tokens, labels) in enumerate(found):
        batch["input_ids"][row, : len(tokens)] = tokens
        batch["labels"][row, : len(tokens)] = labels
        batch["attention_mask"][row, : len(tokens)] = 1
    return batch


def loss_and_gradient(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def alone(model, document):
    """The loss of one document by itself."""
    with torch.no_grad():
        return model(**padded([document])).loss.item()


@pytest.mark.parametrize("by_tokens", [False, True], ids=["documents", "tokens"])
@pytest.mark.parametrize("exit_layer", [1, 3])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "ModernBert"])
def test_kept_documents_give_the_loss_and_gradient_of_the_same_rows_padded(kind, exit_layer, by_tokens):
    model, found = built(kind), documents(masked=kind == "ModernBert")
    batch = packed(found, block_mask=kind == "ModernBert")
    sift = Sift(model, exit_layer=exit_layer, keep=0.5, keep_tokens=by_tokens)
    kept = sift.choose(batch)
    chosen = sift.last.indices.tolist()
    assert 0 < len(chosen) < len(found)
    if exit_layer == 3:
        losses = torch.tensor([alone(model, document) for document in found])
        assert torch.allclose(sift.last.scores.float(), losses, rtol=1e-5)
    order = torch.argsort(sift.last.scores, descending=True).tolist()
    if by_tokens:
        share = [sum(LENGTHS[row] for row in order[:number]) / sum(LENGTHS) for number in range(1, len(order))]
        assert sorted(order[: max(1, sum(each <= 0.5 for each in share))]) == chosen
    else:
        assert sorted(order[:3]) == chosen
    loss, gradient = loss_and_gradient(model, kept)
    expected, expected_gradient = loss_and_gradient(model, padded([found[row] for row in chosen]))
    assert loss == pytest.approx(expected, rel=1e-6)  # which transformers rounds to float32
    assert torch.allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-14)
    assert (sift.totals.gross_tokens, sift.totals.backprop_tokens) == (
        sum(LENGTHS),
        sum(LENGTHS[row] for row in chosen),
    )
    assert (sift.totals.gross_samples, sift.totals.backprop_samples) == (len(found), len(chosen))


@pytest.mark.parametrize(
    "options",
    [
        {"score": "random"},
        {"score": "entropy"},
        {"meter_every": 1},
        {"exit_layer": "auto", "auto": AutoExit(level=0.75)},
    ],
)
def test_other_scores_choose_documents_too(options):
    model, found = built("Llama"), documents()
    sift = Sift(model, keep=0.5, **{"exit_layer": 1, **options})
    kept = sift.choose(packed(found))
    expected = packed([found[row] for row in sift.last.indices.tolist()])
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    assert len(sift.last.indices) == 3


def test_a_step_that_does_not_select_trains_on_the_pack_as_it_is():
    batch = packed(documents())
    sift = Sift(built("Llama"), exit_layer=1, keep=0.5, start_step=1)
    first = sift.choose(batch)
    assert all(first[name] is value for name, value in batch.items())
    assert sift.totals.gross_tokens == sift.totals.backprop_tokens == sum(LENGTHS)
    assert len(sift.choose(batch)["input_ids"][0]) < sum(LENGTHS)


def test_batches_of_the_collator_of_transformers():
    """With its own boundaries, numbers and lengths; the kept pack has those of the same documents collated alone."""
    collate = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    samples = [{"input_ids": tokens.tolist(), "labels": labels.tolist()} for tokens, labels in documents()]
    model = built("Llama")
    sift = Sift(model, exit_layer=1, keep=0.5)
    kept = sift.choose(dict(collate(samples)))
    alone = collate([samples[row] for row in sift.last.indices.tolist()])
    assert kept.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(torch.as_tensor(kept[name]), torch.as_tensor(value)), name
        assert type(kept[name]) is type(value)


def test_documents_without_labels_are_no_candidates():
    """A pack that a collator filled up to a multiple of 8 ends with tokens at position 0."""
    found = documents()
    batch = packed([*found, *[(torch.zeros(1, dtype=torch.int64), torch.tensor([-100]))] * 4])
    sift = Sift(built("Llama"), exit_layer=1, keep=0.5)
    kept = sift.choose(batch)
    assert sift.last.gross == len(found)
    assert kept["input_ids"].shape[1] == sum(LENGTHS[row] for row in sift.last.indices.tolist())


def test_documents_that_see_each_other_are_noticed():
    """ModernBERT's sdpa pays no heed to positions that begin anew, nor do causal models that fill a cache."""
    model, batch = built("ModernBert"), packed(documents(masked=True))
    with pytest.raises(ValueError, match="ModernBertForMaskedLM predicts a document otherwise behind another one"):
        Sift(model, exit_layer=1, keep=0.5).choose(batch)
    causal = built("Llama")
    causal.config.use_cache = True
    with pytest.raises(ValueError, match=r"LlamaForCausalLM predicts a document otherwise .* use_cache=False"):
        Sift(causal, exit_layer=1, keep=0.5).choose(packed(documents()))
    assert len(Sift(model, exit_layer=1, keep=0.5, check=False).choose(batch)["labels"][0]) < sum(LENGTHS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 5, 5, 38])}, r"\[0, 5, 5, 38\], but must go up from 0 to the 38 tokens"),
        ({"cu_seq_lens_q": torch.tensor([0, 5, 30])}, r"\[0, 5, 30\], but must go up from 0 to the 38 tokens"),
        ({"cu_seq_lens_q": torch.tensor([[0, 38]])}, r"must go up from 0 to the 38 tokens"),
        ({"cu_seqlens": torch.tensor([0, 5, 38])}, "told by cu_seqlens, but must be by cu_seq_lens_q"),
        ({"weights": torch.ones(3)}, r"weights has the shape \(3,\), neither one entry a token nor one of the whole"),
    ],
)
def test_packs_that_cannot_be_taken_apart_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Sift(built("Llama"), exit_layer=1).choose({**packed(documents()), **change})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scope": "global"}, 'scope = "global" deals rows out to ranks'),
        ({"score": "last-seen", "data_rows": 9}, 'score = "last-seen" needs the loss of each row'),
        ({"log_rows": "rows"}, "log_rows needs the loss of each row"),
    ],
)
def test_options_that_packs_do_not_admit_are_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        Sift(built("Llama"), exit_layer=1, **options).choose(packed(documents()))


def test_keep_tokens_needs_a_pack():
    with pytest.raises(ValueError, match="keep_tokens=True is for documents packed into one row"):
        Sift(built("Llama"), exit_layer=1, keep_tokens=True).choose(padded(documents()))


@pytest.mark.parametrize(
    "batch",
    [
        padded(documents()),
        packed(documents()[:1]),
        {**packed(documents()), "attention_mask": torch.ones(1, sum(LENGTHS))},  # attention heeds the mask alone
        (torch.zeros(1, 5),),
    ],
    ids=["rows", "one document", "a mask of tokens", "a tuple"],
)
def test_what_is_no_pack(batch):
    assert Pack.of(batch) is None


@given(st.data())
@settings(deadline=None)
def test_documents_come_back_as_they_were(data):
    """Of any lengths and any choice: rows are the documents padded by hand, packs are the documents packed alone."""
    lengths = data.draw(st.lists(st.integers(2, 9), min_size=2, max_size=8))
    found = documents(lengths, seed=data.draw(st.integers(0, 99)))
    pack = Pack.of(packed(found))
    rows, by_hand = pack.rows, padded(found)
    counts = by_hand["attention_mask"].bool()
    assert torch.equal(rows["input_ids"][counts], by_hand["input_ids"][counts])
    assert torch.equal(rows["labels"], by_hand["labels"])
    assert torch.equal(rows["attention_mask"], by_hand["attention_mask"])
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True).map(sorted))
    kept, expected = pack.packed(torch.tensor(chosen)), packed([found[row] for row in chosen])
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    at_once = data.draw(st.none() | st.integers(1, 8))
    parts = list(pack.parts(at_once))
    assert sorted(row for taken, _ in parts for row in taken.tolist()) == list(range(len(lengths)))
    for taken, part in parts:
        assert len(taken) <= (at_once or len(lengths))
        of_these = [lengths[row] for row in taken.tolist()]
        assert min(of_these) >= max(of_these) / 2
        assert part["attention_mask"].sum(1).tolist() == of_these
