"""The single estimators on budgets left out, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from simulated import GRIDS, LAWS, log_optimum, loss_of, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs
from flops_fit.fit.estimators import Runs
from flops_fit.fit.heldout import Reference
from flops_fit.fit.runs import budget_groups


def test_without_shared_budgets_clusters_in_compute_test_the_stack():
    generator = np.random.default_rng(0)
    frame = sweep(LAWS["besiroglu"], noise=0.003)
    frame["tokens"] *= np.exp(generator.uniform(-1, 1, len(frame)))
    frame["flops"] = 6 * frame["params"] * frame["tokens"]
    frame["loss"] = loss_of(LAWS["besiroglu"], frame["params"], frame["tokens"])
    frame["loss"] *= np.exp(0.003 * generator.standard_normal(len(frame)))
    fit = fit_runs(frame.drop(columns="budget"), bootstrap=0)
    assert fit.headline.method == "stack"
    assert "budgets left out" in fit.headline.why
    assert fit.stack.tests["loss"]
    assert fit.isoflop.budgets == []
    assert "no shared budgets" in fit.isoflop.reason


def test_predictions_of_left_out_budgets_use_none_of_their_runs():
    frame = sweep(LAWS["hoffmann"], noise=0.003)
    spoiled = frame.copy()
    top = spoiled["budget"] == spoiled["budget"].max()
    spoiled.loc[top, "loss"] += 0.05
    one, two = (fit_runs(f, bootstrap=0).heldout.levels[0] for f in (frame, spoiled))
    for a, b in zip(one.predictions, two.predictions, strict=True):
        assert a.params == b.params
        assert a.loss == b.loss
        assert b.loss_measured == pytest.approx(a.loss_measured + 0.05)


def test_the_reference_interpolates_the_runs_left_out():
    law = LAWS["hoffmann"]
    frame = sweep(law, GRIDS["wide"], sizes=21, budgets=1)
    groups = budget_groups(frame)[0]
    reference = Reference.of(Runs(frame, groups, None), *groups[0])
    log_n, loss = reference.best()
    assert log_n == pytest.approx(log_optimum(law, 1e18), abs=0.05)
    assert loss == pytest.approx(frame["loss"].min(), rel=1e-4)
    ends = reference.at(np.array([reference.log_n[0] - 1, reference.log_n[-1] + 1]))
    assert ends[0] > reference.loss[0]
    assert ends[1] > reference.loss[-1]


def test_a_budget_without_a_minimum_is_no_reference():
    frame = sweep(LAWS["hoffmann"], (4.0, 3.0, 0.0), sizes=8, budgets=1)
    groups = budget_groups(frame)[0]
    assert Reference.of(Runs(frame, groups, None), *groups[0]) is None


def test_a_method_asked_for_is_the_headline():
    frame = sweep(LAWS["besiroglu"], noise=0.003, sizes=8, budgets=4)
    for method in ("isoflop", "tied"):
        fit = fit_runs(frame, bootstrap=20, method=method)
        assert fit.headline.method == method
        assert fit.stack is None
    fit = fit_runs(frame, bootstrap=0, method="fixed_e", fixed_e=1.8)
    assert pytest.approx(1.8) == fit.fixed_e.E


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "envelope"}, "needs loss curves"),
        ({"method": "fixed_e"}, "needs the value to hold"),
        ({"method": "best"}, "method: 'best'; allowed: auto, surface"),
        ({"delta": -1.0}, "delta: -1.0; allowed"),
        ({"bootstrap": -1}, "bootstrap: -1; allowed"),
        ({"fixed_e": 99.0}, "fixed_e: 99.0; allowed"),
        ({"level": 1.5}, "level: 1.5; allowed"),
        ({"window": 0.5}, "window: 0.5; allowed"),
        ({"exclude": "some"}, "exclude: 'some'; allowed: auto, none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(FlopsFitError, match=words):
        fit_runs(sweep(LAWS["besiroglu"], sizes=5), **settings)


def test_fewer_runs_than_unknowns_are_refused():
    with pytest.raises(FlopsFitError, match="4 runs to fit, fewer than the 5 parameters"):
        fit_runs(sweep(LAWS["besiroglu"], sizes=2, budgets=2))


def envelope_data():
    law = LAWS["besiroglu"]
    e, a, b, alpha, beta = law
    rows, curves = [], []
    for flops in np.geomspace(1e18, 1e20, 4):
        for params in np.geomspace(3e7, 3e9, 12):
            tokens = flops / (6 * params)
            if not 2 < tokens / params < 300:
                continue
            name = f"{params:.3g}-{flops:.3g}"
            at = np.geomspace(tokens / 30, tokens, 40)
            loss = e + a * params**-alpha + b * at**-beta
            rows.append((name, params, tokens, loss[-1], flops, flops))
            curves.append(
                pd.DataFrame({"run_id": name, "tokens": at, "flops": 6 * params * at, "loss": loss})
            )
    names = ["run_id", "params", "tokens", "loss", "flops", "budget"]
    return pd.DataFrame(rows, columns=names), pd.concat(curves)


def test_the_envelope_of_ideal_curves_gives_the_law():
    frame, curves = envelope_data()
    fit = fit_runs(frame, curves, bootstrap=30)
    assert fit.envelope.status == "bracketed"
    alpha, beta = LAWS["besiroglu"][3:]
    assert fit.envelope.a == pytest.approx(beta / (alpha + beta), abs=0.01)
    assert "envelope.a" in fit.ci
    flops, params, _ = fit.envelope.points[-1]
    assert np.log(params) == pytest.approx(log_optimum(LAWS["besiroglu"], flops), abs=0.1)


def test_curves_of_a_single_size_make_no_envelope():
    frame, curves = envelope_data()
    only = frame["run_id"].iloc[:1]
    fit = fit_runs(frame, curves[curves["run_id"].isin(only)], bootstrap=0)
    assert fit.envelope.status == "too_few_points"
