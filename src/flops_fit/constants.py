"""What several packages share: figures from the literature, defaults, and how a run can end."""

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

# Repeating data more often than this is worth less (Muennighoff et al. 2023, arXiv 2305.16264).
MOST_EPOCHS = 4
PUBLISHED_RATIO = 20  # tokens per parameter (Hoffmann et al. 2022, arXiv 2203.15556)
ANSWER_FACTORS = (1, 3, 10)  # by default, answers are given for the largest budget times these
TRUNK = "trunk"  # the kind of schedule whose runs of one size share their first steps
FLOPS_PER_PARAM_TOKEN = 6  # forward and backward (Kaplan et al. 2020, arXiv 2001.08361)
# The names that the origin of the project fixed, in `Experiment`, plans and records, and the names
# that tables, fits and answers use for the same quantities.
TABLE_NAMES = {
    "compute_budget": "budget",
    "size_param_value": "size",
    "num_tokens": "tokens",
    "final_loss": "loss",
    "final_loss_se": "loss_se",
}

Number = TypeVar("Number")


class Status(enum.StrEnum):
    """How a run ended. A diverged run is a result, but it has no loss that could be fitted."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    FAILED = "failed"

    @property
    def usable(self) -> bool:
        """Whether the run has a loss that a fit may use."""
        return self is Status.COMPLETED


def flops_6nd(params: Number, tokens: Number) -> Number:
    """C = 6 N D in FLOPs, of N = ``params`` and D = ``tokens``: numbers, arrays or columns.

    2 N FLOPs per token for the forward pass and 4 N for the backward pass (Kaplan et al. 2020).
    """
    return float(FLOPS_PER_PARAM_TOKEN) * params * tokens  # type: ignore


def table_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row``, the fields of an experiment or a record, under the names that tables use."""
    return {TABLE_NAMES.get(name, name): value for name, value in row.items()}
