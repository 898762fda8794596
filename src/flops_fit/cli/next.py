"""``flops-fit next``: a config with the additional runs that improve a fit most."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flops_fit.cli.arguments import add_json, add_places, print_json, run_command, texts_aside
from flops_fit.cli.at_work import at_work, load

if TYPE_CHECKING:
    import pandas as pd

    from flops_fit.fit.result import Fit
    from flops_fit.rounds.grid import Action, Grid
    from flops_fit.rounds.next import Outlook
    from flops_fit.rounds.truth import Truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``next`` to argparse."""
    parser.description = (
        "Propose the additional runs that improve a fit most, as a config that keeps the old runs."
    )
    parser.epilog = (
        "examples:\n  flops-fit next --fit results/demo/fit.json --config config/config.yaml\n"
        "  flops-fit next --compare config/compare.yaml\n\n"
        "Minima that are not bracketed, and budgets with a single size on one side of the minimum, "
        "come first.\nOtherwise ways to narrow the answer's interval are compared by simulation, and "
        "the one that\nnarrows it most per FLOP within --max-flops is chosen."
    )
    add = parser.add_argument
    add("--fit", help="the fit of the sweep, as written by flops-fit fit")
    add("--config", help="the sweep's config file")
    add(
        "--compare",
        metavar="CONFIG",
        help="config of a comparison whose arms are fitted, in place of --fit and --config: propose "
        "the runs of either arm that settle it",
    )
    add(
        "--flops",
        type=float,
        help="budget whose answer to improve (default: 10 times the largest; of a comparison, the "
        "largest that both measured)",
    )
    add(
        "--max-flops",
        type=float,
        help="most FLOPs to spend (default, for narrowing: as many as the sweeps have cost)",
    )
    add(
        "--serve",
        type=float,
        metavar="TOKENS",
        help="propose two over-trained runs that test what predict --serve TOKENS says",
    )
    add(
        "--take",
        type=int,
        metavar="K",
        help="choose proposal K of the list instead of the best; of a comparison, all up to K",
    )
    add("--force", action="store_true", help="propose runs even if the fit is not identifiable")
    add("--name", help="name of the new sweep (default: NAME-round2, -round3, ...)")
    add("--out", help="output: its config (default: config/NAME.yaml)")
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Propose runs, simulate them, write a config, print what it adds and why."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from flops_fit.cli.settle import settle

    load(args, "flops_fit.rounds.settle" if args.compare else "flops_fit.rounds.next")
    with texts_aside(args):
        proposed = settle(args) if args.compare else _propose(args)
    if args.json:
        print_json(proposed)


def _propose(args: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    import yaml

    from flops_fit.cli.fitted import insist
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic
    from flops_fit.fit.result import read_fit
    from flops_fit.notation import flops_text
    from flops_fit.plan.cache import search_paths
    from flops_fit.rounds.grid import added_runs, grid_config, planned_grid
    from flops_fit.rounds.next import TIMES, config_text, grown, merged, next_name, outlook, repairs

    if not args.fit or not args.config:
        raise FlopsFitError("--fit, --config: missing; allowed: both of them, or --compare")
    config, fit = grid_config(args.config), read_fit(args.fit)
    insist(fit, args)
    paths = search_paths(args.search_path)
    with at_work(args, "planning the sweep"):
        plan, grid = planned_grid(config, fit, args.results, paths)
    target = args.flops or 10 * grid.budgets[-1]
    method = fit.headline.method
    truth = _truth_near(fit, grid.design)

    def look(action: "Action | None") -> "Outlook":
        with at_work(args, "simulations", TIMES) as each:
            return outlook(grid, action, truth, method, target, config["fit"], each)

    before = look(None)
    served = _over_trained(fit, grid, target, args)
    fixes = [served] if served else repairs(fit, grid)
    if fixes:
        if args.take is not None:
            raise FlopsFitError(
                f"--take: {args.take}; there is no list to choose from: {fixes[0].why}"
            )
        for action in fixes:
            print(f"{action.why}:\n  add {action.text}")
        chosen = look(merged(fixes))
        if args.max_flops and chosen.flops > args.max_flops:
            raise FlopsFitError(
                f"--max-flops: {args.max_flops:g}; these runs cost {flops_text(chosen.flops)} FLOPs"
            )
    else:
        print("every minimum is bracketed, with sizes on both sides; ways to narrow the interval:")
        chosen = _choose(grid, fit, before, look, args)
    name = args.name or next_name(config["name"])
    out = Path(args.out or f"config/{name}.yaml")
    raw = yaml.safe_load(Path(args.config).read_text())
    new = grown(raw, config, grid, chosen.action, name)
    with at_work(args, "planning the new runs"):
        count, flops = added_runs(plan, new, args.results, paths, args.config)
    summary = [
        f"adds {count} runs, {flops_text(flops)} FLOPs, to the {len(plan.experiments)} of "
        f"{config['name']}",
        f"expected, simulated with {truth.source}: interval of N* at {flops_text(target)} "
        f"FLOPs {_factor(before.width)} before, {_factor(chosen.width)} after; all minima bracketed in "
        f"{before.bracketed:.0%} of the simulations before, {chosen.bracketed:.0%} after",
    ]
    head = [
        f"Made by `flops-fit next` from {args.config} and {args.fit}.",
        *f"Why: {chosen.action.why}".split("; "),
        *summary,
    ]
    write_atomic(out, config_text(new, head))
    print("\n".join(summary))
    print(f"wrote {out}; run it with: {run_command(out)}")
    return {
        "config": str(out),
        "why": chosen.action.why,
        "added_runs": count,
        "added_flops": flops,
        "target_flops": target,
        "before": _expected(before),
        "after": _expected(chosen),
    }


def _expected(look: "Outlook") -> dict[str, float | None]:
    """The expected interval of N*, high / low, and how often every minimum is bracketed."""
    ratio = None if look.width is None else math.exp(look.width)
    return {"params_ratio": ratio, "all_bracketed": look.bracketed}


def _over_trained(
    fit: "Fit", grid: "Grid", target: float, args: argparse.Namespace
) -> "Action | None":
    """The runs that test the model for ``--serve``; None where it was not asked for."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.fit.questions import ask
    from flops_fit.rounds.next import over_trained

    if args.serve is None:
        return None
    served = ask(fit, target, serve=args.serve).served
    if served is None:
        raise FlopsFitError(f"--serve: {args.fit} has no answer at {target:g} FLOPs to test")
    return over_trained(fit, grid, served)


def _choose(
    grid: "Grid",
    fit: "Fit",
    before: "Outlook",
    look: "Callable[[Action | None], Outlook]",
    args: argparse.Namespace,
) -> "Outlook":
    """Print all ways to narrow the interval and return the outlook of the chosen one."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.notation import flops_text
    from flops_fit.rounds.next import best_action, tightenings

    most = args.max_flops or float(grid.design["flops"].sum())
    options = [look(action) for action in tightenings(fit, grid)]
    best = best_action(options, before, most)
    print(f"      {'FLOPs':>9} {'runs':>5} {'N*':>7} {'narrower':>9}   now {_factor(before.width)}")
    for k, option in enumerate(options, 1):
        narrower = 100 * (1 - math.exp(-option.gain(before)))
        mark = "*" if option is best else "-" if option.flops > most else " "
        print(
            f"{mark} {k:>2}  {flops_text(option.flops):>9} {option.runs:5d} {_factor(option.width):>7} "
            f"{narrower:8.0f}%   {option.action.text} ({option.action.why})"
        )
    print(f"(*: narrows most per FLOP; -: above --max-flops {flops_text(most)})")
    if args.take is not None:
        if not 1 <= args.take <= len(options):
            raise FlopsFitError(f"--take: {args.take}; allowed: 1 to {len(options)}")
        return options[args.take - 1]
    if best is None:
        raise FlopsFitError(
            f"--max-flops: no proposal within {flops_text(most)} FLOPs narrows the interval by 5%; "
            "allow more, or choose one of the list with --take"
        )
    return best


def _factor(width: float | None) -> str:
    return "unknown" if width is None else f"x{math.exp(width):.2f}"


def _truth_near(fit: "Fit", design: "pd.DataFrame") -> "Truth":
    """The surface of the fit to simulate with; the default law if none is identified."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.rounds.truth import truth_for

    try:
        return truth_for(design, fit=fit)
    except FlopsFitError:
        return truth_for(design)
