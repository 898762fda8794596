"""A plan read back from its file, checked as far as its readers need it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import check_plan_file, data_plan_file, plan_file, sweep_plan_file
from flops_fit.experiment.plan import Plan
from flops_fit.files import read_object, write_atomic

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
    "activation_bytes": NUMBER,
}
BRANCH: Mapping[str, tuple] = {"trunk": TEXT, "tokens": NUMBER}
SKIPPED: Mapping[str, tuple] = {
    "compute_budget": NUMBER,
    "size_param_value": NUMBER,
    "reason": TEXT,
}
NEEDED_BY_STORE = ("fingerprint", "check", "data_dir", "experiments")


@dataclass(frozen=True)
class PlanUse:
    """What a plan uses of the store, which plans of older versions say too.

    ``experiments`` are the ids of its runs; ``fingerprint``, ``check`` and ``data_dir`` as in `Plan`.
    ``branches`` holds the trunk (a hash) of a run and the tokens after which it leaves it, by its id.
    """

    fingerprint: str
    check: str
    data_dir: str | None
    experiments: list[str]
    branches: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def read_plan(path: str | Path) -> Plan:
    """The plan of a sweep, in the file ``path``.

    Raises `FlopsFitError` that names a file that is missing, broken, or of another version.
    """
    value = read_object(path)
    wrong = _wrong(value, PLAN) or _wrong_rows(value, "experiments", ROW)
    wrong = wrong or _wrong_rows(value, "skipped", SKIPPED)
    if not wrong:
        try:
            return Plan.from_dict(value)
        except (LookupError, TypeError, AttributeError) as error:
            wrong = str(error)
    raise _no_plan(path, wrong)


def read_plan_use(path: str | Path) -> PlanUse:
    """What the plan in the file ``path`` uses of the store; errors as those of `read_plan`."""
    value = read_object(path)
    wrong = _wrong(value, {name: PLAN[name] for name in NEEDED_BY_STORE})
    wrong = wrong or _wrong_rows(value, "experiments", {"experiment_id": TEXT})
    if wrong:
        raise _no_plan(path, wrong)
    branches = value.get("branches", {})
    if not isinstance(branches, dict) or any(_wrong(row, BRANCH) for row in branches.values()):
        raise _no_plan(path, "branches")
    return PlanUse(
        value["fingerprint"],
        value["check"],
        value["data_dir"],
        [row["experiment_id"] for row in value["experiments"]],
        {name: (row["trunk"], row["tokens"]) for name, row in branches.items()},
    )


def keep_plan(plan: Plan, name: str, results: str | Path) -> Path:
    """Copy the file of ``plan`` below ``results`` to where jobs look for it.

    Returns the copy of the sweep, under its ``name``. The others are named by the check and by the
    data: sweeps share these, and their jobs therefore know no sweep.
    """
    copies = plan_copies(plan, name, results)
    content = plan_file(results, plan.fingerprint).read_bytes()
    for copy in copies:
        if not copy.exists() or copy.read_bytes() != content:
            write_atomic(copy, content)
    return copies[0]


def plan_copies(plan: Plan, name: str, results: str | Path) -> list[Path]:
    """Where jobs look for ``plan``, of the sweep ``name``, below ``results``; the sweep's is first."""
    copies = [sweep_plan_file(results, name), check_plan_file(results, Path(plan.check).stem)]
    if plan.data_dir:
        copies.append(data_plan_file(results, Path(plan.data_dir).name))
    return copies


def _no_plan(path: str | Path, wrong: str) -> FlopsFitError:
    return FlopsFitError(
        f"{path}: no plan, or another version's (see {wrong}); plan again, with `flops-fit plan "
        "--config CONFIG` or `snakemake plan --cores 1`"
    )


def _wrong_rows(plan: Mapping[str, Any], name: str, kinds: Mapping[str, tuple]) -> str:
    """The place of the first wrong key in the rows under ``name``; empty where all are right."""
    if name == "experiments" and not plan[name]:
        return name
    wrong = ((place, _wrong(row, kinds)) for place, row in enumerate(plan[name]))
    return next((f"{name}.{place}.{key}" for place, key in wrong if key), "")


def _wrong(value: Any, kinds: Mapping[str, tuple]) -> str:
    """The first key that is missing or of another type; empty where all are right."""
    if not isinstance(value, dict):
        return f"its {type(value).__name__}"
    return next((k for k, kind in kinds.items() if not isinstance(value.get(k, ...), kind)), "")
