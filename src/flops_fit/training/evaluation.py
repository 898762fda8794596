"""The held-out loss: sums and counts over all processes, divided once."""

import math

import torch

from flops_fit.model_factory import call_model


@torch.no_grad()
def evaluate(accelerator, model, loader, loss_fn) -> dict:
    """Mean held-out loss, its standard error across batches of windows, and the targets counted.

    The error is that of one run's loss as an estimate over all text; it is common to all runs of a
    sweep, which share the windows, so it is not the error of a difference between runs. A model or
    loss that draws at random (diffusion) draws the same for a batch in every run, however many
    processes there are; the state of the generators is then as it was.
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
    """Of a ratio of sums over independent batches (linearised); None for a single batch."""
    count = len(batches)
    if count < 2 or not math.isfinite(mean):
        return None
    deviations = batches[:, 0] - mean * batches[:, 1]
    variance = count / (count - 1) * (deviations**2).sum().item()
    return math.sqrt(variance) / batches[:, 1].sum().item()
