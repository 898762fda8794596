"""What an experiment is said to cost before it runs."""

from dataclasses import replace

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import Resources
from flops_fit.files import write_json
from flops_fit.plan.counting import count_model
from flops_fit.plan.price import (
    START_UP,
    Price,
    Rate,
    Work,
    job_megabytes,
    job_minutes,
    measured_file,
    price,
    process_bytes,
    rate_for,
    work_of,
)
from flops_fit.sweep import Experiment, ModelCount

ONE = Resources()
WORK = Work(
    flops=7.2e13,
    steps=1000,
    batch_items=8,
    tokens_per_item=64,
    params_total=10**6,
    activation_bytes=1e4,
)
RATE = Rate(flops_per_second=1e10, step_seconds=0.01, source="here")
PRICING = {"device": None, "flops_per_second": None, "step_seconds": None, "per_hour": None}


def test_time_is_start_up_and_steps_and_flops_over_the_devices():
    alone = price(WORK, RATE, ONE)
    assert alone.seconds == pytest.approx(START_UP + 10 + 7200)
    two = price(WORK, RATE, replace(ONE, processes=2, gpus=2), per_hour=3.0)
    assert two.seconds == pytest.approx(START_UP + 10 + 3600)
    assert two.device_hours == pytest.approx(2 * two.seconds / 3600)
    assert two.money == pytest.approx(3.0 * two.device_hours)
    assert alone.money is None


def test_runs_that_share_a_gpu_share_its_speed_and_price_but_not_the_least_time_of_a_step():
    alone, four = replace(ONE, gpus=1), replace(ONE, gpus=1, runs_per_gpu=4)
    shared = price(WORK, RATE, four, per_hour=3.0)
    assert shared.seconds == pytest.approx(START_UP + 10 + 4 * 7200)
    assert shared.device_hours == pytest.approx(shared.seconds / 4 / 3600)
    assert shared.money == pytest.approx(3.0 * shared.device_hours)
    assert shared.memory_bytes == price(WORK, RATE, alone).memory_bytes
    on_cpu = replace(ONE, runs_per_gpu=4)  # as where the user chose the CPU
    assert price(WORK, RATE, on_cpu) == price(WORK, RATE, ONE)


def test_memory_is_state_and_the_activations_of_a_micro_batch():
    state, activations = 16 * 10**6, 8 * 64 * 1e4
    base = process_bytes(WORK, ONE) - state - activations
    assert base == pytest.approx(0.45e9)
    assert process_bytes(WORK, replace(ONE, micro_batch_items=2)) == pytest.approx(
        base + state + activations / 4
    )
    both = replace(ONE, processes=2)  # half the batch each, and a copy of the gradients
    assert process_bytes(WORK, both) == pytest.approx(base + 20 * 10**6 + activations / 2)


def test_memory_is_that_of_a_batch_of_the_evaluation_where_it_takes_more():
    """The evaluation has no gradients, and its own copies of weights in 16 bits."""
    training, fixed = process_bytes(WORK, ONE), 2 * 10**6
    halves = replace(WORK, fixed_bytes=fixed)
    assert process_bytes(halves, ONE) == training + fixed
    smaller = replace(halves, evaluation_bytes=8 * 64 * 1e4)
    assert process_bytes(smaller, ONE) == training + fixed
    larger = replace(halves, evaluation_bytes=8 * 64 * 1e4 + fixed + 4 * 10**6 + 5)
    assert process_bytes(larger, ONE) == training + fixed + 5


def test_the_activations_are_those_that_autograd_keeps():
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    example = torch.zeros(8), torch.zeros((), dtype=torch.long)
    count = count_model(lambda: model, example, nn.functional.cross_entropy, 1)
    # The input (8), ReLU's output (32), log-softmax (4), all fp32, and the target (one int64);
    # the mean's total weight (one fp32) is shared by the two items of the batch.
    assert count.activation_bytes == 4 * (8 + 32 + 4) + 8 + 4 / 2


def test_a_job_asks_for_a_margin_above_a_floor():
    assert job_minutes(Price(7220, 2, 1e9, None)) == 241
    assert job_minutes(Price(12, 2, 1e9, None)) == 10
    assert job_megabytes(WORK, Price(1, 1, 10e9, None), ONE) == 15450
    assert job_megabytes(WORK, Price(1, 1, 1e8, None), ONE) == 1500
    on_gpu = job_megabytes(WORK, Price(1, 1, 80e9, None), replace(ONE, gpus=1))
    assert on_gpu == pytest.approx(1.5 * (0.3e9 + 3.5e9 + 16e6) / 1e6, abs=1)


def test_a_rate_is_stated_or_of_a_known_device_or_measured_or_guessed(tmp_path):
    guess = rate_for(PRICING, 0, "no", tmp_path)
    assert "guess" in guess.source
    write_json(measured_file(tmp_path, "cpu"), vars(RATE))
    assert rate_for(PRICING, 0, "no", tmp_path) == RATE
    assert "guess" in rate_for(PRICING, 1, "no", tmp_path).source
    known = rate_for({**PRICING, "device": "H100"}, 1, "bf16", tmp_path)
    assert known.flops_per_second == pytest.approx(0.3 * 989.4e12)
    stated = {**PRICING, "device": "H100", "flops_per_second": 2e14, "step_seconds": 0.5}
    assert vars(rate_for(stated, 1, "bf16", tmp_path)) == {
        "flops_per_second": 2e14,
        "step_seconds": 0.5,
        "source": "stated in the config",
    }


def test_an_unknown_device_is_named_with_those_that_are_known(tmp_path):
    with pytest.raises(FlopsFitError, match=r"pricing\.device: 'B52' .* H100.*flops_per_second"):
        rate_for({**PRICING, "device": "B52"}, 1, "bf16", tmp_path)
    with pytest.raises(FlopsFitError, match="'T4' is not known with bf16"):
        rate_for({**PRICING, "device": "T4"}, 1, "bf16", tmp_path)


def test_every_default_of_the_config_gives_a_rate(tmp_path):
    config = complete_config({"name": "x", "runs": "runs.csv"})
    assert rate_for(config["pricing"], 0, "no", tmp_path).flops_per_second > 0


def test_a_row_of_a_plan_is_work():
    count = ModelCount(1, 1, 1, 10**6, 7.2e7, "meta", activation_bytes=1e4)
    experiment = Experiment(
        "a", 1e13, 8, 1, 10**6, batch_items=8, tokens_per_item=64, steps=1000, count=count
    )
    assert work_of(experiment) == WORK


@pytest.mark.parametrize(
    "name", ["8x H100", "8 x A100", "H100 x8", "DGX H100", "GB200 NVL72", "H100 node"]
)
def test_several_devices_are_no_device(tmp_path, name):
    with pytest.raises(FlopsFitError, match="is several devices; allowed: the name of one"):
        rate_for({**PRICING, "device": name}, 1, "bf16", tmp_path)


@pytest.mark.parametrize(
    "name", ["H100 NVL", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "MI300X"]
)
def test_names_of_one_device_are_none_of_several(tmp_path, name):
    assert rate_for({**PRICING, "device": name}, 1, "bf16", tmp_path).flops_per_second > 1e13


@pytest.mark.parametrize(("device", "speed"), [(None, 400), (None, 1e18), ("H100", 3.2e15)])
def test_a_speed_that_no_device_has_is_refused(tmp_path, device, speed):
    stated = {**PRICING, "device": device, "flops_per_second": speed}
    with pytest.raises(FlopsFitError, match=r"flops_per_second: .* \(400 TFLOP/s are 4e14\)"):
        rate_for(stated, 1, "bf16", tmp_path)
