"""The public hub, through `datasets`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

from gsgd.commands.arguments import install


@contextlib.contextmanager
def loading(name: str) -> Iterator[ModuleType]:
    """`datasets`, to load or stream the data set that the user calls `name` within the block.

    Raises:
        ValueError: if it is not installed, or for whatever goes wrong within the block, with the remedy.
    """
    remedy = "or give local parquet files by their path"
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name!r} is no local path, and loading it from the hub needs the package datasets: "
            f"install it ({install('train')}), {remedy}"
        ) from error
    try:
        yield datasets
    except Exception as error:  # datasets, its hub client and its HTTP library raise kinds of their own
        raise ValueError(
            f"{name!r} is no local path, and the hub did not give it ({type(error).__name__}: {error}): check the name "
            f"and the connection (HF_HUB_OFFLINE is to be unset), {remedy}"
        ) from error
