"""What is compared: methods, with what each changes of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.methods import parse_method

TUNING_SEED = 1_000_000
"""Of the runs that tune: none of them is reported, so what is reported was not chosen for its luck."""
QUIET = {"save_model": False, "tensorboard": False}
"""What no run of a comparison writes."""


@dataclass(frozen=True)
class Contender:
    """A method with what it changes of the configuration, such as "loss@1:keep=0.7:start_share=0.5".

    Attributes:
        part_of_plain: N, where its batch is an N-th of plain training's, as of "baseline:batch_size=k/N"; else None.
            It is of a ladder, where k is what was chosen for plain training at the rung.
    """

    label: str
    values: dict[str, str]
    part_of_plain: int | None = None


def parse_contender(text: str) -> Contender:
    """The method that `text` names, and the values behind its colons.

    Raises:
        ValueError: if it is none.
    """
    method, *changes = text.split(":")
    parse_method(method)
    values = {"method": method}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"{change!r} in the method {text!r} must be key=value, as in loss@1:keep=0.7")
        values[key.replace("-", "_")] = value
    part = None
    if values.get("batch_size", "").startswith("k"):
        found = re.fullmatch(r"k/([0-9]{1,6})", values.pop("batch_size"))
        part = int(found[1]) if found else 0
        if part < 2:
            raise ValueError(f"batch_size in the method {text!r} must be a number or k/N, N a whole number above 1")
    return Contender(text, values, part)


def check_contenders(contenders: Sequence[Contender]) -> None:
    """Whether these can be compared: each is named once, and changes nothing that all of them share.

    Raises:
        ValueError: if not.
    """
    labels = [contender.label for contender in contenders]
    if again := next((label for label in labels if labels.count(label) > 1), None):
        raise ValueError(f"the method {again!r} is named twice")
    for contender in contenders:
        check_shared(f"the method {contender.label!r}", contender.values)


def check_shared(where: str, values: Mapping[str, Any]) -> None:
    """Refuse keys that all methods of a comparison share, among those that `where` names.

    Raises:
        ValueError: naming the key.
    """
    for key in ("task", "budget", "seed", "test", "label"):
        if key in values:
            raise ValueError(f"{where} sets {key}, but that is the comparison's: all methods share it")


def folder_name(text: str) -> str:
    """Safe as a folder's name, and still readable."""
    return re.sub(r"[^A-Za-z0-9@._=+-]", "-", text)
