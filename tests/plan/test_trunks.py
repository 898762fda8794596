"""Plans of sweeps whose runs of one size share their first steps."""

import sys

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.plan.planner import make_plan

MODULE = """\
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
    inputs = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.argmax(1))


def of_tokens(params, tokens, size):
    return 1e-5 * tokens
"""


@pytest.fixture
def plan_in(tmp_path, monkeypatch):
    """Plans a sweep of a tiny model in a folder of its own; ``changes`` replace keys of its config."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "trunkplugin", raising=False)
    (tmp_path / "trunkplugin.py").write_text(MODULE)

    def plan(**changes):
        config = {
            "name": "trunks",
            "model": {"factory": "trunkplugin:Net", "size_param": "width"},
            "dataset": {"factory": "trunkplugin:data"},
            "budgets": [1e5, 2e5, 4e5],
            "sizes": {"values": [8, 16]},
            "batch": {"value": 8},
            "learning_rate": {"value": 0.01},
            "schedule": {"kind": "trunk", "warmup_tokens": 16},
            "evaluation": {"tokens": 32},
            "limits": {"max_epochs": 100},
            **changes,
        }
        return make_plan(complete_config(config), tmp_path / "results", [str(tmp_path)])

    return plan


def test_a_warmup_that_reaches_the_cooldown_is_refused(plan_in):
    shortest = min(e.num_tokens for e in plan_in().experiments)
    cooldown = int(0.8 * shortest)
    plan_in(schedule={"kind": "trunk", "warmup_tokens": cooldown - 1})
    with pytest.raises(
        FlopsFitError, match=f"cooldown of net-width16-.* begins after {cooldown} t"
    ):
        plan_in(schedule={"kind": "trunk", "warmup_tokens": cooldown})


@pytest.mark.parametrize("key", ["batch", "learning_rate"])
def test_a_rule_that_gives_another_value_at_another_d_is_refused(plan_in, key):
    with pytest.raises(FlopsFitError, match=f"{key}: the rule gave .* at D = .* allowed with"):
        plan_in(**{key: {"function": "trunkplugin:of_tokens"}})


def test_the_rate_of_a_trunk_is_probed_at_the_ends_of_the_largest_budget(plan_in):
    plan = plan_in(learning_rate_factors=[0.5, 1, 2])
    assert {e.compute_budget for e in plan.experiments} == {4e5}
    assert len(plan) == 6
    reasons = {(s.compute_budget, s.size_param_value): s.reason for s in plan.skipped}
    assert set(reasons) == {(c, size) for c in (1e5, 2e5) for size in (8, 16)}
    assert "tuned at the ends of the largest budget" in reasons[1e5, 8]
