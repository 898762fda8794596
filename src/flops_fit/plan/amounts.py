"""How much data a plan needs, against how much there is."""

from collections.abc import Mapping, Sequence

from flops_fit.errors import FlopsFitError
from flops_fit.plan.price import PLAN_HINT


def check_amount(data: Mapping, rows: Sequence[Mapping], max_epochs: float) -> None:
    """Refuse a plan that needs more data than there is: raises what `shortage` says."""
    missing = shortage(data, rows, max_epochs)
    if missing:
        raise FlopsFitError(f"{missing}; {PLAN_HINT}")


def shortage(data: Mapping, rows: Sequence[Mapping], max_epochs: float) -> str:
    """What a plan needs beyond the data that there are, as a sentence; empty where they do.

    ``data`` is what `check_inputs` found, ``rows`` the plan's experiments. No global batch may hold
    an item twice, and no experiment passes over the data more than ``max_epochs`` times.
    """
    if data["unique_items"] is None:
        return ""
    widest = max(rows, key=lambda row: row["batch_items"])
    if widest["batch_items"] > data["unique_items"]:
        return (
            f"batch: a global batch of {widest['experiment_id']} has {widest['batch_items']} items, "
            f"the training data {data['unique_items']}; allowed: a batch that the data can fill"
        )
    longest = max(rows, key=lambda row: row["num_tokens"])
    if longest["num_tokens"] > max_epochs * data["unique_tokens"]:
        return (
            f"limits.max_epochs: {longest['experiment_id']} needs "
            f"{longest['num_tokens'] / data['unique_tokens']:.2f} passes over "
            f"{data['unique_tokens']} unique tokens; allowed: {max_epochs:g}, so smaller budgets, "
            "larger sizes or more data"
        )
    return ""
