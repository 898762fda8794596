"""The presets plan as their page says, and the one for GPUs trains where there is none."""

import math
import re
import string
from pathlib import Path

import pytest
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import read_spec
from flops_fit.files import read_json
from flops_fit.jobs.job import train_spec
from flops_fit.notation import count_text, time_text
from flops_fit.plan.planner import make_plan
from flops_fit.plan.price import rate_for
from flops_fit.plan.table import PlanRow, plan_rows, totals
from flops_fit.plan.warnings import plan_warnings
from flops_fit.store.plan_file import read_plan
from flops_fit.store.stopping import StopRequest
from flops_fit.trainer import train
from flops_fit.training.checks import check_inputs
from flops_fit.training.prepare import prepare_data

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "presets.md"


def priced(name: str, results: Path) -> tuple[Plan, list[PlanRow], dict]:
    """Plan, priced rows and config of a preset, made without any data."""
    config = load_config(ROOT / "config" / f"{name}.yaml")
    make_plan(config, results, [str(ROOT)])
    (file,) = results.glob(".plan/plans/*.json")
    plan, pricing = read_plan(file), config["pricing"]
    rate = rate_for(pricing, config["resources"]["gpus"], config["precision"], results)
    return plan, plan_rows(plan, rate, pricing["per_hour"], None), config


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    return priced("gpu", tmp_path_factory.mktemp("gpu"))


def curves(rows: list[PlanRow]) -> dict[float, list[PlanRow]]:
    found = {}
    for row in rows:
        found.setdefault(row.experiment.compute_budget, []).append(row)
    return found


def table(rows: list[PlanRow]) -> str:
    """What the page shows of a plan: a line for each budget, and one for all."""
    parts = [(f"{c:.3g}".replace("e+", "e"), own) for c, own in curves(rows).items()]
    lines = []
    for name, own in [*parts, ("all", rows)]:
        total = totals(own)
        spans = [
            f"{text(min(map(value, own)))} to {text(max(map(value, own)))}"
            for value, text in (
                (lambda row: row.experiment.count.params, count_text),
                (lambda row: row.experiment.num_tokens, count_text),
                (lambda row: row.experiment.steps, str),
            )
        ]
        money = "" if total.money is None else f" {total.money:.0f} |"
        lines.append(
            f"| {name} | {len(own)} | {' | '.join(spans)} | {total.memory_bytes / 1e9:.2g} GB | "
            f"{time_text(total.longest_seconds)} | {total.device_hours:.2g} |{money}\n"
        )
    return "".join(lines)


def test_the_gpu_preset_plans_without_a_warning(gpu):
    plan, rows, config = gpu
    assert plan_warnings(plan, rows, config["answer"]["budgets"]) == []
    assert plan.skipped == []


def test_its_budgets_lie_on_both_sides_of_the_expected_optimum(gpu):
    _, rows, _ = gpu
    assert sum(row.experiment.flops_counted for row in rows) == pytest.approx(6 * 1.44e19, rel=0.01)
    for own in curves(rows).values():
        ratios = sorted(row.tokens_per_param for row in own)
        assert ratios[0] < 10 < 40 < ratios[-1]
        assert 5 < ratios[len(ratios) // 2] < 100
        assert all(row.price.memory_bytes < 80e9 for row in own)


def test_its_counts_are_those_by_hand(gpu):
    _, rows, _ = gpu
    depth, vocabulary, length = 8, 50_304, 1024
    row = next(row for row in rows if row.experiment.size_param_value == depth)
    width = 64 * depth
    matmul = 12 * depth * width**2 + vocabulary * width
    assert row.experiment.count.params == matmul
    by_hand = 6 * matmul + 12 * depth * length * width
    assert row.experiment.count.flops_per_token == pytest.approx(by_hand, rel=0.01)
    assert row.experiment.count.method == "meta"


def test_the_page_shows_the_priced_plans(gpu, tmp_path):
    page = PAGE.read_text()
    for rows in (gpu[1], priced("standard", tmp_path)[1]):
        assert table(rows) in page, table(rows)


def test_the_standard_sweep_on_trunks_takes_two_thirds_of_separate_runs(tmp_path):
    plan, rows, config = priced("standard_trunk", tmp_path)
    assert len(rows) == 70
    assert plan.skipped == []
    assert plan_warnings(plan, rows, config["answer"]["budgets"]) == []  # such as of short runs
    separate = sum(row.experiment.flops_counted for row in rows)
    assert totals(rows).flops_counted / separate < 0.665
    assert totals(rows).flops_counted < 0.7 * 1.1e14  # of config/standard.yaml, see its page


def test_the_kept_runs_on_trunks_are_those_of_the_preset_and_share_as_it_plans():
    records = read_json(ROOT / "docs" / "standard_trunk" / "results.json")
    known = read_json(ROOT / "tests" / "plan" / "shipped_ids.json")["standard_trunk"]
    assert sorted(record["experiment_id"] for record in records) == sorted(known)
    separate = sum(record["flops_counted"] for record in records)
    assert sum(record["flops_here"] for record in records) / separate < 0.665


def test_the_page_names_every_preset():
    page = PAGE.read_text()
    for file in sorted((ROOT / "config").glob("*.yaml")):
        assert f"`config/{file.name}`" in page


@pytest.mark.seconds
def test_a_small_variant_trains_for_real_on_local_text(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = (ROOT / "tests" / "data" / "text.txt").read_text()
    Path("text.txt").write_text(re.sub(rf"[^{re.escape(string.printable)}]", "", words))
    raw = yaml.safe_load((ROOT / "config" / "gpu.yaml").read_text())
    size = {"vocab_size": 320, "seq_len": 32}
    raw["model"]["kwargs"] = {**size, "aspect": 16, "head_dim": 16}
    data = raw["dataset"]
    data["kwargs"] = {"seq_len": 32}
    del data["prepare_kwargs"]["hub"]
    data["sources"] = ["text.txt"]
    data["prepare_kwargs"] |= {
        "tokenizer": {"bpe": 320},
        "vocab_size": 320,
        "heldout_every": 4,
        "document_size": 500,
    }
    raw |= {"budgets": [3e9], "sizes": {"values": [2]}, "limits": {"max_epochs": 1000}}
    raw["batch"] |= {"value": 512, "tokens": {"reference": 1e4, "power": 0.5}}
    raw["evaluation"]["tokens"] = 2048
    raw["resources"] |= {"gpus": 0, "threads": 1, "compile": False}
    (experiment,) = make_plan(complete_config(raw), "results", [str(ROOT)]).experiments
    spec = read_spec(spec_file("results", experiment.experiment_id))
    prepare_data(Plan("", "counted", [experiment]), "results")
    check_inputs(spec, train)
    for variable, value in {"PROCESSES": "1", "GPUS": "0"}.items():  # as the launcher sets them
        monkeypatch.setenv(f"FLOPS_FIT_{variable}", value)
    record = train_spec(spec, "results", StopRequest())
    assert record["status"] == "completed"
    assert spec.recipe.shared.precision == "bf16"
    assert record["tokens_seen"] == experiment.num_tokens
    assert record["final_loss"] < math.log(320)
