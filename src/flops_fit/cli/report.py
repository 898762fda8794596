"""``flops-fit report``: the answer as a page and as a table."""

import argparse

from flops_fit.cli.at_work import at_work, load
from flops_fit.cli.fitted import add_fitted, read_fitted
from flops_fit.cli.machine import add_amount, add_machine, machine_of
from flops_fit.cli.questions import add_questions, questions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``report`` to argparse."""
    parser.description = "Write the answer as one self-contained HTML page and a Markdown table."
    parser.epilog = (
        "example:\n  flops-fit report --runs results/demo/results.csv "
        "--records results/demo/results.json \\\n    --fit results/demo/fit.json "
        "--plots results/demo/plots --budgets 1e12 1e13 --name demo \\\n"
        "    --out report.html --table table.md"
    )
    add_fitted(parser)
    add_questions(parser)
    add_amount(parser.add_mutually_exclusive_group())
    add_machine(parser)
    parser.add_argument(
        "--plots", required=True, help="folder of the figures, as written by flops-fit plot"
    )
    parser.add_argument(
        "--plan", help="the sweep's plan file, to compare the planned cost with the real one"
    )
    parser.add_argument(
        "--confirmed",
        nargs="*",
        default=[],
        metavar="FILE",
        help="confirmation.json of runs trained at this sweep's optimum",
    )
    parser.add_argument("--name", required=True, help="name of the sweep")
    parser.add_argument("--out", required=True, help="output: the page (HTML)")
    parser.add_argument("--table", help="output: the optima and answers as Markdown")
    parser.add_argument("--tex", help="output: the same as plain LaTeX tabulars")
    parser.add_argument(
        "--summary", help="output: the answers alone, as the workflow prints them at its end"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page and the tables, print the answer at the first budget."""
    load(args, "flops_fit.report.page")
    with at_work(args, "writing the page"):
        sentence = _write(args)
    print(sentence)


def _write(args: argparse.Namespace) -> str:
    """Write all files of ``args``; returns the answer at the first budget as a sentence."""
    from datetime import UTC, datetime
    from pathlib import Path

    from flops_fit.files import read_object, write_atomic
    from flops_fit.fit.prediction import predict
    from flops_fit.notation import count_text, flops_text, loss_text
    from flops_fit.report.latex import latex_tables
    from flops_fit.report.page import report_page
    from flops_fit.report.table import answer_table, markdown_table
    from flops_fit.rounds.ledger import ledger_text
    from flops_fit.store.plan_file import read_plan

    table, records, fit, budgets = read_fitted(args)
    plan = read_plan(args.plan) if args.plan else None
    named = {"runs": args.runs, "records": args.records, "fit": args.fit}
    files = {name: path for name, path in named.items() if path}
    confirmed = [read_object(path) for path in args.confirmed]
    ledger = ledger_text(Path(args.out).parent.parent)
    # The day of the fit, not of the page: the same fit gives the same page
    dated = datetime.fromtimestamp(Path(args.fit).stat().st_mtime, UTC).date().isoformat()
    page = report_page(
        table,
        records,
        fit,
        args.plots,
        budgets,
        args.name,
        plan,
        files,
        confirmed,
        ledger,
        dated,
        asked=questions(args),
        bought=machine_of(args),
        plan_file=args.plan,
    )
    write_atomic(args.out, page)
    if args.table:
        write_atomic(args.table, markdown_table(fit, budgets))
    if args.tex:
        write_atomic(args.tex, latex_tables(fit, budgets))
    if args.summary:
        write_atomic(args.summary, answer_table(fit, budgets))
    answer = predict(fit, budgets[0])
    best = answer.optimum
    if best is None:
        return f"wrote {args.out}: {answer.verdict}"
    return (
        f"wrote {args.out}: at {flops_text(best.flops)} FLOPs N = "
        f"{count_text(best.params)}, D = {count_text(best.tokens)}, loss "
        f"{loss_text(best.loss)} ({answer.verdict})"
    )
