"""Measures beside the loss: taken at the end of a run, recorded, and a part of what the run is."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from planned_job import Job
from published_schemas import problems
from small_runs import Net, points
from torch import nn

from flops_fit.config.asked import COLUMNS
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.spec import read_spec
from flops_fit.fit import Reading, read_runs
from flops_fit.plugins.data_files import FileHashes
from flops_fit.store.collect import run_table, write_results
from flops_fit.training.checks import check_inputs
from flops_fit.training.evaluation import evaluate

CODE = '''
from flops_fit.data import as_data, as_heldout


def zeros(outputs, targets):
    """One value per item."""
    return targets == 0


def share_of_zeros(outputs, targets):
    """The mean over targets."""
    return (targets == 0).double().mean()


def nothing(outputs, targets):
    return float("nan")


def pairs(outputs, targets):
    return torch.zeros(2, 2)


def same():
    split = as_data(data())
    return split.train, split.heldout


def ones():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(50, 4, generator=generator), torch.ones(50, dtype=torch.long))
'''
METRICS = {
    "zeros": "jobplugin:zeros",
    "share": "jobplugin:share_of_zeros",
    "same": {"dataset": "jobplugin:same"},
    "ones": {"dataset": "jobplugin:ones", "function": "jobplugin:share_of_zeros"},
}


PLANNED = {"compute_budget": 1e5, "seed": 0, "size_param_value": 8, "num_tokens": 312}


@pytest.fixture
def new(tmp_path, monkeypatch):
    """A planned job with the metrics given."""

    def make(folder: str = "", metrics: dict | None = None, **changes) -> Job:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        return Job(
            root, monkeypatch, CODE, metrics=METRICS if metrics is None else metrics, **changes
        )

    return make


def test_a_run_records_every_measure_and_trains_as_without_them(new):
    plain = new("plain", metrics={})
    assert plain() == 0
    job = new("measured")
    assert job() == 0
    record, without = job.record(), plain.record()
    assert record["final_loss"] == without["final_loss"]
    assert record["loss_curve"] == without["loss_curve"]
    assert "metrics" not in without.keys() | without["identity"].keys()
    measured = record["metrics"]
    heldout = sys.modules["jobplugin"].same()[1]
    share = np.mean([int(target) == 0 for _, target in (heldout[i] for i in range(32))])
    assert 0 < share < 1
    assert measured["zeros"] == measured["share"] == share
    assert measured["same"] == record["final_loss"]
    assert measured["ones"] == 0
    assert problems("record", record) == []


def test_a_measure_that_is_not_finite_is_left_out_of_the_fit_and_said(new, tmp_path, caplog):
    job = new(metrics={"none": "jobplugin:nothing", "zeros": "jobplugin:zeros"})
    assert job() == 0
    assert "metrics.none: nan on the held-out items" in caplog.text
    assert job.record()["metrics"]["none"] is None
    rows = [
        {**job.record(), **PLANNED, "metrics": {"none": value, "zeros": 0.5}}
        for value in (None, 1.5, 1.4, 1.3, 1.2, 1.1)
    ]
    write_results(rows, "counted", tmp_path / "results.json", tmp_path / "results.csv")
    table = read_runs(tmp_path / "results.csv", reading=Reading(loss_column="none"))
    assert [run.reason for run in table.left_out] == ["no value of none"]
    assert table.frame["loss"].tolist() == [1.5, 1.4, 1.3, 1.2, 1.1]
    assert len(read_runs(tmp_path / "results.csv").frame) == 6


def test_a_metric_that_looks_like_a_loss_is_not_taken_for_it(new, tmp_path):
    job = new(metrics={"val_loss": {"dataset": "jobplugin:ones"}})
    assert job() == 0
    records = [{**job.record(), **PLANNED}]
    write_results(records, "counted", tmp_path / "results.json", tmp_path / "results.csv")
    table = read_runs(tmp_path / "results.csv")
    assert table.frame["loss"][0] == records[0]["final_loss"] != records[0]["metrics"]["val_loss"]
    assert any("there is also 'val_loss'; --loss" in note for note in table.notes)
    asked = read_runs(tmp_path / "results.csv", reading=Reading(loss_column="val_loss"))
    assert asked.frame["loss"][0] == records[0]["metrics"]["val_loss"]


def test_a_name_that_a_column_has_already_stands_behind_metrics(new):
    job = new(metrics={})
    assert job() == 0
    record = {**job.record(), **PLANNED, "metrics": {"seed": 3.0, "x": 1.0}}
    row, other = run_table([record, {**job.record(), **PLANNED}], "counted")
    assert (row["seed"], row["metrics.seed"], row["x"]) == (0, 3.0, 1.0)
    assert (other["metrics.seed"], other["x"]) == (None, None)


def test_the_names_that_are_refused_are_those_of_the_columns(new):
    job = new(metrics={})
    assert job() == 0
    (row,) = run_table([{**job.record(), **PLANNED}], "6nd")
    assert row.keys() | {"params_matmul", "outlier", "unique_tokens"} == COLUMNS


def test_metrics_and_their_code_are_part_of_what_a_run_is(new, tmp_path):
    plain, job = new(metrics={}), new()
    spec = read_spec(job.spec)
    assert plain.id != job.id
    assert set(spec.recipe.to_dict()["metrics"]) == set(METRICS)
    assert not spec.changed(FileHashes("/dev/null"))
    module = tmp_path / "jobplugin.py"
    module.write_text(module.read_text().replace("(50, ", "(60, "))
    assert "jobplugin:ones" in spec.changed(FileHashes("/dev/null"))


def test_a_metric_leaves_the_steps_that_runs_share(new, tmp_path):
    trunk = {"schedule": {"kind": "trunk", "warmup_tokens": 8}}
    recipes = [read_spec(new(metrics=m, **trunk).spec).recipe for m in ({}, METRICS)]
    assert recipes[0].hash != recipes[1].hash
    assert recipes[0].trunk == recipes[1].trunk != ""


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("jobplugin:pairs", "metrics.x: returned the shape"),
        ("jobplugin:zeros.missing", "jobplugin"),
        ({"dataset": {"factory": "jobplugin:ones", "kwargs": {"of": 1}}}, "jobplugin:ones"),
    ],
)
def test_a_bad_metric_is_refused_before_anything_trains(new, metric, message, tmp_path):
    from flops_fit.trainer import train

    with pytest.raises(FlopsFitError, match=message):
        check_inputs(read_spec(new(metrics={"x": metric}).spec), train)


class Share:
    """What one of several processes sees in `evaluate`."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world: int, others: list):
        self.process_index, self.num_processes, self.others = rank, world, others

    def gather(self, sums):
        self.others.append(sums)
        return torch.cat(self.others)


def test_two_processes_measure_what_one_does():
    def right(outputs, targets):
        return outputs.argmax(-1) == targets

    def scalar(outputs, targets):
        return right(outputs, targets).double().mean()

    torch.manual_seed(0)
    net, (x, y) = Net(), points(64).tensors
    counts = np.ones(16, int)
    batches = [(x[i : i + 16], y[i : i + 16], counts) for i in range(0, 64, 16)]
    batches[-1] = (batches[-1][0][:3], batches[-1][1][:3], np.array([1, 0, 1]))
    metrics = {"right": right, "scalar": scalar}

    def measured(rank, world, others):
        return evaluate(
            Share(rank, world, others), net, batches[rank::world], nn.CrossEntropyLoss(), metrics
        )

    others: list = []
    measured(0, 2, others)
    alone, both = measured(0, 1, []), measured(1, 2, others)
    assert both["metrics"] == pytest.approx(alone["metrics"], rel=1e-14)
    kept = [right(net(a), b)[torch.as_tensor(c > 0)] for a, b, c in batches]
    assert alone["metrics"]["right"] == torch.cat(kept).double().mean().item()


def test_the_spec_of_a_metric_keeps_its_schema(new):
    import json

    job = new()
    assert problems("spec", json.loads(Path(job.spec).read_text())) == []
