"""The user's parts tried together: what could not be trained as it seems ends before any run."""

import functools

import numpy as np
import pytest
import torch
from small_runs import Net, points, sgd
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from flops_fit import find_optimal
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import make_seeded
from flops_fit.optimizer import build_optimizer, check_optimizer
from flops_fit.plan.items import measure_items
from flops_fit.training.doubts import doubts_about_data, doubts_about_model, doubts_about_modes
from flops_fit.training.tryout import check_loss_parameters

BUDGET = 2e5  # FLOPs: some hundred items of the small model
loss = nn.CrossEntropyLoss()
shared = nn.Linear(8, 8)
cached = functools.cache(Net)


class Late(nn.Module):
    """Makes a layer in its first forward."""

    def __init__(self, width):
        super().__init__()
        self.width, self.head = width, nn.Linear(width, 5)

    def forward(self, x):
        if not hasattr(self, "first"):
            self.first = nn.Linear(x.shape[-1], self.width)
        return self.head(self.first(x))


class Shared(Net):
    """Holds a layer from outside of it."""

    def __init__(self, width):
        super().__init__(width)
        self.before = shared

    def forward(self, x):
        return super().forward(self.before(x))


class TwoFaced(Net):
    """Returns something else in evaluation."""

    def forward(self, x):
        outputs = super().forward(x)
        return outputs if self.training else {"logits": outputs}


class Scaled(nn.Module):
    """A loss that wants to be trained."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return loss(self.scale * outputs, targets)


def warming(model, lr):
    optimizer = sgd(model, lr)
    torch.optim.lr_scheduler.LinearLR(optimizer, 0.1)
    return optimizer


def scheduled(model, lr):
    optimizer = sgd(model, lr)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def summed(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        raise OSError("disk gone")


THREE = TensorDataset(*points(40).tensors, torch.ones(40))
CASES = {
    "a sum": ({"loss_fn": summed}, "is a sum over items"),
    "a number": ({"loss_fn": lambda o, t: float(loss(o, t))}, "returned float; allowed: a scalar"),
    "a pair": ({"loss_fn": lambda o, t: (loss(o, t), {})}, "loss: a tuple of 2; allowed: a scalar"),
    "below zero": ({"loss_fn": lambda o, t: loss(o, t) - 9}, "stays above zero"),
    "a trained loss": ({"loss_fn": Scaled()}, r"has trainable parameters \(scale\)"),
    "late parameters": ({"model_cls": Late}, r"creates parameters \(first.weight, first.bias\)"),
    "a cached model": ({"model_cls": cached}, "built before; allowed: a factory that makes every"),
    "a shared layer": ({"model_cls": Shared}, "built before; allowed: a factory that makes every"),
    "a model": ({"model_cls": Net(4)}, "a Net that is built already; allowed: its class"),
    "two faces": ({"model_cls": TwoFaced}, "two trial steps of training failed: TypeError"),
    "a scheduler": ({"optimizer": warming}, "changed the learning rate of SGD from 0.01 to 0.001"),
    "a scheduler too": ({"optimizer": scheduled}, "optimizer: the factory returned a tuple"),
    "an optimiser": ({"optimizer": sgd(Net(4), 1)}, "optimizer: a SGD, which belongs to one model"),
    "sparse": (
        {"optimizer": torch.optim.SparseAdam},
        "two trial steps of training failed: Runtime",
    ),
    "arrays": ({"dataset": points().tensors}, "a pair of arrays; allowed: .*TensorDataset"),
    "three parts": ({"dataset": (points(),) * 3}, "a tuple of 3, all of them datasets"),
    "a mapping": ({"dataset": {"train": points(), "test": 0}}, "a dict with the keys train, test"),
    "three in an item": ({"dataset": (points(), THREE)}, "a held-out item is a tuple of 3"),
    "an item lost": (
        {"dataset": (points(), Broken())},
        "held-out item cannot be read: OSError: disk",
    ),
    "names": ({"sizes": ["small", "large"]}, "sizes: 'small' given; allowed: positive numbers"),
    "no gradient": ({}, "gradients are switched off"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_could_not_be_trained_as_it_seems_is_refused_from_python_too(case, tmp_path):
    changes, words = CASES[case]
    given = {"model_cls": Net, "model_size_param": "width", "dataset": points(), "loss_fn": loss}
    given |= {"compute_budgets": [BUDGET], "sizes": [4, 8], "learning_rate": 0.01} | changes
    with torch.set_grad_enabled(case != "no gradient"), pytest.raises(FlopsFitError, match=words):
        find_optimal(**given, output_dir=tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_from_python_all_is_said_and_classes_will_do(tmp_path, capsys):
    def ignoring(model, lr):
        return sgd(model, 0.01)

    def ask(optimizer):
        return find_optimal(
            Net,
            "width",
            dataset=points(),
            loss_fn=nn.CrossEntropyLoss,
            compute_budgets=[BUDGET],
            sizes=[4, 8],
            output_dir=tmp_path,
            optimizer=optimizer,
        )

    first = ask(ignoring).records
    said = capsys.readouterr().err
    assert "warning: width=4: FLOPs per token are" in said
    assert (
        "optimizer: with a learning rate of 0.001 and of 0.002 its rates are the same (0.01)"
        in said
    )
    assert said.index("optimizer: with") < said.index("sweep:")
    ask(ignoring)
    assert "optimizer: with" not in capsys.readouterr().err  # nothing is left to train
    assert ask(torch.optim.SGD).records[0]["final_loss"] > first[0]["final_loss"]  # at 0.001


def test_a_teacher_in_a_loss_is_no_part_of_it_that_is_trained():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = Net(4)

        def forward(self, outputs, inputs):
            with torch.no_grad():
                targets = self.teacher(inputs)
            return nn.functional.mse_loss(outputs, targets)

    made, student, inputs = Distilled(), Net(4), torch.randn(2, 8)
    made(student(inputs), inputs).backward()
    check_loss_parameters(made)


def test_a_class_of_optimisers_gets_the_trainable_parameters():
    net = Net(4)
    net.net[0].requires_grad_(False)
    made = build_optimizer(torch.optim.SGD, net, 0.5, momentum=0.9)
    assert [len(made.param_groups[0]["params"]), made.param_groups[0]["lr"]] == [2, 0.5]
    assert made.defaults["momentum"] == 0.9


def test_a_scheduler_that_leaves_the_rate_alone_is_no_harm():
    net = Net(4)
    optimizer = sgd(net, 0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    check_optimizer(optimizer, net)


def test_parts_that_a_factory_puts_into_evaluation_mode_are_said():
    net = Net(4)
    assert doubts_about_modes(net) == []
    net.net[0].eval()
    (note,) = doubts_about_modes(net)
    assert "puts net.0 into evaluation mode" in note
    assert doubts_about_modes(net.eval()) == []  # as from_pretrained returns it


@pytest.mark.parametrize(("kind", "words"), [("bfloat16", "lose small"), ("float64", "cost more")])
def test_parameters_of_another_kind_than_float32_are_said(kind, words):
    net = Net(4).to(getattr(torch, kind))

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x):
            return self.inner(x.to(getattr(torch, kind))).float()

    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (note,) = doubts_about_model(Cast(), as_data(points()), loss)
    assert f"are {kind} numbers, which {words}" in note


def test_held_out_items_that_differ_at_each_look_are_said():
    class Drawn(TensorDataset):
        def __getitem__(self, index):
            inputs, targets = super().__getitem__(index)
            return inputs + self.draw(), targets

    drawn = Drawn(*points(400).tensors)
    drawn.draw = lambda: float(torch.rand(()))  # the same in every evaluation
    assert doubts_about_data(as_data(drawn)) == []
    drawn.draw = np.random.default_rng(0).random
    assert "held-out items differ each time" in doubts_about_data(as_data(drawn))[0]


def test_what_a_factory_of_data_draws_is_the_same_in_every_run():
    def splits():
        return np.random.permutation(100)

    def seeds_itself():
        np.random.seed(3)
        return np.random.permutation(100)

    (first, drawn), (second, _) = (make_seeded(splits, "splits", {}) for _ in range(2))
    assert drawn
    assert np.array_equal(first, second)
    assert not make_seeded(seeds_itself, "seeds", {})[1]
    assert not make_seeded(points, "points", {})[1]


def test_packed_sequences_are_counted_by_their_data():
    class Sequences(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return torch.ones(1 + index % 4, 3), index % 4

    def packed(items):
        inputs, targets = zip(*items, strict=True)
        return pack_sequence(inputs, enforce_sorted=False), torch.tensor(targets)

    class Recurrent(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer, self.head = nn.GRU(3, width), nn.Linear(width, 4)

        def forward(self, sequences):
            return self.head(self.layer(sequences)[1][0])

    data = as_data((DataLoader(Sequences(), collate_fn=packed), Sequences()))
    items = measure_items(data, loss)
    assert (items.positions, items.uneven) == (7.5, True)
    plan = find_optimal(
        Recurrent, dataset=data, loss_fn=loss, compute_budgets=[1e6], sizes=[4], train=False
    )
    assert plan.experiments[0].size_param_value == 4


@pytest.mark.parametrize("form", ["encoding", "dataclass"])
def test_inputs_of_other_types_are_seen_at_any_depth(form):
    from collections import UserDict
    from dataclasses import dataclass

    from flops_fit.plan.items import positions_of

    @dataclass(slots=True)
    class Batch:
        ids: torch.Tensor

    ids = torch.zeros(2, 5)
    value = UserDict(ids=ids) if form == "encoding" else (Batch(ids),)
    assert positions_of(value) == 10


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"x": torch.ones(2), "labels": torch.ones(2)}, "a dict with the keys x, labels"),
        ((torch.ones(2),) * 3, "a tuple of 3"),
        ((torch.ones(2), pack_sequence([torch.ones(2)])), "are a PackedSequence"),
    ],
)
def test_a_batch_that_is_no_pair_is_refused(made, words):
    loader = DataLoader(points(), collate_fn=lambda items: made)
    with pytest.raises(FlopsFitError, match=words):
        measure_items(as_data((loader, points())), loss)
