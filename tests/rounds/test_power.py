"""Which gain two planned sweeps can show."""

import numpy as np
import pytest
from simulated import GRIDS, LAWS, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.rounds.power import Power, describe_power, simulate_pair
from flops_fit.rounds.truth import truth_for


def design(sizes: int = 5, budgets: int = 4):
    frame = sweep(LAWS["besiroglu"], GRIDS["narrow"], sizes, budgets, 3e18, 8.1e19)
    names = [f"run{i}" for i in range(len(frame))]
    return frame.drop(columns="loss").assign(experiment_id=names, seed=0)


def outcome(noise: float) -> dict:
    frame = design()
    truth = truth_for(frame, LAWS["besiroglu"], noise=(noise, True))
    options = ({"method": "surface"}, {"method": "surface"})
    return simulate_pair((frame, frame), truth, times=4, resamples=50, fit_options=options)


def test_less_noise_shows_smaller_gains_and_equal_recipes_show_none():
    quiet, loud = outcome(0.001), outcome(0.01)
    for at in range(2):
        assert quiet["answers"][at]["smallest"] < loud["answers"][at]["smallest"]
    top = quiet["answers"][0]
    assert top["flops"] == pytest.approx(8.1e19)
    assert top["false_alarms"] == 0
    assert 1.0 < top["smallest"] < 1.2
    assert list(top["power"].values()) == sorted(top["power"].values())
    text = describe_power(quiet)
    assert "20 and 20 runs" in text
    assert "M = 1.5 100%" in text


def test_the_power_is_the_share_of_pairs_that_show_the_gain():
    power = Power(1e20, np.array([1.02, 1.08, 1.15, 1000.0]), 0.0)
    assert [power.of(gain) for gain in (1.01, 1.1, 1.2)] == [0.0, 0.5, 0.75]
    assert power.to_dict()["power"] == {"1.05": 0.25, "1.1": 0.5, "1.2": 0.75, "1.5": 0.75}


def test_too_small_sweeps_and_too_few_pairs_are_refused():
    frame = design()
    truth = truth_for(frame, LAWS["besiroglu"])
    with pytest.raises(FlopsFitError, match="in each arm can be fitted"):
        simulate_pair((frame, frame.head(2)), truth)
    with pytest.raises(FlopsFitError, match="at least 2"):
        simulate_pair((frame, frame), truth, times=1)
