"""What a random sweep is made of: texts of modules, and what must be refused about them."""

from dataclasses import dataclass

import numpy as np

PREFIX = "fuzzed_"  # of the names of the modules
IMPORTS = """\
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

"""


@dataclass(frozen=True)
class Parts:
    """One task: texts of ``model`` (a ``Net``), ``data`` (a function) and ``loss`` (None: default).

    ``outputs``: where the loss finds the predictions. ``targets``: "classes", "floats" or "none".
    ``work``: about the FLOPs of a token at width 1 and at its square. ``must_refuse``: why no plan
    and no check may accept the sweep ("": they may). ``once``: whether the data are read once.
    """

    name: str
    model: str
    data: str
    targets: str = "classes"
    outputs: str = "outputs"
    loss: str | None = None
    optimizer: str | None = None
    work: tuple[float, float] = (100, 12)
    must_refuse: str = ""
    once: bool = False


def pick(rng: np.random.Generator, *options):
    return options[int(rng.integers(len(options)))]
