"""The commands ``plot`` and ``report``; heavy imports wait until one of them runs."""

import argparse


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runs", required=True, help="the table of runs that was fitted (CSV or JSON)")
    add("--records", help="results.json of the sweep: loss curves, health, versions")
    add("--fit", required=True, help="what flops-fit fit wrote")
    add("--budgets", nargs="+", type=float, metavar="C",
        help="compute budgets to answer for, in FLOPs (default: the largest of the data "
        "times 1, 3 and 10)")  # fmt: skip


def add_plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``plot`` to argparse."""
    parser.description = "Draw the figures of a fit as SVG, PNG and the CSV behind each."
    parser.epilog = (
        "example:\n  flops-fit plot --runs results/demo/results.csv "
        "--records results/demo/results.json \\\n    --fit results/demo/fit.json "
        "--out-dir results/demo/plots"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_inputs(parser)
    parser.add_argument("--out-dir", required=True, help="folder of the figures")
    parser.add_argument("--dpi", type=int, default=150, help="of the PNG files (default: 150)")
    parser.add_argument("--width", type=float, default=6.4, help="in inches (default: 6.4)")


def run_plot(args: argparse.Namespace) -> None:
    """Read a fit and its runs, draw, print one line."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.plots import FIGURES
    from flops_fit.plots.draw import draw_all

    for name, value in (("--dpi", args.dpi), ("--width", args.width)):
        if not value > 0:
            raise FlopsFitError(f"{name}: {value}; allowed: a positive number")
    table, records, fit, budgets = _read(args)
    draw_all(table, records, fit, budgets, args.out_dir, args.dpi, args.width)
    print(f"wrote {args.out_dir}/{{{','.join(FIGURES)}}}.{{svg,png,csv}}")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``report`` to argparse."""
    parser.description = "Write the answer as one self-contained HTML page and a Markdown table."
    parser.epilog = (
        "example:\n  flops-fit report --runs results/demo/results.csv "
        "--records results/demo/results.json \\\n    --fit results/demo/fit.json "
        "--plots results/demo/plots --budgets 1e12 1e13 --name demo \\\n"
        "    --out report.html --table table.md"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_inputs(parser)
    parser.add_argument("--plots", required=True, help="folder that flops-fit plot wrote")
    parser.add_argument("--plan", help="the sweep's plan file: planned against spent")
    parser.add_argument("--confirmed", nargs="*", default=[], metavar="FILE",
        help="confirmation.json of runs trained at this sweep's optimum")  # fmt: skip
    parser.add_argument("--name", required=True, help="name of the sweep")
    parser.add_argument("--out", required=True, help="the page (HTML)")
    parser.add_argument("--table", help="also write the optima and answers as Markdown")


def run_report(args: argparse.Namespace) -> None:
    """Write the page and the table, print the headline."""
    from flops_fit.files import read_json, write_atomic
    from flops_fit.fit import predict
    from flops_fit.notation import count_text, flops_text, loss_text
    from flops_fit.plan_file import read_plan
    from flops_fit.report import markdown_table, report_page

    table, records, fit, budgets = _read(args)
    plan = read_plan(args.plan) if args.plan else None
    named = {"runs": args.runs, "records": args.records, "fit": args.fit}
    files = {name: path for name, path in named.items() if path}
    told = [read_json(path) for path in args.confirmed]
    page = report_page(table, records, fit, args.plots, budgets, args.name, plan, files, told)
    write_atomic(args.out, page)
    if args.table:
        write_atomic(args.table, markdown_table(fit, budgets))
    answer = predict(fit, budgets[0])
    print(
        f"wrote {args.out}: at {flops_text(answer['flops'])} FLOPs N = "
        f"{count_text(answer['params'])}, D = {count_text(answer['tokens'])}, loss "
        f"{loss_text(answer['loss'])} ({answer['verdict']})"
    )


def _read(args: argparse.Namespace) -> tuple:
    """The run table, the records ([] without them), the fit and the budgets to answer for."""
    from flops_fit.collect import read_results
    from flops_fit.fit.answer import check_flops, read_fit
    from flops_fit.report import default_budgets

    fit = read_fit(args.fit)
    records = read_results(args.records) if args.records else []
    budgets = [check_flops(c) for c in args.budgets or default_budgets(fit)]
    return _fitted_runs(args.runs, args.fit, fit), records, fit, budgets


def _fitted_runs(path: str, fit_path: str, fit: dict):
    """The runs behind ``fit``, with N counted as it was there."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit import read_runs

    table = read_runs(path, fit["data"].get("params_column", "params"))
    span = [table.frame["params"].min(), table.frame["params"].max()]
    if len(table.frame) == fit["data"]["n_runs"] and span == fit["data"]["params"]:
        return table
    raise FlopsFitError(
        f"{path}: not the runs behind {fit_path}, which has {fit['data']['n_runs']} runs of "
        f"{fit['data']['params'][0]:.4g} to {fit['data']['params'][1]:.4g} parameters; fit again"
    )
