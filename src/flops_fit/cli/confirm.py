"""``flops-fit confirm``: write down a prediction and the config of the run that tests it."""

import argparse
from typing import TYPE_CHECKING, Any

from flops_fit.cli.arguments import add_json, add_places, print_json, run_command, texts_aside
from flops_fit.cli.at_work import at_work

if TYPE_CHECKING:
    from flops_fit.experiment.plan import Plan
    from flops_fit.sweep import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``confirm`` to argparse."""
    parser.description = (
        "Predict the loss of one run at the optimum and write the config that trains it."
    )
    parser.epilog = (
        "example:\n  flops-fit confirm --fit results/demo/fit.json --config config/config.yaml "
        "--flops 2.43e12"
    )
    add = parser.add_argument
    add("--fit", required=True, help="the fit of the sweep, as written by flops-fit fit")
    add("--config", required=True, help="the sweep's config file")
    add("--flops", type=float, required=True, help="compute budget of the run, in FLOPs")
    add("--force", action="store_true", help="predict even if the fit is not identifiable")
    add("--name", help="name of the new sweep (default: NAME-confirm-FLOPS)")
    add("--out", help="output: its config (default: config/NAME.yaml)")
    add_places(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Predict the loss, write the config of the run, print both."""
    with at_work(args, "planning and predicting the run"):
        prediction, lines = _confirm(args)
    with texts_aside(args):
        print("\n".join(lines))
    if args.json:
        print_json(prediction)


def _confirm(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Write the config; returns the prediction as plain data, and what to say of it."""
    from pathlib import Path

    import yaml

    from flops_fit.cli.fitted import insist
    from flops_fit.config.complete import complete_config
    from flops_fit.experiment.places import run_folder
    from flops_fit.files import canonical_hash, write_atomic
    from flops_fit.fit.numbers import check_flops
    from flops_fit.fit.prediction import optimum_at, predict
    from flops_fit.fit.result import read_fit
    from flops_fit.notation import count_text, flops_text, loss_text
    from flops_fit.plan.cache import plan_config, search_paths
    from flops_fit.rounds.confirm import check_measure, predicted_loss
    from flops_fit.rounds.grid import grid_config, planned_grid
    from flops_fit.rounds.next import config_text, number
    from flops_fit.store.records import RECORD
    from flops_fit.sweep import n_key, seeds_at

    config, fit = grid_config(args.config), read_fit(args.fit)
    insist(fit, args)
    check_measure(fit, args.fit)
    verdict = predict(fit, args.flops).verdict
    answer = optimum_at(fit, check_flops(args.flops))
    paths = search_paths(args.search_path)
    plan, grid = planned_grid(config, fit, args.results, paths)
    size = grid.nearest(answer.params)
    flops = number(args.flops)
    name = args.name or f"{config['name']}-confirm-{flops}"
    raw = yaml.safe_load(Path(args.config).read_text())
    new = {
        **raw,
        "name": name,
        "budgets": [flops],
        "seeds": list(seeds_at(config["seeds"], args.flops))[:1],
        "sizes": {"per_budget": {flops: [number(size)]}},
    }
    (experiment,) = plan_config(complete_config(new), args.results, paths).experiments
    _check_new(args, experiment, plan)
    params = getattr(experiment.count, n_key(config["convention"], config["fit"]["params"]))
    predicted = predicted_loss(fit, params, experiment.num_tokens)
    trained = (run_folder(args.results, experiment.experiment_id) / RECORD).exists()
    new["confirm"] = {
        "sweep": config["name"],
        "fit": canonical_hash(fit.to_dict())[:16],
        "params": params,
        "tokens": experiment.num_tokens,
        **predicted,
        "blind": not trained,
    }
    complete_config(new)
    out = Path(args.out or f"config/{name}.yaml")
    head = [
        f"Made by `flops-fit confirm` from {args.config} and {args.fit}. Do not edit the prediction.",
        f"N* at {flops_text(args.flops)} FLOPs: {count_text(answer.params)} ({verdict}).",
    ]
    write_atomic(out, config_text(new, head))
    size_text = f"size {size}: N {count_text(experiment.count.params)}"
    lines = [
        *(
            ["note: this run was already trained, so the prediction is not blind"]
            if trained
            else []
        ),
        f"{size_text} (N* {count_text(answer.params)}), D {count_text(experiment.num_tokens)}; "
        f"predicted loss {loss_text(predicted['loss'])}{_range_of(predicted)}",
        f"wrote {out}; run it with: {run_command(out)}",
    ]
    prediction = {
        "config": str(out),
        "experiment_id": experiment.experiment_id,
        "flops": args.flops,
        "size": size,
        "verdict": verdict,
        **new["confirm"],
    }
    return prediction, lines


def _check_new(args: argparse.Namespace, experiment: "Experiment", plan: "Plan") -> None:
    """Refuse an ``experiment`` of the ``plan`` that was fitted."""
    from flops_fit.errors import FlopsFitError

    if experiment.experiment_id in {known.experiment_id for known in plan.experiments}:
        raise FlopsFitError(
            f"--flops: {args.flops:g}; the fit already contains its run {experiment.experiment_id}; "
            "allowed: a budget that is not in the sweep"
        )


def _range_of(predicted: dict[str, Any]) -> str:
    """The interval for one run as text; empty where there is none."""
    from flops_fit.notation import loss_text

    if predicted["run"] is None:
        return ""
    low, high = map(loss_text, predicted["run"])
    return f", {100 * predicted['level']:.0f}% interval for one run {low} to {high}"
