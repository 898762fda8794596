"""``flops-fit progress``: how far each sweep is."""

import argparse

from flops_fit.cli.arguments import add_results
from flops_fit.errors import FlopsFitError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``progress`` to argparse."""
    parser.description = "Say how far each sweep is: runs, FLOPs, time left."
    parser.epilog = "example:\n  flops-fit progress demo"
    parser.add_argument("name", nargs="*", help="names of sweeps (default: all)")
    parser.add_argument(
        "--follow", type=int, metavar="PID",
        help="say it again whenever runs have ended, for as long as this process lives",
    )  # fmt: skip
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line for each sweep."""
    from flops_fit.experiment.places import plan_folder
    from flops_fit.jobs.progress import follow, progress_line
    from flops_fit.store.plan_file import read_plan

    folder = plan_folder(args.results) / "sweeps"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if not known:
        print(f"{args.results}: no sweep has been planned here")
    for name in args.name or known:
        if name not in known:
            raise FlopsFitError(f"{name}: no such sweep; allowed: {', '.join(known) or 'none yet'}")
        plan = read_plan(folder / f"{name}.json")
        if args.follow:
            follow(name, plan, args.results, args.follow)
        else:
            print(f"{name}: {progress_line(plan, args.results)}")
