"""Documents packed into one row (padding-free batches): taken apart to be scored, and packed again to be trained on.

    pack = Pack.of(batch)              # None if the batch is not packed
    rows = pack.rows                   # one document a row, padded: what selection takes rows of
    kept = pack.packed(indices)        # the same pack with these documents only

A pack has its tokens on one axis, `input_ids` (1, T), and says where documents begin by `position_ids` that begin anew
or by `cu_seq_lens_q`. transformers' DataCollatorWithFlattening makes such batches, TRL does with `packing=True` or
`padding_free=True`. That attention does not cross from one document to another is the model's to see to: causal models
of transformers do without a cache, and flash attention does; else an `attention_mask` (1, 1, T, T) says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd.sift.candidates.rows import Rows, Taken
from gsgd.sift.choice import Selection
from gsgd.sift.measures.self_check import TOLERANCE_HALF
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.forward import logits_of
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.shared_forward.capture import Capture

_STARTS = ("cu_seq_lens_q", "cu_seq_lens_k")
_LONGEST = ("max_length_q", "max_length_k")
_NUMBERS = "seq_idx"
"""Names that transformers' attention and TRL's collator have: where documents begin, the longest one's length, and of
each token the number of its document."""
_OTHER_STARTS = ("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k")
_SHORTEST_PART = 0.5
"""Of the longest document of a part, what another one of it must have at least."""
TOLERANCE = 1e-3
"""Differences of logits that rounding explains, as a share of their standard deviation, in float32."""


class Pack:
    """The documents of one packed batch.

    Documents without a label are left out: nothing is trained on them, and they are a collator's padding as a rule.

    Args:
        batch: with `input_ids` (1, T) or `inputs_embeds` (1, T, H).
        starts: (D + 1,), int64 on the host: where each document begins, and T.

    Attributes:
        lengths: (documents,), tokens of each, on the host.

    Raises:
        ValueError: for an entry that has neither tokens nor is of the whole, naming it.
    """

    def __init__(self, batch: Mapping[str, Any], starts: Tensor):
        self.batch = batch
        self.tokens = int(starts[-1])
        self._by_token = [name for name, value in batch.items() if self._has_tokens(name, value)]
        self._check_others()
        begins, ends = starts[:-1], starts[1:]
        labels = batch.get("labels")
        if isinstance(labels, Tensor) and "labels" in self._by_token:
            counts = F.pad((labels[0] != IGNORED).cumsum(0).cpu(), (1, 0))
            labelled = counts[ends] > counts[begins]
            begins, ends = begins[labelled], ends[labelled]
        self._begins = begins
        self.lengths = ends - begins

    @classmethod
    def of(cls, batch: Any) -> Pack | None:
        """The pack that a batch is; None if it is not one row of several documents.

        Where documents begin is read from the device.

        Raises:
            ValueError: for boundaries that are none, and as the class.
        """
        if not isinstance(batch, Mapping):
            return None
        starts = _starts(batch)
        pack = None if starts is None else cls(batch, starts)
        return pack if pack is not None and len(pack) > 1 else None

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def rows(self) -> dict[str, Any]:
        """A batch of one document a row, (documents, longest), padded on the right, with an `attention_mask`.

        Labels of the padding are not counted; what is of the whole batch stays as it is.
        """
        return self.take(torch.arange(len(self)))

    def check_options(self, options: SiftOptions) -> None:
        """Raises a ValueError for options of selection that packs do not admit."""
        if options.scope == "global":
            raise ValueError('scope = "global" deals rows out to ranks, and documents that are packed are none: "rank"')
        if options.source is not None:
            raise ValueError(f"{options.score_in_words} scores rows, and packed documents are none: pad instead")
        if options.needs_ids:
            raise ValueError(
                f"{options.ids_needed_for} needs the loss of each row in the training pass, which a pack of documents "
                "does not have: pad instead of packing, or choose documents by gsgd.sift.LastSeenSampler before they "
                "are packed"
            )

    def parts(self, at_once: int | None = None) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """(documents (n,), their rows), the documents of a part being at least half as long as its longest one.

        So padding takes less than half of what is scored.

        Args:
            at_once: documents of a part at the most.
        """
        order = torch.sort(self.lengths, descending=True, stable=True).indices
        lengths = self.lengths[order]
        first = 0
        while first < len(order):
            fits = lengths[first:] >= _SHORTEST_PART * lengths[first]
            last = min(first + int(fits.sum()), first + (at_once or len(order)))
            yield order[first:last], self.take(order[first:last])
            first = last

    def packed(self, documents: Tensor) -> dict[str, Any]:
        """The pack of these documents (k,) alone, in this order: tokens, labels, positions, boundaries, the longest."""
        documents = documents.cpu()
        lengths = self.lengths[documents]
        taken = torch.cat([torch.arange(0), *(self._places(document) for document in documents.tolist())])
        batch = dict(self.batch)
        for name in self._by_token:
            values = batch[name]
            batch[name] = values.index_select(1, taken.to(values.device))
        mask: Any = batch.get("attention_mask")
        if _is_between_tokens(mask, self.tokens):
            places = taken.to(mask.device)
            batch["attention_mask"] = mask.index_select(-1, places).index_select(-2, places)
        starts = F.pad(lengths.cumsum(0), (1, 0))
        for name in _STARTS:
            if batch.get(name) is not None:
                batch[name] = starts.to(batch[name])
        for name in _LONGEST:
            if (before := batch.get(name)) is not None:
                longest = int(lengths.max())
                batch[name] = torch.full_like(before, longest) if isinstance(before, Tensor) else longest
        if _NUMBERS in self._by_token:
            numbers = torch.repeat_interleave(torch.arange(len(documents)), lengths)
            batch[_NUMBERS] = numbers.unsqueeze(0).to(batch[_NUMBERS])
        return batch

    def take(self, documents: Tensor) -> dict[str, Any]:
        """These documents (k,) as `rows` has them, padded to the longest of them."""
        lengths = self.lengths[documents]
        longest = int(lengths.max()) if len(lengths) else 0
        columns = torch.arange(longest)
        there = columns < lengths.unsqueeze(1)
        # Padding repeats the pack's first token: what it is makes no difference behind the mask.
        places = torch.where(there, self._begins[documents].unsqueeze(1) + columns, 0)
        batch = {
            name: value
            for name, value in self.batch.items()
            if name not in (*_STARTS, *_LONGEST, _NUMBERS, "position_ids", "attention_mask")
        }
        for name in self._by_token:
            if name in batch:
                values = self.batch[name][0]
                batch[name] = values[places.to(values.device)]
        device = self.batch[self._by_token[0]].device
        if "labels" in self._by_token:
            batch["labels"] = batch["labels"].masked_fill(~there.to(device), IGNORED)
        batch["attention_mask"] = there.to(device, torch.int64)
        return batch

    def _places(self, document: int) -> Tensor:
        begin = int(self._begins[document])
        return torch.arange(begin, begin + int(self.lengths[document]))

    def _has_tokens(self, name: str, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == (1, self.tokens)

    def _check_others(self) -> None:
        known = {*self._by_token, *_STARTS, *_LONGEST, _NUMBERS}
        if _is_between_tokens(self.batch.get("attention_mask"), self.tokens):
            known.add("attention_mask")
        for name, value in self.batch.items():
            if name in known or not isinstance(value, Tensor) or value.dim() == 0:
                continue
            raise ValueError(
                f"documents are packed into one row of {self.tokens} tokens, but {name} has the shape "
                f"{tuple(value.shape)}, neither one entry a token nor one of the whole: pad instead of packing, or "
                f"leave {name} out of the batch"
            )


class Documents(Rows):
    """The documents of a pack, to choose from: scored in rows, and trained on in a pack.

    Args:
        pack: that they are of.
        **others: as of `Rows`.
    """

    def __init__(self, pack: Pack, **others: Any):
        super().__init__(batch=pack.rows, size=len(pack), ids=None, **others)
        self.pack = pack

    def scores(self, exit_layer: int, capture: Capture | None = None) -> Tensor | None:
        """(documents,), in parts of documents of about one length; None where nothing scores."""
        scorer = self.scoring.scorer
        if scorer.function is None:
            return None
        scores: Tensor | None = None
        for documents, rows in self.pack.parts(scorer.options.score_batch_size):
            found = scorer.scores(rows, exit_layer)
            scores = found.new_empty(len(self)) if scores is None else scores
            scores[documents.to(found.device)] = found
        return scores

    def number_within(self, scores: Tensor, share: float) -> int:
        """How many of the documents, hardest first, have at most this share of the tokens; at least 1."""
        lengths = self.pack.lengths
        order = torch.sort(scores.nan_to_num(nan=-torch.inf).cpu(), descending=True, stable=True).indices
        return max(1, int((lengths[order].cumsum(0) <= share * int(lengths.sum())).sum()))

    def taken(self, chosen: Tensor) -> Taken:
        """The pack of these documents (k,) alone."""
        return Taken(self.pack.packed(chosen), chosen, len(chosen))

    def tokens_of(self, selection: Selection) -> tuple[int, int]:
        """Tokens of all documents, and of those that were chosen."""
        lengths = self.pack.lengths
        return int(lengths.sum()), int(lengths[selection.indices.cpu()].sum())


def check_apart(scorer: Scorer, pack: Pack) -> None:
    """Hold a model's predictions of two documents in a pack against those of the same documents in rows.

    Raises:
        ValueError: if they differ, so that documents of the pack see each other.
    """
    two = torch.sort(pack.lengths, stable=True).indices[:2]
    first, second = pack.lengths[two].tolist()
    model = unwrap(scorer.model)
    with scorer.watched():
        packed, rows = (
            # Called as in training: with a cache, say, causal models pay no heed to positions that begin anew.
            logits_of(model(**scorer.inputs(batch, labels=False)))
            for batch in (pack.packed(two), pack.take(two))
        )
    together, alone = packed[0, first : first + second].double(), rows[1, :second].double()
    half = torch.finfo(packed.dtype).bits < 32
    differs, spread = float((together - alone).abs().max()), float(alone.std())
    if differs <= (TOLERANCE_HALF if half else TOLERANCE) * spread:
        return
    raise ValueError(
        f"{type(innermost(model)).__name__} predicts a document otherwise behind another one in its pack (logits "
        f"differ by {differs:.2g}, and spread by {spread:.2g}): attention crosses documents. Give the batch an "
        "attention_mask (1, 1, tokens, tokens) that is True within documents, or call a causal model with "
        "use_cache=False, or take an attention that heeds where documents begin (flash attention), or pad; check=False "
        "trains as it is"
    )


def _starts(batch: Mapping[str, Any]) -> Tensor | None:
    """(D + 1,) where documents begin, on the host; None if a batch is not one row with more than one of them."""
    tokens: Any = batch.get("input_ids")
    if tokens is None:
        tokens = batch.get("inputs_embeds")
    if not isinstance(tokens, Tensor) or tokens.dim() < 2 or len(tokens) != 1:
        return None
    length = tokens.shape[1]
    mask = batch.get("attention_mask")
    if mask is not None and not _is_between_tokens(mask, length):
        return None  # beside which no attention of transformers heeds where documents begin
    for name in _OTHER_STARTS:
        if batch.get(name) is not None:
            raise ValueError(f"where packed documents begin is told by {name}, but must be by cu_seq_lens_q")
    found: Any = batch.get("cu_seq_lens_q")
    positions = batch.get("position_ids")
    if isinstance(found, Tensor):
        starts = found.cpu().to(torch.int64)
        ordered = starts.dim() == 1 and len(starts) > 1 and bool((starts.diff() > 0).all())
        if not ordered or int(starts[0]) != 0 or int(starts[-1]) != length:
            raise ValueError(f"cu_seq_lens_q is {starts.tolist()}, but must go up from 0 to the {length} tokens")
    elif isinstance(positions, Tensor) and positions.dim() == 2 and positions.shape == (1, length):
        begins = torch.nonzero(positions[0] == 0).flatten().cpu()
        if len(begins) == 0 or int(begins[0]) != 0:
            return None
        starts = torch.cat([begins, torch.tensor([length])])
    elif isinstance(numbers := batch.get(_NUMBERS), Tensor) and numbers.shape == (1, length):
        begins = torch.nonzero(numbers[0].diff()).flatten().cpu() + 1
        starts = torch.cat([torch.tensor([0]), begins, torch.tensor([length])])
    else:
        return None
    return starts if len(starts) > 2 else None


def _is_between_tokens(mask: Any, tokens: int) -> bool:
    """Whether an attention mask says of each pair of tokens whether one sees the other."""
    return isinstance(mask, Tensor) and mask.dim() > 2 and mask.shape[-2:] == (tokens, tokens)
