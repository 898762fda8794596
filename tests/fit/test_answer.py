"""predict: the optimum on the true cost, ranges that cost what they say, verdicts in words."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from simulated import GRIDS, LAWS, log_optimum, loss_of, small_models, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, fit_runs, predict
from flops_fit.fit.cost import Cost, cost_of
from flops_fit.fit.laws import PathLaw, SurfaceLaw
from flops_fit.fit.sizes import Size
from flops_fit.fit.verdict import promise_text
from flops_fit.notation import count_text, loss_text
from flops_fit.report.answer_lines import describe

KEYS = {
    "flops",
    "params",
    "tokens",
    "loss",
    "tokens_per_param",
    "ci",
    "range_1pct",
    "range_5pct",
    "size_value",
    "beyond_data",
    "verdict",
    "reasons",
    "ci_noise",
    "promise",
    "axis",
}


def surface(law):
    e, a, b, alpha, beta = law
    return SurfaceLaw(np.array([[e, np.log(a), np.log(b), alpha, beta]]))


@pytest.fixture(scope="module")
def noisy():
    return fit_runs(sweep(LAWS["besiroglu"], noise=0.005), bootstrap=200)


def test_the_answer_has_every_promised_key_and_only_finite_numbers(noisy):
    answer = predict(noisy, 1e21)
    assert set(answer.to_dict()) >= KEYS
    json.dumps(answer.to_dict(), allow_nan=False)
    json.dumps(noisy.to_dict(), allow_nan=False)
    assert set(answer.ci) == {"params", "tokens", "loss", "tokens_per_param"}
    for name, (low, high) in answer.ci.items():
        least, most = answer.ci_noise[name]
        assert low < least < getattr(answer, name) < most < high
    assert answer.params * answer.tokens * 6 == pytest.approx(1e21)
    assert answer.tokens_per_param == pytest.approx(answer.tokens / answer.params)
    assert answer.beyond_data == pytest.approx(10)


def test_a_bound_is_named_by_the_estimator_that_hit_it(noisy):
    headline = replace(noisy.headline, method="tied", reason="at bound: E")
    asked = replace(noisy, status="at_bound", headline=headline, stack=None)
    answer = predict(asked, 1e20)
    assert answer.reasons[0] == "at bound: E"
    assert answer.verdict == "provisional"


def test_the_answer_is_the_same_after_a_round_trip_through_json(noisy):
    again = Fit.from_dict(json.loads(json.dumps(noisy.to_dict())))
    assert again.to_dict() == noisy.to_dict()
    assert predict(again, 3e20) == predict(noisy, 3e20)


def test_noise_free_answers_are_exact_at_a_hundred_times_the_data():
    law = LAWS["hoffmann"]
    fit = fit_runs(sweep(law, GRIDS["off and drifting"]), bootstrap=0)
    answer = predict(fit, 1e22)
    assert abs(np.log(answer.params) - log_optimum(law, 1e22)) <= 1e-10
    assert answer.loss == pytest.approx(loss_of(law, answer.params, answer.tokens))
    assert answer.ci == {}


def test_the_optimum_is_found_on_the_cost_that_runs_really_have():
    law, factor = LAWS["besiroglu"], 1.0
    sizes = np.geomspace(1e7, 1e10, 12)
    per_token = 6 * sizes * (factor + 0.5 * (sizes / 1e7) ** -0.3)
    cost = Cost(6.0, tuple(sizes), tuple(per_token))
    log_n, loss = surface(law).optimum(np.log(1e20), cost)

    def on_the_line(log_n):
        return loss_of(law, np.exp(log_n), np.exp(cost.log_tokens(log_n, np.log(1e20))))

    brute = minimize_scalar(
        on_the_line, bounds=(17, 23), method="bounded", options={"xatol": 1e-10}
    )
    assert log_n[0] == pytest.approx(brute.x, abs=1e-5)
    assert loss[0] == pytest.approx(brute.fun, rel=1e-12)
    plain = surface(law).optimum(np.log(1e20), Cost())[0]
    assert abs(log_n[0] - plain[0]) > 0.01


def test_the_slope_is_the_closed_form_on_6nd_and_departs_from_it_on_a_true_cost():
    law = surface(LAWS["besiroglu"])
    assert law.slope(np.log(1e20), Cost())[0] == pytest.approx(law.exponent()[0], abs=1e-9)
    sizes = np.geomspace(1e8, 1e10, 9)
    bent = Cost(6.0, tuple(sizes), tuple(6 * sizes**0.9))
    assert abs(law.slope(np.log(1e20), bent)[0] - law.exponent()[0]) > 0.005


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_at_the_ends_of_the_range_the_optimum_costs_what_it_says(share):
    law, cost, log_c = surface(LAWS["besiroglu"]), Cost(), np.log(1e21)
    log_n, target = law.optimum(log_c, cost)
    low, high = law.range(log_c, cost, share)
    assert low[0] < log_n[0] < high[0]
    for end in (low, high):
        more = cost.log_tokens(end, log_c + np.log1p(share))
        assert law.loss(end, more)[0] == pytest.approx(target[0], rel=1e-10)


def test_twice_the_best_size_wastes_about_a_seventh_of_the_compute():
    law = surface(LAWS["hoffmann"])
    _, high = law.range(np.log(1e21), Cost(), 0.14)
    assert np.exp(high - law.optimum(np.log(1e21), Cost())[0])[0] == pytest.approx(2, rel=0.03)


def test_range_of_a_path_law_agrees_with_the_surface_it_came_from():
    law, cost, log_c = LAWS["besiroglu"], Cost(), np.log(1e20)
    true = surface(law)
    log_n, loss = (v[0] for v in true.optimum(log_c, cost))
    step = 1e-3
    around = [true.loss(log_n + s, cost.log_tokens(log_n + s, log_c))[0] for s in (-step, step)]
    curvature = (around[0] + around[1] - 2 * loss) / (2 * step**2)
    gamma = law[3] * law[4] / (law[3] + law[4])
    a = law[4] / (law[3] + law[4])
    path = PathLaw(
        np.array(
            [
                [
                    log_n - a * log_c,
                    a,
                    law[0],
                    np.log(loss - law[0]) + gamma * log_c,
                    gamma,
                    curvature / (loss - law[0]),
                ]
            ]
        )
    )
    for share in (0.01, 0.05):
        ours, theirs = path.range(log_c, cost, share), true.range(log_c, cost, share)
        assert [v[0] for v in ours] == pytest.approx([v[0] for v in theirs], abs=0.03)


def test_small_models_get_a_buildable_size_near_the_best_n():
    fit = fit_runs(small_models(), bootstrap=100)
    answer = predict(fit, 2.43e12)
    assert answer.method == "stack"
    width = answer.size_value
    assert 24 * width**2 + 128 * width == pytest.approx(answer.params, rel=0.05)
    # A fifth budget was trained later: its parabola has N* = 141k and loss 1.2472.
    assert answer.params == pytest.approx(141e3, rel=0.12)
    low, high = answer.ci["loss"]
    assert low < 1.2472 < high


def test_there_is_no_size_value_without_integer_sizes(noisy):
    assert predict(noisy, 1e20).size_value is None


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("promise", "text"),
    [(0.854, "85%"), (0.8958, "89.5%"), (0.8999, "89.9%"), (0.9, "90%"), (0.996, "over 99%")],
)
def test_a_probability_below_what_trust_needs_reads_as_below(promise, text):
    assert promise_text(promise) == text


def test_verdicts():
    law = LAWS["besiroglu"]
    sure = fit_runs(sweep(law, noise=0.001, sizes=11), bootstrap=100)
    assert predict(sure, 3e20).verdict == "trust"
    far = predict(sure, 1e23)
    assert far.verdict == "provisional"
    assert not any("a guess" in r for r in far.reasons)
    assert any("a guess" in r for r in predict(sure, 1.1e23).reasons)
    assert any("times the largest budget" in r for r in far.reasons)
    without = predict(fit_runs(sweep(law), bootstrap=0), 3e20)
    assert without.verdict == "provisional"
    assert any("no intervals" in r for r in without.reasons)
    narrow = sweep(law, (1.2, 0, 0), budgets=1, sizes=8, noise=0.01)
    vague = fit_runs(narrow, bootstrap=50, sensitivity=False)
    answer = predict(vague, 1e19)
    assert answer.verdict == "not identifiable"
    assert answer.params is None


def test_beyond_the_data_an_untested_prediction_is_provisional():
    two = fit_runs(sweep(LAWS["besiroglu"], budgets=2, sizes=11, noise=0.0005), bootstrap=100)
    assert not two.heldout.levels
    largest = two.data.largest_budget
    assert not any("untested" in r for r in predict(two, largest).reasons)
    assert any("untested" in r for r in predict(two, 1.1 * largest).reasons)


def test_runs_of_one_budget_say_so():
    fit = fit_runs(sweep(LAWS["besiroglu"], budgets=1, noise=0.001), bootstrap=50)
    reasons = predict(replace(fit, status="converged"), 1e18).reasons
    assert any("too little to see a trend" in r for r in reasons)


def test_an_edge_budget_takes_trust_away():
    law = LAWS["besiroglu"]
    frame = sweep(law, GRIDS["narrow"], noise=0.0005)
    top = frame["budget"].max()
    cut = frame[(frame["budget"] < top) | (frame["params"] < np.exp(log_optimum(law, top)) * 0.8)]
    reasons = predict(fit_runs(cut, bootstrap=100), 2e20).reasons
    assert any("at edge" in r for r in reasons)


def test_edge_budgets_far_below_the_question_do_not_decide():
    law = LAWS["besiroglu"]
    frame = sweep(law, noise=0.0005, budgets=12, sizes=9, low=1e17, high=1e20)
    cheap = frame["budget"] < 4e17
    cut = frame[~cheap | (frame["params"] < np.exp(log_optimum(law, 3e17)) * 0.7)]
    fit = fit_runs(cut, bootstrap=100)
    assert sum(b.status != "bracketed" for b in fit.isoflop.budgets) >= 2
    assert predict(fit, 2e20).reasons == []


@pytest.mark.parametrize(("most", "verdict"), [(4.0, "trust"), (7.6, "provisional")])
def test_data_read_more_often_than_they_stay_fresh_take_trust_away(most, verdict):
    runs = sweep(LAWS["besiroglu"])
    runs["epochs"] = np.linspace(0.1, most, len(runs))
    answer = predict(fit_runs(runs, bootstrap=100), 1e20)
    assert answer.verdict == verdict
    assert [r for r in answer.reasons if "7.6 times" in r] == answer.reasons


def test_a_path_that_is_biased_gets_no_say_in_the_stack():
    frame = sweep(LAWS["lopsided"], (30.0, 0.0, 0.0), noise=0.0005)
    fit = fit_runs(frame, bootstrap=100)
    answer = predict(fit, 1e21)
    assert answer.estimators["isoflop"] / answer.estimators["surface"] < 0.8
    assert answer.params == pytest.approx(np.exp(log_optimum(LAWS["lopsided"], 1e21)), rel=0.05)


@pytest.mark.parametrize("flops", [0, -1e20, float("nan"), float("inf"), "much"])
def test_a_budget_that_is_not_positive_is_refused(noisy, flops):
    with pytest.raises(FlopsFitError, match="allowed: a positive finite number"):
        predict(noisy, flops)


def test_the_description_says_what_the_answer_says(noisy):
    answer = predict(noisy, 1e21)
    text = describe(answer, noisy)
    for part in (count_text(answer.params), loss_text(answer.loss), answer.verdict, "90%"):
        assert part in text
    assert all(reason in text for reason in answer.reasons)


def frame_with_rate(rate):
    sizes = np.repeat(np.geomspace(1e7, 1e9, 6), 3)
    tokens = np.tile([1e9, 3e9, 9e9], 6)
    return pd.DataFrame({"params": sizes, "tokens": tokens, "flops": rate(sizes) * tokens})


def test_cost_is_6nd_where_the_runs_say_so_and_a_table_where_f_bends():
    cost, words = cost_of(frame_with_rate(lambda n: 6 * n))
    assert cost == Cost()
    assert words == "C = 6 N D"
    cost, words = cost_of(frame_with_rate(lambda n: 6 * n**0.9))
    assert len(cost.params) == 6
    assert cost.log_flops_per_token(np.log(1e8)) == pytest.approx(np.log(6 * 1e8**0.9), rel=1e-9)
    assert "6 sizes" in words
    cost, _ = cost_of(frame_with_rate(lambda n: 7 * n))
    assert cost.factor == pytest.approx(7)
    assert cost.params == ()


def test_beyond_the_table_the_cost_per_parameter_stays():
    cost = Cost(6.0, (1e7, 1e8), (7e7, 6.5e8))
    assert np.exp(cost.log_flops_per_token(np.log(1e9))) == pytest.approx(6.5e9)
    assert cost.slope(np.log(1e9)) == 1
    assert "keeps its last value" in cost.beyond
    assert Cost.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost


def test_above_the_table_the_cost_follows_the_trend_of_its_last_sizes():
    def rate(n):
        return n * (6 + 2 * (n / 1e7) ** -0.4)

    sizes = np.geomspace(1e7, 1e8, 6)
    cost = Cost(6.0, tuple(sizes), tuple(rate(sizes)))
    for n, close in ((1.5e8, 1e-3), (1e9, 5e-3), (1e12, 2e-2)):
        assert np.exp(cost.log_flops_per_token(np.log(n))) == pytest.approx(rate(n), rel=close)
        kept = rate(1e8) / 1e8 * n
        assert abs(rate(n) - kept) > close * rate(n)
    assert "falls as N^-0.34" in cost.beyond
    edge = np.log(1e8)
    assert cost.slope(edge + 1e-9) == pytest.approx(cost.slope(edge - 1e-9), abs=0.005)
    assert Cost.from_dict(json.loads(json.dumps(cost.to_dict()))).slope(25.0) == cost.slope(25.0)


def test_costs_counted_beyond_the_runs_are_exact_there_and_named():
    def rate(n):
        return n * (6 + 2 * (n / 1e7) ** -0.4)

    beyond = [Size(params=n, flops_per_token=rate(n)) for n in (2e9, 4e9, 8e9)]
    frame = frame_with_rate(rate)
    cost, words = cost_of(frame, beyond)
    for n in (1e7, 2e9, 8e9):
        assert np.exp(cost.log_flops_per_token(np.log(n))) == pytest.approx(rate(n), rel=1e-12)
    assert np.exp(cost.log_flops_per_token(np.log(5e9))) == pytest.approx(rate(5e9), rel=1e-4)
    assert "of 9 sizes, 3 of them counted beyond the runs" in words
    assert "counted" not in cost_of(frame)[1]
    # Where the cost of a run is no function of N, sizes above the runs cannot stand for them.
    scattered = frame.assign(flops=frame["flops"] * np.tile([1.0, 1.1, 0.9], 6))
    assert cost_of(scattered, beyond) == cost_of(scattered)


@pytest.mark.parametrize("method", ["surface", "isoflop"])
def test_what_is_wasted_at_the_ends_of_a_range_is_its_share(method):
    fit = fit_runs(small_models(), bootstrap=0, method=method)
    for share, name in ((0.01, "range_1pct"), (0.05, "range_5pct")):
        for end in getattr(predict(fit, 1e12), name):
            own = predict(fit, 1e12, params=end).chosen
            assert own.waste == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("method", ["auto", "surface"])
def test_the_waste_is_the_compute_that_buys_the_loss_of_the_optimum(method):
    law = LAWS["besiroglu"]
    fit = fit_runs(sweep(law), bootstrap=0, method=method)
    answer = predict(fit, 1e21)
    assert [r.factor for r in answer.regret] == [0.5, 2.0, 4.0]
    for entry in answer.regret:
        tokens = 1e21 * (1 + entry.waste) / (6 * entry.params)
        assert loss_of(law, entry.params, tokens) == pytest.approx(answer.loss, rel=1e-9)
    assert answer.regret[1].waste == pytest.approx(0.148, abs=0.002)
    assert predict(fit, 1e21, params=answer.params).chosen.waste == pytest.approx(0, abs=1e-9)


def test_a_model_too_small_for_the_loss_says_that_no_compute_is_enough():
    answer = predict(fit_runs(sweep(LAWS["besiroglu"]), bootstrap=0), 1e21, params=1e6)
    assert answer.chosen.waste is None
    json.dumps(answer.to_dict(), allow_nan=False)


def test_a_given_size_or_amount_of_data_is_a_point_of_the_same_compute():
    fit = fit_runs(small_models(), bootstrap=0, method="surface")
    cost = fit.cost
    best = predict(fit, 1e12)
    own = predict(fit, 1e12, params=2e5).chosen
    assert own.tokens * np.exp(cost.log_flops_per_token(np.log(2e5))) == pytest.approx(1e12)
    assert own.loss > best.loss
    same = predict(fit, 1e12, tokens=own.tokens).chosen
    assert same.params == pytest.approx(2e5, rel=1e-9)
    assert same.epochs == pytest.approx(best.tokens / own.tokens)
    assert "nearly as good as fresh" in same.remarks[0]
    few = predict(fit, 1e12, tokens=best.tokens / 10).chosen
    assert "lose their value" in few.remarks[0]


def test_enough_data_leave_the_optimum_as_it_is(noisy):
    answer = predict(noisy, 1e20, tokens=1e15)
    assert answer.chosen.params == pytest.approx(answer.params)
    assert answer.chosen.waste == pytest.approx(0, abs=1e-9)
    assert "enough tokens" in answer.chosen.remarks[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": -1}, "params: -1; allowed"),
        ({"tokens": float("nan")}, "tokens: nan; allowed"),
        ({"params": 1e8, "tokens": 1e9}, "give one"),
    ],
)
def test_a_bad_size_or_amount_is_refused(noisy, given, message):
    with pytest.raises(FlopsFitError, match=message):
        predict(noisy, 1e20, **given)


def test_the_size_to_build_is_a_multiple_of_what_all_sizes_share_and_stands_in_the_config():
    import yaml

    frame = small_models()
    answer = predict(fit_runs(frame[frame["size"] % 16 == 0], bootstrap=0), 3e12)
    assert answer.size_value % 16 == 0
    lines = yaml.safe_load(answer.config)
    assert float(lines["budgets"][0]) == 3e12
    assert lines["sizes"] == {"values": [answer.size_value]}


def test_a_loss_carries_the_unit_that_was_asked_for():
    fit = fit_runs(sweep(LAWS["besiroglu"]), bootstrap=20, loss_unit="squared error")
    assert "loss (squared error)" in describe(predict(fit, 1e20), fit)


def test_trust_is_given_and_withheld_by_the_probability_of_the_promise(noisy):
    near, far = predict(noisy, 1e20), predict(noisy, 1e21)
    assert near.promise > far.promise
    for answer in (near, far):
        doubted = any("at most 5% more compute" in r for r in answer.reasons)
        assert doubted == (answer.promise < 0.9)
        assert (answer.verdict == "trust") == (not doubted)


def test_one_estimator_asked_for_has_an_interval_of_noise_alone_and_no_trust():
    fit = fit_runs(sweep(LAWS["besiroglu"], noise=0.001), bootstrap=60, method="surface")
    answer = predict(fit, 1e20)
    assert fit.stack is None
    assert answer.ci == answer.ci_noise
    assert answer.promise is None
    assert answer.verdict == "provisional"
    assert any("noise only" in r for r in answer.reasons)


def one_axis(x):
    """Runs in which N and D do not vary apart, and the law that they then follow."""
    law, k = LAWS["besiroglu"], np.geomspace(1, 300, 8)
    params = {"params": 1e7 * k, "tokens": np.full(8, 1e8), "flops": 1e7 * k}[x]
    tokens = {
        "params": np.full(8, 1e9),
        "tokens": 1e8 * k,
        "flops": 20e7 * k * np.tile([1, 1.01], 4),
    }[x]
    frame = pd.DataFrame({"params": params, "tokens": tokens, "flops": 6 * params * tokens})
    return frame.assign(loss=loss_of(law, params, tokens))


@pytest.mark.parametrize("x", ["params", "tokens", "flops"])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_table_of_one_axis_offers_no_numbers_but_the_law_along_it(x, noise):
    frame = one_axis(x)
    rng = np.random.default_rng(0)
    frame["loss"] *= np.exp(noise * rng.standard_normal(len(frame)))
    fit = fit_runs(frame, bootstrap=50, sensitivity=False)
    flops = 2 * frame["flops"].max()
    answer = predict(fit, flops)
    assert answer.verdict == "not identifiable"
    for name in ("params", "tokens", "loss", "ci", "ci_noise", "config", "size_value", "slope"):
        assert getattr(answer, name) is None
    json.dumps(answer.to_dict(), allow_nan=False)
    axis = answer.axis
    assert axis.x == x
    assert "N* needs" in axis.missing
    at = {
        "params": (2 * frame["params"].max(), 1e9),
        "tokens": (1e8, 2 * frame["tokens"].max()),
        "flops": np.sqrt(flops / 120) * np.array([1, 20.0]),
    }[x]
    assert axis.loss == pytest.approx(loss_of(LAWS["besiroglu"], *at), rel=0.002 + 4 * noise)
    assert axis.ci[0] <= axis.loss <= axis.ci[1]
    assert axis.verdict == "provisional"
    text = describe(answer, fit)
    assert text.splitlines()[0].endswith("not identifiable")
    assert "along their one axis" in text
    if noise == 0 and x != "flops":
        alpha, beta = LAWS["besiroglu"][3:]
        assert axis.alpha == pytest.approx(alpha if x == "params" else beta, abs=1e-3)


def test_one_budget_has_an_optimum_and_says_nothing_of_others():
    law = LAWS["besiroglu"]
    fit = fit_runs(sweep(law, budgets=1, noise=0.002), bootstrap=60)
    here, there = predict(fit, 1e18), predict(fit, 1e19)
    assert here.params == pytest.approx(np.exp(log_optimum(law, 1e18)), rel=0.1)
    assert here.verdict == "provisional"
    assert there.verdict == "not identifiable"
    assert there.params is None
