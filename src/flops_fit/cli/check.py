"""``flops-fit check``: test one real batch and the amount of data before any training."""

import argparse

from flops_fit.cli.arguments import add_plan_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``check`` to argparse."""
    parser.description = "Test one real batch and the amount of data before any training."
    parser.epilog = "example:\n  flops-fit check --plan results/.plan/sweeps/demo.json"
    add_plan_file(parser)


def run(args: argparse.Namespace) -> int:
    """Check the data with the smallest model, and write what was measured."""
    from flops_fit.jobs.check import check_sweep

    return check_sweep(args.plan, args.results)
