"""The paper's runs, as data: what each needs, where that number is from, and how it is launched (Section 7).

The paper says how long three of its runs took to 64% accuracy, how long scoring took, and on which machine; everything
else here is computed from that, or from a stated assumption, and says so.
"""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gsgd.reproduce.plan import LAST, VERIFY, Stage

PAPER_GPUS = 8
"""A100s: an AWS p4d.24xlarge (Section 7.1)."""
PRINTED = Path(__file__).parents[2] / "figures" / "paper"
"""The paper's tables, which are kept once; read as files, since `gsgd` imports no other package of the house."""


def _printed(table: str, column: str) -> dict[str, float]:
    """A column of one of the paper's tables, by the names of the presets of its runs."""
    with open(PRINTED / f"{table}.csv", encoding="utf-8", newline="") as file:
        return {row["method"].replace("@", "-"): float(row[column]) for row in csv.DictReader(file)}


TO_64_PERCENT_H = _printed("crossing", "hours")
"""Section 1: rough hours on those until 64% validation accuracy."""
SCORING_H = _printed("table_6", "selection_h")
FORWARD_BACKWARD_H = sum(_printed("table_6", column)["loss-1"] for column in ("forward_h", "backward_h"))
"""Table 6 and its caption. The three do not add up to the hours above; only their ratio is used."""
BERT_ROWS, BERT_ROWS_PER_GPU = 256, 32
"""Of a step of all GPUs, and the most at a time on one of them."""
BERT_PARAMETERS, RESNET_PARAMETERS = 110e6, 24e6

A100_FLOPS, UTILISATION = 312e12, 0.14
"""bf16 peak, and the share of it that 57 hours make for 800,000 steps of 131,072 tokens, 6 operations a parameter."""
STEP_S = 0.03
"""Assumed: the least that a ResNet-50's step takes on any GPU, since its small kernels are launched one by one."""
RESNET_EPOCHS, RESNET_BATCH, TRAINED_SHARE = 100, 125, 0.9
EARLY_FORWARD_SHARE = 0.45
"""Of ResNet-50's forward pass, up to its second stage."""
LEARNING_RATES = ("5e-2", "1e-2", "5e-3", "1e-3")


@dataclass(frozen=True)
class ImageData:
    """A data set: images to train on and in all; what is downloaded; the cached images' side; a forward pass's work."""

    train: int
    images: int
    download_gb: float
    side: int
    forward_flop: float


IMAGES = {
    # ResNet-50 takes 4.1e9 multiplications and additions at 224 x 224, and 1/49 of them at 32 x 32.
    "cifar100": ImageData(50_000, 60_000, 0.2, 32, 8.2e9 / 49),
    "food101": ImageData(75_750, 101_000, 5.0, 256, 8.2e9),
}
CORPORA = {"BookCorpus": (4.85e9, 4.2), "Wikipedia": (20.2e9, 4.7)}
"""Bytes of text on the hub, and bytes a token of the shipped vocabulary (measured on other books and on articles)."""
BYTES_PER_SENTENCE = 100


@dataclass(frozen=True)
class PaperRun:
    """A run of the paper.

    Attributes:
        preset: its configuration, such as "bert-base/loss-1".
        gpus: how many it is launched on.
        hours: on so many A100, by the arithmetic that `HOURS_FROM` tells.
        to_64_h: the paper's own hours to 64% accuracy, on 8 A100; None where it gives none.
    """

    preset: str
    gpus: int
    hours: float
    to_64_h: float | None = None

    @property
    def family(self) -> str:
        """bert-base, cifar100 or food101."""
        return self.preset.split("/")[0]

    @property
    def command(self) -> tuple[str, ...]:
        """How it is launched, with the paper's number of rows in a step."""
        train = ("train", self.preset, *_split_among(self.gpus, self.family), "--name", f"paper/{self.preset}")
        if self.gpus == 1:
            return ("gsgd", *train)
        return ("torchrun", "--nproc-per-node", str(self.gpus), "-m", "gsgd", *train)

    @property
    def stage(self) -> Stage:
        """The run as a stage."""
        folder = f"paper/{self.preset}"
        return Stage(
            self.preset,
            self.command,
            self.hours * 3600,
            f"{folder}/header.json",
            folder=folder,
            rooms=("gsgd", "training"),
            keep=True,
            may_diverge=True,
        )


HOURS_FROM = """\
hours of each run, on so many A100; preparing data and evaluating come on top:
  BERT-base  The paper gives ~57 h to 64% accuracy without selection, ~43 h for
             loss-1 and ~40 h for entropy-1, but not how long 800,000 steps
             take: 57 h or more. Scoring adds its share of a step (Table 6), in
             the paper's two passes; one shared pass adds less.
  ResNet-50  The paper gives no hours. Our estimate: 3 forward passes a sample,
             and those of scoring, at 14% of an A100's peak, which is what the
             paper's BERT comes to, and 0.03 s a step at least. "same-time" runs
             take the baseline's time by definition."""


def paper_runs(gpus: int) -> list[PaperRun]:
    """Every run of Section 7, BERT's on so many GPUs, ResNet's on one each as there is one batch of 125.

    Raises:
        ValueError: if the paper's 256 rows of a step of BERT cannot be dealt out evenly to so many.
    """
    if gpus < 1 or BERT_ROWS % gpus:
        raise ValueError(
            f"--gpus {gpus} must be a power of two of at most {BERT_ROWS}: the paper's step of {BERT_ROWS} rows is "
            "dealt out evenly to them"
        )
    runs = []
    for name in ("baseline", *SCORING_H):
        hours = TO_64_PERCENT_H["baseline"] * (1 + SCORING_H.get(name, 0.0) / FORWARD_BACKWARD_H)
        runs.append(PaperRun(f"bert-base/{name}", gpus, hours * PAPER_GPUS / gpus, TO_64_PERCENT_H.get(name)))
    for family in IMAGES:
        for budget, methods in (("same-samples", ("baseline", "early", "last")), ("same-time", ("early", "last"))):
            for method in methods:
                hours = _resnet_hours(family, "baseline" if budget == "same-time" else method)
                runs += [PaperRun(f"{family}/{budget}/{method}-{rate}", 1, hours) for rate in LEARNING_RATES]
    return runs


def chosen(runs: Sequence[PaperRun], pattern: str) -> list[PaperRun]:
    """The runs whose name or folder matches, such as "bert-base", "*/same-time" or "cifar100/*/early-*".

    Raises:
        ValueError: if none does.
    """
    found = [run for run in runs if any(fnmatch.fnmatchcase(run.preset, p) for p in (pattern, f"{pattern}/*"))]
    if not found:
        folders = sorted({run.preset.rpartition("/")[0] for run in runs})
        raise ValueError(f"--only {pattern!r} matches no run of the paper; they are in {', '.join(folders)}")
    return found


def stages(runs: Sequence[PaperRun], *, whole: bool) -> list[Stage]:
    """The stages of the paper's scale; `verify` is one of them if it is carried out as a whole."""
    return [*([VERIFY] if whole else []), *(run.stage for run in runs), *LAST]


def best_gpus(there: int) -> int:
    """How many of the GPUs that are there to launch BERT on; the paper's number if there are none."""
    return max((n for n in range(1, there + 1) if BERT_ROWS % n == 0), default=PAPER_GPUS)


def _split_among(gpus: int, family: str) -> tuple[str, ...]:
    if family != "bert-base":
        return ()
    rows = min(BERT_ROWS_PER_GPU, BERT_ROWS // gpus)
    turns = BERT_ROWS // (gpus * rows)
    batch = () if rows == BERT_ROWS_PER_GPU else ("--batch_size", str(rows))
    return (*batch, *(() if turns == 1 else ("--accumulation_steps", str(turns))))


def _resnet_hours(family: str, method: str) -> float:
    data = IMAGES[family]
    # Forward passes to score with, for each row trained on: the gross batch is twice as large.
    scored = {"baseline": 0.0, "early": 2 * EARLY_FORWARD_SHARE, "last": 2.0}[method]
    samples = RESNET_EPOCHS * TRAINED_SHARE * data.train
    arithmetic = samples * (3 + scored) * data.forward_flop / (A100_FLOPS * UTILISATION)
    launching = samples / RESNET_BATCH * STEP_S * (3 + scored) / 3
    return max(arithmetic, launching) / 3600


def disk(runs: Sequence[PaperRun]) -> list[tuple[str, float, str]]:
    """(what, GB, how it is computed) of all that these runs store. Text is streamed, so that its download is not."""
    found = []
    families = [run.family for run in runs]
    if count := families.count("bert-base"):
        ids = sum(size / per_token for size, per_token in CORPORA.values()) * 2
        sentences = sum(size for size, _ in CORPORA.values()) / BYTES_PER_SENTENCE * 8
        texts = ", ".join(f"{size / 1e9:.3g} GB of {name}" for name, (size, _) in CORPORA.items())
        found.append(("text", (ids + sentences) / 1e9, f"{texts}; 2 bytes a token, 8 a sentence"))
        found.append(("BERT, while it runs", BERT_PARAMETERS * 12 / 1e9, "a checkpoint: 110M parameters, 12 bytes"))
        found.append((f"BERT, {count} trained", count * BERT_PARAMETERS * 4 / 1e9, "110M parameters, 4 bytes"))
    for name, data in IMAGES.items():
        if count := families.count(name):
            decoded = data.images * data.side**2 * 3 / 1e9
            how = f"{data.images:,} x {data.side} x {data.side} x 3 bytes, and {data.download_gb:g} GB downloaded"
            found.append((name, decoded + data.download_gb, how))
            trained = count * RESNET_PARAMETERS * 4 / 1e9
            found.append((f"ResNet-50, {count} trained", trained, "24M parameters, 4 bytes"))
    return found


def describe(runs: Sequence[PaperRun]) -> str:
    """The plan for people: what the runs need, where the numbers are from, and the disk."""
    alike: dict[tuple[str, int, float, float | None], list[PaperRun]] = {}
    for run in runs:
        # Runs that differ in the learning rate only stand in one row.
        rate = next((rate for rate in LEARNING_RATES if run.preset.endswith(f"-{rate}")), "")
        name = run.preset.removesuffix(rate)
        alike.setdefault((name, run.gpus, run.hours, run.to_64_h), []).append(run)
    width = max(len(run.preset) for run in runs)
    lines = [f"  {'run':{width}}  runs  GPUs  hours each  the paper's to 64%"]
    for (name, gpus, hours, to_64_h), same in alike.items():
        shown = same[0].preset if len(same) == 1 else f"{name}*"
        text = f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"
        text += " or more" if same[0].family == "bert-base" else ""
        known = "" if to_64_h is None else f"  ~{to_64_h:.0f} on {PAPER_GPUS} A100"
        lines.append(f"  {shown:{width}}  {len(same):4}  {gpus:4}  {text:10}{known}".rstrip())
    total = sum(run.hours for run in runs)
    lines += ["", f"  {len(runs)} runs, one after another: {total:,.0f} hours, {total / 24:.1f} days", ""]
    lines += [HOURS_FROM, "", "disk, in the cache and in the results:"]
    needs = disk(runs)
    lines += [f"  {what:21} {size:5.1f} GB  {how}" for what, size, how in needs]
    lines.append(f"  {'together':21} {sum(size for _, size, _ in needs):5.1f} GB")
    return "\n".join(lines)
