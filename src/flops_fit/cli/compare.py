"""``flops-fit compare``: two fits at matched compute."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flops_fit.comparison.result import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``compare`` to argparse."""
    parser.description = "Compare two recipes at matched compute: which is better, and by how much."
    parser.epilog = (
        "examples:\n"
        "  flops-fit compare --reference results/adamw/fit.json --candidate results/muon/fit.json\n"
        "  flops-fit compare --reference results/adamw/fit.json --candidate results/muon/fit.json \\\n"
        "    --reference-records results/adamw/results.json \\\n"
        "    --candidate-records results/muon/results.json --flops 1e13 1e14 --out results/muon"
    )
    add = parser.add_argument
    add("--reference", required=True, metavar="FIT.json", help="the fit that is the yardstick")
    add("--candidate", required=True, metavar="FIT.json", help="the fit that may be better")
    add(
        "--names",
        nargs=2,
        metavar=("REFERENCE", "CANDIDATE"),
        help="names of the two arms (default: the folders of the fits)",
    )
    for side in ("reference", "candidate"):
        add(
            f"--{side}-records",
            metavar="RESULTS.json",
            help=f"results.json of the {side}, for the fairness list and the speed of its runs",
        )
    add(
        "--flops",
        nargs="+",
        type=float,
        metavar="C",
        help="compute budgets in FLOPs (default: every budget that both measured, and 10 times the "
        "largest of them)",
    )
    add("--json", action="store_true", help="print the comparison as JSON")
    add(
        "--out",
        metavar="DIR",
        help="output: compare.json, .md, .html and the figure, in this folder",
    )


def run(args: argparse.Namespace) -> None:
    """Print the comparison, and write its files where a folder is given."""
    import json

    from flops_fit.comparison.core import compare_fits
    from flops_fit.comparison.sentences import row_text
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.result import read_fit
    from flops_fit.store.collect import read_results

    files = args.reference_records, args.candidate_records
    if (files[0] is None) != (files[1] is None):
        raise FlopsFitError(
            "--reference-records, --candidate-records: one of them is missing; allowed: both or none"
        )
    fits = read_fit(args.reference), read_fit(args.candidate)
    records = None if files[0] is None else (read_results(files[0]), read_results(files[1]))
    names = tuple(args.names) if args.names else _names(args.reference, args.candidate)
    comparison = compare_fits(*fits, args.flops, names, records)
    if args.json:
        print(json.dumps(comparison.to_dict(), indent=1, allow_nan=False))
    else:
        lines = [row_text(row, names, comparison.level) for row in comparison.rows]
        lines += [
            comparison.crossing.text,
            f"Model: {comparison.model.name}; {comparison.model.why}.",
        ]
        lines += [f"- {doubt.text}" for doubt in comparison.fairness]
        print("\n".join(lines))
    if args.out:
        _write(comparison, args)


def _names(reference: str, candidate: str) -> tuple[str, str]:
    """The folders of the two fits where they differ, else the files, else their roles."""
    from pathlib import Path

    for part in ("parent", "path"):
        paths = [Path(fit).resolve() for fit in (reference, candidate)]
        first, second = (p.parent.name if part == "parent" else p.stem for p in paths)
        if first != second:
            return first, second
    return "reference", "candidate"


def _write(comparison: "Comparison", args: argparse.Namespace) -> None:
    import shlex
    import sys
    from pathlib import Path

    from flops_fit.files import write_atomic, write_json
    from flops_fit.plots.compare import write_figure
    from flops_fit.report.compare_page import compare_page, compare_table

    folder = Path(args.out)
    command = f"flops-fit compare --reference {shlex.quote(args.reference)}"
    command += f" --candidate {shlex.quote(args.candidate)}"
    if args.reference_records:
        command += f" --reference-records {shlex.quote(args.reference_records)}"
        command += f" --candidate-records {shlex.quote(args.candidate_records)}"
    if args.flops:
        command += f" --flops {' '.join(f'{c:g}' for c in args.flops)}"
    write_figure(comparison, folder)
    write_json(folder / "compare.json", comparison.to_dict())
    write_atomic(folder / "compare.md", compare_table(comparison))
    write_atomic(folder / "compare.html", compare_page(comparison, folder, command))
    print(f"wrote {folder}: compare.json, compare.md, compare.html and the figure", file=sys.stderr)
