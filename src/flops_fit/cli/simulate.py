"""``flops-fit simulate``: what intervals a planned sweep will give, before it is paid for."""

import argparse
from typing import TYPE_CHECKING, Any

from flops_fit.cli.arguments import add_json, add_places, add_sweep, print_json
from flops_fit.cli.at_work import at_work, load

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from flops_fit.rounds.truth import Truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``simulate`` to argparse."""
    parser.description = (
        "Simulate a planned sweep with a given law, to see which intervals to expect."
    )
    parser.epilog = (
        "examples:\n  flops-fit simulate --config config/config.yaml\n"
        "  flops-fit simulate --plan results/.plan/sweeps/demo.json --fit results/demo/fit.json "
        "--flops 1e13\n"
        "  flops-fit simulate --config config/adamw.yaml --compare config/muon.yaml"
    )
    add = parser.add_argument
    add_sweep(parser)
    add(
        "--compare",
        metavar="CANDIDATE",
        help="config or plan file of a second sweep: which compute multiplier M the two can show",
    )
    law = parser.add_mutually_exclusive_group()
    law.add_argument(
        "--law",
        nargs=5,
        type=float,
        metavar=("E", "A", "B", "ALPHA", "BETA"),
        help="simulate with L = E + A/N^ALPHA + B/D^BETA",
    )
    law.add_argument("--fit", help="simulate with the surface and residual scale of this fit")
    add(
        "--noise",
        metavar="SD",
        help="standard deviation between runs, in nats (0.01) or relative to the loss (0.5%%)",
    )
    add(
        "--flops", type=float, help="budget to answer for, in FLOPs (default: 10 times the largest)"
    )
    add("--times", type=int, default=200, help="number of simulated sweeps (default: 200)")
    add("--resamples", type=int, default=200, help="resamples for each interval (default: 200)")
    add(
        "--fits",
        type=int,
        default=20,
        help="simulated sweeps, or pairs of them, that get a complete fit with headline and verdict "
        "(default: 20)",
    )
    add("--seed", type=int, default=0, help="seed of the simulated noise (default: 0)")
    add_json(parser)
    add_places(parser)


def _noise(text: str) -> tuple[float, bool]:
    """A standard deviation as typed: (value, whether it is relative to the loss)."""
    from flops_fit.errors import FlopsFitError

    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise FlopsFitError(
            f"--noise: {text!r}; allowed: nats such as 0.01, or a percentage of the loss such as 0.5%"
        )
    return (value / 100, True) if text.endswith("%") else (value, False)


def run(args: argparse.Namespace) -> None:
    """Plan the sweep, simulate it, print the outcome."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    load(args, "flops_fit.rounds.power" if args.compare else "flops_fit.rounds.simulate")
    from flops_fit.fit.result import read_fit
    from flops_fit.rounds.truth import truth_for

    design, options = _design(args.plan or args.config, args.plan is None, args)
    truth = truth_for(
        design,
        args.law,
        read_fit(args.fit) if args.fit else None,
        _noise(args.noise) if args.noise else None,
    )
    with at_work(args, "simulations", _steps(args)) as each:
        outcome, text = _simulated(args, design, truth, options, each)
    if args.json:
        print_json(outcome)
    else:
        print(text)


def _steps(args: argparse.Namespace) -> int:
    """How many simulations and complete fits ``args`` ask for."""
    return args.fits if args.compare else args.times + min(args.fits, args.times)


def _simulated(
    args: argparse.Namespace,
    design: "pd.DataFrame",
    truth: "Truth",
    options: dict[str, Any],
    each: "Callable[[], object]",
) -> tuple[dict[str, Any], str]:
    """The outcome as plain data and as text; ``each`` counts the simulations."""
    from flops_fit.rounds.describe import describe_simulation
    from flops_fit.rounds.power import describe_power, simulate_pair
    from flops_fit.rounds.simulate import simulate

    if args.compare:
        other, its = _design(args.compare, not args.compare.endswith(".json"), args)
        power = simulate_pair(
            (design, other),
            truth,
            flops=args.flops,
            times=args.fits,
            resamples=args.resamples,
            seed=args.seed,
            fit_options=(options, its),
            each=each,
        )
        return power, describe_power(power)
    outcome = simulate(
        design,
        truth,
        flops=args.flops,
        times=args.times,
        resamples=args.resamples,
        fits=min(args.fits, args.times),
        seed=args.seed,
        fit_options=options,
        each=each,
    )
    return outcome, describe_simulation(outcome)


def _design(
    path: str, is_config: bool, args: argparse.Namespace
) -> tuple["pd.DataFrame", dict[str, Any]]:
    """The runs of a sweep, planned from its config or read from its plan, and its fit options."""
    from flops_fit.plan.cache import plan_config, search_paths
    from flops_fit.rounds.grid import grid_config
    from flops_fit.rounds.simulate import design_of
    from flops_fit.store.plan_file import read_plan

    if not is_config:
        return design_of(read_plan(path)), {}
    config = grid_config(path)
    with at_work(args, "planning the sweep"):
        plan = plan_config(config, args.results, search_paths(args.search_path))
    return design_of(plan, config["fit"]["params"]), config["fit"]
