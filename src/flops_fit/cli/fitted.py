"""The input that verbs share which read a fit: the fit, its runs and the budgets to answer for."""

import argparse
from typing import TYPE_CHECKING

from flops_fit.constants import ANSWER_FACTORS

if TYPE_CHECKING:
    from flops_fit.fit.result import Fit
    from flops_fit.fit.runs import RunTable


def add_fitted(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` the options for a fit, its runs and the budgets to answer for."""
    add = parser.add_argument
    add("--runs", required=True, help="the table of runs that was fitted (CSV or JSON)")
    add("--records", help="results.json of the sweep, for loss curves, run times and versions")
    add("--fit", required=True, help="the fit, as written by flops-fit fit")
    add(
        "--budgets",
        nargs="+",
        type=float,
        metavar="C",
        help="compute budgets to answer for, in FLOPs (default: 1, 3 and 10 times the largest "
        "budget of the data)",
    )


def read_fitted(args: argparse.Namespace) -> tuple:
    """Read what ``args`` name: the run table, the records ([] without them), the fit, the budgets."""
    from flops_fit.fit.numbers import check_flops
    from flops_fit.fit.result import read_fit
    from flops_fit.store.collect import read_results

    fit = read_fit(args.fit)
    records = read_results(args.records) if args.records else []
    default = [fit.data.largest_budget * factor for factor in ANSWER_FACTORS]
    budgets = [check_flops(c) for c in args.budgets or default]
    return _fitted_runs(args.runs, args.fit, fit), records, fit, budgets


def _fitted_runs(path: str, fit_path: str, fit: "Fit") -> "RunTable":
    """The runs of ``fit``, with N counted as in the fit."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.runs import read_runs
    from flops_fit.notation import count_text

    data = fit.data
    table = read_runs(path, data.params_column, data.reading)
    span = [table.frame["params"].min(), table.frame["params"].max()]
    if len(table.frame) == fit.data.n_runs and span == fit.data.params:
        return table
    raise FlopsFitError(
        f"{path}: not the runs of {fit_path}, which has {fit.data.n_runs} runs of "
        f"{count_text(fit.data.params[0])} to {count_text(fit.data.params[1])} parameters; fit again"
    )


def insist(fit: "Fit", args: argparse.Namespace) -> None:
    """Refuse a ``fit`` that is not identifiable, unless ``args`` hold ``--force``."""
    from flops_fit.errors import FlopsFitError

    if not fit.identified and not args.force:
        raise FlopsFitError(
            f"{args.fit}: not identifiable: {fit.missing}; so there is no N* to use. Allowed: a fit "
            "that is provisional or better, or --force"
        )
