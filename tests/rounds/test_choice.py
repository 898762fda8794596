"""The choice of runs: the delta method is right, and what is chosen beats chance."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import LAWS, loss_of
from simulated import log_optimum as optimum

from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.rounds.choice import Belief, Cells, Scores, choose, first_grid, next_round, steps
from flops_fit.rounds.truth import law_of

LAW = law_of(*LAWS["besiroglu"])
BUDGETS = 1e18 * 3.0 ** np.arange(5)
ASKED = float(np.log(1e18 * 3.0**6))
BOTH = {"params": 0.5, "loss": 0.5}
EXACT = {"params": 1e-9, "loss": 1e-9}  # no error of the form


def cells(per_budget: int = 7, trunk: str = "", seeds: int = 1) -> Cells:
    offsets = np.linspace(-1.8, 1.8, per_budget)
    budget = np.repeat(BUDGETS, per_budget)
    log_n = np.concatenate([optimum(LAWS["besiroglu"], c) + offsets for c in BUDGETS])
    log_d = np.log(budget / 6) - log_n
    n = len(budget)
    names = np.repeat([f"{trunk}{seed}" if trunk else "" for seed in range(seeds)], n)
    leave, paid = np.full(n * seeds, 0.8), np.zeros(n * seeds)
    budget, log_n, log_d = (np.tile(column, seeds) for column in (budget, log_n, log_d))
    repeat = np.repeat(np.arange(seeds), n)
    return Cells(budget, log_n, log_d, budget, 2 * budget, names, leave, paid, repeat)


def belief(noise: float = 0.004, tau: dict | None = None) -> Belief:
    return Belief(LAW, noise, tau or {"params": 0.04, "loss": 0.003}, Cost())


def some(pool: Cells) -> np.ndarray:
    return first_grid(pool)


def test_the_first_grid_is_small_and_spread():
    pool = cells()
    have = some(pool)
    assert set(pool.budget[have]) == set(BUDGETS[:3])
    assert all((pool.budget[have] == c).sum() == 5 for c in BUDGETS[:3])
    assert pool.total(have) < 0.1 * pool.total(np.ones_like(have))


def test_the_variance_is_that_of_refitted_sweeps():
    """Newton's step of least squares, refitted on noisy losses, spreads as the delta method says."""
    pool, noise = cells(), 0.002
    scores = Scores(pool, belief(noise, EXACT), ASKED, BOTH)
    have = np.ones(len(pool.budget), dtype=bool)
    generator, log_n = np.random.default_rng(0), []
    e, ln_a, ln_b, alpha, beta = LAW.values[0]
    for _ in range(400):
        error = noise * generator.standard_normal(len(pool.budget))
        step = scores.covariance(have)[:5, :5] @ scores.rows[:, :5].T @ (error / noise)
        moved = np.array([[e * np.exp(step[0]), *(np.array([ln_a, ln_b, alpha, beta]) + step[1:])]])
        log_n.append(SurfaceLaw(moved).optimum(ASKED, Cost())[0][0])
    assert np.std(log_n) == pytest.approx(scores.variances(have)["params"] ** 0.5, rel=0.12)


def test_what_a_step_is_worth_is_the_fall_of_the_variance():
    pool = cells()
    scores, have = Scores(pool, belief(), ASKED, {"params": 1.0}), some(pool)
    several = steps(scores, have)
    for step, worth in zip(several, scores.worths(have, several), strict=True):
        after = have.copy()
        after[step] = True
        fall = 1 - scores.variances(after)["params"] / scores.variances(have)["params"]
        assert worth == pytest.approx(fall, abs=1e-9)


def test_repeating_far_runs_never_removes_the_error_of_the_form():
    pool = cells(per_budget=200)
    far = pool.budget < BUDGETS[2]
    exact = Scores(pool, belief(tau=EXACT), ASKED, BOTH).variances(far)["loss"]
    real = Scores(pool, belief(), ASKED, BOTH).variances(far)["loss"]
    assert real > 10 * exact


def test_no_choice_costs_more_than_allowed_and_a_round_is_its_cheaper_part():
    pool = cells()
    scores, have = Scores(pool, belief(), ASKED, BOTH), some(pool)
    most = 0.4 * pool.total(np.ones_like(have))
    chosen = choose(scores, have, most)
    assert (chosen & have).sum() == have.sum()
    assert pool.total(have) < pool.total(chosen) <= most
    first = next_round(pool, have, chosen)
    assert have.sum() < first.sum() < chosen.sum()
    assert (first & ~chosen).sum() == 0
    assert pool.budget[first].max() <= pool.budget[chosen & ~first].min()


def test_the_cheapest_choice_that_is_enough_is_taken():
    pool = cells()
    scores, have = Scores(pool, belief(), ASKED, {"params": 1.0}), some(pool)
    goal = 0.5 * scores.variances(have)["params"]

    def enough(runs):
        return scores.variances(runs)["params"] <= goal

    chosen = choose(scores, have, np.inf, enough)
    assert enough(chosen)
    assert pool.total(chosen) < 0.6 * pool.total(np.ones_like(have))


def assert_even(pool: Cells, have: np.ndarray) -> None:
    """Every budget has all of its sizes in the same seeds, from the first one on."""
    for c in np.unique(pool.budget[have]):
        here = have & (pool.budget == c)
        sizes = [
            sorted(pool.log_n[here & (pool.repeat == k)]) for k in np.unique(pool.repeat[here])
        ]
        assert set(pool.repeat[here]) == set(range(len(sizes)))
        assert all(each == sizes[0] for each in sizes)


def test_a_further_seed_is_a_step_where_no_size_is_left():
    pool = cells(seeds=2)
    scores = Scores(pool, belief(), ASKED, {"params": 1.0})
    assert all((pool.repeat[step] == 0).all() for step in steps(scores, some(pool)))
    have = pool.repeat == 0
    every = steps(scores, have)
    assert [set(pool.budget[step]) for step in every] == [{c} for c in BUDGETS]
    after = have.copy()
    after[every[0]] = True
    assert_even(pool, after)
    assert pool.price(after) - pool.price(have) == pytest.approx(7 * 2e18)
    assert (scores.worths(have, every) > 0).all()


def test_a_new_size_has_the_seeds_of_its_budget():
    pool = cells(seeds=2)
    scores = Scores(pool, belief(), ASKED, {"params": 1.0})
    have = (pool.repeat == 0) | (pool.budget == BUDGETS[0])
    new = (pool.budget == BUDGETS[0]) & (pool.log_n == np.unique(pool.log_n[:7])[4])
    assert new.sum() == 2
    (step,) = steps(scores, have & ~new)
    assert sorted(step) == np.flatnonzero(new).tolist()


def test_seeds_are_chosen_where_no_size_is_left():
    pool = cells(seeds=2)
    scores = Scores(pool, belief(), ASKED, {"params": 1.0})
    have = pool.repeat == 0
    chosen = choose(scores, have, 1.3 * pool.total(have))
    assert chosen.sum() > have.sum()
    assert pool.total(chosen) <= 1.3 * pool.total(have)
    assert_even(pool, chosen)
    assert_even(pool, next_round(pool, have, chosen))
    assert scores.variances(chosen)["params"] < scores.variances(have)["params"]


def test_another_seed_has_trunks_of_its_own():
    pool = cells(trunk="a", seeds=2)
    first, both = pool.repeat == 0, np.ones(len(pool.repeat), dtype=bool)
    assert pool.total(both) == pytest.approx(2 * pool.total(first))


def test_a_longer_run_of_a_trunk_costs_what_the_shorter_one_leaves():
    pool = cells(trunk="a")
    short, long = np.argsort(pool.log_d)[[0, -1]]
    have = np.zeros(len(pool.budget), dtype=bool)
    have[short] = True
    share = pool.shares(have)
    assert share[short] == 1
    assert share[long] == pytest.approx(1 - 0.8 * np.exp(pool.log_d[short] - pool.log_d[long]))
    assert cells().shares(have).min() == 1


def test_what_was_trained_is_paid_and_a_run_in_between_finds_no_state():
    pool = cells(trunk="a")
    short, between, long = np.argsort(pool.log_d)[[0, 1, -2]]
    longest = np.argmax(pool.log_d)
    paid = np.zeros(len(pool.budget))
    paid[[short, long]] = 1.0, 0.7
    pool, have = replace(pool, paid=paid), paid > 0
    assert pool.total(have) == pool.flops[short] + 0.7 * pool.flops[long]
    share = pool.shares(have)
    assert share[between] == 1  # only the state of the longest run stays
    assert share[longest] == pytest.approx(1 - 0.8 * np.exp(pool.log_d[long] - pool.log_d[longest]))
    after = have.copy()
    after[between] = True
    assert pool.total(after) == pool.total(have) + pool.flops[between]


def test_what_is_chosen_beats_chance():
    """Refitted by least squares on the same noise, for a quarter of the FLOPs of the pool."""
    pool, generator = cells(), np.random.default_rng(1)
    scores, have = Scores(pool, belief(0.004, EXACT), ASKED, BOTH), some(pool)
    most = 0.25 * pool.total(np.ones_like(have))

    def random() -> np.ndarray:
        runs = have.copy()
        for i in generator.permutation(len(runs)):
            runs[i] = runs[i] or pool.total(runs) + pool.flops[i] <= most
        return runs

    ours = scores.variances(choose(scores, have, most))
    others = [scores.variances(random()) for _ in range(20)]
    for name in ("params", "loss"):
        assert ours[name] < np.median([other[name] for other in others])
    # The variance is of the right law: its losses are those of the simulated sweep.
    params, tokens = np.exp(pool.log_n), np.exp(pool.log_d)
    assert LAW.loss(pool.log_n[:, None], pool.log_d[:, None])[:, 0] == pytest.approx(
        loss_of(LAWS["besiroglu"], params, tokens)
    )
