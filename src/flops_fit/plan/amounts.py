"""How much data a plan needs, against how much there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_object, write_object
from flops_fit.plan.price import PLAN_HINT
from flops_fit.sweep import Experiment


class Amount(Protocol):
    """How many items and tokens the training data hold; None where that is unknown."""

    @property
    def unique_items(self) -> int | None:
        """Items of the training data."""

    @property
    def unique_tokens(self) -> int | None:
        """Target elements of the training data."""


@dataclass(frozen=True)
class CheckedData:
    """What the check of a sweep's inputs learned of the data.

    Attributes:
        notes: sentences on what is not used, or not as the contract has it.
        read_once: whether the data can be read only once.
        unique_items: items of the training data (None where unknown).
        unique_tokens: their target elements (None where unknown).
        heldout_items: held-out items (None where unknown).
        bytes_per_token: bytes of text per target element (None where unknown).
    """

    notes: list[str]
    read_once: bool
    unique_items: int | None
    unique_tokens: int | None
    heldout_items: int | None
    bytes_per_token: float | None

    def write(self, path: str | Path) -> None:
        """Write it to ``path``, where `read_checked` finds it."""
        write_object(path, vars(self))


def read_checked(path: str | Path) -> CheckedData:
    """What a check left at ``path``; raises `FlopsFitError` for a file that is no such thing."""
    value = read_object(path)
    try:
        return CheckedData(**value)
    except TypeError:
        raise FlopsFitError(
            f"{path}: not the outcome of a check; delete it, and check again"
        ) from None


def check_amount(data: Amount, experiments: Sequence[Experiment], max_epochs: float | None) -> None:
    """Refuse a plan whose ``experiments`` need more than ``data`` hold: raises what `shortage` says.

    ``max_epochs``: how many passes over the data are allowed (None: as many as needed).
    """
    missing = shortage(data, experiments, max_epochs)
    if missing:
        raise FlopsFitError(f"{missing}; {PLAN_HINT}")


def shortage(data: Amount, experiments: Sequence[Experiment], max_epochs: float | None) -> str:
    """What ``experiments`` need beyond ``data``, as a sentence; empty where the data suffice.

    No global batch may hold an item twice, and no experiment may pass over the data more than
    ``max_epochs`` times.
    """
    if data.unique_items is None or data.unique_tokens is None:
        return ""
    widest = max(experiments, key=lambda experiment: experiment.batches.last / experiment.share)
    items = round(widest.share * data.unique_items)
    if widest.batches.last > items:
        return (
            f"batch: a global batch of {widest.experiment_id} has {widest.batches.last} items, "
            f"the training data {items}; allowed: a batch that the data can fill"
        )
    longest = max(experiments, key=lambda experiment: experiment.num_tokens / experiment.share)
    unique = longest.share * data.unique_tokens
    if max_epochs is not None and longest.num_tokens > max_epochs * unique:
        return (
            f"limits.max_epochs: {longest.experiment_id} needs "
            f"{longest.num_tokens / unique:.2f} passes over "
            f"{unique:.0f} unique tokens; allowed: {max_epochs:g}, so smaller budgets, "
            "larger sizes or more data"
        )
    return ""
