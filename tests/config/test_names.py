"""Names that become files and folders: of sweeps, and of experiments."""

import re
from pathlib import Path

import pytest
import yaml
from recipes import identity

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.recipe import read_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["runs", "data", "local", "Runs", "DATA"])
def test_a_sweep_cannot_take_the_folder_of_something_else(name):
    with pytest.raises(
        FlopsFitError, match=rf"name: '{name}' is reserved, because results/.*; allowed: any"
    ):
        complete_config({"name": name, "runs": "table.csv"})


@pytest.mark.parametrize("name", [".plan", "..", ".snakemake", "a/b", "n" * 101, "größe"])
def test_nor_one_that_is_hidden_too_long_or_no_plain_name(name):
    with pytest.raises(FlopsFitError, match=r"name: .* is not allowed; allowed: "):
        complete_config({"name": name, "runs": "table.csv"})


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_sweeps_have_names_that_are_free(path):
    raw = yaml.safe_load(path.read_text())
    assert complete_config(raw)["name"]


@pytest.mark.parametrize(
    ("fields", "readable"),
    [
        ({}, "net-width8-D1.5e6-s0"),
        ({"size": 0.5, "seed": 12}, "net-width0.5-D1.5e6-s12"),
        ({"size": 1e20}, "net-width1e+20-D1.5e6-s0"),
        ({"name": "factory.make_Net"}, "make_net-width8-D1.5e6-s0"),
        ({"name": "Modèle", "size_param": "größe"}, "modele-gro_e8-D1.5e6-s0"),
        ({"name": "模型", "size_param": "宽"}, "_-_8-D1.5e6-s0"),
        ({"size": "tiny/gpt 2", "seed": "a:b"}, "net-widthtiny_gpt_2-D1.5e6-sa_b"),
        ({"size": "../../etc"}, "net-width.._.._etc-D1.5e6-s0"),
        ({"name": "N" * 250}, f"{'n' * 40}-width8-D1.5e6-s0"),
        ({"name": "N" * 150, "size_param": "w" * 150}, f"{'n' * 40}-{'w' * 40}-D1.5e6-s0"),
        ({"name": "N" * 150}, f"{'n' * 150}-width8-D1.5e6-s0"),
    ],
)
def test_an_id_is_readable_and_can_name_a_file(fields, readable):
    made = read_recipe(identity(**fields)).experiment_id
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{8}", made)
    assert re.fullmatch("[A-Za-z0-9._+-]{1,190}", made)  # what the workflow's rules accept


def test_names_that_look_alike_when_escaped_stay_apart():
    made = {read_recipe(identity(size=size)).experiment_id for size in ("a/b", "a:b", "a_b")}
    assert len(made) == 3


def test_any_unicode_name_trains(tmp_path, monkeypatch):
    """A planned spec is found again under its id."""
    from flops_fit.experiment.spec import read_spec
    from flops_fit.plan.planner import make_plan

    (tmp_path / "größen.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset\n"
        "class Modèle(nn.Linear):\n    def __init__(self, 宽):\n        super().__init__(4, 4)\n"
        "def données():\n    x = torch.randn(99, 4)\n    return TensorDataset(x, x.argmax(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = complete_config(
        {
            "name": "unicode",
            "model": {"factory": "größen:Modèle", "size_param": "宽"},
            "dataset": {"factory": "größen:données"},
            "budgets": [1e5],
            "sizes": {"values": [1]},
            "batch": {"value": 8},
            "learning_rate": {"value": 0.1},
        }
    )
    (experiment,) = make_plan(config, tmp_path / "results", [str(tmp_path)]).experiments
    specs = tmp_path / "results" / ".plan" / "specs"
    assert read_spec(specs / f"{experiment.experiment_id}.json")
