"""Sentences of a text, by a light splitter of our own."""

from __future__ import annotations

import re

VERSION = 1
"""Counts up whenever the splitter finds other sentences in the same text, so that nothing cached before is used."""

# Paper: does not say how text was cut into sentences, and the original BERT code expects them cut; here: rules that
# are wrong now and then (unlisted abbreviations), because the pair task needs consecutive spans, not exact sentences.
_TITLES = ("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Capt", "Col", "Gen", "Lt", "Rev", "Hon", "Sen")
# Looked at from behind the mark, which is far faster than in front of it, at every character.
_NOT_AFTER = "".join(rf"(?<!\b{title}\.)" for title in (*_TITLES, "[A-Z]"))
_END = re.compile(
    rf"""[.!?]{_NOT_AFTER}[.!?]*["'\u201d\u2019)\]]*(\s+)(?=["'\u201c\u2018(\[]*[A-Z\u00c0-\u00d6\u00d8-\u00de])"""
)
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, none of them empty, with every run of white space made one space.

    A sentence ends where its paragraph does (at a blank line), and after `.`, `!` or `?`, closing quotes and brackets
    included, if white space and a capital letter follow, before which quotes and brackets may open. It does not end
    after a single capital letter (an initial) or one of a few titles ("Mr."). A single line break is white space.
    """
    found = []
    for paragraph in _PARAGRAPH_END.split(text):
        start = 0
        for end in _END.finditer(paragraph):
            found.append(paragraph[start : end.start(1)])
            start = end.end()
        found.append(paragraph[start:])
    return [sentence for piece in found if (sentence := " ".join(piece.split()))]
