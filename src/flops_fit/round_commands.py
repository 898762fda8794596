"""The commands around a sweep: ``simulate`` before it, ``next`` and ``confirm`` after it.

Heavy imports wait until one of them runs.
"""

import argparse

from flops_fit.arguments import add_places, add_sweep


def add_simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``simulate`` to argparse."""
    parser.description = (
        "Play a planned sweep on a stated law: the intervals to expect, before paying."
    )
    parser.epilog = (
        "examples:\n  flops-fit simulate --config config/config.yaml\n"
        "  flops-fit simulate --plan results/.plan/sweeps/demo.json --fit results/demo/fit.json "
        "--flops 1e13"
    )
    add = parser.add_argument
    add_sweep(parser)
    law = parser.add_mutually_exclusive_group()
    law.add_argument("--law", nargs=5, type=float, metavar=("E", "A", "B", "ALPHA", "BETA"),
        help="L = E + A/N^ALPHA + B/D^BETA to draw from")  # fmt: skip
    law.add_argument("--fit", help="draw from the surface of this fit, with its residual scale")
    add("--noise", metavar="SD", help="sd from run to run: nats, as in 0.01, or a share of the loss, "
        "as in 0.5%%")  # fmt: skip
    add("--flops", type=float, help="budget to answer for (default: 10 times the largest)")
    add("--times", type=int, default=200, help="simulated sweeps (default: 200)")
    add("--resamples", type=int, default=200, help="behind each interval (default: 200)")
    add("--fits", type=int, default=20,
        help="plays fitted whole, for headline and verdict (default: 20)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the simulated noise (default: 0)")
    add("--json", action="store_true", help="print everything as JSON")
    add_places(parser)


def _noise(text: str) -> tuple[float, bool]:
    """An sd as typed: (value, whether it is a share of the loss)."""
    from flops_fit.errors import FlopsFitError

    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise FlopsFitError(
            f"--noise: {text!r}; allowed: nats such as 0.01, or a share such as 0.5%"
        )
    return (value / 100, True) if text.endswith("%") else (value, False)


def run_simulate(args: argparse.Namespace) -> None:
    """Plan, play, print."""
    import json
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from flops_fit.fit.answer import read_fit
    from flops_fit.plan_file import read_plan
    from flops_fit.simulate import describe_simulation, design_of, simulate, truth_for
    from flops_fit.workflow import plan_config, search_paths

    options = {}
    if args.plan:
        plan = read_plan(args.plan)
    else:
        config = grid_config(args.config)
        plan, options = (
            plan_config(config, args.results, search_paths(args.search_path)),
            config["fit"],
        )
    design = design_of(plan, options.get("params", "params"))
    truth = truth_for(
        design, args.law, read_fit(args.fit) if args.fit else None,
        _noise(args.noise) if args.noise else None,
    )  # fmt: skip
    told = simulate(
        design, truth, flops=args.flops, times=args.times, resamples=args.resamples,
        fits=min(args.fits, args.times), seed=args.seed, fit_options=options,
    )  # fmt: skip
    print(json.dumps(told, indent=1, allow_nan=False) if args.json else describe_simulation(told))


def grid_config(path: str) -> dict:
    """A config that trains a grid of sizes and budgets, complete; others are refused."""
    from flops_fit.config import load_config
    from flops_fit.errors import FlopsFitError

    config = load_config(path)
    for key, given in (
        ("runs", config["runs"] is not None),
        ("learning_rate_factors", len(config["learning_rate_factors"]) > 1),
        ("confirm", config["confirm"] is not None),
    ):
        if given:
            raise FlopsFitError(f"{path}: {key}: this is no sweep over a grid of sizes and budgets")
    return config


def _planned_grid(config: dict, fit: dict, results: str, paths: list[str]) -> tuple:
    """The sweep's plan and its grid, of which ``fit`` must be the fit."""
    from flops_fit.planner import size_counter
    from flops_fit.plugins import add_search_paths
    from flops_fit.rounds import Grid, check_matches
    from flops_fit.simulate import design_of
    from flops_fit.workflow import plan_config

    plan = plan_config(config, results, paths)
    add_search_paths(paths)
    params = config["fit"]["params"]
    grid = Grid(design_of(plan, params), size_counter(config)[0], params, plan["convention"])
    check_matches(fit, grid)
    return plan, grid


def add_next_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``next`` to argparse."""
    parser.description = (
        "Propose the further runs that a fit needs most, as a config; old runs stay as they are."
    )
    parser.epilog = (
        "example:\n  flops-fit next --fit results/demo/fit.json --config config/config.yaml\n\n"
        "Minima that are not bracketed, and windows with one size on a side, come first. Where there "
        "are none,\nways to tighten the answer are compared by simulation, and the one that narrows "
        "it most per FLOP\nwithin --max-flops is taken."
    )
    add = parser.add_argument
    add("--fit", required=True, help="FIT.json of the sweep")
    add("--config", required=True, help="the sweep's config file")
    add("--flops", type=float,
        help="budget whose answer is to be tightened (default: 10 times the largest)")  # fmt: skip
    add("--max-flops", type=float,
        help="most FLOPs to spend (default, for tightening: what the sweep cost)")  # fmt: skip
    add("--take", type=int, metavar="K", help="take proposal K of the list instead of the best")
    add("--name", help="name of the new sweep (default: NAME-round2, -round3, ...)")
    add("--out", help="where to write its config (default: config/NAME.yaml)")
    add_places(parser)


def run_next(args: argparse.Namespace) -> None:
    """Propose, simulate, write a config, print what it adds and why."""
    import os
    from pathlib import Path

    import yaml

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from flops_fit.config import complete_config
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic
    from flops_fit.fit.answer import read_fit
    from flops_fit.rounds import (
        config_text,
        grown,
        merged,
        next_name,
        outlook,
        repairs,
    )
    from flops_fit.workflow import plan_config, search_paths

    config, fit = grid_config(args.config), read_fit(args.fit)
    paths = search_paths(args.search_path)
    plan, grid = _planned_grid(config, fit, args.results, paths)
    target = args.flops or 10 * grid.budgets[-1]
    method = fit["headline"]["method"]
    truth = _truth_near(fit, grid.design)

    def look(action):
        return outlook(grid, action, truth, method, target, config["fit"])

    before, fixes = look(None), repairs(fit, grid)
    if fixes:
        if args.take is not None:
            raise FlopsFitError(f"--take: {args.take}; nothing to choose from: {fixes[0].why}")
        for action in fixes:
            print(f"{action.why}:\n  add {action.words}")
        chosen = look(merged(fixes))
        if args.max_flops and chosen.flops > args.max_flops:
            raise FlopsFitError(
                f"--max-flops: {args.max_flops:g}; these runs take {chosen.flops:.3g} FLOPs"
            )
    else:
        print("every minimum is bracketed with sizes on both sides; ways to tighten the answer:")
        chosen = _choose(grid, fit, before, look, args)
    name = args.name or next_name(config["name"])
    out = Path(args.out or f"config/{name}.yaml")
    raw = yaml.safe_load(Path(args.config).read_text())
    new = grown(raw, config, grid, chosen.action, name)
    planned = plan_config(complete_config(new), args.results, paths)
    old_ids = {row["experiment_id"] for row in plan["experiments"]}
    added = [row for row in planned["experiments"] if row["experiment_id"] not in old_ids]
    if len(added) + len(old_ids) != len(planned["experiments"]) or not added:
        raise FlopsFitError(f"{args.config}: its runs do not stay the same when the grid grows")
    flops = sum(row["flops_counted"] for row in added)
    summary = [
        f"adds {len(added)} runs, {flops:.3g} FLOPs, to the {len(old_ids)} of {config['name']}",
        f"expected, by simulation on {truth.words}: interval of N* at {target:.3g} FLOPs "
        f"{_factor(before.width)} before, {_factor(chosen.width)} after; all minima bracketed in "
        f"{before.bracketed:.0%} before, {chosen.bracketed:.0%} after",
    ]
    head = [f"Made by `flops-fit next` from {args.config} and {args.fit}.",
            *f"Why: {chosen.action.why}".split("; "), *summary]  # fmt: skip
    write_atomic(out, config_text(new, head))
    print("\n".join(summary))
    print(f"wrote {out}; run it with: snakemake --cores all --configfile {out}")


def _choose(grid, fit: dict, before, look, args: argparse.Namespace):
    """The outlook to take among the ways to tighten, all of which are printed."""
    import math

    from flops_fit.errors import FlopsFitError
    from flops_fit.rounds import best_action, tightenings

    most = args.max_flops or float(grid.design["flops"].sum())
    options = [look(action) for action in tightenings(fit, grid)]
    best = best_action(options, before, most)
    print(f"      {'FLOPs':>9} {'runs':>5} {'N*':>7} {'narrower':>9}   now {_factor(before.width)}")
    for k, option in enumerate(options, 1):
        narrower = 100 * (1 - math.exp(-option.gain(before)))
        mark = "*" if option is best else "-" if option.flops > most else " "
        print(f"{mark} {k:>2}  {option.flops:9.3g} {option.runs:5d} {_factor(option.width):>7} "
              f"{narrower:8.0f}%   {option.action.words} ({option.action.why})")  # fmt: skip
    print(f"(*: most per FLOP; -: above --max-flops {most:.3g})")
    if args.take is not None:
        if not 1 <= args.take <= len(options):
            raise FlopsFitError(f"--take: {args.take}; allowed: 1 to {len(options)}")
        return options[args.take - 1]
    if best is None:
        raise FlopsFitError(
            f"--max-flops: nothing within {most:.3g} FLOPs narrows the interval by 5%; allow more, or "
            "take one of the list with --take"
        )
    return best


def _factor(width: float | None) -> str:
    import math

    return "unknown" if width is None else f"x{math.exp(width):.2f}"


def _truth_near(fit: dict, design):
    """The fit's surface to draw from; the default law where none is identified."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.simulate import truth_for

    try:
        return truth_for(design, fit=fit)
    except FlopsFitError:
        return truth_for(design)


def add_confirm_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``confirm`` to argparse."""
    parser.description = "Predict the loss of one run at the optimum, and write its config."
    parser.epilog = (
        "example:\n  flops-fit confirm --fit results/demo/fit.json --config config/config.yaml "
        "--flops 2.43e12"
    )
    add = parser.add_argument
    add("--fit", required=True, help="FIT.json of the sweep")
    add("--config", required=True, help="the sweep's config file")
    add("--flops", type=float, required=True, help="budget of the run")
    add("--name", help="name of its sweep (default: NAME-confirm-FLOPS)")
    add("--out", help="where to write its config (default: config/NAME.yaml)")
    add_places(parser)


def run_confirm(args: argparse.Namespace) -> None:
    """Predict, write the config of the run, print what is expected of it."""
    from pathlib import Path

    import yaml

    from flops_fit.config import complete_config
    from flops_fit.confirmation import predicted_loss
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import canonical_hash, write_atomic
    from flops_fit.fit.answer import predict, read_fit
    from flops_fit.notation import count_text, loss_text
    from flops_fit.places import run_folder
    from flops_fit.records import RECORD
    from flops_fit.rounds import config_text, number
    from flops_fit.workflow import plan_config, search_paths

    config, fit = grid_config(args.config), read_fit(args.fit)
    answer = predict(fit, args.flops)
    paths = search_paths(args.search_path)
    plan, grid = _planned_grid(config, fit, args.results, paths)
    size = grid.nearest(answer["params"])
    flops = number(args.flops)
    name = args.name or f"{config['name']}-confirm-{flops}"
    raw = yaml.safe_load(Path(args.config).read_text())
    new = {**raw, "name": name, "budgets": [flops], "seeds": config["seeds"][:1],
           "sizes": {"per_budget": {flops: [number(size)]}}}  # fmt: skip
    (row,) = plan_config(complete_config(new), args.results, paths)["experiments"]
    if row["experiment_id"] in {known["experiment_id"] for known in plan["experiments"]}:
        raise FlopsFitError(
            f"--flops: {args.flops:g}; its run {row['experiment_id']} is one of those fitted; allowed: "
            "a budget that the sweep does not hold"
        )
    params = row[config["fit"]["params"]]
    told = predicted_loss(fit, params, row["num_tokens"])
    trained = (run_folder(args.results, row["experiment_id"]) / RECORD).exists()
    new["confirm"] = {
        "sweep": config["name"],
        "fit": canonical_hash(fit)[:16],
        "params": params,
        "tokens": row["num_tokens"],
        **told,
        "blind": not trained,
    }
    complete_config(new)
    out = Path(args.out or f"config/{name}.yaml")
    head = [
        f"Made by `flops-fit confirm` from {args.config} and {args.fit}: the prediction is frozen here.",
        f"N* at {args.flops:g} FLOPs: {answer['params']:.4g} ({answer['verdict']}).",
    ]
    write_atomic(out, config_text(new, head))
    run = "" if told["run"] is None else (
        f", {100 * told['level']:.0f}% interval of one run {loss_text(told['run'][0])} to "
        f"{loss_text(told['run'][1])}"
    )  # fmt: skip
    if trained:
        print("note: this run has been trained before, so its prediction is not blind")
    print(
        f"size {size}: N {count_text(row['params'])} (N* {count_text(answer['params'])}), "
        f"D {count_text(row['num_tokens'])}; predicted loss {loss_text(told['loss'])}{run}"
    )
    print(f"wrote {out}; run it with: snakemake --cores all --configfile {out}")


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``compare`` to argparse."""
    parser.description = "Compare the run of a confirmation with what was predicted for it."
    parser.epilog = (
        "example:\n  flops-fit compare --records results/demo-confirm-2.43e12/results.json \\\n"
        "    --predicted '{...}' --name demo-confirm-2.43e12 --out confirmation.json "
        "--table confirmation.md"
    )
    add = parser.add_argument
    add("--records", required=True, help="results.json of the confirmation's sweep")
    add("--predicted", required=True, help="the config's confirm, as JSON")
    add("--name", required=True, help="name of the confirmation's sweep")
    add("--out", required=True, help="the outcome (JSON)")
    add("--table", required=True, help="the outcome as Markdown")


def run_compare(args: argparse.Namespace) -> None:
    """Read the one record, write both files, print the outcome."""
    import json

    from flops_fit.collect import read_results
    from flops_fit.config import check_section
    from flops_fit.confirmation import compare, confirmation_table, outcome_words
    from flops_fit.errors import FlopsFitError
    from flops_fit.files import write_atomic, write_json

    records = read_results(args.records)
    if len(records) != 1:
        raise FlopsFitError(f"{args.records}: {len(records)} runs; a confirmation is one run")
    try:
        predicted = json.loads(args.predicted)
    except ValueError as error:
        raise FlopsFitError(f"--predicted: not valid JSON ({error})") from None
    check_section("confirm", predicted)
    if predicted is None:
        raise FlopsFitError("--predicted: null; allowed: the config's confirm")
    told = compare(records[0], predicted, args.name)
    write_json(args.out, told)
    write_atomic(args.table, confirmation_table(told))
    print(f"wrote {args.out}: {outcome_words(told)}")
