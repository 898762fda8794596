"""A model that draws at random is evaluated on the same draws in every run."""

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from small_runs import FEATURES, Net, points
from torch import nn

from flops_fit.training.evaluation import evaluate


class Noisy(Net):
    def forward(self, inputs):
        return super().forward(inputs + torch.randn_like(inputs))


class NoisyTime(Net):
    """A diffusion model's time is drawn for each item."""

    def forward(self, inputs):
        return super().forward(inputs * torch.rand(len(inputs), 1))


class NoisyChoice(Net):
    """A random half of the features is hidden."""

    def forward(self, inputs):
        return super().forward(inputs * torch.bernoulli(torch.full((FEATURES,), 0.5)))


class NoisyOutside(Net):
    """Draws with the generators of NumPy and Python."""

    def forward(self, inputs):
        return super().forward(inputs * np.random.rand() + random.random())


def batches():
    x, y = points(64).tensors
    return [(x[i : i + 16], y[i : i + 16], torch.ones(16)) for i in range(0, 64, 16)]


@pytest.mark.parametrize("model", [Noisy, NoisyTime, NoisyChoice, NoisyOutside])
def test_the_draws_do_not_depend_on_what_was_drawn_before(model):
    torch.manual_seed(0)
    net, losses = model(), []
    for seed in (1, 2):
        set_seed(seed)
        before = torch.get_rng_state()
        losses.append(evaluate(Accelerator(), net, batches(), nn.CrossEntropyLoss())["loss"])
        assert torch.equal(torch.get_rng_state(), before)
        drawn = random.random(), np.random.rand()
        set_seed(seed)
        assert (random.random(), np.random.rand()) == drawn
    assert losses[0] == losses[1]


def test_every_process_draws_what_one_would_have_drawn_for_its_batches():
    class Share:
        """What two processes see of each other in `evaluate`."""

        device = torch.device("cpu")

        def __init__(self, rank, world):
            self.process_index, self.num_processes, self.sums = rank, world, None

        def gather(self, sums):
            self.sums = sums
            return sums

    torch.manual_seed(0)
    net = Noisy()
    alone, shares = Share(0, 1), [Share(0, 2), Share(1, 2)]
    evaluate(alone, net, batches(), nn.CrossEntropyLoss())
    for share in shares:
        evaluate(share, net, batches()[share.process_index :: 2], nn.CrossEntropyLoss())
    assert torch.equal(torch.stack([s.sums for s in shares], 1).flatten(0, 1), alone.sums)
