"""``flops-fit fit``: fit a scaling law to a table of runs."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit.cli.at_work import at_work, load

if TYPE_CHECKING:
    from flops_fit.fit.result import Fit
    from flops_fit.fit.sections import Excluded
    from flops_fit.fit.sizes import Size

MOST_NAMED = 3  # runs left out; the report names all

FIT_EXAMPLE = """example:
  flops-fit fit --runs runs.csv --out fit.json
  flops-fit fit --runs runs.csv --report my_runs"""


def _delta(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: auto or a number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``fit`` to argparse."""
    parser.description = "Fit a scaling law with intervals to a table of finished runs."
    parser.epilog = FIT_EXAMPLE
    add = parser.add_argument
    add(
        "--runs",
        required=True,
        help="table with params, tokens and loss of each run (other common column names are known): "
        "CSV, JSON, JSON Lines, Parquet, or a folder with one file per run",
    )
    add("--out", help="output: the fit (JSON; default with --report: DIR/fit.json)")
    add(
        "--params",
        default="params",
        choices=("params", "params_nonembedding", "params_total"),
        help="which parameters count as N: those in matrix products with the output head (default), "
        "without embeddings and head, or all",
    )
    _add_reading(parser)
    _add_report(parser)
    _add_intervals(parser)
    add(
        "--sizes",
        metavar="PLAN",
        help="plan file of a sweep: the sizes above its grid that it counted give the cost of answers "
        "beyond the largest size tried",
    )
    add(
        "--curves",
        help="loss curves for the envelope: CSV with experiment_id,tokens,flops,loss, or results.json",
    )
    add(
        "--delta",
        type=_delta,
        default="auto",
        metavar="auto|NUMBER",
        help="Huber threshold on ln L; auto: 1.345 robust scales (1e-3: Hoffmann et al.)",
    )
    add(
        "--method",
        default="auto",
        choices=("auto", "surface", "tied", "fixed_e", "isoflop", "envelope"),
        help="headline estimator; auto: the stack of all forms",
    )
    add(
        "--exclude",
        choices=("auto", "none"),
        help="auto leaves out runs beyond 6 robust scales (at most 10%%), none fits all runs; the "
        "default is auto, or none if the table marks outliers or --delta is a number",
    )
    add(
        "--fixed-e",
        type=float,
        metavar="LOSS",
        help="also fit the surface with E fixed at this loss",
    )
    add(
        "--chance",
        type=float,
        metavar="P",
        help="with --accuracy: what guessing gives (default: estimated)",
    )
    add(
        "--loss-unit",
        metavar="UNIT",
        help="unit written beside every loss (default: nats per token)",
    )
    add(
        "--curve",
        choices=("parabola", "akima"),
        default="parabola",
        help="curve through the runs of a budget",
    )
    add(
        "--window",
        type=float,
        metavar="FACTOR",
        help="fit parabolas only within this factor in N of the lowest run",
    )


def _add_intervals(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("intervals").add_argument
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="R",
        help="number of resamples; 0 gives no intervals (default: 1000)",
    )
    add("--seed", type=int, default=0, help="seed of the resampling (default: 0)")
    add("--resample", choices=("runs", "groups", "wild"), help="what is resampled")
    add("--level", type=float, default=0.90, help="level of the intervals (default: 0.90)")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Options on how the table is read, with the names of the fields of `flops_fit.fit.Reading`."""
    add = parser.add_argument_group("reading the table").add_argument
    add(
        "--loss",
        "--loss-column",
        dest="loss_column",
        metavar="COLUMN",
        help="column of the loss (default: a held-out loss, else a training loss)",
    )
    add(
        "--accuracy",
        metavar="COLUMN",
        help="column of an accuracy (0 to 1), to be predicted from the loss by a sigmoid",
    )
    add(
        "--cost",
        "--cost-column",
        dest="cost_column",
        metavar="COLUMN|6nd",
        help="column of the FLOPs of a run, or 6nd for 6 N D whatever the table says (default: a "
        "column of FLOPs, else of budgets, else 6 N D)",
    )
    add(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="fit only rows with this value; may be repeated for more values or columns",
    )
    add(
        "--last-per",
        metavar="COLUMNS",
        help="among rows that share these columns (such as experiment_id) keep only the one with most "
        "tokens",
    )
    add(
        "--best-per",
        metavar="COLUMNS",
        help="among rows that share these columns (such as params,tokens) keep only the lowest loss",
    )
    add(
        "--max-epochs",
        type=float,
        metavar="E",
        help="leave out runs with more passes over their data",
    )
    add(
        "--cost-as-given",
        action="store_true",
        help="accept the FLOPs of the table even if they are far from 6 N D",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    """Options for the figures and the page in the same go."""
    add = parser.add_argument_group("figures and page").add_argument
    add(
        "--report",
        metavar="DIR",
        help="also write the figures (DIR/plots), the page (DIR/report.html) and its tables (table.md, "
        "table.tex, answer.txt)",
    )
    add("--name", help="with --report: name of the runs on the page (default: that of DIR)")
    add(
        "--budgets",
        nargs="+",
        type=float,
        metavar="C",
        help="with --report: compute budgets to answer for, in FLOPs (default: 1, 3 and 10 times the "
        "largest budget of the data)",
    )


def _output(args: argparse.Namespace) -> Path:
    """The file of the fit, from ``--out`` and ``--report``."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.numbers import check_flops

    if args.report is None:
        if args.out is None:
            raise FlopsFitError("--out: missing; allowed: a file for the fit, or --report DIR")
        for option in ("name", "budgets"):
            if getattr(args, option) is not None:
                raise FlopsFitError(f"--{option}: allowed: with --report DIR")
    for budget in args.budgets or ():
        check_flops(budget)
    return Path(args.out or Path(args.report, "fit.json"))


def _write_report(args: argparse.Namespace, fit: Path) -> None:
    """The figures, the page and the tables of ``fit``, under the names that the workflow gives them."""
    from importlib import import_module

    folder, budgets = Path(args.report), [str(c) for c in args.budgets or ()]
    shared = [f"--runs={args.runs}", f"--fit={fit}", *(["--budgets", *budgets] if budgets else [])]
    page = [
        f"--plots={folder / 'plots'}",
        f"--name={args.name or folder.resolve().name}",
        f"--out={folder / 'report.html'}",
        f"--table={folder / 'table.md'}",
        f"--tex={folder / 'table.tex'}",
        f"--summary={folder / 'answer.txt'}",
    ]
    for name, options in {"plot": [f"--out-dir={folder / 'plots'}"], "report": page}.items():
        verb = import_module(f"flops_fit.cli.{name}")  # by name: a fit is not stale by their code
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        parser.set_defaults(quiet=getattr(args, "quiet", False))
        verb.run(parser.parse_args([*shared, *options]))


def _sizes(path: str, params: str) -> "list[Size]":
    from flops_fit.fit.sizes import Size
    from flops_fit.store.plan_file import read_plan

    plan = read_plan(path)
    return [Size(**size.in_table(plan.convention, params)) for size in plan.beyond]


def _exponent(fit: "Fit") -> str:
    """The exponent of N* with its interval, its estimator and status; no number where none is known."""
    if not fit.identified:
        return "not identifiable"
    method = fit.headline.method
    ci = fit.ci.get("a" if method == "surface" else f"{method}.a")
    interval = f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else ""
    return f"a = {fit.headline.a:.3f}{interval} by {method} ({fit.status})"


def _left_out(excluded: "Excluded") -> str:
    """How many runs were left out, and the first of them with their reasons."""
    if not excluded.count:
        return ""
    named = [f"{run.experiment_id}: {run.reason}" for run in excluded.runs[:MOST_NAMED]]
    more = ["..."] if excluded.count > MOST_NAMED else []
    return f", {excluded.count} left out ({', '.join([*named, *more])})"


def run(args: argparse.Namespace) -> None:
    """Read the runs, fit, write the fit, print one line, and with ``--report`` write the page."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    load(args, "flops_fit.fit.core")
    from dataclasses import fields

    from flops_fit.files import write_json
    from flops_fit.fit.core import fit_runs
    from flops_fit.fit.curves import read_curves
    from flops_fit.fit.rows import Reading
    from flops_fit.fit.runs import read_runs
    from flops_fit.fit.sigmoid import describe_sigmoid

    out = _output(args)
    reading = Reading(**{field.name: getattr(args, field.name) for field in fields(Reading)})
    table = read_runs(args.runs, args.params, reading)
    # Loss curves in the table are used only on request: before a run's end they lie too high.
    curves = args.runs if args.method == "envelope" and str(args.runs).endswith(".json") else None
    source = args.curves or curves
    with at_work(args, "fitting"):
        fit = fit_runs(
            table,
            read_curves(source) if source else None,
            sizes=_sizes(args.sizes, args.params) if args.sizes else None,
            delta=args.delta,
            bootstrap=args.bootstrap,
            seed=args.seed,
            method=args.method,
            exclude=args.exclude,
            resample=args.resample,
            level=args.level,
            fixed_e=args.fixed_e,
            curve=args.curve,
            window=args.window,
            loss_unit=args.loss_unit,
            chance=args.chance,
        )
    write_json(out, fit.to_dict())
    for note in fit.data.notes:
        print(f"{'warning' if note in table.doubts else 'note'}: {note}")
    if fit.accuracy:
        print(f"note: {describe_sigmoid(fit.accuracy)}")
    why = f": {fit.missing}" if fit.missing else ""
    print(
        f"wrote {out}: {_exponent(fit)} from {fit.data.n_runs} runs{_left_out(fit.excluded)}{why}"
    )
    if args.report is not None:
        _write_report(args, out)
