"""What the check says of a sweep that can be trained, but may not mean what it seems."""

import pytest
import torch
from small_runs import Net, points
from torch import nn
from torch.utils.data import IterableDataset, Subset

from flops_fit.data import as_data
from flops_fit.training.doubts import (
    doubts_about_data,
    doubts_about_model,
    doubts_about_optimizer,
    doubts_about_seed,
)
from flops_fit.training.mean import check_mean

loss = nn.CrossEntropyLoss()


class Stream(IterableDataset):
    def __init__(self, seed):
        self.items = points(40, seed)

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize(
    ("train", "heldout", "shared"),
    [
        (points(400), points(40, 1), 0),
        (points(400), points(400), 128),
        (points(400), Subset(points(400), range(300, 400)), 32),
        (Stream(0), Stream(1), 0),
        (Stream(0), Stream(0), 40),
    ],
    ids=["apart", "the same", "a part of it", "streams", "one stream"],
)
def test_held_out_items_that_are_trained_on_are_counted(train, heldout, shared):
    notes = doubts_about_data(as_data((train, heldout)))
    assert [f"{shared} of " in note for note in notes] == [True] * bool(shared)


def test_a_single_dataset_is_split_without_a_doubt():
    assert doubts_about_data(as_data(points(700))) == []


def test_a_held_out_part_of_few_items_is_said():
    (note,) = doubts_about_data(as_data((points(400), points(1, 1))))
    assert "the held-out part has 1 item, on which every held-out loss rests" in note


def test_items_that_are_drawn_anew_leave_the_random_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    doubts_about_data(as_data(points(400)))
    doubts_about_seed(Net)
    assert torch.equal(torch.get_rng_state(), state)


class Fixed(Net):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__()


def test_weights_that_do_not_depend_on_the_seed_are_said():
    assert doubts_about_seed(Net) == []
    assert "do not depend on the seed" in doubts_about_seed(Fixed)[0]


def test_parameters_without_a_gradient_are_counted():
    net, data = Net(4), as_data(points(400))
    loss(net(data.train[0][0][None]), data.train[0][1][None]).backward()
    assert doubts_about_model(net, data, loss) == []
    net.spare = nn.Linear(10, 3)
    (note,) = doubts_about_model(net, data, loss)
    assert "33 of 94 trainable parameters (spare.weight and 1 more)" in note


def test_a_loss_of_few_digits_is_said_and_is_still_a_mean():
    net, data = Net(4).to(torch.bfloat16), as_data(points(400))

    def rounded(outputs, targets):
        return loss(outputs, targets)

    class Rounding(nn.Module):
        def forward(self, inputs):
            return net(inputs.to(torch.bfloat16))

    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (note,) = doubts_about_model(Rounding(), data, rounded)
    assert "its values are bfloat16 numbers, which are off by up to 0.4%" in note
    assert check_mean(Rounding(), data, rounded, part=4) == []


def test_an_optimiser_that_ignores_its_learning_rate_is_said():
    net = Net(4)

    def partly(rate):
        groups = [{"params": [p], "lr": 1e-3 * i or rate} for i, p in enumerate(net.parameters())]
        return torch.optim.SGD(groups, lr=rate)

    assert (
        doubts_about_optimizer(lambda rate: torch.optim.SGD(net.parameters(), rate), net, 0.1) == []
    )
    assert doubts_about_optimizer(partly, net, 0.1) == []
    (note,) = doubts_about_optimizer(lambda rate: torch.optim.SGD(net.parameters(), 1e-3), net, 0.1)
    assert "with a learning rate of 0.1 and of 0.2 its rates are the same (0.001)" in note


def test_parameters_that_the_optimiser_does_not_hold_are_counted():
    net = Net(4)
    (note,) = doubts_about_optimizer(
        lambda rate: torch.optim.SGD(net.net[0].parameters(), rate), net, 1
    )
    assert "holds 36 of 61 trainable parameters" in note
    net.net[2].requires_grad_(False)
    assert not doubts_about_optimizer(
        lambda rate: torch.optim.SGD(net.net[0].parameters(), rate), net, 1
    )
