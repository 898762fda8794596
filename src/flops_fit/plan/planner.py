"""From a config to a plan: every experiment with its id, counted on the meta device.

This is the only planning step that needs torch, so the workflow runs it once, in a process of its
own, and keeps its outcome: one plan file, and one spec per experiment from which its job reads.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flops_fit.config.load import load_config
from flops_fit.data import Data, as_data, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call, load_loss
from flops_fit.experiment.identity import (
    common_identity,
    data_folder,
    experiment_id,
    experiment_identity,
    plan_fingerprint,
    plan_key,
    with_uses,
)
from flops_fit.experiment.places import check_file, hashes_file, plan_file, spec_file
from flops_fit.experiment.used import changed_late, named_uses, seen_uses, users_files, write_seen
from flops_fit.files import FORMAT, canonical_hash, write_json
from flops_fit.plan.costs import Costs
from flops_fit.plan.counting import ratio_warnings
from flops_fit.plan.items import Items, kept_sample, known_amount, measure_items, stated_items
from flops_fit.plan.one_pass import ModelCount
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plan.rules import make_rule
from flops_fit.plan.trial import optimizer_has_modes, try_plugins
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.resolve import add_search_paths, check_arguments, resolve
from flops_fit.plugins.uses import Uses, uses_identity
from flops_fit.plugins.watch import Watch, not_followed, watching
from flops_fit.sweep import SIX_ND, SweepPlan, flops_per_token, plan_sweep, window_sizes


def make_plan(config: dict, results: str | Path, search_paths: Iterable[str]) -> SweepPlan:
    """Plan ``config``, check its plug-ins, and write the plan file and the specs.

    Raises `FlopsFitError` naming the key for any plug-in that breaks its contract, and when no
    cell of the grid can be trained.
    """
    search_paths = list(search_paths)
    add_search_paths(search_paths)
    hashes = FileHashes(hashes_file(results))
    common = common_identity(config, search_paths, hashes)
    start = [*sys.path]  # plug-ins may add to it, and would then be found under other names
    with watching(search_paths, [results]) as watch:
        grid, counts, costs = _count(config)
        smallest = min(counts, key=lambda size: counts[size].params_total)
        try_plugins(config, smallest, counts[smallest], costs.example)
    sys.path[:] = start
    common, fingerprint, uses = _identified(config, common, watch, search_paths, results, hashes)
    hashes.save()

    if optimizer_has_modes(config, smallest):
        common = {**common, "optimizer": {**common["optimizer"], "modes": "train, eval"}}
    if costs.draws_when_evaluated():  # the same draws for every run, which they were not always
        common = {**common, "draws_when_evaluated": "fixed"}
    plan = plan_sweep(
        grid,
        counts,
        costs.items.tokens,
        seeds=config["seeds"],
        convention=config["convention"],
        batch_tokens=make_rule("batch", config["batch"], tuple(search_paths)),
        learning_rate=make_rule("learning_rate", config["learning_rate"], tuple(search_paths)),
        rate_factors=config["learning_rate_factors"],
        batch_multiple=config["batch"].get("multiple", 1),
        min_steps=config["limits"]["min_steps"],
        name=lambda fields: experiment_id(experiment_identity(common, fields)),
        in_batch=costs.in_batch,
        ignored=costs.items.ignored,
    )
    if not plan.experiments:
        raise FlopsFitError(
            f"budgets: no cell of the grid can be trained; the first: {plan.skipped[0].reason}; "
            f"{PLAN_HINT}"
        )
    _check_processes(plan, config["resources"]["processes"])
    warnings = list(dict.fromkeys(w for c in counts.values() for w in c.warnings))
    if config["convention"] == SIX_ND:
        warnings += ratio_warnings(counts, config["model"]["size_param"])
    warnings += costs.warnings()
    warnings += not_followed(users_files(config, uses, search_paths), watch)
    plan = SweepPlan(plan.experiments, plan.skipped, warnings)
    _write(plan, config, common, fingerprint, uses, search_paths, results, costs.items)
    return plan


def _count(config: dict) -> tuple[dict[float, list], dict[Any, ModelCount], Costs]:
    """The grid of sizes, what each size holds and costs, and what costs are counted with."""
    costs = model_costs(config)
    optimizer = config["optimizer"]
    check_arguments(
        resolve(optimizer["factory"]),
        optimizer["factory"],
        optimizer["kwargs"],
        "optimizer.kwargs",
        positional=2,
    )
    _check_prepare(config["dataset"])
    _check_tracker(config["resources"]["log_with"])
    grid = sizes_by_budget(config, costs.of)
    wanted = sorted({size for sizes in grid.values() for size in sizes})
    return grid, costs.of(wanted), costs


def _identified(
    config: dict, common: dict, watch: Watch, search_paths: list[str], results, hashes: FileHashes
) -> tuple[dict, str, Uses]:
    """The identity that all experiments share, the plan's fingerprint, and what plug-ins use."""
    named = named_uses(config, search_paths)
    key = plan_key(config, common, uses_identity(named, hashes), search_paths, hashes)
    seen = seen_uses(watch, config, search_paths)
    write_seen(results, key, seen)
    uses = named | seen | changed_late(results, config, hashes)
    part = uses_identity(uses, hashes)
    return with_uses(common, part), plan_fingerprint(key, part), uses


def model_costs(config: dict) -> Costs:
    """What the sizes of the config's model cost on its data, as far as these are there already."""
    loss_fn = load_loss(config["loss"]["function"])
    data = plan_data(config["dataset"])
    example = example_item(config, data)
    model_cls = resolve(config["model"]["factory"])
    kwargs, size_param = config["model"]["kwargs"], config["model"]["size_param"]
    check_arguments(
        model_cls, config["model"]["factory"], kwargs, "model.kwargs", supplied=(size_param,)
    )
    if data is None or config["dataset"]["per_item"]:
        items = stated_items(config["dataset"]["per_item"] or {}, example, loss_fn)
    else:
        items = measure_items(data, loss_fn)
    return Costs(model_cls, size_param, kwargs, loss_fn, example, items, data)


def plan_data(dataset: dict) -> Data | None:
    """The data, where a plan may look at them: not where an example stands for them."""
    if dataset["example"] is not None:
        return None
    factory = resolve(dataset["factory"])
    check_arguments(factory, dataset["factory"], dataset["kwargs"], "dataset.kwargs")
    made = call(factory, dataset["factory"], dataset["kwargs"])
    return kept_sample(as_data(made, dataset["factory"]))


def _check_prepare(dataset: dict) -> None:
    if dataset["prepare"] is not None:
        check_arguments(
            resolve(dataset["prepare"]),
            dataset["prepare"],
            dataset["prepare_kwargs"],
            "dataset.prepare_kwargs",
            supplied=("directory", "sources"),
        )


def _check_tracker(name: str | None) -> None:
    from accelerate.tracking import get_available_trackers

    allowed = sorted(map(str, get_available_trackers()))
    if name is not None and name not in allowed:
        raise FlopsFitError(
            f"resources.log_with: {name!r} is not installed here, or no tracker of accelerate; "
            f"allowed: {', '.join(allowed) or 'null'}"
        )


def _check_processes(plan: SweepPlan, processes: int) -> None:
    fewest = min(experiment.batch_items for experiment in plan.experiments)
    if processes > fewest:
        raise FlopsFitError(
            f"resources.processes: {processes}, more than the {fewest} items of the smallest global "
            f"batch; allowed: at most {fewest}"
        )


def _write(plan, config, common, fingerprint, uses, search_paths, results, items: Items) -> None:
    folder = data_folder(common, results)
    check = str(check_file(results, canonical_hash(common)[:16]))
    rows = []
    for experiment in plan.experiments:
        fields = experiment.fields()
        identity = experiment_identity(common, fields)
        spec = {
            "format": FORMAT,
            "experiment_id": experiment.experiment_id,
            "hash": canonical_hash(identity),
            "identity": identity,
            "counts": {
                key: fields[key]
                for key in (
                    "num_params",
                    "params",
                    "params_nonembedding",
                    "params_total",
                    "flops_per_token",
                    "count_method",
                    "tokens_per_item",
                    "activation_bytes",
                    "flops_per_position",
                )
                if key in fields
            },
            "max_epochs": config["limits"]["max_epochs"],
            "resources": config["resources"],
            "data_dir": folder,
            "check": check,
            "uses": uses.to_dict(),
            "search_paths": search_paths,
        }
        write_json(spec_file(results, experiment.experiment_id), spec)
        rows.append(
            {
                **fields,
                "hash": spec["hash"],
                "flops_6nd": experiment.flops_6nd,
                "flops_counted": experiment.flops_counted,
            }
        )
    value = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "convention": config["convention"],
        "schedule": config["schedule"],
        "precision": config["precision"],
        "resources": config["resources"],
        "data_dir": folder,
        "check": check,
        "experiments": rows,
        "skipped": [vars(cell) for cell in plan.skipped],
        "warnings": plan.warnings,
    }
    if items.unique is not None:
        value["data"] = known_amount(items) | {"max_epochs": config["limits"]["max_epochs"]}
    write_json(plan_file(results, fingerprint), value)


def example_item(config: dict, data: Data | None) -> tuple[Any, Any]:
    """One ``(inputs, targets)`` item: from ``dataset.example``, else the first of ``data``."""
    dataset = config["dataset"]
    if data is not None:
        return first_item(data)
    make = resolve(dataset["example"])
    check_arguments(make, dataset["example"], dataset["kwargs"], "dataset.kwargs")
    item = call(make, dataset["example"], dataset["kwargs"])
    if not isinstance(item, tuple) or len(item) != 2:
        raise FlopsFitError(
            f"dataset.example: {dataset['example']} returned {type(item).__name__}; "
            "allowed: a pair (inputs, targets)"
        )
    return item


def sizes_by_budget(config: dict, count) -> dict[float, list]:
    """Size values by budget from whichever of values, per_budget and window the config gives."""
    sizes, budgets = config["sizes"], sorted(config["budgets"])
    if "values" in sizes:
        return {budget: list(sizes["values"]) for budget in budgets}
    if "per_budget" in sizes:
        return {budget: list(sizes["per_budget"][budget]) for budget in budgets}
    known: dict[int, tuple[float, int]] = {}

    def flops_and_params(size: int) -> tuple[float, int]:
        if size not in known:
            counted = count([size])[size]
            known[size] = flops_per_token(counted, config["convention"]), counted.params
        return known[size]

    window = config["sizes"]["window"]
    return {budget: window_sizes(budget, flops_and_params, **window) for budget in budgets}


def main(arguments: list[str]) -> str | None:
    """Plan the config of the file ``arguments[0]``; returns what is wrong with it, if anything."""
    path, results, *search_paths = arguments
    try:
        make_plan(load_config(path), results, search_paths)
    except FlopsFitError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
