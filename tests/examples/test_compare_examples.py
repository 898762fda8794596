"""The comparisons of ``examples/compare``: their arms plan once their rates are known, at those rates."""

from pathlib import Path

import pytest
import yaml

from flops_fit.config.load import load_config
from flops_fit.files import write_json
from flops_fit.plan.planner import make_plan
from flops_fit.store.plan_file import read_plan

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "compare"
RUNS = {"adamw": 28, "muon": 28, "lstm": 30}


@pytest.mark.parametrize("arm", RUNS)
def test_an_arm_and_its_rate_sweep_plan_every_cell(arm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate = load_config(CONFIGS / f"{arm}_rate.yaml")
    make_plan(rate, "results", [str(ROOT)])
    (file,) = Path("results/.plan/plans").glob("*.json")
    plan = read_plan(file)
    assert (len(plan.experiments), plan.skipped) == (20, [])
    file.unlink()
    rule = {"format": 1, "value": 0.01, "params": {"reference": 1e4, "power": -0.5}}
    write_json(Path(f"results/{rate['name']}/learning_rate.json"), rule)
    make_plan(load_config(CONFIGS / f"{arm}.yaml"), "results", [str(ROOT)])
    (file,) = Path("results/.plan/plans").glob("*.json")
    plan = read_plan(file)
    assert (len(plan.experiments), plan.skipped) == (RUNS[arm], [])
    for e in plan.experiments:
        assert e.learning_rate == pytest.approx(0.01 * (e.count.params / 1e4) ** -0.5)


@pytest.mark.parametrize("name", ["compare", "lstm_compare"])
def test_a_comparison_names_arms_that_are_there(name):
    arms = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["compare"]
    assert [(ROOT / arm).parent for arm in arms.values()] == [CONFIGS, CONFIGS]
    assert all((ROOT / arm).exists() for arm in arms.values())
