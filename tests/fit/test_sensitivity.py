"""The answer under other choices: each row is the refit that it says it is."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, log_optimum, small_models, sweep

from flops_fit.fit import fit_runs, predict, prepare_runs, read_runs
from flops_fit.fit.sensitivity import USABLE, sensitivity_at, spread_of

LAW = LAWS["besiroglu"]


def rows_at(fit, flops, group=None):
    return [r for r in sensitivity_at(fit, flops) if group in (None, r.group)]


def row(fit, flops, label):
    (found,) = [r for r in sensitivity_at(fit, flops) if r.label == label]
    return found


@pytest.fixture(scope="module")
def small():
    frame = small_models()
    frame["params_nonembedding"] = 24 * frame["size"] ** 2
    return frame


@pytest.fixture(scope="module", params=["surface", "isoflop"])
def fitted(request, small):
    return fit_runs(small, bootstrap=0, method=request.param)


def test_every_group_stands_beside_the_answer_and_every_number_is_finite(fitted):
    json.dumps(fitted.to_dict()["sensitivity"], allow_nan=False)
    found = sensitivity_at(fitted, 8.1e12)
    assert [r.group for r in found] == sorted(
        (r.group for r in found),
        key=["headline", "counting", "estimator", "delta", "exclusion", "budget"].index,
    )
    assert len(rows_at(fitted, 8.1e12, "counting")) == 4
    answer = predict(fitted, 8.1e12)
    for r in found:
        if r.headline:
            assert [getattr(r, k) for k in ("params", "tokens", "loss")] == pytest.approx(
                [getattr(answer, k) for k in ("params", "tokens", "loss")]
            )
    groups = {r.group for r in found if r.headline}
    surface = {"delta"} if fitted.headline.method == "surface" else set()
    assert groups == {"headline", "counting", "estimator", "exclusion"} | surface


def test_a_budget_left_out_is_the_fit_without_its_runs(fitted, small):
    method = fitted.headline.method
    found = rows_at(fitted, 8.1e12, "budget")
    assert len(found) == 4
    for r, budget in zip(found, sorted(small["budget"].unique()), strict=True):
        part = fit_runs(
            small[small["budget"] != budget], bootstrap=0, method=method, sensitivity=False
        )
        assert r.n_runs == part.parametric.n_runs
        assert r.a == pytest.approx(part.headline.a, rel=1e-6)


def test_another_threshold_and_rule_are_the_fits_with_those_options(fitted, small):
    other = fit_runs(small, bootstrap=0, delta=1e-3, exclude="auto", sensitivity=False)
    assert row(fitted, 1e12, "1e-3 (Hoffmann et al.)").a == pytest.approx(
        other.parametric.a, rel=1e-6
    )
    keep = fit_runs(
        small, bootstrap=0, exclude="none", method=fitted.headline.method, sensitivity=False
    )
    assert row(fitted, 1e12, "every run kept").a == pytest.approx(keep.headline.a, rel=1e-6)


def test_a_count_in_constant_proportion_names_the_same_model():
    frame = sweep(LAW, noise=0.003).assign(params_total=lambda f: 1.5 * f["params"])
    fit = fit_runs(frame, bootstrap=0)
    found = {r.label: r for r in rows_at(fit, 1e21, "counting")}
    assert set(found) == {"N: params as fitted; C: 6 N D", "N: params_total; C: 6 N D"}
    other = found["N: params_total; C: 6 N D"]
    assert other.own_params == pytest.approx(1.5 * other.params)
    assert 6 * other.own_params * other.tokens == pytest.approx(1e21)
    assert other.a == pytest.approx(fit.parametric.a, abs=1e-4)


def test_a_model_counted_otherwise_at_its_true_cost_is_the_same_model(small):
    exact = small.assign(loss=1 + 40 * small["params"] ** -0.4 + 50 * small["tokens"] ** -0.35)
    exact["params_total"] = 1.3 * exact["params"]
    fit = fit_runs(exact, bootstrap=0, method="surface")
    own = row(fit, 1e13, "N: params as fitted; C: as in the table")
    other = row(fit, 1e13, "N: params_total; C: as in the table")
    for key in ("params", "tokens", "loss"):
        assert getattr(other, key) == pytest.approx(getattr(own, key), rel=1e-5)
    assert other.own_params == pytest.approx(1.3 * own.params, rel=1e-5)
    assert other.own_tokens_per_param == pytest.approx(own.tokens_per_param / 1.3, rel=1e-5)


def test_minima_counted_by_6nd_lie_on_their_own_line():
    frame = sweep(LAW, grid=(4.0, 0.0, 0.0), low=1e18, high=1e21)
    frame["flops_per_token"] = 6 * frame["params"] * 1.2  # C is 1.2 x 6 N D everywhere
    frame["flops"] = frame["budget"] = 1.2 * frame["flops"]
    frame["size"] = range(len(frame))
    fit = fit_runs(frame, bootstrap=0, method="isoflop")
    six = row(fit, 1e21, "N: params as fitted; C: 6 N D")
    assert six.params == pytest.approx(np.exp(log_optimum(LAW, 1e21)), rel=0.02)
    counted = row(fit, 1e21, "N: params as fitted; C: as in the table")
    assert counted.params / six.params == pytest.approx(1.2**-six.a, rel=1e-3)


def test_outliers_that_the_table_marks_can_be_put_back_or_dropped_by_their_misfit():
    frame = sweep(LAW, noise=0.003).assign(outlier=False)
    bad = [5, 37, 69]
    frame.loc[bad, "loss"] *= 1.2
    frame.loc[bad, "outlier"] = True
    frame.loc[len(frame)] = {**frame.iloc[0], "loss": float("nan"), "outlier": True}
    table = prepare_runs(frame)
    assert len(table.left_out) == 4
    assert len(table.marked) == 3  # the fourth has no loss to put back
    fit = fit_runs(table, bootstrap=0, delta=1.0, method="surface")
    found = {r.label: r for r in rows_at(fit, 1e21, "exclusion")}
    assert found["without the 3 that the table marks"].headline
    everything, dropped = found["every run kept"], found["without the 3 worst-fitting runs"]
    assert everything.n_runs == 75
    assert abs(everything.a - dropped.a) > 0.01
    assert dropped.params == pytest.approx(predict(fit, 1e21).params, rel=1e-6)


def test_seeds_are_left_out_one_by_one_and_many_budgets_in_groups():
    parts = [sweep(LAW, sizes=5, budgets=15, noise=0.003, seed=s).assign(seed=s) for s in (0, 1)]
    fit = fit_runs(pd.concat(parts), bootstrap=0, method="isoflop")
    assert [r.label for r in rows_at(fit, 1e21, "seed")] == ["without seed 0", "without seed 1"]
    budgets = rows_at(fit, 1e21, "budget")
    assert len(budgets) == 12
    assert " to " in budgets[0].label
    assert fit.sensitivity.notes[-1].startswith("15 budgets, left out in 12 groups")


def test_seeds_may_be_names_and_numbers_mixed():
    parts = [sweep(LAW, sizes=5, noise=0.003, seed=s) for s in (0, 1)]
    seeds = [["first"] * len(parts[0]), [7] * len(parts[1])]
    table = pd.concat(
        [p.assign(seed=pd.Series(s, p.index, object)) for p, s in zip(parts, seeds, strict=True)]
    )
    rows = rows_at(fit_runs(table, bootstrap=0, method="isoflop"), 1e21, "seed")
    assert [r.label for r in rows] == ["without seed 7", "without seed first"]


def test_without_shared_budgets_quarters_of_the_runs_are_left_out():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"params": 10 ** rng.uniform(7, 9, 60), "tokens": 10 ** rng.uniform(9, 11, 60)}
    )
    frame["loss"] = 1.8 + 480 / frame["params"] ** 0.35 + 2100 / frame["tokens"] ** 0.37
    fit = fit_runs(frame, bootstrap=0)
    assert [r.n_runs for r in rows_at(fit, 1e21, "budget")] == [45] * 4
    assert "no shared budgets" in fit.sensitivity.notes[-1]


def test_the_spread_leaves_out_what_could_not_be_fitted():
    fit = fit_runs(sweep(LAW, sizes=4, budgets=3, noise=0.01), bootstrap=0)
    found = sensitivity_at(fit, 1e20)
    found[3] = replace(found[3], status="not_identifiable", params=1e30)
    spread = spread_of(found)
    usable = [r.params for r in found if r.status in USABLE]
    assert spread["all"] == [min(usable), max(usable)]
    assert spread["all"][1] < 1e30


def test_it_can_be_left_away_where_many_fits_are_made():
    assert fit_runs(sweep(LAW, sizes=4), bootstrap=0, sensitivity=False).sensitivity is None


def test_the_published_runs_move_with_the_runs_dropped(published):
    """Besiroglu et al. 2024 (2404.10102): 5 of the 245 points decide the answer."""
    fit = fit_runs(published, bootstrap=0, delta=1e-3)
    found = {r.label: r for r in rows_at(fit, 5.76e23, "exclusion")}

    def ratios(words):
        labels = ("every run kept", f"without the 5 {words}", f"without the 10 {words}")
        assert [found[label].n_runs for label in labels] == [245, 240, 235]
        return [found[label].tokens_per_param for label in labels]

    assert ratios("runs with the highest losses") == pytest.approx([6.8, 17.9, 19.9], abs=0.1)
    assert ratios("worst-fitting runs") == pytest.approx([6.8, 17.3, 15.4], abs=0.1)


def test_the_column_that_was_n_stands_in_the_fit(tmp_path, small):
    small.to_csv(tmp_path / "runs.csv", index=False)
    fit = fit_runs(read_runs(tmp_path / "runs.csv", "params_nonembedding"), bootstrap=0)
    assert fit.data.params_column == "params_nonembedding"
    sizes = {s.size: s for s in fit.sizes}
    assert sizes[64].params == 24 * 64**2
    assert sizes[64].params_matmul == 24 * 64**2 + 128 * 64


def test_a_stack_stands_beside_refits_of_the_surface(small):
    fit = fit_runs(small, bootstrap=0)
    found = sensitivity_at(fit, 8.1e12)
    (stack,) = [r for r in found if r.label == "stack"]
    assert stack.headline
    assert stack.params == pytest.approx(predict(fit, 8.1e12).params)
    assert "the refits are of the surface only" in fit.sensitivity.notes[0]
    json.dumps(fit.to_dict()["sensitivity"], allow_nan=False)
