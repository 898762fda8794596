"""Resamples: as good as a general optimiser on each, reproducible, and what they leave out."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from simulated import GRIDS, LAWS, exponent, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs
from flops_fit.fit.bootstrap import Draws, draw, group_ids
from flops_fit.fit.cost import Cost
from flops_fit.fit.entries import seed_noise
from flops_fit.fit.estimators import Runs, estimate_surface, refit_surface
from flops_fit.fit.options import default_unit
from flops_fit.fit.runs import budget_groups
from flops_fit.fit.surface import Data, fit_surface


def data_of(frame):
    return Data.of(*(frame[c].to_numpy() for c in ("params", "tokens", "loss")))


def objectives(data, theta, weight, delta):
    r = data.log_loss - data.design.log_surface(theta)
    u = np.clip(r, -delta, delta)
    return (weight * u * (r - u / 2)).sum(axis=1)


def bfgs(frame, weight, start):
    """Besiroglu et al.'s refit: raw logs, sum of Huber at 1e-3, one start."""
    rows = np.repeat(np.arange(len(weight)), weight.astype(int))
    log_n, log_d, log_loss = (
        np.log(frame[c].to_numpy()[rows]) for c in ("params", "tokens", "loss")
    )

    def objective(theta):
        a, b, e, alpha, beta = theta
        total = np.exp(a - alpha * log_n) + np.exp(b - beta * log_d) + np.exp(e)
        r = log_loss - np.log(total)
        u = np.clip(r, -1e-3, 1e-3)
        return (u * (r - u / 2)).sum()

    return minimize(objective, start, method="BFGS").fun


def test_no_resample_is_worse_than_a_plain_bfgs_refit():
    frame = sweep(LAWS["hoffmann"], GRIDS["off-centre"], noise=0.01, seed=2)
    data = data_of(frame)
    fit = fit_surface(data, delta=1e-3, exclude="none")
    draws = draw(frame, "runs", 30, np.random.default_rng(0))
    refit = refit_surface(data, fit, draws, auto_delta=False, auto_exclude=False)
    ours = objectives(data, refit.theta, draws.weight, 1e-3)
    start = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])
    theirs = np.array([bfgs(frame, w, start) for w in draws.weight])
    assert refit.usable.all()
    assert (ours <= theirs * (1 + 1e-6)).all()


def test_a_resample_equals_a_fit_of_the_rows_it_holds():
    frame = sweep(LAWS["besiroglu"], noise=0.01, seed=4)
    data = data_of(frame)
    fit = fit_surface(data, delta=1e-3, exclude="none")
    draws = draw(frame, "runs", 5, np.random.default_rng(1))
    refit = refit_surface(data, fit, draws, auto_delta=False, auto_exclude=False)
    for theta, weight in zip(refit.theta, draws.weight, strict=True):
        rows = np.repeat(np.arange(len(frame)), weight.astype(int))
        alone = fit_surface(data.take(rows), delta=1e-3, exclude="none")
        value = objectives(data, theta[None], weight[None], 1e-3)[0]
        assert value == pytest.approx(alone.objective, rel=1e-9)


def test_published_standard_errors(published):
    data = data_of(published.frame)
    fit = fit_surface(data, delta=1e-3, exclude="none")
    draws = draw(published.frame, "runs", 4000, np.random.default_rng(0))
    theta = refit_surface(data, fit, draws, auto_delta=False, auto_exclude=False).theta
    assert theta[:, 3].std() == pytest.approx(0.0154, rel=0.05)
    assert theta[:, 4].std() == pytest.approx(0.0206, rel=0.05)
    assert np.exp(theta[:, 0]).std() == pytest.approx(0.0257, rel=0.05)


def test_an_outlier_is_left_out_inside_each_resample_too():
    frame = sweep(LAWS["besiroglu"], noise=0.003, seed=1)
    frame.loc[20, "loss"] *= 1.5
    data = data_of(frame)
    fit = fit_surface(data)
    draws = draw(frame, "runs", 50, np.random.default_rng(0))
    refit = refit_surface(data, fit, draws, auto_delta=True, auto_exclude=True)
    assert (draws.weight[:, 20] > 0).any()
    assert (refit.weight[:, 20] == 0).all()


@pytest.mark.seconds
def test_the_same_seed_gives_the_same_intervals_and_another_does_not():
    frame = sweep(LAWS["besiroglu"], noise=0.01, sizes=8, budgets=4)
    one, same, other = (fit_runs(frame, bootstrap=60, seed=s).ci for s in (1, 1, 2))
    assert one == same
    assert one["a"] != other["a"]


@pytest.mark.seconds
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    law, hits = LAWS["besiroglu"], 0
    for seed in range(40):
        frame = sweep(law, noise=0.005, seed=seed)
        data = data_of(frame)
        draws = draw(frame, "runs", 100, np.random.default_rng(seed))
        refit = refit_surface(data, fit_surface(data), draws, auto_delta=True, auto_exclude=True)
        alpha, beta = refit.theta[:, 3:].T
        low, high = np.quantile(beta / (alpha + beta), [0.05, 0.95])
        hits += low < exponent(law) < high
    assert 29 <= hits <= 39  # 90% of 40, give or take 2.6 and 1.6 standard deviations


def test_intervals_hold_the_estimate_and_mirror_between_a_and_b():
    fit = fit_runs(sweep(LAWS["besiroglu"], noise=0.005, seed=1), bootstrap=100)
    for name in ("E", "A", "B", "alpha", "beta", "a", "b"):
        low, high = fit.ci[name]
        assert low < getattr(fit.parametric, name) < high
    assert fit.ci["b"] == pytest.approx([1 - v for v in reversed(fit.ci["a"])])


@pytest.mark.parametrize("unit", ["runs", "groups", "wild"])
def test_every_unit_gives_intervals_that_grow_with_the_noise(unit):
    widths = []
    for noise in (0.002, 0.02):
        frame = sweep(LAWS["besiroglu"], noise=noise, sizes=8, budgets=4)
        fit = fit_runs(frame, bootstrap=100, resample=unit)
        assert fit.bootstrap.unit == unit
        widths.append(np.diff(fit.ci["a"])[0])
    assert 3 < widths[1] / widths[0] < 40


def test_runs_are_drawn_within_their_budget():
    frame = sweep(LAWS["besiroglu"], sizes=6, budgets=3)
    frame.loc[17, "budget"] = np.nan
    groups, _ = budget_groups(frame)
    weight = draw(frame, "runs", 50, np.random.default_rng(0), groups).weight
    for rows, total in ((slice(0, 6), 6), (slice(6, 12), 6), (slice(12, 17), 5), ([17], 1)):
        assert (weight[:, rows].sum(axis=1) == total).all()
    assert weight.std() > 0.5


def test_groups_are_drawn_whole():
    frame = pd.DataFrame(
        {"size": [1, 1, 2, 2, 2], "seed": [0, 0, 0, 1, 1], "params": 1.0, "tokens": 1.0}
    )
    assert group_ids(frame).tolist() == [0, 0, 1, 2, 2]
    weight = draw(frame, "groups", 200, np.random.default_rng(0)).weight
    assert (weight[:, 0] == weight[:, 1]).all()
    assert (weight[:, 3] == weight[:, 4]).all()
    assert (weight[:, 2] != weight[:, 3]).any()


def test_several_seeds_make_groups_the_default_and_their_noise_is_measured():
    parts = [sweep(LAWS["besiroglu"], noise=0.01, seed=s, sizes=6).assign(seed=s) for s in range(4)]
    frame = pd.concat(parts, ignore_index=True)
    assert default_unit(frame) == "groups"
    assert default_unit(parts[0]) == "runs"
    noise = seed_noise(frame)
    assert noise.df == 3 * 30
    assert noise.sd == pytest.approx(0.01, rel=0.2)
    assert seed_noise(parts[0]) is None


@pytest.mark.seconds
def test_luck_that_the_runs_of_a_size_and_seed_share_is_in_the_interval_of_groups_alone():
    """Four times as large as the noise of a run, in 9 sizes of 4 seeds: how often 90% hold a."""
    e, a, b, alpha, beta = LAWS["besiroglu"]
    one = sweep(LAWS["besiroglu"], GRIDS["narrow"], sizes=6, budgets=5)
    ends = np.log([one["params"].min(), one["params"].max()])
    step = np.ptp(ends) / 8
    n = np.exp(ends[0] + step * np.round((np.log(one["params"]) - ends[0]) / step))
    one = one.assign(params=n, size=n.round(-3), tokens=one["flops"] / (6 * n))
    frame = pd.concat([one.assign(seed=seed) for seed in range(4)], ignore_index=True)
    smooth = e + a * frame["params"] ** -alpha + b * frame["tokens"] ** -beta
    group, budgets = group_ids(frame), budget_groups(frame)[0]
    start, hits = np.array([e, np.log(a), np.log(b), alpha, beta]), {"runs": 0, "groups": 0}
    for i in range(120):
        generator = np.random.default_rng([4, i])
        luck = 4 * generator.standard_normal(group.max() + 1)[group]
        noise = 0.002 * (luck + generator.standard_normal(len(frame)))
        runs = Runs(frame.assign(loss=smooth * np.exp(noise)), budgets, Cost())
        for unit in hits:
            draws = draw(frame, unit, 60, generator, budgets)
            fit = estimate_surface(runs, draws, start=start)
            low, high = np.quantile(fit.draws.exponent(), [0.05, 0.95])
            hits[unit] += low <= beta / (alpha + beta) <= high
    assert default_unit(frame) == "groups"
    assert hits["groups"] >= 99, hits
    assert hits["runs"] <= 96, hits


def test_a_form_that_does_not_fit_is_told_by_the_seed_noise():
    parts = []
    for seed in range(3):
        frame = sweep(LAWS["besiroglu"], noise=1e-4, seed=seed, sizes=8).assign(seed=seed)
        frame["loss"] *= 1 + 0.02 * np.sin(3 * np.log(frame["params"]))
        parts.append(frame)
    fit = fit_runs(pd.concat(parts), bootstrap=0)
    assert any("its form does not fit here" in w for w in fit.headline.notes)


def test_an_unknown_unit_is_refused():
    frame = sweep(LAWS["besiroglu"], sizes=4)
    with pytest.raises(FlopsFitError, match="resample: 'rows'; allowed: runs, groups, wild"):
        fit_runs(frame, resample="rows")


def test_draws_keep_their_resample_when_seen_on_fewer_runs():
    draws = Draws("wild", np.arange(6.0).reshape(2, 3), np.ones((2, 3)))
    part = draws.take(np.array([0, 2]))
    assert part.weight.tolist() == [[0, 2], [3, 5]]
    assert len(draws.first(1)) == 1
