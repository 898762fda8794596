"""``flops-fit plot``: the figures of a fit."""

import argparse

from flops_fit.cli.at_work import at_work, load
from flops_fit.cli.fitted import add_fitted, read_fitted
from flops_fit.plots import FIGURES, ON_REQUEST


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``plot`` to argparse."""
    parser.description = (
        "Draw the figures of a fit as SVG and PNG, and write the numbers in each as CSV."
    )
    parser.epilog = (
        "example:\n  flops-fit plot --runs results/demo/results.csv "
        "--records results/demo/results.json \\\n    --fit results/demo/fit.json "
        "--out-dir results/demo/plots"
    )
    add_fitted(parser)
    parser.add_argument("--out-dir", required=True, help="output: folder of the figures")
    parser.add_argument(
        "--dpi", type=int, default=150, help="resolution of the PNG files (default: 150)"
    )
    parser.add_argument(
        "--width", type=float, default=6.4, help="width of a figure in inches (default: 6.4)"
    )
    parser.add_argument(
        "--figure",
        nargs="+",
        default=list(FIGURES),
        choices=FIGURES | ON_REQUEST,
        metavar="NAME",
        help=f"figures to draw, of {', '.join(FIGURES)} (default: all of these), "
        f"and {', '.join(ON_REQUEST)}, one figure for a first page",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=["svg", "png"],
        choices=("svg", "png", "pdf"),
        help="files of each figure (default: svg png)",
    )


def run(args: argparse.Namespace) -> None:
    """Read a fit and its runs, draw the figures, print one line."""
    load(args, "flops_fit.plots.draw")
    from flops_fit.errors import FlopsFitError
    from flops_fit.plots.draw import draw_all

    for name, value in (("--dpi", args.dpi), ("--width", args.width)):
        if not value > 0:
            raise FlopsFitError(f"{name}: {value}; allowed: a positive number")
    table, records, fit, budgets = read_fitted(args)
    with at_work(args, "drawing"):
        draw_all(
            table,
            records,
            fit,
            budgets,
            args.out_dir,
            args.dpi,
            args.width,
            names=args.figure,
            formats=args.format,
        )
    kinds = ",".join([*args.format, "csv"])
    print(f"wrote {args.out_dir}/{{{','.join(args.figure)}}}.{{{kinds}}}")
