"""One class at a time: are gsgd's scores the model's own losses, row by row, at the last exit and at earlier ones?"""

import contextlib
import copy
import dataclasses
import functools
import io
import logging
import traceback
import warnings
from pathlib import Path

import torch
import transformers
from references import early_losses, row_losses, same, trains_as_it_scores
from tiny_batches import make_batch, rows_of
from tiny_models import LAYERS, build, every_class, within

import gsgd.sift

SECONDS = 60
"""What one class may take, at most."""
GSGD = str(Path(gsgd.sift.__file__).parents[1])

POPULAR = {
    "causal": "GPT2LMHeadModel LlamaForCausalLM MixtralForCausalLM Gemma3ForCausalLM OPTForCausalLM BartForCausalLM "
    "XLNetLMHeadModel MambaForCausalLM",
    "masked": "BertForMaskedLM DistilBertForMaskedLM ModernBertForMaskedLM",
    "sequence": "BertForSequenceClassification RobertaForSequenceClassification BartForSequenceClassification "
    "Qwen3ForSequenceClassification T5ForSequenceClassification",
    "token": "DebertaV2ForTokenClassification",
    "question": "BertForQuestionAnswering BartForQuestionAnswering",
    "choice": "RobertaForMultipleChoice",
    "seq2seq": "BartForConditionalGeneration T5ForConditionalGeneration MarianMTModel PegasusForConditionalGeneration",
    "speech": "WhisperForConditionalGeneration",
    "image": "ViTForImageClassification CLIPForImageClassification",
    "ctc": "Wav2Vec2ForCTC",
    "audio": "ASTForAudioClassification HubertForSequenceClassification",
}
"""Classes that must be exact, and that every test run tries, beside a tenth of all."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of one class.

    Attributes:
        status: "exact"; "refused", by a ValueError of gsgd's; "untested", where no tiny model was made; or a fault:
            "wrong", if scores differ from the losses in silence, "crashed" for any other exception.
        reason: for all but "exact".
        exits: {exit: "exact" or why it was not} of those that were checked; the last one is the whole model.
        details: traceback or numbers.
    """

    task: str
    name: str
    status: str
    reason: str = ""
    exits: dict = dataclasses.field(default_factory=dict)
    details: str = ""


def tried_by_default():
    """(task, class): every tenth."""
    return every_class()[::10]


@functools.cache
def find(task, name):
    """Tries a class."""
    noise = io.StringIO()
    before = logging.root.manager.disable, transformers.logging.get_verbosity()
    logging.disable(logging.CRITICAL)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")
            return _find(task, name)
    finally:
        logging.disable(before[0])
        transformers.logging.set_verbosity(before[1])


def _find(task, name):
    try:
        with within(SECONDS):
            model = build(task, name)
            batch = make_batch(task, model)
            losses = row_losses(model, batch)
    except Exception as error:
        return Found(task, name, "untested", _sentence(error), details=traceback.format_exc())
    try:
        with within(SECONDS):
            early = early_losses(task, name, model, batch, losses)
            return _tried(task, name, model, batch, losses, early)
    except Exception as error:
        return Found(task, name, "crashed", _named(error), details=traceback.format_exc())


def _tried(task, name, model, batch, losses, early):
    last, refusal = _count_exits(model)
    if refusal:
        return Found(task, name, "refused", refusal)
    wanted = {last: losses} | (early if last == LAYERS else {})
    alike = trains_as_it_scores(model, batch, losses)
    exits = {}
    for layer in sorted(wanted, reverse=True):
        modes = ["eval", "train"] if alike and layer == last else ["eval"]
        fault, exits[layer], details = _scoring_fault(model, batch, layer, wanted[layer], modes)
        if not fault and exits[layer] == "exact" and layer == min(wanted):
            fault, exits[layer], details = _training_fault(model, batch, layer, alike)
        if fault:
            return Found(task, name, fault, f"exit {layer} of {last}: {exits[layer]}", exits, details)
        if layer == last and exits[layer] != "exact":
            return Found(task, name, "refused", exits[last], exits, details)
    return Found(task, name, "exact", "", exits)


def _count_exits(model):
    """(exits, "") or (0, why there are none)."""
    try:
        return gsgd.sift.count_exits(model), ""
    except ValueError as error:
        return 0, _sentence(error)


def _scoring_fault(model, batch, layer, losses, modes):
    """("wrong" or "crashed" or "", "exact" or what happened, details) of the scores at one exit."""
    for mode in modes:
        tried = copy.deepcopy(model).train()
        try:
            sift = gsgd.sift.Sift(tried, exit_layer=layer, keep=0.5, scoring_mode=mode)
            sift.choose(batch)
        except Exception as error:
            return *_judged(error), traceback.format_exc()
        if not same(sift.last.scores, losses):
            numbers = f'scores {_figures(sift.last.scores)}, losses {_figures(losses)} (scoring_mode="{mode}")'
            return "wrong", numbers, numbers
        was = dict(model.named_buffers())
        changed = [key for key, value in tried.named_buffers() if not torch.equal(value, was[key])]
        if changed:
            return "wrong", f"scoring changed {', '.join(changed[:3])}", ""
    return "", "exact", ""


def _training_fault(model, batch, layer, alike):
    """The same of the pass on the kept rows, which takes from the scoring pass, and has the loss of those rows."""
    tried = copy.deepcopy(model).train()
    try:
        sift = gsgd.sift.Sift(tried, exit_layer=layer, keep=0.5, scoring_mode="train" if alike else "eval")
        loss = sift(**batch).loss
        loss.backward()
    except Exception as error:
        return *_judged(error), traceback.format_exc()
    plain = copy.deepcopy(model).train()(**rows_of(batch, sift.last.indices)).loss
    if alike and not same(loss.detach(), plain.detach().double()):
        return "wrong", f"loss of the kept rows {float(loss):.6g}, by the model {float(plain):.6g}", ""
    return "", "exact", ""


def _judged(error):
    """A refusal is a ValueError that gsgd itself raises; whatever comes up from below is a crash."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, ValueError) and raised_in.startswith(GSGD):
        return "", _sentence(error)
    return "crashed", _named(error)


def _named(error):
    return f"{type(error).__name__}: {_sentence(error)}"


def _sentence(error, limit=200):
    """An error's first sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". ")[0]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _figures(values):
    return " ".join(f"{float(value):.5g}" for value in values)
