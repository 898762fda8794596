"""What the check of the inputs refuses or says before any job starts."""

import sys

import pytest
import torch
from small_runs import Net, points
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit.config.complete import complete_config
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.spec import read_spec
from flops_fit.plan.planner import make_plan
from flops_fit.trainer import train
from flops_fit.training.checks import check_inputs
from flops_fit.training.mean import check_mean
from flops_fit.training.tryout import check_batch

cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss


class Windows(torch.utils.data.Dataset):
    """Items of four targets each."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return points(40)[index][0].repeat(4, 1), torch.arange(4)


def summed(outputs, targets):
    return cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def summed_over_targets(outputs, targets):
    return summed(outputs, targets) / len(outputs)


def mean(outputs, targets):
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())


def mean_over_all(outputs, targets):
    return cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none").mean()


def mean_of_sums(outputs, targets):
    return ((outputs.softmax(-1) - 1) ** 2).sum()


def contrastive(outputs, targets):
    a, b = outputs[..., :2], outputs[..., 2:4]
    scores = (a @ b.transpose(-1, -2)).flatten(1) if a.ndim > 2 else a @ b.T
    return cross_entropy(scores, torch.arange(len(scores))) + 1


def centred(outputs, targets):
    return 1 + (outputs - outputs.mean(0)).pow(2).mean()


def spread(outputs, targets):
    return 1 + torch.pdist(outputs).mean()


def noisy(outputs, targets):
    return mean(outputs, targets) * (1 + torch.rand(()))


class TestMean:
    @pytest.mark.parametrize("data", [points(40), Windows()], ids=["one", "four"])
    @pytest.mark.parametrize("loss", [summed, mean_of_sums])
    def test_a_sum_is_refused(self, data, loss):
        with pytest.raises(FlopsFitError, match="is a sum over items: the loss of a batch is"):
            check_mean(Net(), as_data(data), loss)

    def test_a_sum_over_the_targets_of_an_item_is_refused(self):
        with pytest.raises(FlopsFitError, match="is a sum over the targets of an item"):
            check_mean(Net(), as_data(Windows()), summed_over_targets)

    @pytest.mark.parametrize("data", [points(40), Windows()], ids=["one", "four"])
    @pytest.mark.parametrize("loss", [mean, noisy, mean_over_all])
    def test_a_mean_passes_in_silence(self, data, loss):
        assert check_mean(Net(), as_data(data), loss) == []

    @pytest.mark.parametrize("loss", [contrastive, centred, spread])
    def test_a_loss_over_the_batch_is_said(self, loss):
        torch.manual_seed(0)
        (note,) = check_mean(Net(16), as_data(points(40)), loss)
        assert "is not a mean over items" in note

    @pytest.mark.parametrize("loss", [contrastive, centred, spread])
    def test_a_loss_over_the_batch_is_refused_where_a_batch_is_split(self, loss):
        torch.manual_seed(0)
        with pytest.raises(
            FlopsFitError, match=r"into parts of 4 items, .* allowed: whole batches"
        ):
            check_mean(Net(16), as_data(points(40)), loss, part=4)

    @pytest.mark.parametrize("loss", [mean, noisy, mean_over_all])
    def test_a_mean_may_be_split(self, loss):
        assert check_mean(Net(), as_data(points(40)), loss, part=4) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_few_targets_that_are_not_finite_are_found_among_many(bad):
    inputs = torch.randn(5000, 4)
    targets = torch.rand(5000, 4)
    check_batch(nn.Linear(4, 4), as_data(TensorDataset(inputs, targets)), mse, "mydata:data")
    targets[7::50] = bad
    with pytest.raises(
        FlopsFitError, match="mydata:data: training targets have values that are not"
    ):
        check_batch(nn.Linear(4, 4), as_data(TensorDataset(inputs, targets)), mse, "mydata:data")


PLUGIN = """\
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from flops_fit.loss import cross_entropy

def points(count):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.argmax(1))
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))
    def forward(self, x):
        return self.layers(x)
class Second(torch.optim.SGD):
    steps = 0
    def step(self, closure=None):
        self.steps += 1
        if self.steps > 1:
            raise ZeroDivisionError("at the second step")
def second(model, lr):
    return Second(model.parameters(), lr)
def data():
    return points(400)
def loader():
    return DataLoader(points(400), batch_size=4, shuffle=True, drop_last=True)
def seldom_kept():
    inputs, targets = points(400).tensors
    return TensorDataset(inputs, targets.where(torch.arange(400) % 25 == 0, -100))
def once():
    return iter(list(points(200))), points(64)
def sgd(model, lr):
    return torch.optim.SGD(model.parameters(), lr)
def sparse(model, lr):
    return torch.optim.SparseAdam(list(model.parameters()), lr)
def lbfgs(model, lr):
    return torch.optim.LBFGS(model.parameters(), lr)
class Modes(torch.optim.SGD):
    def train(self): pass
    def eval(self): pass
def modes(model, lr):
    return Modes(model.parameters(), lr)
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "checkplugin", raising=False)
    (tmp_path / "checkplugin.py").write_text(PLUGIN)

    def plan(model="Net", dataset="data", optimizer="sgd", budget=1e5):
        config = complete_config(
            {
                "name": "check",
                "model": {"factory": f"checkplugin:{model}", "size_param": "width"},
                "dataset": {"factory": f"checkplugin:{dataset}"},
                "budgets": [budget],
                "optimizer": {"factory": f"checkplugin:{optimizer}"},
                "sizes": {"values": [8]},
                "batch": {"value": 8},
                "learning_rate": {"value": 0.01},
                "evaluation": {"tokens": 32},
                "limits": {"max_epochs": 20},
            }
        )
        (experiment,) = make_plan(config, tmp_path / "results", [str(tmp_path)]).experiments
        specs = tmp_path / "results" / ".plan" / "specs"
        return read_spec(specs / f"{experiment.experiment_id}.json")

    return plan


class TestTwoSteps:
    def test_what_passes_them_is_known(self, planned):
        known = check_inputs(planned(), train)
        assert (known.unique_items, known.notes) == (368, [])

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            (
                {"optimizer": "sparse"},
                "two trial steps of training failed: RuntimeError: SparseAdam",
            ),
            (
                {"optimizer": "second"},
                "two trial steps of training failed: ZeroDivisionError: at the second",
            ),
            ({"optimizer": "lbfgs"}, r"LBFGS.step\(\) needs a closure"),
        ],
    )
    def test_what_would_end_every_job_ends_there_in_one_line(self, planned, parts, words):
        with pytest.raises(FlopsFitError, match=words) as raised:
            check_inputs(planned(**parts), train)
        assert "\n" not in str(raised.value)

    def test_they_have_targets_where_the_loss_ignores_nearly_all(self, planned):
        known = check_inputs(planned(dataset="seldom_kept", budget=2e6), train)
        assert known.unique_tokens < known.unique_items / 20

    def test_what_is_not_used_of_a_loader_is_said(self, planned):
        (note,) = check_inputs(planned(dataset="loader"), train).notes
        assert "batch_size=4, drop_last=True, shuffle=True and its workers are not" in note

    def test_a_short_generator_is_counted_and_named(self, planned):
        known = check_inputs(planned(dataset="once"), train)
        assert known.unique_items == 200
        assert known.read_once
        assert "a generator, which can be read only once" in known.notes[0]


def test_an_optimiser_with_modes_is_another_experiment_and_no_other_is(planned):
    assert planned(optimizer="modes").recipe.shared.optimizer.modes == "train, eval"
    assert "modes" not in planned().recipe.to_dict()["optimizer"]
