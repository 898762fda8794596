"""``flops-fit plan``: every experiment counted, checked and priced before any training."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from flops_fit.cli.arguments import add_places, add_sweep
from flops_fit.cli.at_work import at_work

if TYPE_CHECKING:
    from flops_fit.experiment.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``plan`` to argparse."""
    parser.description = (
        "List every experiment of a sweep with its size, data and cost; train nothing."
    )
    parser.epilog = (
        "example:\n  flops-fit plan --config config/config.yaml\n"
        "  flops-fit plan --config config/config.yaml --device H100 --per-hour 2.5 --page plan.html"
    )
    add_sweep(parser)
    add = parser.add_argument
    add("--out", help="output: the table as CSV")
    add("--page", help="output: a page (HTML) with a figure of the grid")
    add("--name", default="sweep", help="name of the sweep on the page (with --plan)")
    add("--figure", help="output: the figure of the grid (SVG)")
    add("--summary", help="output: cost of the sweep and warnings as text")
    add(
        "--json",
        action="store_true",
        help="print one JSON object: the FLOPs of the sweep, those that are left, every experiment",
    )
    add(
        "--budgets",
        nargs="+",
        type=float,
        metavar="C",
        help="budgets that the report will answer for (default: those of the config)",
    )
    add(
        "--measure",
        action="store_true",
        help="time some real steps on this machine; this plan and the workflow then use these times",
    )
    add("--device", help="GPU to price for, such as H100 or A100 (default: pricing of the config)")
    add("--flops-per-second", type=float, help="FLOP/s that one device reaches in training")
    add("--step-seconds", type=float, help="least time of a step, even with a very small model")
    add("--per-hour", type=float, help="price of one device per hour")
    add("--currency", help="currency sign (default: $)")
    add_places(parser)


def run(args: argparse.Namespace) -> None:
    """Plan the sweep, price it, print warnings, and write the requested files."""
    from dataclasses import replace

    from flops_fit.config.complete import check_section
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import sweep_config_file
    from flops_fit.files import write_atomic, write_object
    from flops_fit.plan.gpu_memory import gpu_bytes
    from flops_fit.plan.price import priced_resources, rate_for
    from flops_fit.plan.table import (
        format_plan,
        plan_csv,
        plan_json,
        plan_rows,
        plan_summary,
        unique_tokens,
    )
    from flops_fit.plan.warnings import plan_warnings
    from flops_fit.store.plan_file import keep_plan, read_plan

    config = None
    if args.plan:
        plan, budgets = read_plan(args.plan), args.budgets or []
    else:
        from flops_fit.config.load import load_config
        from flops_fit.plan.cache import plan_config, search_paths

        paths = search_paths(args.search_path)
        config = load_config(args.config, paths)
        if config["runs"] is not None:
            raise FlopsFitError(
                f"{args.config}: runs: there is nothing to plan, because the runs are given"
            )
        with at_work(args, "planning the sweep"):
            plan = plan_config(config, args.results, paths)
        budgets = args.budgets or config["answer"]["budgets"]
    check_section("answer", {"budgets": budgets})
    kept = None
    if config:
        kept = keep_plan(plan, config["name"], args.results)
        write_object(sweep_config_file(args.results, config["name"]), config)
    if args.measure:
        _measure(config, plan, args.results)
    pricing = _pricing(args, config)
    plan = replace(plan, resources=priced_resources(pricing, plan.resources))
    rate = rate_for(pricing, plan.resources.gpus, plan.precision, args.results)
    rows = plan_rows(plan, rate, pricing["per_hour"], unique_tokens(plan))
    device_bytes = gpu_bytes(pricing["device"]) if plan.resources.gpus else None
    warnings = plan_warnings(plan, rows, budgets, device_bytes)
    currency = pricing["currency"]
    if args.out:
        write_atomic(args.out, plan_csv(rows))
    if args.page or args.figure:
        from flops_fit.plots.plan import plan_figure
        from flops_fit.report.plan_page import plan_page

        figure = plan_figure(rows)
        name = config["name"] if config else args.name
        if args.figure:
            write_atomic(args.figure, figure)
        if args.page:
            page = plan_page(name, plan, rows, warnings, rate, currency, figure)
            write_atomic(args.page, page)
    if args.summary:
        write_atomic(args.summary, plan_summary(plan, rows, warnings, rate, currency))
    notes = [f"wrote {path}" for path in (args.out, args.page, args.figure, args.summary) if path]
    if kept:
        notes.append(f"wrote {kept} (the --plan of prepare, check and collect)")
    if args.json:
        print(json.dumps(plan_json(plan, rows, args.results), indent=1))
        notes = [*(f"warning: {warning}" for warning in warnings), *notes]
    else:
        print(format_plan(plan, rows, warnings, rate, currency))
    print("\n".join(notes), file=sys.stderr if args.json else sys.stdout)


def _pricing(args: argparse.Namespace, config: dict | None) -> dict:
    """The section ``pricing`` of the config, or its defaults; options override it."""
    from flops_fit.config.complete import check_section
    from flops_fit.config.schema import schema

    known = schema()["properties"]["pricing"]["properties"]
    pricing = {**config["pricing"]} if config else {key: v["default"] for key, v in known.items()}
    given = {key: getattr(args, key) for key in known}
    pricing |= {key: value for key, value in given.items() if value is not None}
    check_section("pricing", pricing)
    return pricing


def _measure(config: dict | None, plan: "Plan", results: str) -> None:
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import measured_file, spec_file
    from flops_fit.experiment.spec import read_spec
    from flops_fit.files import write_object
    from flops_fit.plan.measure import measure_rate
    from flops_fit.plan.price import device_kind

    if config is None:
        raise FlopsFitError("--measure: needs --config, which names the model and the data")
    specs = [read_spec(spec_file(results, e.experiment_id)) for e in plan.experiments]
    rate = measure_rate(config, specs)
    kind = device_kind(config["resources"]["gpus"])
    write_object(measured_file(results, kind), vars(rate))
