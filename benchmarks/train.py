"""Time the trainer against a plain nanoGPT-style loop: same model, optimisers, data and batches.

    python benchmarks/train.py [--sizes 32 64 128 256] [--pairs 5]

Each size is timed in pairs, the trainer and the plain loop taking turns to go first, in one process
on one thread; start-up and evaluation are left out on both sides. Both loops train the same windows
in the same order from the same initial weights, and their last training losses must agree bit for
bit, so that the plain loop is known to do the same work. Reported are ``throughput_ratio``, the
median over the pairs of tokens per second (trainer / plain), ``cpu_ratio``, that of the CPU time of
a median step (plain / trainer; hardly moved by other work on the machine), and the trainer's
``data_share``, the part of its loop spent waiting for data. The last line is one JSON object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from flops_fit.data import Data, as_data
from flops_fit.examples import text
from flops_fit.examples.gpt import GPT, optimizer
from flops_fit.examples.loss import cross_entropy
from flops_fit.experiment.options import TrainOptions
from flops_fit.plan.schedule import multiplier
from flops_fit.trainer import train
from flops_fit.training.batches import GlobalBatches

SEQ_LEN, VOCAB_SIZE, LEARNING_RATE, SEED = 64, 128, 0.02, 0
SCHEDULE = {"kind": "linear", "warmup": 0.02, "decay": 0.2, "final": 0.0}
# Steps of one measurement, and tokens per batch: the demo's rule, 256 sqrt(D / 3e5), with D in
# proportion to N.
STEPS = {32: 600, 64: 400, 128: 200, 256: 60}
BATCH_TOKENS = {32: 256, 64: 512, 128: 960, 256: 1920}


class ClockedLoss:
    """The loss, which notes the CPU time at every training step, and the last value."""

    def __init__(self):
        self.times, self.last = [], None

    def __call__(self, outputs, targets):
        loss = cross_entropy(outputs, targets)
        if loss.requires_grad:
            self.times.append(time.process_time())
            self.last = loss.detach()
        return loss

    def figures(self) -> dict:
        steps = np.diff(self.times)
        return {"cpu_seconds": float(np.median(steps)), "last_loss": self.last.item()}


def plain_loop(windows: np.ndarray, order: np.ndarray, d_model: int, steps: int) -> dict:
    """What one would write by hand: windows of a uint8 array, forward, backward, step."""
    torch.manual_seed(SEED)
    model, loss_fn = GPT(d_model), ClockedLoss()
    optimizers = optimizer(model, LEARNING_RATE)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    items = BATCH_TOKENS[d_model] // SEQ_LEN
    started = time.perf_counter()
    for step in range(steps):
        factor = multiplier((step + 0.5) / steps, SCHEDULE)
        for o, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(o.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = windows[order[step * items : (step + 1) * items]].astype(np.int64)
        inputs, targets = torch.from_numpy(batch[:, :-1]), torch.from_numpy(batch[:, 1:])
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return {"tokens_per_second": steps * BATCH_TOKENS[d_model] / seconds, **loss_fn.figures()}


def our_loop(data: Data, d_model: int, steps: int) -> dict:
    """The trainer's own figures for the same run."""
    loss_fn = ClockedLoss()
    options = TrainOptions(
        tokens=steps * BATCH_TOKENS[d_model],
        batch_items=BATCH_TOKENS[d_model] // SEQ_LEN,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        schedule=SCHEDULE,
        evaluation_tokens=SEQ_LEN,
    )
    outcome = train("benchmark", lambda: GPT(d_model), data, loss_fn, optimizer, options)
    return {**outcome, **loss_fn.figures()}


def compare(data: Data, windows: np.ndarray, d_model: int, pairs: int) -> dict:
    """Medians over ``pairs`` interleaved pairs at one size."""
    steps = STEPS[d_model]
    items = BATCH_TOKENS[d_model] // SEQ_LEN
    order = GlobalBatches(len(data.train), items, steps * items, SEED).indices(0, steps * items)
    plain_loop(windows, order, d_model, 20)  # warms caches up
    our_loop(data, d_model, 20)
    ours, plain = [], []
    for pair in range(pairs):
        turns = [
            lambda: ours.append(our_loop(data, d_model, steps)),
            lambda: plain.append(plain_loop(windows, order, d_model, steps)),
        ]
        for turn in turns if pair % 2 == 0 else reversed(turns):
            turn()
    if len({run["last_loss"] for run in ours + plain}) > 1:
        raise RuntimeError(f"d = {d_model}: the loops did not train the same steps")

    def ratio(key: str, a: list, b: list) -> float:
        return statistics.median(x[key] / y[key] for x, y in zip(a, b, strict=True))

    return {
        "throughput_ratio": round(ratio("tokens_per_second", ours, plain), 4),
        "cpu_ratio": round(ratio("cpu_seconds", plain, ours), 4),
        "data_share": round(statistics.median(run["data_share"] for run in ours), 4),
        "tokens_per_second": round(statistics.median(r["tokens_per_second"] for r in ours)),
        "plain_tokens_per_second": round(statistics.median(r["tokens_per_second"] for r in plain)),
        "batch_tokens": BATCH_TOKENS[d_model],
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tokens = np.random.default_rng(SEED).integers(0, VOCAB_SIZE, 8_000_000, np.uint8)
        tokens.tofile(Path(folder, "tokens.bin"))
        text.prepare(folder, str(Path(folder, "tokens.bin")), bin_dtype="uint8")
        data = as_data(text.windows(folder, SEQ_LEN))
        read = np.fromfile(Path(folder, "train.bin"), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(read, SEQ_LEN + 1)[::SEQ_LEN]
    print("    d  batch  ours tok/s  plain tok/s  ratio  cpu ratio  data share")
    sizes = {}
    for d_model in arguments.sizes:
        found = sizes[d_model] = compare(data, windows, d_model, arguments.pairs)
        print(
            f"{d_model:5d}  {found['batch_tokens']:5d}  {found['tokens_per_second']:10d}  "
            f"{found['plain_tokens_per_second']:11d}  {found['throughput_ratio']:5.3f}  "
            f"{found['cpu_ratio']:9.3f}  {found['data_share']:10.2%}",
            flush=True,
        )
    keys = ("throughput_ratio", "cpu_ratio", "data_share")
    print(json.dumps({key: {str(d): found[key] for d, found in sizes.items()} for key in keys}))


if __name__ == "__main__":
    main()
