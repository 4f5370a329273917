"""Sift around PEFT models: adapters take part in the early prediction; prompts cannot, and are refused."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from gsgd.sift import Sift  # noqa: E402


def classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, num_labels=5
    )
    return transformers.BertForSequenceClassification(config).double().eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(100, (8, 12), generator=generator),
        "labels": torch.randint(5, (8,), generator=generator),
    }


def lora():
    """LoRA whose adapters are not the identity, as they are at the start."""
    model = peft.get_peft_model(classifier(), peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model.double()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_lora_scores_are_those_of_the_merged_model_cut_to_one_layer():
    model = lora()
    merged = lora().merge_and_unload()
    merged.bert.encoder.layer = merged.bert.encoder.layer[:1]
    rows = batch()
    with torch.no_grad():
        logits = merged(rows["input_ids"]).logits
        expected = torch.nn.functional.cross_entropy(logits, rows["labels"], reduction="none")
    sift = Sift(model.train(), exit_layer=1, scoring_mode="eval")
    sift(**rows).loss.backward()
    torch.testing.assert_close(sift.last.scores, expected, rtol=1e-10, atol=1e-10)
    assert sift.last.indices.tolist() == sorted(expected.topk(4).indices.tolist())
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_a_learnt_prompt_is_refused():
    prompt = peft.PromptTuningConfig(task_type=peft.TaskType.SEQ_CLS, num_virtual_tokens=3)
    with pytest.raises(ValueError, match="learns a prompt"):
        Sift(peft.get_peft_model(classifier(), prompt))
