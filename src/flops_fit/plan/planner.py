"""From a config to a plan: every experiment with its id, counted on the meta device.

This is the only planning step that needs torch, so the workflow runs it once, in a separate process,
and keeps its outcome: one plan file, and one spec per experiment, which its job reads.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.config.factors import tunes_rate
from flops_fit.config.load import load_config
from flops_fit.config.rules import RULES
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.identity import plan_fingerprint, plan_key
from flops_fit.experiment.kinds import Shared, kind_of
from flops_fit.experiment.options import Resources
from flops_fit.experiment.places import check_file, hashes_file, plan_file, problem_file, spec_file
from flops_fit.experiment.plan import Plan, PlannedData
from flops_fit.experiment.spec import Spec
from flops_fit.experiment.unfollowed import keep_conditions
from flops_fit.experiment.used import write_seen
from flops_fit.files import read_object, write_json
from flops_fit.plan.beyond import count_beyond
from flops_fit.plan.items import Items, known_amount
from flops_fit.plan.planning import Planning, planning_of, sizes_by_budget
from flops_fit.plan.price import PLAN_HINT
from flops_fit.plan.rules import make_rule, same_for_any_tokens
from flops_fit.plan.schedule import cooldown_start
from flops_fit.plan.trunks import branches_of, has_trunks
from flops_fit.plan.variants import not_tried, variants_of
from flops_fit.plugins.conditions import (
    PRECISION,
    Conditions,
    conditions_of,
    deciding_variables,
    noting_variables,
)
from flops_fit.plugins.data_files import FileHashes, find_path
from flops_fit.plugins.resolve import add_search_paths
from flops_fit.plugins.unseen import not_followed, variables_in
from flops_fit.plugins.uses import Uses, uses_identity
from flops_fit.plugins.watch import Watch, watching
from flops_fit.process import collect_rarely, leave
from flops_fit.sweep import COUNTED, Skipped, SweepPlan, plan_sweep

UNTUNED = (
    "as the config states it, never tuned for this model, which at small scale bends a law more than "
    "anything else"
)


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
    shared = kind_of(config).shared(config, search_paths, hashes)
    start = [*sys.path]  # plug-ins may add to it, and would then be looked for under other names
    with watching(search_paths, [results]) as watch, noting_variables() as variables:
        planning = planning_of(config)
        planning.check()
        grid = sizes_by_budget(config, planning.costs.of)
        counts = planning.costs.of(sorted({size for sizes in grid.values() for size in sizes}))
        smallest = min(counts, key=lambda size: counts[size].params_total)
        planning.try_out(smallest, counts[smallest])
    sys.path[:] = start
    shared, fingerprint, uses = _identified(config, shared, watch, search_paths, results, hashes)
    hashes.save()

    shared, costs = planning.refined(shared, smallest), planning.costs
    stated = [key for key in RULES if config[key] is not None]
    rules = {key: make_rule(key, config[key], tuple(search_paths)) for key in stated}
    not_probed: list[Skipped] = []
    if has_trunks(config):
        rules = {key: same_for_any_tokens(key, rule) for key, rule in rules.items()}
        if tunes_rate(config):
            grid, not_probed = _longest_ends(grid)
    grid_plan = plan_sweep(
        grid,
        counts,
        costs.items.tokens,
        seeds=config["seeds"],
        convention=config["convention"],
        batch_tokens=rules["batch"],
        learning_rate=rules["learning_rate"],
        weight_decay=rules.get("weight_decay"),
        variants=variants_of(config),
        batch_multiple=config["batch"].get("multiple", 1),
        batch_seen=config["batch"].get("seen"),
        min_steps=config["limits"]["min_steps"],
        name=lambda experiment: planning.recipe(shared, experiment).experiment_id,
        in_batch=costs.in_batch,
        ignored=costs.items.ignored,
    )
    if not grid_plan.experiments:
        raise FlopsFitError(
            f"budgets: no cell of the grid can be trained; the first: {grid_plan.skipped[0].reason}; "
            f"{PLAN_HINT}"
        )
    if "seen" in config["batch"] and costs.coupled:
        raise FlopsFitError(
            "batch.seen: the loss compares the items of a batch, so its value would change as the batch "
            "grows; allowed: a batch that does not grow"
        )
    grid_plan.skipped.extend(not_probed)
    _check_processes(grid_plan, config["resources"]["processes"])
    if has_trunks(config):
        _check_warmup(grid_plan, config["schedule"])
    unfollowed = _unfollowed(config, uses, watch, [*variables], search_paths)
    keep_conditions(results, shared.hash, unfollowed)
    warnings = [*planning.warnings(counts), *not_tried(config), *unfollowed.unfollowed]
    if read := [name for name in unfollowed.variables if name not in PRECISION]:
        warnings.append(
            f"the plug-ins read the environment variables {', '.join(read)}; runs with different values "
            "count as the same experiment"
        )
    beyond = []
    if config["convention"] == COUNTED:  # 6 N D needs no count
        beyond = count_beyond(costs, grid_plan.experiments)
    experiments = planning.with_memory(grid_plan.experiments)
    grid_plan = replace(grid_plan, experiments=experiments, warnings=warnings, beyond=beyond)
    specs = _specs(grid_plan, config, planning, shared, uses, search_paths, results)
    _write(grid_plan, specs, config, fingerprint, costs.items, results)
    return grid_plan


def _identified(
    config: dict[str, Any],
    shared: Shared,
    watch: Watch,
    search_paths: list[str],
    results: str | Path,
    hashes: FileHashes,
) -> tuple[Shared, str, Uses]:
    """The recipe that all experiments share, the plan's fingerprint, and what plug-ins use."""
    kind = kind_of(config)
    named = kind.named_uses(config, search_paths)
    known = replace(shared, uses=uses_identity(named, hashes))
    key = plan_key(config, known, search_paths, hashes, kind.planning(config, search_paths))
    seen = kind.seen_uses(watch, config, search_paths)
    write_seen(results, key, seen)
    late = kind.changed_late(results, config, hashes, search_paths)
    fingerprint = plan_fingerprint(key, uses_identity(named | seen | late, hashes))
    uses = named | seen | late if kind.decided_by_trial else named | late
    return replace(shared, uses=uses_identity(uses, hashes)), fingerprint, uses


def _unfollowed(
    config: Mapping[str, Any],
    uses: Uses,
    watch: Watch,
    variables: list[str],
    search_paths: list[str],
) -> Conditions:
    """What the user's code depends on that no identity follows; it was seen to read ``variables``."""
    kind = kind_of(config)
    code = kind.users_files(config, uses, search_paths)
    elsewhere = kind.read_elsewhere(watch, config, search_paths)
    sentences = not_followed(code, watch, elsewhere, kind.named_under)
    read = deciding_variables([*variables, *variables_in(code)])
    return conditions_of(code, watch, read, search_paths, sentences)


def _longest_ends(grid: Mapping[float, list]) -> tuple[dict[float, list], list[Skipped]]:
    """The sizes of the largest budget, and the other cells as skipped.

    One learning rate serves all ends of a trunk, so it is tuned where it matters most.
    """
    largest = max(grid)
    reason = "the learning rate of a trunk is tuned at the ends of the largest budget alone"
    others = [(budget, size) for budget in grid if budget != largest for size in grid[budget]]
    return {largest: grid[largest]}, [Skipped(*cell, reason) for cell in others]


def _check_warmup(plan: SweepPlan, schedule: Mapping[str, Any]) -> None:
    shortest = min(plan.experiments, key=lambda experiment: experiment.num_tokens)
    start = int(cooldown_start(shortest.num_tokens, schedule))
    if schedule["warmup_tokens"] >= start:
        raise FlopsFitError(
            f"schedule.warmup_tokens: {schedule['warmup_tokens']}, but the cooldown of "
            f"{shortest.experiment_id} begins after {start} tokens; allowed: fewer than {start}"
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
    planning: Planning,
    shared: Shared,
    uses: Uses,
    search_paths: list[str],
    results: str | Path,
) -> list[Spec]:
    """The spec of each experiment of the grid, in its order."""
    kind = kind_of(config)
    folder = kind.data_folder(shared, results, search_paths)
    launching = kind.launching(config, search_paths, planning.arguments)
    check = str(check_file(results, shared.hash[:16]))
    return [
        Spec(
            recipe=planning.recipe(shared, experiment),
            count=experiment.count,
            tokens_per_item=experiment.tokens_per_item,
            max_epochs=config["limits"]["max_epochs"],
            resources=Resources.from_dict(config["resources"]),
            data_dir=folder,
            check=check,
            uses=uses,
            search_paths=search_paths,
            launching=launching,
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
    branches = {}
    if has_trunks(config):
        trunks = [spec.recipe.trunk for spec in specs]
        branches = branches_of(grid_plan.experiments, trunks, config["schedule"])
    plan = Plan(
        fingerprint=fingerprint,
        convention=config["convention"],
        experiments=[
            replace(experiment, hash=spec.hash)
            for experiment, spec in zip(grid_plan.experiments, specs, strict=True)
        ],
        skipped=grid_plan.skipped,
        warnings=grid_plan.warnings,
        schedule=config.get("schedule", {}),
        precision=config.get("precision", "no"),
        resources=specs[0].resources,
        data_dir=specs[0].data_dir,
        check=specs[0].check,
        data=data,
        beyond=grid_plan.beyond,
        size_of=size_origin(config.get("model") or {}),
        rate_from=rate_origin(config, specs[0].search_paths),
        branches=branches,
    )
    write_json(plan_file(results, fingerprint), plan.to_dict())


def size_origin(model: Mapping[str, Any]) -> str:
    """Which argument of the section ``model`` of a config the sizes are values of; empty without one."""
    name = model.get("size_param")
    return f"{name}, an argument of {model['factory']}" if name else ""


def rate_origin(config: dict[str, Any], search_paths: Iterable[str] = ()) -> str:
    """Where the learning rates of ``config`` are from, as text.

    Untuned ones bend a law, and no interval shows it. A rule file is looked for below
    ``search_paths``.
    """
    if tunes_rate(config):
        return "tuned by this sweep"
    if "file" not in config["learning_rate"]:
        return UNTUNED
    file = config["learning_rate"]["file"]
    path = find_path(file, tuple(search_paths))
    rule = read_object(path) if path is not None else {}
    if not rule.get("misses"):
        return f"by the rule in {file}"
    return (
        f"by the rule in {file}, which contradicts {rule['misses']} of the {len(rule['cells'])} cells "
        "of its own sweep by more than a factor of 2; its notes name them"
    )


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
    collect_rarely()
    problem = main(sys.argv[1:])
    if problem is not None:
        problem_file(sys.argv[1]).write_text(problem)
    leave(int(problem is not None))
