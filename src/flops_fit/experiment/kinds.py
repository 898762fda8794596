"""What a config means for each kind of trainer, one small class for each.

Nothing outside asks for the kind: `kind_of` gives the class, and all have the same methods. Higher
rooms keep tables of their own, by the kind of recipe: `flops_fit.plan.planning.PLANNINGS`,
`flops_fit.jobs.trainers.TRAINERS` and `flops_fit.report.methods.RECIPE_ROWS`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flops_fit.experiment import identity, used
from flops_fit.experiment.places import hashes_file
from flops_fit.experiment.recipe import PluginRecipe, Recipe, SharedRecipe, recipe_kind
from flops_fit.experiment.script_config import (
    accelerate_content,
    launching,
    line_of,
    portable_line,
    script_program,
    script_sources,
)
from flops_fit.experiment.script_recipe import ScriptRecipe, ScriptShared
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses, roots_of, uses_identity
from flops_fit.plugins.watch import Watch
from flops_fit.sweep import Experiment

Shared = SharedRecipe | ScriptShared
Config = Mapping[str, Any]


class Kind(Protocol):
    """What a config means for one kind of trainer.

    In every method ``config`` is complete, ``paths`` are the search paths, and ``hashes`` remembers
    the hashes of files. ``named_under`` says where in a config files can be named,
    ``decided_by_trial`` whether what the trial run uses decides results, and not the plan alone.
    """

    named_under: str
    decided_by_trial: bool

    def shared(self, config: Config, paths: list[str], hashes: FileHashes) -> Shared:
        """The recipe that all experiments of ``config`` share, without what their code uses.

        Code and data are looked for below ``paths``; ``hashes``: of files that are known.
        """

    def named_uses(self, config: Config, paths: Iterable[str]) -> Uses:
        """The code and files below ``paths`` that ``config`` uses, as known without running it."""

    def seen_uses(self, watch: Watch, config: Config, paths: Iterable[str]) -> Uses:
        """What the trial run of ``config`` that ``watch`` observed used beyond, below ``paths``."""

    def changed_late(
        self, results: str | Path, config: Config, hashes: FileHashes, paths: list[str]
    ) -> Uses:
        """What only jobs of ``config`` used, as kept below ``results``, and changed by ``hashes``.

        It is looked for below ``paths``.
        """

    def read_elsewhere(self, watch: Watch, config: Config, paths: Iterable[str]) -> list[Path]:
        """What the trial run of ``config`` that ``watch`` observed read among temporary files.

        Without what ``config`` names, found below ``paths``.
        """

    def users_files(self, config: Config, uses: Uses, paths: Iterable[str]) -> list[str | Path]:
        """The user's source files of ``config``, below ``paths`` and in ``uses``."""

    def planning(self, config: Config, paths: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Settings of ``config``, and import paths below ``paths``, that decide only the plan."""

    def data_folder(self, shared: Shared, results: str | Path, paths: list[str]) -> str | None:
        """The folder of the prepared data of ``shared`` below ``results``; None without any.

        Code is looked for below ``paths``.
        """

    def launching(
        self, config: Config, paths: list[str], arguments: Iterable[str]
    ) -> dict[str, object] | None:
        """What jobs of ``config`` need to start its program, found below ``paths``.

        ``arguments`` are the names of a model's dials.
        """


class PluginKind:
    """Our trainer, with a user's model, data, loss and optimiser."""

    named_under = "dataset.sources or in the arguments of the plug-in"
    decided_by_trial = True
    shared = staticmethod(identity.shared_recipe)
    named_uses = staticmethod(used.named_uses)
    seen_uses = staticmethod(used.seen_uses)
    read_elsewhere = staticmethod(used.read_elsewhere)
    users_files = staticmethod(used.users_files)

    def changed_late(
        self, results: str | Path, config: Config, hashes: FileHashes, paths: list[str]
    ) -> Uses:
        """What only jobs of ``config`` used, as kept in ``results``, and changed by ``hashes``.

        It is looked for below ``paths``.
        """
        late = used.changed_late(results, used.references_of(config), hashes, paths)
        prepare = config["dataset"]["prepare"]
        return late | used.changed_late(results, [prepare], hashes, paths) if prepare else late

    def planning(self, config: Config, paths: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The sizes of items and shares of the data of ``config``, and its example; not by ``paths``."""
        dataset = config["dataset"]
        per_item, example = dataset.get("per_item"), dataset["example"]
        fractions = dataset.get("unique_fraction")
        if isinstance(fractions, Mapping):
            fractions = {repr(float(budget)): shares for budget, shares in fractions.items()}
        settings = {"per_item": per_item} if per_item else {}
        return settings | {"unique_fraction": fractions}, [example] if example else []

    def data_folder(self, shared: Shared, results: str | Path, paths: list[str]) -> str | None:
        """The folder of the prepared data of ``shared`` below ``results``.

        Code is looked for below ``paths``.
        """
        assert isinstance(shared, SharedRecipe)
        prepare = shared.dataset.prepare
        if prepare is None:
            return None
        hashes = FileHashes(hashes_file(results))
        uses = used.prepare_uses(results, prepare, paths, hashes)
        return identity.data_folder(shared.dataset, results, uses_identity(uses, hashes))

    def launching(
        self, config: Config, paths: list[str], arguments: Iterable[str]
    ) -> dict[str, object] | None:
        """Nothing beyond the recipe, whatever ``config``, ``paths`` and ``arguments`` are."""
        return None


class ScriptKind:
    """A user's own script."""

    named_under = "trainer.sources"
    decided_by_trial = False

    def shared(self, config: Config, paths: list[str], hashes: FileHashes) -> ScriptShared:
        """The program of ``config``, found below ``paths``; ``hashes`` are not needed yet."""
        return ScriptShared(script_program(config["trainer"], paths))

    def named_uses(self, config: Config, paths: Iterable[str]) -> Uses:
        """The script of ``config`` with its imports, and its sources, found below ``paths``."""
        return script_sources(config["trainer"], paths)

    def seen_uses(self, watch: Watch, config: Config, paths: Iterable[str]) -> Uses:
        """What counting the sizes of ``config`` used, as ``watch`` saw it below ``paths``.

        The script itself does not run while the sweep is planned.
        """
        return watch.uses(roots_of(paths))

    def changed_late(
        self, results: str | Path, config: Config, hashes: FileHashes, paths: list[str]
    ) -> Uses:
        """What only jobs of ``config`` used, as kept in ``results``, and changed by ``hashes``.

        It is looked for below ``paths``. A file that is gone is none: a script may leave a cache, which
        somebody clears.
        """
        late = used.changed_late(results, portable_line(config["trainer"]), hashes, paths)
        code, files = (
            {name: path for name, path in kind.items() if Path(path).exists()}
            for kind in (late.code, late.files)
        )
        return Uses(code, files)

    def read_elsewhere(self, watch: Watch, config: Config, paths: Iterable[str]) -> list[Path]:
        """Nothing: while ``config`` is planned, ``watch`` sees no run of it below ``paths``."""
        return []

    def users_files(self, config: Config, uses: Uses, paths: Iterable[str]) -> list[str | Path]:
        """The script of ``config`` and its modules below ``paths``, as ``uses`` has them."""
        return [*uses.code.values()]

    def planning(self, config: Config, paths: list[str]) -> tuple[dict[str, Any], list[str]]:
        """How ``config`` counts sizes and starts the script, found below ``paths``."""
        counts, model = config.get("counts") or {}, config.get("model") or {}
        named = [counts.get("function"), model.get("factory"), model.get("example")]
        named += [value for value in (model.get("size_map"),) if isinstance(value, str)]
        settings = {
            "counts": _with_text_keys(counts, "table"),
            "model": _with_text_keys(model, "size_map"),
            "line": line_of(config["trainer"]),
            "accelerate": accelerate_content(config["trainer"], paths),
            "trial": config["trainer"]["trial"],
        }
        return settings, [reference for reference in named if reference]

    def data_folder(self, shared: Shared, results: str | Path, paths: list[str]) -> str | None:
        """None: what is ``shared`` has no data of its own below ``results``, whatever ``paths`` are."""
        return None

    def launching(
        self, config: Config, paths: list[str], arguments: Iterable[str]
    ) -> dict[str, object] | None:
        """The program of ``config``, found below ``paths``; ``arguments`` are more placeholders."""
        return launching(config["trainer"], paths, arguments)


KINDS: Mapping[type[Recipe], Kind] = {PluginRecipe: PluginKind(), ScriptRecipe: ScriptKind()}


def kind_of(config: Config) -> Kind:
    """What ``config`` means for its kind of trainer."""
    return KINDS[recipe_kind(config)]


def _with_text_keys(section: Config, key: str) -> dict[str, Any]:
    value = section.get(key)
    if not isinstance(value, Mapping):
        return dict(section)
    return {**section, key: {str(size): row for size, row in value.items()}}


def script_recipe(
    shared: ScriptShared, experiment: Experiment, arguments: Mapping[str, Any]
) -> ScriptRecipe:
    """The recipe of one ``experiment`` of a script's sweep, whose experiments have ``shared`` in common.

    ``arguments`` are those of a model with several dials, at its size.
    """
    return ScriptRecipe(
        shared=shared,
        size=experiment.size_param_value,
        arguments=dict(arguments),
        tokens=experiment.num_tokens,
        batch_items=experiment.batch_items,
        steps=experiment.steps,
        learning_rate=experiment.learning_rate,
        seed=experiment.seed,
    )
