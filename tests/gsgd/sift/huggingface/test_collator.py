"""Masking is a function of (seed, epoch, sample); a collator that draws from the global generator is reported."""

import logging
import random
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gsgd.sift.huggingface.collator import MaskingCollator, warn_not_resumable  # noqa: E402

MASK, VOCABULARY, SPECIAL = 4, 1000, (0, 1, 2)
ROWS = [
    {"input_ids": [1, *np.random.default_rng(number).integers(5, VOCABULARY, size=length).tolist(), 2]}
    for number, length in enumerate((30, 7, 50, 12))
]


def collator(**options):
    return MaskingCollator(
        **({"mask_token_id": MASK, "vocab_size": VOCABULARY, "special_token_ids": SPECIAL} | options)
    )


def test_a_row_is_masked_alike_in_any_batch_order_and_after_any_number_of_draws():
    masking = collator()
    together = masking(ROWS)
    for number, row in enumerate(ROWS):
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        alone = collator()([row])
        length = len(row["input_ids"])
        for name in ("input_ids", "labels"):
            assert torch.equal(alone[name][0], together[name][number, :length])
    again = masking(ROWS[::-1])
    assert torch.equal(again["labels"].flip(0), together["labels"])


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    collator()(ROWS)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("change", ["seed", "epoch"])
def test_seed_and_epoch_each_change_the_masks(change):
    masking = collator(seed=1) if change == "seed" else collator()
    if change == "epoch":
        masking.set_epoch(1)
    assert not torch.equal(masking(ROWS)["labels"], collator()(ROWS)["labels"])


def test_rows_of_different_tokens_get_different_masks():
    row = [5] * 40
    labels = collator(mask_share=0.5)([{"input_ids": row}, {"input_ids": [*row[:-1], 6]}])["labels"]
    assert not torch.equal(labels[0, :-1], labels[1, :-1])


def test_the_epoch_reaches_copies_in_workers_and_not_those_for_evaluation():
    masking = collator()
    loader = torch.utils.data.DataLoader(
        ROWS, batch_size=4, collate_fn=masking, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    fixed = masking.at_epoch(0)
    for epoch in range(3):
        masking.set_epoch(epoch)
        expected = collator()
        expected.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["labels"], expected(ROWS)["labels"])
    assert fixed.epoch == 0
    assert torch.equal(fixed(ROWS)["labels"], collator()(ROWS)["labels"])


def test_padding_special_tokens_and_other_fields():
    rows = [row | {"token_type_ids": [1] * len(row["input_ids"]), "pair": [3, 4], "next": 1} for row in ROWS]
    batch = collator(mask_share=1.0, replace_share=1.0, random_share=0.0, pad_token_id=9, pad_to_multiple_of=8)(rows)
    assert batch["input_ids"].shape == (4, 56)  # the longest row has 52 tokens
    for number, row in enumerate(ROWS):
        length = len(row["input_ids"])
        inner = slice(1, length - 1)
        assert (batch["input_ids"][number, inner] == MASK).all()
        assert batch["labels"][number, inner].tolist() == row["input_ids"][inner]
        assert batch["input_ids"][number, [0, length - 1]].tolist() == [1, 2]
        assert (batch["labels"][number, [0, length - 1]] == -100).all()
        assert (batch["input_ids"][number, length:] == 9).all()
        assert (batch["labels"][number, length:] == -100).all()
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * (56 - length)
        assert batch["token_type_ids"][number].tolist() == [1] * length + [0] * (56 - length)
    assert batch["pair"].tolist() == [[3, 4]] * 4
    assert batch["next"].tolist() == [1] * 4


def test_a_rows_own_special_tokens_mask_comes_first():
    tokens = [5, 6, 7, 8]
    batch = collator(mask_share=1.0)([{"input_ids": tokens, "special_tokens_mask": [0, 1, 0, 1]}])
    assert batch["labels"].tolist() == [[5, -100, 7, -100]]
    assert "special_tokens_mask" not in batch


def test_shares():
    """Each share is a mean of n draws: 5 standard errors, so a false alarm has probability 6e-7 per share."""
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, size=200_000)
    batch = collator(mask_share=0.2, replace_share=0.7, random_share=0.2)([{"input_ids": tokens}])
    masked, labels = batch["input_ids"][0].numpy(), batch["labels"][0].numpy()
    chosen = labels != -100
    assert (masked[~chosen] == tokens[~chosen]).all()
    assert (labels[chosen] == tokens[chosen]).all()
    # A random token is the old one, or the mask token, once in 1,000.
    expected = {"chosen": (chosen, 0.2, len(tokens))}
    expected["mask"] = (masked[chosen] == MASK, 0.7 + 0.2 / 1000, chosen.sum())
    expected["kept"] = (masked[chosen] == tokens[chosen], 0.1 + 0.2 / 1000, chosen.sum())
    for name, (hits, share, count) in expected.items():
        assert abs(hits.mean() - share) < 5 * np.sqrt(share * (1 - share) / count), name


def test_what_a_tokenizer_knows_is_taken_from_it():
    class Tokenizer:
        mask_token_id, pad_token_id, all_special_ids, padding_side = 7, 8, [8, 9], "left"

        def __len__(self):
            return 20

    batch = MaskingCollator(Tokenizer(), mask_share=1.0, replace_share=1.0, random_share=0.0)(
        [{"input_ids": [9, 10, 11]}, {"input_ids": [12]}]
    )
    assert batch["input_ids"].tolist() == [[9, 7, 7], [8, 8, 7]]
    assert batch["labels"].tolist() == [[-100, 10, 11], [-100, -100, 12]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_real_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    rows = [tokenizer("a b c d e"), tokenizer("f g")]
    batch = MaskingCollator(tokenizer, mask_share=1.0, replace_share=1.0, random_share=0.0)(rows)
    assert batch["input_ids"].tolist() == [[2, 4, 4, 4, 4, 4, 3], [2, 4, 4, 3, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 6, 7, 8, 9, -100], [-100, 10, 11, -100, -100, -100, -100]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_share": 0}, r"mask_share = 0 must lie in \(0, 1\]"),
        ({"mask_share": 1.1}, "mask_share = 1.1"),
        ({"replace_share": 0.9, "random_share": 0.2}, "together at most 1"),
        ({"random_share": -0.1}, "at least 0"),
        ({"vocab_size": 0}, "vocab_size = 0 must be a whole number of at least 1"),
        ({"seed": -1}, "seed = -1 must be a whole number of at least 0"),
        ({"seed": True}, "seed = True"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of = 0"),
        ({"mask_token_id": None}, "masking needs mask_token_id, but no tokenizer"),
        ({"vocab_size": None, "special_token_ids": None}, "masking needs vocab_size, special_token_ids"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        collator(**options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 rows to collate"),
        ([{"tokens": [1]}], "row 0 has no input_ids; it holds: tokens"),
        ([{"input_ids": [1]}, {"input_ids": [1], "other": 2}], "row 1 has the fields"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        collator()(rows)


@pytest.mark.parametrize("epoch", [-1, 0.5, None])
def test_bad_epoch(epoch):
    with pytest.raises(ValueError, match=r"epoch = .* must be a whole number of at least 0"):
        collator().set_epoch(epoch)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mlm": True}, "draws from the global generator"),
        ({"mlm": True, "seed": 3}, "draws from a generator that no checkpoint saves"),
        ({"mlm": False}, None),
    ],
)
def test_collators_of_transformers_that_draw_are_reported(options, expected, caplog):
    from transformers import DataCollatorForLanguageModeling

    tokenizer = types.SimpleNamespace(mask_token="[MASK]")
    with caplog.at_level(logging.WARNING, "gsgd"):
        warn_not_resumable(DataCollatorForLanguageModeling(tokenizer, **options))
    assert (expected is None and not caplog.text) or expected in caplog.text
    caplog.clear()
    warn_not_resumable(collator())
    assert not caplog.text
