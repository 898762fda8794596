"""The ids of the sweeps that come with the repository stay: whoever has trained them finds their runs."""

import json
from pathlib import Path

import pytest

from flops_fit.config.load import load_config
from flops_fit.plan.planner import make_plan

ROOT = Path(__file__).parents[2]
KNOWN = json.loads(Path(__file__).with_name("shipped_ids.json").read_text())
CONFIGS = sorted(
    path
    for folder in ("config", "examples")
    for path in ROOT.joinpath(folder).glob("*.yaml")
    if path.stem != "compare" and load_config(path)["runs"] is None
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.seconds
def test_a_shipped_sweep_plans_the_experiments_that_it_always_has(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "fashion-mnist.deb").write_text("what vit.yaml reads is fetched by hand")
    plan = make_plan(load_config(path), tmp_path / "results", [str(tmp_path), str(ROOT)])
    assert [experiment.experiment_id for experiment in plan.experiments] == KNOWN[path.stem]
