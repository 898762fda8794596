"""``flops-fit runs``: list, remove and import stored runs, with one verb for each."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from flops_fit.cli.arguments import add_results, add_verb
from flops_fit.errors import FlopsFitError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``runs`` and its verbs to argparse."""
    parser.description = "List, remove or import stored runs."
    parser.epilog = (
        "example:\n  flops-fit runs list\n  flops-fit runs prune\n"
        "  flops-fit runs import OTHER/results"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    add_verb(verbs, "list", add_list_arguments, run_list)
    add_verb(verbs, "prune", add_prune_arguments, run_prune)
    add_verb(verbs, "import", add_import_arguments, run_import)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``runs list`` to argparse."""
    parser.description = (
        "List every run with its status, size on disk, age, and the sweeps that use it."
    )
    parser.epilog = "example:\n  flops-fit runs list"
    add_results(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_list(args: argparse.Namespace) -> None:
    """Print one line per stored run, and the totals."""
    from flops_fit.store.runs import stored_runs

    runs = stored_runs(args.results)
    status = Counter(run.status for run in runs)
    size = sum(run.bytes for run in runs)
    totals = {
        "runs": len(runs),
        "bytes": size,
        "unused": sum(not run.sweeps for run in runs),
        "status": dict(status),
    }
    if args.json:
        print(json.dumps({"runs": [asdict(run) for run in runs], "totals": totals}, indent=1))
        return
    width = max((len(run.experiment_id) for run in runs), default=0)
    for run in runs:
        print(
            f"{run.experiment_id:{width}}  {run.status:10}  {size_text(run.bytes):>8}  "
            f"{age_text(run.age_seconds):>5}  {', '.join(run.sweeps) or '-'}"
        )
    statuses = ", ".join(f"{count} {name}" for name, count in status.items())
    print(
        f"{len(runs)} runs{' (' + statuses + ')' if runs else ''}, {size_text(size)}; "
        f"{totals['unused']} used by no sweep"
    )


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``runs prune`` to argparse."""
    parser.description = (
        "Remove the runs, data and plan files that no sweep uses, after a question."
    )
    parser.epilog = "example:\n  flops-fit runs prune"
    add_results(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run_prune(args: argparse.Namespace) -> None:
    """List what no sweep uses, ask, and remove it."""
    from flops_fit.store.runs import remove, size_of, unused

    leftovers = unused(args.results)
    paths = [path for kind in leftovers.values() for path in kind]
    if not paths:
        print("nothing to remove: every run is in use by a sweep or still training")
        return
    sizes = {path: size_of(path) for path in paths}
    for path in leftovers["runs"] + leftovers["states"] + leftovers["data"]:
        print(f"{path}  {size_text(sizes[path])}")
    kinds = (
        f"{len(of)} {kind} ({size_text(sum(sizes[p] for p in of))})"
        for kind, of in leftovers.items()
        if of
    )
    print(f"used by no sweep: {', '.join(kinds)}")
    if not args.yes:
        if not sys.stdin.isatty():
            raise FlopsFitError("nothing was removed: this needs a terminal to ask, or --yes")
        if input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    removed = [path for path in paths if remove(path)]
    print(f"removed {size_text(sum(sizes[path] for path in removed))}")


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``runs import`` to argparse."""
    parser.description = "Import records from another folder of results, after verifying each."
    parser.epilog = "example:\n  flops-fit runs import /mnt/cluster/sweep/results"
    parser.add_argument(
        "sources", nargs="+", metavar="FOLDER", help="a results folder, its runs, or one run"
    )
    add_results(parser)


def run_import(args: argparse.Namespace) -> None:
    """Import records and print the counts."""
    print(import_all(args.sources, args.results))


def import_all(sources: Iterable[str], results: str | Path) -> str:
    """Import every record below ``sources`` into the folder ``results``; return the counts as text.

    Raises `FlopsFitError` before anything is imported if a source has no record, and at the end if
    some records were refused.
    """
    from flops_fit.store.runs import found_records, import_record

    records = {source: found_records(source) for source in sources}
    for source, paths in records.items():
        if not paths:
            raise FlopsFitError(
                f"{source}: no record.json; allowed: a results folder, its runs, or one run"
            )
    counts = Counter({"imported": 0, "already here": 0, "refused": 0})
    for path in (path for paths in records.values() for path in paths):
        try:
            counts[import_record(path, results)] += 1
        except FlopsFitError as error:
            print(f"flops-fit: {path}: refused: {error}", file=sys.stderr)
            counts["refused"] += 1
        except OSError as error:
            raise FlopsFitError(
                f"{error.filename}: cannot be written ({error.strerror}); {counts['imported']} imported"
            ) from None
    summary = ", ".join(f"{count} {what}" for what, count in counts.items())
    if counts["refused"]:
        raise FlopsFitError(summary)
    return summary


def size_text(size: float) -> str:
    """``size`` in bytes with a readable unit: 12 B, 3.4 MB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def age_text(seconds: float) -> str:
    """An age of ``seconds`` in a readable unit: 40s, 12min, 3h, 5d."""
    for limit, unit, length in ((60, "s", 1), (3600, "min", 60), (86400, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
