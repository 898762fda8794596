"""The held-out loss and the metrics: sums and counts over all processes, which are divided once."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from flops_fit.data import Data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import Metric
from flops_fit.experiment.options import TrainOptions
from flops_fit.loss import on_device
from flops_fit.model_factory import call_model
from flops_fit.plugins.randomness import seeded
from flops_fit.plugins.resolve import one_line
from flops_fit.training.batches import heldout_loader

log = logging.getLogger(__name__)

LOSS = "loss"
Functions = Mapping[str, Callable[..., Any]]


class Evaluation:
    """What a run measures at its end: the held-out loss of ``data``, and the ``metrics`` by name.

    ``accelerator`` deals the held-out items to its processes, as many as ``options`` ask for, and
    ``loss_fn`` computes the loss. Metrics of the same items share its pass through the model; every
    other set of items is a pass more.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        data: Data,
        loss_fn: Callable,
        metrics: Mapping[str, Metric],
        options: TrainOptions,
    ):
        self.accelerator, self.loss_fn = accelerator, loss_fn

        def loader(items: Data, counted_by: Callable) -> Iterable[tuple]:
            made = heldout_loader(
                items,
                counted_by,
                options.evaluation_tokens,
                options.evaluation_batch_items,
                accelerator.num_processes,
                accelerator.device.type == "cuda",
            )
            return accelerator.prepare(made)

        self.heldout = loader(data, loss_fn)
        functions = {name: on_device(m.function, accelerator.device) for name, m in metrics.items()}
        self.beside = {name: functions[name] for name, m in metrics.items() if m.data is None}
        self.other = {
            name: (loader(m.data, _counting(functions[name], loss_fn)), functions[name])
            for name, m in metrics.items()
            if m.data is not None
        }

    def __call__(self, model: nn.Module) -> dict:
        """Return what `evaluate` does for ``model``, with the ``metrics`` of all items."""
        scores = evaluate(self.accelerator, model, self.heldout, self.loss_fn, self.beside)
        metrics = scores["metrics"]
        for name, (loader, function) in self.other.items():
            sums = batch_sums(self.accelerator, model, loader, {name: function})
            metrics[name] = _mean(name, sums[:, 0])
        return scores


def _counting(function: Callable, loss_fn: Callable) -> Callable:
    """The function whose rule counts the targets of another set: ``function``, if it has one."""
    has_rule = hasattr(function, "ignore_index") or hasattr(function, "count_targets")
    return function if has_rule else loss_fn


def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    loader: Iterable[tuple],
    loss_fn: Callable,
    metrics: Functions | None = None,
) -> dict:
    """Return the mean held-out ``loss``, its standard error ``loss_se``, and the ``tokens`` counted.

    ``loader`` yields the batches ``(inputs, targets, counts)`` of this process, ``model`` and
    ``loss_fn`` compute their losses, and ``accelerator`` collects them from all processes. The
    means of ``metrics``, functions by name, are returned under that name; one that is not finite
    is None.

    The standard error is taken over the batches (None for a single one). It is the error of one
    run's loss as an estimate over all text. All runs of a sweep share the held-out items and thus
    this error, so it is not the error of a difference between runs. A model or loss that draws
    random numbers (diffusion) draws the same ones for a batch in every run, whatever the number of
    processes; the state of the random generators is restored afterwards.
    """
    metrics = metrics or {}
    sums = batch_sums(accelerator, model, loader, {LOSS: loss_fn, **metrics})
    batches = sums[:, 0][sums[:, 0, 1] > 0]
    tokens = batches[:, 1].sum().item()
    mean = (batches[:, 0].sum() / tokens).item()
    return {
        "loss": mean,
        "loss_se": _standard_error(batches, mean),
        "tokens": int(tokens),
        "metrics": {name: _mean(name, sums[:, k]) for k, name in enumerate(metrics, 1)},
    }


@torch.no_grad()
def batch_sums(
    accelerator: Accelerator, model: nn.Module, loader: Iterable[tuple], functions: Functions
) -> torch.Tensor:
    """Return the sum and the count of each of ``functions`` for every batch of all processes.

    The result has the shape (batches, functions, 2), in double precision. ``accelerator``,
    ``model`` and ``loader`` are those of `evaluate`.
    """
    model.eval()
    sums = []
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(rank)
        for place, (inputs, targets, counts) in enumerate(loader):
            torch.manual_seed(place * world + rank)  # batch j belongs to process j mod world
            kept = np.asarray(counts)
            with seeded(place * world + rank):
                outputs = call_model(model, inputs)
                each = [_sum(n, f, outputs, targets, kept, device) for n, f in functions.items()]
            sums.append(torch.stack(each))
            del outputs  # or they would stay while the next batch is computed
    model.train()
    return accelerator.gather(torch.stack(sums)).cpu()


def _sum(
    name: str,
    function: Callable,
    outputs: Any,
    targets: Any,
    counts: np.ndarray,
    device: torch.device,
) -> torch.Tensor:
    """Return the sum and the count (2,) of the values of ``function`` over one batch.

    A scalar is a mean over the targets that count, of which the items have ``counts`` (items,). A
    value per item counts once for every item that has such a target.
    """
    try:
        value = torch.as_tensor(function(outputs, targets), device=device).detach().double()
    except Exception as error:
        if name == LOSS or isinstance(error, torch.OutOfMemoryError):
            raise
        raise FlopsFitError(f"metrics.{name}: {one_line(error)}") from error
    if value.ndim == 0 or name == LOSS:
        count = int(counts.sum())
        total = value.reshape(()) * count if count else torch.zeros_like(value.reshape(()))
    elif value.shape == (len(counts),):
        kept = torch.as_tensor(counts > 0, device=value.device)
        total, count = value[kept].sum(), int(kept.sum())
    else:
        raise FlopsFitError(
            f"metrics.{name}: returned the shape {tuple(value.shape)} for {len(counts)} items; "
            "allowed: a scalar, the mean over targets, or one value per item"
        )
    return torch.stack([total, torch.full_like(total, count)])


def _mean(name: str, sums: torch.Tensor) -> float | None:
    """Return the mean of the metric ``name`` from sums and counts (batches, 2); None if not finite."""
    mean = (sums[:, 0].sum() / sums[:, 1].sum()).item()
    if math.isfinite(mean):
        return mean
    log.warning("metrics.%s: %s on the held-out items; the record has no value of it", name, mean)
    return None


def _standard_error(batches: torch.Tensor, mean: float) -> float | None:
    """The linearised error of a ratio of sums over independent batches; None for a single batch."""
    count = len(batches)
    if count < 2 or not math.isfinite(mean):
        return None
    deviations = batches[:, 0] - mean * batches[:, 1]
    variance = count / (count - 1) * (deviations**2).sum().item()
    return math.sqrt(variance) / batches[:, 1].sum().item()
