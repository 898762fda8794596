"""Sizes beyond the grid, counted so that answers beyond it rest on the true cost of their models."""

import math
from collections.abc import Sequence

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.plan.costs import Costs
from flops_fit.plan.script_costs import ScriptCosts
from flops_fit.sweep import CountedSize, Experiment

REACH = 10.0  # times the largest N: N* grows about as C^0.5, so this holds it up to 100 times in C
COUNT = 5
METHODS = ("meta", "model", "stated")  # others extrapolate themselves, or cost as much as a run


def count_beyond(
    costs: Costs | ScriptCosts, experiments: Sequence[Experiment]
) -> list[CountedSize]:
    """About five sizes, even in ln N up to 10 times the largest of ``experiments``, and their counts.

    ``costs`` counts them, or asks the user's function of counts, as multiples of what all sizes
    share. Where one cannot be built or counted its neighbours are tried, then it is left out. Empty
    where the sizes are not whole numbers, and where a token's cost depends on the batch planned for a
    size.
    """
    counts = {e.size_param_value: e.count for e in experiments}
    if not all(isinstance(size, int) and size > 0 for size in counts) or len(counts) < 2:
        return []
    if costs.of(list(counts)) != counts:  # other batches, other costs
        return []
    if any(count.method not in METHODS for count in counts.values()):
        return []
    step, largest = math.gcd(*counts), max(counts)
    beyond: dict[int, CountedSize] = {}
    for value in _targets({size: count.params for size, count in counts.items()}):
        nearest = round(value / step)
        for multiple in (nearest, nearest - 1, nearest + 1):  # heads may not divide every width
            size = step * multiple
            counted = _counted(costs, size) if size > largest else None
            if counted is not None:
                beyond[size] = counted
                break
    return [beyond[size] for size in sorted(beyond)]


def _counted(costs: Costs | ScriptCosts, size: int) -> CountedSize | None:
    """The count of ``size``, or None where it cannot be built or counted."""
    try:
        count = costs.of([size])[size]
    except FlopsFitError:
        return None
    return CountedSize(size, count) if count.method in METHODS else None


def _targets(params: dict[int, int]) -> list[float]:
    """Values of the size, by the slope of ln N between the two largest; none where N does not grow.

    ``params``: N by size.
    """
    below, largest = sorted(params)[-2:]
    slope = np.log(params[largest] / params[below]) / np.log(largest / below)
    if not slope > 0:
        return []
    return [float(largest * REACH ** (i / (COUNT * slope))) for i in range(1, COUNT + 1)]
