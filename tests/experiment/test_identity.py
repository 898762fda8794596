"""What enters an experiment's identity, and what must not."""

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.experiment.identity import recipe_of, shared_recipe
from flops_fit.plugins.data_files import FileHashes
from flops_fit.sweep import Experiment

PLUGIN = '''
from torch import nn
class Net(nn.Module):
    """A docstring."""
def data(path=None): ...
def prepare(directory, sources, heldout=()): ...
def example(**kwargs): ...
'''
EXPERIMENT = Experiment("", 1e9, 8, 1, 1_500_000, batch_items=4, steps=9, learning_rate=0.1)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    return tmp_path


def identify(folder, **changes) -> str:
    raw = {
        "name": "x",
        "model": {"factory": "mine:Net", "size_param": "d"},
        "dataset": {
            "factory": "mine:data",
            "prepare": "mine:prepare",
            "example": "mine:example",
            "sources": ["a.txt", "b.txt"],
        },
        "budgets": [1e9],
        "sizes": {"values": [8]},
    }
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    hashes = FileHashes(folder / "hashes.json")
    shared = shared_recipe(complete_config(raw), [str(folder)], hashes)
    hashes.save()
    return recipe_of(shared, EXPERIMENT).experiment_id


def test_an_id_says_what_it_is_and_ends_in_its_hash(folder):
    assert identify(folder).startswith("net-d8-D1.5e6-s0-")
    assert len(identify(folder).rsplit("-", 1)[1]) == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"budgets": [2e9]},
        {"resources": {"threads": 4}},
        {"fit": {"bootstrap": 0}},
        {"limits": {"max_epochs": 9}},
        {"answer": {"budgets": [1e12]}},
    ],
)
def test_what_only_asks_runs_or_shows_stays_outside(folder, changes):
    assert identify(folder, **changes) == identify(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"kwargs": {"depth": 2}}},
        {"dataset": {"kwargs": {"path": "x"}}},
        {"dataset": {"sources": ["b.txt", "a.txt"]}},
        {"dataset": {"sources": ["a.txt"]}},
        {"schedule": {"kind": "linear"}},
        {"precision": "bf16"},
        {"evaluation": {"tokens": 10}},
        {"optimizer": {"clip_norm": 1.0}},
    ],
)
def test_what_decides_a_result_is_inside_the_order_of_sources_too(folder, changes):
    assert identify(folder, **changes) != identify(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kwargs": {"path": "c.txt"}},
        {"prepare_kwargs": {"heldout": ["c.txt"]}},
        {"sources": ["c.txt"]},
    ],
)
def test_a_file_counts_with_its_content_wherever_it_is_named(folder, arguments):
    before = identify(folder, dataset=arguments)
    assert identify(folder, dataset=arguments) == before
    (folder / "c.txt").write_text("other")
    assert identify(folder, dataset=arguments) != before


def test_a_comment_or_docstring_is_not_a_change_but_code_is(folder):
    before = identify(folder)
    (folder / "mine.py").write_text(PLUGIN.replace("A docstring.", "Another.") + "# comment\n")
    assert identify(folder) == before
    (folder / "mine.py").write_text(PLUGIN + "x = 1\n")
    assert identify(folder) != before
