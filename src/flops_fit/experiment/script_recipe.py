"""The recipe of an experiment that a user's own script trains.

What the script decides (data, loss, optimiser, schedule) is in its code, so the code stands for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flops_fit.batch import Batches
from flops_fit.experiment.names import readable_id, tokens_text
from flops_fit.files import canonical_hash
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses, changed_uses

ACCELERATE, NO_LAUNCHER = "accelerate", "none"


@dataclass(frozen=True)
class ScriptProgram:
    """How a script is started, without what differs between machines.

    Attributes:
        name: the part of ids that names it, the script's stem.
        launcher: ``accelerate`` (accelerate launch) or ``none``.
        line: the script or program and its arguments, with placeholders unfilled.
        tokens_per_item: tokens that an item of its batch brings.
        accelerate: the part of accelerate's config that may decide a result (None: no such config).
    """

    name: str
    launcher: str
    line: list[str]
    tokens_per_item: int
    accelerate: dict[str, Any] | None = None


@dataclass(frozen=True)
class ScriptShared:
    """What decides the results of all experiments of a script's sweep alike.

    ``program``: how it is started; ``uses``: the hashes of the script, of the local modules that it
    imports, and of the files that it is given.
    """

    program: ScriptProgram
    uses: dict[str, dict[str, str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, which is what is hashed."""
        return {"trainer": {**vars(self.program)}, "uses": self.uses}

    @property
    def hash(self) -> str:
        """The hash of all that the experiments of the sweep share."""
        return canonical_hash(self.to_dict())


@dataclass(frozen=True)
class ScriptRecipe:
    """The recipe of an experiment that a user's own script trains.

    Attributes:
        shared: what it shares with the other experiments of its sweep.
        size: the value of the size.
        arguments: those of a model with several dials, at this size.
        tokens: D, in the script's own tokens.
        batch_items: the global batch in items.
        steps: steps of the optimiser.
        learning_rate: what the script takes for its learning rate.
        seed: of whatever the script draws.
    """

    shared: ScriptShared
    size: Any
    arguments: dict[str, Any]
    tokens: int
    batch_items: int
    steps: int
    learning_rate: float
    seed: int

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ScriptRecipe":
        """The recipe that `to_dict` made of one.

        Raises a `LookupError`, `TypeError` or `AttributeError` where ``value`` is no such recipe.
        """
        rest = {name: part for name, part in value.items() if name not in ("trainer", "uses")}
        return cls(shared=ScriptShared(ScriptProgram(**value["trainer"]), value["uses"]), **rest)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data: the ``identity`` of specs and records, which is hashed."""
        rest = {name: part for name, part in vars(self).items() if name not in ("shared", "hash")}
        return {**self.shared.to_dict(), **rest}

    @cached_property
    def hash(self) -> str:
        """The hash of all that decides the result."""
        return canonical_hash(self.to_dict())

    @property
    def experiment_id(self) -> str:
        """The experiment's id, such as ``train-size64-D1.2e5-s0-3f2a9c1b``."""
        parts = [self.shared.program.name, f"size{self.size}", tokens_text(self.tokens)]
        return readable_id([*parts, f"s{self.seed}"], self.hash)

    @property
    def batches(self) -> Batches:
        """The global batch of each step, which is the same for all."""
        return Batches(self.batch_items)

    @property
    def trunk(self) -> str:
        """Empty: a script's runs share no steps."""
        return ""

    @property
    def references(self) -> list[str]:
        """What names the code that decides the result: the line of the program."""
        return self.shared.program.line

    @staticmethod
    def wrong_tokens(seen: int, planned: int) -> str:
        """Nothing: where a script has ``seen`` other tokens than ``planned``, its record says so."""
        return ""

    def changed(self, uses: Uses, search_paths: Iterable[str], hashes: FileHashes) -> list[str]:
        """Which files are no longer as the recipe has them.

        ``uses``: where they lie; ``search_paths`` are not needed; ``hashes``: the hashes of files
        that are known.
        """
        return changed_uses(self.shared.uses, uses, hashes)
