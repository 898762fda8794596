"""A plan read back from its file, checked as far as every reader needs it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import check_plan_file, data_plan_file, plan_file, sweep_plan_file
from flops_fit.files import check_format, read_json, write_atomic

TEXT, NUMBER = (str,), (int, float)
PLAN: Mapping[str, tuple] = {
    "fingerprint": TEXT,
    "convention": TEXT,
    "schedule": (dict,),
    "precision": TEXT,
    "resources": (dict,),
    "data_dir": (str, type(None)),
    "check": TEXT,
    "experiments": (list,),
    "skipped": (list,),
    "warnings": (list,),
}
ROW: Mapping[str, tuple] = {
    "experiment_id": TEXT,
    "hash": TEXT,
    "compute_budget": NUMBER,
    "size_param_value": NUMBER,
    "seed": NUMBER,
    "num_params": NUMBER,
    "params": NUMBER,
    "params_nonembedding": NUMBER,
    "params_total": NUMBER,
    "num_tokens": NUMBER,
    "batch_items": NUMBER,
    "steps": NUMBER,
    "tokens_per_item": NUMBER,
    "learning_rate": NUMBER,
    "flops_per_token": NUMBER,
    "flops_counted": NUMBER,
    "flops_6nd": NUMBER,
    "activation_bytes": NUMBER,
}


def read_plan(path: str | Path, needed: Collection[str] = (*PLAN, *ROW)) -> dict:
    """The plan of a sweep; a `FlopsFitError` names a file that is missing, broken or another's.

    ``needed``: the keys, of the plan and of its experiments, that the reader will look at.
    """
    of_plan, of_row = ({k: v for k, v in part.items() if k in needed} for part in (PLAN, ROW))
    plan = read_json(path)
    check_format(plan, path)
    wrong = _wrong(plan, of_plan)
    if not wrong and not plan["experiments"]:
        wrong = "experiments"
    for place, row in enumerate([] if wrong else plan["experiments"]):
        key = _wrong(row, of_row)
        if key:
            wrong = f"experiments.{place}.{key}"
            break
    if wrong:
        raise FlopsFitError(
            f"{path}: no plan, or another version's (see {wrong}); plan again, with `flops-fit plan "
            "--config CONFIG` or `snakemake plan --cores 1`"
        )
    return plan


def keep_plan(plan: dict, name: str, results: str | Path) -> Path:
    """Copy the plan's file to where jobs look for it; returns the sweep's, under its ``name``.

    The others are named by the check and by the data: sweeps share these, whose jobs therefore know
    no sweep.
    """
    copies = [sweep_plan_file(results, name), check_plan_file(results, Path(plan["check"]).stem)]
    if plan["data_dir"]:
        copies.append(data_plan_file(results, Path(plan["data_dir"]).name))
    content = plan_file(results, plan["fingerprint"]).read_bytes()
    for copy in copies:
        if not copy.exists() or copy.read_bytes() != content:
            write_atomic(copy, content)
    return copies[0]


def _wrong(value: Any, kinds: Mapping[str, tuple]) -> str:
    """The first key that is missing or of another type; empty where all are right."""
    if not isinstance(value, dict):
        return f"its {type(value).__name__}"
    return next((k for k, kind in kinds.items() if not isinstance(value.get(k, ...), kind)), "")
