"""Where a function of an offset is lowest, for all rows of a law at once."""

from collections.abc import Callable

import numpy as np

GOLDEN, SECTIONS = (np.sqrt(5) - 1) / 2, 40  # ends at 1e-8 of a step of the grid


def lowest(function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, rows: int) -> np.ndarray:
    """The offsets at which ``function`` is lowest, of shape (``rows``,).

    ``function`` takes offsets of shape (..., ``rows``) and gives values of that shape. The best of the
    ascending ``grid`` (n,) is refined by golden sections between its neighbours.
    """
    values = function(np.broadcast_to(grid[:, None], (len(grid), rows)))
    best = np.argmin(values, axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(SECTIONS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        below = function(left) < function(right)
        low, high = np.where(below, low, left), np.where(below, right, high)
    return (low + high) / 2
