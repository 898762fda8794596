"""``flops-fit import``: verify a bundle and add it to the results here."""  # noqa: N999 - the verb is import

import argparse

from flops_fit.cli.arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``import`` to argparse."""
    parser.description = "Verify a bundle from flops-fit export and add its runs and fit to yours."
    parser.epilog = "example:\n  flops-fit import demo.zip"
    parser.add_argument("bundle", help="the bundle (ZIP)")
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    """Verify a bundle, add it, and print what came of it."""
    from flops_fit.bundle.transfer import import_bundle

    print(import_bundle(args.bundle, args.results))
