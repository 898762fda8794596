"""``flops-fit check``: test one real batch and the amount of data before any training."""

import argparse
import sys

from flops_fit.cli.arguments import add_plan_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``check`` to argparse."""
    parser.description = "Test one real batch and the amount of data before any training."
    parser.epilog = "example:\n  flops-fit check --plan results/.plan/sweeps/demo.json"
    add_plan_file(parser)


def run(args: argparse.Namespace) -> None:
    """Check the data with the smallest model, and write what was measured."""
    from pathlib import Path

    from flops_fit.experiment.places import check_file, spec_file
    from flops_fit.experiment.spec import read_spec
    from flops_fit.jobs.trainers import trainer_of
    from flops_fit.plan.amounts import check_amount
    from flops_fit.store.plan_file import read_plan

    plan = read_plan(args.plan)
    smallest = min(plan.experiments, key=lambda experiment: experiment.count.params_total)
    spec = read_spec(spec_file(args.results, smallest.experiment_id))
    data = trainer_of(spec).check(spec)
    for note in data.notes:
        print(f"flops-fit: {note}", file=sys.stderr)
    check_amount(data, plan.experiments, 1.0 if data.read_once else spec.max_epochs)
    checked = check_file(args.results, Path(plan.check).stem)
    data.write(checked)
    print(f"wrote {checked}: the sweep can be trained")
