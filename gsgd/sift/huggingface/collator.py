"""Masking for masked language models that a resumed run repeats: a function of (seed, epoch, sample).

A collator that draws from a generator masks by what was drawn before, and a resumed run has drawn something else:
accelerate fetches a batch ahead of the checkpoint, and fetches none of those it skips.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsgd.ranges import whole
from gsgd.sift.scoring_pass.row_losses import IGNORED

logger = logging.getLogger(__name__)


class MaskingCollator:
    """Pads and masks token sequences; the same sequence gets the same mask whenever it is met within an epoch.

    Each token that is not special is predicted with probability `mask_share`; of those, `replace_share` are replaced
    by the mask token, `random_share` by a random one, and the rest stay. The draws come from a generator seeded by
    (seed, epoch, the row's tokens), so neither the batch a row is in, nor its padding, worker, rank or what was
    collated before matters. Two rows of equal tokens are masked alike.

    `SiftTrainer` sets the epoch; any other loop calls `set_epoch` before it iterates over its loader.

    Args:
        tokenizer: gives whatever of the next four is not given; a `PreTrainedTokenizerBase`. None if all but
            `pad_token_id` are given.
        mask_token_id: replaces masked tokens.
        vocab_size: random tokens are drawn from 0..vocab_size - 1.
        special_token_ids: never masked, where a row does not bring its own `special_tokens_mask`.
        pad_token_id: fills up rows; 0 if there is neither this nor a tokenizer's.
        mask_share: in (0, 1]; the paper's 0.15.
        replace_share, random_share: >= 0, together at most 1.
        pad_to_multiple_of: round the padded length up to a multiple of this.
        seed: >= 0.

    Raises:
        ValueError: for arguments out of range or missing.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        mask_token_id: int | None = None,
        vocab_size: int | None = None,
        special_token_ids: Iterable[int] | None = None,
        pad_token_id: int | None = None,
        mask_share: float = 0.15,
        replace_share: float = 0.8,
        random_share: float = 0.1,
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
    ):
        if tokenizer is not None:
            mask_token_id = tokenizer.mask_token_id if mask_token_id is None else mask_token_id
            vocab_size = len(tokenizer) if vocab_size is None else vocab_size
            special_token_ids = tokenizer.all_special_ids if special_token_ids is None else special_token_ids
            pad_token_id = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        given = {"mask_token_id": mask_token_id, "vocab_size": vocab_size, "special_token_ids": special_token_ids}
        missing = [name for name, value in given.items() if value is None]
        if missing:
            source = "no tokenizer was" if tokenizer is None else f"the {type(tokenizer).__name__} has none"
            raise ValueError(f"masking needs {', '.join(missing)}, but {source} given to take it from")
        assert mask_token_id is not None
        assert vocab_size is not None
        assert special_token_ids is not None
        whole("vocab_size", vocab_size, least=1)
        whole("seed", seed, least=0)
        if pad_to_multiple_of is not None:
            whole("pad_to_multiple_of", pad_to_multiple_of, least=1)
        if not 0 < mask_share <= 1:
            raise ValueError(f"mask_share = {mask_share!r} must lie in (0, 1]")
        # Not their sum with 1: 0.9 + 0.1 is 1, but 0.7 + 0.1 + 0.2 is not, in floating point.
        if replace_share < 0 or random_share < 0 or replace_share + random_share > 1 + 1e-9:
            raise ValueError(
                f"replace_share = {replace_share!r} and random_share = {random_share!r} must be at least 0 "
                "and together at most 1"
            )
        self.tokenizer = tokenizer  # the Trainer saves it with the model
        self.mask_token_id = mask_token_id
        self.vocab_size = vocab_size
        self.special_token_ids = np.array(sorted(special_token_ids), dtype=np.int64)
        self.pad_token_id = 0 if pad_token_id is None else pad_token_id
        self.pad_left = getattr(tokenizer, "padding_side", "right") == "left"
        self.mask_share = mask_share
        self.replace_share = replace_share
        self.random_share = random_share
        self.pad_to_multiple_of = pad_to_multiple_of
        self.seed = seed
        # Shared memory: persistent workers hold a copy of the collator from before the epoch began.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that masks are drawn for, counted from 0."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Masks change from epoch to epoch; epochs count from 0.

        Raises:
            ValueError: if `epoch` is not a whole number of at least 0.
        """
        self._epoch[0] = whole("epoch", epoch, least=0)

    def at_epoch(self, epoch: int) -> MaskingCollator:
        """A copy that stays at `epoch`: evaluation is comparable only if its masks are the same every time."""
        fixed = copy.copy(self)
        fixed._epoch = torch.zeros(1, dtype=torch.int64)
        fixed.set_epoch(epoch)
        return fixed

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch: `input_ids` (B, T) masked, `labels` (B, T), -100 where nothing is to predict, `attention_mask`.

        Args:
            features: rows with `input_ids` (length,), and other fields that are either as long, and padded with 0, or
                of one shape in all rows, and stacked. `labels` of a row are not read.

        Raises:
            ValueError: if there are no rows, a row lacks `input_ids`, or rows have different fields.
        """
        if not features:
            raise ValueError("there are 0 rows to collate, but a batch needs at least 1")
        names = list(features[0])
        for number, row in enumerate(features):
            if "input_ids" not in row:
                raise ValueError(f"row {number} has no input_ids; it holds: {', '.join(row) or 'nothing'}")
            if set(row) != set(names):
                raise ValueError(f"row {number} has the fields {sorted(row)}, but row 0 has {sorted(names)}")
        rows = [np.asarray(row["input_ids"], dtype=np.int64) for row in features]
        masked = [
            self.mask_row(tokens, row.get("special_tokens_mask")) for tokens, row in zip(rows, features, strict=True)
        ]
        batch = {
            "input_ids": self._pad([tokens for tokens, _ in masked], self.pad_token_id),
            "labels": self._pad([labels for _, labels in masked], IGNORED),
        }
        if "attention_mask" not in names:
            batch["attention_mask"] = self._pad([np.ones(len(tokens), dtype=np.int64) for tokens in rows], 0)
        for name in names:
            if name in ("input_ids", "labels", "special_tokens_mask"):
                continue
            values = [np.asarray(row[name]) for row in features]
            along = all(value.shape == tokens.shape for value, tokens in zip(values, rows, strict=True))
            batch[name] = self._pad(values, 0) if along else torch.as_tensor(np.stack(values))
        return batch

    def mask_row(self, tokens: np.ndarray, special: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """(masked tokens, labels), both (length,), of the row `tokens` (length,) at this epoch.

        Args:
            special: (length,), not zero where a token is never masked; None takes `special_token_ids`.
        """
        digest = hashlib.blake2b(tokens.astype("<i8").tobytes(), digest_size=16).digest()
        rng = np.random.default_rng([self.seed, self.epoch, int.from_bytes(digest, "little")])
        predict, change = rng.random((2, len(tokens)))
        words = rng.integers(self.vocab_size, size=len(tokens))
        fixed = np.isin(tokens, self.special_token_ids) if special is None else np.asarray(special) != 0
        chosen = (predict < self.mask_share) & ~fixed
        replaced = chosen & (change < self.replace_share)
        redrawn = chosen & ~replaced & (change < self.replace_share + self.random_share)
        masked = np.where(replaced, self.mask_token_id, np.where(redrawn, words, tokens))
        return masked, np.where(chosen, tokens, IGNORED)

    def _pad(self, rows: list[np.ndarray], value: int) -> Tensor:
        length = max(len(row) for row in rows)
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padded = np.full((len(rows), length), value, dtype=rows[0].dtype)
        for target, row in zip(padded, rows, strict=True):
            target[slice(length - len(row), None) if self.pad_left else slice(len(row))] = row
        return torch.from_numpy(padded)


def warn_not_resumable(collate: Any) -> None:
    """Log it if a run with this collator, one of transformers that draws, does not resume as it would have gone on."""
    from transformers import DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling

    source = None
    if isinstance(collate, DataCollatorForPermutationLanguageModeling):
        source = "the global generator"
    if isinstance(collate, DataCollatorForLanguageModeling) and collate.mlm:
        source = "the global generator" if collate.seed is None else "a generator that no checkpoint saves"
    if source is not None:
        logger.warning(
            "%s draws from %s: a run resumed from a checkpoint gets other batches than it would have had. "
            "gsgd.sift.huggingface.collator.MaskingCollator masks by (seed, epoch, sample) alone",
            type(collate).__name__,
            source,
        )
