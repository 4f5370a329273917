"""Arithmetic of the paper's experiments that its own numbers decide."""

from __future__ import annotations

from theory.verdict import Context, Route, Status, Verdict, check, equal


@check(
    "Table 6",
    "as printed: ~3.8 h forward and ~7.9 h backward are the vanilla run's ~57 h (they sum to 11.7 h)",
    Route.CLOSED_FORM,
    expected=Status.REFUTED,
)
def hours_add_up(context: Context, *, forward_h: float = 3.8, backward_h: float = 7.9) -> Verdict:
    # The tilde allows half an hour either way on each figure.
    return equal(forward_h + backward_h, 57.0, tolerance=1.5 / 57.0)
