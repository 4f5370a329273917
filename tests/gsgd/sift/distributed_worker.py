"""One of two ranks of test_distributed.py: runs the scenarios that it reads from standard input, by name.

python distributed_worker.py RANK RENDEZVOUS_FILE      one line "ok", or the traceback as JSON, per scenario

Every scenario runs on both ranks and checks itself against one process, written out plainly: batches are functions of
the rank, so each rank can compute what all of them should do together.
"""

import contextlib
import copy
import datetime
import functools
import itertools
import json
import logging
import operator
import os
import sys
import tempfile
import traceback
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from gsgd.sift import (
    AutoExit,
    ClassBalanced,
    CorrectedExit,
    ExitLoss,
    LastSeenSampler,
    LinearProbe,
    MeanOfRanks,
    PredictedLoss,
    Proxy,
    ReducibleLoss,
    Sift,
    WithIds,
    reuse_trial,
)
from gsgd.sift.shared_forward import capture as capture_module

RANKS = 2
CLASSES = 5
SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


# ---- models, batches, and the plain reference ----


def classifier(dtype=torch.float64, **more):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SMALL | more, num_labels=CLASSES, classifier_dropout=0.0))
    return model.to(dtype).train()


def masked_lm(dtype=torch.float64):
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SMALL)).to(dtype).train()


def causal_lm():
    torch.manual_seed(0)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=4, n_head=2, n_positions=16, **none)).double()


def rows_of(rank, step=0, rows=8, width=10):
    """Rows to classify, with a boolean attention mask: a type of its own to exchange."""
    draw = torch.Generator().manual_seed(100 * step + rank)
    return {
        "input_ids": torch.randint(100, (rows, width), generator=draw),
        "attention_mask": torch.ones(rows, width, dtype=torch.bool),
        "labels": torch.randint(CLASSES, (rows,), generator=draw),
    }


def text_of(rank, step=0, rows=8):
    """Rows of text, each with a number of labelled positions of its own."""
    draw = torch.Generator().manual_seed(100 * step + rank)
    ids = torch.randint(100, (rows, 10), generator=draw)
    labelled = torch.rand(rows, 10, generator=draw) < 0.4
    labelled[:, 1] = True
    return {"input_ids": ids, "labels": torch.where(labelled, ids, -100)}


def cut(model):
    """A model of one layer with the weights of `model`: what the early prediction at layer 1 is."""
    config = type(model.config).from_dict({**model.config.to_dict(), "num_hidden_layers": 1})
    short = type(model)(config).to(next(model.parameters()).dtype).train()
    keys = short.state_dict().keys()
    short.load_state_dict({name: value for name, value in model.state_dict().items() if name in keys})
    return short


@torch.no_grad()
def logits_of(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def losses_of(model, batch):
    """(rows,) losses of a classifier."""
    return cross_entropy(logits_of(model, batch), batch["labels"], reduction="none")


def plain_scores(model, batch, causal=False):
    logits = logits_of(cut(model), batch)
    labels = batch["labels"]
    if labels.dim() == 1:
        return cross_entropy(logits, labels, reduction="none")
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return losses.sum(1) / (labels != -100).sum(1)


def plain_choice(model, batch, k, causal=False):
    return sorted(plain_scores(model, batch, causal).topk(k).indices.tolist())


def hardest(scores, kept):
    return sorted(sorted(range(len(scores)), key=lambda row: -scores[row])[:kept])


def hardest_half(scores, scope):
    """Rows of all ranks' batches one after the other, of whose 8 rows each `scores` has a list."""
    if scope == "rank":
        return [8 * rank + row for rank in range(RANKS) for row in hardest(scores[rank], 4)]
    return hardest([score for of_rank in scores for score in of_rank], 4 * RANKS)


def take(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def joined(batches):
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def gradients(model):
    """By the names of the model inside the wrappers."""
    return {
        name.replace("module.", "").replace("_orig_mod.", ""): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def assert_same_gradients(model, reference, tolerance=1e-10):
    got, wanted = gradients(model), gradients(reference)
    assert got.keys() == wanted.keys()
    assert any(float(value.abs().max()) > 1e-3 for value in wanted.values()), "nothing to compare"
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def averaged_step(loss, optimizer):
    """A step by the mean of all ranks' gradients, as a model that is distributed averages them."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                dist.all_reduce(weight.grad)
                weight.grad /= RANKS
    optimizer.step()


def raises(error, action):
    """The text of the error that `action` raises."""
    try:
        action()
    except error as caught:
        return str(caught)
    raise AssertionError(f"no {error.__name__}")


def everywhere(value):
    """`value` of all ranks."""
    values = [None] * RANKS
    dist.all_gather_object(values, value)
    return values


# ---- selection per rank ----


def assert_gradients_of_the_union(rank, model, reference):
    """Those that one process gets on the rows that all ranks keep."""
    sift = Sift(model, exit_layer=1, keep=0.5)
    batches = [rows_of(r) for r in range(RANKS)]
    kept = [plain_choice(reference, batch, 4) for batch in batches]
    sift(**batches[rank]).loss.backward()
    assert sift.last.indices.tolist() == kept[rank]
    union = joined([take(batch, rows) for batch, rows in zip(batches, kept, strict=True)])
    cross_entropy(reference(union["input_ids"], union["attention_mask"]).logits, union["labels"]).backward()
    assert_same_gradients(model, reference)


def rank_scope_gradients_are_those_of_the_union(rank):
    assert_gradients_of_the_union(rank, DistributedDataParallel(classifier()), classifier())


def rank_scope_masked_lm_averages_the_ranks_losses(rank):
    """Ranks label different numbers of positions, and DDP averages means: as in any DDP loop, not the union's mean."""
    for labelled_head in (False, True):
        model, reference = DistributedDataParallel(masked_lm()), masked_lm()
        sift = Sift(model, exit_layer=1, keep=0.5, labelled_head=labelled_head)
        batches = [text_of(r) for r in range(RANKS)]
        sift(**batches[rank]).loss.backward()
        for batch in batches:
            rows = take(batch, plain_choice(reference, batch, 4))
            (reference(**rows).loss / RANKS).backward()
        assert_same_gradients(model, reference)


def ranks_agree_on_the_schedule(rank):
    model = DistributedDataParallel(classifier(torch.float32))
    sift = Sift(model, start_step=2, end_step=8, interrupt=3)
    selected = []
    for step in range(10):
        sift(**rows_of(rank, step)).loss.backward()
        selected.append(sift.last.selected)
    # From 2 up to 8, without every third step: 2, 5, 8.
    assert [step for step in range(10) if selected[step]] == [3, 4, 6, 7]
    assert sift.totals.backprop_samples == 6 * 8 + 4 * 4


def accumulation_with_no_sync(rank):
    model, reference = DistributedDataParallel(classifier(torch.float32)), classifier(torch.float32)
    sift = Sift(model, keep=0.5, accumulation_steps=4, start_step=1)
    for micro in range(8):
        batch = rows_of(rank, micro)
        if micro % 4 < 3:
            with model.no_sync():
                (sift(**batch).loss / 4).backward()
        else:
            (sift(**batch).loss / 4).backward()
        assert sift.last.step == micro // 4
        assert sift.last.selected == (micro >= 4)
    for micro in range(8):
        for batch in [rows_of(r, micro) for r in range(RANKS)]:
            rows = batch if micro < 4 else take(batch, plain_choice(reference, batch, 4))
            logits = reference(rows["input_ids"], rows["attention_mask"]).logits
            (cross_entropy(logits, rows["labels"]) / (4 * RANKS)).backward()
    assert_same_gradients(model, reference, tolerance=1e-5)


def state_is_per_rank(rank):
    for scope in ("rank", "global"):
        model = classifier(torch.float32)
        sift = Sift(model, score="random", scope=scope, seed=3)
        for step in range(3):
            sift.choose(rows_of(rank, step))
        state = sift.state_dict()
        states = everywhere(state["generator"].tolist())
        assert (states[0] == states[1]) == (scope == "global")
        later = [(sift.choose(rows_of(rank, step)), sift.last.indices.tolist())[1] for step in (3, 4)]
        resumed = Sift(model, score="random", scope=scope, seed=99)
        resumed.load_state_dict(state)
        assert resumed.step == 3
        assert later == [(resumed.choose(rows_of(rank, step)), resumed.last.indices.tolist())[1] for step in (3, 4)]


class Computed(TorchDispatchMode):
    """Counts the matrix products that are really carried out."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.products += function.overloadpacket is torch.ops.aten.addmm
        return function(*args, **(kwargs or {}))


def sharing_the_forward_pass_changes_nothing(rank):
    """Losses, gradients and weights with the shared forward and with two passes, and which layers really ran."""
    for labelled_head in (False, True):
        models = [DistributedDataParallel(masked_lm()) for _ in range(2)]
        sifts = [
            Sift(m, exit_layer=2, labelled_head=labelled_head, reuse=r)
            for m, r in zip(models, (True, False), strict=True)
        ]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
        for step in range(3):
            products, losses = [], []
            for sift, optimizer in zip(sifts, optimizers, strict=True):
                optimizer.zero_grad()
                batch = text_of(rank, step)
                batch["labels"][:, 5:] = -100  # less than half of them are labelled
                rows = sift.choose(batch)
                with Computed() as computed:
                    loss = sift.forward_kept(rows).loss
                loss.backward()
                products.append(computed.products)
                losses.append(loss.detach())
            torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
            assert_same_gradients(*models, tolerance=1e-12)
            for optimizer in optimizers:
                optimizer.step()
        # Six in each of four layers, of which the first two are shared but for three behind the exit's attention, and
        # the head's two.
        assert products == [2 * 6 + 3 + 2, 4 * 6 + 2], products


def ranks_decide_alike_and_at_once_whether_to_share(rank):
    """By its own times rank 1 would decide otherwise; at two steps, the deciding one among them, it selects nothing."""
    model = classifier(torch.float32)
    for quicker in (True, False):
        sift, now, decisions = Sift(model, exit_layer=2, reuse="auto"), 0.0, []
        for step in range(reuse_trial.STEPS + 2):
            alone = rank == 1 and step in (3, reuse_trial.STEPS)
            with mock.patch.object(reuse_trial, "now", lambda device, now=now: now):
                sift.choose(rows_of(rank, step, rows=1 if alone else 8))
            assert sift.last.selected != alone
            now += 1.0 if sift.reuse_trial.shares == (quicker if rank == 0 else not quicker) else 2.0
            decisions.append(sift.reuse_trial.decision)
        assert decisions == [None] * reuse_trial.STEPS + [quicker] * 2
        assert sift.totals.sharing.startswith("shared" if quicker else "two passes: it was timed")


def sharded_models_make_two_passes(rank):
    """FSDP gathers weights anew in every pass; a warning says so, once."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    capture_module.say_once.cache_clear()
    logging.getLogger("gsgd.sift.shared_forward.capture").addHandler(handler)
    try:
        for shard in (fsdp1, fsdp2):
            model = masked_lm()
            sift = Sift(shard(model, bert_layers(model)))
            for step in range(2):
                sift.choose(text_of(rank, step))
                assert sift.captured_bytes == 0
    finally:
        logging.getLogger("gsgd.sift.shared_forward.capture").removeHandler(handler)
    assert len(said) == 1, said
    assert "two passes: FSDP gathers weights anew" in said[0]


# ---- selection over all ranks ----


def global_scope_is_one_selection_over_all_batches(rank):
    model, reference = DistributedDataParallel(classifier()), classifier()
    sift = Sift(model, exit_layer=1, keep=0.5, scope="global")
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, reference)]
    shares = []
    for step in range(3):
        everything = joined([rows_of(r, step) for r in range(RANKS)])
        kept = plain_choice(reference, everything, 8)
        shares.append(sum(row < 8 for row in kept))
        output = sift(**rows_of(rank, step))
        output.loss.backward()
        assert sift.last.indices.tolist() == kept
        assert (sift.last.kept, sift.last.gross, len(output.logits)) == (4, 8, 4)
        torch.testing.assert_close(sift.last.scores, plain_scores(reference, rows_of(rank, step)))
        rows = take(everything, kept)
        logits = reference(rows["input_ids"], rows["attention_mask"]).logits
        torch.testing.assert_close(output.logits, logits[4 * rank : 4 * rank + 4])
        cross_entropy(logits, rows["labels"]).backward()
        assert_same_gradients(model, reference)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert set(shares) != {4}, "every step kept as many rows of each rank: dealing out was not tried"


def random_rule_agrees_over_all_ranks_only_if_they_select_together(rank):
    for scope in ("rank", "global"):
        sift = Sift(classifier(torch.float32), score="random", scope=scope, keep=0.25, seed=5)
        drawn = []
        for step in range(6):
            rows = sift.choose(rows_of(rank, step))
            drawn.append(sift.last.indices.tolist())
            if scope == "global":
                everything = joined([rows_of(r, step) for r in range(RANKS)])
                assert len(drawn[-1]) == 4
                torch.testing.assert_close(rows, take(everything, drawn[-1][2 * rank : 2 * rank + 2]))
        assert len({str(draw) for draw in drawn}) > 1
        of_all = everywhere(drawn)
        assert (of_all[0] == of_all[1]) == (scope == "global")


def unlike_batches_raise_on_every_rank(rank):
    good = rows_of(rank)
    other = {
        "rows": rows_of(rank, rows=8 if rank == 0 else 6),
        "width": rows_of(rank, width=10 if rank == 0 else 12),
        "type": {**good, "attention_mask": good["attention_mask"].to(torch.bool if rank == 0 else torch.int64)},
        "names": {name: value for name, value in good.items() if rank == 0 or name != "attention_mask"},
        "axes": {**good, "attention_mask": good["attention_mask"] if rank == 0 else torch.ones(8, 10, 10)},
        "rank 1 broken": good if rank == 0 else {**good, "labels": good["labels"][:3]},
        "rank 1 empty": good if rank == 0 else {},
    }
    sift = Sift(classifier(torch.float32), scope="global")
    for what, batch in other.items():
        text = raises(ValueError, functools.partial(sift.choose, batch))
        assert "rank 0 has" in text, (what, text)
        assert "rank 1 has" in text, (what, text)
    assert sift.step == 0, "a refused batch is no step"
    # The ranks are still in step with each other.
    sift.choose(good)
    assert len(set(map(tuple, everywhere(sift.last.indices.tolist())))) == 1


def a_rank_without_labels_ranks_last(rank):
    sift = Sift(masked_lm(), scope="global")
    batch = text_of(rank)
    if rank == 1:
        batch["labels"] = torch.full_like(batch["labels"], -100)
    rows = sift.choose(batch)
    assert sift.last.indices.tolist() == list(range(8))
    torch.testing.assert_close(rows, take(text_of(0), range(4 * rank, 4 * rank + 4)))


# ---- bad scores ----


def nan_where_class_3(logits, labels):
    return torch.where(labels == 3, torch.nan, cross_entropy(logits, labels, reduction="none"))


def with_bad_rows(rank, bad):
    """Rows of which on rank 1 those in `bad` score NaN, on rank 0 none."""
    batch = rows_of(rank)
    batch["labels"][batch["labels"] == 3] = 2
    if rank == 1:
        batch["labels"][bad] = 3
    return batch


def bad_scores_on_one_rank(rank):
    reference = classifier()
    for keep, bad in ((0.5, [1]), (0.5, [0, 1, 2, 4, 5, 6]), (0.75, [0, 1, 2, 4, 5]), (0.5, list(range(8)))):
        batches = [with_bad_rows(r, bad) for r in range(RANKS)]
        for scope in ("rank", "global"):
            for policy in ("drop", "keep-all"):
                model = DistributedDataParallel(classifier())
                sift = Sift(model, keep=keep, score=nan_where_class_3, scope=scope, on_bad_scores=policy)
                sift(**batches[rank]).loss.backward()  # would hang if a rank did not come
                pool = joined(batches) if scope == "global" else batches[rank]
                scores = plain_scores(reference, pool)
                good = [row for row in range(len(scores)) if pool["labels"][row] != 3]
                size = len(scores)
                wanted = min(int(keep * size), len(good))
                if scope == "global":
                    wanted -= wanted % RANKS  # the ranks train on equally many: 10 of 11 good rows
                if (policy == "keep-all" and len(good) < size) or wanted == 0:
                    expected = list(range(size))
                else:
                    expected = sorted(good[i] for i in scores[good].topk(wanted).indices.tolist())
                assert sift.last.indices.tolist() == expected, (bad, scope, policy)
                if scope == "global":
                    assert everywhere(sift.last.kept) == [len(expected) // 2] * 2
                assert sift.totals.bad_score_rows == size - len(good)


def raising_over_all_ranks_raises_on_every_rank(rank):
    sift = Sift(DistributedDataParallel(classifier()), score=nan_where_class_3, scope="global")
    assert "scores[9] is nan" in raises(ValueError, lambda: sift(**with_bad_rows(rank, [1])))
    sift(**with_bad_rows(rank, [])).loss.backward()


def raising_per_rank_raises_where_the_score_is(rank):
    sift = Sift(classifier(), score=nan_where_class_3, scope="rank")
    if rank == 1:
        assert "scores[1] is nan" in raises(ValueError, lambda: sift.choose(with_bad_rows(rank, [1])))
    else:
        sift.choose(with_bad_rows(rank, [1]))


# ---- wrappers ----


def compiled(model):
    # Not the default backend, which needs a C++ compiler and minutes.
    return torch.compile(model, backend="aot_eager")


def compile_and_ddp_in_either_order(rank):
    for wrap in (lambda m: DistributedDataParallel(compiled(m)), lambda m: compiled(DistributedDataParallel(m))):
        model, reference = (classifier(num_hidden_layers=2) for _ in range(2))  # compiling takes its time for each
        assert_gradients_of_the_union(rank, wrap(model), reference)


def accelerate_bf16(rank):
    """Prepared by accelerate for 2 processes: DDP around a forward with autocast, which scoring must have, too.

    Also within an autocast block of the loop: a weight cast for scoring must not cost the training pass its gradient.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    assert accelerator.num_processes == RANKS
    model = accelerator.prepare(masked_lm(torch.float32))
    sift, seen = Sift(model), []
    model.module.bert.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    for step, block in enumerate((contextlib.nullcontext(), accelerator.autocast())):
        model.zero_grad()
        seen.clear()
        with block:
            loss = sift(**text_of(rank)).loss
        accelerator.backward(loss)
        assert seen[-2:] == [torch.bfloat16] * 2  # scoring and training
        assert set(seen[:-2]) == ({torch.float32} if step == 0 else set())  # the check
        reference = masked_lm(torch.float32)
        for batch in everywhere((text_of(rank), sift.last.indices.tolist())):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = reference(**take(*batch)).loss / RANKS
            loss.backward()
        assert_same_gradients(model, reference, tolerance=1e-5)


# ---- FSDP ----


def fsdp2(model, layers):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp1(model, layers, use_orig_params=True):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({type(layer) for layer in layers}),
        device_id=torch.device("cpu"),
        use_orig_params=use_orig_params,
    )


def weights(model):
    """All weights, unsharded, by the names of the model without its wrappers."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    if isinstance(model, FSDPModule):
        return {name: p.full_tensor() for name, p in model.named_parameters()}
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        return {name.replace("_fsdp_wrapped_module.", ""): p.clone() for name, p in model.named_parameters()}


def follow_unsharded(shard, build, layers_of, batch_of, causal=False, **options):
    """Three steps of SGD on a sharded model; its weights must stay those of one process on the same rows."""
    rank = dist.get_rank()
    model, reference = build(), build()
    model = shard(model, layers_of(model))
    sift = Sift(model, exit_layer=1, **options)
    assert sift.causal == causal
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, reference)]
    for step in range(3):
        batches = [batch_of(r, step) for r in range(RANKS)]
        kept = [plain_choice(reference, batch, 4, causal) for batch in batches]
        sift(**batches[rank]).loss.backward()
        assert sift.last.indices.tolist() == kept[rank]
        for batch, rows in zip(batches, kept, strict=True):
            (reference(**take(batch, rows)).loss / RANKS).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    wanted = dict(reference.named_parameters())
    got = weights(model)
    assert got.keys() == wanted.keys()
    torch.testing.assert_close(got, {n: p.detach() for n, p in wanted.items()}, rtol=1e-10, atol=1e-10)
    before = dict(build().named_parameters())
    assert all(not torch.equal(got[name], before[name]) for name in got if "pooler" not in name), "nothing was trained"


def bert_layers(model):
    return model.bert.encoder.layer


def fsdp2_equals_one_process(rank):
    follow_unsharded(fsdp2, masked_lm, bert_layers, text_of)
    follow_unsharded(fsdp2, classifier, bert_layers, rows_of, score_batch_size=3)
    follow_unsharded(fsdp2, causal_lm, lambda m: m.transformer.h, text_of, causal=True)
    follow_unsharded(fsdp2, masked_lm, bert_layers, text_of, labelled_head=True)


def fsdp1_equals_one_process(rank):
    follow_unsharded(fsdp1, masked_lm, bert_layers, text_of)
    follow_unsharded(functools.partial(fsdp1, use_orig_params=False), classifier, bert_layers, rows_of)
    follow_unsharded(fsdp1, causal_lm, lambda m: m.transformer.h, text_of, causal=True)


def fsdp_ranks_score_equally_often(rank):
    """Batches by which one rank alone could leave out its scoring pass, while the other waits for its weights."""
    for shard in (fsdp1, fsdp2):
        model = masked_lm()
        sift = Sift(shard(model, bert_layers(model)))
        batch = text_of(rank)
        if rank == 1:
            batch["labels"] = torch.full_like(batch["labels"], -100)
        sift.choose(batch)
        sift.choose(text_of(rank, rows=1 if rank == 1 else 8))  # a single row is kept anyway
        assert sift.last.kept == (4, 1)[rank]
        parts = Sift(sift.model, score_batch_size=4)
        text = raises(ValueError, lambda s=parts: s.choose(text_of(rank, rows=(8, 4)[rank])))
        assert "[2, 1]" in text
        parts.choose(text_of(rank))


def a_wrong_loss_is_refused_on_every_rank(rank):
    """Whatever only one of them can see: on rank 1 no row has a label, and without labels there is no loss."""

    class Doubled(BertForMaskedLM):
        def forward(self, labels=None, **inputs):
            output = super().forward(**inputs)
            if labels is not None:
                chosen = output.logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
                output.loss = -2 * chosen[labels != -100].mean()
            return output

    batch = text_of(rank)
    if rank == 1:
        batch["labels"] = torch.full_like(batch["labels"], -100)
    for shard in (None, fsdp1, fsdp2):
        model = masked_lm()
        model.__class__ = Doubled
        sift = Sift(model if shard is None else shard(model, bert_layers(model)))
        text = raises(ValueError, lambda s=sift: s.choose(batch))
        assert "Doubled are not its losses" in text
        assert len(set(everywhere(text))) == 1
        # The ranks are still in step, and a model that is right selects.
        right = masked_lm()
        Sift(right if shard is None else shard(right, bert_layers(right))).choose(batch)


def a_rank_without_labels_is_an_error_on_every_rank_that_shards(rank):
    model = masked_lm()
    sift = Sift(fsdp2(model, bert_layers(model)))
    batch = text_of(rank)
    if rank == 1:
        del batch["labels"]
    text = raises(ValueError, lambda: sift.choose(batch))
    assert "scoring needs `labels` in the batch" in text
    Sift(fsdp2(right := masked_lm(), bert_layers(right))).choose(text_of(rank))


class Tower(nn.Module):
    """A model that implements `EarlyExit` itself."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x, labels=None):
        return cross_entropy(self.head(self.second(self.first(x).relu()).relu()), labels)

    def early_logits(self, exit_layer, x):
        hidden = self.first(x).relu()
        return self.head(hidden if exit_layer == 1 else self.second(hidden).relu())


def fsdp_and_the_exit_protocol(rank):
    draw = torch.Generator().manual_seed(rank)
    batch = {"x": torch.randn(8, 6, generator=draw), "labels": torch.randint(CLASSES, (8,), generator=draw)}
    for shard in (fsdp1, fsdp2):
        torch.manual_seed(0)
        model = Tower()
        with torch.no_grad():
            hidden = (batch["x"] @ model.first.weight.T + model.first.bias).clamp(min=0)
            logits = hidden @ model.head.weight.T + model.head.bias
            expected = logits.logsumexp(1) - logits.gather(1, batch["labels"][:, None])[:, 0]
        sift = Sift(shard(model, [model.second]), exit_layer=1)
        sift(**batch).backward()
        torch.testing.assert_close(sift.last.scores, expected, rtol=1e-5, atol=1e-6)


def fsdp_and_peft(rank):
    """Adapters within the sharded model; skipped without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return
    for shard in (fsdp1, fsdp2):
        reference = masked_lm()
        model = get_peft_model(masked_lm(), LoraConfig(target_modules=["query", "value"]))
        layers = bert_layers(model.get_base_model())
        sift = Sift(shard(model, layers))
        sift(**text_of(rank)).loss.backward()
        # Adapters start as the identity.
        assert sift.last.indices.tolist() == plain_choice(reference, text_of(rank), 4)


def fsdp_peft_compile_and_a_labelled_head(rank):
    """Inside FSDP, too, PEFT's model has a `base_model` that is not what lies below the head; skipped without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**{**SMALL, "num_hidden_layers": 2})).double().train()
    reference, below = copy.deepcopy(model), model.bert
    adapted = get_peft_model(model, LoraConfig(target_modules=["query", "value"]))
    sift = Sift(fsdp2(adapted, bert_layers(model)), labelled_head=True, compile="eager")
    loss = sift(**text_of(rank)).loss
    # Adapters start as the identity.
    rows = take(text_of(rank), plain_choice(reference, text_of(rank), 4))
    torch.testing.assert_close(loss.detach(), reference(**rows).loss.detach(), rtol=1e-10, atol=0)
    assert (sift._training_pass.compiled.failed, model.bert) == (None, below)


def fsdp_around_compile_is_refused(rank):
    for shard in (fsdp1, fsdp2):
        model = masked_lm()
        layers = bert_layers(model)
        sift = Sift(shard(compiled(model), layers))
        assert "compile the sharded model" in raises(ValueError, lambda s=sift: s.choose(text_of(rank)))


def compile_around_fsdp(rank):
    for shard in (fsdp1, fsdp2):
        model = masked_lm()
        sift = Sift(torch.compile(shard(model, bert_layers(model)), backend="eager"))
        sift.choose(text_of(rank))
        assert sift.last.indices.tolist() == plain_choice(masked_lm(), text_of(rank), 4)


def every_rank_notes_what_all_have_seen(rank):
    """In an own loop, over each scope: the tables are those of a dictionary of both ranks' rows."""
    for scope in ("rank", "global"):
        model = classifier()
        sift = Sift(model, score="last-seen", data_rows=64, scope=scope, random_share=0.0)
        seen = {}
        for step in range(4):
            generator = torch.Generator().manual_seed(10 * step)
            ids = torch.randperm(64, generator=generator)[: 8 * RANKS]
            batch = {**rows_of(rank, step), "id": ids[8 * rank : 8 * (rank + 1)]}
            sift(**batch)
            for of_rank_ids, losses in everywhere((sift.last.ids.tolist(), sift.last.losses.tolist())):
                seen |= {name: (loss, step) for name, loss in zip(of_rank_ids, losses, strict=True)}
        table = sift.named_rows.seen
        assert (table.seen_at >= 0).nonzero().flatten().tolist() == sorted(seen)
        assert all((float(table.losses[name]), int(table.seen_at[name])) == seen[name] for name in seen), scope


def every_rank_corrects_an_exit_by_what_all_have_seen(rank):
    """Over each scope scores and errors are those of a dictionary of both ranks' rows."""
    for scope in ("rank", "global"):
        model = classifier()
        # Ids name no rows here: what stands under one has another class at every step.
        sift = Sift(model, score=CorrectedExit(), exit_layer=1, data_rows=64, scope=scope, check=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        errors = {}
        for step in range(4):
            ids = torch.randperm(64, generator=torch.Generator().manual_seed(10 * step))[: 8 * RANKS]
            batches = [rows_of(other, step) for other in range(RANKS)]
            mean = sum(errors.values()) / max(1, len(errors))
            scores, exact = [], []
            for other, batch in enumerate(batches):
                names = ids[8 * other : 8 * (other + 1)].tolist()
                early = plain_scores(model, batch).tolist()
                scores.append([loss + errors.get(name, mean) for loss, name in zip(early, names, strict=True)])
                exact += [loss - first for loss, first in zip(losses_of(model, batch).tolist(), early, strict=True)]
            kept = hardest_half(scores, scope)
            loss = sift(**batches[rank], id=ids[8 * rank : 8 * (rank + 1)]).loss
            found = torch.tensor(sift.last.scores.tolist())
            assert torch.allclose(found, torch.tensor(scores[rank]), rtol=1e-4, atol=1e-5), scope
            assert sorted(name for of_rank in everywhere(sift.last.ids.tolist()) for name in of_rank) == sorted(
                ids[kept].tolist()
            ), scope
            errors |= {int(ids[row]): exact[row] for row in kept}
            averaged_step(loss, optimizer)
        seen = sift.source.errors
        assert (seen.table.seen_at >= 0).nonzero().flatten().tolist() == sorted(errors), scope
        assert abs(float(seen.totals[0]) - sum(errors.values())) < 1e-4


def a_proxy_is_one_network_on_all_ranks(rank):
    """It begins with rank 0's weights and is trained by the mean of all ranks' gradients, as in one process."""
    for scope in ("rank", "global"):
        torch.manual_seed(5 + rank)
        config = BertConfig(**SMALL | {"num_hidden_layers": 1, "hidden_size": 16}, num_labels=CLASSES)
        small = BertForSequenceClassification(config).double()
        by_hand = copy.deepcopy(small)
        for value in by_hand.state_dict().values():
            dist.broadcast(value, src=0)
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
        source = Proxy(small, optimizer=torch.optim.SGD(small.parameters(), lr=0.5))
        sift = Sift(classifier(), score=source, scope=scope, random_share=0.0)
        for step in range(3):
            batches = [rows_of(other, step) for other in range(RANKS)]
            by_hand.eval()
            kept = hardest_half([losses_of(by_hand, batch).tolist() for batch in batches], scope)
            sift(**batches[rank])
            by_hand.train()
            optimizer.zero_grad()
            by_hand(**take(joined(batches), kept)).loss.backward()
            optimizer.step()
            for name, value in sift.source.network.state_dict().items():
                assert torch.allclose(value, by_hand.state_dict()[name], rtol=1e-9, atol=1e-12), (scope, step, name)


def a_head_on_features_is_one_on_all_ranks(rank):
    """Trained as one process would on the rows of both: all that are scored, or all that are trained on."""
    for scope, source in itertools.product(("rank", "global"), (LinearProbe, PredictedLoss)):
        model = classifier()
        sift = Sift(model, score=source(lr=0.05), exit_layer=1, scope=scope, random_share=0.0)
        head = torch.nn.Linear(SMALL["hidden_size"], CLASSES).double()
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, weight_decay=0.0)
        for step in range(3):
            batches = [rows_of(other, step) for other in range(RANKS)]
            union = joined(batches)
            labels = union["labels"]
            with torch.no_grad():
                bert = cut(model).bert
                features = bert(union["input_ids"], attention_mask=union["attention_mask"]).pooler_output
                roots = torch.nn.functional.softplus(head(features).gather(1, labels[:, None]).squeeze(1))
                losses = cross_entropy(head(features), labels, reduction="none")
                exact = losses_of(model, union)
            expected = losses if source is LinearProbe else roots**2
            sift(**batches[rank])
            torch.testing.assert_close(sift.last.scores, expected[8 * rank : 8 * (rank + 1)], rtol=1e-4, atol=1e-6)
            if scope == "global":
                kept = sift.last.indices
            else:
                kept = torch.cat([8 * other + each for other, each in enumerate(everywhere(sift.last.indices))])
            optimizer.zero_grad()
            if source is LinearProbe:
                cross_entropy(head(features), labels).backward()
            else:
                outputs = torch.nn.functional.softplus(head(features[kept]).gather(1, labels[kept][:, None]).squeeze(1))
                (outputs - exact[kept].sqrt()).square().mean().backward()
            optimizer.step()
            torch.testing.assert_close(sift.source.head.weight, head.weight, rtol=1e-3, atol=1e-5)
            weights = everywhere(sift.source.head.weight.detach())
            assert all(torch.equal(weights[0], each) for each in weights), (scope, source)


COST = 1.018
"""Of a step that selects, at which the two ranks would not always decide alike by themselves."""


def ranks_begin_and_end_selection_together(rank):
    """By the mean of what both measure on their own batches, whatever one of them would do alone."""
    rule = AutoExit(every=2, first=1, memory=0.0, margin=0.0, costs={1: COST})
    for scope in ("rank", "global"):
        model = classifier()
        sift = Sift(model, exit_layer=1, scope=scope, start_step="auto", auto=rule)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        pays, alone = False, set()
        for step in range(16):
            batches = [rows_of(other, step) for other in range(RANKS)]
            selects = pays
            if step % 2 == 0:
                progress = []
                for batch in batches:
                    exact = losses_of(model, batch)
                    kept = plain_scores(model, batch).topk(4).indices
                    progress.append(float(exact[kept].mean() / exact.mean()))
                pays = (sum(progress) / RANKS) ** 0.8 / COST >= 1
                alone.add(tuple(each**0.8 / COST >= 1 for each in progress))
            loss = sift(**batches[rank]).loss
            assert sift.last.selected == selects, (scope, step)
            assert everywhere(sift.auto.state_dict()) == RANKS * [sift.auto.state_dict()]
            averaged_step(loss, optimizer)
        assert {(True, False), (False, True)} & alone, alone  # they would not have agreed
        assert sift.totals.selected_steps > 0


def sources_look_at_the_rows_of_all_ranks(rank):
    """With scope="global" rows are ranked, and numbered within their class, among those of both ranks."""
    batches = [rows_of(other) for other in range(RANKS)]
    labels = torch.cat([batch["labels"] for batch in batches]).tolist()
    table = torch.rand(64, generator=torch.Generator().manual_seed(1)).double()
    ids = torch.randperm(64, generator=torch.Generator().manual_seed(2))[: 8 * RANKS]
    model = classifier()
    source = MeanOfRanks(ExitLoss(), ReducibleLoss(table))
    sift = Sift(model, score=source, exit_layer=1, data_rows=64, scope="global")
    early = [score for batch in batches for score in plain_scores(model, batch).tolist()]
    less = [score - float(table[name]) for score, name in zip(early, ids.tolist(), strict=True)]
    expected = [
        (sum(other < score for other in early) + sum(other < left for other in less)) / 2
        for score, left in zip(early, less, strict=True)
    ]
    sift.choose({**batches[rank], "id": ids[8 * rank : 8 * (rank + 1)]})
    assert sift.last.scores.tolist() == expected[8 * rank : 8 * (rank + 1)]
    assert sift.last.indices.tolist() == hardest(expected, 8)

    sift = Sift(classifier(), score=ClassBalanced(), scope="global")
    sift.choose(batches[rank])
    drawn = [labels[row] for row in sift.last.indices.tolist()]
    assert everywhere(drawn) == [drawn] * RANKS
    most = max(drawn.count(name) for name in set(labels))
    # A class has fewer rows than another by more than one only if it has no more.
    assert len(drawn) == 8
    assert all(drawn.count(name) >= min(most - 1, labels.count(name)) for name in set(labels))


def every_row_is_logged_by_one_rank(rank):
    """Over each scope, in files a rank: what two ranks drew, and what they kept of it."""
    import pyarrow.parquet as pq

    for scope in ("rank", "global"):
        folder = everywhere(tempfile.mkdtemp())[0]
        # Ids name no rows here: what stands under one has another class at every step.
        sift = Sift(classifier(), score="loss", scope=scope, exit_layer=1, log_rows=folder, check=False)
        expected = []
        for step in range(3):
            ids = torch.randperm(64, generator=torch.Generator().manual_seed(step))[: 8 * RANKS]
            sift(**rows_of(rank, step), id=ids[8 * rank : 8 * (rank + 1)])
            trained = {}
            for of_rank_ids, losses in everywhere((sift.last.ids.tolist(), sift.last.losses.tolist())):
                trained |= dict(zip(of_rank_ids, losses, strict=True))
            flags = [flag for found in everywhere(sift.last.kept_flags.tolist()) for flag in found]
            assert flags == [name in trained for name in ids.tolist()], scope
            expected += [(step, name, name in trained, trained.get(name)) for name in ids.tolist()]
        sift.write_rows()
        dist.barrier()
        names = sorted(os.listdir(folder))
        assert names == [f"rank-{of}-part-000000.parquet" for of in range(RANKS)]
        found = [row for name in names for row in pq.read_table(os.path.join(folder, name)).to_pylist()]
        key = operator.itemgetter(0, 1)
        rows = [(row["step"], row["id"], row["kept"], row["loss"]) for row in found]
        assert sorted(rows, key=key) == sorted(expected, key=key), scope


def samplers_deal_out_batches_and_agree(rank):
    """accelerate deals the batches of one sampler out to the ranks, whose tables stay the same."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    sampler = LastSeenSampler(48, 4, seed=2)
    data = WithIds([{"x": float(name)} for name in range(48)])
    loader = Accelerator(cpu=True).prepare(DataLoader(data, batch_sampler=sampler))
    for _ in range(2):
        for batch in loader:
            ids = batch["id"]
            assert batch["x"].tolist() == ids.tolist()
            sampler.note(ids, ids.float() / 48)
            one, other = everywhere(ids.tolist())
            assert not set(one) & set(other), "ranks train on different rows"
    tables = everywhere((sampler.seen.losses.nan_to_num(-1).tolist(), sampler.seen.seen_at.tolist(), sampler.step))
    assert tables[0] == tables[1]
    assert sampler.step == 6
    assert float((sampler.seen.seen_at >= 0).sum()) > 24


# ---- the process ----


def answer(rank, rendezvous):
    # What libraries print must not be taken for an answer.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    for line in sys.stdin:
        try:
            globals()[line.strip()](rank)
            dist.barrier()
            replies.write('"ok"\n')
        except Exception:
            replies.write(json.dumps(traceback.format_exc()) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(int(sys.argv[1]), sys.argv[2])
