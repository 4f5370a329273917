"""`gsgd diagnose`: can selection help this model, at which exit, and what do the theorems say of it?"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from gsgd.commands.arguments import add_keys, number, wholes
from gsgd.commands.console import bar
from gsgd.results import check_writable, write_json
from training.diagnose.tables import LEGEND, show_forecasts, show_point
from training.diagnose.words import WHAT_516_IS

EXAMPLES = """\
examples:
  gsgd diagnose bert-tiny                             before training, and after 300 steps of plain training
  gsgd diagnose my.toml --after 0,500,2000 --batches 64 --data train.parquet
  gsgd diagnose fashion-mnist/mlp --budget 400000work --to-end      what selection is worth over that run
  gsgd diagnose resnet-tiny --model results/resnet-tiny-baseline-seed0/model      a trained model, as it is
  gsgd diagnose bert-small --method entropy@1 --exits 1,2,3

  gsgd train bert-tiny --method loss@1 --meter_every 20
  gsgd diagnose results/bert-tiny-loss@1-seed0        what its meters recorded, beside the formulas

Of a configuration, every exit is measured on gross batches of the training set: what selection there adds to the time
of a step, how much of the exact choice it keeps, and whether a step on what it selects goes further than one on random
rows. Results go to results/NAME/diagnosis.json. Of the folder of a run or a comparison with a meters.csv, each reading
is compared with the formulas, in a readings.csv beside it. `gsgd figures` draws both.

exit code: 0 when finished, 2 for bad usage, 130 if it was interrupted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd diagnose`."""
    parser.usage = (
        "gsgd diagnose CONFIG [--after STEPS,STEPS] [--to-end] [--batches N] [--exits J,J] [--model DIR] "
        "[--KEY VALUE ...]\n"
        "       gsgd diagnose FOLDER"
    )
    parser.description = "Measure whether selection can help a model, at which exit, and what the theorems promise."
    parser.epilog = EXAMPLES
    parser.add_argument("target", metavar="CONFIG", help="a TOML file, a preset's name, or a folder with a meters.csv")
    after = "diagnose after so many steps of plain training (default 0,300)"
    parser.add_argument("--after", type=wholes(0), metavar="STEPS", help=after)
    parser.add_argument(
        "--to-end",
        action="store_true",
        default=None,
        help="train to the end of the budget, and forecast what selection is worth over the whole run",
    )
    parser.add_argument("--batches", type=int, metavar="N", help="gross batches to measure on (default 32)")
    parser.add_argument("--exits", type=wholes(1), metavar="J,J", help="exit layers (default: all)")
    share = number("in [0, 1]", lambda value: 0 <= value <= 1)
    parser.add_argument("--level", type=share, help="share of the exact choice that an exit should keep (default 0.75)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="diagnose the trained model in this folder")
    parser.add_argument("--name", help="folder under the results (default: diagnose-CONFIG)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: results")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the diagnosis of a configuration there, too")
    add_keys(parser, "another value of any key of the configuration")


def run(options: argparse.Namespace) -> int:
    """`gsgd diagnose`: returns 0 when finished."""
    values = options.key_values
    if _is_folder(options.target):
        return _of_folder(Path(options.target), options, values)
    return _of_config(options, values)


def _is_folder(target: str) -> bool:
    """Whether a folder is meant; one that only happens to be called as a preset is not, unless it has readings."""
    from training.diagnose.recorded_readings import has_readings

    folder = Path(target)
    preset = Path(str(files("training") / "configs" / f"{target}.toml"))
    return folder.is_dir() and (has_readings(folder) or not preset.is_file())


def _of_folder(folder: Path, options: argparse.Namespace, values: dict[str, str]) -> int:
    own = ("target", "key_values")
    given = [name for name, value in vars(options).items() if name not in own and value is not None]
    if given := [*given, *values]:
        raise ValueError(f"--{given[0]} is for a configuration, but {folder} is a folder of recorded readings")
    from training.diagnose.recorded_readings import read_readings, show_readings, write_readings

    readings = read_readings(folder)
    path = write_readings(folder, readings)
    show_readings(Console(), readings)
    print(f"results in {path}")
    return 0


def _of_config(options: argparse.Namespace, values: dict[str, str]) -> int:
    from training import config as configs
    from training.diagnose.diagnosis_file import DIAGNOSIS, point_entry
    from training.diagnose.forecast import entry
    from training.diagnose.measure import diagnose_config
    from training.precision import affordable
    from training.ranks import failing_together, launched
    from training.run import running
    from training.run_folder.folders import named

    with failing_together(launched()):
        config = configs.load(options.target, values)
    config = affordable(config)
    names = ("after", "to_end", "batches", "exits", "model", "level")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    name = f"diagnose-{config.name.replace('/', '-')}" if options.name is None else options.name
    path = named(options.results or Path("results"), name) / DIAGNOSIS
    check_writable(path)
    with running(config) as (accelerator, _), _progress(Console(stderr=True)) as progress:
        found = diagnose_config(config, accelerator, progress=progress, **given)
        progress("comparing with the formulas", 0, 1)
        points = [point_entry(point) for point in found.points]
    content = {**found.header, "points": points, "forecasts": list(map(entry, found.forecasts))}
    for each in (path, options.json):
        if each is not None:
            write_json(each, content)
    console = Console()
    for point in points:
        show_point(console, point, found.header["score"])
    console.print(f"{WHAT_516_IS}\n\n{LEGEND}\n", highlight=False)
    show_forecasts(console, found.forecasts, points[-1]["step"])
    console.print(_next_step(config.name, points[-1], found.header["score"]), highlight=False)
    print(f"results in {path}")
    return 0


def _next_step(name: str, point: dict[str, Any], score: str) -> str:
    exits = [each["exit_layer"] for each in point["exits"]]
    candidate = point["recommended"] or point["cheapest"] or exits[0]
    return (
        "All this is about one step from these weights. Whether it holds over a run, tells\n"
        f"  gsgd compare {name} --methods baseline,random,{score}@{candidate}"
    )


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what is being done, on a terminal; elsewhere a line whenever that changes."""
    shown = ""
    with bar(console, "reading the data") as moving:

        def progress(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown and not console.is_terminal:
                console.print(what, highlight=False)
            shown = what
            moving.to(done, total, what)

        yield progress
