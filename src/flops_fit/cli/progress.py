"""``flops-fit progress``: the progress of every sweep."""

import argparse
import sys

from flops_fit.cli.arguments import add_json, add_results, print_json
from flops_fit.errors import FlopsFitError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``progress`` to argparse."""
    parser.description = "Show the progress of every sweep: runs, FLOPs, time left."
    parser.epilog = "examples:\n  flops-fit progress\n  flops-fit progress demo --watch"
    parser.add_argument("name", nargs="*", help="names of sweeps (default: all)")
    how = parser.add_mutually_exclusive_group()
    add_json(how)
    how.add_argument(
        "--watch",
        action="store_true",
        help="print a new line whenever runs have ended, until all have (stop with Ctrl-C)",
    )
    add_results(parser)


def run(args: argparse.Namespace) -> None:
    """Print one line per sweep, with ``--watch`` again whenever runs have ended."""
    import contextlib

    from flops_fit.experiment.places import sweep_plan_file, sweep_plans_folder
    from flops_fit.jobs.progress import Progress, Reporter, watch
    from flops_fit.store.elsewhere import noted_store
    from flops_fit.store.plan_file import read_plan

    known = sorted(path.stem for path in sweep_plans_folder(args.results).glob("*.json"))
    if not known and not args.json:
        print(f"{args.results}: no sweep has been planned here")
    names = args.name or known
    for name in names:
        if name not in known:
            raise FlopsFitError(f"{name}: no such sweep; allowed: {', '.join(known) or 'none yet'}")
    files = [sweep_plan_file(args.results, name) for name in names]
    if store := noted_store(args.results):
        print(
            f"note: only what Snakemake copied from {store} when it last started or ended is counted "
            "here; runs that have ended since are only there",
            file=sys.stderr,
        )
    if args.watch:
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop watching
            watch([Reporter(file, args.results) for file in files])
        return
    counts = {
        name: Progress.of(read_plan(file), args.results).counts()
        for name, file in zip(names, files, strict=True)
    }
    if args.json:
        print_json({"sweeps": {name: vars(count) for name, count in counts.items()}})
        return
    for name, count in counts.items():
        print(f"{name}: {count.line()}")
