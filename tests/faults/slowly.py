"""A user's model, data and optimiser for the fault campaign: slow enough to be hit, and watched.

Each training step of a job (of its main process) adds a byte to the file that FAULTS_PROGRESS
names, after FAULTS_SLEEP seconds. Dropout and two optimisers give a resume something to get wrong.
"""

import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

FEATURES, CLASSES = 6, 4


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(width, CLASSES)

    def forward(self, inputs):
        if self.training and sys.argv[2:] and sys.argv[2].endswith(".json"):  # a job, not a check
            note_step()
        return self.last(self.dropout(torch.tanh(self.first(inputs))))


def note_step() -> None:
    time.sleep(float(os.environ.get("FAULTS_SLEEP", 0)))
    if os.environ.get("RANK", "0") == "0":
        file = os.open(os.environ["FAULTS_PROGRESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, b".")
        os.close(file)


def data():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(240, FEATURES, generator=generator)
    dataset = TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))
    return torch.utils.data.Subset(dataset, range(200)), torch.utils.data.Subset(
        dataset, range(200, 240)
    )


def muon_and_adamw(model, lr):
    matrices = [model.first.weight]
    rest = [p for p in model.parameters() if p is not model.first.weight]
    return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(rest, lr=lr)]
