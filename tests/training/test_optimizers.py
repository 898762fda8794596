"""Optimisers that the loop honours, and those that it refuses in words."""

import math

import pytest
import torch
from small_runs import CLASSES, run, sgd
from torch import nn

from flops_fit.errors import FlopsFitError
from flops_fit.optimizer import OptimizerList, has_modes
from flops_fit.store.stopping import Stopped


class Strict(torch.optim.SGD):
    """Steps in training mode only; evaluated with all weights zero, where the loss is ln CLASSES."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.mode, self.saved = "unset", None

    def weights(self):
        return [p for group in self.param_groups for p in group["params"]]

    def train(self):
        if self.mode == "eval":
            for weight, saved in zip(self.weights(), self.saved, strict=True):
                weight.data.copy_(saved)
        self.mode = "train"

    def eval(self):
        self.saved = [p.detach().clone() for p in self.weights()]
        for p in self.weights():
            p.data.zero_()
        self.mode = "eval"

    def step(self, closure=None):
        if self.mode != "train":
            raise RuntimeError("Optimizer was not in train mode when step is called.")
        return super().step(closure)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024): y is trained, x, the average, is evaluated."""

    def __init__(self, parameters, lr, beta=0.9):
        super().__init__(list(parameters), {"lr": lr, "beta": beta, "k": 0, "train_mode": False})

    def _move(self, training: bool):
        for group in self.param_groups:
            if group["train_mode"] != training:
                weight = 1 - group["beta"] if training else 1 - 1 / group["beta"]
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.data.lerp_(self.state[p]["z"], weight)
                group["train_mode"] = training

    def train(self):
        self._move(True)

    def eval(self):
        self._move(False)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            assert group["train_mode"]
            group["k"] += 1
            share, beta, lr = 1 / group["k"], group["beta"], group["lr"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                p.lerp_(z, share).sub_(p.grad, alpha=lr * (1 - beta * (1 - share)))
                z.sub_(p.grad, alpha=lr)


def strict(model, lr):
    return Strict(model.parameters(), lr)


def schedule_free(model, lr):
    return ScheduleFree(model.parameters(), lr)


def mixed(model, lr):
    weights, biases = ([p for p in model.parameters() if (p.ndim > 1) == w] for w in (True, False))
    return [Strict(weights, lr), torch.optim.SGD(biases, lr=0.0)]


class TestModes:
    @pytest.mark.parametrize("factory", [strict, mixed])
    def test_it_steps_in_training_mode_and_is_evaluated_in_the_other(self, factory):
        outcome = run(optimizer=factory)
        assert outcome["loss_curve"]["loss"] != pytest.approx([math.log(CLASSES)] * 10, rel=1e-4)
        if factory is strict:
            assert outcome["final_loss"] == pytest.approx(math.log(CLASSES), rel=1e-6)

    def test_the_average_is_evaluated_and_not_what_is_trained(self, monkeypatch):
        free = run(30, optimizer=schedule_free)
        monkeypatch.setattr(ScheduleFree, "eval", None)
        trained = run(30, optimizer=schedule_free)
        assert free["loss_curve"] == trained["loss_curve"]
        assert free["final_loss"] != trained["final_loss"]

    def test_a_run_resumed_from_a_checkpoint_equals_one_that_never_stopped(self, tmp_path):
        whole = run(20, optimizer=schedule_free)

        class StopAtNine:
            signal, asked = None, 0

            def __bool__(self):
                self.asked += 1
                return self.asked > 9

        with pytest.raises(Stopped):
            run(20, optimizer=schedule_free, folder=tmp_path / "c", stop=StopAtNine())
        resumed = run(20, optimizer=schedule_free, folder=tmp_path / "c")
        assert resumed["resumed_at_step"] == 9
        assert resumed["loss_curve"] == whole["loss_curve"]
        assert resumed["final_loss"] == whole["final_loss"]

    def test_ordinary_optimisers_have_none(self):
        weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        plain = torch.optim.SGD(weights[:1], lr=0.1)
        assert not has_modes(plain)
        assert not has_modes(OptimizerList([plain, torch.optim.Adam(weights[1:])]))
        assert has_modes(OptimizerList([plain, Strict(weights[1:], 0.1)]))


class RateLess(torch.optim.Optimizer):
    def __init__(self, parameters, **settings):
        super().__init__(list(parameters), settings)

    def step(self, closure=None):
        pass


def foreign(model, lr):
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda m, lr: torch.optim.LBFGS(m.parameters(), lr), r"LBFGS.step\(\) needs a closure"),
        (lambda m, lr: RateLess(m.parameters()), "RateLess has no learning rate"),
        (lambda m, lr: RateLess(m.parameters(), lr=None), "RateLess has no learning rate"),
        (foreign, "SGD has no parameter of the model"),
        (
            lambda m, lr: [sgd(m, lr), torch.optim.LBFGS([nn.Parameter(torch.ones(2))])],
            "needs a closure",
        ),
    ],
    ids=["closure", "no-rate", "rate-none", "foreign", "in-a-list"],
)
def test_an_optimiser_that_could_not_train_is_refused_before_the_first_step(factory, words):
    with pytest.raises(FlopsFitError, match=words):
        run(optimizer=factory)
