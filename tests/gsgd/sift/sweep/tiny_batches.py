"""A batch of six rows with labels for each task; every tensor's first axis is the row."""

import torch
from tiny_models import CLASSES, ORDINARY, accepts

ROWS, WIDTH, TARGETS, SAMPLES = 6, 12, 8, 800


def make_batch(task, model, *, padded=True, seed=0):
    """The batch of a tiny model.

    Args:
        padded: whether rows 1 and 4 end in padding, which the attention mask tells.
    """
    generator = torch.Generator().manual_seed(seed)
    if task in ("image", "audio", "ctc", "speech"):
        batch = _signals(task, model, padded, generator)
    else:
        batch = _text(task, model, padded, generator)
    return batch | _labels(task, model, batch, generator)


def rows_of(batch, rows):
    """Some rows of a batch."""
    return {name: value[rows] for name, value in batch.items()}


def _draw(generator, *shape, low=5, high=ORDINARY):
    return torch.randint(low, high, shape, generator=generator)


def _text_config(model):
    return model.config.get_text_config(decoder=False)


def _token(model, name):
    """A special token's id, or None."""
    value = getattr(model.config, name, None)
    value = getattr(_text_config(model), name, None) if value is None else value
    return value if isinstance(value, int) and value >= 0 else None


def _text(task, model, padded, generator):
    shape = (ROWS, 4, WIDTH) if task == "choice" else (ROWS, WIDTH)
    ids = _draw(generator, *shape)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, ..., 9:] = 0
        mask[4, ..., 6:] = 0
    pad, end = _token(model, "pad_token_id"), _token(model, "eos_token_id")
    ids = torch.where(mask == 1, ids, 0 if pad is None else pad)
    if task in ("sequence", "choice") and end is not None:
        # Some heads read the last token that ends a sentence, and there must be one.
        ids.scatter_(-1, mask.sum(-1, keepdim=True) - 1, end)
    if (question := getattr(model.config, "question_token_id", None)) is not None:
        ids[:, 1] = question
    name = "inputs" if accepts(model, "inputs") and not accepts(model, "input_ids") else "input_ids"
    batch = {name: ids}
    if accepts(model, "attention_mask"):
        batch["attention_mask"] = mask
    if type(model.config).__name__ == "GitConfig":
        batch["pixel_values"] = torch.randn(ROWS, 3, 32, 32, generator=generator)
    if type(model.config).__name__ == "LongformerConfig":
        # Three tell its heads where the question is; a sentence's end is one, too.
        ids[..., [2, 3] if task in ("sequence", "choice") else [2, 3, 5]] = model.config.sep_token_id
    if accepts(model, "visual_feats"):
        batch["visual_feats"] = torch.randn(ROWS, 4, model.config.visual_feat_dim, generator=generator)
        batch["visual_pos"] = torch.rand(ROWS, 4, 4, generator=generator)
    if accepts(model, "bbox"):
        corner = torch.randint(0, 20, (*shape, 2), generator=generator)
        batch["bbox"] = torch.cat([corner, corner + 10], dim=-1)
    return batch


def _signals(task, model, padded, generator):
    config = model.config
    name = model.main_input_name
    if name == "input_ids":
        return _text(task, model, padded, generator)
    if task == "image":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", None) or 64
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        if accepts(model, "spatial_shapes"):
            # Patches of the image, how many of them are no padding, and how they lie.
            shape = (ROWS, vision.num_patches, vision.num_channels * vision.patch_size**2)
            mask, lie = torch.ones(shape[:2], dtype=torch.int64), torch.full((ROWS, 2), 4)
            mask[1, 12:], lie[1, 0] = 0, 3
            pixels = torch.randn(shape, generator=generator)
            return {name: pixels, "pixel_attention_mask": mask, "spatial_shapes": lie}
        pixels = torch.randn(ROWS, getattr(vision, "num_channels", 3), height, width, generator=generator)
        return {name: pixels}
    if name == "input_features":
        bins = next(
            (
                value
                for key in ("feature_projection_input_dim", "num_mel_bins", "input_feat_per_channel", "input_dim")
                for part in (config, getattr(config, "encoder_config", None), getattr(config, "audio_config", None))
                if (value := getattr(part, key, None)) is not None
            ),
            16,
        )
        frames = 2 * getattr(config, "max_source_positions", 32) if type(config).__name__ == "WhisperConfig" else 64
        bins *= 4 if type(config).__name__.startswith("GraniteSpeech5") else 1
        shape = (ROWS, bins, frames) if type(config).__name__ == "WhisperConfig" else (ROWS, frames, bins)
        batch = {name: torch.randn(shape, generator=generator)}
        length = frames
    elif type(config).__name__ == "ASTConfig":
        batch = {name: torch.randn(ROWS, config.max_length, config.num_mel_bins, generator=generator)}
        length = None
    else:
        length = SAMPLES * (4 if "Moonshine" in type(config).__name__ else 1)
        batch = {name: torch.randn(ROWS, length, generator=generator)}
    if padded and length is not None and accepts(model, "attention_mask") and type(config).__name__ != "WhisperConfig":
        mask = torch.ones(ROWS, length, dtype=torch.int64)
        mask[1, length * 7 // 8 :] = 0
        mask[4, length * 3 // 4 :] = 0
        batch["attention_mask"] = mask
    return batch


def _labels(task, model, batch, generator):
    ids = next((batch[name] for name in ("input_ids", "inputs") if name in batch), None)
    mask = batch.get("attention_mask", None if ids is None else torch.ones_like(ids))
    if task in ("sequence", "image", "audio") or "visual_feats" in batch:
        return {"labels": torch.randint(CLASSES, (ROWS,), generator=generator)}
    if task == "choice":
        return {"labels": torch.randint(4, (ROWS,), generator=generator)}
    if task == "question":
        length = mask.sum(-1)
        start = (torch.rand(ROWS, generator=generator) * (length - 2)).long()
        return {"start_positions": start, "end_positions": torch.minimum(start + 2, length - 1)}
    if task == "token":
        return {"labels": torch.where(mask == 1, _draw(generator, *ids.shape, low=0, high=CLASSES), -100)}
    if task == "causal" or (task in ("seq2seq", "speech") and not model.config.is_encoder_decoder and ids is not None):
        labels = torch.where(mask == 1, ids, -100)
        labels[::2, :3] = -100  # prompts
        return {"labels": labels}
    if task == "masked":
        chosen = (torch.rand(ids.shape, generator=generator) < 0.3) & (mask == 1)
        chosen[:, 2] = True
        return {"labels": torch.where(chosen, _draw(generator, *ids.shape), -100)}
    # FSMT makes its decoder's inputs from the source, and compares with labels of that length.
    labels = _draw(generator, ROWS, WIDTH if type(model.config).__name__ == "FSMTConfig" else TARGETS)
    if task == "ctc":
        labels = torch.randint(1, 20, (ROWS, TARGETS), generator=generator)
    labels[1, 5:] = -100
    labels[4, 3:] = -100
    return {"labels": labels}
