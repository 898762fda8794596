"""``flops-fit train``: train one experiment, or restore it from its record."""

import argparse

from flops_fit.cli.arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train one experiment through accelerate launch, or restore its record."
    parser.epilog = (
        "example:\n  flops-fit train --spec results/.plan/specs/ID.json "
        "--out results/runs/ID/result.json"
    )
    parser.add_argument("--spec", required=True, help="the experiment's spec file")
    parser.add_argument("--out", required=True, help="where its result goes")
    parser.add_argument("--processes", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads each (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs the job was given (default: 0)")
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    from flops_fit.jobs.launch import launch

    launch(args.spec, args.out, args.results, args.processes, args.threads, args.gpus)
