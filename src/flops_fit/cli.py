"""``flops-fit VERB``: the steps of the path, each what a rule of the workflow calls.

Nothing heavy is imported before a verb runs, so ``--help`` is instant.
"""

import argparse
import sys
from collections.abc import Callable

from flops_fit import __version__, store_commands
from flops_fit.answer_commands import (
    add_plot_arguments,
    add_report_arguments,
    run_plot,
    run_report,
)
from flops_fit.arguments import add_results
from flops_fit.doctor import add_doctor_arguments, run_doctor
from flops_fit.errors import FlopsFitError
from flops_fit.fit.commands import add_fit_arguments, add_predict_arguments, run_fit, run_predict
from flops_fit.plan_command import add_plan_arguments, run_plan
from flops_fit.progress import add_progress_arguments, run_progress
from flops_fit.round_commands import (
    add_compare_arguments,
    add_confirm_arguments,
    add_next_arguments,
    add_simulate_arguments,
    run_compare,
    run_confirm,
    run_next,
    run_simulate,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; bad input ends with one message on standard error and status 2."""
    parsed = make_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except FlopsFitError as error:
        print(f"flops-fit: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        sys.stderr.close()
    except OSError as error:  # a file or folder that an option names
        name, reason = error.filename2 or error.filename or "a file", error.strerror or error
        print(f"flops-fit: error: {name}: cannot be read or written ({reason})", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flops-fit",
        description="From a compute budget to the right model size and amount of data.",
        epilog="The verbs in the order of the path; `flops-fit VERB --help` shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"flops-fit {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    add_verb(verbs, "plan", add_plan_arguments, run_plan)
    add_verb(verbs, "simulate", add_simulate_arguments, run_simulate)
    add_verb(verbs, "prepare", add_prepare_arguments, run_prepare)
    add_verb(verbs, "check", add_check_arguments, run_check)
    add_verb(verbs, "train", add_train_arguments, run_train)
    add_verb(verbs, "progress", add_progress_arguments, run_progress)
    add_verb(verbs, "collect", add_collect_arguments, run_collect)
    add_verb(verbs, "rate", add_rate_arguments, run_rate)
    add_verb(verbs, "fit", add_fit_arguments, run_fit)
    add_verb(verbs, "predict", add_predict_arguments, run_predict)
    add_verb(verbs, "plot", add_plot_arguments, run_plot)
    add_verb(verbs, "report", add_report_arguments, run_report)
    add_verb(verbs, "next", add_next_arguments, run_next)
    add_verb(verbs, "confirm", add_confirm_arguments, run_confirm)
    add_verb(verbs, "compare", add_compare_arguments, run_compare)
    add_runs_verb(verbs)
    add_verb(verbs, "doctor", add_doctor_arguments, run_doctor)
    return parser


def add_runs_verb(verbs) -> None:
    """``flops-fit runs``, which has verbs of its own."""
    sentence = "List, remove or import the runs of the store."
    parser = verbs.add_parser(
        "runs", help=sentence, description=sentence,
        epilog="example:\n  flops-fit runs list\n  flops-fit runs prune\n"
        "  flops-fit runs import OTHER/results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    own = parser.add_subparsers(metavar="VERB", required=True)
    add_verb(own, "list", store_commands.add_list_arguments, store_commands.run_list)
    add_verb(own, "prune", store_commands.add_prune_arguments, store_commands.run_prune)
    add_verb(own, "import", store_commands.add_import_arguments, store_commands.run_import)


def add_verb(verbs, name: str, add_arguments: Callable, run: Callable) -> None:
    """Add a verb whose one-sentence description also stands in ``flops-fit --help``."""
    own = argparse.ArgumentParser(add_help=False)
    add_arguments(own)
    parser = verbs.add_parser(
        name, parents=[own], help=own.description, description=own.description, epilog=own.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)


def add_plan_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", required=True, help="the sweep's plan file, results/.plan/sweeps/NAME.json"
    )
    add_results(parser)


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make the data's files, once, before any training."
    parser.epilog = "example:\n  flops-fit prepare --plan results/.plan/sweeps/demo.json"
    add_plan_file(parser)


def run_prepare(args: argparse.Namespace) -> None:
    from flops_fit.plan_file import read_plan
    from flops_fit.prepare import prepare_data

    print(f"wrote {prepare_data(read_plan(args.plan), args.results)}")


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Try one real batch, and the amount of data, before any training."
    parser.epilog = "example:\n  flops-fit check --plan results/.plan/sweeps/demo.json"
    add_plan_file(parser)


def run_check(args: argparse.Namespace) -> None:
    from flops_fit.amounts import check_amount
    from flops_fit.checks import check_inputs
    from flops_fit.files import write_json
    from flops_fit.identity import read_spec
    from flops_fit.places import spec_file
    from flops_fit.plan_file import read_plan

    plan = read_plan(args.plan)
    smallest = min(plan["experiments"], key=lambda row: row["params_total"])
    spec = read_spec(spec_file(args.results, smallest["experiment_id"]))
    data = check_inputs(spec)
    check_amount(data, plan["experiments"], spec["max_epochs"])
    write_json(plan["check"], data)
    print(f"wrote {plan['check']}: one real batch passes model, loss and optimiser")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train one experiment through accelerate launch, or restore its record."
    parser.epilog = (
        "example:\n  flops-fit train --spec results/.plan/specs/ID.json "
        "--out results/runs/ID/result.json"
    )
    parser.add_argument("--spec", required=True, help="the experiment's spec file")
    parser.add_argument("--out", required=True, help="where its result goes")
    parser.add_argument("--processes", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads each (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs the job was given (default: 0)")


def run_train(args: argparse.Namespace) -> None:
    from flops_fit.launch import launch

    launch(args.spec, args.out, args.processes, args.threads, args.gpus)


def add_collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Merge the records of a sweep's experiments into two tables."
    parser.epilog = (
        "example:\n  flops-fit collect --plan results/.plan/sweeps/demo.json "
        "--json results/demo/results.json --csv results/demo/results.csv"
    )
    add_plan_file(parser)
    parser.add_argument("--json", required=True, help="every record whole")
    parser.add_argument("--csv", required=True, help="the table that `flops-fit fit` reads")
    parser.add_argument(
        "--failed", nargs="*", default=[], metavar="ID", help="experiments allowed to be missing"
    )


def run_collect(args: argparse.Namespace) -> None:
    from flops_fit.collect import collect, write_results
    from flops_fit.plan_file import read_plan

    plan = read_plan(args.plan)
    records = collect(plan, args.results, args.failed)
    write_results(records, plan["convention"], args.json, args.csv)
    statuses = [record["status"] for record in records]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses))
    print(f"wrote {args.json} and {args.csv}: {len(records)} runs, {counts}")


def add_rate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Fit the best learning rate as a rule of N and D, and draw it."
    parser.epilog = (
        "example:\n  flops-fit rate --runs results/lr/results.csv "
        "--out results/lr/learning_rate.json"
    )
    parser.add_argument("--runs", required=True, help="results.csv of a learning-rate sweep")
    parser.add_argument("--out", required=True, help="the rule file that a config can name")
    parser.add_argument("--out-dir", help="folder for the figure")
    parser.add_argument("--dpi", type=int, default=150, help="of the PNG file (default: 150)")
    parser.add_argument("--width", type=float, default=6.4, help="in inches (default: 6.4)")


def run_rate(args: argparse.Namespace) -> None:
    from flops_fit.files import write_json
    from flops_fit.learning_rate import fit_learning_rate, read_rates

    runs = read_rates(args.runs)
    rule = fit_learning_rate(runs)
    if args.out_dir:
        from flops_fit.plots.learning_rate import draw_rate_figure

        draw_rate_figure(runs, rule, args.out_dir, args.dpi, args.width)
    write_json(args.out, rule)
    for note in rule["notes"]:
        print(f"note: {note}")
    powers = "".join(
        f" x ({letter} / {rule[name]['reference']:.3g})^{rule[name]['power']:.3f}"
        for name, letter in (("params", "N"), ("tokens", "D"))
        if name in rule
    )
    print(f"wrote {args.out}: lr = {rule['value']:.4g}{powers}")
