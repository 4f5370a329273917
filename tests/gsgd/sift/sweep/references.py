"""Losses of single rows, by the model alone: what exact scores must equal. Nothing here comes from `gsgd`."""

import copy

import numpy as np
import torch
from tiny_batches import ROWS, rows_of
from tiny_models import LAYERS, build, stacks


@torch.no_grad()
def row_losses(model, batch, *, training=False):
    """The model's own loss of each row alone, (B,) float64.

    Raises:
        ValueError: if the model's output has no loss, or the losses of the rows are hardly apart.
    """
    model.train(training)
    found = []
    for row in range(ROWS):
        loss = getattr(model(**rows_of(batch, [row])), "loss", None)
        if loss is None or loss.numel() != 1:
            raise ValueError("its forward takes no labels or returns no loss")
        found.append(loss.double().reshape(()))
    losses = torch.stack(found)
    if not bool(losses.isfinite().all()) or float(losses.max() - losses.min()) < 1e-2 * float(losses.abs().max()):
        raise ValueError("the losses of the rows are not finite, or too much alike to tell them apart")
    return losses


def trains_as_it_scores(model, batch, losses):
    """Whether the row losses are the same in training mode, and nothing is drawn at random."""
    trained = copy.deepcopy(model)  # whose statistics this may change
    before = _generators()
    try:
        found = row_losses(trained, batch, training=True)
    except Exception:
        return False  # A model that cannot train on single rows (BatchNorm).
    return same(found, losses) and before == _generators()


def _generators():
    """The state of what a model draws from."""
    return torch.get_rng_state().tolist(), str(np.random.get_state())  # noqa: NPY002, some models draw from it


def early_losses(task, name, model, batch, losses):
    """{exit: row losses} of the model built with so many layers and given the full one's weights.

    Exits whose shorter model cannot be built, or is no part of the full one, are left out.

    Args:
        losses: of the full model; a cut that leaves them as they are cuts something else.
    """
    for path, names in stacks(model.config, task):
        found = {}
        for layers in range(1, LAYERS):
            try:
                found[layers] = row_losses(build(task, name, cut=(path, names, layers), like=model), batch)
            except Exception:
                continue
        if not any(same(early, losses) for early in found.values()):
            return found
    return {}


def same(scores, losses, *, tolerance=1e-4):
    """Whether scores are the losses."""
    return bool(torch.allclose(scores.double(), losses, rtol=tolerance, atol=tolerance * 1e-2))
