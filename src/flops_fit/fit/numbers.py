"""Numbers asked of a fit: checked where they come in, and intervals of many."""

import numpy as np

from flops_fit.errors import FlopsFitError


def interval(values: np.ndarray, level: float) -> list[float]:
    """Interval [low, high] that holds the share ``level`` of ``values``, of shape (R,)."""
    return [float(v) for v in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def check_flops(flops: float) -> float:
    """A budget ``flops`` as a float; raises `FlopsFitError` unless it is positive and finite."""
    return positive_number("flops", flops, " of FLOPs")


def positive_number(name: str, value: float, unit: str = "") -> float:
    """``value`` as a float; raises `FlopsFitError` unless it is positive and finite.

    The message has the ``name`` of the value, and ends with its ``unit``.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise FlopsFitError(f"{name}: {value!r}; allowed: a positive finite number{unit}")
    return number
