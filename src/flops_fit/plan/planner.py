"""From a config to a plan: every experiment with its id, counted on the meta device.

This is the only planning step that needs torch, so the workflow runs it once, in a process of its
own, and keeps its outcome: one plan file, and one spec per experiment from which its job reads.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from flops_fit.config.load import load_config
from flops_fit.data import as_data, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call, load_loss
from flops_fit.experiment.exact import target_elements
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
from flops_fit.experiment.used import (
    changed_late,
    named_uses,
    seen_uses,
    users_files,
    write_seen,
)
from flops_fit.files import canonical_hash, write_json
from flops_fit.model_factory import call_model, create_model, create_on_meta
from flops_fit.optimizer import as_one_optimizer, has_modes
from flops_fit.plan.counting import ModelCount, count_sizes
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plan.rules import make_rule
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.resolve import add_search_paths, check_arguments, resolve
from flops_fit.plugins.uses import Uses, uses_identity
from flops_fit.plugins.watch import Watch, not_followed, watching
from flops_fit.sweep import SweepPlan, flops_per_token, plan_sweep, window_sizes

MOST_TRIED_PARAMS = 20_000_000  # a larger smallest model is not built before it is trained


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
        grid, counts, tokens_per_item = _count(config)
        smallest = min(counts, key=lambda size: counts[size].params_total)
        try_plugins(config, smallest, counts)
    sys.path[:] = start
    common, fingerprint, uses = _identified(config, common, watch, search_paths, results, hashes)
    hashes.save()

    if optimizer_has_modes(config, smallest):
        common = {**common, "optimizer": {**common["optimizer"], "modes": "train, eval"}}
    plan = plan_sweep(
        grid,
        counts,
        tokens_per_item,
        seeds=config["seeds"],
        convention=config["convention"],
        batch_tokens=make_rule("batch", config["batch"], tuple(search_paths)),
        learning_rate=make_rule("learning_rate", config["learning_rate"], tuple(search_paths)),
        rate_factors=config["learning_rate_factors"],
        batch_multiple=config["batch"].get("multiple", 1),
        min_steps=config["limits"]["min_steps"],
        name=lambda fields: experiment_id(experiment_identity(common, fields)),
    )
    if not plan.experiments:
        raise FlopsFitError(
            f"budgets: no cell of the grid can be trained; the first: {plan.skipped[0].reason}; "
            f"{PLAN_HINT}"
        )
    _check_processes(plan, config["resources"]["processes"])
    warnings = list(dict.fromkeys(w for c in counts.values() for w in c.warnings))
    warnings += not_followed(users_files(config, uses, search_paths), watch)
    plan = SweepPlan(plan.experiments, plan.skipped, warnings)
    _write(plan, config, common, fingerprint, uses, search_paths, results)
    return plan


def _count(config: dict) -> tuple[dict[float, list], dict[Any, ModelCount], int]:
    """The grid of sizes, what each size holds and costs, and the tokens of an item."""
    count, tokens_per_item = size_counter(config)
    optimizer = config["optimizer"]
    check_arguments(
        resolve(optimizer["factory"]), optimizer["factory"], optimizer["kwargs"],
        "optimizer.kwargs", positional=2,
    )  # fmt: skip
    _check_prepare(config["dataset"])
    _check_tracker(config["resources"]["log_with"])
    grid = sizes_by_budget(config, count)
    wanted = sorted({size for sizes in grid.values() for size in sizes})
    return grid, count(wanted), tokens_per_item


def try_plugins(config: dict, size: Any, counts: dict[Any, ModelCount]) -> None:
    """Build the smallest model and its optimiser on the CPU, to see what they import and open.

    Whatever fails here is for the check to name, which runs before any training.
    """
    if counts[size].params_total > MOST_TRIED_PARAMS:
        return
    model_config, optimizer = config["model"], config["optimizer"]
    with contextlib.suppress(Exception):
        factory = resolve(model_config["factory"])
        model = create_model(factory, model_config["size_param"], size, model_config["kwargs"])
        resolve(optimizer["factory"])(model, 1e-3, **optimizer["kwargs"])
        inputs, targets = default_collate([example_item(config)] * 2)
        load_loss(config["loss"]["function"])(call_model(model, inputs), targets).backward()


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


def size_counter(config: dict) -> tuple[Callable[[list], dict[Any, ModelCount]], int]:
    """``count(sizes) -> {size: ModelCount}`` for the config's model, and the tokens of one item."""
    loss_fn = load_loss(config["loss"]["function"])
    example = example_item(config)
    tokens_per_item = target_elements(example[1], loss_fn)
    model_cls = resolve(config["model"]["factory"])
    kwargs, size_param = config["model"]["kwargs"], config["model"]["size_param"]
    check_arguments(
        model_cls, config["model"]["factory"], kwargs, "model.kwargs", supplied=(size_param,)
    )

    def count(sizes: list) -> dict[Any, ModelCount]:
        return count_sizes(model_cls, size_param, sizes, kwargs, example, loss_fn, tokens_per_item)

    return count, tokens_per_item


def optimizer_has_modes(config: dict, size: Any) -> bool:
    """Whether the optimiser is switched between training and evaluation (schedule-free ones are).

    Such runs were once evaluated on other weights, so this is part of what they are.
    """
    model, optimizer = config["model"], config["optimizer"]
    make = resolve(optimizer["factory"])
    for create in (create_on_meta, create_model):
        try:
            built = create(resolve(model["factory"]), model["size_param"], size, model["kwargs"])
            made = make(built, 1e-3, **optimizer["kwargs"])
            return has_modes(as_one_optimizer(made))
        except Exception:  # the check of the inputs says what is wrong with it
            continue
    return False


def _check_prepare(dataset: dict) -> None:
    if dataset["prepare"] is not None:
        check_arguments(
            resolve(dataset["prepare"]), dataset["prepare"], dataset["prepare_kwargs"],
            "dataset.prepare_kwargs", supplied=("directory", "sources"),
        )  # fmt: skip


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


def _write(plan, config, common, fingerprint, uses, search_paths, results) -> None:
    folder = data_folder(common, results)
    check = str(check_file(results, canonical_hash(common)[:16]))
    rows = []
    for experiment in plan.experiments:
        identity = experiment_identity(common, vars(experiment))
        spec = {
            "experiment_id": experiment.experiment_id,
            "hash": canonical_hash(identity),
            "identity": identity,
            "counts": {
                key: getattr(experiment, key)
                for key in ("num_params", "params", "params_nonembedding", "params_total",
                            "flops_per_token", "count_method", "tokens_per_item",
                            "activation_bytes")
            },
            "max_epochs": config["limits"]["max_epochs"],
            "resources": config["resources"],
            "data_dir": folder,
            "check": check,
            "uses": uses.to_dict(),
            "search_paths": search_paths,
        }  # fmt: skip
        write_json(spec_file(results, experiment.experiment_id), spec)
        rows.append({**vars(experiment), "hash": spec["hash"], "flops_6nd": experiment.flops_6nd,
                     "flops_counted": experiment.flops_counted})  # fmt: skip
    value = {
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
    write_json(plan_file(results, fingerprint), value)


def example_item(config: dict) -> tuple[Any, Any]:
    """One ``(inputs, targets)`` item: from ``dataset.example``, else the dataset's first."""
    dataset = config["dataset"]
    if dataset["example"] is None:
        factory = resolve(dataset["factory"])
        check_arguments(factory, dataset["factory"], dataset["kwargs"], "dataset.kwargs")
        return first_item(as_data(call(factory, dataset["factory"], dataset["kwargs"]),
                                  dataset["factory"]))  # fmt: skip
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
