"""A small model, data and optimiser for tests of training."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit.data import Data, as_data
from flops_fit.experiment.options import TrainOptions
from flops_fit.trainer import train

FEATURES, CLASSES = 8, 5


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, inputs):
        return self.net(inputs)


def points(count: int = 200, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


def sgd(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)


def run(steps: int = 10, data=None, loss=None, optimizer=sgd, folder=None, stop=None, **options):
    """Train `Net` for ``steps`` steps of 16 items; returns the outcome."""
    data = data if isinstance(data, Data) else as_data(data or points())
    settings = TrainOptions(
        **{
            "tokens": 16 * steps,
            "batch_items": 16,
            "learning_rate": 0.1,
            "progress": False,
            **options,
        }
    )
    return train(
        "small", Net, data, loss or nn.CrossEntropyLoss(), optimizer, settings, folder, "hash", stop
    )
