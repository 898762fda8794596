"""The source of a user's module with a small model and its data."""

SOURCE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x)


def data():
    inputs = torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.argmax(1))
"""


def small_module(items: int) -> str:
    """The source with ``Net(width)`` and ``data()`` of so many ``items``."""
    return SOURCE.replace("ITEMS", str(items))
