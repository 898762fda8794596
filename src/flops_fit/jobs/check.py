"""The check of a sweep before any training: one real batch, and whether there are data enough."""

import sys
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import check_file, spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.jobs.trainers import trainer_of
from flops_fit.plan.amounts import check_amount
from flops_fit.store.packed import unpack_data
from flops_fit.store.plan_file import read_plan


def check_sweep(plan_path: str, results: str) -> int:
    """Check the sweep of the plan file ``plan_path``; returns an exit status.

    What was measured is written below ``results``. Where the workflow has a server that forks its jobs,
    the check is one of them, and has nothing to import. Raises `FlopsFitError` where the sweep cannot be
    trained.
    """
    plan = read_plan(plan_path)
    spec = _smallest(plan, results)
    unpack_data(spec.data_dir)
    status = trainer_of(spec).check_forked(spec, [plan_path, results])
    if status is None:
        _check(plan, spec, results)
    return status or 0


def main(arguments: list[str]) -> int:
    """Check a sweep in this process; ``arguments`` are its plan file and the folder of results.

    Returns 0, or 2 for a sweep that cannot be trained, and says why on standard error.
    """
    plan_path, results = arguments
    try:
        plan = read_plan(plan_path)
        _check(plan, _smallest(plan, results), results)
    except FlopsFitError as error:
        print(f"flops-fit: error: {error}", file=sys.stderr)
        return 2
    return 0


def _smallest(plan: Plan, results: str) -> Spec:
    """The experiment of the smallest model of ``plan``."""
    smallest = min(plan.experiments, key=lambda experiment: experiment.count.params_total)
    return read_spec(spec_file(results, smallest.experiment_id))


def _check(plan: Plan, spec: Spec, results: str) -> None:
    data = trainer_of(spec).check(spec)
    for note in data.notes:
        print(f"flops-fit: {note}", file=sys.stderr)
    check_amount(data, plan.experiments, 1.0 if data.read_once else spec.max_epochs)
    checked = check_file(results, Path(plan.check).stem)
    data.write(checked)
    print(f"wrote {checked}: the sweep can be trained")
