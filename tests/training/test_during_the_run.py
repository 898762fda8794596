"""What a run says while it goes on: the line before its first step, and values for trackers."""

import logging

import pytest
from accelerate import Accelerator
from small_runs import Net, run
from torch import nn

from flops_fit.training.curve import FLUSH_STEPS


@pytest.fixture
def logged(monkeypatch):
    """(step, loss) of each value that a tracker got, and the tokens trained when it got them."""
    seen, values = [], []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name: None)
    monkeypatch.setattr(
        Accelerator, "log", lambda self, v, step: values.append((step, dict(v), len(seen)))
    )

    def loss(outputs, targets):
        if outputs.requires_grad:
            seen.append(1)
        return nn.functional.cross_entropy(outputs, targets)

    return values, loss


def test_trackers_get_values_at_each_flush_and_not_after_the_end(logged, tmp_path):
    values, loss = logged
    outcome = run(
        3 * FLUSH_STEPS + 5, loss=loss, log_with="tensorboard", folder=tmp_path / "x" / "c"
    )
    steps = [step for step, value, _ in values if "loss" in value]
    assert steps == list(range(1, 3 * FLUSH_STEPS + 6))
    when = {step: done for step, _, done in values}
    assert [when[i * FLUSH_STEPS] for i in (1, 2, 3)] == [i * FLUSH_STEPS for i in (1, 2, 3)]
    assert values[-1][1] == {"heldout_loss": outcome["final_loss"]}


def test_without_a_tracker_nothing_is_logged(logged):
    values, loss = logged
    run(FLUSH_STEPS, loss=loss)
    assert values == []


def test_the_line_before_the_first_step_holds_what_was_derived(caplog):
    with caplog.at_level(logging.INFO, "flops_fit"):
        run(50, schedule={"kind": "wsd", "warmup": 0.1, "decay": 0.2, "final": 0.0})
    (line,) = [r.message for r in caplog.records if r.name == "flops_fit.trainer"]
    params = sum(p.numel() for p in Net().parameters())
    assert f"small: Net with N = {params}.0, D = 800 (D/N = 13.1); 50 steps " in line
    assert "(5 warmup, 35 plateau, 10 decay) of 16 items = 16 tokens" in line
    assert f"6 N D = {6 * params * 800:.3g} FLOPs; 1 process on " in line
    assert line.endswith("fp32")
