"""The recipe of an experiment: what decides its result, stated once and hashed.

Budgets, N, FLOPs, versions and machines are recorded but never part of it, so that budgets and
sweeps share runs. There is no torch here: a dry run needs recipes on every start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flops_fit.batch import Batches
from flops_fit.constants import TRUNK
from flops_fit.experiment.names import readable_id, tokens_text
from flops_fit.experiment.options import TRAINER_VERSION, DecidingOptions
from flops_fit.experiment.script_recipe import ScriptRecipe
from flops_fit.files import canonical_hash
from flops_fit.plugins.code import source_fingerprint
from flops_fit.plugins.data_files import FileHashes, file_arguments, source_identity
from flops_fit.plugins.uses import Uses, changed_uses

# Parts of a recipe that only some experiments have, so that those of all others keep their hash.
SOMETIMES = ("expected_items", "part_items", "weight_decay", "unique_fraction")


@dataclass(frozen=True)
class ModelPart:
    """The model: its ``factory`` and ``kwargs``, and the hash of its ``source``.

    ``size_param`` is the name of the argument that sets its size.
    """

    factory: str
    size_param: str
    kwargs: dict[str, Any]
    source: Any


@dataclass(frozen=True)
class DatasetPart:
    """The data: who makes them from what.

    ``factory`` with ``kwargs`` and the hash of its ``source``; the same of ``prepare``
    (``prepare_kwargs``, ``prepare_source``), where there is one; the hashes of the ``files`` that
    arguments name; ``sources`` as pairs of a name and what identifies its content.
    """

    factory: str
    kwargs: dict[str, Any]
    source: Any
    files: dict[str, str]
    prepare: str | None
    prepare_kwargs: dict[str, Any]
    prepare_source: Any
    sources: list[list[Any]]


@dataclass(frozen=True)
class LossPart:
    """The loss: its ``function`` and the hash of its ``source``."""

    function: str
    source: Any


@dataclass(frozen=True)
class OptimizerPart:
    """The optimiser: its ``factory`` with ``kwargs``, and the hash of its ``source``.

    ``clip_norm`` is the largest norm of a gradient (None: no limit). ``modes`` is set where the
    optimiser is switched between training and evaluation.
    """

    factory: str
    kwargs: dict[str, Any]
    clip_norm: float | None
    source: Any
    modes: str | None = None


@dataclass(frozen=True)
class EvaluationPart:
    """The evaluation: how many ``tokens`` are held out, and its batch of ``batch_items``."""

    tokens: int
    batch_items: int


@dataclass(frozen=True)
class MetricPart:
    """A measure that is taken beside the loss: its ``function`` and the hash of its ``source``.

    Where it is not taken on the held-out part of the data, ``dataset`` is the import path of its
    data, with ``kwargs``, the hash ``dataset_source``, and the hashes of the ``files`` that the
    arguments name.
    """

    function: str
    source: Any
    dataset: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_source: Any = None
    files: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The part as plain data; of a dataset nothing where there is none."""
        if self.dataset is None:
            return {"function": self.function, "source": self.source}
        return {**vars(self)}

    @property
    def references(self) -> dict[str, Any]:
        """The hash of the source of each plug-in, by its import path."""
        data = {} if self.dataset is None else {self.dataset: self.dataset_source}
        return {self.function: self.source, **data}


@dataclass(frozen=True)
class SharedRecipe:
    """What decides the results of all experiments of a sweep alike.

    ``model``, ``dataset``, ``loss``, ``optimizer`` and ``evaluation`` as their parts say;
    ``schedule`` (of the learning rate), ``precision`` and ``deterministic`` as `TrainOptions` has
    them; ``trainer_version`` is that of our training loop. ``uses``: what plug-ins use beside their
    packages and named data (empty where that is nothing); ``draws_when_evaluated`` and
    ``data_drawn``: set where an evaluation, or the factory of the data, draws random numbers.
    ``metrics``: by name, what is measured beside the loss. They decide no weight, but the record of a
    run, which is all that is left of it.
    """

    model: ModelPart
    dataset: DatasetPart
    loss: LossPart
    optimizer: OptimizerPart
    schedule: dict[str, Any]
    precision: str
    deterministic: bool
    evaluation: EvaluationPart
    trainer_version: int = TRAINER_VERSION
    uses: dict[str, dict[str, str]] = field(default_factory=dict)
    draws_when_evaluated: str | None = None
    data_drawn: str | None = None
    metrics: dict[str, MetricPart] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SharedRecipe":
        """The recipe of ``value``, made by `to_dict`; a key that it does not know is a `TypeError`."""
        return cls(
            **{
                **value,
                "model": ModelPart(**value["model"]),
                "dataset": DatasetPart(**value["dataset"]),
                "loss": LossPart(**value["loss"]),
                "optimizer": OptimizerPart(**value["optimizer"]),
                "evaluation": EvaluationPart(**value["evaluation"]),
                "metrics": {k: MetricPart(**v) for k, v in value.get("metrics", {}).items()},
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, which is what is hashed."""
        value = {
            **vars(self),
            "model": {**vars(self.model)},
            "dataset": {**vars(self.dataset)},
            "loss": {**vars(self.loss)},
            "optimizer": _without_none(vars(self.optimizer), "modes"),
            "evaluation": {**vars(self.evaluation)},
            "metrics": {name: part.to_dict() for name, part in self.metrics.items()},
        }
        for name in ("uses", "metrics"):
            if not value[name]:
                del value[name]
        return _without_none(value, "draws_when_evaluated", "data_drawn")

    @property
    def hash(self) -> str:
        """The hash of all that the experiments of the sweep share."""
        return canonical_hash(self.to_dict())

    @property
    def references(self) -> list[str]:
        """The import paths of the plug-ins that decide a result."""
        named = [self.model.factory, self.dataset.factory, self.dataset.prepare]
        named += [self.loss.function, self.optimizer.factory]
        named += [reference for part in self.metrics.values() for reference in part.references]
        return sorted({reference for reference in named if reference})


@dataclass(frozen=True)
class PluginRecipe:
    """The recipe of an experiment that our trainer trains from a user's plug-ins.

    Attributes:
        shared: what it shares with the other experiments of its sweep.
        size: the value of the size parameter.
        tokens: D in target elements.
        batch_items: the global batch of the first step in items.
        steps: steps of the optimiser.
        learning_rate: the peak of the learning rate.
        seed: of weights, order and dropout.
        expected_items: as in `DecidingOptions`.
        part_items: items of a batch that pass the model together, where a layer normalises over them
            and the batch is split (None elsewhere: then the split changes no result).
        weight_decay: an argument of the optimiser, where the sweep decides it (None elsewhere).
        unique_fraction: the share of the training items that the run sees (None: all).
        batch_growth: where the batch grows, as `flops_fit.batch.Batches` has it (empty: nowhere).
    """

    shared: SharedRecipe
    size: Any
    tokens: int
    batch_items: int
    steps: int
    learning_rate: float
    seed: int
    expected_items: int | None = None
    part_items: int | None = None
    weight_decay: float | None = None
    unique_fraction: float | None = None
    batch_growth: list[list[int]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "PluginRecipe":
        """The recipe that `to_dict` made of one.

        Raises a `LookupError`, `TypeError` or `AttributeError` where ``value`` is no such recipe.
        """
        numbers = ("tokens", "batch_items", "steps", "learning_rate", "seed")
        names = (*numbers, "batch_growth", *SOMETIMES)
        model = dict(value["model"])
        size = model.pop("size")
        shared = {name: part for name, part in value.items() if name not in names}
        return cls(
            shared=SharedRecipe.from_dict({**shared, "model": model}),
            size=size,
            tokens=value["tokens"],
            batch_items=value["batch_items"],
            steps=value["steps"],
            learning_rate=value["learning_rate"],
            seed=value["seed"],
            batch_growth=value.get("batch_growth", []),
            **{name: value.get(name) for name in SOMETIMES},
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data: the ``identity`` of specs and records, which is hashed."""
        shared = self.shared.to_dict()
        value = {
            **shared,
            **{name: getattr(self, name) for name in SOMETIMES},
            "batch_growth": self.batch_growth or None,
            "model": {**shared["model"], "size": self.size},
            "tokens": self.tokens,
            "batch_items": self.batch_items,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }
        return _without_none(value, "batch_growth", *SOMETIMES)

    @cached_property
    def hash(self) -> str:
        """The hash of all that decides the result."""
        return canonical_hash(self.to_dict())

    @cached_property
    def trunk(self) -> str:
        """The hash of what decides the steps before the cooldown; empty without a trunk.

        Runs that have it in common and differ in D share these steps. Where the batch grows is not in
        it, since a longer run has more of that: a state is sealed with the growth before it.
        """
        schedule = self.shared.schedule
        if schedule["kind"] != TRUNK:
            return ""
        after = (
            "tokens",
            "steps",
            "expected_items",
            "evaluation",
            "draws_when_evaluated",
            "metrics",
            "batch_growth",
        )
        prefix = {name: part for name, part in self.to_dict().items() if name not in after}
        of_prefix = {name: schedule[name] for name in ("kind", "warmup_tokens")}
        return canonical_hash({**prefix, "schedule": of_prefix})

    @property
    def batches(self) -> Batches:
        """The global batch of each step."""
        return Batches(self.batch_items, self.batch_growth)

    @property
    def experiment_id(self) -> str:
        """The experiment's id, such as ``gpt-d_model96-D1.5e6-s0-3f2a9c1b``."""
        model = self.shared.model
        name = model.factory.rsplit(":", 1)[1].rsplit(".", 1)[-1].lower()
        size = f"{model.size_param}{self.size}"
        return readable_id([name, size, tokens_text(self.tokens), f"s{self.seed}"], self.hash)

    @property
    def references(self) -> list[str]:
        """The import paths of the plug-ins that decide the result."""
        return self.shared.references

    @property
    def options(self) -> DecidingOptions:
        """The same as options of the trainer."""
        shared = self.shared
        return DecidingOptions(
            tokens=self.tokens,
            batch_items=self.batch_items,
            learning_rate=self.learning_rate,
            seed=self.seed,
            schedule=shared.schedule,
            clip_norm=shared.optimizer.clip_norm,
            precision=shared.precision,
            deterministic=shared.deterministic,
            evaluation_tokens=shared.evaluation.tokens,
            evaluation_batch_items=shared.evaluation.batch_items,
            expected_items=self.expected_items,
            batch_growth=self.batch_growth,
        )

    @staticmethod
    def wrong_tokens(seen: int, planned: int) -> str:
        """What is wrong with a run that has ``seen`` tokens where ``planned`` ones were to be seen."""
        return "" if seen == planned else f"trained on {seen} tokens, planned {planned}"

    def changed(self, uses: Uses, search_paths: Iterable[str], hashes: FileHashes) -> list[str]:
        """What is no longer as the recipe has it: live plug-ins, data and the trainer's version.

        ``uses``: where the things lie that the recipe's part of that name hashes; ``search_paths``:
        where plug-ins and data are looked for; ``hashes``: the hashes of files that are known.
        """
        paths, shared = list(search_paths), self.shared
        dataset = shared.dataset
        planned = {
            shared.model.factory: shared.model.source,
            dataset.factory: dataset.source,
            shared.loss.function: shared.loss.source,
            shared.optimizer.factory: shared.optimizer.source,
        }
        if dataset.prepare:
            planned[dataset.prepare] = dataset.prepare_source
        for part in shared.metrics.values():
            planned |= part.references
        changed = [r for r, source in planned.items() if source_fingerprint(r, paths) != source]
        for source, content in dataset.sources:
            if source_identity(source, paths, hashes) != content:
                changed.append(source)
        if data_files(dataset.kwargs, dataset.prepare_kwargs, paths, hashes) != dataset.files:
            changed.append("a file that the dataset's arguments name")
        for name, part in shared.metrics.items():
            if file_arguments(part.kwargs, paths, hashes) != part.files:
                changed.append(f"a file that metrics.{name}.dataset.kwargs names")
        changed += changed_uses(shared.uses, uses, hashes)
        if shared.trainer_version != TRAINER_VERSION:
            changed.append(f"the trainer's version ({shared.trainer_version})")
        return changed


# The union of recipes by kind of trainer. Each has `to_dict`, `hash`, `experiment_id`, `references`,
# `changed`, `wrong_tokens`, `trunk`, `batches`, and `size`, `tokens`, `batch_items`, `steps`,
# `learning_rate`, `seed`.
Recipe = PluginRecipe | ScriptRecipe


def recipe_kind(value: Mapping[str, Any]) -> type[Recipe]:
    """The kind of recipe that ``value`` has or will have: the identity of a run, or a config."""
    return PluginRecipe if value.get("trainer") is None else ScriptRecipe


def read_recipe(value: Mapping[str, Any]) -> Recipe:
    """The recipe of the ``identity`` of a spec or a record, whose kind ``value`` decides.

    Raises a `LookupError`, `TypeError` or `AttributeError` where it is no recipe.
    """
    return recipe_kind(value).from_dict(value)


def data_files(
    kwargs: Mapping[str, Any],
    prepare_kwargs: Mapping[str, Any],
    search_paths: Iterable[str],
    hashes: FileHashes,
) -> dict[str, str]:
    """Hashes of the files that the arguments of a dataset and of its preparation name.

    ``kwargs`` and ``prepare_kwargs`` are those arguments; files are looked for below
    ``search_paths``, and ``hashes`` remembers what was read before.
    """
    return file_arguments({**prepare_kwargs, **kwargs}, search_paths, hashes)


def _without_none(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """``value`` without those of the keys ``names`` that are None."""
    return {key: part for key, part in value.items() if key not in names or part is not None}
