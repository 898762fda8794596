"""The types that say what an experiment is, and the plain data that they are written as."""

from dataclasses import fields, replace

import pytest
import recipes

from flops_fit.config.complete import complete_config
from flops_fit.constants import Status, flops_6nd
from flops_fit.experiment.options import DecidingOptions, Resources
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.spec import Spec
from flops_fit.sweep import NOT_COUNTED, Experiment, ModelCount

COUNT = ModelCount(10, 11, 12, 13, 66.0, "meta", ("a warning",), 5.0, 7.0)
WHOLE = Experiment("a", 1e6, 8, 10, 100, 1, 4, 2.5, 10, 0.1, 40, COUNT, "f00")


def test_an_experiment_is_made_of_the_five_names_of_the_origin():
    names = [field.name for field in fields(Experiment)][:5]
    origin = ["experiment_id", "compute_budget", "size_param_value", "num_params", "num_tokens"]
    assert names == origin
    made = Experiment("a", 1e6, 8, 10, 100)
    assert made.count is NOT_COUNTED
    assert (made.flops_6nd, made.flops_counted) == (6000.0, 0.0)
    row = made.to_dict()
    assert (row["num_params"], row["params"], row["flops_per_token"]) == (10, 0, 0.0)
    assert not {"hash", "expected_items", "flops_per_position"} & row.keys()


def test_an_experiment_comes_back_from_its_row_without_warnings():
    assert Experiment.from_dict(WHOLE.to_dict()) == replace(
        WHOLE, count=replace(COUNT, warnings=())
    )
    assert Experiment.from_dict(WHOLE.to_dict()).to_dict() == WHOLE.to_dict()


def test_positions_decide_what_a_run_spent_where_they_are_counted():
    assert COUNT.spent_flops(100) == 6600.0
    assert COUNT.spent_flops(100, positions=30) == 210.0
    assert replace(COUNT, flops_per_position=None).spent_flops(100, positions=30) == 6600.0
    assert flops_6nd(10, 100) == 6000.0


def test_every_option_that_decides_a_result_changes_the_hash_of_its_recipe():
    value = recipes.identity(expected_items=7)
    recipe = read_recipe(value)
    assert recipe.to_dict() == value
    places = {
        "clip_norm": ("optimizer", "clip_norm"),
        "evaluation_tokens": ("evaluation", "tokens"),
        "evaluation_batch_items": ("evaluation", "batch_items"),
    }
    for field in fields(DecidingOptions):
        *parents, name = places.get(field.name, (field.name,))
        other = recipes.identity(expected_items=7)
        part = other
        for parent in parents:
            part = part[parent]
        part[name] = "other"
        assert getattr(read_recipe(other).options, field.name) == "other"
        assert read_recipe(other).hash != recipe.hash


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("seed"),
        lambda v: v.update(surprise=1),
        lambda v: v["model"].update(surprise=1),
        lambda v: v["loss"].pop("source"),
    ],
)
def test_what_is_no_recipe_is_not_read_as_one(change):
    value = recipes.identity()
    change(value)
    with pytest.raises((LookupError, TypeError)):
        read_recipe(value)


def test_the_defaults_of_resources_are_those_of_the_config():
    config = complete_config({"name": "x", "runs": "runs.csv"})
    assert Resources.from_dict(config["resources"]) == Resources()


def test_a_spec_comes_back_from_its_file():
    value = recipes.spec(recipes.identity())
    assert Spec.from_dict(value).to_dict() == value


def test_only_a_completed_run_is_usable():
    assert [status.value for status in Status if status.usable] == ["completed"]
    assert Status("diverged") == "diverged"
