"""`gsgd bench step`: its arithmetic against the formula by hand, and what it prints and writes."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gsgd.cli import main  # noqa: E402
from training.bench import cli as bench  # noqa: E402
from training.bench import steps as step_costs  # noqa: E402
from training.bench.models import MODELS, BatchShape  # noqa: E402
from training.bench.sources import LAST_SEEN, PROXY, sources_of  # noqa: E402

LAYERS, HIDDEN, VOCABULARY, ROWS, TOKENS = 3, 64, 500, 8, 40


pytestmark = pytest.mark.usefixtures("one_thread")


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
def measured(one_thread):
    model, batch = small_bert()
    return step_costs.measure(
        model, batch, exits=[1, LAYERS], keep=0.5, rounds=1, sources=sources_of(model, batch, LAYERS)
    )


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
    # Attention's products are so short here (32 and 40 terms) that they are computed again.
    again = kept * 2 * 2 * TOKENS**2 * HIDDEN
    shared = ROWS * (layer - behind + of_masked + head + pooled) - kept * (layer - behind) + again
    assert costs[1, "shared"].extra_flops == pytest.approx(shared / step, rel=1e-6)
    # At the last layer the masked head is shared, too.
    through = LAYERS * layer - behind
    shared = ROWS * (through + of_masked + head + pooled) - kept * (through + head) + LAYERS * again
    assert costs[LAYERS, "shared"].extra_flops == pytest.approx(shared / step, rel=1e-6)


def test_what_is_captured_is_there_and_nothing_without_sharing(measured):
    _, costs = measured
    assert costs[1, "two passes"].captured_bytes == 0
    assert 0 < costs[1, "shared"].captured_bytes < costs[LAYERS, "shared"].captured_bytes
    assert all(cost.peak_bytes > 0 and cost.median_s > 0 for cost in costs.values())


def test_a_correction_costs_no_arithmetic_and_half_the_tokens_less_than_half(measured):
    plain, costs = measured
    assert costs[1, "corrected"].extra_flops == costs[1, "two passes"].extra_flops
    half, masked = TOKENS // 2, len(range(0, TOKENS // 2, 5))
    layer = 2 * half * 12 * HIDDEN**2 + 2 * 2 * half**2 * HIDDEN
    head = 2 * masked * (HIDDEN**2 + HIDDEN * VOCABULARY)
    scoring = ROWS * (LAYERS * layer + head + 2 * (HIDDEN**2 + 2 * HIDDEN))
    assert costs[LAYERS, "first 20 tokens"].extra_flops == pytest.approx(scoring / plain["flops"], rel=1e-6)


def test_a_proxy_costs_its_scores_and_its_training():
    """LeNet on 16 x 16, by hand; the gradient of the pictures is not computed. Pooled pictures cost less than half."""
    model, batch, _ = MODELS["resnet-tiny"](BatchShape(gross=ROWS, size=16))
    sources = sources_of(model, batch, 2)
    plain, costs = step_costs.measure(model, batch, exits=[2], keep=0.5, rounds=1, sources=sources)
    first, rest = 2 * 16**2 * 16 * 75, 2 * 8**2 * 32 * 400 + 2 * 32 * 4**2 * 32 + 2 * 32 * 100
    proxy = ROWS * (first + rest) + ROWS // 2 * (2 * first + 3 * rest)
    assert costs[PROXY].extra_flops == pytest.approx(proxy / plain["flops"], rel=1e-6)
    # The exit's head and each of the other two read as many features; one learns of all rows, one of those kept.
    head = 2 * model.early_classifier.in_features * 100
    for way, learns_of in (("probe", ROWS), ("predicted", ROWS // 2)):
        expected = costs[1, "corrected"].extra_flops + (ROWS + 2 * learns_of) * head / plain["flops"]
        assert costs[1, way].extra_flops == pytest.approx(expected, rel=1e-6)
    assert 0 < costs[2, "pooled by 2"].extra_flops < 0.5 * costs[2, "two passes"].extra_flops


def test_losses_last_seen_cost_no_arithmetic(measured):
    plain, costs = measured
    cost = costs[LAST_SEEN]
    assert (cost.extra_flops, cost.captured_bytes) == (0, 0)
    assert plain["operators"] < cost.operators < costs[1, "two passes"].operators


def test_peak_memory_is_what_a_step_has_at_once():
    def step():
        first = torch.zeros(1000, 250)  # a million bytes
        second = first + 1
        del first
        third = second + 1
        del second
        return int(third.sum()) * 0 + 7

    peak, captured = step_costs._peak(torch.nn.Linear(1, 1), torch.device("cpu"), step)
    assert captured == 7
    assert 2e6 <= peak < 2.1e6


def test_the_command_prints_a_row_for_each_way_and_writes_json(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(bench.MODELS, "bert-small", lambda shape: (*small_bert(), [1, 2]))
    path = tmp_path / "step.json"
    assert main(["bench", "step", "--model", "bert-small", "--exits", "2", "--rounds", "1", "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("two passes") == shown.count("shared") == shown.count("last-seen") == 1
    assert "4 rows of 40 tokens kept, float32, eager" in shown
    written = json.loads(path.read_text())
    ways = [(2, "two passes"), (2, "shared"), (0, "last-seen"), (1, "corrected"), (3, "first 20 tokens")]
    assert [(row["exit_layer"], row["way"]) for row in written["steps"]] == ways
    assert written["settings"]["model"] == "bert-small"
    assert written["plain"]["median_s"] > 0
    assert written["header"]["versions"]["torch"]
    assert written["header"]["device"] in shown
    assert written["settings"]["device"] == "cpu"
    assert written["plain"]["row"] == "40 tokens"
    for step in (written["plain"], *written["steps"]):
        assert step["operators"] > step["waits"] == sum(step["waiting"].values())
        assert step["cuda_waits"] is None
    heading = next(line for line in shown.splitlines() if line.startswith("exit"))
    assert heading.split() == ["exit", "way", "time", "floor", "operators", "waits", "peak", "captured", "must", "save"]


def test_an_exit_that_is_not_there_exits_with_2(monkeypatch, capsys):
    monkeypatch.setitem(bench.MODELS, "bert-small", lambda shape: (*small_bert(), [1, 2]))
    assert main(["bench", "step", "--model", "bert-small", "--exits", "9", "--rounds", "1"]) == 2
    assert "exit_layer = 9 must be a whole number in 1..3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "step", "--exits", "0"])


def test_a_selecting_step_runs_what_a_plain_one_runs_and_more(measured):
    plain, costs = measured
    for cost in costs.values():
        assert cost.operators > plain["operators"]
        assert cost.waits >= plain["waits"]


def test_a_plain_step_waits_only_where_transformers_does_and_for_labelled_positions(measured):
    plain, _ = measured
    ours = {place: times for place, times in plain["waiting"].items() if "transformers/" not in place}
    # The head that runs on masked positions only must find them.
    assert all(place.startswith("nonzero at gsgd/sift/") for place in ours)
    assert sum(ours.values()) <= 1


@pytest.mark.parametrize(
    ("name", "row"),
    [("vit-tiny", "32x32"), ("resnet-tiny", "32x32"), ("gpt2-tiny", "16 tokens"), ("llama-tiny", "16 tokens")],
)
def test_every_kind_of_model_is_measured(name, row, capsys):
    assert main(["bench", "step", "--model", name, "--seq", "16", "--gross", "4", "--exits", "1", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("two passes") == shown.count("shared") == 1
    assert f"{name}, 2 rows of {row} kept" in shown


def test_plain_steps_of_images_do_not_wait():
    model, batch, exits = MODELS["vit-tiny"](BatchShape(gross=4))
    plain, _ = step_costs.measure(model, batch, exits=exits[:1], keep=0.5, rounds=1)
    assert plain["waits"] == 0


def parameters(name):
    with torch.device("meta"):
        model, _, _ = MODELS[name](BatchShape(gross=2))
    return sum(weight.numel() for weight in model.parameters())


def test_models_have_the_sizes_that_are_known_of_them():
    # As published: GPT-2 small, ViT-B/16 with 1,000 classes, and BERT-base with both heads of its pretraining.
    assert parameters("gpt2") == 124_439_808
    assert parameters("vit") == 86_567_656
    assert parameters("bert-base") == 110_106_428
    layer = 4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024
    assert parameters("llama") == 2 * 32000 * 1024 + 16 * layer + 1024


@pytest.mark.parametrize("name", ["bert-tiny", "gpt2-tiny", "llama-tiny", "vit-tiny"])
def test_dropout_is_that_of_the_whole_model(name):
    model, _, _ = MODELS[name](BatchShape(gross=2, seq=8, dropout=0.25))
    modules = list(model.modules())
    rates = {module.p for module in modules if isinstance(module, torch.nn.Dropout)}
    # Of attention that runs as one operator, the rate is an attribute.
    rates |= {
        module.attention_dropout for module in modules if isinstance(getattr(module, "attention_dropout", 0), float)
    }
    assert rates == {0.25}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "--device 'tpu' must be cpu, cuda, cuda:N or mps"),
        (["--device", "cuda:x"], "--device 'cuda:x' must be cpu, cuda, cuda:N or mps"),
        (["--device", "cpu:1"], "finds 1 cpu device here"),
        (["--device", "cuda:64"], "cuda device here"),
        (["--precision", "tf32"], "--precision tf32 is for CUDA, but the device is cpu"),
        (["--model", "vit-tiny", "--size", "30"], "--size 30 must be a multiple of 8"),
        (["--model", "resnet-tiny", "--dropout", "0.1"], "--dropout 0.1: a ResNet has none"),
    ],
)
def test_what_cannot_be_measured_exits_with_2_and_says_why(arguments, said, capsys):
    assert main(["bench", "step", "--model", "bert-tiny", *arguments, "--rounds", "1"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["1", "-0.1", "much"])
def test_a_rate_of_dropout_lies_below_1(rate, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "step", f"--dropout={rate}"])
    assert "must be a number in [0, 1)" in capsys.readouterr().err


def test_operations_of_a_compiled_step_are_counted_in_an_eager_one(monkeypatch, measured):
    asked = []
    monkeypatch.setattr(step_costs, "_compiled", lambda compile: asked.append(compile) or {})
    model, batch = small_bert()
    plain, costs = step_costs.measure(model, batch, exits=[1, LAYERS], keep=0.5, rounds=1, compile=True)
    assert {way for _, way in costs} == {"two passes"}, "what is compiled shares nothing"
    assert asked == [True]
    for key in ("flops", "operators", "waiting"):
        assert plain[key] == measured[0][key]
    assert all(cost.extra_flops == measured[1][key].extra_flops for key, cost in costs.items())


def test_bf16_is_autocast_of_the_device():
    seen = []
    model, batch = small_bert()
    model.bert.pooler.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step_costs.measure(model, batch, exits=[1], keep=0.5, rounds=1, precision="bf16")
    # But for the engine's check of its scores at the first step, which is in full precision.
    assert seen[0] == torch.bfloat16
    assert seen[-1] == torch.bfloat16


def test_no_round_begins_once_time_is_up_but_the_first():
    model, batch = small_bert()
    plain, _ = step_costs.measure(model, batch, exits=[1], keep=0.5, rounds=50, until=0.0)
    assert plain["rounds"] == 1


def test_the_share_of_the_matrix_rate_is_that_of_the_operations_done(measured):
    plain, _ = measured
    assert plain["matrix_share"] == pytest.approx(plain["flops"] / plain["median_s"] / plain["matrix_rate"])
    # A multiplication by hand, far below what a processor of this century can do.
    assert plain["matrix_rate"] > 1e8
    assert 0 < plain["matrix_share"] < 1


def test_memory_that_torch_does_not_tell_is_not_made_up():
    assert step_costs._peak(torch.nn.Linear(1, 1), torch.device("meta"), lambda: 7) == (None, 7)
    assert bench.megabytes(None) == "?"
    assert bench.megabytes(12_400_000) == "12 MB"


def test_what_torch_reports_of_waits_stands_in_brackets():
    assert bench.waits(5, None) == "5"
    assert bench.waits(5, 4) == "5 (4)"
