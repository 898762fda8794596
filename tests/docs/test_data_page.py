"""What docs/data.md tells to write is accepted as it stands there, and does what it says."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.data import as_data
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.plan.planner import make_plan
from flops_fit.plugins.resolve import check_arguments, resolve
from flops_fit.trainer import train
from flops_fit.training.checks import check_inputs

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"<!-- test: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
DATASETS = [yaml.safe_load(text) for name, text in BLOCKS if name == "dataset"]
SWEEP = {
    "name": "page",
    "model": {"factory": "mymodel:Net", "size_param": "width"},
    "budgets": [1e5],
    "sizes": {"values": [8]},
    "batch": {"value": 8},
    "learning_rate": {"value": 0.01},
}
MODEL = """\
from torch import nn


def Net(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
"""


@pytest.mark.parametrize("block", DATASETS[:2])
def test_the_text_blocks_fit_the_schema_and_the_functions_that_they_name(block):
    dataset = complete_config({**SWEEP, **block})["dataset"]
    prepare = resolve(dataset["prepare"])
    check_arguments(
        prepare,
        dataset["prepare"],
        dataset["prepare_kwargs"],
        "dataset.prepare_kwargs",
        supplied=("directory", "sources"),
    )
    factory = resolve(dataset["factory"])
    check_arguments(
        factory, dataset["factory"], dataset["kwargs"], "dataset.kwargs", supplied=("data_dir",)
    )


def test_the_adapter_makes_a_data_set_of_dictionaries_trainable(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    Path("mydata.py").write_text(dict(BLOCKS)["mydata.py"])
    Path("mymodel.py").write_text(MODEL)

    def save(count: int) -> None:
        pixels = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
        rows = {"pixels": pixels.tolist(), "label": pixels[:, :3].argmax(1).tolist()}
        datasets.Dataset.from_dict(rows).save_to_disk("shapes")

    def planned() -> Spec:
        config = complete_config({**SWEEP, **DATASETS[2]})
        (experiment,) = make_plan(config, tmp_path / "results", [str(tmp_path)]).experiments
        return read_spec(spec_file(tmp_path / "results", experiment.experiment_id))

    save(400)
    spec = planned()
    known = check_inputs(spec, train)
    assert (known.unique_items, known.heldout_items) == (368, 32)
    data = as_data(resolve("mydata:data")("shapes"))
    assert data.train[0][0].shape == (4,)
    save(500)
    assert planned().experiment_id != spec.experiment_id
