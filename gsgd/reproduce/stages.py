"""Carrying out a plan: one stage after another, skipping what is done, stopping where one fails."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gsgd.reproduce.plan import Stage, duration
from gsgd.reproduce.process import Interrupted, Run
from gsgd.reproduce.state import BEGUN, DIVERGED, FINISHED, Standing, State

Say = Callable[[str], None]


class Failed(Exception):
    """A stage failed; its words are for the user.

    Attributes:
        code: for the shell.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def show(stages: Sequence[Stage], state: State, results: Path, say: Say) -> None:
    """The stages, about how long each takes, and what is to be done about it."""
    width = max(len(stage.name) for stage in stages)
    for number, stage in enumerate(stages, start=1):
        say(
            f"{number:4}  {stage.name:{width}}  {stage.about:17}  {_what_is_to_be_done(stage, state, results)}".rstrip()
        )


def _what_is_to_be_done(stage: Stage, state: State, results: Path) -> str:
    standing = state.standing(stage, results)
    record = state.records.get(stage.name)
    if stage.always or record is None:
        return ""
    if standing is Standing.DONE:
        by = "" if state.same(stage) else f", by gsgd {record.version} or another command; kept"
        return f"{record.status} {record.date[:10]}{by}"
    if standing is Standing.ANEW:
        return "begins anew: made by other code or another command"
    if standing is Standing.TO_DO:
        return f"again: {results / stage.output} is gone"
    return standing.value


def begin_anew(stages: Sequence[Stage], state: State, results: Path, say: Say) -> None:
    """Remove what is recorded of these stages, and the folders that only they write to."""
    state.forget(stages)
    for stage in stages:
        _remove_folder(stage, results, say)


def _remove_folder(stage: Stage, results: Path, say: Say) -> None:
    if stage.folder is not None and (results / stage.folder).exists():
        say(f"removing {results / stage.folder}")
        shutil.rmtree(results / stage.folder)


def carry_out(stages: Sequence[Stage], state: State, results: Path, run: Run, say: Say) -> None:
    """Run the stages in their order, but those that are done.

    Raises:
        Failed: if a stage fails.
        Interrupted: if somebody asked to stop.
    """
    begin = time.perf_counter()
    for number, stage in enumerate(stages, start=1):
        head = f"[{number}/{len(stages)}]"
        standing = state.standing(stage, results)
        if standing is Standing.DONE:
            say(f"{head} {stage.name}: {_what_is_to_be_done(stage, state, results)}")
            continue
        if standing is Standing.ANEW:
            # The command itself would go on with what is there, and call it its own.
            _remove_folder(stage, results, say)
        say(f"\n{head} {stage.line(results)}" + (f" ({stage.about})" if stage.about else ""))
        spent = state.records[stage.name].seconds if standing is Standing.CONTINUES else 0.0
        seconds = _carry_out(stage, state, results, run, spent)
        say(f"{head} {stage.name}: {seconds:.0f} s")
    say(f"\n{len(stages)} stages, {duration(time.perf_counter() - begin)}")


def _carry_out(stage: Stage, state: State, results: Path, run: Run, spent: float) -> float:
    """Run one stage and record what came of it. Returns its seconds."""
    begin = time.perf_counter()
    state.record(stage, BEGUN, spent)
    try:
        code = run(stage.words(results))
    except Interrupted:
        state.record(stage, BEGUN, spent + time.perf_counter() - begin)
        raise
    seconds = time.perf_counter() - begin
    line = stage.line(results)
    diverged = code == 1 and stage.may_diverge and _has_diverged(results / stage.output)
    if code and not diverged:
        state.record(stage, BEGUN, spent + seconds)
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise Failed(f"`{line}` {how}", 128 - code if code < 0 else code)
    if not (results / stage.output).exists():
        raise Failed(f"`{line}` ended as if all were well, but there is no {results / stage.output}", 1)
    state.record(stage, DIVERGED if diverged else FINISHED, spent + seconds)
    return seconds


def _has_diverged(header: Path) -> bool:
    try:
        return bool(json.loads(header.read_text(encoding="utf-8"))["status"] == DIVERGED)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # then the exit code meant something else, and is reported as it is
