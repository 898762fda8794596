"""Run by tests under ``accelerate launch``: the same scenarios on however many processes there are.

usage: process_scenarios.py OUT.json
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from flops_fit.data import as_data
from flops_fit.experiment.options import TrainOptions
from flops_fit.loss import cross_entropy
from flops_fit.optimizer import adamw
from flops_fit.trainer import train
from flops_fit.training.batches import GlobalBatches
from flops_fit.training.trunk import Trunk

VOCABULARY, LENGTH = 16, 6


class Bigrams(Dataset):
    """Sequences of a noisy counter; item i is a function of i alone. Some targets are ignored."""

    def __init__(self, items: int, ignored: int = 0):
        generator = torch.Generator().manual_seed(1)
        steps = torch.randint(0, 3, (items, LENGTH + 1), generator=generator)
        self.tokens = steps.cumsum(1) % VOCABULARY
        self.targets = self.tokens[:, 1:].clone()
        for item in range(items):
            self.targets[item, : (item % (ignored + 1))] = -100

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return self.tokens[index, :-1], self.targets[index]


class Stream(IterableDataset):
    def __iter__(self):
        items = Bigrams(50)
        return (items[i] for i in range(50))


class Reader(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens):
        return self.head(torch.tanh(self.body(self.embedding(tokens))))


def muon_and_adamw(model, lr):
    matrices = [model.body.weight]
    rest = [p for p in model.parameters() if p is not model.body.weight]
    return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(rest, lr=lr)]


# name -> (dataset, optimiser, options); a batch of 7 shares unevenly among 2 or 3 processes
SCENARIOS = {
    "plain": (Bigrams(64), adamw, {"batch_items": 8, "tokens": 8 * LENGTH * 30}),
    "uneven batch": (Bigrams(64), adamw, {"batch_items": 7, "tokens": 7 * LENGTH * 30}),
    "smaller last batch": (Bigrams(64), adamw, {"batch_items": 8, "tokens": LENGTH * (8 * 9 + 3)}),
    "last item cut": (Bigrams(64), adamw, {"batch_items": 8, "tokens": LENGTH * 8 * 9 + 4}),
    "ignored targets": (Bigrams(64, 4), adamw, {"batch_items": 9, "tokens": LENGTH * 9 * 20}),
    "accumulation": (
        Bigrams(64),
        adamw,
        {"batch_items": 9, "tokens": 9 * LENGTH * 30, "micro_batch_items": 2},
    ),
    "clipped": (
        Bigrams(64),
        adamw,
        {"batch_items": 7, "tokens": 7 * LENGTH * 30, "clip_norm": 0.1},
    ),
    "stream": ((Stream(), Bigrams(20)), adamw, {"batch_items": 7, "tokens": 7 * LENGTH * 30}),
    "muon": (Bigrams(64), muon_and_adamw, {"batch_items": 7, "tokens": 7 * LENGTH * 30}),
}


def recorded_batches(log: list):
    """`GlobalBatches` that also notes which items each step was given."""
    original = GlobalBatches.__iter__

    def iterate(self):
        for indices in original(self):
            log.append([int(i) for i in indices])
            yield indices

    return iterate


def on_a_trunk(folder: Path) -> dict[str, dict]:
    """A run that starts from the state of a shorter one in ``folder``, and the same run alone."""

    def run(steps: int, trunk: Trunk | None) -> dict:
        schedule = {"kind": "trunk", "warmup_tokens": 50, "cooldown": 0.2, "shape": "sqrt"}
        options = TrainOptions(
            learning_rate=0.01,
            progress=False,
            evaluation_batch_items=3,
            batch_items=7,
            tokens=7 * LENGTH * steps,
            schedule={**schedule, "final": 0.0},
        )
        data = as_data((Bigrams(64), Bigrams(20)))
        return train("trunk", Reader, data, cross_entropy, adamw, options, trunk=trunk)

    run(15, Trunk(folder, "hash", "shorter"))
    return {"shared": run(30, Trunk(folder, "hash", "longer")), "alone": run(30, None)}


def main(out: str) -> None:
    outcomes = on_a_trunk(Path(f"{out}.trunk"))
    for name, (dataset, optimizer, fields) in SCENARIOS.items():
        log: list = []
        GlobalBatches.__iter__, original = recorded_batches(log), GlobalBatches.__iter__
        data = as_data(dataset if isinstance(dataset, tuple) else (dataset, Bigrams(20)))
        options = TrainOptions(
            learning_rate=0.01, progress=False, evaluation_batch_items=3, **fields
        )
        try:
            outcome = train(name, Reader, data, cross_entropy, optimizer, options)
        finally:
            GlobalBatches.__iter__ = original
        outcomes[name] = {**outcome, "dealt": log[:60]}
    if outcomes["plain"]["processes"] == 1 or torch.distributed.get_rank() == 0:
        with open(out, "w") as file:
            json.dump(outcomes, file)


if __name__ == "__main__":
    main(sys.argv[1])
