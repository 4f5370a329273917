"""Arithmetic of the paper's experiments that its own numbers decide."""

from __future__ import annotations

from theory.verdict import Context, Route, Verdict, Verdicts, check, equal

TABLE_1 = {"baseline": 0.6466, "loss, exit 1": 0.6599, "entropy, exit 1": 0.6641}


@check("Section 7", Route.CLOSED_FORM)
def tokens_in_a_batch(context: Context, *, sequences: int = 32) -> Verdict:
    """32 sequences on each of 8 GPUs, of 512 tokens each, are 131,072 tokens a batch"""
    return equal(sequences * 8 * 512, 131_072)


@check("Section 7", Route.CLOSED_FORM)
def gains_of_table_1(context: Context, *, baseline: float = TABLE_1["baseline"]) -> Verdicts:
    """in Table 1 loss and entropy at exit 1 gain 1.33 and 1.75 points on the baseline"""
    yield equal(100 * (TABLE_1["loss, exit 1"] - baseline), 1.33)
    yield equal(100 * (TABLE_1["entropy, exit 1"] - baseline), 1.75)
