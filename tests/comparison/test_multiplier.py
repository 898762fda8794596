"""M of exact pairs, of a published example, and of measured minima alone."""

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, sweep

from flops_fit.comparison.models import SHARED, models_of
from flops_fit.comparison.multiplier import (
    Frontier,
    Pair,
    crossings,
    measured_multiplier,
    wall_clock,
)
from flops_fit.comparison.pairs import Arm
from flops_fit.comparison.shared import PairDesign, Table
from flops_fit.fit import fit_runs
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import PathLaw, SurfaceLaw

LAW = LAWS["besiroglu"]
ASKED = np.log([1e18, 1e20, 1e21])


def worth(law, rho_n, rho_d):
    """The law of an arm each of whose parameters and tokens is worth rho of the reference's."""
    e, a, b, alpha, beta = law
    return e, a * rho_n**-alpha, b * rho_d**-beta, alpha, beta


def surface(law):
    e, a, b, alpha, beta = law
    return SurfaceLaw(np.array([[e, np.log(a), np.log(b), alpha, beta]]))


def frontier(law):
    return Frontier(surface(law), None, Cost())


def exact_models(law):
    fits = [fit_runs(sweep(each, sizes=9), bootstrap=0, sensitivity=False) for each in (LAW, law)]
    arms = [Arm.of(name, fit) for name, fit in zip(("a", "b"), fits, strict=True)]
    return models_of(*arms, None)


@pytest.fixture(scope="module")
def equal():
    return exact_models(worth(LAW, 1.3, 1.1))


@pytest.mark.parametrize("name", ["shared", "free"])
def test_an_exact_pair_with_the_same_exponents_gives_m_exactly(equal, name):
    error = equal.pairs[name].log_multiplier(ASKED) - np.log(1.3 * 1.1)
    assert np.abs(error).max() <= 1e-9
    assert equal.scores.name == SHARED
    assert equal.scores.rho_N == pytest.approx(1.3, rel=1e-9)
    assert equal.scores.rho_D == pytest.approx(1.1, rel=1e-9)


def test_an_exact_pair_with_other_exponents_gives_m_and_the_crossing_exactly():
    e, a, b, alpha, beta = LAW
    other = (e, 1.37 * a, 1.26 * b, alpha + 0.015, beta + 0.01)
    true = Pair(frontier(LAW), frontier(other))
    models = exact_models(other)
    assert models.scores.name == "free"
    assert models.scores.p_value < 1e-6
    free = models.pairs["free"]
    assert np.abs(free.log_multiplier(ASKED) - true.log_multiplier(ASKED)).max() <= 1e-9
    grid = np.linspace(np.log(1e17), np.log(1e22), 25)
    (at,), (crossed,) = crossings(true.gap, grid), crossings(free.gap, grid)
    assert abs(at - crossed) <= 1e-6
    assert abs(true.log_multiplier(np.array([at]))[0]) <= 1e-9


def test_m_of_a_law_against_itself_scaled_is_the_scale():
    pair = Pair(frontier(LAW), frontier(worth(LAW, 0.5, 0.8)))
    assert pair.log_multiplier(ASKED) == pytest.approx(np.log([0.4] * 3), abs=1e-9)
    assert crossings(pair.gap, ASKED) == []


def test_the_worked_example_that_marin_publishes():
    # L - 1.6 = K C^-0.0941; at 3.82e17 FLOPs the reference reaches 3.5422, the candidate 3.52.
    log_c, gamma = np.log(3.82e17), 0.0941

    def path(loss):
        ln_k = np.log(loss - 1.6) + gamma * log_c
        return Frontier(PathLaw(np.array([[0.0, 0.5, 1.6, ln_k, gamma, 1.0]])), None, Cost())

    pair = Pair(path(3.5422), path(3.52))
    multiplier = float(np.exp(pair.log_multiplier(np.array([log_c]))[0]))
    assert multiplier == pytest.approx(1.130, abs=5e-4)
    faster = wall_clock(multiplier, reference_speed=433_986, candidate_speed=410_000)
    assert faster == pytest.approx(1.067, abs=6e-4)


def test_a_loss_that_the_reference_never_reaches_has_no_finite_m():
    e, *rest = LAW
    better = Pair(frontier(LAW), frontier((0.7 * e, *rest)))
    worse = Pair(frontier((0.7 * e, *rest)), frontier(LAW))
    assert (better.log_multiplier(np.log([1e21])) == np.inf).all()
    assert (worse.log_multiplier(np.log([1e24])) == -np.inf).all()


def test_measured_minima_give_m_without_a_law():
    log_c = np.log([1e18, 1e19, 1e20])
    reference = log_c, -0.05 * log_c
    candidate = log_c, -0.05 * (log_c + np.log(1.2))
    for c in log_c:
        assert measured_multiplier(c, reference, candidate) == pytest.approx(np.log(1.2))
    assert measured_multiplier(np.log(3e18), reference, candidate) is None
    far = log_c, -0.05 * (log_c + np.log(1e4))
    assert measured_multiplier(log_c[2], reference, far) is None
    assert measured_multiplier(log_c[0], (log_c, 0.05 * log_c), candidate) is None


def test_the_derivatives_of_the_shared_model_are_those_of_its_value():
    generator = np.random.default_rng(0)
    frames = [sweep(LAW, sizes=6, budgets=3), sweep(worth(LAW, 1.2, 1.1), sizes=6, budgets=3)]
    frame = pd.concat(frames, ignore_index=True)
    arm = np.repeat([0, 1], len(frames[0]))
    columns = (np.log(frame[name].to_numpy()) for name in ("params", "tokens", "loss"))
    table = Table(*columns, arm, np.where(arm, 0.02, 0.01), np.ones(len(arm)))
    design = PairDesign(table)
    theta = np.array([[0.5, -0.6, -0.4, 0.34, 0.36, -0.06, -0.03]])
    theta = theta + 0.02 * generator.standard_normal((4, 7))
    losses = design.log_surface(theta) + 0.02 * generator.standard_normal((4, len(arm)))
    arguments = losses, np.ones((1, len(arm))), np.full((4, 1), 0.015)
    _, gradient, hessian = design.derivatives(theta, *arguments)
    metric = design.metric(theta, *arguments)
    for i in range(7):
        step = 1e-6 * np.eye(7)[i]
        up, down = (design.derivatives(theta + s * step, *arguments) for s in (1, -1))
        assert (up[0] - down[0]) / 2e-6 == pytest.approx(gradient[i], rel=1e-5, abs=1e-9)
        assert (up[1] - down[1]) / 2e-6 == pytest.approx(hessian[:, i], rel=1e-4, abs=1e-6)
    assert (np.linalg.eigvalsh(np.moveaxis(metric, 2, 0)) > -1e-12).all()
