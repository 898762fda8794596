"""``flops-fit predict``: the answer of a fit for a budget, or losses at points."""

import argparse
from typing import TYPE_CHECKING

from flops_fit.cli.machine import add_amount, add_machine, machine_of
from flops_fit.cli.questions import add_questions, questions

if TYPE_CHECKING:
    from flops_fit.fit.result import Fit

PREDICT_EXAMPLE = """examples:
  flops-fit predict --fit fit.json --flops 1e21
  flops-fit predict --fit fit.json --flops 1e21 --tokens 5e10
  flops-fit predict --fit fit.json --flops 1e21 --serve 1e12 --require trust
  flops-fit predict --fit fit.json --hours 72 --devices 8 --device H100
  flops-fit predict --fit fit.json --at points.csv --out predicted.csv"""
NOT_ENOUGH = 3  # exit status if the verdict is below --require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``predict`` to argparse."""
    parser.description = (
        "Predict from a fit: the best N and D for a budget, or the loss at given points."
    )
    parser.epilog = PREDICT_EXAMPLE
    add = parser.add_argument
    add("--fit", required=True, help="the fit, as written by flops-fit fit")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--flops", type=float, help="compute budget C in FLOPs")
    add_amount(what)
    what.add_argument("--at", metavar="POINTS.csv", help="a table of params and tokens to predict")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--params", type=float, metavar="N", help="also what a model of this size gives"
    )
    given.add_argument(
        "--tokens", type=float, metavar="D", help="also the best model that reads D tokens once"
    )
    add_questions(parser)
    add_machine(parser)
    add("--json", action="store_true", help="print the answer as JSON")
    add("--out", metavar="PRED.csv", help="output of --at: the table with predictions added")
    add(
        "--require",
        choices=("trust", "provisional"),
        metavar="VERDICT",
        help="exit with 3 if below trust or provisional",
    )


def run(args: argparse.Namespace) -> int | None:
    """Print the answer for a budget, or write predicted losses at points."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.result import read_fit

    fit = read_fit(args.fit)
    asked = {"params": args.params, "tokens": args.tokens, **questions(args)}
    for name, value in asked.items():
        if args.at is not None and value is not None:
            raise FlopsFitError(f"--{name}: allowed: with --flops, not with --at")
    if args.at is None:
        verdicts = [_answer(fit, args, asked)]
    elif args.out is None:
        raise FlopsFitError("--at: needs --out PRED.csv, the file for the predictions")
    else:
        verdicts = _points(fit, args)
    return _required(verdicts, args.require)


def _required(verdicts: list[str], least: str | None) -> int | None:
    """Exit status 3 if a verdict is below ``least``."""
    import sys

    from flops_fit.fit.answer import VERDICTS

    worst = min(verdicts, key=VERDICTS.index)
    if least is None or VERDICTS.index(worst) >= VERDICTS.index(least):
        return None
    print(f"flops-fit: --require {least}: the verdict is {worst}", file=sys.stderr)
    return NOT_ENOUGH


def _answer(fit: "Fit", args: argparse.Namespace, asked: dict[str, float | None]) -> str:
    import json
    from dataclasses import replace

    from flops_fit.fit.purchase import purchase_at
    from flops_fit.fit.questions import ask, weakest_verdict
    from flops_fit.report.answer_lines import describe

    bought = machine_of(args)
    if bought is None:
        answer = ask(fit, args.flops, **asked)
    else:
        machine, hours = bought
        answer = ask(fit, machine.flops(hours), **asked)
        answer = replace(answer, purchase=purchase_at(fit, machine, hours))
    print(
        json.dumps(answer.to_dict(), indent=1, allow_nan=False)
        if args.json
        else describe(answer, fit)
    )
    return weakest_verdict(answer)


def _points(fit: "Fit", args: argparse.Namespace) -> list[str]:
    from flops_fit.files import write_atomic
    from flops_fit.fit.curves import read_points
    from flops_fit.fit.prediction import losses_at
    from flops_fit.fit.tables import without_formulas
    from flops_fit.fit.verdict import untested_run
    from flops_fit.notation import loss_text

    points = read_points(args.at)
    for name, values in losses_at(fit, points["params"], points["tokens"]).items():
        points[name] = values
    write_atomic(args.out, without_formulas(points).to_csv(index=False))
    losses = points["loss"].dropna()
    span = f", loss {loss_text(losses.min())} to {loss_text(losses.max())}" if len(losses) else ""
    print(f"wrote {args.out}: {len(points)} points{span}")
    flops = points["beyond_data"] * fit.data.largest_budget
    ratios = points["tokens"] / points["params"]
    untested = [
        text for run in zip(flops, ratios, strict=True) if (text := untested_run(fit, *run))
    ]
    if untested:
        print(f"{len(untested)} of them are not like any run; the first: {untested[0]}")
    return list(points["verdict"])
