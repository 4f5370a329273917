"""Loss and gradients of every architecture against two plain passes with the same draws: see `steps`."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from passes import MLM


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("exit_layer", [1, 2, 4])
def test_loss_and_gradients(name, exit_layer, attention, steps, warnings_said):
    # ModernBERT's own loss is NaN else: a padded token sees no token.
    masked, config = (name, attention) != ("modernbert", "eager"), {"attn_implementation": attention}
    # The first training pass compares what it is handed, later ones do not.
    first, *_, last = steps(name, 3, exit_layer, config=config, masked=masked)
    assert not warnings_said()
    # Where few positions are labelled, the exit layer's products behind attention are scored at these only.
    each, behind = {"gpt2": 4, "modernbert": 4, "llama": 7}.get(name, 6), 3 if name in MLM else 0
    assert sum(first[one] - last[one] for one in ("addmm", "mm")) == each * exit_layer - behind


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "vit"])
def test_float32_and_autocast_up_to_the_kernels_rounding(dtype, tolerance, one, steps):
    context = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    steps(one, 2, 3, dtype="float32", tolerance=tolerance, context=context)


@pytest.mark.parametrize("exit_layer", [1, 4])
@pytest.mark.parametrize("one", ["bert-mlm", "bert-pretraining"])
def test_labelled_head(one, exit_layer, steps, warnings_said):
    """With the last layer as exit, the head's products are shared, too."""
    *_, last = steps(one, 3, exit_layer, labelled_head=True)
    assert not warnings_said()
    # Six in a layer that is not shared, and the exit layer's three behind attention, which are scored at labelled
    # positions only; the head's two, and the pooler and the next sentence, which are not scored.
    assert last["addmm"] == 6 * (4 - exit_layer) + 3 + 2 * (exit_layer < 4) + 2 * (one == "bert-pretraining")


@pytest.mark.parametrize("rows", [[0, 1, 3, 6], [0, 3, 4, 6]], ids=["padded", "full"])  # the second row has padding
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "llama"])
def test_padding_in_the_gross_batch_and_not_in_the_kept_rows(one, rows, steps, warnings_said):
    """Models ask whether the mask is all ones, and build none then."""
    _, last = steps(one, 2, 2, select=lambda scores, k, rng: torch.tensor(rows))
    assert not warnings_said()
    assert last["addmm"] + last["mm"] <= 2 * 7 + 3 + 2, "nothing was shared"


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    one=st.sampled_from(["bert-mlm", "gpt2"]), rows=st.integers(2, 10), exit_layer=st.integers(1, 4),
    kept=st.lists(st.integers(0, 9), min_size=1, max_size=9), head=st.booleans(), heads=st.sampled_from([1, 2]),
)  # fmt: skip
def test_any_rows_of_any_batch_in_any_order(one, rows, exit_layer, kept, head, heads, steps):
    """`select` may return rows in any order (they are trained on in ascending order)."""
    different = list(dict.fromkeys(row % rows for row in kept if row % rows != 2))  # the third has no labels
    kept = torch.tensor(different[: rows - 1] or [0])
    options = {"labelled_head": head and one == "bert-mlm", "select": lambda scores, k, rng: kept}
    # A single row needs no copy where several do, so its pass may differ, and draw on its own from there.
    dropout, config = 0.1 * (len(kept) > 1), {"n_head" if one == "gpt2" else "num_attention_heads": heads}
    steps(one, 2, exit_layer, rows=rows, dropout=dropout, config=config, keep=len(kept) / rows, **options)
