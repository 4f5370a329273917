"""What header, comparison and checkpoint must hold: types and ranges, looked at whenever one is read."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

FINISHED, RUNNING, INTERRUPTED, DIVERGED = "finished", "running", "interrupted", "diverged"
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


_KINDS: dict[type, tuple[type, ...]] = {
    float: (float, int),
    **dict.fromkeys((torch.Tensor, torch.nn.Parameter), (torch.Tensor,)),
}
"""Type of an entry of a run's own state -> what may be read for it, where that is not just the type itself."""


def _no_tensor(value: Any) -> Any:
    """pydantic takes whatever can be made a float for one."""
    if isinstance(value, torch.Tensor):
        raise ValueError("must be a plain number")
    return value


class Record(BaseModel):
    """A record: entries that are not named here may be there, too."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class Costs(Record):
    """Seconds of a step, see `training.budget.StepCosts`."""

    plain_s: Annotated[float, Field(gt=0)]
    selecting_s: Annotated[float, Field(gt=0)]
    scoring_work: Annotated[float, Field(ge=0)] | None = None
    training_work: Annotated[float, Field(ge=0)] = 0.0


class RunHeader(Record):
    """`header.json` of a run."""

    config: dict[str, Any]
    status: Literal["finished", "running", "interrupted", "diverged"]
    total_steps: Annotated[int, Field(ge=1)]
    step_costs: Costs | None
    steps_done: Count = 0
    data: dict[str, Any] = {}
    files: list[str] = []
    processes: Annotated[int, Field(ge=1)] = 1
    wall_clock_s: Seconds = 0.0
    readings: Count = 0
    test_accuracy: Share | None = None

    @model_validator(mode="after")
    def _at_its_end(self) -> RunHeader:
        short = self.status == FINISHED and self.steps_done < self.total_steps
        if self.steps_done > self.total_steps or (short and "steps_done" in self.model_fields_set):
            raise ValueError(f"status = {self.status!r} after {self.steps_done} of {self.total_steps} steps cannot be")
        return self


class Summary(Record):
    """What a comparison says of a method."""

    method: str
    runs: Annotated[int, Field(ge=1)]


class SweepRecord(Record):
    """The key that was tuned."""

    key: str
    values: list[str]


class ComparisonHeader(Record):
    """`compare.json` of a comparison."""

    config: dict[str, Any]
    methods: list[str]
    seeds: Annotated[int, Field(ge=1)] = 1
    sweep: SweepRecord | None = None
    step_costs: dict[str, Costs]
    data: dict[str, Any] = {}
    target: Share | None = None
    tuned: dict[str, str] = {}
    summary: list[Summary] = []

    @model_validator(mode="after")
    def _has_all_costs(self) -> ComparisonHeader:
        if without := [method for method in self.methods if method not in self.step_costs]:
            raise ValueError(f"step_costs lacks {without[0]!r}")
        return self


class LadderHeader(Record):
    """`ladder.json` of a ladder of budgets."""

    config: dict[str, Any]
    methods: list[str]
    rungs: list[str]
    seeds: Annotated[int, Field(ge=1)]
    tune: dict[str, list[str]]
    trials: dict[str, list[str]]
    tuning_seeds: Annotated[int, Field(ge=1)]
    step_costs: dict[str, Costs]
    frozen: dict[str, dict[str, str]] | None
    at: dict[str, list[str]] | None = None
    """Label -> the rungs at which a method runs; None in older ladders, where all run at all."""
    jobs: Count | None = None
    data: dict[str, Any] = {}

    @model_validator(mode="after")
    def _frozen_from_trials(self) -> LadderHeader:
        for label, rungs in (self.at or {}).items():
            if strange := [rung for rung in rungs if rung not in self.rungs]:
                raise ValueError(f"at has the rung {strange[0]} of {label}, which is not among the rungs")
        for label, chosen in (self.frozen or {}).items():
            wanted = (self.at or {}).get(label, self.rungs)
            if sorted(chosen) != sorted(wanted):
                found = ", ".join(chosen)
                raise ValueError(f"frozen has the rungs {found} of {label}, but must have {', '.join(wanted)}")
            if strange := [values for values in chosen.values() if values not in self.trials.get(label, ())]:
                raise ValueError(f"frozen has {strange[0]!r} of {label}, which is not among its trials")
        return self


class Place(Record):
    """Where the order of the data stands."""

    epoch: Count
    offset: Count


class Rank(Record):
    """A process's own part of a checkpoint."""

    sift: dict[str, Any]
    torch: Any
    losses: list[Annotated[float, Field(allow_inf_nan=True)]]


class CheckpointState(Record):
    """What `checkpoint.pt` holds, see `training.training.Training.state_dict`."""

    step: Count
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None
    order: Place
    sampler: dict[str, Any] | None = None
    wall_clock_s: Seconds
    seconds: dict[str, Seconds]
    loss_since_evaluation: Annotated[list[float], Field(min_length=2, max_length=2)]
    first_loss: Annotated[float, BeforeValidator(_no_tensor)] | None = None
    ranks: Annotated[list[Rank], Field(min_length=1)]
    logged: dict[str, float] = {}


def check_like(found: Any, own: Any, place: str) -> None:
    """Whether what was read is built as a state of the run itself: kinds of entries, shapes of tensors.

    Entries that only one of them has are passed over: versions differ in them, and lists become longer. So are those
    of which `own` has None: there is nothing yet to compare with.

    Raises:
        ValueError: if not, naming the place.
    """
    if own is None:
        return
    if isinstance(own, dict) and isinstance(found, dict):
        for name in own.keys() & found.keys():
            check_like(found[name], own[name], f"{place}.{name}")
        return
    if isinstance(own, (list, tuple)) and isinstance(found, (list, tuple)):
        if isinstance(own, tuple) and len(found) != len(own):
            raise ValueError(f"{place} must have {len(own)} entries, not {len(found)}")
        for number, (theirs, ours) in enumerate(zip(found, own, strict=False)):
            check_like(theirs, ours, f"{place}.{number}")
        return
    if isinstance(own, torch.Tensor) and isinstance(found, torch.Tensor):
        if (found.shape, found.dtype) != (own.shape, own.dtype):
            there, here = (f"{tuple(each.shape)} of {each.dtype}" for each in (found, own))
            raise ValueError(f"{place} must be a tensor {here}, not {there}")
        return
    kinds = _KINDS.get(type(own), (type(own),))
    if type(found) not in kinds:
        raise ValueError(f"{place} = {reprlib.repr(found)} must be of type {kinds[0].__name__}")


def check(kind: type[Record], content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`content`, if it is a record of this kind.

    Raises:
        ValueError: if not, naming the file, the entry and the rule.
    """
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise ValueError(_in_words(error.errors(), kind, path)) from None
    return content


def _in_words(errors: list[Any], kind: type[Record], path: Path) -> str:
    """The first of the errors that pydantic lists, or all entries that are missing, in a sentence."""
    missing = sorted(str(each["loc"][0]) for each in errors if each["type"] == "missing" and len(each["loc"]) == 1)
    if missing:
        what = {
            RunHeader: "the header of a run",
            ComparisonHeader: "the record of a comparison",
            LadderHeader: "the record of a ladder",
        }
        return f"{path} is not {what.get(kind, 'a checkpoint of this version')}: it lacks {', '.join(missing)}"
    first = errors[0]
    if not first["loc"]:
        return f"{path}: {first['ctx']['error']}"
    place, rule = ".".join(map(str, first["loc"])), first["msg"].replace("Input should", "must", 1)
    return f"{path}: {place} = {reprlib.repr(first['input'])} {rule}"
