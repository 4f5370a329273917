"""`gsgd bench step`: its arithmetic against the formula by hand, and what it prints and writes."""

import json

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
    shared = ROWS * (layer + head + pooled) - kept * layer
    assert costs[1, "shared"].extra_flops == pytest.approx(shared / step, rel=1e-6)
    # At the last layer the masked head is shared, too.
    shared = ROWS * (LAYERS * layer + head + pooled) - kept * (LAYERS * layer + head)
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
