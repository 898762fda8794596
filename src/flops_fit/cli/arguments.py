"""Arguments that several verbs share."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Where Snakemake looks for a workflow
SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
CHECKOUT = Path(__file__).parents[3] / "Snakefile"


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the option for the folder of results."""
    parser.add_argument(
        "--results", default="results", help="folder of runs and sweeps (default: results)"
    )


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add to ``parser`` the option for output that programs read."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; texts go to standard error"
    )


@contextlib.contextmanager
def texts_aside(args: argparse.Namespace) -> Iterator[None]:
    """Send what is printed in the block to standard error if ``args`` ask for JSON."""
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        yield


def print_json(value: Mapping[str, Any]) -> None:
    """Print ``value`` as a JSON object with the format of our files."""
    from flops_fit.files import FORMAT

    print(json.dumps({"format": FORMAT, **value}, indent=1, allow_nan=False))


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the options for the folders of modules, data and results."""
    parser.add_argument(
        "--search-path",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with your modules and data (the working directory is always searched)",
    )
    add_results(parser)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the options that name a sweep: its config, or a plan made from it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="the sweep's config file")
    source.add_argument("--plan", help="a plan file, such as results/.plan/sweeps/NAME.json")


def add_plan_file(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the options for a plan file and the folder of results."""
    parser.add_argument(
        "--plan", required=True, help="the sweep's plan file, results/.plan/sweeps/NAME.json"
    )
    add_results(parser)


def add_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    add_arguments: Callable,
    run: Callable | None,
) -> None:
    """Add the verb ``name`` to the subparsers ``verbs``.

    ``add_arguments`` describes it; its description is also its line in the parent's help. ``run``
    executes it, or is None for a verb that has verbs below it.
    """
    probe = argparse.ArgumentParser(add_help=False)
    add_arguments(probe)
    parser = verbs.add_parser(
        name, help=probe.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    if run is not None:  # else the verbs below it set theirs
        parser.set_defaults(run=run)


def run_command(config: str | Path) -> str:
    """The command that runs the sweep of the file ``config`` from the working directory.

    Where no workflow is found there, it names that of the checkout to which this package belongs.
    """
    here = any(Path(place).exists() for place in SNAKEFILES) or not CHECKOUT.exists()
    workflow = "" if here else f" --snakefile {shlex.quote(str(CHECKOUT))}"
    return f"snakemake --cores all{workflow} --configfile {shlex.quote(str(config))}"
