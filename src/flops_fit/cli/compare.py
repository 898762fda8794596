"""``flops-fit compare``: two fits at matched compute."""

import argparse
from typing import TYPE_CHECKING

from flops_fit.cli.at_work import at_work, load

if TYPE_CHECKING:
    from flops_fit.comparison.result import Comparison
    from flops_fit.fit.result import Fit


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
    add(
        "--candidate",
        nargs="+",
        required=True,
        metavar="FIT.json",
        help="the fit that may be better; several are all compared with the reference",
    )
    add(
        "--names",
        nargs="+",
        metavar="NAME",
        help="names of the arms, the reference first (default: the folders of the fits)",
    )
    add(
        "--reference-records",
        metavar="RESULTS.json",
        help="results.json of the reference, for the fairness list and the speed of its runs",
    )
    add(
        "--candidate-records",
        nargs="+",
        metavar="RESULTS.json",
        help="the same for every candidate",
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
        help="output: compare.json, .md, .html, .txt and the figures, in this folder",
    )


def run(args: argparse.Namespace) -> None:
    """Print the comparison, and write its files where a folder is given."""
    import json

    load(args, "flops_fit.comparison.core")
    from flops_fit.comparison.core import compare_fits
    from flops_fit.comparison.result import plain_comparisons
    from flops_fit.fit.result import read_fit
    from flops_fit.store.collect import read_results

    paths = [args.reference, *args.candidate]
    _check(args)
    names = args.names or _names(paths)
    fits = [read_fit(path) for path in paths]
    sides = None
    if args.reference_records:
        sides = [read_results(p) for p in (args.reference_records, *args.candidate_records)]
    with at_work(args, "comparing the fits"):
        comparisons = [
            compare_fits(
                fits[0],
                fits[i],
                args.flops,
                (names[0], names[i]),
                None if sides is None else (sides[0], sides[i]),
                candidates=len(args.candidate),
            )
            for i in range(1, len(fits))
        ]
    if args.json:
        print(json.dumps(plain_comparisons(comparisons), indent=1, allow_nan=False))
    else:
        print("\n\n".join(_text(comparison) for comparison in comparisons))
    if args.out:
        _write(comparisons, dict(zip(names, fits, strict=True)), args)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not name every arm."""
    from flops_fit.errors import FlopsFitError

    arms = 1 + len(args.candidate)
    if args.names and (len(args.names) != arms or len({*args.names}) < arms):
        raise FlopsFitError(
            f"--names: {' '.join(args.names)}; allowed: {arms} different names, the reference first"
        )
    records = args.candidate_records or []
    if (args.reference_records is None) != (not records) or len(records) not in (0, arms - 1):
        raise FlopsFitError(
            "--reference-records, --candidate-records: those of an arm are missing; allowed: the "
            "records of every arm, or of none"
        )


def _names(paths: list[str]) -> list[str]:
    """The folders of the fits where all differ, else the files, else their roles."""
    from pathlib import Path

    files = [Path(path).resolve() for path in paths]
    for names in ([file.parent.name for file in files], [file.stem for file in files]):
        if len({*names}) == len(names):
            return names
    numbers = [""] if len(paths) == 2 else [f" {i}" for i in range(1, len(paths))]
    return ["reference", *(f"candidate{number}" for number in numbers)]


def _text(comparison: "Comparison") -> str:
    """What is printed of one comparison: a sentence for each C, the crossing, the model, fairness."""
    from flops_fit.comparison.sentences import row_text

    names = comparison.reference.name, comparison.candidate.name
    lines = [row_text(row, names, comparison.level) for row in comparison.rows]
    lines += [comparison.crossing.text, f"Model: {comparison.model.name}; {comparison.model.why}."]
    return "\n".join([*lines, *(f"- {doubt.text}" for doubt in comparison.fairness)])


def _write(
    comparisons: list["Comparison"], fits: dict[str, "Fit"], args: argparse.Namespace
) -> None:
    """All files: the page, the tables, and the figures, of ``fits`` by the names of the arms."""
    import sys
    from pathlib import Path

    from flops_fit.comparison.result import plain_comparisons
    from flops_fit.files import write_atomic, write_json
    from flops_fit.plots.compare import write_figures
    from flops_fit.report.compare_page import compare_page, compare_table

    folder = Path(args.out)
    write_figures(comparisons, fits, folder)
    write_json(folder / "compare.json", plain_comparisons(comparisons))
    write_atomic(folder / "compare.md", compare_table(comparisons))
    write_atomic(
        folder / "compare.txt", "\n".join(t for c in comparisons for t in c.summary) + "\n"
    )
    write_atomic(folder / "compare.html", compare_page(comparisons, folder, _command(args)))
    print(f"wrote {folder}: compare.json, .md, .html, .txt and the figures", file=sys.stderr)


def _command(args: argparse.Namespace) -> str:
    """The command that repeats the comparison."""
    import shlex

    parts = ["flops-fit", "compare", "--reference", args.reference, "--candidate", *args.candidate]
    if args.reference_records:
        parts += ["--reference-records", args.reference_records]
        parts += ["--candidate-records", *args.candidate_records]
    if args.names:
        parts += ["--names", *args.names]
    if args.flops:
        parts += ["--flops", *(f"{c:g}" for c in args.flops)]
    return shlex.join(parts)
