"""The held-out loss: sums and counts over all processes, which are divided once."""

import math
from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import nn

from flops_fit.model_factory import call_model


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: nn.Module, loader: Iterable[tuple], loss_fn: Callable
) -> dict:
    """Return the mean held-out ``loss``, its standard error ``loss_se``, and the ``tokens`` counted.

    ``loader`` yields the batches ``(inputs, targets, counts)`` of this process, ``model`` and
    ``loss_fn`` compute their losses, and ``accelerator`` collects them from all processes.

    The standard error is taken over the batches (None for a single one). It is the error of one
    run's loss as an estimate over all text. All runs of a sweep share the held-out items and thus
    this error, so it is not the error of a difference between runs. A model or loss that draws
    random numbers (diffusion) draws the same ones for a batch in every run, whatever the number of
    processes; the state of the random generators is restored afterwards.
    """
    model.eval()
    sums = []
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(rank)
        for place, (inputs, targets, counts) in enumerate(loader):
            torch.manual_seed(place * world + rank)  # batch j belongs to process j mod world
            count = int(counts.sum())
            loss = loss_fn(call_model(model, inputs), targets)
            total = loss.double().reshape(()) * count if count else torch.zeros_like(loss).double()
            sums.append(torch.stack([total, torch.full_like(total, count)]))
    model.train()
    batches = accelerator.gather(torch.stack(sums)).cpu()
    batches = batches[batches[:, 1] > 0]
    tokens = batches[:, 1].sum().item()
    mean = (batches[:, 0].sum() / tokens).item()
    return {"loss": mean, "loss_se": _standard_error(batches, mean), "tokens": int(tokens)}


def _standard_error(batches: torch.Tensor, mean: float) -> float | None:
    """The linearised error of a ratio of sums over independent batches; None for a single batch."""
    count = len(batches)
    if count < 2 or not math.isfinite(mean):
        return None
    deviations = batches[:, 0] - mean * batches[:, 1]
    variance = count / (count - 1) * (deviations**2).sum().item()
    return math.sqrt(variance) / batches[:, 1].sum().item()
