"""One experiment on 1, 2 and 3 processes: the same batches, the same curve, exactly D tokens."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flops_fit.jobs.launcher import launcher

pytestmark = pytest.mark.seconds

SCRIPT = Path(__file__).parents[1] / "helpers" / "process_scenarios.py"
LENGTH = 6
TRAINED = {
    "plain": 8 * LENGTH * 30,
    "uneven batch": 7 * LENGTH * 30,
    "smaller last batch": LENGTH * (8 * 9 + 3),
    "last item cut": LENGTH * 8 * 9 + 4,
    "ignored targets": LENGTH * 9 * 20,
    "accumulation": 9 * LENGTH * 30,
    "clipped": 7 * LENGTH * 30,
    "stream": 7 * LENGTH * 30,
    "muon": 7 * LENGTH * 30,
}


def launch_line(processes: int, *script: str) -> list[str]:
    """The line that jobs are launched with, for another script."""
    return [*launcher(processes, 1, 0), *script]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict]:
    """What every scenario gave, by number of processes; 0 stands for plain python."""
    folder = tmp_path_factory.mktemp("processes")
    lines = {w: launch_line(w, str(SCRIPT)) for w in (1, 2, 3)} | {0: [sys.executable, str(SCRIPT)]}
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = {}
    for processes, line in lines.items():
        out = folder / f"{processes}.json"
        subprocess.run([*line, str(out)], env=environment, check=True, timeout=900)
        found[processes] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_run_from_a_state_of_its_trunk_equals_a_run_alone(outcomes, processes):
    shared, alone = outcomes[processes]["shared"], outcomes[processes]["alone"]
    assert shared["start_tokens"] == 7 * LENGTH * 12
    assert shared["tokens_here"] == 7 * LENGTH * 18
    assert shared["input_positions"] == alone["input_positions"]
    curves = [np.array(run["loss_curve"]["loss"]) for run in (shared, alone)]
    if processes < 3:
        assert shared["final_loss"] == alone["final_loss"]
        assert (curves[0] == curves[1]).all()
    else:  # a run that goes on from a state adds the gradients of three or more in another order
        np.testing.assert_allclose(*curves, rtol=1e-6)
        assert shared["final_loss"] == pytest.approx(alone["final_loss"], rel=1e-6)


def curve(outcomes, processes: int, name: str) -> np.ndarray:
    return np.array(outcomes[processes][name]["loss_curve"]["loss"])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_world_is_as_large_as_it_was_asked_to_be(outcomes, processes):
    assert outcomes[processes]["plain"]["processes"] == processes


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_exactly_d_tokens_are_trained_on_any_number_of_processes(outcomes, processes, name):
    assert outcomes[processes][name]["tokens_seen"] == TRAINED[name]
    assert outcomes[processes][name]["status"] == "completed"


@pytest.mark.parametrize("name", [n for n in TRAINED if n != "muon"])
@pytest.mark.parametrize("processes", [2, 3])
def test_adamw_curves_agree_with_one_process_to_1e_5(outcomes, processes, name):
    np.testing.assert_allclose(
        curve(outcomes, processes, name), curve(outcomes, 1, name), rtol=1e-5
    )
    one, several = outcomes[1][name]["final_loss"], outcomes[processes][name]["final_loss"]
    assert several == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 3])
def test_muon_agrees_for_ten_steps_to_1e_4(outcomes, processes):
    # torch's Muon orthogonalises in bfloat16, so later steps drift apart.
    np.testing.assert_allclose(
        curve(outcomes, processes, "muon")[:10], curve(outcomes, 1, "muon")[:10], rtol=1e-4
    )


def steps_dealt(dealt: list[list[int]], processes: int) -> list[list[int]]:
    """The set of items of each step, from the lists dealt to the processes in turn."""
    groups = [dealt[i : i + processes] for i in range(0, len(dealt) - processes + 1, processes)]
    return [sorted(itertools.chain.from_iterable(group)) for group in groups]


@pytest.mark.parametrize("name", ["plain", "uneven batch", "stream"])
@pytest.mark.parametrize("processes", [2, 3])
def test_global_batches_are_the_same_on_every_number_of_processes(outcomes, processes, name):
    one = steps_dealt(outcomes[1][name]["dealt"], 1)
    several = steps_dealt(outcomes[processes][name]["dealt"], processes)
    count = min(len(one), len(several))
    assert count >= 10
    assert several[:count] == one[:count]


@pytest.mark.parametrize("name", TRAINED)
def test_the_schedule_is_stepped_once_a_step_and_ends_at_d(outcomes, name):
    # accelerate's prepared scheduler would step once per process and halve the horizon.
    rates = {p: outcomes[p][name]["loss_curve"]["learning_rate"] for p in (1, 2, 3)}
    assert rates[1] == rates[2] == rates[3]
    assert max(rates[1]) > 0.009
    assert rates[1][-1] < 0.001


@pytest.mark.parametrize("name", TRAINED)
def test_one_process_under_the_launcher_equals_plain_python_bitwise(outcomes, name):
    assert outcomes[1][name]["loss_curve"] == outcomes[0][name]["loss_curve"]
    assert outcomes[1][name]["final_loss"] == outcomes[0][name]["final_loss"]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("processes", [2, 3])
def test_the_held_out_loss_counts_every_target_once(outcomes, processes, name):
    # 20 items in batches of 3: 7 batches, which 2 or 3 processes cannot share evenly.
    assert outcomes[processes][name]["heldout_tokens"] == 20 * LENGTH
    assert outcomes[processes][name]["final_loss_se"] == pytest.approx(
        outcomes[1][name]["final_loss_se"], rel=1e-2
    )
