"""How much data a plan needs, against how much there is."""

from flops_fit.errors import FlopsFitError


def check_epochs(data: dict, largest: dict, max_epochs: float) -> None:
    """Refuse a plan whose longest experiment passes over the data more than ``max_epochs`` times.

    ``data`` is what `check_inputs` found, ``largest`` the plan's row with the most tokens.
    """
    unique = data["unique_tokens"]
    if unique is None or largest["num_tokens"] <= max_epochs * unique:
        return
    raise FlopsFitError(
        f"limits.max_epochs: {largest['experiment_id']} needs "
        f"{largest['num_tokens'] / unique:.2f} passes over {unique} unique tokens; allowed: "
        f"{max_epochs:g}, so smaller budgets, larger sizes or more data"
    )
