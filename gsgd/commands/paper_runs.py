"""The paper's runs as stages, with the hours that the tables beside their presets give."""

from __future__ import annotations

import csv
import fnmatch

from gsgd.commands.child_process import PACKAGES
from gsgd.commands.stage import LAST, VERIFY, Stage

CONFIGS = PACKAGES / "training" / "configs"
BERT_ROWS, BERT_ROWS_PER_GPU, PAPER_GPUS = 256, 32, 8
"""Of a step of the paper, at most at a time on a GPU, and its number of GPUs."""


def paper(gpus: int, only: str | None) -> tuple[list[Stage], str]:
    """The paper's runs, BERT's on so many GPUs, and the plan for people: hours, where they are from, and the disk.

    Raises:
        ValueError: if the paper's rows cannot be dealt out evenly to the GPUs, or `only` matches no run.
    """
    if gpus < 1 or BERT_ROWS % gpus:
        raise ValueError(f"--gpus {gpus} must be a power of two of at most {BERT_ROWS}, the rows of the paper's step")
    rows = min(BERT_ROWS_PER_GPU, BERT_ROWS // gpus)
    split = f" --batch_size {rows} --accumulation_steps {BERT_ROWS // (gpus * rows)}"
    on_many = "gsgd" if gpus == 1 else f"torchrun --nproc-per-node {gpus} -m gsgd"
    about, families = table("paper.csv")
    plan = [*about, ""]
    plan.append(f"{'run':33}runs  GPUs  hours each  to 64%")
    known = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.toml")]
    known = sorted([*known, *(row["preset"] for row in table("runs.csv")[1])])
    stages, total = [], 0.0
    for row in families:
        runs = fnmatch.filter(known, row["preset"])
        if only is not None:
            runs = [run for run in runs if fnmatch.fnmatchcase(run, only) or fnmatch.fnmatchcase(run, f"{only}/*")]
        many = row["gpus"] != "1"
        hours = float(row["hours"]) * (int(row["gpus"]) / gpus if many else 1)
        total += hours * len(runs)
        if runs:
            shown = f"{row['preset']:33}{len(runs):4}  {gpus if many else 1:4}  {hours:10.1f}  {row['hours_to_64']:>6}"
            plan.append(shown.rstrip())
        for run in runs:
            words = f"{on_many} train {run}{split}" if many else f"gsgd train {run}"
            stages.append(Stage(run, f"{words} --name paper/{run}", header=f"paper/{run}/header.json"))
    if not stages:
        raise ValueError(f"--only {only!r} matches no run of the paper; `gsgd train --list` names them")
    plan += ["", f"{len(stages)} runs, one after another: {total:,.0f} hours, {total / 24:.1f} days"]
    return [*([] if only else [VERIFY]), *stages, *LAST], "\n".join(plan)


def table(name: str) -> tuple[list[str], list[dict[str, str]]]:
    """(lines of comment above, rows) of a table beside the configurations."""
    lines = (CONFIGS / name).read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [line[2:] for line in lines if line.startswith("#")], list(rows)
