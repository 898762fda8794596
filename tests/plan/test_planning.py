"""What a plan notices of a model beside its counts: batch norm, and sizes that are no sizes."""

import sys
from dataclasses import replace

import pytest
import recipes
import small_runs
from torch import nn

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions, part_of_batch
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.job import check_part
from flops_fit.plan import cache
from flops_fit.plan.planner import make_plan

MODULE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    norm = nn.LayerNorm
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), self.norm(width), nn.Linear(width, 4))
    def forward(self, x):
        return self.layers(x)
class Batch(Net):
    norm = nn.BatchNorm1d
class Ignoring(Net):
    def __init__(self, width):
        super().__init__(8 if width < 32 else width)
def data():
    inputs = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.argmax(1))
"""
WHOLE: dict = {}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "splitplugin", raising=False)
    (tmp_path / "splitplugin.py").write_text(MODULE)

    def plan(
        model: str, resources: dict, sizes=(8,), batch=16
    ) -> tuple[list[str], list[int | None], list[str]]:
        """Ids, items of a part, and warnings."""
        config = complete_config(
            {
                "name": "split",
                "model": {"factory": f"splitplugin:{model}", "size_param": "width"},
                "dataset": {"factory": "splitplugin:data"},
                "budgets": [1e5],
                "sizes": {"values": [*sizes]},
                "batch": batch,
                "learning_rate": {"value": 0.01},
                "limits": {"min_steps": 2, "max_epochs": 100},
                "resources": resources,
            }
        )
        made = make_plan(config, tmp_path / "results", [str(tmp_path)])
        ids = [experiment.experiment_id for experiment in made.experiments]
        specs = [read_spec(tmp_path / f"results/.plan/specs/{name}.json") for name in ids]
        assert all(
            ("part_items" in s.recipe.to_dict()) is bool(s.plugins.part_items) for s in specs
        )
        return ids, [spec.plugins.part_items for spec in specs], made.warnings

    return plan


SPLITS = [({"micro_batch_items": 4}, 4), ({"processes": 2}, 8)]


@pytest.mark.parametrize(("split", "part"), SPLITS)
def test_a_split_of_what_batch_norm_sees_is_another_experiment(planned, split, part):
    whole, none, silence = planned("Batch", WHOLE)
    ids, parts, (said,) = planned("Batch", split)
    assert (none, silence, parts) == ([None], [], [part])
    assert set(whole).isdisjoint(ids)
    assert said.startswith("model: BatchNorm1d normalises over the items")


def test_what_batch_norm_sees_of_a_growing_batch_is_not_split(planned):
    batch = {"value": 16, "seen": {"reference": 100, "power": 0.5}}
    assert planned("Batch", WHOLE, batch=batch)[1] == [None]
    with pytest.raises(FlopsFitError, match=r"batch.seen: BatchNorm1d normalises over the items"):
        planned("Batch", {"micro_batch_items": 4}, batch=batch)


@pytest.mark.parametrize(
    ("model", "split"),
    [("Net", split) for split, _ in SPLITS] + [("Batch", {"micro_batch_items": 16})],
)
def test_any_other_split_is_a_resource_alone(planned, model, split):
    assert planned(model, split)[:2] == planned(model, WHOLE)[:2]


@pytest.mark.parametrize(
    ("planned_part", "processes", "micro"), [(None, 2, None), (8, 1, None), (4, 2, 2)]
)
def test_a_job_that_splits_a_batch_otherwise_than_planned_is_refused(
    planned_part, processes, micro
):
    identity = recipes.identity()
    recipe = replace(read_recipe(identity), batch_items=16, part_items=planned_part)
    options = TrainOptions(1600, 16, 0.1, processes=processes, micro_batch_items=micro)
    check_part(recipe, options, normalises=False)
    with pytest.raises(FlopsFitError, match=r"--processes: .* allowed: the processes of the plan"):
        check_part(recipe, options, normalises=True)
    part = part_of_batch(16, processes, micro)
    check_part(replace(recipe, part_items=part), options, normalises=True)


def test_sizes_that_make_the_same_model_are_named(planned):
    (said,) = planned("Ignoring", WHOLE, [8, 16, 32])[2]
    assert said.startswith("width=8, 16: all have 92 parameters and ")
    assert planned("Net", WHOLE, [8, 16, 32])[2] == []


@pytest.mark.parametrize(("norm", "same"), [(nn.BatchNorm1d, False), (nn.LayerNorm, True)])
def test_only_batch_norm_trains_another_model_from_parts(monkeypatch, norm, same):
    def net():
        return nn.Sequential(nn.Linear(8, 4), norm(4), nn.Linear(4, 5))

    monkeypatch.setattr(small_runs, "Net", net)
    whole, parts = (small_runs.run(micro_batch_items=items)["final_loss"] for items in (None, 4))
    assert (whole == pytest.approx(parts, rel=1e-5)) is same


def test_a_plan_that_takes_long_says_what_it_waits_for(tmp_path, monkeypatch, capsys):
    """A script that trains when it is imported would otherwise hold up the plan without a word."""
    monkeypatch.setattr(cache, "NOTE_AFTER", 0.01)
    with pytest.raises(FlopsFitError):
        cache._make_plan({}, str(tmp_path), [])
    assert 'if __name__ == "__main__":' in capsys.readouterr().err
