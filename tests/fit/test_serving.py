"""The model that is cheapest to train and serve: the published cases, and where it is no more than a guess."""

import json

import numpy as np
import pytest
from published_schemas import problems
from scipy.optimize import brentq
from simulated import GRIDS, LAWS, log_optimum, loss_of, small_models, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, ask, fit_runs, losses_at, predict
from flops_fit.fit.questions import weakest_verdict
from flops_fit.fit.verdict import ratios_of
from flops_fit.report.answer_lines import describe

# Hoffmann et al. 2022 with the exponents that Sardana et al. 2024 refitted.
REFITTED = (1.69, 406.4, 410.7, 0.3392, 0.2849)


@pytest.fixture(scope="module")
def exact() -> Fit:
    return fit_runs(sweep(REFITTED, GRIDS["off and drifting"]), bootstrap=0, sensitivity=False)


@pytest.fixture(scope="module")
def noisy() -> Fit:
    runs = sweep(LAWS["besiroglu"], GRIDS["narrow"], noise=0.002)
    return fit_runs(runs, bootstrap=100, sensitivity=False)


def budget_of(params: float) -> float:
    """C whose optimum has so many parameters."""
    return np.exp(brentq(lambda c: log_optimum(REFITTED, np.exp(c)) - np.log(params), 40, 80))


@pytest.mark.parametrize(
    ("quality", "tokens", "params", "more", "saved"),
    [(13e9, 2e12, 7.1e9, 2.10, 0.163), (30e9, 1e13, 13.9e9, 2.74, 0.265)],
)
def test_the_published_cases(exact, quality, tokens, params, more, saved):
    """Sardana et al. 2024, arXiv 2401.00448."""
    answer = ask(exact, budget_of(quality), serve=tokens)
    served = answer.served
    assert served.params == pytest.approx(params, rel=0.01)
    assert served.tokens / answer.tokens == pytest.approx(more, rel=0.01)
    assert served.saved == pytest.approx(saved, rel=0.01)


def test_on_runs_without_noise_every_number_is_exact(exact):
    flops, tokens = 1e21, 3e11
    served = ask(exact, flops, serve=tokens).served
    assert loss_of(REFITTED, served.params, served.tokens) == pytest.approx(served.loss, rel=1e-9)
    assert served.flops_training == pytest.approx(6 * served.params * served.tokens, rel=1e-9)
    total = served.flops_training + 2 * served.params * tokens
    assert served.flops_total == pytest.approx(total, rel=1e-9)

    def cost(params):
        e, a, b, alpha, beta = REFITTED
        trained = ((served.loss - e - a * params**-alpha) / b) ** (-1 / beta)
        return params * (6 * trained + 2 * tokens)

    for factor in (0.999, 1.001):
        assert cost(served.params * factor) > total
    for end in served.range_1pct:
        assert cost(end) == pytest.approx(1.01 * total, rel=1e-6)
    assert served.ci == {}


def test_a_total_pays_for_the_best_model_that_it_can(exact):
    flops, tokens = 1e21, 3e11
    best = ask(exact, flops, serve=tokens).served.for_total
    assert 6 * best.params * best.tokens + 2 * best.params * tokens == pytest.approx(flops)
    assert loss_of(REFITTED, best.params, best.tokens) == pytest.approx(best.loss)
    for params in best.params * np.array([0.9, 1.1]):
        rest = flops / params - 2 * tokens
        assert loss_of(REFITTED, params, rest / 6) > best.loss


def test_a_total_that_serving_eats_up_pays_for_no_model(exact):
    answer = ask(exact, 1e20, serve=1e16)
    assert answer.served.for_total is None
    assert answer.served.flops_total > answer.flops
    assert "10²⁰ FLOPs do not pay for serving so many tokens" in describe(answer, exact)
    assert problems("answer", answer.to_dict()) == []


def test_serving_next_to_nothing_is_the_optimum(noisy):
    answer = ask(noisy, 1e20, serve=1.0)
    assert answer.served.params == pytest.approx(answer.params, rel=1e-4)
    assert answer.served.flops_training == pytest.approx(answer.flops, rel=1e-6)
    assert answer.served.saved == pytest.approx(0, abs=1e-6)
    assert answer.served.verdict == answer.verdict


def test_a_forward_pass_costs_a_third_of_the_true_cost_per_token():
    fit = fit_runs(small_models(), bootstrap=0, sensitivity=False)
    served = ask(fit, 8e11, serve=1e8).served
    per_token = float(np.exp(fit.cost.log_flops_per_token(np.log(served.params))))
    assert served.flops_training == pytest.approx(per_token * served.tokens, rel=1e-9)
    serving = served.flops_total - served.flops_training
    assert serving == pytest.approx(per_token / 3 * 1e8, rel=1e-9)


@pytest.mark.parametrize("method", ["isoflop", "surface"])
def test_a_single_estimator_answers_too(method):
    runs = sweep(LAWS["besiroglu"], noise=0.002)
    fit = fit_runs(runs, bootstrap=50, method=method, sensitivity=False)
    answer = ask(fit, 1e20, serve=1e11)
    assert answer.served.params < answer.params
    for name in ("params", "tokens"):
        low, high = answer.served.ci[name]
        assert low < getattr(answer.served, name) < high


def test_beyond_the_tokens_per_parameter_of_the_runs_the_verdict_falls(noisy):
    inside, beyond = (ask(noisy, 1e20, serve=tokens) for tokens in (1e8, 1e12))
    assert inside.served.verdict == inside.verdict == "trust"
    assert beyond.verdict == "trust"
    assert beyond.served.verdict == weakest_verdict(beyond) == "provisional"
    assert "beyond those of the runs" in beyond.served.reasons[-1]
    assert "flops-fit next --serve" in describe(beyond, noisy)
    assert beyond.served.saved > inside.served.saved >= 0
    wide, narrow = (np.ptp(np.log(a.served.ci["params"])) for a in (beyond, inside))
    assert wide > narrow


def test_the_loss_of_a_run_unlike_all_others_is_not_trusted(noisy):
    low, high = ratios_of(noisy)
    ratio = np.array([low, np.sqrt(low * high), high, low / 1.2, high * 1.2, high * 20])
    params = np.sqrt(noisy.data.largest_budget / 6 / ratio)
    at = losses_at(noisy, params, ratio * params)
    assert list(at["verdict"]) == ["trust"] * 3 + ["provisional"] * 3
    half = np.log(at["loss_high"] / at["loss"])
    assert half[5] > 2 * half[4] > 2 * half[2]
    cheap = np.sqrt(noisy.data.flops[0] / 6 / ratio[1] / np.array([1.0, 2.0]))
    verdicts = losses_at(noisy, cheap, ratio[1] * cheap)["verdict"]
    assert list(verdicts) == ["trust", "provisional"]
    beyond = predict(noisy, 1e20, params=float(np.sqrt(1e20 / 6 / ratio[5])))
    assert "so no run tests this" in beyond.chosen.remarks[-1]


def test_intervals_hold_the_truth_as_often_as_those_of_the_optimum():
    """Within the tokens per parameter of the runs, where the law has the right form."""
    law, held = LAWS["besiroglu"], 0
    truth = ask(fit_runs(sweep(law), bootstrap=0, sensitivity=False), 1e20, serve=1e11).served
    for seed in range(3):
        fit = fit_runs(sweep(law, noise=0.005, seed=seed), bootstrap=60, sensitivity=False)
        ci = ask(fit, 1e20, serve=1e11).served.ci
        held += ci["params"][0] < truth.params < ci["params"][1]
        held += ci["tokens"][0] < truth.tokens < ci["tokens"][1]
    assert held >= 5


def test_the_answer_keeps_its_schema_and_is_empty_where_nothing_is_identifiable(noisy):
    answer = ask(noisy, 1e20, serve=1e11).to_dict()
    assert problems("answer", answer) == []
    assert problems("answer", answer | {"served": answer["served"] | {"surprise": 1}})
    json.dumps(answer, allow_nan=False)
    line = sweep(LAWS["besiroglu"]).assign(tokens=1e10)
    fit = fit_runs(line.drop(columns=["flops", "budget"]), bootstrap=0, sensitivity=False)
    nothing = ask(fit, 1e20, serve=1e11)
    assert nothing.served is None
    assert weakest_verdict(nothing) == "not identifiable"


@pytest.mark.parametrize("tokens", [0, -1, float("nan"), "many"])
def test_a_number_of_tokens_that_is_none_is_refused(exact, tokens):
    with pytest.raises(FlopsFitError, match=r"serve: .*; allowed: a positive finite number"):
        ask(exact, 1e20, serve=tokens)
