"""A batch's rows: which of its entries have one thing per row, how many rows there are, and the kept ones.

Shapes alone cannot tell rows from what is as long by chance (4 class weights beside 4 rows). So an entry is cut if its
name says that it has rows, if it was collated from the samples' fields, or if its length followed the batch's; what
remains unclear stays whole, and `BatchRows.describe` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gsgd.ranges import words
from gsgd.sift.batches.batch_structure import Indices, lengths_of, members_of, rebuilt, rows_are_second
from gsgd.sift.models.forward_arguments import ForwardArguments

# fmt: off
_LABELS = frozenset({
    "labels", "label", "label_ids", "target", "targets", "y", "start_positions", "end_positions",
    "next_sentence_label", "sentence_order_label", "mc_labels", "mask_labels", "class_labels", "cls_index",
    "is_impossible", "future_values"
})
# Of these another length is an error, not a sign that they have no rows.
_ALWAYS_ROWS = _LABELS | {
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "special_tokens_mask",
    "global_attention_mask", "padding_mask", "input_mask", "perm_mask", "target_mapping", "p_mask", "mc_token_ids",
    "task_type_ids", "mm_token_type_ids", "bbox", "decoder_input_ids", "decoder_attention_mask",
    "decoder_inputs_embeds", "decoder_position_ids", "encoder_outputs", "encoder_hidden_states",
    "encoder_attention_mask", "pixel_values", "pixel_mask", "bool_masked_pos", "flattened_patches", "visual_embeds",
    "visual_attention_mask", "visual_token_type_ids", "visual_feats", "visual_pos", "input_values",
    "input_features", "mask_time_indices", "past_values", "past_time_features", "past_observed_mask",
    "future_time_features", "entity_ids", "entity_attention_mask", "entity_token_type_ids", "entity_position_ids",
    "x", "input", "inputs", "image", "images", "sample_ids"
}
# Everyday names that mean something else as often: of another length they stay whole.
_OFTEN_ROWS = frozenset({
    "mask", "tokens", "text", "texts", "features", "feature", "lengths", "id", "ids", "idx", "index", "indices"
})
ROW_NAMES = _ALWAYS_ROWS | _OFTEN_ROWS
# With a single row these hold for all rows of a batch.
_BROADCAST = frozenset({
    "position_ids", "decoder_position_ids", "token_type_ids", "attention_mask", "decoder_attention_mask",
    "encoder_attention_mask", "bbox"
})
# Beside text, vision- and audio-language models hold one entry an image (a clip) here, not one a row.
_IMAGES = frozenset({
    "pixel_values", "image_sizes", "pixel_mask", "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask"
})
_MEDIA = _IMAGES | {
    "images", "pixel_values_images", "pixel_values_videos", "image_pixel_values", "high_res_pixel_values",
    "pixel_values_local", "image_grid_thw", "video_grid_thw", "image_embeds", "image_position_ids",
    "spatial_shapes", "input_values", "input_features", "input_features_mask", "feature_attention_mask",
    "audio_input_features"
}
# fmt: on
# A model that takes one of these takes (B, images of a row, channels, height, width).
_IMAGES_BY_ROW = frozenset({"pixel_attention_mask", "image_attention_mask", "aspect_ratio_mask"})
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "cu_seqlens_q", "seq_idx")


class _Trust(IntEnum):
    """How well it is known that an entry has rows."""

    NEVER = 0  # its length once was another than the batch's
    UNKNOWN = 1
    KIN = 2  # a member of something that has rows: rows if it has two axes
    LIKELY = 3  # rows if its length is the batch's
    SURE = 4  # another length is an error
    NAMED = 5  # by the user


@dataclass(slots=True)
class _Entry:
    """Something in a batch that can have rows; `name` is its path, joined by dots."""

    name: str
    key: str
    value: Any
    trust: _Trust
    lengths: tuple[int, ...]  # what may be its number of rows; of a list its own length, then that of its columns
    below: _Trust = _Trust.UNKNOWN
    beside: Mapping[str, Any] | None = None  # images beside text: all that stands beside them

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, (list, tuple)) and not isinstance(self.value, PackedSequence)


class BatchRows:
    """Which entries of a batch have rows, told by name, by the samples' fields, and by lengths that follow the batch's.

    Args:
        model: the innermost model; its `forward` (and `early_logits`) tells which arguments it cannot do without, its
            config which token stands for an image. Nothing refers to it afterwards.
        rows: names of further entries with one thing per row, of nested ones with dots ("x.mask") or their last part.
        label_names: names of the labels, if others than `ROW_NAMES` has.

    Attributes:
        sample_fields: names of the dataset samples' fields; what a collator made of them has rows if it is as long.

    Raises:
        ValueError: if `rows` or `label_names` is no sequence of strings.
    """

    def __init__(
        self, model: nn.Module | None = None, *, rows: Sequence[str] = (), label_names: Sequence[str] = ()
    ) -> None:
        self.rows = frozenset(words("rows", rows))
        labels = words("label_names", label_names)
        self.sample_fields: set[str] = set()
        self._labels = _LABELS.union(labels)
        self._always = _ALWAYS_ROWS.union(labels)
        arguments = ForwardArguments.of(model)
        self._required = arguments.required
        self._images_by_row = not _IMAGES_BY_ROW.isdisjoint(arguments.named)
        self._image_token = _image_token_of(getattr(model, "config", None))
        self._equal_at: dict[str, int] = {}  # the batch's size at which an entry was as long
        self._follows: dict[str, bool] = {}  # whether its length follows the batch's, once that is known

    def size(self, batch: Any) -> int:
        """B, the number of rows, on which all entries that surely have rows must agree.

        Raises:
            ValueError: if nothing has rows, there are none, or the entries disagree; the latter are named.
        """
        return self._size(batch, list(self._entries_of(batch)))

    def take(self, batch: Any, indices: Tensor | range) -> Any:
        """The rows `indices` (k,) of the batch, in its structure; what has no rows is passed on as the same object.

        Of a range, tensors are views.

        Raises:
            ValueError: as `size`, and where shapes leave open whose an entry is (images beside text, say).
        """
        size, cuts, _ = self._plan(batch)
        parts = [name.split(".") for name in cuts if "." in name]
        containers = {"", *(".".join(path[:end]) for path in parts for end in range(1, len(path)))}
        return rebuilt(batch, "", cuts, containers, Indices(indices, size))

    def learn(self, batch: Any) -> int:
        """Remembers which lengths are the batch's, so that what follows it is cut from the next size on; returns B.

        Call it with the batches of the loader only, not with taken rows: what stayed whole is longer than they are.
        """
        entries = list(self._entries_of(batch))
        size = self._size(batch, entries)
        for entry in entries:
            self._remember(entry, size)
        return size

    def learn_fields(self, names: Iterable[str]) -> None:
        """Adds names of fields that the dataset's samples have."""
        self.sample_fields.update(names)

    def cut_names(self, batch: Any) -> list[str]:
        """The names of what `take` cuts, of nested entries with dots."""
        return list(self._plan(batch)[1])

    def describe(self, batch: Any) -> str:
        """A sentence for the log: what is cut, what stays whole, and what of the latter may have rows after all."""
        _, cuts, unclear = self._plan(batch)
        top = [str(key) for key, _ in members_of(batch) or enumerate(batch)]
        whole = [name for name in top if not any(f"{cut}.".startswith(f"{name}.") for cut in [*cuts, *unclear])]
        said = f"selection takes the kept rows of {', '.join(cuts)}"
        if whole:
            said += f"; {', '.join(whole)} stay whole" if len(whole) > 1 else f"; {whole[0]} stays whole"
        if unclear:
            said += (
                f"; whether {', '.join(unclear)} (as long as the batch) has one entry per row is not known, so it "
                f"stays whole: if it has, name it, {_remedy(unclear)}"
            )
        names = {*cuts, *(entry.name for entry in self._entries_of(batch))}
        if missing := sorted(row for row in self.rows if not any(f".{name}".endswith(f".{row}") for name in names)):
            said += f"; rows= names {', '.join(missing)}, which this batch does not have"
        return said

    def _entries_of(self, batch: Any) -> Iterator[_Entry]:
        if members_of(batch) is None and not (isinstance(batch, (list, tuple))):
            raise ValueError(
                f"the batch is a {type(batch).__name__}, but must be a mapping, a tuple or list, or a dataclass"
            )
        return self._entries(batch, "", "", _Trust.UNKNOWN)

    def _entries(self, value: Any, name: str, key: str, above: _Trust) -> Iterator[_Entry]:
        """All that can have rows in `value`, of which `above` tells how well its container is known to have them."""
        found = members_of(value)
        if found is None and isinstance(value, (list, tuple)) and not isinstance(value, PackedSequence):
            if name == "":
                above = _Trust.LIKELY  # a tuple was collated from samples that are tuples
            if name == "" or any(row.startswith(f"{name}.") for row in self.rows):
                found = enumerate(value)
        if found is not None:
            below = self._below(name, key, above)
            members = {str(inner): member for inner, member in found}
            beside = members if "input_ids" in members or "inputs_embeds" in members else None
            for inner, member in members.items():
                path = f"{name}.{inner}" if name else inner
                if (
                    beside is not None
                    and inner in _MEDIA
                    and lengths_of(member, inner)
                    and not self._named(path, inner)
                ):
                    yield _Entry(path, inner, member, _Trust.UNKNOWN, (), beside=beside)
                else:
                    yield from self._entries(member, path, inner, below)
        elif lengths := lengths_of(value, key):
            yield _Entry(name, key, value, self._trust(value, name, key, above), lengths, self._below(name, key, above))

    def _named(self, name: str, key: str) -> bool:
        return bool(self.rows) and (key in self.rows or any(f".{name}".endswith(f".{row}") for row in self.rows))

    def _trust(self, value: Any, name: str, key: str, above: _Trust) -> _Trust:
        if above is _Trust.NAMED or self._named(name, key):
            return _Trust.NAMED
        strings = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)
        # Strings under a name such as "features" may as well name columns.
        if key in self._always and not strings:
            return _Trust.SURE
        if (follows := self._follows.get(name)) is not None:
            return _Trust.LIKELY if follows else _Trust.NEVER
        if above is _Trust.LIKELY or key in self.sample_fields or key in ROW_NAMES or key in self._labels:
            return _Trust.LIKELY
        if isinstance(value, PackedSequence) or (isinstance(value, Tensor) and value.is_nested):
            return _Trust.LIKELY
        if (above is _Trust.KIN or key in self._required) and getattr(value, "ndim", 0) > 1:
            return _Trust.LIKELY
        return _Trust.UNKNOWN

    def _below(self, name: str, key: str, above: _Trust) -> _Trust:
        """How well members of a container are known to have rows."""
        if above in (_Trust.NAMED, _Trust.LIKELY):
            return above
        if self._named(name, key):
            return _Trust.NAMED
        if key in self.sample_fields:
            return _Trust.LIKELY
        known = above is _Trust.KIN or key in ROW_NAMES or key in self._labels or key in self._required
        return _Trust.KIN if known else _Trust.UNKNOWN

    def _size(self, batch: Any, entries: list[_Entry]) -> int:
        voters = [
            entry for entry in entries if entry.lengths and not (entry.lengths == (1,) and entry.key in _BROADCAST)
        ]
        sure = [entry for entry in voters if entry.trust >= _Trust.SURE]
        likely = [entry for entry in voters if entry.trust is _Trust.LIKELY]
        # Lists of unknown names say nothing: they need not have rows.
        arrays = [e for e in entries if e.lengths and e.trust is not _Trust.NEVER and not e.is_list]
        asked = sure or likely or arrays
        if not asked:
            held = ", ".join(str(key) for key, _ in members_of(batch) or enumerate(batch))
            raise ValueError(f"the batch has no tensor with rows; it holds: {held or 'nothing'}")
        sizes = set.intersection(*(set(entry.lengths) for entry in asked))
        if not sizes:
            listed = ", ".join(f"{entry.name} {entry.lengths[0]}" for entry in asked)
            remedy = "" if sure else f"; if only some have one entry per row, name those, {_remedy([asked[0].name])}"
            raise ValueError(f"the batch's tensors must have the same number of rows, but have: {listed}{remedy}")
        for entry in likely if len(sizes) > 1 else ():
            sizes = sizes & set(entry.lengths) or sizes
        if len(sizes) > 1:
            raise ValueError(_rows_or_columns(next(entry for entry in asked if len(entry.lengths) > 1)))
        if (size := sizes.pop()) == 0:
            raise ValueError("the batch has 0 rows, but selection needs at least 1")
        return size

    def _plan(self, batch: Any) -> tuple[int, dict[str, int | Tensor], list[str]]:
        """B, the axis along which each entry is cut (of images, the row of each), and the names of unclear ones."""
        entries = list(self._entries_of(batch))
        size = self._size(batch, entries)
        cuts: dict[str, int | Tensor] = {}
        unclear: list[_Entry] = []
        for entry in entries:
            self._decide(entry, size, cuts, unclear)
        if all(name.rpartition(".")[2] in self._labels for name in cuts):
            # Something must be the model's input: what has two axes, or else whatever is as long as the batch.
            arrays = [entry for entry in unclear if not entry.is_list]
            inputs = [entry for entry in arrays if entry.value.ndim > 1] or arrays
            cuts = {**{entry.name: 0 for entry in inputs}, **cuts}
        return size, cuts, [entry.name for entry in unclear if entry.name not in cuts]

    def _decide(self, entry: _Entry, size: int, cuts: dict[str, int | Tensor], unclear: list[_Entry]) -> None:
        if entry.beside is not None:
            cuts[entry.name] = self._cut_of_media(entry, entry.beside, size)
        elif entry.is_list and (entry.lengths[0] != size or (size in entry.lengths[1:] and self._is_columns(entry))):
            for column in self._columns(entry):
                self._decide(column, size, cuts, unclear)
        elif size in entry.lengths and entry.trust >= _Trust.LIKELY:
            cuts[entry.name] = 1 if rows_are_second(entry.value, entry.key) else 0
        elif size in entry.lengths and entry.trust is _Trust.UNKNOWN:
            unclear.append(entry)

    def _columns(self, entry: _Entry) -> list[_Entry]:
        """The entries inside a list that has not one thing per row."""
        if len(entry.lengths) == 1 and not any(members_of(item) or lengths_of(item, "") for item in entry.value[:1]):
            return []  # a long list of words, say
        return [
            column
            for number, item in enumerate(entry.value)
            for column in self._entries(item, f"{entry.name}.{number}", str(number), entry.below)
        ]

    def _is_columns(self, entry: _Entry) -> bool:
        """Whether a list of B things of length B each holds columns, as a collated tuple does, rather than rows."""
        columns = [self._follows.get(column.name) for column in self._columns(entry)]
        if entry.trust is _Trust.NAMED or self._follows.get(entry.name) or False in columns:
            return False
        if entry.key == "encoder_outputs" or self._follows.get(entry.name) is False or True in columns:
            return True
        # Rows are of one kind; columns (images and their sizes, say) often are not.
        items = [item for item in entry.value if item is not None]
        kinds = {(type(item), getattr(item, "dtype", None), getattr(item, "ndim", None)) for item in items}
        if len(kinds) > 1:
            return True
        if entry.trust < _Trust.LIKELY or isinstance(items[0], Mapping):
            return False
        raise ValueError(_rows_or_columns(entry))

    def _cut_of_media(self, entry: _Entry, beside: Mapping[str, Any], size: int) -> int | Tensor:
        """0 where images (or what is known of each) have one entry per row, else the row (images,) of each."""
        pixels = beside.get("pixel_values")
        count = lengths_of(entry.value, "")[0]
        if entry.key in _IMAGES and pixels is not None and count == len(pixels):
            axes = getattr(pixels, "ndim", 0)
            by_row = self._images_by_row or not _IMAGES_BY_ROW.isdisjoint(beside)
            unmarked = self._image_token is None and "image_sizes" not in beside
            if self._named(f"{entry.name.rpartition('.')[0]}.pixel_values", "pixel_values"):
                return 0
            if axes > 4 and (by_row or unmarked):
                if count == size:
                    return 0
            elif axes > 3 and (owners := self._owners(beside, count)) is not None:
                return owners
        raise ValueError(
            f"{entry.name} has {count} entries beside text of {size} rows: these may be one per image (or clip) rather "
            f"than one per row, and nothing tells which row each belongs to; if it has one entry per row, name it, "
            f"{_remedy([entry.name])}, else give it an axis of its own for the images of a row"
        )

    def _owners(self, beside: Mapping[str, Any], count: int) -> Tensor | None:
        """The row (images,) of each image, told by the image tokens of each row if all images take equally many."""
        ids, sizes = beside.get("input_ids"), beside.get("image_sizes")
        if self._image_token is None or not isinstance(ids, Tensor) or ids.dim() != 2 or count == 0:
            return None
        if sizes is not None and not bool((torch.as_tensor(sizes) == torch.as_tensor(sizes[0])).all()):
            return None  # larger images may take more tokens
        tokens = (ids == self._image_token).sum(dim=1)
        each, rest = divmod(int(tokens.sum()), count)
        if each == 0 or rest or bool((tokens % each).any()):
            return None
        return torch.repeat_interleave(torch.arange(len(ids), device=ids.device), tokens // each)

    def _remember(self, entry: _Entry, size: int) -> None:
        if entry.beside is not None:
            return
        if entry.is_list or entry.trust < _Trust.SURE:
            if entry.lengths[0] != size:
                self._follows[entry.name] = False
            elif self._equal_at.setdefault(entry.name, size) != size:
                self._follows.setdefault(entry.name, True)
        if entry.is_list:
            for column in self._columns(entry) if len(entry.lengths) > 1 else ():
                self._remember(column, size)


def batch_size(batch: Any) -> int:
    """B, the number of rows, told by names and shapes alone; see `BatchRows.size`."""
    return BatchRows().size(batch)


def take_rows(batch: Any, indices: Tensor) -> Any:
    """The rows `indices` (k,) of the batch, told by names and shapes alone; see `BatchRows.take`."""
    return BatchRows().take(batch, indices)


def is_packed(batch: Any) -> bool:
    """Whether a batch of one row looks like several sequences laid end to end, of which no row can be selected."""
    if not isinstance(batch, Mapping):
        return False
    positions = batch.get("position_ids")
    starts = False
    if isinstance(positions, (Tensor, np.ndarray)) and positions.ndim > 0 and len(positions):
        first = torch.as_tensor(positions).reshape(-1, positions.shape[-1])[0]
        starts = bool(((first[1:] == 0) & (first[:-1] > 0)).any())
    if not starts and all(batch.get(name) is None for name in _PACKED):
        return False
    try:
        return batch_size(batch) == 1
    except ValueError:
        return False


def _image_token_of(config: Any) -> int | None:
    """The token that stands for an image in the text, as the model's config or one within it has it."""
    for part in (config, *getattr(config, "__dict__", {}).values()):
        for name in ("image_token_id", "image_token_index"):
            token = getattr(part, name, None)
            if isinstance(token, int) and not isinstance(token, bool):
                return token
    return None


def _remedy(names: Sequence[str]) -> str:
    return "rows=(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"


def _rows_or_columns(entry: _Entry) -> str:
    """The error where a list may have rows or hold columns."""
    count, length = entry.lengths[0], entry.lengths[-1]
    columns = [f"{entry.name}.{number}" for number in range(min(count, 2))]
    return (
        f"{entry.name} is a {type(entry.value).__name__} of {count} things of length {length}, so it has {count} rows, "
        f"or columns of {length} rows: name it, {_remedy([entry.name])}, if it has one entry per row, or else its "
        f"columns, {_remedy(columns)}"
    )
