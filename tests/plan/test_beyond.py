"""Sizes above the grid are counted where that is exact, and are in the plan for the fit."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit.api import find_optimal
from flops_fit.data import as_data
from flops_fit.experiment.plan import Plan
from flops_fit.fit import Fit, predict
from flops_fit.loss import cross_entropy
from flops_fit.plan.beyond import REACH, count_beyond
from flops_fit.plan.costs import Costs
from flops_fit.plan.items import measure_items
from flops_fit.plan.script_costs import stated_costs
from flops_fit.sweep import CountedSize, Experiment

POINTS = TensorDataset(torch.randn(400, 6), torch.randint(0, 5, (400,)))


class Net(nn.Module):
    """Its width must be a multiple of 4, as where heads divide it, and not of 20."""

    def __init__(self, width, widest=10**9):
        super().__init__()
        if width % 4 or width % 20 == 0 or width > widest:
            raise ValueError(f"no width {width}")
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Linear(width, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.layers(x))


def beyond(sizes, **kwargs):
    data = as_data((POINTS, POINTS))
    items = measure_items(data, cross_entropy)
    costs = Costs(Net, "width", kwargs, cross_entropy, data.train[0], items, data)
    counts = costs.of(sizes)
    return counts, count_beyond(
        costs, [Experiment(f"w{s}", 1e9, s, c.num_params, 100, count=c) for s, c in counts.items()]
    )


def test_sizes_up_to_ten_times_the_largest_are_counted():
    counts, sizes = beyond([32, 64, 128])
    params = [s.count.params for s in sizes]
    assert len(sizes) == 5
    assert params == sorted(params)
    assert params[0] > counts[128].params
    assert params[-1] / counts[128].params == pytest.approx(REACH, rel=0.2)
    assert {s.size_param_value % 32 for s in sizes} == {0}
    last = sizes[-1].size_param_value
    assert sizes[-1].count == beyond([last, last // 2])[0][last]


def test_a_size_that_cannot_be_built_gives_way_to_a_neighbour_or_is_left_out():
    _, sizes = beyond([4, 8, 12, 16, 24])
    assert sizes
    assert not [s for s in sizes if s.size_param_value % 20 == 0]
    assert all(s.size_param_value <= 40 for s in beyond([8, 12, 16, 24], widest=40)[1])
    assert beyond([8, 12, 16, 24], widest=24)[1] == []


def stated(size, largest=10**9):
    """Counts as a user states them: an embedding makes f / N fall with the size."""
    if size % 4 or size > largest:
        raise ValueError(f"no size {size}")
    params = size**2 + 50 * size
    return {"params": params, "flops_per_token": 6 * size**2 + 60 * size}


def beyond_stated(counts, sizes=(4, 8, 16)):
    costs = stated_costs(counts, "counts", 1)
    known = costs.of(sizes).items()
    return count_beyond(
        costs, [Experiment(f"s{s}", 1e9, s, c.num_params, 100, count=c) for s, c in known]
    )


def test_counts_that_a_user_states_are_asked_beyond_the_grid():
    sizes = beyond_stated(stated)
    assert len(sizes) == 5
    assert [s.count.params for s in sizes] == [stated(s.size_param_value)["params"] for s in sizes]
    assert REACH < sizes[-1].count.params / stated(16)["params"] < 2 * REACH
    third = sizes[2].size_param_value
    assert beyond_stated(lambda size: stated(size, third)) == sizes[:3]
    assert beyond_stated({size: stated(size) for size in (4, 8, 16)}) == []


@pytest.mark.parametrize("sizes", [[4], [4.0, 8.0], [4, 8.0]])
def test_nothing_is_counted_beyond_sizes_that_are_not_several_whole_numbers(sizes):
    data = as_data((POINTS, POINTS))
    costs = Costs(
        lambda width: Net(int(width)),
        "width",
        {},
        cross_entropy,
        data.train[0],
        measure_items(data, cross_entropy),
        data,
    )
    cells = [Experiment("w", 1e9, s, 1, 100, count=costs.of([s])[s]) for s in sizes]
    assert count_beyond(costs, cells) == []


def test_nothing_is_counted_beyond_costs_that_depend_on_the_planned_batch():
    data = as_data((POINTS, POINTS))
    items = measure_items(data, cross_entropy)
    costs = Costs(Net, "width", {}, cross_entropy, data.train[0], items, data)
    counts = costs.of([4, 8])
    cells = [Experiment(f"w{s}", 1e9, s, 1, 100, count=counts[4]) for s in counts]
    assert count_beyond(costs, cells) == []


def test_a_plan_keeps_them_and_one_without_them_is_written_as_before():
    _, sizes = beyond([4, 8, 16])
    plan = Plan("f" * 64, "counted", [], beyond=sizes)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).beyond == sizes
    assert "beyond" not in Plan("f" * 64, "counted", []).to_dict()
    row = CountedSize(8, sizes[0].count).in_table("counted", "params_total")
    assert row["params"] == sizes[0].count.params_total
    assert row["params_matmul"] == sizes[0].count.params


def test_find_optimal_fits_on_the_costs_counted_beyond_its_sizes(tmp_path):
    asked = (Net, "width", {}, (POINTS, POINTS), cross_entropy, [1e5, 2e5])
    options = {"output_dir": tmp_path, "sizes": [4, 8, 12], "batch_size": 4}
    assert find_optimal(*asked, train=False, **options, convention="6nd").beyond == []
    options["fit_options"] = {"bootstrap": 0, "sensitivity": False}
    result = find_optimal(*asked, **options, convention="counted")
    fit = Fit.from_dict(json.loads(Path(tmp_path, "fit.json").read_text()))
    assert "counted beyond the runs" in fit.cost.origin
    last = result.plan.beyond[-1]
    assert fit.cost.params[-1] == last.count.params
    assert fit.cost.per_token[-1] == last.count.flops_per_token


def train_as_stated(run):
    """A loss whose optimum depends on what a parameter costs."""
    for step in range(run.steps):
        run.log(tokens=(step + 1) * run.batch_items, loss=5.0)
    params = stated(run.size)["params"]
    run.finish(loss=1 + 40 / params**0.4 + 60 / run.tokens**0.4, tokens=run.tokens, params=params)


def test_an_optimum_beyond_the_sizes_rests_on_the_counts_that_the_user_states(tmp_path):
    result = find_optimal(
        train_fn=train_as_stated,
        counts=stated,
        convention="counted",
        compute_budgets=[1e6, 3e6, 1e7, 3e7],
        sizes=[4, 8, 12, 16, 24, 32],
        batch_size=4,
        output_dir=tmp_path,
        fit_options={"bootstrap": 0, "sensitivity": False},
    )
    assert len(result.plan.beyond) == 5
    answer = predict(Fit.from_dict(json.loads((tmp_path / "fit.json").read_text())), 1e9)
    size = math.sqrt(25**2 + answer.params) - 25  # the inverse of `stated`
    assert 32 < size < result.plan.beyond[-1].size_param_value
    per_token = 6 * size**2 + 60 * size
    assert answer.params * 6 > 1.2 * per_token  # 6 N D would be far off
    assert answer.tokens * per_token == pytest.approx(1e9, rel=2e-3)
