"""Approach 2: minima that are minima, budgets that are kept apart, the path through them."""

import numpy as np
import pandas as pd
import pytest
from simulated import GRIDS, LAWS, exponent, log_optimum, small_models, sweep

from flops_fit.fit import fit_runs
from flops_fit.fit.isoflop import STATUSES, akima_minimum, loss_law, parabola_minimum
from flops_fit.fit.runs import budget_groups


def status(minimum):
    return STATUSES[int(minimum.status[0])]


def test_the_vertex_of_an_exact_parabola_is_exact():
    x = np.array([18.0, 18.7, 19.1, 20.0, 20.8])
    found = parabola_minimum(x, 2.5 + 0.07 * (x - 19.3) ** 2, np.ones((1, 5)))
    assert status(found) == "bracketed"
    assert found.log_n[0] == pytest.approx(19.3, abs=1e-9)
    assert found.loss[0] == pytest.approx(2.5, abs=1e-10)
    assert found.curvature[0] == pytest.approx(0.07, rel=1e-8)
    c0, c1, c2 = found.coefficients[0]
    z = x - found.centre
    assert c0 + c1 * z + c2 * z**2 == pytest.approx(2.5 + 0.07 * (x - 19.3) ** 2)


def test_an_upside_down_parabola_is_no_minimum():
    x = np.linspace(18, 21, 6)
    found = parabola_minimum(x, 3.0 - 0.05 * (x - 19.6) ** 2, np.ones((1, 6)))
    assert status(found) == "no_minimum"
    assert found.log_n[0] in x


@pytest.mark.parametrize("sign", [1, -1])
def test_a_falling_curve_is_at_edge_even_where_its_parabola_turns_up(sign):
    # Convex and falling to the last size: the fitted parabola has a vertex inside the data.
    x = np.linspace(18, 21, 7)
    found = parabola_minimum(x, 2.5 + np.exp(-3 * sign * (x - 19.5)), np.ones((1, 7)))
    _, c1, c2 = found.coefficients[0]
    assert 18 < found.centre - c1 / (2 * c2) < 21
    assert status(found) == "at_edge"
    assert found.log_n[0] == (21 if sign == 1 else 18)


def test_three_sizes_are_too_few_points():
    x = np.array([18.0, 19.0, 20.0])
    assert status(parabola_minimum(x, (x - 19) ** 2, np.ones((1, 3)))) == "too_few_points"


def test_seeds_of_one_size_count_as_one_size():
    x = np.repeat([18.0, 19.0, 20.0], 3)
    assert status(parabola_minimum(x, (x - 19) ** 2, np.ones((1, 9)))) == "too_few_points"


def test_a_narrow_window_removes_the_bias_of_a_wide_grid():
    law = LAWS["lopsided"]
    frame = sweep(law, GRIDS["wide"], sizes=31, budgets=1)
    x, true = np.log(frame["params"].to_numpy()), log_optimum(law, 1e18)
    loss = frame["loss"].to_numpy()
    wide = parabola_minimum(x, loss, np.ones((1, 31)))
    narrow = parabola_minimum(x, loss, np.ones((1, 31)), window=2.0)
    assert abs(narrow.log_n[0] - true) < abs(wide.log_n[0] - true) / 5
    assert abs(narrow.log_n[0] - true) < 0.02


def test_akima_finds_the_minimum_of_a_lopsided_curve():
    law = LAWS["lopsided"]
    frame = sweep(law, GRIDS["wide"], sizes=15, budgets=1)
    x, true = np.log(frame["params"].to_numpy()), log_optimum(law, 1e18)
    loss = frame["loss"].to_numpy()
    assert abs(akima_minimum(x, loss, np.ones((1, 15))).log_n[0] - true) < 0.03
    assert abs(parabola_minimum(x, loss, np.ones((1, 15))).log_n[0] - true) > 0.1


def test_weights_of_zero_leave_runs_out():
    x = np.linspace(18, 21, 8)
    loss = 2.5 + 0.07 * (x - 19.3) ** 2
    loss[5] += 1.0
    weight = np.ones((1, 8))
    weight[0, 5] = 0
    assert parabola_minimum(x, loss, weight).log_n[0] == pytest.approx(19.3, abs=1e-9)


def test_loss_law_recovers_e_k_and_gamma():
    log_c = np.log(np.geomspace(1e18, 1e21, 5))
    loss = 1.8 + np.exp(7.0 - 0.17 * log_c)
    e, ln_k, gamma = loss_law(log_c, loss[None], np.ones((1, 5)))[0]
    assert gamma == pytest.approx(0.17, rel=1e-3)
    assert e == pytest.approx(1.8, abs=2e-3)
    assert e + np.exp(ln_k - gamma * np.log(1e22)) == pytest.approx(
        1.8 + np.exp(7.0 - 0.17 * np.log(1e22)), rel=1e-4
    )


def test_exponent_of_a_centred_sweep_is_that_of_the_law():
    law = LAWS["besiroglu"]
    fit = fit_runs(sweep(law, GRIDS["narrow"]), bootstrap=0)
    assert fit.isoflop.status == "bracketed"
    assert fit.isoflop.a == pytest.approx(exponent(law), abs=1e-3)
    for budget in fit.isoflop.budgets:
        assert budget.params_opt == pytest.approx(np.exp(log_optimum(law, budget.flops)), rel=0.01)
        assert 6 * budget.params_opt * budget.tokens_opt == pytest.approx(budget.flops)


def test_small_models_give_the_exponent_read_off_their_parabolas():
    fit = fit_runs(small_models(), bootstrap=0)
    assert [b.status for b in fit.isoflop.budgets] == ["bracketed"] * 4
    assert fit.isoflop.a == pytest.approx(0.444, abs=0.005)
    optima = [b.params_opt for b in fit.isoflop.budgets]
    assert optima == pytest.approx([18.8e3, 28.9e3, 46.7e3, 81.5e3], rel=0.03)


def test_an_edge_budget_takes_no_part_in_the_exponent():
    law = LAWS["besiroglu"]
    frame = sweep(law, GRIDS["narrow"])
    top = frame["budget"].max()
    cut = frame[(frame["budget"] < top) | (frame["params"] < np.exp(log_optimum(law, top)) * 0.8)]
    fit = fit_runs(cut, bootstrap=0)
    assert [b.status for b in fit.isoflop.budgets] == ["bracketed"] * 4 + ["at_edge"]
    assert "4 of 5" in fit.isoflop.reason
    below = fit_runs(frame[frame["budget"] < top], bootstrap=0)
    assert fit.isoflop.a == pytest.approx(below.isoflop.a, rel=1e-9)


@pytest.mark.parametrize("named", [True, False])
def test_budgets_that_differ_in_the_second_digit_stay_apart(named):
    frame = sweep(LAWS["besiroglu"], budgets=3, low=1.5e19, high=1.9e19, sizes=6)
    frame = frame if named else frame.drop(columns="budget")
    groups, _ = budget_groups(frame)
    assert [len(rows) for _, rows in groups] == [6, 6, 6]
    assert [c for c, _ in groups] == pytest.approx(np.geomspace(1.5e19, 1.9e19, 3))


def test_budgets_rounded_to_whole_batches_are_found_in_ln_c():
    frame = sweep(LAWS["besiroglu"], budgets=4, sizes=6).drop(columns="budget")
    frame["flops"] *= 1 + np.random.default_rng(0).uniform(-0.01, 0.01, len(frame))
    groups, words = budget_groups(frame)
    assert len(groups) == 4
    assert "3%" in words


def test_runs_scattered_in_c_share_no_budget():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"flops": 10 ** generator.uniform(18, 22, 60)})
    groups, words = budget_groups(frame)
    assert groups == []
    assert "no shared budgets" in words
