"""The modified ResNet against its parts put together by hand, and Sift on it against a plain two-pass loop."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402

from gsgd.sift import EarlyExit, Sift, count_exits  # noqa: E402
from training.images.resnet import EarlyExitResNet  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def config(**changes):
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
    return transformers.ResNetConfig(**(sizes | {"num_labels": 6} | changes))


def build(dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return EarlyExitResNet(config(**changes)).to(dtype).train()


def make_batch(rows=8, size=32, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(rows, 3, size, size, generator=generator).to(dtype),
        "labels": torch.randint(6, (rows,), generator=generator),
    }


def by_hand(model, pixel_values, exit_stage=2):
    """(L_i R_i, L_f R_f + L_i R_i) from the states that transformers' ResNetModel gives out."""
    states = model.resnet(pixel_values, output_hidden_states=True).hidden_states  # the stem's, then one per stage
    early = states[exit_stage].mean(dim=(2, 3)) @ model.early_classifier.weight.T + model.early_classifier.bias
    final = states[-1].mean(dim=(2, 3)) @ model.classifier.weight.T + model.classifier.bias
    return early, final + early


def rows_of(batch, rows):
    return {key: torch.stack([value[row] for row in rows]) for key, value in batch.items()}


def hardest(scores, k):
    return sorted(sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k])


def statistics(model):
    return {key: value for key, value in model.state_dict().items() if "running" in key or "tracked" in key}


class TestModel:
    @pytest.mark.parametrize("small_images", [False, True])
    @pytest.mark.parametrize("exit_stage", [1, 2, 3])
    def test_logits_are_the_sum_of_both_classifiers(self, exit_stage, small_images):
        model = build(exit_stage=exit_stage, small_images=small_images).eval()
        batch = make_batch()
        early, full = by_hand(model, batch["pixel_values"], exit_stage)
        torch.testing.assert_close(model(batch["pixel_values"]).logits, full, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.early_logits(1, batch["pixel_values"]), early, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.early_logits(2, batch["pixel_values"]), full, rtol=1e-10, atol=1e-12)

    def test_the_loss_is_the_mean_cross_entropy(self):
        model, batch = build().eval(), make_batch()
        output = model(**batch)
        expected = -torch.log_softmax(output.logits, 1)[torch.arange(8), batch["labels"]].mean()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert model(batch["pixel_values"]).loss is None

    def test_the_early_predictions_own_loss_counts_in_training_only(self):
        model, batch = build(early_loss=0.3), make_batch()
        loss = model(**batch).loss
        early, full = by_hand(model, batch["pixel_values"])
        parts = [-torch.log_softmax(x, 1)[torch.arange(8), batch["labels"]].mean() for x in (full, early)]
        assert loss.item() == pytest.approx((parts[0] + 0.3 * parts[1]).item(), rel=1e-10)
        model.eval()
        full = by_hand(model, batch["pixel_values"])[1]
        expected = -torch.log_softmax(full, 1)[torch.arange(8), batch["labels"]].mean()
        assert model(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-10)
        with pytest.raises(ValueError, match=r"early_loss = -1 must be at least 0"):
            build(early_loss=-1)

    def test_both_classifiers_are_trained(self):
        model = build()
        model(**make_batch()).loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.dim() > 1)

    def test_the_early_prediction_runs_no_later_stage(self):
        model, ran = build(), []
        for number, stage in enumerate(model.resnet.encoder.stages, start=1):
            stage.register_forward_hook(lambda *_, number=number: ran.append(number))
        model.early_logits(1, make_batch()["pixel_values"])
        assert ran == [1, 2]

    def test_the_defaults_are_the_papers_resnet_50(self):
        """23.5 million without a head (He et al. 2016: 25.6 with 1000 classes), and the two classifiers."""
        with torch.device("meta"):
            model = EarlyExitResNet(transformers.ResNetConfig(num_labels=100))
        assert (model.early_classifier.in_features, model.classifier.in_features) == (512, 2048)
        blocks = model.resnet.encoder.stages[1].layers
        assert len(blocks) == 4
        # "The second block consisting of 128 filters": its 3x3 convolutions.
        assert all(block.layer[1].convolution.out_channels == 128 for block in blocks)
        assert sum(p.numel() for p in model.parameters()) == 23_508_032 + 512 * 100 + 100 + 2048 * 100 + 100

    @pytest.mark.parametrize(("small_images", "side"), [(False, 1), (True, 4)])
    def test_the_stem_decides_the_last_map_of_32x32_images(self, small_images, side):
        model, sides = build(small_images=small_images), []
        model.resnet.encoder.stages[-1].register_forward_hook(lambda m, i, output: sides.append(output.shape[2:]))
        model(**make_batch())
        assert sides == [(side, side)]

    def test_one_row_and_a_1x1_map_is_an_error_of_batchnorm(self):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            build()(**make_batch(rows=1))
        assert build(small_images=True)(**make_batch(rows=1)).logits.shape == (1, 6)

    @pytest.mark.parametrize("exit_stage", [0, 4, -1, True, 2.0, None])
    def test_an_exit_stage_out_of_range_is_named(self, exit_stage):
        with pytest.raises(
            ValueError, match=r"exit_stage = .* must be a whole number in 1\.\.3, before the last stage"
        ):
            build(exit_stage=exit_stage)

    @pytest.mark.parametrize("exit_layer", [0, 3])
    def test_an_exit_out_of_range_is_named(self, exit_layer):
        with pytest.raises(ValueError, match=rf"exit_layer = {exit_layer} must be a whole number in 1\.\.2"):
            build().early_logits(exit_layer, make_batch()["pixel_values"])

    def test_saved_and_loaded_it_predicts_the_same(self, tmp_path):
        model = build(torch.float32, exit_stage=3, small_images=True).eval()
        model.save_pretrained(tmp_path)
        loaded = EarlyExitResNet.from_pretrained(tmp_path)
        x = make_batch(dtype=torch.float32)["pixel_values"]
        assert torch.equal(loaded(x).logits, model(x).logits)
        assert torch.equal(loaded.early_logits(1, x), model.early_logits(1, x))

    def test_trainer_is_told_that_the_loss_is_a_plain_mean(self):
        """A forward with **kwargs would make Trainer leave out its division under accumulation."""
        import inspect

        assert list(inspect.signature(EarlyExitResNet.forward).parameters) == ["self", "pixel_values", "labels"]


class TestSift:
    def test_it_has_two_exits_of_its_own(self):
        assert isinstance(build(), EarlyExit)
        assert count_exits(build()) == 2

    @pytest.mark.parametrize("exit_layer", [1, 2])
    @pytest.mark.parametrize("kind", ["loss", "entropy", "own"])
    @pytest.mark.parametrize("mode", ["train", "eval", "frozen-batchnorm"])
    def test_rows_loss_gradients_and_running_statistics(self, mode, kind, exit_layer):
        model, batch = build(), make_batch()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean += 0.3  # or eval and train would nearly agree
        reference = copy.deepcopy(model)

        scorer = copy.deepcopy(model).train(mode == "train")  # a copy: its statistics may change
        with torch.no_grad():
            logits = by_hand(scorer, batch["pixel_values"])[exit_layer - 1]
        if kind == "loss":
            scores = [
                F.cross_entropy(row[None], label[None]).item()
                for row, label in zip(logits, batch["labels"], strict=True)
            ]
        elif kind == "entropy":
            scores = [torch.distributions.Categorical(logits=row).entropy().item() for row in logits]
        else:
            scores = [float(row.max()) for row in logits]
        kept = hardest(scores, 4)
        expected = reference(**rows_of(batch, kept)).loss
        expected.backward()

        score = kind if kind != "own" else lambda logits, labels: logits.max(dim=1).values
        sift = Sift(model, exit_layer=exit_layer, score=score, scoring_mode=mode)
        loss = sift(**batch).loss
        loss.backward()
        assert sift.last.scores.tolist() == pytest.approx(scores, rel=1e-8)
        assert sift.last.indices.tolist() == kept
        assert torch.equal(loss, expected)
        for found, p in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.equal(found.grad, p.grad)
        assert all(torch.equal(value, statistics(reference)[key]) for key, value in statistics(model).items())
        tracked = [value for key, value in statistics(model).items() if "tracked" in key]
        assert tracked
        assert all(value == 1 for value in tracked)

    def test_modes_differ_or_the_above_says_little(self):
        found = {}
        for mode in ("train", "eval"):
            sift = Sift(build(), scoring_mode=mode)
            sift(**make_batch())
            found[mode] = sift.last.scores
        assert not torch.allclose(found["train"], found["eval"])

    def test_scoring_in_parts(self):
        whole, parts = (Sift(build(), scoring_mode="eval", score_batch_size=size) for size in (None, 3))
        whole(**make_batch())
        parts(**make_batch())
        torch.testing.assert_close(parts.last.scores, whole.last.scores, rtol=1e-10, atol=1e-12)

    def test_compiled(self):
        torch.compiler.reset()
        model, batch = build(), make_batch()
        reference = Sift(copy.deepcopy(model))
        sift = Sift(torch.compile(model, backend="eager"))
        loss, expected = sift(**batch).loss, reference(**batch).loss
        assert torch.equal(sift.last.indices, reference.last.indices)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)

    def test_autocast(self):
        model, batch = build(torch.float32), make_batch(dtype=torch.float32)
        reference = copy.deepcopy(model)
        sift = Sift(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sift(**batch).loss
            expected = reference(**rows_of(batch, sift.last.indices.tolist())).loss
        loss.backward()
        expected.backward()
        for found, p in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.equal(found.grad, p.grad)
