"""The spec of an experiment: all that its job may look at, whatever the config has become."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import Resources, TrainOptions
from flops_fit.experiment.recipe import PluginRecipe, Recipe, read_recipe
from flops_fit.experiment.script_recipe import ScriptRecipe
from flops_fit.files import FORMAT, read_object
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses
from flops_fit.sweep import ModelCount


@dataclass(frozen=True)
class Spec:
    """One experiment as its job reads it.

    Attributes:
        recipe: what decides its result.
        count: what its size holds and costs.
        tokens_per_item: target elements of an item, a mean where targets are ignored or items differ.
        max_epochs: how many passes over the data are allowed.
        resources: what a run is given.
        data_dir: the folder of its prepared data (None: nothing is prepared).
        check: the file in which the check of its inputs leaves what it finds.
        uses: where the things lie that the recipe hashes under ``uses``.
        search_paths: where plug-ins and relative paths are looked for.
        launching: how a user's own script is started on this machine (None: it is our trainer).
    """

    recipe: Recipe
    count: ModelCount
    tokens_per_item: float
    max_epochs: float | None
    resources: Resources
    data_dir: str | None
    check: str
    uses: Uses
    search_paths: list[str]
    launching: dict[str, Any] | None = None

    @property
    def experiment_id(self) -> str:
        """The experiment's id, which names its files."""
        return self.recipe.experiment_id

    @property
    def hash(self) -> str:
        """The hash of what decides the result."""
        return self.recipe.hash

    @property
    def plugins(self) -> PluginRecipe:
        """The recipe, of an experiment that our trainer trains."""
        assert isinstance(self.recipe, PluginRecipe)
        return self.recipe

    @property
    def script(self) -> ScriptRecipe:
        """The recipe, of an experiment that a user's own script trains."""
        assert isinstance(self.recipe, ScriptRecipe)
        return self.recipe

    def changed(self, hashes: FileHashes) -> list[str]:
        """What is no longer as it was planned; ``hashes``: the hashes of files that are known."""
        return self.recipe.changed(self.uses, self.search_paths, hashes)

    def to_dict(self) -> dict[str, Any]:
        """The content of the spec's file."""
        launching = {} if self.launching is None else {"launching": self.launching}
        return {
            "format": FORMAT,
            "experiment_id": self.experiment_id,
            "hash": self.hash,
            "identity": self.recipe.to_dict(),
            "counts": self.count.to_dict(self.tokens_per_item),
            "max_epochs": self.max_epochs,
            "resources": self.resources.to_dict(),
            "data_dir": self.data_dir,
            "check": self.check,
            "uses": self.uses.to_dict(),
            "search_paths": self.search_paths,
            **launching,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Spec":
        """The spec of a file's content; its id and hash follow from its recipe.

        Raises a `LookupError`, `TypeError`, `ValueError` or `AttributeError` where ``value`` is none.
        """
        return cls(
            recipe=read_recipe(value["identity"]),
            count=ModelCount.from_dict(value["counts"]),
            tokens_per_item=value["counts"]["tokens_per_item"],
            max_epochs=value["max_epochs"],
            resources=Resources.from_dict(value["resources"]),
            data_dir=value["data_dir"],
            check=value["check"],
            uses=Uses.from_dict(value["uses"]),
            search_paths=value["search_paths"],
            launching=value.get("launching"),
        )


def read_spec(path: str | Path) -> Spec:
    """Read the spec in the file ``path``.

    Raises `FlopsFitError` for a file that is missing, broken, of a newer version, or whose hash or
    name is not that of its content.
    """
    value = read_object(path)
    try:
        spec = Spec.from_dict(value)
        named = value["experiment_id"], value["hash"]
        sound = named == (spec.experiment_id, spec.hash) and spec.experiment_id == Path(path).stem
    except (LookupError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise FlopsFitError(f"{path}: the spec's hash is not its id; plan the sweep again")
    return spec


def options_of(spec: Spec, processes: int | None = None, gpus: int = 0) -> TrainOptions:
    """The options of the trainer for ``spec``, with the ``processes`` and ``gpus`` of its job."""
    given = {
        **spec.plugins.options.deciding(),
        **spec.resources.for_trainer(),
        "max_epochs": spec.max_epochs,
        "processes": processes,
        "gpus": gpus,
    }
    return TrainOptions(**given)
