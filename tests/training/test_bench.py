"""`gsgd bench step`: its arithmetic against the formula by hand, and what it prints and writes."""

import json
import sys
import types

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from training import bench  # noqa: E402

LAYERS, HIDDEN, VOCABULARY, ROWS, TOKENS = 3, 64, 500, 8, 40


def small_bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=TOKENS,
    )
    ids = torch.randint(VOCABULARY, (ROWS, TOKENS))
    labels = torch.where(torch.arange(TOKENS) % 5 == 0, ids, -100)
    batch = {"input_ids": ids, "labels": labels, "next_sentence_label": torch.zeros(ROWS, dtype=torch.int64)}
    return transformers.BertForPreTraining(config), batch


@pytest.fixture(scope="module")
def measured():
    model, batch = small_bert()
    return bench.measure(model, batch, exits=[1, LAYERS], keep=0.5, rounds=1)


def forward_flops():
    """Of one row: a layer, the head on its masked positions, and pooler with the next-sentence head."""
    # Query, key, value and output; two layers of four times the width; scores and their use.
    layer = 2 * TOKENS * (4 * HIDDEN**2 + 8 * HIDDEN**2) + 2 * 2 * TOKENS**2 * HIDDEN
    masked = len(range(0, TOKENS, 5))
    head = 2 * masked * (HIDDEN**2 + HIDDEN * VOCABULARY)
    return layer, head, 2 * (HIDDEN**2 + 2 * HIDDEN)


def test_the_floors_are_the_arithmetic_of_the_layers(measured):
    plain, costs = measured
    layer, head, pooled = forward_flops()
    kept = ROWS // 2
    # A backward pass takes twice the forward's products; the embeddings have no gradient for their input.
    step = kept * 3 * (LAYERS * layer + head + pooled)
    assert plain["flops"] == step
    for exit_layer in (1, LAYERS):
        scoring = ROWS * (exit_layer * layer + head + pooled)
        assert costs[exit_layer, "two passes"].extra_flops == pytest.approx(scoring / step, rel=1e-6)
    # Behind the exit layer's attention, nine of its twelve squares, only masked positions are scored, and not shared.
    masked = len(range(0, TOKENS, 5))
    behind, of_masked = 2 * TOKENS * 9 * HIDDEN**2, 2 * masked * 9 * HIDDEN**2
    shared = ROWS * (layer - behind + of_masked + head + pooled) - kept * (layer - behind)
    assert costs[1, "shared"].extra_flops == pytest.approx(shared / step, rel=1e-6)
    # At the last layer the masked head is shared, too.
    through = LAYERS * layer - behind
    shared = ROWS * (through + of_masked + head + pooled) - kept * (through + head)
    assert costs[LAYERS, "shared"].extra_flops == pytest.approx(shared / step, rel=1e-6)


def test_what_is_recorded_is_there_and_nothing_without_sharing(measured):
    _, costs = measured
    assert costs[1, "two passes"].recorded_bytes == 0
    assert 0 < costs[1, "shared"].recorded_bytes < costs[LAYERS, "shared"].recorded_bytes
    assert all(cost.peak_bytes > 0 and cost.median_s > 0 for cost in costs.values())


def test_peak_memory_is_what_a_step_has_at_once():
    def step():
        first = torch.zeros(1000, 250)  # a million bytes
        second = first + 1
        del first
        third = second + 1
        del second
        return int(third.sum()) * 0 + 7

    peak, recorded = bench._peak(torch.nn.Linear(1, 1), torch.device("cpu"), step)
    assert recorded == 7
    assert 2e6 <= peak < 2.1e6


def test_the_command_prints_a_row_for_each_way_and_writes_json(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(bench.MODELS, "bert-small", lambda options: (*small_bert(), [1, 2]))
    path = tmp_path / "step.json"
    assert bench.main(["--model", "bert-small", "--exits", "2", "--rounds", "1", "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("two passes") == shown.count("shared") == 1
    assert "4 rows of 128 tokens kept" in shown
    written = json.loads(path.read_text())
    assert [(row["exit_layer"], row["way"]) for row in written["steps"]] == [(2, "two passes"), (2, "shared")]
    assert written["settings"]["model"] == "bert-small"
    assert written["plain"]["median_s"] > 0
    assert written["header"]["versions"]["torch"]


def test_an_exit_that_is_not_there_exits_with_2(monkeypatch, capsys):
    monkeypatch.setitem(bench.MODELS, "bert-small", lambda options: (*small_bert(), [1, 2]))
    assert bench.main(["--model", "bert-small", "--exits", "9", "--rounds", "1"]) == 2
    assert "exit_layer = 9 must be a whole number in 1..3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--exits", "0"])


def test_the_peer_is_measured_where_it_is_installed(monkeypatch):
    """A stand-in with the signature of Composer's function, which keeps the rows of the largest losses."""
    seen = []

    def select_using_loss(input, target, model, loss_fun, keep=0.5, scale_factor=1.0):
        with torch.no_grad():
            losses = loss_fun(model(input), target, reduction="none")
        seen.append(losses)
        chosen = losses.argsort()[-int(keep * len(input)) :]
        return input[chosen], target[chosen]

    module = types.ModuleType("composer.algorithms.selective_backprop")
    module.select_using_loss = select_using_loss
    for name in ("composer", "composer.algorithms"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model, batch = small_bert()
    model.eval()
    with torch.no_grad():
        rows = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(ROWS)]
        wanted = [float(transformers.BertForPreTraining.forward(model, **row).loss) for row in rows]
        next_sentence = [
            float(
                torch.nn.functional.cross_entropy(
                    model(row["input_ids"]).seq_relationship_logits, torch.zeros(1).long()
                )
            )
            for row in rows
        ]
    bench._peers_choice(bench._peer(), model, batch, 0.5)
    torch.testing.assert_close(seen[0], torch.tensor(wanted) - torch.tensor(next_sentence), rtol=1e-4, atol=1e-5)
    plain, costs = bench.measure(model, batch, exits=[1], keep=0.5, rounds=1)
    layer, head, pooled = forward_flops()
    full_head = head * TOKENS // len(range(0, TOKENS, 5))
    scoring = ROWS * (LAYERS * layer + full_head + pooled)
    assert costs[LAYERS, bench.PEER].extra_flops == pytest.approx(scoring / plain["flops"], rel=1e-6)


def test_without_the_peer_there_is_no_row_of_it(measured):
    _, costs = measured
    assert {way for _, way in costs} == {"two passes", "shared"} | ({bench.PEER} if bench._peer() else set())
