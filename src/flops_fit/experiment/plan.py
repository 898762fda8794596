"""The plan of a sweep as its file holds it: every experiment, and what all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flops_fit.experiment.options import Resources
from flops_fit.files import FORMAT
from flops_fit.sweep import CountedSize, Experiment, Skipped


@dataclass(frozen=True)
class PlannedData:
    """What a plan knows of the training data.

    ``unique_items`` and ``unique_tokens`` are their amounts (None where unknown); ``max_epochs`` is
    how many passes over them are allowed.
    """

    unique_items: int | None
    unique_tokens: int | None
    max_epochs: float


@dataclass(frozen=True)
class Branch:
    """Where a run leaves the trunk that it shares with the runs of its size and seed.

    Attributes:
        trunk: the hash of what decides the steps before the cooldown.
        tokens: the tokens after which its cooldown begins, at the end of a step; there it leaves a
            state, from which longer runs start.
        after: the id of the next shorter run of its plan on this trunk (empty: it is the shortest).
        start: the tokens of the state that the run ``after`` leaves, from which this one starts.
    """

    trunk: str
    tokens: int
    after: str = ""
    start: int = 0


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    Attributes:
        fingerprint: the hash of all that determines the plan.
        convention: what a budget means, ``counted`` or ``6nd``.
        experiments: all that are trained, each with its hash.
        skipped: the cells of the grid that are not trained.
        warnings: sentences of the planner.
        schedule: of the learning rate, as the config has it; empty where a user's own script
            decides it.
        precision: accelerate's mixed precision.
        resources: what a run is given.
        data_dir: the folder of the prepared data (None: nothing is prepared).
        check: the file in which the check of the inputs leaves what it finds.
        data: what is known of the data (None where they are not there yet).
        beyond: sizes above the grid that were counted only, for answers beyond it.
        size_of: which argument of which model the sizes are values of, as text (empty: not known).
        rate_from: where the learning rates are from, as text (empty where it is not known).
        branches: where each run leaves its trunk, by its id; empty where runs share no steps.
    """

    fingerprint: str
    convention: str
    experiments: list[Experiment]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "no"
    resources: Resources = Resources()  # noqa: RUF009 - frozen
    data_dir: str | None = None
    check: str = ""
    data: PlannedData | None = None
    beyond: list[CountedSize] = field(default_factory=list)
    size_of: str = ""
    rate_from: str = ""
    branches: Mapping[str, Branch] = field(default_factory=dict)

    def start_of(self, experiment_id: str) -> int:
        """The tokens that other runs of the plan train for the run of ``experiment_id``."""
        branch = self.branches.get(experiment_id)
        return branch.start if branch else 0

    def share_here(self, experiment: Experiment) -> float:
        """The share of its D that the run of ``experiment`` trains itself."""
        return 1 - self.start_of(experiment.experiment_id) / experiment.num_tokens

    def flops_here(self, experiment: Experiment) -> float:
        """The counted FLOPs (or 6 N D) that the run of ``experiment`` trains itself."""
        return self.share_here(experiment) * (experiment.flops_counted or experiment.flops_6nd)

    def to_dict(self) -> dict[str, Any]:
        """The content of the plan's file."""
        value = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "convention": self.convention,
            "schedule": self.schedule,
            "precision": self.precision,
            "resources": self.resources.to_dict(),
            "data_dir": self.data_dir,
            "check": self.check,
            "experiments": [experiment.to_dict() for experiment in self.experiments],
            "skipped": [vars(cell) for cell in self.skipped],
            "warnings": self.warnings,
        }
        if self.data is not None:
            value["data"] = vars(self.data)
        if self.beyond:
            value["beyond"] = [size.to_dict() for size in self.beyond]
        if self.size_of:
            value["size_of"] = self.size_of
        if self.rate_from:
            value["rate_from"] = self.rate_from
        if self.branches:
            value["branches"] = {name: vars(branch) for name, branch in self.branches.items()}
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Plan":
        """The plan of a file's content.

        Raises a `LookupError`, `TypeError` or `AttributeError` where ``value`` is none.
        """
        names = ("fingerprint", "convention", "schedule", "precision", "data_dir", "check")
        data = value.get("data")
        return cls(
            **{name: value[name] for name in names},
            warnings=value["warnings"],
            experiments=[Experiment.from_dict(row) for row in value["experiments"]],
            skipped=[Skipped(**cell) for cell in value["skipped"]],
            resources=Resources.from_dict(value["resources"]),
            data=None if data is None else PlannedData(**data),
            beyond=[CountedSize.from_dict(row) for row in value.get("beyond", [])],
            size_of=value.get("size_of", ""),
            rate_from=value.get("rate_from", ""),
            branches={name: Branch(**row) for name, row in value.get("branches", {}).items()},
        )
