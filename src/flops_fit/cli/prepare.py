"""``flops-fit prepare``: make the files of the data once, before any training."""

import argparse

from flops_fit.cli.arguments import add_plan_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``prepare`` to argparse."""
    parser.description = "Make the files of the data once, before any training."
    parser.epilog = "example:\n  flops-fit prepare --plan results/.plan/sweeps/demo.json"
    add_plan_file(parser)
    parser.add_argument(
        "--pack",
        nargs="*",
        default=[],
        metavar="FILE",
        help="also write all files of the data into one, for machines that share no files",
    )


def run(args: argparse.Namespace) -> None:
    """Prepare the data of a plan and print where they are."""
    from flops_fit.store.packed import pack_data
    from flops_fit.store.plan_file import read_plan
    from flops_fit.training.prepare import prepare_data

    manifest = prepare_data(read_plan(args.plan), args.results)
    for packed in args.pack:
        pack_data(manifest.parent, packed)
    print(f"wrote {', '.join(map(str, [manifest, *args.pack]))}")
