"""Plans, specs and records that an earlier commit wrote are read as they were meant.

The files in ``before`` were written by ``plan`` and ``train`` with config/smoke.yaml.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from flops_fit.constants import TABLE_NAMES
from flops_fit.experiment.spec import read_spec
from flops_fit.store.collect import collect, run_table
from flops_fit.store.plan_file import read_plan, read_plan_use
from flops_fit.store.records import read_record
from flops_fit.store.runs import check_foreign

BEFORE = Path(__file__).with_name("before")
ID = "gpt-d_model32-D3.58e3-s0-a79a5e8b"


def content(name: str) -> dict:
    return json.loads((BEFORE / name).read_text())


def test_a_plan_is_read_and_would_be_written_the_same():
    plan = read_plan(BEFORE / "plan.json")
    assert plan.to_dict() == content("plan.json")
    assert read_plan_use(BEFORE / "plan.json").experiments == [
        experiment.experiment_id for experiment in plan.experiments
    ]


def test_a_spec_is_read_and_would_be_written_the_same():
    assert read_spec(BEFORE / f"{ID}.json").to_dict() == content(f"{ID}.json")


def test_a_record_is_read_imported_and_collected(tmp_path):
    plan = read_plan(BEFORE / "plan.json")
    (planned,) = [e for e in plan.experiments if e.experiment_id == ID]
    record = read_record(BEFORE / "record.json", ID, planned.hash)
    assert record == content("record.json")
    assert check_foreign((BEFORE / "record.json").read_bytes()) == record
    folder = tmp_path / "runs" / ID
    folder.mkdir(parents=True)
    shutil.copy(BEFORE / "record.json", folder / "result.json")
    (collected,) = collect(replace(plan, experiments=[planned]), tmp_path)
    assert {**record, **collected} == collected
    added = {"compute_budget": 4e8, "size_param_value": 32, "seed": 0, "num_tokens": 3584}
    assert collected == record | added
    (row,) = run_table([collected], "counted")
    assert (row["experiment_id"], row["budget"], row["size"]) == (ID, 4e8, 32)
    assert (row["params"], row["tokens"], row["flops"]) == (16384, 3584, 110592.0 * 3584)
    assert row["loss"] == record["final_loss"]
    assert not TABLE_NAMES.keys() & row.keys()  # one name for a quantity in tables
