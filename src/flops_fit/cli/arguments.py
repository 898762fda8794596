"""Arguments that several commands share."""

import argparse
from collections.abc import Callable


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where runs and sweeps lie."""
    parser.add_argument(
        "--results", default="results", help="folder of runs and sweeps (default: results)"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where modules, data, runs and sweeps lie."""
    parser.add_argument(
        "--search-path",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with your modules and data (the working directory is always searched)",
    )
    add_results(parser)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Which sweep: its config, or a plan that was made of it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="the sweep's config file")
    source.add_argument("--plan", help="a plan file made before, such as the workflow keeps")


def add_plan_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", required=True, help="the sweep's plan file, results/.plan/sweeps/NAME.json"
    )
    add_results(parser)


def add_verb(verbs, name: str, add_arguments: Callable, run: Callable | None) -> None:
    """Add a verb; the sentence that describes it also stands in the list of its parent's help."""
    probe = argparse.ArgumentParser(add_help=False)
    add_arguments(probe)
    parser = verbs.add_parser(
        name, help=probe.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    if run is not None:  # else it has verbs of its own
        parser.set_defaults(run=run)


def insist(fit: dict, args: argparse.Namespace) -> None:
    """Refuse to go on from a fit that is not identifiable, unless ``--force`` says so."""
    from flops_fit.errors import FlopsFitError

    if fit["status"] == "not_identifiable" and not args.force:
        reason = fit["headline"]["reason"].removeprefix("not identifiable: ")
        raise FlopsFitError(
            f"{args.fit}: not identifiable: {reason}; no N* to go by. Allowed: a fit that is "
            "provisional or better, or --force"
        )
