"""Arguments that several commands share."""

import argparse


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where runs and sweeps lie."""
    parser.add_argument(
        "--results", default="results", help="folder of runs and sweeps (default: results)"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where modules, data, runs and sweeps lie."""
    parser.add_argument(
        "--search-path", action="append", default=[], metavar="DIR",
        help="folder with your modules and data (the working directory is always searched)",
    )  # fmt: skip
    add_results(parser)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Which sweep: its config, or a plan that was made of it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="the sweep's config file")
    source.add_argument("--plan", help="a plan file made before, such as the workflow keeps")
