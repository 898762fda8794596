"""The factors of a rate sweep: what is tried around the rules of rate, batch and weight decay."""

from collections.abc import Mapping
from typing import Any

from flops_fit.errors import FlopsFitError

FACTORS = ("learning_rate_factors", "batch_factors", "weight_decay_factors")
FEWEST_TOGETHER = 3  # values of each, where several are varied: a paraboloid needs as many


def tunes_rate(config: Mapping[str, Any]) -> bool:
    """Whether the sweep of ``config`` looks for the best rate (batch, weight decay), and not a law."""
    return any(len(config.get(key, [1])) > 1 for key in FACTORS)


def check_factors(config: Mapping[str, Any]) -> None:
    """Check the factors of ``config``, and what they multiply, against each other.

    The best learning rate depends on the batch and on the weight decay, so these are varied together
    with it. Raises `FlopsFitError` that names the key.
    """
    decay = config.get("weight_decay")
    varied = [key for key in FACTORS if len(config.get(key, [1])) > 1]
    if "weight_decay_factors" in varied and decay is None:
        raise FlopsFitError("weight_decay_factors: weight_decay, which they multiply, is missing")
    if decay is not None and "weight_decay" in (config.get("optimizer") or {}).get("kwargs", {}):
        raise FlopsFitError(
            "optimizer.kwargs: weight_decay stands there and in weight_decay; remove one of them"
        )
    if varied[1:] or (varied and varied != ["learning_rate_factors"]):
        for key in dict.fromkeys(["learning_rate_factors", *varied]):
            if len(config.get(key, [1])) < FEWEST_TOGETHER:
                raise FlopsFitError(
                    f"{key}: {config.get(key, [1])} given; allowed beside {varied[-1]}: at least "
                    f"{FEWEST_TOGETHER} factors, because the best values depend on each other"
                )
