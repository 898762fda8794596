"""The keys of a config that are given by budget: sizes, seeds, and shares of the data."""

from collections.abc import Iterable, Mapping
from typing import Any

from flops_fit.errors import FlopsFitError


def check_sizes(config: dict) -> None:
    """Check the sizes of ``config``, and write the budgets under ``sizes.per_budget`` as numbers.

    Raises `FlopsFitError` that names the key.
    """
    sizes, budgets = config["sizes"], config["budgets"]
    repeated = {b for b in budgets if budgets.count(b) > 1}
    if repeated:
        raise FlopsFitError(f"budgets: {min(repeated):g} is given twice; allowed: each budget once")
    if len(sizes) != 1:
        raise FlopsFitError(
            f"sizes: {show(sorted(sizes))} given; "
            "allowed: exactly one of values, per_budget, window"
        )
    if "per_budget" not in sizes:
        return
    sizes["per_budget"] = _for_every_budget(
        "sizes.per_budget", "sizes", sizes["per_budget"], budgets
    )


def check_seeds(config: dict) -> None:
    """Write the budgets under ``seeds`` of ``config`` as numbers.

    Raises `FlopsFitError` for a budget without seeds, and for a key that is not a budget.
    """
    if isinstance(config.get("seeds"), dict):
        config["seeds"] = _for_every_budget("seeds", "seeds", config["seeds"], config["budgets"])


def check_fractions(config: dict) -> None:
    """Write the budgets under ``dataset.unique_fraction`` of ``config`` as numbers.

    Raises `FlopsFitError` for one that is not a budget.
    """
    dataset = config.get("dataset") or {}
    if isinstance(dataset.get("unique_fraction"), dict):
        key = "dataset.unique_fraction"
        dataset["unique_fraction"] = _by_budget(key, dataset["unique_fraction"])
        _only_budgets(key, dataset["unique_fraction"], config["budgets"])


def _for_every_budget(
    key: str, what: str, values: Mapping[object, Any], budgets: list[float]
) -> dict[float, Any]:
    """The ``values`` of the config's ``key`` by budget, which holds ``what`` for all ``budgets``."""
    keys = _by_budget(key, values)
    for budget in budgets:
        if budget not in keys:
            raise FlopsFitError(
                f"{key}: no {what} for the budget {budget:g}; allowed: a list of {what} for every budget"
            )
    _only_budgets(key, keys, budgets)
    return keys


def _by_budget(key: str, values: Mapping[object, Any]) -> dict[float, Any]:
    """The ``values`` of the config's ``key`` by the budgets that their own keys name."""
    keys = {_budget_key(key, name): value for name, value in values.items()}
    if len(keys) < len(values):  # such as 1e6 and 1000000
        raise FlopsFitError(
            f"{key}: {show(list(values))} name a budget twice; allowed: each budget once"
        )
    return keys


def _only_budgets(key: str, keys: Iterable[float], budgets: list[float]) -> None:
    for name in keys:
        if name not in budgets:
            allowed = ", ".join(f"{b:g}" for b in budgets)
            raise FlopsFitError(f"{key}.{name:g}: not a budget; allowed: {allowed}")


def _budget_key(section: str, key: object) -> float:
    try:
        return float(key)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise FlopsFitError(f"{section}.{key}: not a number; allowed: the budgets") from None


def show(value: object, limit: int = 80) -> str:
    """``value`` as an error prints it, in at most ``limit`` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print an integer of more than 4300 digits
        text = "an integer of more than 4300 digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."
