"""The training pass: the model on the kept rows, which takes from the scoring pass what that has computed of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsgd import host
from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.choice import normalises_by_batch
from gsgd.sift.compilation import Compiled, backend_of, outlasting
from gsgd.sift.models.wrappers import every_module, innermost, unwrap
from gsgd.sift.reuse_trial import ReuseTrial
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.head_positions import HeadAtPositions, positions_only
from gsgd.sift.scoring_pass.labels import LabelConvention
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.shared_forward.capture import Capture, Findings, say_once
from gsgd.sift.shared_forward.sharing import Shared, two_passes_because
from gsgd.sift.timing import Totals


class TrainingPass:
    """Runs a model on kept rows, within one process: it holds graphs, and what one step leaves for the next.

    Args:
        model: as the engine was given it; what is compiled is this one.
        scorer: scores the gross batch before the pass.
        reuse_trial: says whether a pass is shared where `reuse="auto"`.
        totals: take what became of sharing.

    Attributes:
        shared: what scoring has left for the rows that were chosen last; None where it has left nothing.
        compiled: the pass as a graph, where the options ask for one.
        labelled: of a pass whose head ran on labelled positions only, (the row of each (N,), their labels (1, N)),
            until its losses are noted; None where it ran on all.
    """

    def __init__(self, model: nn.Module, scorer: Scorer, reuse_trial: ReuseTrial, totals: Totals):
        self.options, self.scorer, self.reuse_trial, self.totals = scorer.options, scorer, reuse_trial, totals
        self.shared: Shared | None = None
        self.findings = Findings()
        self.compiled: Compiled | None = None
        self.labelled: tuple[Tensor, Tensor] | None = None
        self._head: HeadAtPositions | None = None
        if not self.options.compile:
            return
        self.compiled = Compiled(model, "the training pass", backend_of(self.options))
        base = getattr(innermost(unwrap(model)), "base_model", None)  # PEFT has one of its own
        if self.options.labelled_head and isinstance(base, nn.Module):
            self._head = HeadAtPositions.on(base)

    def release(self) -> None:
        """Let go of what scoring has left."""
        if self.shared is not None:
            self.shared.capture.release()
            self.shared = None

    def new_capture(
        self, model: nn.Module, batch: Any, exit_layer: int, *, together: bool, holds_window: bool, packed: bool = False
    ) -> Capture | None:
        """What keeps the scoring pass of a gross batch; None where nothing is to be taken from it.

        Args:
            together, holds_window: see `two_passes_because`.
            packed: whether its rows are documents that are packed again to be trained on.
        """
        source = self.options.source
        if self.scorer.function is None or (source is not None and source.own_input):
            return None
        gross = self.options.batchnorm == "gross" and any(map(normalises_by_batch, every_module(model)))
        share, self.totals.sharing = self.reuse_trial.answer(self.options.reuse, device_of(batch).type)
        if not share and not gross:
            return None
        reason = "documents are scored in rows, and trained on in a pack" if packed else None
        reason = reason or self.scorer.not_captured_because(batch)
        reason = reason or two_passes_because(
            model, exit_layer, self.options, together=together, holds_window=holds_window
        )
        if reason is not None:
            if gross:
                raise ValueError(f'batchnorm = "gross" needs one scoring pass for one training pass, but: {reason}')
            self.totals.sharing = f"two passes: {reason}"
            if self.options.reuse is not False:
                say_once(f"scoring and training make two passes: {reason}")
            return None
        # Of tokens the head sees those kept, of what it has seen in scoring.
        head = self.options.labelled_head and exit_layer == self.scorer.exits and self.options.level == "row"
        return Capture(self.findings, share=share, gross_statistics=gross, head=head)

    @contextlib.contextmanager
    def sharing(self, model: nn.Module, rows: Mapping[str, Any]) -> Iterator[Shared | None]:
        """Within the block the model on `rows` takes what scoring has left, if it was left for these very rows."""
        shared = self.shared
        if shared is None or not shared.is_of(rows):
            self.release()
            yield None
            return
        self.shared = None
        with shared.training_pass(model):
            yield shared
        self.totals.scored_operations += shared.capture.costly
        self.totals.reused_operations += shared.capture.handed

    def run(self, model: nn.Module, rows: Mapping[str, Any]) -> Any:
        """The model's output on rows that were chosen."""
        labels = rows.get("labels")
        found: tuple[Tensor, Tensor, Tensor] | None = None
        if self.options.labelled_head and isinstance(labels, Tensor) and labels.dim() > 1:
            found = self._labelled(rows, labels)
        self.labelled = None if found is None else (found[0], found[2])
        with self.sharing(model, rows) as shared:
            if found is None:
                return model(**rows) if self.compiled is None else outlasting(self.compiled(**rows))
            where, columns, labelled = found
            if self.compiled is not None and self._head is not None:
                with self._head.at(where, columns):
                    return outlasting(self.compiled(**{**rows, "labels": labelled}))
            head = shared.begin_head if shared is not None and shared.capture.head else lambda chosen: chosen
            with positions_only(unwrap(model), where, columns, head):
                return model(**{**rows, "labels": labelled})

    def take_labelled(self) -> tuple[Tensor, Tensor] | None:
        """`labelled` of the pass that was run last; after that none, since a loop may call the model by itself."""
        taken, self.labelled = self.labelled, None
        return taken

    def _labelled(self, rows: Mapping[str, Any], labels: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """(rows (N,), columns (N,), labels (1, N)) of the labelled positions; None if there are none.

        On a device others may be among them, with the label that does not count, unless a head was captured at labelled
        ones alone. A model that shifts labels sees one position more, whose prediction is of none.
        """
        shifts = self.options.level == "token" and self.scorer.shifts
        if shifts:
            labels = LabelConvention("positions", shift=1).aligned(labels)
        if host.holds(labels) or (self.shared is not None and self.shared.capture.head):
            where, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
            wanted = labels[where, columns]
        else:
            found = self.scorer.padded_positions(rows, labels)
            where, columns, wanted = found.rows, found.columns, found.labels.flatten()
        if len(where) == 0:
            return None
        if shifts:
            where, columns, wanted = F.pad(where, (0, 1)), F.pad(columns, (0, 1)), F.pad(wanted, (1, 0), value=IGNORED)
        return where, columns, wanted.unsqueeze(0)
