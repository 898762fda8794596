"""Data and models that the benchmark's configs name."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flops_fit.examples.gpt_large import GPT

ITEMS, HELDOUT = 20_000, 256


class Windows(Dataset):
    """Windows of tokens, each of which follows from the one before but for chance; read in batches."""

    def __init__(self, windows: np.ndarray):
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.get_batch([i])
        return inputs[0], targets[0]

    def get_batch(self, indices) -> tuple[Tensor, Tensor]:
        batch = torch.from_numpy(self.windows[np.asarray(indices)].astype(np.int64))
        return batch[:, :-1], batch[:, 1:]


def windows(vocab_size: int, seq_len: int, items: int = ITEMS) -> tuple[Windows, Windows]:
    """A synthetic language: nine tokens of ten follow a fixed map, the tenth is drawn."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(vocab_size)
    tokens = np.empty((items + HELDOUT, seq_len + 1), np.uint16)
    tokens[:, 0] = draw.integers(0, vocab_size, len(tokens))
    for place in range(seq_len):
        drawn = draw.integers(0, vocab_size, len(tokens))
        by_rule = draw.random(len(tokens)) < 0.9
        tokens[:, place + 1] = np.where(by_rule, follows[tokens[:, place]], drawn)
    return Windows(tokens[HELDOUT:]), Windows(tokens[:HELDOUT])


class Overflowing(GPT):
    """A GPT whose gradients overflow half precision in one step, and in that step alone."""

    def __init__(self, depth: int, *, overflow_at: int, **kwargs):
        super().__init__(depth, **kwargs)
        self.overflow_at, self.passes = overflow_at, 0

    def forward(self, tokens: Tensor) -> Tensor:
        outputs = super().forward(tokens)
        if self.training:
            self.passes += 1
            if self.passes == self.overflow_at and outputs.requires_grad:
                outputs.register_hook(lambda gradient: gradient * 1e30)
        return outputs
