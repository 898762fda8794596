"""``flops-fit export``: a sweep as one file that others can verify."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``export`` to argparse."""
    parser.description = (
        "Pack the runs, fit and report of a sweep into one file that others verify."
    )
    parser.epilog = "example:\n  flops-fit export results/demo -o demo.zip --license CC-BY-4.0"
    parser.add_argument("folder", help="the folder of a sweep, with its fit.json")
    parser.add_argument("-o", "--out", required=True, help="output: the bundle (ZIP, an RO-Crate)")
    parser.add_argument(
        "--license", default="", help="terms of use of the runs, such as CC-BY-4.0 (default: none)"
    )
    parser.add_argument(
        "--config", help="the sweep's config file (default: the one that the workflow keeps)"
    )


def run(args: argparse.Namespace) -> None:
    """Pack a sweep, after a new fit of its runs, and print what is in the file."""
    from flops_fit.bundle.transfer import export_bundle

    packed = export_bundle(args.folder, args.out, args.license, args.config)
    print(f"wrote {args.out}: {packed}")
