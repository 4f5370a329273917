"""`compile=True`: score, choice and training pass as graphs that torch.compile makes once, not operator by operator."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.models.wrappers import innermost
from gsgd.sift.options import SiftOptions, nearest
from gsgd.sift.scoring_pass.labels import LabelConvention

logger = logging.getLogger(__name__)


class Compiled(nn.Module):
    """A module or a function that is compiled when it is first called; what cannot be compiled runs as it is.

    On a GPU graphs are replayed as a whole (CUDA graphs), which pays where shapes stay the same.

    Args:
        original: what to compile.
        name: what it is called in what is said before it is compiled.
        backend: of torch.compile.
        replayed: whether its kernels are replayed as a whole on a GPU. What is given to a replay is copied to where it
            was when the graph was recorded, which costs more than a few launches save where it is large.
    """

    def __init__(self, original: Callable[..., Any], name: str, backend: str = "inductor", *, replayed: bool = True):
        super().__init__()
        self.original = original
        self.config = getattr(original, "config", None)
        self.name = name
        self.backend = backend
        self.replayed = replayed
        self.failed: str | None = None
        self._graphs: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.failed is not None:
            return self.original(*args, **kwargs)
        if self._graphs is None:
            logger.warning("compiling %s: this can take minutes, and again for other shapes", self.name)
            given = [*args, *kwargs.values()]
            on_gpu = any(isinstance(value, Tensor) and value.device.type == "cuda" for value in given)
            mode = "reduce-overhead" if on_gpu and self.replayed and self.backend == "inductor" else None
            # In a list, or it would be a submodule, and its weights would come twice.
            self._graphs = [torch.compile(self.original, backend=self.backend, mode=mode)]
        from torch._dynamo.exc import TorchDynamoException

        try:
            with _without_what_is_said_once():
                return self._graphs[0](*args, **kwargs)
        except TorchDynamoException as error:
            # Nothing has been computed yet: graphs are made before they run.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.failed = " ".join([f"{type(error).__name__}:", *lines[:2]])
            logger.warning("%s cannot be compiled and runs operator by operator: %s", self.name, self.failed)
            return self.original(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Compiled:
        raise TypeError("what is compiled belongs to one engine")


@contextlib.contextmanager
def _without_what_is_said_once() -> Iterator[None]:
    """Within the block, what transformers logs only once is left out of graphs, which else end there.

    GPT-2's loss, for one, says which function it takes; the model as it is has said that before, when its labels were
    read.
    """
    from torch._dynamo import config

    once = {getattr(logging.Logger, name, None) for name in ("info_once", "warning_once")} - {None}
    metrics = logging.getLogger("torch._dynamo.metrics_context")
    metrics.addFilter(_is_no_failed_statistics)
    try:
        # The name that all versions have; a user may have set it to a tuple.
        with config.patch(ignore_logger_methods={*config.ignore_logger_methods, *once}):
            yield
    finally:
        metrics.removeFilter(_is_no_failed_statistics)


def _is_no_failed_statistics(record: logging.LogRecord) -> bool:
    """Before 2.13, torch cannot write functions in its settings into its statistics of a compilation, which it logs."""
    return not record.getMessage().startswith("Unexpected exception logging compilation metrics")


def backend_of(options: SiftOptions) -> str:
    """The backend of torch.compile that the option `compile` names.

    Raises:
        ValueError: if torch has none of this name.
    """
    if not isinstance(options.compile, str):
        return "inductor"
    known = torch.compiler.list_backends(exclude_tags=())
    if options.compile not in known:
        raise ValueError(
            f"compile = {options.compile!r} is no backend of torch.compile{nearest(options.compile, known)}; "
            f"there are: {', '.join(known)}"
        )
    return options.compile


class CompiledScoring:
    """The parts of a scoring pass that are compiled, each once for an exit and a convention of labels.

    Of a model that computes its own loss these are the layers up to the exit, below the head, and on a device the score
    of the head's predictions; the head itself runs operator by operator. Of others it is the whole early prediction.
    """

    def __init__(self, backend: str):
        self.backend = backend
        self.parts: dict[tuple[int, LabelConvention, bool], Compiled] = {}
        self.function: Compiled | None = None

    def view(self, view: nn.Module, exit_layer: int, convention: LabelConvention) -> nn.Module:
        """`view`, or with its part below the head, compiled."""
        # The copied modules on the way to the layers keep the mode that they were copied in.
        key, name = (exit_layer, convention, view.training), f"the early prediction at exit {exit_layer}"
        if convention.way == "own loss" and convention.below is None:
            return view
        if convention.below is None:
            return self.parts.setdefault(key, Compiled(view, name, self.backend))
        path, _, last = convention.below.rpartition(".")
        owner = innermost(view).get_submodule(path)  # FSDP may be around PEFT
        compiled = self.parts.setdefault(key, Compiled(owner._modules[last], name, self.backend))  # type: ignore[arg-type]
        owner._modules[last] = compiled
        return view

    def score(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A score of logits and labels, compiled."""
        if self.function is None or self.function.original is not function:
            self.function = Compiled(function, "the score", self.backend, replayed=False)
        return self.function


def hardest(scores: Tensor, kept: int) -> Tensor:
    """(kept,): the rows of the largest scores in ascending order, as of `select_top_k`; what is not finite is last."""
    ranked = torch.where(torch.isfinite(scores), scores, torch.finfo(scores.dtype).min)
    return torch.sort(torch.argsort(ranked, descending=True, stable=True)[:kept]).values


def begin_step(device: torch.device, model: nn.Module) -> None:
    """A step begins: graphs may write to what the last one's returned.

    Gradients that it left, to be added to or to be set to zero, move out of the graphs' memory.
    """
    if device.type != "cuda":
        return
    for weight in model.parameters():
        if weight.grad is not None:
            weight.grad = weight.grad.clone()
    torch.compiler.cudagraph_mark_step_begin()


def outlasting(output: Any) -> Any:
    """A model's output whose loss is not written to at the next step, as a sum or a log of losses needs."""
    if isinstance(output, tuple) and output:
        return (_outlasting(output[0]), *output[1:])
    if isinstance(output, MutableMapping) and "loss" in output:
        output["loss"] = _outlasting(output["loss"])
    return output


def _outlasting(loss: Any) -> Any:
    return loss.clone() if isinstance(loss, Tensor) and loss.device.type == "cuda" else loss
