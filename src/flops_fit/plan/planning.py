"""How each kind of trainer is planned: what its sizes cost, and what a recipe needs to know."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from flops_fit.data import Data, as_data, first_item
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call, load_loss, make_seeded
from flops_fit.experiment.identity import recipe_of
from flops_fit.experiment.kinds import script_recipe
from flops_fit.experiment.options import Resources, part_of_batch
from flops_fit.experiment.recipe import PluginRecipe, Recipe, SharedRecipe, recipe_kind
from flops_fit.experiment.script_config import line_of
from flops_fit.experiment.script_recipe import ScriptRecipe, ScriptShared
from flops_fit.plan.costs import Costs
from flops_fit.plan.counting import count_warnings
from flops_fit.plan.items import kept_sample, measure_items, stated_items
from flops_fit.plan.peak_memory import Manner, with_memory
from flops_fit.plan.script_costs import ScriptCosts, script_costs, size_arguments
from flops_fit.plan.trial import Behaviour, behaviour_of, try_plugins
from flops_fit.plan.window import window_sizes
from flops_fit.plugins.resolve import check_arguments, resolve
from flops_fit.sweep import Experiment, ModelCount, flops_per_token

PLANNED_ALONE = (
    "without a trainer nothing is trained here: train these runs, write their losses into plan.csv "
    "as a column loss, and fit it with flops-fit fit --runs plan.csv"
)


class Planning(Protocol):
    """What planning needs to know of one kind of trainer.

    ``costs`` counts sizes. ``arguments`` are the names of a model's dials.
    """

    costs: Any
    arguments: Iterable[str]

    def check(self) -> None:
        """Check what can be checked before anything is counted."""

    def try_out(self, size: Any, count: ModelCount) -> None:
        """Run the user's code once at ``size``, of ``count``, to see what it uses."""

    def refined(self, shared: Any, size: Any) -> Any:
        """The recipe ``shared`` by all, with what is only known once the code at ``size`` has run."""

    def recipe(self, shared: Any, experiment: Experiment) -> Recipe:
        """The recipe of ``experiment``, which has ``shared`` in common with the others."""

    def with_memory(self, experiments: list[Experiment]) -> list[Experiment]:
        """The ``experiments`` with the memory that their models take in training."""

    def warnings(self, counts: Mapping[Any, ModelCount]) -> list[str]:
        """Sentences on how the sizes of ``counts`` were counted, each once."""


class PluginPlanning:
    """The planning of a ``config`` whose model, data, loss and optimiser our trainer trains."""

    arguments: Iterable[str] = ()

    def __init__(self, config: dict[str, Any]):
        self.config, self.costs = config, plugin_costs(config)
        self.resources = Resources.from_dict(config["resources"])
        self.behaviour = Behaviour()

    def check(self) -> None:
        """Check the arguments of plug-ins that counting does not call, and the tracker."""
        optimizer = self.config["optimizer"]
        factory = optimizer["factory"]
        check_arguments(
            resolve(factory),
            factory,
            optimizer["kwargs"],
            "optimizer.kwargs",
            positional=2,
            supplied=() if self.config["weight_decay"] is None else ("weight_decay",),
        )
        _check_prepare(self.config["dataset"])
        _check_tracker(self.config["resources"]["log_with"])

    def try_out(self, size: Any, count: ModelCount) -> None:
        """Train one step at ``size``, of ``count``, to see what the plug-ins import and open."""
        try_plugins(self.config, size, count, self.costs.example)

    def refined(self, shared: SharedRecipe, size: Any) -> SharedRecipe:
        """``shared`` with how the optimiser and the evaluation behave at ``size``."""
        self.behaviour = behaviour_of(self.config, size)
        if self.behaviour.modes:
            shared = replace(shared, optimizer=replace(shared.optimizer, modes="train, eval"))
        # Every run evaluates with the same draws, which was not always so
        if self.costs.draws_when_evaluated():
            shared = replace(shared, draws_when_evaluated="fixed")
        if self.costs.data is not None and self.costs.data.drawn:  # once different in each run
            shared = replace(shared, data_drawn="seeded")
        return shared

    def recipe(self, shared: SharedRecipe, experiment: Experiment) -> Recipe:
        """The recipe of ``experiment``, which has ``shared`` in common with the others.

        Raises `FlopsFitError` where a batch that grows would be split under batch norm.
        """
        part, given = None, self.resources
        if self.behaviour.norms:
            batch = experiment.batches.last
            part = part_of_batch(batch, given.processes, given.micro_batch_items)
            if part is not None and experiment.batch_growth:
                raise FlopsFitError(
                    f"batch.seen: {', '.join(self.behaviour.norms)} normalises over the items that "
                    "pass the model together, which a growing batch may not be split into; allowed: "
                    "resources.processes: 1 without micro_batch_items, or a batch that does not grow"
                )
        return recipe_of(shared, experiment, part)

    def with_memory(self, experiments: list[Experiment]) -> list[Experiment]:
        """The ``experiments`` with the memory that their models take, trained as the config says."""
        given = self.resources
        manner = Manner(self.config["precision"], bool(given.gpus), given.activation_checkpointing)
        return with_memory(experiments, self.costs, manner, self.config["evaluation"])

    def warnings(self, counts: Mapping[Any, ModelCount]) -> list[str]:
        """What was assumed to get ``counts``, and of the items of the data."""
        size_name = self.config["model"]["size_param"]
        warnings = [
            *count_warnings(counts, size_name, self.config["convention"]),
            *self.costs.warnings(),
        ]
        if self.behaviour.norms and (
            self.resources.processes > 1 or self.resources.micro_batch_items
        ):
            warnings.append(
                f"model: {', '.join(self.behaviour.norms)} normalises over the items that pass the "
                "model together, so resources.processes and resources.micro_batch_items change the "
                "result where they split a batch; runs of another split are other experiments"
            )
        return warnings


class ScriptPlanning:
    """The planning of a ``config`` whose experiments a user's own script trains."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.of_size = config, size_arguments(config.get("model") or {})
        self.costs: ScriptCosts = script_costs(config, self.of_size)
        self.arguments: Iterable[str] = ()

    def check(self) -> None:
        """Nothing: the script is checked by running it, before the first job."""

    def try_out(self, size: Any, count: ModelCount) -> None:
        """Learn the names of the dials at ``size``; its ``count`` is not needed."""
        self.arguments = [*self.of_size(size)]

    def refined(self, shared: ScriptShared, size: Any) -> ScriptShared:
        """``shared`` as it is, whatever the ``size``."""
        return shared

    def recipe(self, shared: ScriptShared, experiment: Experiment) -> Recipe:
        """The recipe of ``experiment``, which has ``shared`` in common with the others."""
        return script_recipe(shared, experiment, self.of_size(experiment.size_param_value))

    def with_memory(self, experiments: list[Experiment]) -> list[Experiment]:
        """The ``experiments`` as they are: what their script takes is its own business."""
        return experiments

    def warnings(self, counts: Mapping[Any, ModelCount]) -> list[str]:
        """What was assumed to get ``counts``, and whether anything trains the sweep."""
        line = line_of(self.config["trainer"])
        counted = count_warnings(counts, "size", self.config["convention"])
        return [*([] if line else [PLANNED_ALONE]), *counted]


PLANNINGS: Mapping[type[Recipe], Callable[[dict[str, Any]], Planning]] = {
    PluginRecipe: PluginPlanning,
    ScriptRecipe: ScriptPlanning,
}


def planning_of(config: dict[str, Any]) -> Planning:
    """The planning of ``config`` for its kind of trainer."""
    return PLANNINGS[recipe_kind(config)](config)


def plugin_costs(config: dict[str, Any]) -> Costs:
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
    made, drawn = make_seeded(factory, dataset["factory"], dataset["kwargs"])
    return kept_sample(replace(as_data(made, dataset["factory"]), drawn=drawn))


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
