"""Selection in SentenceTransformerTrainer: keep = 1 is the plain trainer, keep < 1 that on the same rows."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Transformer  # noqa: E402
from sentence_transformers.sentence_transformer import losses  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: E402

from gsgd.integrations.sentence_transformers import SiftSentenceTransformerTrainer  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments  # noqa: E402

WORDS, ROWS, STEPS = [f"w{number}" for number in range(40)], 8, 3

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny BERT and its tokenizer in a folder."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes, **dropout)).save_pretrained(folder)
    return str(folder)


def pairs(scored):
    """Texts of 3 to 12 words with others, and how alike they are."""
    rng = torch.Generator().manual_seed(1)

    def text():
        length = int(torch.randint(3, 13, (1,), generator=rng))
        return " ".join(WORDS[number] for number in torch.randint(len(WORDS), (length,), generator=rng))

    rows = [{"anchor": text(), "other": text()} for _ in range(ROWS * STEPS)]
    score = torch.rand(len(rows), generator=rng).tolist()
    return Dataset.from_list([{**row, "score": score[at]} for at, row in enumerate(rows)] if scored else rows)


@pytest.fixture
def trained(saved, tmp_path):
    """Trains three steps; returns the trainer."""

    def run(trainer_class, loss, **more):
        transformer = Transformer(saved)
        model = SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=ROWS,
            max_steps=STEPS,
            logging_steps=1,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        data = pairs(scored=loss is losses.CosineSimilarityLoss)
        trainer = trainer_class(model=model, args=arguments, train_dataset=data, loss=loss(model), **more)
        trainer.train()
        return trainer

    return run


def logged(trainer):
    return [entry["loss"] for entry in trainer.state.log_history[:-1]]


def weights(trainer):
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


def distance(embeddings, labels):
    """How far apart the two texts of a row are."""
    return 1 - torch.cosine_similarity(embeddings[:, 0], embeddings[:, 1])


BOTH = [losses.MultipleNegativesRankingLoss, losses.CosineSimilarityLoss]


@pytest.mark.parametrize("score", ["random", distance])
@pytest.mark.parametrize("loss", BOTH)
def test_at_keep_1_it_is_the_plain_trainer(trained, loss, score):
    plain = trained(SentenceTransformerTrainer, loss)
    ours = trained(SiftSentenceTransformerTrainer, loss, sift=SiftArguments(keep=1.0, score=score))
    assert logged(ours) == logged(plain)
    assert torch.equal(weights(ours), weights(plain))


class Recorded(SiftSentenceTransformerTrainer):
    """Notes what each step kept."""

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.chosen = [*getattr(self, "chosen", []), self.sift.last]
        return loss


class OnRows(SentenceTransformerTrainer):
    """The plain trainer, shown given rows of every batch."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        rows = self.given.pop(0)
        taken = {name: value[rows] if torch.is_tensor(value) else value for name, value in inputs.items()}
        return super().compute_loss(model, taken, *args, **kwargs)


@pytest.mark.parametrize("score", ["random", distance])
@pytest.mark.parametrize("loss", BOTH)
def test_at_keep_half_it_is_the_plain_trainer_on_the_kept_rows(trained, loss, score, monkeypatch):
    ours = trained(Recorded, loss, sift=SiftArguments(keep=0.5, score=score))
    assert [chosen.kept for chosen in ours.chosen] == [ROWS // 2] * STEPS
    monkeypatch.setattr(OnRows, "given", [chosen.indices for chosen in ours.chosen], raising=False)
    plain = trained(OnRows, loss)
    assert logged(ours) == pytest.approx(logged(plain), rel=1e-5)
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_a_callable_is_given_the_embeddings_of_the_batch(trained, saved):
    """Those that a model with the same weights gives the same texts one by one."""
    seen = []

    def score(embeddings, labels, batch):
        seen.append((embeddings, labels, dict(batch)))
        return distance(embeddings, labels)

    ours = trained(Recorded, losses.CosineSimilarityLoss, sift=SiftArguments(keep=0.5, score=score))
    embeddings, labels, batch = seen[0]
    model = SentenceTransformer(modules=[Transformer(saved), Pooling(16)], device="cpu")
    for column, name in enumerate(("anchor", "other")):
        for row, tokens in enumerate(batch[f"{name}_input_ids"]):
            mask = batch[f"{name}_attention_mask"][row].bool()
            alone = {"input_ids": tokens[mask][None], "attention_mask": mask[mask][None].long()}
            expected = model(alone)["sentence_embedding"][0].detach()
            assert torch.allclose(embeddings[row, column], expected, atol=1e-5)
    assert torch.equal(labels, batch["label"])
    found = 1 - torch.cosine_similarity(embeddings[:, 0], embeddings[:, 1])
    assert torch.equal(ours.chosen[0].scores, found)
    assert ours.chosen[0].indices.tolist() == sorted(found.topk(ROWS // 2).indices.tolist())
    assert not embeddings.requires_grad


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "score = 'loss' is the loss of a row, but sentence-transformers has losses of batches"),
        ({"score": "last-seen"}, "score = 'last-seen' is the loss of a row"),
        ({"score": "random", "log_rows": "rows"}, "log_rows = 'rows' is not for sentence-transformers"),
        ({"score": "random", "labelled_head": True}, "labelled_head = True is not for sentence-transformers"),
        ({"score": distance, "meter_every": 2}, "meter_every = 2 is not for sentence-transformers"),
        ({"score": distance, "exit_layer": 2}, "exit_layer = 2 is not for sentence-transformers"),
    ],
)
def test_what_needs_losses_of_rows_is_refused(trained, options, said):
    with pytest.raises(ValueError, match=said):
        trained(SiftSentenceTransformerTrainer, losses.CosineSimilarityLoss, sift=SiftArguments(**options))
