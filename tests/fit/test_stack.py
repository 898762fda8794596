"""The stack: forms exact on their own data, weights by errors ahead, intervals that own up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated import GRIDS, LAWS, log_optimum, loss_of, small_models, sweep

from flops_fit.fit import Fit, fit_runs, losses_at, predict
from flops_fit.fit.calibrate import from_tests, moments
from flops_fit.fit.chain import Chain, weigh
from flops_fit.fit.cost import Cost
from flops_fit.fit.form_error import FormError, growth
from flops_fit.fit.forms import FREE, BentDesign, bent_form, fit_bent, settle, starts_for
from flops_fit.fit.laws import BentLaw, StackLaw, SurfaceLaw, law_from_dict, law_to_dict
from flops_fit.fit.measure import groups_of, measure
from flops_fit.fit.members import RESAMPLE_CLOSE, RESAMPLE_STEPS, tilt
from flops_fit.fit.newton import minimise
from flops_fit.fit.record import record, record_words
from flops_fit.fit.sections import ChainTest
from flops_fit.fit.stack import Stack
from flops_fit.fit.surface import EFFICIENCY, Data

# E, A, B, alpha, beta, gamma, kappa
BENT = {
    "classic": (1.8172, 482.0, 2085.4, 0.3478, 0.3658, 1.0, 0.0),
    "gamma": (1.8, 300.0, 800.0, 0.40, 0.45, 0.7, 0.0),
    "B(N)": (1.8, 482.0, 2085.4, 0.35, 0.37, 1.0, 0.05),
    "gamma + B(N)": (1.7, 300.0, 900.0, 0.40, 0.45, 1.4, -0.03),
}


def bent_loss(law, params, tokens):
    e, a, b, alpha, beta, gamma, kappa = law
    return e + (a * params**-alpha + b * params**kappa * tokens**-beta) ** gamma


def bent_optimum(law, flops):
    _, a, b, alpha, beta, _, kappa = law
    both = beta + kappa
    return (np.log(alpha * a / (both * b)) + beta * np.log(flops / 6)) / (alpha + both)


def bent_sweep(name, **how):
    frame = sweep(LAWS["besiroglu"], **how)
    noise = frame["loss"] / bent_loss(BENT["classic"], frame["params"], frame["tokens"])
    if not how.get("noise"):
        noise = 1.0
    return frame.assign(loss=bent_loss(BENT[name], frame["params"], frame["tokens"]) * noise)


@pytest.mark.parametrize("grid", ["wide", "drifting"])
@pytest.mark.parametrize("form", FREE)
def test_a_form_is_exact_on_data_of_its_family(form, grid):
    law = BENT[form]
    frame = bent_sweep(form, grid=GRIDS[grid])
    data = Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))
    design, once = BentDesign(data.design.x, data.design.y), np.ones((1, len(frame)))
    for free in FREE:
        if not set(FREE[form]) <= set(FREE[free]):
            continue
        rough = fit_bent(data, design, bent_form(data, free), once, once, starts_for(data, once[0]))
        fit = settle(data, design, rough.form, once, rough.theta, 1.345 * rough.scale, count=once)
        _, _, _, alpha, beta, g, kappa = fit.theta[0]
        a = beta / (alpha + beta + kappa)
        assert a == pytest.approx(law[4] / (law[3] + law[4] + law[6]), abs=1e-12)
        assert np.exp(g) == pytest.approx(law[5], abs=1e-8)


def test_one_wild_run_leaves_every_problem_a_start():
    """A loss six orders below the others decides every linear problem on its own."""
    frame = bent_sweep("classic", grid=GRIDS["wide"], noise=0.01)
    frame.loc[frame.index[4], "loss"] = 1e-6 * frame["loss"].min()
    data = Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))
    starts = starts_for(data, np.ones(len(frame)))
    assert len(starts)
    assert np.isfinite(starts).all()
    assert np.isfinite(predict(fit_runs(frame, bootstrap=0), frame["flops"].max()).params)


def test_the_derivatives_are_those_of_the_objective():
    frame = sweep(LAWS["besiroglu"], noise=0.005, sizes=7, budgets=3)
    data = Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))
    design = BentDesign(data.design.x, data.design.y)
    theta = np.array(
        [[0.5, -0.5, -1, 0.35, 0.3, 0.2, 0.05], [0.6, -0.3, -1.2, 0.3, 0.4, -0.3, -0.02]]
    )
    weight, delta = np.linspace(0.5, 2, len(frame))[None], np.array([[0.01], [0.5]])
    _, gradient, hessian = design.derivatives(theta, data.log_loss, weight, delta)
    for i in range(7):
        step = np.zeros(7)
        step[i] = 1e-6
        up, down = (
            design.derivatives(theta + s * step, data.log_loss, weight, delta) for s in (1, -1)
        )
        assert (up[0] - down[0]) / 2e-6 == pytest.approx(gradient[i], rel=1e-6)
        assert (up[1] - down[1]) / 2e-6 == pytest.approx(hessian[i], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kappa", [0, 2])
@pytest.mark.parametrize("form", ["classic", "gamma + B(N)"])
def test_resamples_of_a_member_end_at_their_minima(form, kappa):
    """Few runs under steep weights: the valley is flat and curved, and straight steps creep in it."""
    frame = sweep(LAWS["besiroglu"], noise=0.01, sizes=9, budgets=4)
    data = Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))
    design, log_c = BentDesign(data.design.x, data.design.y), np.log(frame["flops"].to_numpy())
    once = np.ones((1, len(frame)))
    weight = tilt(once, log_c, kappa)
    fit = fit_bent(data, design, bent_form(data, form), weight, once, starts_for(data, once[0]))
    counts = np.random.default_rng(0).multinomial(len(frame), once[0] / len(frame), size=60)
    problem = (data.log_loss, tilt(counts, log_c, kappa), EFFICIENCY * fit.scale[0])
    theta = np.repeat(fit.theta, len(counts), axis=0)
    inputs = design.for_form(fit.form)
    near = minimise(fit.form, theta, *problem, inputs, RESAMPLE_CLOSE, RESAMPLE_STEPS)
    far = minimise(fit.form, near.theta, *problem, inputs, 1e-13, 400)
    assert np.mean(near.objective > far.objective * (1 + 1e-3)) <= 0.05


def test_a_curved_step_is_the_straight_one_to_first_order_and_keeps_to_the_bounds_of_a_law():
    generator = np.random.default_rng(0)
    data = Data.of(*np.exp(generator.normal(size=(3, 20))))
    theta = np.array([[0.5, -0.5, -1, 0.35, 0.3, 0.2, 0.05]])
    step, centre = 0.1 * generator.normal(size=(1, 7)), np.array([[0.3], [-0.2]])
    for design, size in ((BentDesign(data.design.x, data.design.y), 7), (data.design, 5)):
        at, way = theta[:, :size], step[:, :size]
        off = [design.moved(at, s * way, at + s * way, centre) - at - s * way for s in (1e-3, 1e-4)]
        assert np.abs(off[0]).max() > 1e-9
        assert np.abs(off[1]) == pytest.approx(np.abs(off[0]) / 100, rel=1e-2, abs=1e-14)
    held = np.array([[0.0, 0.2, 0.1, 0.05, -0.05]])
    assert (data.design.moved(at, held, at + held, centre) == at + held).all()


@pytest.mark.parametrize("budgets", [2, 3, 5])
@pytest.mark.parametrize("form", FREE)
def test_the_stack_is_exact_on_noise_free_data_of_its_families(form, budgets):
    fit = fit_runs(bent_sweep(form, budgets=budgets), bootstrap=0, sensitivity=False)
    answer, best = predict(fit, 1e21), bent_optimum(BENT[form], 1e21)
    assert np.log(answer.params) == pytest.approx(best, abs=1e-9)
    lowest = bent_loss(BENT[form], np.exp(best), 1e21 / 6 / np.exp(best))
    assert answer.loss == pytest.approx(lowest, rel=1e-9)
    other = losses_at(fit, np.array([1e9]), np.array([3e11]))["loss"][0]
    assert other == pytest.approx(bent_loss(BENT[form], 1e9, 3e11), rel=1e-9)


def test_a_law_that_bends_is_followed_where_the_surface_is_not_one():
    stack = fit_runs(bent_sweep("gamma", noise=0.002, budgets=7), bootstrap=60, sensitivity=False)
    answer, best = predict(stack, 1e21), bent_optimum(BENT["gamma"], 1e21)
    low, high = np.log(answer.ci["params"])
    assert low < best < high
    surface = np.log(answer.estimators["surface"])
    assert abs(np.log(answer.params) - best) < abs(surface - best)


def test_the_error_of_the_form_is_shrunk_by_tests_and_grows_with_distance():
    alone = from_tests(0.0, 0.0, 0.04)
    tested = from_tests(0.0, 5.0, 0.04)
    assert alone.tau == pytest.approx(0.04)
    assert tested.tau < alone.tau
    assert tested.df > alone.df
    assert growth(np.log(2)) == pytest.approx(1)
    assert alone.half_width(0.0, np.log(10), 0.9) > 4 * alone.half_width(0.0, np.log(2), 0.9)
    assert alone.inside(-1e3, 1e3, 0.1, 0.0) == pytest.approx(1)
    assert FormError(0.0, 1e6, 0).inside(-1.6449, 1.6449, 1.0, 0.0) == pytest.approx(0.9, abs=1e-4)


def test_the_noise_of_both_sides_is_taken_off_a_test():
    test = ChainTest(
        trained_up_to=1e18,
        flops=2e18,
        error=0.1,
        sd=0.08,
        se=0.06,
        ahead=1,
        distance=np.log(2),
        age=0,
    )
    squares, mass = moments([test], "params")
    assert squares == pytest.approx(0.0, abs=1e-12)
    squares, _ = moments([replace(test, error=0.2)], "params")
    assert squares / mass == pytest.approx(0.03)
    clear = replace(test, se=0.0, sd=0.0)
    assert moments([clear], "params")[1] == pytest.approx(1)
    assert mass < 0.1  # noise of 0.1 drowns an error of 0.03


def chain_with(error, se):
    """Two members asked for the second and third of three budgets, with errors of ln N* there."""
    shape = (2, 3, 3)
    errors, nothing = np.full(shape, np.nan), np.zeros(shape)
    errors[:, 0, 1:] = np.array(error)[:, None]
    errors[:, 1, 2] = error
    return Chain(
        log_c=np.log([1.0, 2.0, 4.0]),
        end=np.log(4.0),
        at=np.arange(3),
        error={"params": errors},
        sd={"params": nothing},
        se={"params": np.full(3, se)},
        runs=nothing,
        reference={"params": np.full((2, 3), 0.03)},
    )


def test_a_member_loses_weight_by_errors_that_noise_does_not_explain():
    def ratio(error, se):
        first, second = weigh(chain_with(error, se), 2, "params", 0.01)
        assert first + second == pytest.approx(1)
        return first / second

    assert ratio([0.05, 0.09], 0.1) == 1
    assert 1 < ratio([0.0, 0.12], 0.1) < ratio([0.0, 0.12], 0.01)
    assert ratio([0.05, 0.5], 0.1) > 10


@pytest.mark.parametrize("error", [[0.05, 0.5], [0.05, 0.05]])
def test_noise_that_all_members_share_decides_no_weights(error):
    """Noise of 1 in ln N* would drown errors of the form, and make the members alike."""

    def weights(shared):
        chain = chain_with(error, 0.01)
        noise = np.sqrt(shared**2 + np.array([[0.01], [0.04]]) ** 2)
        return weigh(replace(chain, reference={"params": np.tile(noise, 3)}), 2, "params", 0.01)

    alone = weights(0.0)
    assert weights(1.0) == pytest.approx(alone, rel=1e-9)
    assert alone[0] > 1.3 * alone[1]


def test_one_quiet_member_does_not_determine_what_the_others_cannot():
    """The best weights lie on a standard error of 0.3, but the members' is above 0.35 in the mean."""
    nothing, noise = np.full((4, 1, 1), np.nan), np.array([[0.3], [0.45], [0.7], [0.9]])
    chain = Chain(
        log_c=np.zeros(1),
        end=0.0,
        at=np.zeros(1, dtype=int),
        error={"params": nothing},
        sd={"params": nothing},
        se={"params": np.zeros(1)},
        runs=nothing,
        reference={"params": noise},
    )
    weight = weigh(chain, 0, "params", 0.01)
    assert weight[0] > 0.9
    stack = Stack(list("abcd"), StackLaw((), {"params": weight}), None, chain, 0.01, {}, [])
    law = SurfaceLaw(np.array([[1.7, 6.0, 7.0, 0.35, 0.35]]))
    stack = replace(stack, law=StackLaw((law,) * 4, {"params": weight, "loss": weight}))
    vagueness = stack.vagueness(one_budget=False, cost=Cost())
    said = "standard error of ln N* at 3 times the largest budget is 0.4"
    assert said in vagueness.too_large()
    assert vagueness.contradicts("surface", vagueness.log_n + 0.6) == ""
    assert "2.2 times lower" in vagueness.contradicts("surface", vagueness.log_n - 0.8)
    quiet = replace(chain, reference={"params": np.full((4, 1), 0.3)})
    assert replace(stack, chain=quiet).vagueness(one_budget=False, cost=Cost()).too_large() == ""


def test_no_single_estimator_answers_against_a_stack_that_is_too_vague():
    """A simulated sweep whose law bends: N* at twice its largest budget is 2.8e9.

    The surface said 1.07e11 there, with an interval of 6.7e10 to 1.6e11 for its noise.
    """
    runs = pd.read_csv(Path(__file__).parent / "bent.csv")
    fit = fit_runs(runs.assign(flops=6 * runs.params * runs.tokens), bootstrap=100)
    assert fit.headline.a > 0.9
    assert fit.status == "not_identifiable"
    said = "surface puts N* at 3 times the largest budget 43 times higher than several forms of law"
    assert said in fit.headline.reason
    answer = predict(fit, 1.024e21)
    assert (answer.verdict, answer.params) == ("not identifiable", None)


def test_a_measured_minimum_is_near_the_truth_by_its_own_error():
    law, errors = LAWS["besiroglu"], []
    for seed in range(20):
        frame = sweep(law, (4.0, 0.0, 0.0), sizes=9, budgets=3, noise=0.003, seed=seed)
        logs = [np.log(frame[c].to_numpy()) for c in ("params", "loss", "flops")]
        groups = [
            (c, np.flatnonzero(frame["budget"] == c)) for c in sorted(frame["budget"].unique())
        ]
        for minimum in measure(*logs, groups, np.ones(len(frame))):
            if minimum:
                best = bent_optimum((*law, 1.0, 0.0), minimum.flops)
                errors.append((minimum.log_n - best) / minimum.se_n)
    assert len(errors) > 50
    assert np.mean(np.abs(errors) < 1.645) == pytest.approx(0.9, abs=0.1)


def test_clusters_hold_every_run_once_and_none_is_small():
    log_c = np.sort(np.random.default_rng(0).uniform(40, 48, 90))
    groups = groups_of(log_c, [])
    assert sorted(np.concatenate([rows for _, rows in groups])) == list(range(90))
    assert min(len(rows) for _, rows in groups) >= 8
    assert groups_of(log_c[:10], []) == []


def test_a_stack_survives_json_and_its_weights_are_shares():
    fit = fit_runs(small_models(), bootstrap=50)
    again = Fit.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert predict(again, 2.43e12) == predict(fit, 2.43e12)
    plain = law_to_dict(fit.laws["stack"].law)
    law = law_from_dict(plain)
    assert law_to_dict(law) == plain
    for weight in law.weights.values():
        assert weight.sum() == pytest.approx(1)
        assert (weight >= 0).all()


def test_a_law_that_is_none_has_a_finite_loss():
    """A resample may be one, and a quantile between infinities is no number."""
    law = BentLaw(np.array([[1.0, 900.0, 900.0, 0.3, 0.3, 3.0, 0.0]]))
    assert np.isfinite(law.loss(np.array([10.0]), np.array([10.0]))).all()


def test_a_bent_law_wastes_what_it_says():
    e, a, b, alpha, beta, gamma, kappa = BENT["gamma + B(N)"]
    law = BentLaw(np.array([[e, np.log(a), np.log(b), alpha, beta, gamma, kappa]]))
    log_c, cost = np.log(1e21), Cost()
    log_n, lowest = law.optimum(log_c, cost)
    assert log_n[0] == pytest.approx(bent_optimum(BENT["gamma + B(N)"], 1e21), abs=1e-12)
    waste = law.waste(log_n + np.log(2), log_c, cost)
    more = cost.log_tokens(log_n + np.log(2), log_c + np.log1p(waste))
    assert law.loss(log_n + np.log(2), more) == pytest.approx(lowest, rel=1e-12)


def test_predictions_of_the_chain_use_none_of_the_runs_that_they_predict():
    frame = sweep(LAWS["hoffmann"], noise=0.003)
    spoiled = frame.copy()
    top = spoiled["budget"] == spoiled["budget"].max()
    spoiled.loc[top, "loss"] *= 1.05
    one, two = (
        fit_runs(f, bootstrap=0, sensitivity=False, exclude="none").stack.tests["loss"]
        for f in (frame, spoiled)
    )
    last = frame["budget"].max()
    for a, b in zip(one, two, strict=True):
        shift = -np.log(1.05) if a.flops == pytest.approx(last) else 0.0
        assert b.error - a.error == pytest.approx(shift, abs=2e-4)


def test_the_record_speaks_of_answers_of_the_same_kind():
    near = record_words("trust", 2.0)
    entry = record()["trust, up to 3x"]
    assert f"on {entry['rows']} held-out budgets of {record()['sweeps']} published sweeps" in near
    assert f"the measured N* inside their interval in {entry['params']:.0%}" in near
    assert "the verdict provisional" in record_words("provisional", 5.0)
    assert record_words("not identifiable", 1.0) == ""


@pytest.mark.parametrize(("drift", "least", "most"), [(0.0, 0.0, 0.02), (0.004, 0.03, 0.4)])
def test_the_interval_narrows_with_the_noise_where_a_form_is_exact_and_not_where_none_is(
    drift, least, most
):
    law = LAWS["besiroglu"]

    def loss(log_n, flops):
        log_d = np.log(flops / 6) - log_n
        beta = law[4] + drift * (log_n - log_optimum(law, 1e19))
        return law[0] + law[1] * np.exp(-law[3] * log_n) + law[2] * np.exp(-beta * log_d)

    frame = sweep(law, noise=1e-5)
    noise = frame["loss"] / loss_of(law, frame["params"], frame["tokens"])
    frame["loss"] = noise * loss(np.log(frame["params"]), frame["flops"])
    near = log_optimum(law, 1e21) + np.linspace(-3, 3, 60_001)
    best = near[np.argmin(loss(near, 1e21))]
    answer = predict(fit_runs(frame, bootstrap=60, sensitivity=False), 1e21)
    low, high = np.log(answer.ci["params"])
    assert low < best < high
    assert least < (high - low) / 2 < most
