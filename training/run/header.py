"""A run's header: what it says when the run begins, and what must be as it says for the run to go on."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gsgd.host import processor
from gsgd.results import command_line, provenance
from training.budget import StepCosts
from training.config import Config
from training.run_folder.records import HEADER, fingerprint
from training.training import Training

logger = logging.getLogger(__name__)


def run_header(config: Config, training: Training, costs: StepCosts | None) -> dict[str, Any]:
    """What is recorded of a run: provenance, command, configuration, data, device and length."""
    device = training.accelerator.device
    on_cpu = f"{processor()}, {os.cpu_count()} processors"
    return {
        **provenance(),
        "command": command_line(),
        "name": config.name,
        "files": [HEADER],
        "config": config.values(),
        "data": training.task.description,
        "parameters": training.parameters,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        "threads": torch.get_num_threads(),
        "processes": training.accelerator.num_processes,
        "total_steps": training.total_steps,
        "step_costs": None if costs is None else asdict(costs),
        "seed": config.training.seed,
    }


def recorded_costs(header: dict[str, Any]) -> StepCosts | None:
    """The costs of a step that a run was planned with; None if it needed none."""
    return StepCosts(**header["step_costs"]) if header["step_costs"] else None


def check_configuration(folder: Path, header: dict[str, Any], config: Config, costs: StepCosts | None) -> None:
    """Whether the run in a folder is of this configuration, and at these costs, if any are given.

    Raises:
        ValueError: if not, naming the keys, or the costs.
    """
    if changed := config.differences(header["config"]):
        named = ", ".join(
            f"{key} ({header['config'].get(key)!r} there, {config.values().get(key)!r} here)" for key in changed[:3]
        )
        raise ValueError(
            f"{folder} has the results of another configuration: {named}. "
            "Choose another --name, or --overwrite to begin anew"
        )
    if costs is not None and recorded_costs(header) != costs:
        raise ValueError(
            f"{folder} was trained at costs of {header['step_costs']}, but they are {asdict(costs)}: "
            "it is of another comparison"
        )


def check_data(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Whether a run or a comparison goes on with the data it began with; warns if other code has prepared them.

    Args:
        there, here: descriptions of tasks, as recorded and as they are.

    Raises:
        ValueError: if not, naming both fingerprints.
    """
    here = json.loads(json.dumps(here))
    if fingerprint(there) != fingerprint(here):
        raise ValueError(
            f"the data are not those that {folder} began with: {fingerprint(there)} there, "
            f"{fingerprint(here)} here. Choose another --name to begin anew"
        )
    if changed := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
        logger.warning(
            "%s goes on with the same data, but other code has prepared them: %s differs", folder, ", ".join(changed)
        )
