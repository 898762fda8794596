"""Approach 3: planted laws come back, published numbers come out, traps are told in words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import GRIDS, LAWS, exponent, log_optimum, loss_of, sweep

from flops_fit.fit.estimators import surface_law
from flops_fit.fit.identify import identify
from flops_fit.fit.surface import (
    Data,
    coefficients,
    far_runs,
    fit_surface,
    fixed_e_form,
    free_form,
    robust_scale,
    tied_form,
)


def data_of(frame):
    return Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))


def answer(fit, flops):
    """ln N* of a fitted surface on C = 6 N D."""
    return log_optimum(tuple(coefficients(fit.theta, fit.centre)), flops)


@pytest.mark.parametrize(("law", "grid"), list(itertools.product(LAWS, GRIDS)))
def test_noise_free_runs_give_the_planted_law_to_the_last_digits(law, grid):
    fit = fit_surface(data_of(sweep(LAWS[law], GRIDS[grid])))
    assert abs(exponent(coefficients(fit.theta, fit.centre)) - exponent(LAWS[law])) <= 1e-12
    assert abs(answer(fit, 1e22) - log_optimum(LAWS[law], 1e22)) <= 1e-10
    assert fit.n_runs == 75
    assert fit.converged


@settings(max_examples=25)
@given(
    alpha=st.floats(0.15, 0.7),
    beta=st.floats(0.15, 0.7),
    irreducible=st.floats(0.3, 3.0),
    share=st.floats(0.2, 5.0),
    width=st.floats(2.0, 30.0),
    offset=st.floats(-1.5, 1.5),
    drift=st.floats(-1.5, 1.5),
)
def test_any_noise_free_surface_is_recovered(alpha, beta, irreducible, share, width, offset, drift):
    # A and B such that both terms are about 1 near the middle of the data.
    law = (irreducible, (1e9**alpha) * share**0.5, (2e10**beta) * share**-0.5, alpha, beta)
    fit = fit_surface(data_of(sweep(law, (width, offset, drift))))
    assert abs(exponent(coefficients(fit.theta, fit.centre)) - exponent(law)) <= 1e-11
    assert abs(answer(fit, 1e22) - log_optimum(law, 1e22)) <= 1e-9


def test_gradient_and_hessian_agree_with_finite_differences():
    data = data_of(sweep(LAWS["besiroglu"], noise=0.01))
    theta = np.array([[0.6, -0.9, -1.1, 0.36, 0.39]])
    weight, delta, step = np.ones((1, len(data))), np.array([[0.02]]), 1e-6

    def at(theta):
        return data.design.derivatives(theta, data.log_loss[None], weight, delta)

    _, gradient, hessian = at(theta)
    for i in range(5):
        shift = np.eye(5)[i] * step
        (up, up_gradient, *_), (down, down_gradient, *_) = at(theta + shift), at(theta - shift)
        assert (up - down) / (2 * step) == pytest.approx(gradient[i], rel=1e-6)
        assert (up_gradient - down_gradient) / (2 * step) == pytest.approx(hessian[i], rel=1e-5)


def test_published_runs_give_the_published_fit(published):
    fit = fit_surface(data_of(published.frame), delta=1e-3, exclude="none")
    e, _, _, alpha, beta = coefficients(fit.theta, fit.centre)
    assert fit.objective == pytest.approx(1018.2740e-6, rel=1e-6)
    assert e == pytest.approx(1.8172, abs=5e-5)
    assert alpha == pytest.approx(0.3473, abs=5e-5)
    assert beta == pytest.approx(0.3672, abs=5e-5)
    assert beta / (alpha + beta) == pytest.approx(0.5139, abs=5e-5)
    assert np.exp(answer(fit, 5.76e23)) == pytest.approx(73e9, rel=0.01)
    assert fit.same_minimum >= fit.starts // 2


def test_the_objective_is_summed_not_averaged():
    frame = sweep(LAWS["besiroglu"], noise=0.01)
    data = data_of(frame)
    fit = fit_surface(data, delta=1e-3, exclude="none")
    e, a, b, alpha, beta = coefficients(fit.theta, fit.centre)
    predicted = loss_of((e, a, b, alpha, beta), frame["params"], frame["tokens"])
    r = np.abs(np.log(frame["loss"] / predicted))
    huber = np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 1e-3 / 2))
    assert fit.objective == pytest.approx(huber.sum(), rel=1e-9)


def test_no_random_start_of_a_general_optimiser_does_better():
    from scipy.optimize import minimize

    data = data_of(sweep(LAWS["hoffmann"], noise=0.02, seed=3))
    fit = fit_surface(data, delta=1e-3, exclude="none")

    def objective(theta):
        f, g, _ = data.design.derivatives(
            theta[None], data.log_loss[None], np.ones((1, len(data))), np.array([[1e-3]])
        )
        return 1e3 * f[0], 1e3 * g[:, 0]

    generator = np.random.default_rng(0)
    for _ in range(10):
        start = fit.theta + generator.normal(0, 0.2, 5)
        found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
        assert fit.objective <= found.fun / 1e3 * (1 + 1e-9)


@settings(max_examples=20)
@given(
    n=st.floats(1e-9, 1e9),
    d=st.floats(1e-9, 1e9),
    unit=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
@pytest.mark.seconds
def test_units_of_n_d_and_loss_change_only_what_they_should(n, d, unit, seed):
    frame = sweep(LAWS["besiroglu"], noise=0.01, seed=seed, sizes=8)
    scaled = frame.assign(
        params=frame["params"] * n, tokens=frame["tokens"] * d, loss=frame["loss"] * unit
    )
    one, other = (fit_surface(data_of(f)) for f in (frame, scaled))
    e, a, b, alpha, beta = coefficients(one.theta, one.centre)
    expected = (e * unit, a * unit * n**alpha, b * unit * d**beta, alpha, beta)
    assert coefficients(other.theta, other.centre) == pytest.approx(expected, rel=1e-6)
    assert other.objective == pytest.approx(one.objective, rel=1e-7)


def test_bits_per_byte_scale_the_coefficients_and_leave_the_exponents():
    frame = sweep(LAWS["besiroglu"], noise=0.01)
    nats, bits = (
        fit_surface(data_of(frame.assign(loss=frame["loss"] * u))) for u in (1.0, 1 / np.log(2))
    )
    one, two = (coefficients(f.theta, f.centre) for f in (nats, bits))
    assert two[:3] * np.log(2) == pytest.approx(one[:3], rel=1e-7)
    assert two[3:] == pytest.approx(one[3:], rel=1e-7)


def test_the_order_of_the_runs_changes_nothing():
    frame = sweep(LAWS["besiroglu"], noise=0.01)
    one, two = (fit_surface(data_of(f)) for f in (frame, frame.sample(frac=1, random_state=1)))
    assert two.theta == pytest.approx(one.theta, rel=1e-7)


def test_outliers_are_left_out_and_the_law_survives_them():
    frame = sweep(LAWS["besiroglu"], noise=0.003, seed=1)
    frame.loc[[3, 20, 40, 55], "loss"] *= [1.3, 1.15, 1.5, 1.2]
    fit = fit_surface(data_of(frame))
    assert np.flatnonzero(fit.weight == 0).tolist() == [3, 20, 40, 55]
    clean = fit_surface(data_of(frame.drop(index=[3, 20, 40, 55])))
    assert coefficients(fit.theta, fit.centre)[3:] == pytest.approx(
        coefficients(clean.theta, clean.centre)[3:], rel=1e-5
    )


def test_never_more_than_a_tenth_of_the_runs_is_left_out():
    generator = np.random.default_rng(0)
    residual = generator.normal(0, 1e-3, 50)
    residual[:20] = np.linspace(0.5, 1.5, 20)
    far = far_runs(residual[None], np.ones((1, 50)), np.array([1e-3]))[0]
    assert far.sum() == 5
    assert set(np.flatnonzero(far)) == {15, 16, 17, 18, 19}


def test_noise_free_runs_lose_none_to_the_exclusion():
    residual = np.full((1, 40), 1e-16)
    residual[0, :5] = 1e-13
    scale = robust_scale(residual, np.ones((1, 40)))
    assert scale[0] == pytest.approx(1e-9)
    assert not far_runs(residual, np.ones((1, 40)), scale).any()


def test_robust_scale_counts_each_run_as_often_as_it_was_drawn():
    residual = np.array([[1.0, -2.0, 3.0, 4.0]])
    weight = np.array([[2.0, 0.0, 1.0, 2.0]])
    assert robust_scale(residual, weight)[0] == pytest.approx(1.4826 * 3)


def test_no_irreducible_loss_is_reported_as_at_bound():
    law = (1e-9, 30.0, 60.0, 0.2, 0.2)
    data = data_of(sweep(law, noise=0.01, low=1e16, high=1e20))
    fit = fit_surface(data)
    verdict = identify(data, fit)
    assert np.isfinite(coefficients(fit.theta, fit.centre)).all()
    if verdict.status == "at_bound":
        assert "E" in verdict.reason
    e = coefficients(fit.theta, fit.centre)[0]
    assert e < 0.3 * np.exp(data.log_loss.min())


def test_data_below_any_positive_e_stop_at_the_bound():
    # A sum of powers minus a constant: the best E is negative, so the clamp must hold it.
    frame = sweep((0.0, 30.0, 60.0, 0.2, 0.2), low=1e16, high=1e20)
    frame["loss"] -= 0.05
    data = data_of(frame)
    fit = fit_surface(data)
    verdict = identify(data, fit)
    assert verdict.status == "at_bound"
    assert "at bound: E" in verdict.reason
    assert np.isfinite(coefficients(fit.theta, fit.centre)).all()


def test_the_flat_ridge_moves_a_and_b_but_not_the_answer():
    # Two seeds of noise: A and B wander by tens of percent, a and N* hardly at all.
    fits = [
        fit_surface(data_of(sweep(LAWS["besiroglu"], noise=0.003, seed=seed))) for seed in (1, 5)
    ]
    (_, a1, b1, *_), (_, a2, b2, *_) = (coefficients(f.theta, f.centre) for f in fits)
    exponents = [exponent(coefficients(f.theta, f.centre)) for f in fits]
    assert max(abs(np.log(a1 / a2)), abs(np.log(b1 / b2))) > 5 * abs(np.diff(exponents)[0])
    assert abs(answer(fits[0], 1e20) - answer(fits[1], 1e20)) < 0.1


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (sweep(LAWS["besiroglu"], sizes=3, budgets=2, noise=0.01), "6 runs"),
        (sweep(LAWS["besiroglu"], sizes=10, budgets=1, noise=0.01), "standard error"),
        (
            sweep(LAWS["besiroglu"], (1.2, 0, 0), sizes=6, budgets=3, high=1.3e18, noise=0.01),
            "standard error",
        ),
    ],
)
def test_too_little_data_is_called_not_identifiable_in_words(frame, words):
    data = data_of(frame)
    fit = fit_surface(data)
    verdict = identify(data, fit)
    assert verdict.status == "not_identifiable"
    assert words in verdict.reason
    assert "condition number" in verdict.reason
    assert np.isfinite(coefficients(fit.theta, fit.centre)).all()


def test_cheap_published_runs_alone_are_not_identifiable(published):
    frame = published.frame[published.frame["flops"] <= 1e19]
    data = data_of(frame)
    verdict = identify(data, fit_surface(data))
    assert verdict.status == "not_identifiable"
    assert "E anywhere in" in verdict.reason


def test_profile_of_e_is_lowest_at_the_estimate_and_rises_away_from_it():
    data = data_of(sweep(LAWS["besiroglu"], noise=0.005))
    fit = fit_surface(data)
    profile = identify(data, fit).profile
    best = coefficients(fit.theta, fit.centre)[0]
    rises = [rise for _, rise in profile]
    assert min(profile, key=lambda p: p[1])[0] == pytest.approx(best)
    assert rises[0] > 100
    assert rises[-1] > 10


def test_tied_exponents_are_equal_and_recover_a_symmetric_law():
    data = data_of(sweep(LAWS["symmetric"]))
    fit = fit_surface(data, tied_form(data))
    assert coefficients(fit.theta, fit.centre) == pytest.approx(LAWS["symmetric"], rel=1e-9)
    data = data_of(sweep(LAWS["lopsided"], noise=0.01))
    fit = fit_surface(data, tied_form(data))
    alpha, beta = fit.theta[3:]
    assert alpha == beta
    assert fit.objective > fit_surface(data, delta=fit.delta).objective


def test_a_fixed_e_is_held_and_the_true_one_recovers_the_law():
    law = LAWS["besiroglu"]
    data = data_of(sweep(law))
    fit = fit_surface(data, fixed_e_form(data, law[0]))
    assert coefficients(fit.theta, fit.centre) == pytest.approx(law, rel=1e-9)
    fit = fit_surface(data, fixed_e_form(data, 1.5), exclude="none")
    assert coefficients(fit.theta, fit.centre)[0] == pytest.approx(1.5, rel=1e-12)
    assert fit.objective > 0


def test_law_of_a_fit_predicts_its_own_runs():
    frame = sweep(LAWS["hoffmann"])
    data = data_of(frame)
    fit = fit_surface(data, free_form(data))
    law = surface_law(fit.theta, fit.centre)
    predicted = law.loss(np.log(frame["params"].to_numpy()), np.log(frame["tokens"].to_numpy()))
    assert predicted == pytest.approx(frame["loss"].to_numpy(), rel=1e-12)
