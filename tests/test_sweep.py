"""The grid as arithmetic: D from C, rounding to whole batches, floors, windows, rules, schedules."""

from functools import partial

import pytest

from flops_fit.batch import Batches, planned_batches
from flops_fit.errors import FlopsFitError
from flops_fit.plan.rules import make_rule
from flops_fit.plan.schedule import multiplier, phases, rate_factor
from flops_fit.plan.window import window_sizes
from flops_fit.sweep import Experiment, ModelCount, SweepPlan, Variant, plan_sweep


def count_of(params: int, flops: float | None = None) -> ModelCount:
    return ModelCount(params, params, params // 2, params * 2, flops or 6.0 * params, "meta")


def plan(sizes, counts, **changes):
    settings = {
        "batch_tokens": lambda **_: 640,
        "learning_rate": lambda **_: 0.1,
        "name": lambda e: f"{e.size_param_value}-{e.num_tokens}-{e.seed}",
    } | changes
    return plan_sweep(sizes, counts, 64, **settings)


def test_d_is_the_budget_over_flops_per_token_in_whole_global_batches():
    planned = plan({6e9: [10]}, {10: count_of(10_000)}).experiments[0]
    assert planned.num_tokens == 99_840  # 1e5 tokens are 156.25 batches of 640
    assert planned.steps == 156
    assert planned.batch_items == 10
    assert planned.flops_6nd == pytest.approx(6e9, rel=0.5 / 156)


def test_the_convention_says_what_a_budget_buys():
    counts = {10: count_of(10_000, flops=7.5e4)}
    assert plan({6e9: [10]}, counts).experiments[0].steps == 125
    assert plan({6e9: [10]}, counts, convention="6nd").experiments[0].steps == 156


def test_cells_below_the_floor_are_skipped_in_words_and_never_an_error():
    planned = plan({6e6: [10, 1000]}, {10: count_of(100), 1000: count_of(10_000)})
    assert [e.size_param_value for e in planned.experiments] == [10]
    assert planned.skipped[0].reason.startswith("0 steps of 10 items; the floor is 8")


def test_an_experiment_that_two_budgets_share_is_trained_once():
    planned = plan({6e9: [10], 6.001e9: [10]}, {10: count_of(10_000)})
    assert len(planned.experiments) == 1
    assert "the same experiment as at budget 6e+09" in planned.skipped[0].reason


@pytest.mark.parametrize(
    "changes",
    [
        {"name": lambda e: f"C{e.compute_budget:g}-{e.seed}-{e.learning_rate}"},
        {"seeds": (0, 1)},
        {"variants": lambda cell, budget: [Variant(1), Variant(2)]},
    ],
    ids=["named by the budget, as in the API", "with seeds", "with learning rates"],
)
def test_a_run_stands_once_in_the_plan_however_many_budgets_round_to_it(changes):
    budgets = {6e9: [10], 6.001e9: [10], 6.002e9: [10], 6.5e9: [10]}
    experiments = plan(budgets, {10: count_of(10_000)}, **changes).experiments
    once = {(e.num_tokens, e.seed, e.learning_rate) for e in experiments}
    assert len(experiments) == len(once) == (2 if "name" in changes else 4)


def test_every_seed_repeats_every_cell():
    planned = plan({6e9: [10]}, {10: count_of(10_000)}, seeds=(0, 7))
    assert [e.seed for e in planned.experiments] == [0, 7]


def test_a_budget_may_have_seeds_of_its_own():
    budgets = {6e9: [10], 6e10: [10], 6e11: [10]}
    planned = plan(budgets, {10: count_of(10_000)}, seeds={6e9: [0, 7], 6e10: [7]})
    of = [(e.compute_budget, e.seed) for e in planned.experiments]
    assert of == [(6e9, 0), (6e9, 7), (6e10, 7), (6e11, 7)]  # the last as the largest that is named


def test_a_plan_needs_only_a_list_of_experiments():
    planned = SweepPlan(experiments=[Experiment("a", 1e9, 8, 100, 1000)])
    assert len(planned) == 1
    assert planned.total_flops == 6 * 100 * 1000
    assert planned.table()["tokens_per_param"].tolist() == [10]


def quadratic(size: int) -> tuple[float, int]:
    return 6.0 * 12 * size**2, 12 * size**2


@pytest.mark.parametrize("budget", [1e9, 1e12, 1e18])
def test_a_window_spans_the_asked_tokens_per_parameter_evenly(budget):
    sizes = window_sizes(budget, quadratic, count=7)
    ratios = [budget / quadratic(s)[0] / quadratic(s)[1] for s in sizes]
    assert len(sizes) >= 5
    assert ratios[0] <= 200
    assert ratios[-1] >= 2
    assert ratios[0] > 100 or sizes[0] < 10
    assert ratios[-1] < 4 or sizes[-1] < 10


def test_a_window_keeps_to_multiples_and_to_sizes_long_enough_to_train():
    sizes = window_sizes(1e12, quadratic, multiple=16)
    assert all(size % 16 == 0 for size in sizes)
    floored = window_sizes(1e9, quadratic, min_tokens=1e5)
    assert all(1e9 / quadratic(size)[0] >= 1e5 for size in floored)


def test_a_power_law_rule_is_the_product_of_its_factors():
    rule = {
        "value": 256,
        "tokens": {"reference": 3e5, "power": 0.5},
        "params": {"reference": 1e4, "power": -1},
    }
    assert make_rule("batch", rule)(tokens=1.2e6, params=2e4, size=3) == pytest.approx(256)


def test_a_rule_must_give_a_positive_number():
    with pytest.raises(FlopsFitError, match=r"learning_rate: fsum has no argument 'params'"):
        make_rule("learning_rate", {"function": "math:fsum"})
    with pytest.raises(FlopsFitError, match="learning_rate: the rule gave -1"):
        make_rule("learning_rate", {"value": -1.0})(params=1, tokens=1, size=1)


LINEAR = {"kind": "linear", "warmup": 0.1, "decay": 0.2, "final": 0.0}


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("linear", {0.0: 0, 0.05: 0.5, 0.1: 1, 0.55: 0.5, 1.0: 0}),
        ("cosine", {0.0: 0, 0.1: 1, 0.55: 0.5, 1.0: 0}),
        ("wsd", {0.1: 1, 0.8: 1, 0.9: 0.5, 1.0: 0}),
        ("constant", {0.05: 0.5, 0.5: 1, 1.0: 1}),
    ],
)
def test_schedules_pass_through_their_known_points(kind, points):
    schedule = LINEAR | {"kind": kind}
    for progress, expected in points.items():
        assert multiplier(progress, schedule) == pytest.approx(expected, abs=1e-12)


SHARED = {"kind": "trunk", "warmup_tokens": 100, "cooldown": 0.2, "shape": "sqrt", "final": 0.0}


def test_the_rate_of_a_trunk_is_exact_in_every_phase():
    def factor(tokens, **changes):
        return rate_factor(tokens, 1000, SHARED | changes)

    assert [factor(t) for t in (0, 25, 50, 100, 500, 800)] == [0, 0.25, 0.5, 1, 1, 1]
    assert [factor(t) for t in (850, 900, 1000)] == [0.5, 1 - 0.5**0.5, 0]
    assert [factor(t, shape="linear") for t in (850, 900, 1000)] == [0.75, 0.5, 0]
    assert [factor(t, final=0.5) for t in (850, 1000)] == [0.75, 0.5]
    assert factor(900, cooldown=0.4) == pytest.approx(1 - 0.75**0.5)
    assert factor(0, warmup_tokens=0) == 1


def test_before_the_cooldown_the_rate_of_a_trunk_does_not_know_its_end():
    ends = (1000, 1777, 3001, 10**9)
    for tokens in (0.5, 33.5, 99.5, 100.5, 799.5):
        assert len({rate_factor(tokens, end, SHARED) for end in ends}) == 1


def test_other_schedules_keep_their_bits():
    for tokens in (16, 480, 3000):
        assert rate_factor(tokens, 3001, LINEAR) == multiplier(tokens / 3001, LINEAR)


def test_a_schedule_ends_at_its_final_factor():
    assert multiplier(1.0, LINEAR | {"final": 0.1}) == pytest.approx(0.1)


SEEN = {"reference": 100, "power": 1, "factor": 2}


def test_a_batch_that_grows_doubles_where_its_rule_passes_the_geometric_mean():
    batches = planned_batches(8, 1, SEEN, 200, 1)  # 8 items after 100 items: 0.08 a position
    # sqrt(2) / .08 = 17.7, sqrt(8) / .08 = 35.4, ...; each stage is a whole number of its batches
    assert batches == Batches(1, [[18, 2], [36, 4], [72, 8], [144, 16]])
    assert planned_batches(8, 3, SEEN, 200, 1) == Batches(3, [[54, 6], [108, 12]])
    assert planned_batches(8, 1, SEEN | {"factor": 8}, 200, 1) == Batches(1, [[35, 8]])
    assert planned_batches(8, 1, SEEN, 200, 25).growth[0] == [1, 8]  # 8 after 100 tokens, 4 items
    assert planned_batches(1e-300, 1, SEEN | {"power": 0.01}, 200, 1).growth == []
    assert planned_batches(1e300, 1, SEEN, 200, 1).first == 128
    assert planned_batches(8.4, 4, None, 200, 1) == Batches(8)


@pytest.mark.parametrize("end", [1, 17, 18, 19, 143, 144, 200, 12345])
def test_the_steps_of_a_growing_batch_take_exactly_the_items_of_the_run(end):
    planned = planned_batches(8, 1, SEEN, end, 1)
    items = planned.nearest(end)
    batches, position, steps = planned.until(items), 0, 0
    while position < items:
        assert batches.steps(position) == steps
        assert batches.floor(position) == batches.nearest(position) == position
        assert batches.floor(position + batches.at(position) / 2) == position
        position, steps = position + batches.at(position), steps + 1
    assert (position, steps) == (items, batches.steps(items))
    assert abs(items - end) <= planned.last / 2
    assert batches.growth == planned_batches(8, 1, SEEN, 10 * end, 1).until(items).growth


def test_a_run_holds_the_stages_before_its_end_alone():
    counts = {10: count_of(10_000)}
    seen = {"reference": 64000, "power": 0.5, "factor": 2}
    runs = plan({3e7: [10], 6e9: [10], 6e10: [10]}, counts, batch_seen=seen).experiments
    short, middle, long = runs
    assert (short.batch_growth, short.steps, short.num_tokens) == ([], 8, 512)
    assert middle.batch_growth == long.batch_growth[: len(middle.batch_growth)]
    for run in runs:
        assert run.num_tokens == 64 * run.items
        assert run.steps == run.batches.steps(run.items)
        assert all(start < run.items for start, _ in run.batch_growth)
        assert Experiment.from_dict(run.to_dict()) == run
        assert ("batch_growth" in run.to_dict()) == bool(run.batch_growth)


def test_phases_count_every_step_once():
    for kind in ("linear", "cosine", "wsd", "constant"):
        assert sum(phases(157, LINEAR | {"kind": kind}).values()) == 157
    assert phases(100, SHARED, 1000) == {"warmup": 10, "plateau": 70, "decay": 20}
    growing = Batches(1, [[100, 2], [300, 4]])  # 100 + 100 + 25 steps
    share_of_steps = partial(growing.share_of_steps, items=400)
    assert phases(225, SHARED, 4000, share_of_steps) == {"warmup": 10, "plateau": 195, "decay": 20}


def test_the_mean_batch_counts_steps_and_a_constant_one_is_itself():
    grown = Batches(4, [[8, 8]])  # two steps of 4 items, then four of 8
    assert [grown.mean(40, 6), Batches(4).mean(38, 10)] == [7, 4]
