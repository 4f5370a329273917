"""These tests import `passes`, beside them, by name; here is what takes fixtures."""

import contextlib
import copy
import importlib.util
import sys
from pathlib import Path

import pytest

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def steps(build, make_batch, truncated, stack_of):
    """steps(name, number, exit_layer, ...): compares so many steps, and says what each training pass computed.

    The reference never sees the shared forward: it scores with a copy of the model cut by hand, takes down what dropout
    draws in the layers up to the exit, and trains on the kept rows with those rows of the draws. `config` is the
    model's, `masked` says whether batches have attention masks, all runs in `context`, and `options` are Sift's.
    """
    import torch
    from passes import Draws, assert_same, counted, take

    from gsgd.sift import Sift

    def two_passes(model, batch, stack, exit_layer, rows):
        short = truncated(model, stack, exit_layer)
        with Draws(short.get_submodule(stack)[exit_layer - 1]) as draws:
            with torch.no_grad():
                short(**{key: value for key, value in batch.items() if "label" not in key})
            draws.rows = rows
            loss = model(**take(batch, rows)).loss
        assert not draws.masks, "the training pass drew less than the scoring pass"
        return loss

    def run(
        name, number, exit_layer, *, dtype="float64", tolerance=1e-12, dropout=0.1, config=(), rows=8, masked=True,
        context=contextlib.nullcontext, **options,
    ):  # fmt: skip
        model, every = build(name, dropout=dropout, dtype=dtype, **dict(config)), []
        reference, sift = copy.deepcopy(model), Sift(model, exit_layer=exit_layer, **options)
        for seed in range(number):
            batch = make_batch(name, rows=rows, seed=seed, dtype=dtype)
            batch = {key: value for key, value in batch.items() if masked or key != "attention_mask"}
            with context():
                torch.manual_seed(seed)
                found, computed = counted(sift.forward_kept, sift.choose(batch))
                torch.manual_seed(seed)
                wanted = two_passes(reference, batch, stack_of(name), exit_layer, sift.last.indices)
            assert_same(found, wanted, model, reference, tolerance)
            every.append(computed)
        return every

    return run
