"""Old names of modules and functions: they work for one version more, and say what they are called now.

The new modules are imported when an old name is, so this needs neither torch nor any other package of ours.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_FOLDERS = {
    "gsgd.commands": ("arguments", "bench", "console", "reproduce", "terminal"),
    "gsgd.sift.batches": ("batch", "batch_structure"),
    "gsgd.sift.candidates": ("packed_documents", "token_level"),
    "gsgd.sift.exit_choice": ("moving_exit", "paying_exit"),
    "gsgd.sift.huggingface": ("checkpoints", "collator", "trainer"),
    "gsgd.sift.shared_forward": ("sharing",),
    "gsgd.sift.models": ("wrappers", "forward_arguments", "torch_internals", "batchnorm"),
    "gsgd.sift.measures": (
        "readings",
        "self_check",
        "step_trials",
        "diagnosis",
        "training_accuracy",
        "expected_factor",
    ),
    "gsgd.sift.sources": ("trained_losses",),
    "gsgd.sift.row_records": ("row_log",),
    "gsgd.sift.schedules": ("schedule", "keep"),
    "theory.routes": ("exact", "montecarlo", "rigorous", "worstcase"),
    "theory.formulas": ("convergence", "early_exit", "facts", "noise", "noise_laws", "overlap", "rho"),
    "training.run_folder": ("records", "schema", "checkpoint", "metering", "events", "folders"),
    "training.data": ("cache", "files", "hub", "parquet", "order", "classified_rows"),
    "training.run": ("display", "rehearsal"),
    "training.metrics": ("average_precision", "calibration"),
    "training.comparison": ("compare", "summary"),
    "training.images": ("resnet",),
}
"""Folder -> modules that were beside it, under the same names."""
_OF_REPRODUCE = ("child_process", "paper_runs", "stage")
"""Modules of `gsgd.commands` that are a part of `reproduce` now."""
MODULES = {
    **{f"gsgd.commands.{name}": "gsgd.commands.reproduce" for name in _OF_REPRODUCE},
    "gsgd.diagnose": "training.diagnose",
    "gsgd.diagnose.cli": "training.diagnose.cli",
    "gsgd.diagnose.record": "training.diagnose.diagnosis_file",
    "gsgd.diagnose.recorded": "training.diagnose.recorded_readings",
    "gsgd.diagnose.tables": "training.diagnose.tables",
    "gsgd.diagnose.words": "training.diagnose.words",
    "gsgd.sift.alignment": "gsgd.sift.measures.step_trials",
    "gsgd.sift.auto": "gsgd.sift.exit_choice.moving_exit",
    "gsgd.sift.counters": "gsgd.sift.timing",
    "gsgd.sift.exchange": "gsgd.sift.ranks",
    "gsgd.sift.intervals": "gsgd.intervals",
    "gsgd.sift.meters": "gsgd.sift.measures.readings",
    "gsgd.sift.scoring": "gsgd.sift.scorer",
    "gsgd.sift.step_meters": "gsgd.sift.huggingface.trainer_log",
    "gsgd.sift.convolutions": "gsgd.sift.shared_forward.cpu_kernels",
    "gsgd.sift.draws": "gsgd.sift.shared_forward.cpu_kernels",
    "gsgd.sift.reuse": "gsgd.sift.shared_forward.capture",
    "gsgd.sift.shared_forward.recording": "gsgd.sift.shared_forward.capture",
    "theory.live": "theory.readings",
    "training.bench_models": "training.bench.models",
    "training.cli_compare": "training.comparison.cli",
    "training.gpu_costs": "training.bench.gpu",
    "training.step_costs": "training.bench.steps",
    "training.step_counts": "training.bench.counts",
    **{
        f"{folder.rpartition('.')[0]}.{name}": f"{folder}.{name}"
        for folder, names in _FOLDERS.items()
        for name in names
    },
}
"""Old -> new; an old name is another one of the very same module, and an old package has the old modules only."""

_WRAPPERS = ("any_fsdp", "checkpoints_activations", "every_module", "is_compiled", "is_fsdp", "is_itself_compiled")
_IMPROVED = ("gsgd_bound_sharp", "gsgd_bound_improved", "best_step", "comparator_bound", "last_iterate_bound")
NAMES: dict[str, dict[str, str]] = {
    "gsgd.sift.exits": dict.fromkeys((*_WRAPPERS, "is_sharded", "unwrap"), "gsgd.sift.models.wrappers"),
    "gsgd.sift.shared_forward.capture": {"Recording": "gsgd.sift.shared_forward.capture:Capture"},
    "gsgd.sift.scoring_pass.labels": {"LabelReading": "gsgd.sift.scoring_pass.labels:LabelConvention"},
    "gsgd.sift.scoring_pass.label_learning": {
        "learnt_reading": "gsgd.sift.scoring_pass.label_learning:learnt_convention",
        "readings_to_try": "gsgd.sift.scoring_pass.label_learning:conventions_to_try",
    },
    "theory.formulas.early_exit": {"top_k_overlap": "theory.formulas.overlap:overlap"},
    "theory.formulas.noise": {
        "nu": "theory.formulas.noise:nu_of_t",
        **dict.fromkeys(("p_sharp", "sigma_max_sharp"), "theory.formulas.chebyshev"),
        **dict.fromkeys(("stale_factor", "additive_error_bound"), "theory.formulas.stale"),
    },
    "theory.formulas.convergence": {
        **dict.fromkeys(_IMPROVED, "theory.formulas.improved"),
        "stationarity_bound": "theory.formulas.nonconvex",
    },
    "training.diagnose": dict.fromkeys(
        ("AFTER", "BATCHES", "DEFAULT_SCORE", "Diagnosed", "Point", "diagnose_config", "load_weights"),
        "training.diagnose.measure",
    ),
    "training.costs": {"price": "training.costs:kind_of_step"},
    "training.run_folder.schema": {"Prices": "training.run_folder.schema:Costs"},
    "training.diagnose.recorded_readings": {
        "LIVE": "training.diagnose.recorded_readings:READINGS",
        "write_live": "training.diagnose.recorded_readings:write_readings",
    },
    "training.run": {
        **dict.fromkeys(("check_data", "run_header"), "training.run.header"),
        **dict.fromkeys(("check_room", "weights_on_disk"), "training.run.model_files"),
        "Outcome": "training.run:Ending",
    },
}
"""Module that is still there -> names that have left it -> the module that they are in; module:name if that is new."""


class _OldNames(MetaPathFinder, Loader):
    """Finds modules by their old names, and gives those of `NAMES` a `__getattr__` for what has left them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in MODULES:
            return ModuleSpec(name, self, is_package=_is_package(name))
        spec = PathFinder.find_spec(name, path, target) if name in NAMES else None
        if spec is not None and spec.loader is not None:
            run: Any = spec.loader
            own = run.exec_module

            def exec_module(module: ModuleType) -> None:
                own(module)
                module.__dict__["__getattr__"] = lambda attribute: _moved(name, attribute)

            run.exec_module = exec_module
        return spec

    def get_code(self, name: str) -> Any:
        """For `python -m`: the new module is run instead."""
        warnings.warn(_sentence(name, MODULES[name]), FutureWarning, stacklevel=1)
        return compile(f"import runpy; runpy.run_module({MODULES[name]!r}, run_name='__main__')", name, "exec")

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MODULES[module.__name__]
        warnings.warn(_sentence(old, new), DeprecationWarning, stacklevel=2)
        if not _is_package(old):
            # Importing answers with what stands here by then. A package stays empty: its modules are found by name.
            sys.modules[old] = importlib.import_module(new)


def _is_package(old: str) -> bool:
    return any(name.startswith(f"{old}.") for name in MODULES)


def _moved(module: str, name: str) -> Any:
    if name not in NAMES[module]:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    new, _, called = NAMES[module][name].partition(":")
    called = called or name
    warnings.warn(_sentence(f"{module}.{name}", f"{new}.{called}"), DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(new), called)


def old_attribute(owner: str, old: str, new: str) -> property:
    """For the body of the class `owner`: an attribute or a method by its old name, which says so."""

    def found(self: Any) -> Any:
        warnings.warn(_sentence(f"{owner}.{old}", f"{owner}.{new}"), DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(found)


def _sentence(old: str, new: str) -> str:
    return f"{old} is called {new} now; the old name goes with the next version"


def install() -> None:
    """Make the old names importable; before other finders, which would load a moved package's modules once more."""
    if not any(type(finder).__name__ == _OldNames.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())
