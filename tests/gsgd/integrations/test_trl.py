"""Selection in TRL's SFTTrainer: keep = 1 is the plain trainer, keep < 1 is the plain trainer on the same rows."""

import itertools
import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset, disable_progress_bars, enable_progress_bars  # noqa: E402
from peft import LoraConfig  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from gsgd.integrations.trl import SiftSFTTrainer  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments  # noqa: E402

WORDS = [f"w{number}" for number in range(60)]
LAYERS = 3
LOGGED = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens")
CHAT = (
    "{% for message in messages %}{{ message.role }} {% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }} <eos> {% endgeneration %}{% else %}{{ message.content }} {% endif %}{% endfor %}"
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture(scope="module")
def tokenizer():
    return made_tokenizer()


def made_tokenizer():
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "user", "assistant", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def some_text(rng, words):
    return " ".join(WORDS[number] for number in torch.randint(len(WORDS), (words,), generator=rng))


def samples(kind="completion", number=48, seed=0):
    """Prompts of 2 to 8 words and answers of 2 to 12."""
    rng = torch.Generator().manual_seed(seed)
    prompt, answer = torch.randint(2, 9, (number,), generator=rng), torch.randint(2, 13, (number,), generator=rng)
    pairs = [(some_text(rng, int(a)), some_text(rng, int(b))) for a, b in zip(prompt, answer, strict=True)]
    if kind == "chat":
        said = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
        return Dataset.from_list([{"messages": messages} for messages in said])
    return Dataset.from_list([{"prompt": f"{a} ", "completion": b} for a, b in pairs])


def llama():
    torch.manual_seed(0)
    sizes = {"vocab_size": 5 + len(WORDS), "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 128}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


def settings(folder, *, rows, **options):
    """TRL's, on the CPU, with everything logged and nothing saved; `rows` in a micro-batch."""
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "learning_rate": 1e-2, "seed": 3}
    values = {**quiet, **plain, "max_steps": 3, "logging_steps": 1, "per_device_train_batch_size": rows, **options}
    return SFTConfig(output_dir=str(folder), **values)


@pytest.fixture
def trained(tokenizer, tmp_path):
    """Trains for some steps; returns the trainer."""

    def run(trainer_class, sift=None, *, kind="completion", steps=3, **options):
        more = {name: options.pop(name) for name in ("peft_config", "data_collator") if name in options}
        if sift is not None:
            more["sift"] = sift
        if kind == "chat":
            tokenizer.chat_template = CHAT
        arguments = settings(tmp_path / "out", rows=8, max_steps=steps, **options)
        trainer = trainer_class(
            model=llama(), args=arguments, train_dataset=samples(kind), processing_class=tokenizer, **more
        )
        trainer.train()
        return trainer

    return run


def logged(trainer):
    return [[entry.get(name) for name in LOGGED] for entry in trainer.state.log_history]


def weights(trainer):
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


SURFACES = {
    "completions": {},
    "whole text": {"completion_only_loss": False},
    "assistant turns": {"kind": "chat", "assistant_only_loss": True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "packing": {"packing": True, "max_length": 40},
    "padding-free": {"padding_free": True, "max_length": None},
    "padding-free, accumulated": {"padding_free": True, "max_length": None, "gradient_accumulation_steps": 2},
    "dft": {"loss_type": "dft"},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "adapters": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)},
}


@pytest.mark.parametrize("options", SURFACES.values(), ids=SURFACES)
def test_at_keep_1_it_is_the_plain_trainer(trained, options):
    plain = trained(SFTTrainer, **options)
    ours = trained(SiftSFTTrainer, SiftArguments(exit_layer=1, keep=1.0), **options)
    assert logged(ours) == logged(plain)
    assert torch.equal(weights(ours), weights(plain))


class Recorded(SiftSFTTrainer):
    """Notes which rows each micro-batch kept."""

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.chosen = [*getattr(self, "chosen", []), self.sift.last]
        return loss


class OnRows(SFTTrainer):
    """The plain trainer, shown of every micro-batch given rows alone: those of a pack are its documents."""

    def get_batch_samples(self, *args, **kwargs):
        batches, _ = super().get_batch_samples(*args, **kwargs)
        rows = [self.take(batch, self.given.pop(0)) for batch in batches]
        return rows, self._get_num_items_in_batch(rows, self.args.device)

    @staticmethod
    def take(batch, rows):
        if "position_ids" not in batch:
            return {name: value[rows] for name, value in batch.items()}
        # By hand: every document's tokens, one after the other; without labels none is a candidate.
        begins = [*torch.nonzero(batch["position_ids"][0] == 0).flatten().tolist(), batch["input_ids"].shape[1]]
        spans = [range(begin, end) for begin, end in itertools.pairwise(begins)]
        spans = [span for span in spans if (batch["labels"][0, span.start : span.stop] != -100).any()]
        tokens = [token for row in rows.tolist() for token in spans[row]]
        return {name: batch[name][:, tokens] for name in ("input_ids", "labels", "position_ids")}


@pytest.mark.parametrize("options", SURFACES.values(), ids=SURFACES)
def test_at_keep_half_it_is_the_plain_trainer_on_the_kept_rows(trained, options, monkeypatch):
    ours = trained(Recorded, SiftArguments(exit_layer=1, keep=0.5), **options)
    assert all(chosen.selected and 1 <= chosen.kept < chosen.gross for chosen in ours.chosen)
    monkeypatch.setattr(OnRows, "given", [chosen.indices for chosen in ours.chosen], raising=False)
    plain = trained(OnRows, **options)
    assert not plain.given
    ours_logged, plain_logged = (torch.tensor(logged(trainer)[:-1]) for trainer in (ours, plain))
    assert torch.allclose(ours_logged, plain_logged, rtol=1e-4)
    assert torch.allclose(weights(ours), weights(plain), atol=1e-5)


@pytest.mark.parametrize("options", [{}, SURFACES["padding-free"]], ids=["completions", "padding-free"])
def test_the_hardest_completions_are_kept(trained, options):
    """At the last exit the scores are the losses of the completions, computed here one by one."""
    ours = trained(Recorded, SiftArguments(exit_layer=LAYERS, keep=0.5, reuse=False), steps=1, **options)
    (chosen,) = ours.chosen
    order = next(iter(ours.get_train_dataloader()))  # the same seed: the same first batch
    model = llama().eval()
    losses = []
    if "position_ids" in order:
        begins = [*torch.nonzero(order["position_ids"][0] == 0).flatten().tolist(), order["input_ids"].shape[1]]
        spans = [(0, slice(a, b)) for a, b in itertools.pairwise(begins)]
    else:
        spans = [(row, slice(0, int(mask.sum()))) for row, mask in enumerate(order["attention_mask"])]
    for row, span in spans:
        tokens, labels = order["input_ids"][row : row + 1, span], order["labels"][row, span]
        with torch.no_grad():
            logs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        there = labels[1:] != -100
        losses.append(-logs[there].gather(1, labels[1:][there].unsqueeze(1)).mean())
    assert torch.allclose(chosen.scores.float(), torch.stack(losses), rtol=1e-4)
    assert chosen.indices.tolist() == sorted(torch.stack(losses).topk(chosen.kept).indices.tolist())


def test_keep_tokens_counts_tokens_and_both_are_logged(trained):
    sift = SiftArguments(exit_layer=1, keep=0.5, keep_tokens=True)
    entries = trained(SiftSFTTrainer, sift, **SURFACES["padding-free"]).state.log_history[:-1]
    for entry in entries:
        assert 0.3 * entry["gross_tokens"] < entry["kept_tokens"] <= 0.5 * entry["gross_tokens"]
        assert entry["num_tokens"] == entry["kept_tokens"]
        assert 0 < entry["kept_samples"] < entry["gross_samples"] == 8 * entry["step"]


class OnLabels(SFTTrainer):
    """The plain trainer, shown batches whose labels were masked before: `given`, one a micro-batch."""

    def get_batch_samples(self, *args, **kwargs):
        batches, _ = super().get_batch_samples(*args, **kwargs)
        masked = [{**batch, "labels": torch.where(self.given.pop(0), batch["labels"], -100)} for batch in batches]
        return masked, self._get_num_items_in_batch(masked, self.args.device)


BY_TOKEN = ("completions", "accumulation", "packing", "padding-free", "dft", "adapters")


@pytest.mark.slow
@pytest.mark.parametrize("labelled_head", [False, True])
@pytest.mark.parametrize("surface", BY_TOKEN)
def test_by_tokens_it_is_the_plain_trainer_on_labels_that_were_masked(trained, surface, labelled_head, monkeypatch):
    options = SURFACES[surface]
    by_token = {"exit_layer": 1, "level": "token", "labelled_head": labelled_head}
    ours = trained(Recorded, SiftArguments(keep=0.5, **by_token), **options)
    totals = ours.sift.totals
    assert totals.backprop_tokens == pytest.approx(totals.gross_tokens / 2, abs=len(ours.chosen))
    assert totals.backprop_samples == totals.gross_samples
    monkeypatch.setattr(OnLabels, "given", [chosen.tokens for chosen in ours.chosen], raising=False)
    plain = trained(OnLabels, **options)
    assert not plain.given
    ours_logged, plain_logged = (torch.tensor(logged(trainer)[:-1]) for trainer in (ours, plain))
    assert torch.allclose(ours_logged, plain_logged, rtol=1e-4)
    assert torch.allclose(weights(ours), weights(plain), atol=1e-5)


def test_by_tokens_at_keep_1_it_is_the_plain_trainer(trained):
    plain, ours = trained(SFTTrainer), trained(SiftSFTTrainer, SiftArguments(exit_layer=1, keep=1.0, level="token"))
    assert logged(ours) == logged(plain)
    assert torch.equal(weights(ours), weights(plain))


def test_losses_that_scores_are_held_against_are_in_no_log(trained):
    ours = trained(SiftSFTTrainer, SiftArguments(exit_layer=1, keep=0.5), steps=1)
    assert not ours._metrics["eval"]
    assert not ours._metrics["train"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scope": "global"}, 'scope = "global" deals rows out to ranks'),
        ({"score": "last-seen"}, 'score = "last-seen" needs the ids of rows, but TRL.s collators leave nothing'),
        ({"log_rows": "rows"}, "log_rows needs the ids of rows, but TRL.s collators leave nothing"),
    ],
)
def test_what_packs_do_not_admit_is_said(trained, options, said):
    with pytest.raises(ValueError, match=said):
        trained(SiftSFTTrainer, SiftArguments(keep=0.5, **options), **SURFACES["padding-free"])


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_two_processes_are_one(tmp_path, keep):
    """They choose over the batches of both, so that they train on the rows that one process would."""
    worker = pathlib.Path(__file__).with_name("trl_worker.py")
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = {**os.environ, **interface, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = []
    for ranks in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks == 2 else []
        out = tmp_path / f"{ranks}.pt"
        words = [sys.executable, *launch, str(worker), str(out), str(8 // ranks), str(keep)]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(out, weights_only=True))
    one, two = found
    assert torch.allclose(one["weights"], two["weights"], atol=1e-4)  # of weights that moved by 3e-2
    assert torch.allclose(one["logs"], two["logs"], rtol=1e-4)
