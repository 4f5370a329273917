"""These tests import `passes` and `towers`, beside them, by name; here is what takes fixtures."""

import contextlib
import copy
import importlib.util
import logging
import sys
from pathlib import Path

import pytest

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def warnings_said(caplog):
    """What was logged in the test, though other tests may have had it logged before."""
    from gsgd.sift.shared_forward.recording import say_once

    say_once.cache_clear()
    name = "gsgd.sift.shared_forward.recording"
    caplog.set_level(logging.WARNING, logger=name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == name]


@pytest.fixture
def two_passes(truncated, row_scores, stack_of):
    """two_passes(model, batch, name, exit_layer, rows=None, keep=4) -> (loss, kept rows); of `rows` if given.

    It never sees the shared forward: it scores with a copy of the model cut by hand, takes down what dropout draws in
    the layers up to the exit, and trains on the kept rows with those rows of the draws.
    """
    import torch
    from passes import Draws, take

    def run(model, batch, name, exit_layer, rows=None, keep=4):
        stack, inputs = stack_of(name), {key: value for key, value in batch.items() if "label" not in key}
        with pytest.MonkeyPatch.context() as patch:
            draws = Draws(patch)
            short = truncated(model, stack, exit_layer)
            with torch.no_grad(), draws.of(short.get_submodule(stack)[exit_layer - 1]):
                output = short(**inputs)
            if rows is None:
                logits = output.prediction_logits if "prediction_logits" in output else output.logits
                scores = torch.tensor(row_scores(logits.float(), batch["labels"], "loss", name in ("gpt2", "llama")))
                if "next_sentence_label" in batch:
                    sentence = row_scores(output.seq_relationship_logits, batch["next_sentence_label"], "loss")
                    scores = scores.clamp(min=0) + torch.tensor(sentence)
                rows = scores.topk(keep).indices.sort().values
            draws.give(rows)
            loss = model(**take(batch, rows)).loss
            assert not draws.queue, "the training pass drew less than the scoring pass"
        return loss, rows.tolist()

    return run


@pytest.fixture
def steps(two_passes):
    """steps(model, name, batches, exit_layer, rows=None, ...): compares step after step, and yields what each computed.

    `reference` is a copy of the model unless given, `context` is what both run in, and `options` are Sift's.
    """
    import torch
    from passes import assert_same, train

    from gsgd.sift import Sift

    def run(model, name, batches, exit_layer, *, rows=None, tolerance=1e-12, reference=None, context=None, **options):
        reference, context = reference or copy.deepcopy(model), context or contextlib.nullcontext
        select = {} if rows is None else {"select": lambda scores, k, rng: rows}
        sift = Sift(model, exit_layer=exit_layer, **select, **options)
        for seed, batch in enumerate(batches):
            torch.manual_seed(seed)
            with context():
                wanted, kept = two_passes(reference, batch, name, exit_layer, rows)
            torch.manual_seed(seed)
            with context():
                found, computed, _ = train(sift, batch)
            assert sift.last.indices.tolist() == kept
            assert_same(found, wanted, model, reference, tolerance)
            yield computed

    return run
