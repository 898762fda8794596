"""From a config to a plan: every experiment with its id, counted on the meta device.

This is the only planning step that needs torch, so the workflow runs it once, in a separate process,
and keeps its outcome: one plan file, and one spec per experiment, which its job reads.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.config.load import load_config
from flops_fit.data import Data, as_data, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call, load_loss
from flops_fit.experiment.identity import (
    data_folder,
    plan_fingerprint,
    plan_key,
    recipe_of,
    shared_recipe,
)
from flops_fit.experiment.options import Resources
from flops_fit.experiment.places import check_file, hashes_file, plan_file, spec_file
from flops_fit.experiment.plan import Plan, PlannedData
from flops_fit.experiment.recipe import SharedRecipe
from flops_fit.experiment.spec import Spec
from flops_fit.experiment.used import changed_late, named_uses, seen_uses, users_files, write_seen
from flops_fit.files import write_json
from flops_fit.plan.costs import Costs
from flops_fit.plan.counting import ratio_warnings
from flops_fit.plan.items import Items, kept_sample, known_amount, measure_items, stated_items
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plan.rules import make_rule
from flops_fit.plan.trial import optimizer_has_modes, try_plugins
from flops_fit.plan.window import window_sizes
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.resolve import add_search_paths, check_arguments, resolve
from flops_fit.plugins.uses import Uses, uses_identity
from flops_fit.plugins.watch import Watch, not_followed, watching
from flops_fit.sweep import SIX_ND, ModelCount, SweepPlan, flops_per_token, plan_sweep


def make_plan(
    config: dict[str, Any], results: str | Path, search_paths: Iterable[str]
) -> SweepPlan:
    """Plan ``config``, check its plug-ins, and write the plan file and the specs below ``results``.

    Plug-ins and data are looked for below ``search_paths``. Raises `FlopsFitError` naming the key for
    any plug-in that breaks its contract, and when no cell of the grid can be trained.
    """
    search_paths = list(search_paths)
    add_search_paths(search_paths)
    hashes = FileHashes(hashes_file(results))
    shared = shared_recipe(config, search_paths, hashes)
    start = [*sys.path]  # plug-ins may add to it, and would then be looked for under other names
    with watching(search_paths, [results]) as watch:
        grid, counts, costs = _count(config)
        smallest = min(counts, key=lambda size: counts[size].params_total)
        try_plugins(config, smallest, counts[smallest], costs.example)
    sys.path[:] = start
    shared, fingerprint, uses = _identified(config, shared, watch, search_paths, results, hashes)
    hashes.save()

    if optimizer_has_modes(config, smallest):
        shared = replace(shared, optimizer=replace(shared.optimizer, modes="train, eval"))
    if costs.draws_when_evaluated():  # the same draws for every run, which they were not always
        shared = replace(shared, draws_when_evaluated="fixed")
    grid_plan = plan_sweep(
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
        name=lambda experiment: recipe_of(shared, experiment).experiment_id,
        in_batch=costs.in_batch,
        ignored=costs.items.ignored,
    )
    if not grid_plan.experiments:
        raise FlopsFitError(
            f"budgets: no cell of the grid can be trained; the first: {grid_plan.skipped[0].reason}; "
            f"{PLAN_HINT}"
        )
    _check_processes(grid_plan, config["resources"]["processes"])
    warnings = _warnings(config, counts, costs) + not_followed(
        users_files(config, uses, search_paths), watch
    )
    grid_plan = replace(grid_plan, warnings=warnings)
    specs = _specs(grid_plan, config, shared, uses, search_paths, results)
    _write(grid_plan, specs, config, fingerprint, costs.items, results)
    return grid_plan


def _warnings(config: dict[str, Any], counts: dict[Any, ModelCount], costs: Costs) -> list[str]:
    """Sentences on how the sizes were counted, each once."""
    warnings = list(dict.fromkeys(w for count in counts.values() for w in count.warnings))
    if config["convention"] == SIX_ND:
        warnings += ratio_warnings(counts, config["model"]["size_param"])
    return warnings + costs.warnings()


def _count(config: dict[str, Any]) -> tuple[dict[float, list], dict[Any, ModelCount], Costs]:
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
    return grid, costs.of(sorted({size for sizes in grid.values() for size in sizes})), costs


def _identified(
    config: dict[str, Any],
    shared: SharedRecipe,
    watch: Watch,
    search_paths: list[str],
    results: str | Path,
    hashes: FileHashes,
) -> tuple[SharedRecipe, str, Uses]:
    """The recipe that all experiments share, the plan's fingerprint, and what plug-ins use."""
    named = named_uses(config, search_paths)
    known = replace(shared, uses=uses_identity(named, hashes))
    key = plan_key(config, known, search_paths, hashes)
    seen = seen_uses(watch, config, search_paths)
    write_seen(results, key, seen)
    uses = named | seen | changed_late(results, config, hashes)
    hashed = uses_identity(uses, hashes)
    return replace(shared, uses=hashed), plan_fingerprint(key, hashed), uses


def model_costs(config: dict[str, Any]) -> Costs:
    """What the sizes of the model of ``config`` cost on its data, as far as these exist already."""
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


def plan_data(dataset: dict[str, Any]) -> Data | None:
    """The data of the config's section ``dataset``; None where an example stands for them."""
    if dataset["example"] is not None:
        return None
    factory = resolve(dataset["factory"])
    check_arguments(factory, dataset["factory"], dataset["kwargs"], "dataset.kwargs")
    made = call(factory, dataset["factory"], dataset["kwargs"])
    return kept_sample(as_data(made, dataset["factory"]))


def _check_prepare(dataset: dict[str, Any]) -> None:
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


def _specs(
    grid_plan: SweepPlan,
    config: dict[str, Any],
    shared: SharedRecipe,
    uses: Uses,
    search_paths: list[str],
    results: str | Path,
) -> list[Spec]:
    """The spec of each experiment of the grid, in its order."""
    folder = data_folder(shared.dataset, results)
    check = str(check_file(results, shared.hash[:16]))
    return [
        Spec(
            recipe=recipe_of(shared, experiment),
            count=experiment.count,
            tokens_per_item=experiment.tokens_per_item,
            max_epochs=config["limits"]["max_epochs"],
            resources=Resources.from_dict(config["resources"]),
            data_dir=folder,
            check=check,
            uses=uses,
            search_paths=search_paths,
        )
        for experiment in grid_plan.experiments
    ]


def _write(
    grid_plan: SweepPlan,
    specs: list[Spec],
    config: dict[str, Any],
    fingerprint: str,
    items: Items,
    results: str | Path,
) -> None:
    """Write the specs, and the plan last."""
    for spec in specs:
        write_json(spec_file(results, spec.experiment_id), spec.to_dict())
    data = None
    if items.unique is not None:
        data = PlannedData(**known_amount(items), max_epochs=config["limits"]["max_epochs"])
    plan = Plan(
        fingerprint=fingerprint,
        convention=config["convention"],
        experiments=[
            replace(experiment, hash=spec.hash)
            for experiment, spec in zip(grid_plan.experiments, specs, strict=True)
        ],
        skipped=grid_plan.skipped,
        warnings=grid_plan.warnings,
        schedule=config["schedule"],
        precision=config["precision"],
        resources=specs[0].resources,
        data_dir=specs[0].data_dir,
        check=specs[0].check,
        data=data,
    )
    write_json(plan_file(results, fingerprint), plan.to_dict())


def example_item(config: dict[str, Any], data: Data | None) -> tuple[Any, Any]:
    """One ``(inputs, targets)`` item: the first of ``data``, else that of the example of ``config``.

    Raises `FlopsFitError` where the example is no pair.
    """
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


def sizes_by_budget(
    config: dict[str, Any], count: Callable[[Sequence], dict[Any, ModelCount]]
) -> dict[float, list]:
    """Size values by budget in FLOPs, from the section ``sizes`` of ``config``.

    ``count(sizes)`` gives the `ModelCount` of each size: a window of tokens per parameter needs it.
    """
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
    """Plan the config in a file; ``arguments`` are it, the folder of results, and search paths.

    Returns what is wrong with the config, or None.
    """
    path, results, *search_paths = arguments
    try:
        make_plan(load_config(path), results, search_paths)
    except FlopsFitError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
