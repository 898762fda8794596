"""From a config to what identifies its plan and experiments: hashes of sources, data and settings.

There is no torch here: a dry run needs these on every start.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flops_fit.experiment import places
from flops_fit.experiment.recipe import (
    DatasetPart,
    EvaluationPart,
    LossPart,
    MetricPart,
    ModelPart,
    OptimizerPart,
    PluginRecipe,
    SharedRecipe,
    data_files,
)
from flops_fit.experiment.script_recipe import ScriptShared
from flops_fit.files import canonical_hash
from flops_fit.plugins.code import import_closure, source_fingerprint
from flops_fit.plugins.data_files import FileHashes, file_arguments, source_identity
from flops_fit.sweep import Experiment


def shared_recipe(
    config: Mapping[str, Any], search_paths: Iterable[str], hashes: FileHashes
) -> SharedRecipe:
    """The part of the recipe that all experiments of the sweep of ``config`` share.

    Plug-ins, looked for below ``search_paths``, count with their reference, arguments and syntax
    tree; data count with the hash of their files, which ``hashes`` remembers, or with the version of
    their package.
    """
    paths = list(search_paths)
    model, dataset, loss, optimizer = (
        config[key] for key in ("model", "dataset", "loss", "optimizer")
    )
    prepare, arguments = dataset["prepare"], dataset["prepare_kwargs"]
    return SharedRecipe(
        model=ModelPart(**model, source=source_fingerprint(model["factory"], paths)),
        dataset=DatasetPart(
            factory=dataset["factory"],
            kwargs=dataset["kwargs"],
            source=source_fingerprint(dataset["factory"], paths),
            files=data_files(dataset["kwargs"], arguments, paths, hashes),
            prepare=prepare,
            prepare_kwargs=arguments,
            prepare_source=source_fingerprint(prepare, paths) if prepare else None,
            sources=[[s, source_identity(s, paths, hashes)] for s in dataset["sources"]],
        ),
        loss=LossPart(loss["function"], source_fingerprint(loss["function"], paths)),
        optimizer=OptimizerPart(
            **optimizer, source=source_fingerprint(optimizer["factory"], paths)
        ),
        schedule=config["schedule"],
        precision=config["precision"],
        deterministic=config["deterministic"],
        evaluation=EvaluationPart(**config["evaluation"]),
        metrics={
            name: _metric_part(metric, loss["function"], paths, hashes)
            for name, metric in config["metrics"].items()
        },
    )


def _metric_part(
    metric: Mapping[str, Any], loss: str, paths: list[str], hashes: FileHashes
) -> MetricPart:
    """What decides the value of a ``metric`` of a config, whose function is the ``loss`` by default."""
    function = metric.get("function") or loss
    source = source_fingerprint(function, paths)
    if metric["dataset"] is None:
        return MetricPart(function, source)
    factory, kwargs = metric["dataset"]["factory"], metric["dataset"]["kwargs"]
    files = file_arguments(kwargs, paths, hashes)
    return MetricPart(function, source, factory, kwargs, source_fingerprint(factory, paths), files)


def recipe_of(
    shared: SharedRecipe, experiment: Experiment, part_items: int | None = None
) -> PluginRecipe:
    """The recipe of one ``experiment`` of the sweep whose experiments have ``shared`` in common.

    ``part_items`` as in `PluginRecipe`.
    """
    return PluginRecipe(
        shared=shared,
        size=experiment.size_param_value,
        tokens=experiment.num_tokens,
        batch_items=experiment.batch_items,
        steps=experiment.steps,
        learning_rate=experiment.learning_rate,
        seed=experiment.seed,
        expected_items=experiment.expected_items,
        part_items=part_items,
        weight_decay=experiment.weight_decay,
        unique_fraction=experiment.unique_fraction,
        batch_growth=experiment.batch_growth,
    )


def data_folder(
    dataset: DatasetPart, results: str | Path, uses: Mapping[str, Mapping[str, str]]
) -> str | None:
    """Where the prepared data of ``dataset`` lie below ``results``, named by what determines them.

    ``uses`` are the hashes of what the preparation uses beyond its package. None where nothing is
    prepared.
    """
    if dataset.prepare is None:
        return None
    keys = ("prepare", "prepare_kwargs", "prepare_source", "sources", "files")
    deciding = {key: getattr(dataset, key) for key in keys}
    digest = canonical_hash(deciding | ({"uses": uses} if uses else {}))[:12]
    name = dataset.prepare.split(":")[0].rsplit(".", 1)[-1]
    return str(places.data_folder(results, f"{name}-{digest}"))


def plan_key(
    config: Mapping[str, Any],
    shared: SharedRecipe | ScriptShared,
    search_paths: Iterable[str],
    hashes: FileHashes,
    of_kind: tuple[dict[str, Any], list[str]],
) -> str:
    """Hash of all that determines the outcome of planning ``config`` and is known without running it.

    ``shared``: the recipe that its experiments share, with the ``uses`` that are known so;
    ``search_paths``: where plug-ins are looked for; ``hashes``: the hashes of files that are known;
    ``of_kind``: settings and import paths that only this kind of trainer has.
    """
    paths = list(search_paths)
    keys = (
        "budgets",
        "seeds",
        "convention",
        "batch",
        "learning_rate",
        "learning_rate_factors",
        "limits",
        "resources",
    )
    rules = ["batch", "learning_rate", *(["weight_decay"] if config["weight_decay"] else [])]
    references = [config[key]["function"] for key in rules if "function" in config[key]]
    settings, more = of_kind
    references += more
    files = {key: file_arguments(config[key], paths, hashes) for key in rules}
    varied = ("batch_factors", "weight_decay", "weight_decay_factors", "rate_design")
    settings = settings | {key: config[key] for key in varied}
    return canonical_hash(
        {
            "common": shared.to_dict(),
            "sizes": _plain(config["sizes"]),
            "settings": {key: config[key] for key in keys} | settings,
            "references": {r: source_fingerprint(r, paths) for r in references},
            "files": files,
            "search_paths": paths,
            "planner": import_closure("flops_fit.plan.planner"),
        }
    )


def plan_fingerprint(key: str, uses: Mapping[str, Any]) -> str:
    """Hash of all that determines a plan.

    ``key`` is its `plan_key`; ``uses`` are the hashes of all that its plug-ins use.
    """
    return canonical_hash([key, uses])


def _plain(sizes: Mapping[str, Any]) -> Mapping[str, Any]:
    if "per_budget" not in sizes:
        return sizes
    return {"per_budget": {repr(float(k)): v for k, v in sizes["per_budget"].items()}}
