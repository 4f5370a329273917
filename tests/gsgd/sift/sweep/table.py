"""Runs the sweep and writes docs/models.md, or shows some classes (`--only 'seq2seq:Bart' --print`)."""

import argparse
import collections
import re
import time
from pathlib import Path

import torch
import transformers
from sweep import find, tried_by_default
from tiny_models import LAYERS, every_class

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "models.md"


def page(everything):
    """The page of all that was found."""
    by_status = collections.defaultdict(list)
    for found in everything:
        by_status[found.status].append(found)
    exact = by_status["exact"]
    every = [found for found in exact if len(found.exits) == LAYERS and set(found.exits.values()) == {"exact"}]
    lines = [
        "# Models",
        "",
        "Which of transformers' classes `gsgd.sift` scores by their own losses. A tiny model of each class (3 layers, "
        "weights drawn at random) scores a batch of 6 rows; every score must equal the loss that the model itself "
        "returns for that row alone, in evaluation mode (relative 1e-4, float32). At earlier exits the reference is a "
        "model of the same class whose configuration has fewer layers, given the first layers' weights; where there is "
        "none, the exit is not listed.",
        "",
        f"Found with transformers {transformers.__version__} and torch {torch.__version__.split('+')[0]}, "
        "by `python tests/gsgd/sift/sweep/table.py`.",
        "",
        "| | classes |",
        "|---|---|",
        f"| exact at every exit | {len(every)} |",
        f"| exact at the last exit; earlier ones not all checked, or refused | {len(exact) - len(every)} |",
        f"| refused | {len(by_status['refused'])} |",
        *(f"| {status} | {len(by_status[status])} |" for status in ("wrong", "crashed") if by_status[status]),
        f"| untested | {len(by_status['untested'])} |",
        "",
        "## Exact",
        "",
        "| task | class | exits |",
        "|---|---|---|",
        *(f"| {found.task} | {found.name} | {_exits(found)} |" for found in exact),
    ]
    titles = {
        "refused": ("Refused", "An error at `Sift(...)` or at the first step that selects says so."),
        "wrong": ("Wrong", "Scores that are not the losses: faults of gsgd."),
        "crashed": ("Crashed", "Faults of gsgd."),
        "untested": ("Untested", "No tiny model of these was built, for the reason given; nothing is known of them."),
    }
    for status, (title, text) in titles.items():
        if by_status[status]:
            lines += ["", f"## {title}", "", text, "", "| task | class | reason |", "|---|---|---|"]
            lines += [f"| {f.task} | {f.name} | {_cell(f.reason)} |" for f in by_status[status]]
    return "\n".join(lines) + "\n"


def _exits(found):
    """Exits that were found exact, and what others say."""
    exact = sorted(layer for layer, text in found.exits.items() if text == "exact")
    others = sorted({text for text in found.exits.values() if text != "exact"})
    return ", ".join(map(str, exact)) + "".join(f"; earlier: {_cell(text)}" for text in others)


def _cell(text):
    # A release's number or a home folder would make the page another one elsewhere.
    return re.sub(r"(/[\w.-]+){3,}", "...", text).replace("|", "\\|").replace("<", "&lt;")


def listed(text):
    """{(task, class): section's title} of a page."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif title and line.startswith("| ") and not line.startswith("| task"):
            task, name = line.split("|")[1:3]
            found[task.strip(), name.strip()] = title
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help='classes, as "task:class"; nothing is written')
    parser.add_argument("--print", action="store_true", help="tracebacks and numbers; nothing is written")
    parser.add_argument("--default", action="store_true", help="those that a test run tries by default")
    parser.add_argument("--status", default="", help="show only these, say wrong,crashed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    everything = []
    for task, name in tried_by_default() if arguments.default else every_class():
        if not re.search(arguments.only, f"{task}:{name}"):
            continue
        start = time.perf_counter()
        found = find(task, name)
        everything.append(found)
        if not arguments.status or found.status in arguments.status.split(","):
            exits = f" exits {sorted(found.exits)}" if found.exits else ""
            seconds = time.perf_counter() - start
            print(f"{found.status:8} {task}:{name}{exits} {found.reason} [{seconds:.1f} s]", flush=True)
            if arguments.print and found.details:
                print(found.details)
    print(dict(collections.Counter(found.status for found in everything)))
    if not (arguments.only or arguments.print or arguments.default or arguments.status):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(everything))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
