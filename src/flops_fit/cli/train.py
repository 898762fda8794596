"""``flops-fit train``: train one experiment, or restore it from its record."""

import argparse
from pathlib import Path

from flops_fit.cli.arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``train`` to argparse."""
    parser.description = (
        "Train one experiment with accelerate launch, or restore its result from its record."
    )
    parser.epilog = (
        "example:\n  flops-fit train --spec results/.plan/specs/ID.json "
        "--out results/runs/ID/result.json"
    )
    parser.add_argument("--spec", required=True, help="the experiment's spec file")
    parser.add_argument("--out", required=True, help="output: its result")
    parser.add_argument("--processes", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads per process (default: 1)"
    )
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of this job (default: 0)")
    parser.add_argument(
        "--requeue",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: put a SLURM job that has saved at its time limit back into the queue (default: 0)",
    )
    parser.add_argument(
        "--after",
        nargs="*",
        default=[],
        help="the result of the run before it on the same trunk, if there is one",
    )
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    """Train the experiment of a spec in its own job."""
    from flops_fit.jobs.launch import launch

    after = Path(args.after[0]).parent.name if args.after else ""
    job = args.processes, args.threads, args.gpus, after, bool(args.requeue)
    launch(args.spec, args.out, args.results, *job)
