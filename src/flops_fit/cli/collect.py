"""``flops-fit collect``: merge the records of a sweep into two tables."""

import argparse
import sys

from flops_fit.cli.arguments import add_plan_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``collect`` to argparse."""
    parser.description = "Merge the records of a sweep's experiments into two tables."
    parser.epilog = (
        "example:\n  flops-fit collect --plan results/.plan/sweeps/demo.json "
        "--json results/demo/results.json --csv results/demo/results.csv"
    )
    add_plan_file(parser)
    parser.add_argument("--json", required=True, help="output: the complete records")
    parser.add_argument("--csv", required=True, help="output: the table that flops-fit fit reads")
    parser.add_argument(
        "--failed", nargs="*", default=[], metavar="ID", help="experiments that may be missing"
    )


def run(args: argparse.Namespace) -> None:
    """Merge the records, write both tables, print how many runs there are of each status."""
    from pathlib import Path

    from flops_fit.store.collect import collect, note_tables, write_results
    from flops_fit.store.plan_file import read_plan

    plan = read_plan(args.plan)
    records = collect(plan, args.results, args.failed)
    write_results(records, plan.convention, args.json, args.csv)
    note_tables(args.results, Path(args.plan).stem, [args.json, args.csv])
    for record in records:
        for note in record.get("notes", []):
            print(f"flops-fit: {record['experiment_id']}: {note}", file=sys.stderr)
    statuses = [record["status"] for record in records]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses))
    print(f"wrote {args.json} and {args.csv}: {len(records)} runs, {counts}")
