"""Several runs in a cell: factors on rate, batch and weight decay, and shares of the data."""

import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from small_module import small_module
from torch.utils.data import IterableDataset, TensorDataset

from flops_fit.cli.main import main
from flops_fit.config.complete import complete_config
from flops_fit.data import Data, as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import make_model, make_optimizer, seen_data
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.fit import fit_runs, read_runs
from flops_fit.fit.learning_rate import read_rates
from flops_fit.jobs.job import train_spec
from flops_fit.plan.amounts import check_amount
from flops_fit.plan.cache import plan_config
from flops_fit.plan.planner import make_plan
from flops_fit.plan.rules import make_rule
from flops_fit.plan.variants import not_tried, variants_of
from flops_fit.store.collect import collect, write_results
from flops_fit.store.records import finish_run
from flops_fit.store.stopping import StopRequest

MODULE = (
    small_module(400)
    + """

def plain(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""
)
FACTORS = {"learning_rate_factors": [0.25, 0.5, 1, 2, 4], "batch_factors": [2, 0.5, 1]}


def config_of(**changes) -> dict:
    return complete_config(
        {
            "name": "varied",
            "model": {"factory": "variedplugin:Net", "size_param": "width"},
            "dataset": {"factory": "variedplugin:data", **changes.pop("dataset", {})},
            "budgets": [1e5, 2e5],
            "sizes": {"values": [4, 8, 16]},
            "batch": {"value": 8},
            "learning_rate": {"value": 0.01},
            "evaluation": {"tokens": 32},
            "limits": {"max_epochs": 100, "min_steps": 1},
            **changes,
        }
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "variedplugin", raising=False)
    (tmp_path / "variedplugin.py").write_text(MODULE)
    monkeypatch.setenv("FLOPS_FIT_PROCESSES", "1")
    monkeypatch.setenv("FLOPS_FIT_GPUS", "0")
    return tmp_path


def planned(project, **changes):
    return make_plan(config_of(**changes), project / "results", [str(project)])


def spec_of(project, experiment):
    return read_spec(spec_file(project / "results", experiment.experiment_id))


def test_a_star_has_six_runs_and_its_diagonals_alternate():
    variants = variants_of(config_of(**FACTORS))
    star = {(1, 1), (0.5, 1), (2, 1), (1, 0.5), (1, 2)}
    for cell, diagonal in ((0, (0.5, 0.5)), (1, (2, 2)), (2, (0.5, 0.5))):
        runs = [(v.learning_rate, v.batch) for v in variants(cell, 1e5)]
        assert set(runs) == star | {diagonal}
        assert len(runs) == 6  # 40% of the grid, the coefficients of a paraboloid
    (sentence,) = not_tried(config_of(**FACTORS))
    assert "learning_rate_factors: rate_design star tries 1 and its neighbours" in sentence
    assert "not 0.25, 4; grid tries" in sentence
    decay = {"weight_decay": 0.1, "weight_decay_factors": [0.3, 1, 3]}
    assert len(variants_of(config_of(**FACTORS, **decay))(0, 1e5)) == 10
    grid = config_of(**FACTORS, rate_design="grid")
    assert len(variants_of(grid)(0, 1e5)) == 15
    assert not_tried(grid) == []
    alone = config_of(learning_rate_factors=[4, 1, 0.25])  # one axis has no star
    assert [v.learning_rate for v in variants_of(alone)(0, 1e5)] == [4, 1, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_factors": [1, 2, 4]}, r"learning_rate_factors: \[1\] given; allowed beside batch"),
        (
            {"batch_factors": [1, 2], "learning_rate_factors": [0.5, 1, 2]},
            "batch_factors: .* at least 3 factors",
        ),
        (
            {"weight_decay_factors": [0.5, 1, 2], "learning_rate_factors": [0.5, 1, 2]},
            "weight_decay, which they multiply, is missing",
        ),
        (
            {"weight_decay": 0.1, "optimizer": {"kwargs": {"weight_decay": 0.1}}},
            "stands there and in weight_decay",
        ),
        ({"weight_decay": {"value": 1, "file": "x.json"}}, "weight_decay: .* exactly one of value"),
        ({"batch": None}, "batch: None is not allowed; allowed: a number, or a mapping"),
        ({"dataset": {"unique_fraction": [0.5, 2]}}, "unique_fraction.1: 2 is not allowed"),
        ({"dataset": {"unique_fraction": {3e5: [1]}}}, r"unique_fraction.300000: not a budget"),
    ],
)
def test_factors_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(FlopsFitError, match=message):
        config_of(**changes)


def test_the_runs_of_a_cell_have_one_d_and_only_varied_runs_have_new_parts(project):
    plain = {e.experiment_id: e for e in planned(project).experiments}
    varied = planned(project, **FACTORS, weight_decay=0.1, weight_decay_factors=[0.3, 1, 3])
    for experiment in varied.experiments:
        spec = spec_of(project, experiment)
        cell = (experiment.size_param_value, experiment.compute_budget)
        (same,) = (e for e in plain.values() if (e.size_param_value, e.compute_budget) == cell)
        assert experiment.num_tokens == same.num_tokens
        assert experiment.steps == math.ceil(same.num_tokens / experiment.batch_items)
        optimizer = make_optimizer(spec.plugins, make_model(spec.plugins), 0.01)
        assert optimizer.param_groups[0]["weight_decay"] == experiment.weight_decay
    assert len({e.experiment_id for e in varied.experiments}) == len(varied) == 60
    shared = planned(project, **FACTORS)
    assert plain.keys() < {e.experiment_id for e in shared.experiments}  # the centres
    identity = spec_of(project, next(iter(plain.values()))).recipe.to_dict()
    assert not {"weight_decay", "unique_fraction"} & identity.keys()
    with pytest.raises(
        FlopsFitError, match="plain has no argument 'weight_decay', which flops-fit"
    ):
        planned(project, weight_decay=0.1, optimizer={"factory": "variedplugin:plain"})


def train_all(project, **changes) -> str:
    """Plan, train and collect a sweep; its results.csv."""
    config, results = config_of(**changes), project / "results"
    experiments = make_plan(config, results, [str(project)]).experiments
    for experiment in experiments:
        spec = spec_of(project, experiment)
        record = train_spec(spec, results, StopRequest())
        folder = run_folder(results, spec.experiment_id)
        folder.mkdir(parents=True, exist_ok=True)
        finish_run(folder, record, folder / "result.json")
    records = collect(plan_config(config, str(results), [str(project)]), results)
    table = project / "results.csv"
    write_results(records, "counted", project / "results.json", table)
    return str(table)


@pytest.mark.seconds
def test_a_sweep_of_rate_and_batch_ends_in_rules_that_a_sweep_names(project, capsys):
    factors = {"learning_rate_factors": [0.25, 1, 4], "batch_factors": [0.25, 1, 4]}
    table = train_all(project, **factors, budgets=[2e4, 4e4], sizes={"values": [4, 8]})
    frame = read_rates(table)
    assert {len(cell) for _, cell in frame.groupby(["size", "params", "tokens"])} == {6}
    assert set(frame["batch_tokens"]) == {2, 8, 32}
    # Whether such tiny runs have a minimum is no question of this test: losses of a known valley
    away = np.log(frame["learning_rate"] / 0.01) - 0.3, np.log(frame["batch_tokens"] / 8)
    frame["loss"] = np.exp(0.02 * (away[0] ** 2 + away[1] ** 2 - away[0] * away[1]))
    frame.to_csv(table, index=False)
    out, batch = project / "learning_rate.json", project / "batch.json"
    words = ["rate", "--runs", table, "--out", str(out), "--batch-out", str(batch)]
    assert main(words) == 0
    assert "the batch in tokens = 8" in capsys.readouterr().out
    for key, file, value in (("learning_rate", out, 0.01 * np.exp(0.3)), ("batch", batch, 8)):
        rule = make_rule(key, {"file": str(file)})
        assert rule(params=100, tokens=1000, size=8) == pytest.approx(value, rel=1e-6)


@pytest.mark.seconds
def test_runs_that_repeat_a_share_of_the_data_say_so_up_to_the_fit(project):
    shares = {1e5: [1, 0.5, 0.1], 2e5: [1, 0.05]}
    table = train_all(
        project, dataset={"unique_fraction": shares}, sizes={"values": [4, 8, 16, 32]}
    )
    raw = pd.read_csv(table)
    assert len(raw) == 4 * 3 + 4 * 2
    items = as_data(sys.modules["variedplugin"].data()).unique_items
    seen = (raw["unique_fraction"].fillna(1) * items).round()
    assert raw["epochs"].tolist() == pytest.approx((raw["tokens"] / seen).tolist())
    given = raw["unique_tokens"].notna()
    assert raw["unique_tokens"][given].tolist() == seen[given].tolist()
    # Such tiny runs follow no law: the losses are those of one in which repeats are worth R = 5
    fresh, repeats = seen.clip(upper=raw["tokens"]), (raw["tokens"] / seen - 1).clip(lower=0)
    effective = fresh * (1 + 5 * -np.expm1(-repeats / 5))
    raw["loss"] = 1 + 20 / raw["params"] ** 0.5 + 30 / effective**0.5
    raw.to_csv(table, index=False)
    fit = fit_runs(read_runs(table), bootstrap=0)
    assert fit.repeats.n_repeated == (raw["epochs"] >= 1.05).sum() == 13
    assert fit.repeats.form == "exponential"
    assert pytest.approx(5, rel=0.05) == fit.repeats.R


def test_a_share_of_the_data_is_drawn_by_the_seed_and_leaves_the_held_out_part():
    items = torch.arange(400.0)
    data = as_data(TensorDataset(items, items))
    some, more, other = (data.fraction(*how) for how in ((0.1, 0), (0.5, 0), (0.1, 1)))
    kept = [
        {float(part.train[i][0]) for i in range(len(part.train))} for part in (some, more, other)
    ]
    assert [len(k) for k in kept] == [round(share * data.unique_items) for share in (0.1, 0.5, 0.1)]
    assert kept[0] < kept[1]
    assert kept[0] != kept[2]
    assert some.heldout is data.heldout

    class Stream(IterableDataset):
        def __iter__(self):
            yield from ()

    with pytest.raises(FlopsFitError, match=r"dataset\.unique_fraction: the items of an iterable"):
        Data(Stream(), data.heldout, data.collate).fraction(0.5, 0)


def test_a_share_counts_where_passes_are_limited(project):
    plan = planned(project, dataset={"unique_fraction": [1, 0.1]})
    assert [e.unique_fraction for e in plan.experiments][:2] == [None, 0.1]
    longest = max(e.num_tokens for e in plan.experiments)
    amount = seen_amount(400)
    check_amount(amount, plan.experiments, longest / 40 + 0.01)
    with pytest.raises(FlopsFitError, match=f"{longest / 40:.2f} passes over 40 unique tokens"):
        check_amount(amount, plan.experiments, longest / 40 - 0.01)
    some = spec_of(project, plan.experiments[1])
    assert seen_data(some).unique_items == round(
        0.1 * seen_data(spec_of(project, plan.experiments[0])).unique_items
    )


def seen_amount(items):
    class Amount:
        unique_items = unique_tokens = items

    return Amount()
