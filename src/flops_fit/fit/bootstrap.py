"""Resamples of the runs, as count weights or as signs of residuals.

- ``runs``: runs drawn with replacement (Besiroglu et al. 2024 do so), within each budget where
  budgets are shared: a sweep's design is fixed, and small tables would lose whole curves.
- ``groups``: whole (size, seed) groups drawn with replacement, for runs that share a cause.
- ``wild``: every run kept, its residual multiplied by a random sign (Rademacher), inflated by
  sqrt(n / (n - parameters)); for designed grids, where redrawing runs would tear holes in budgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError

UNITS = ("runs", "groups", "wild")


@dataclass(frozen=True)
class Draws:
    """R resamples of n runs: count weights (R, n), and signs (R, n) where residuals are redrawn."""

    unit: str  # one of `UNITS`
    weight: np.ndarray  # counts (R, n)
    sign: np.ndarray | None = None  # of residuals (R, n)

    def __len__(self) -> int:
        return len(self.weight)

    def take(self, rows: np.ndarray) -> "Draws":
        """The same resamples seen on some of the runs: ``rows`` (k,), their positions."""
        sign = None if self.sign is None else self.sign[:, rows]
        return Draws(self.unit, self.weight[:, rows], sign)

    def first(self, count: int) -> "Draws":
        """The first ``count`` resamples, rows of the same arrays."""
        sign = None if self.sign is None else self.sign[:count]
        return Draws(self.unit, self.weight[:count], sign)


def group_ids(frame: pd.DataFrame) -> np.ndarray:
    """The (size, seed) group of each run in ``frame``, numbered (n,); size may be N."""
    size = frame["size"] if "size" in frame else frame["params"]
    seed = frame["seed"] if "seed" in frame else pd.Series(0, index=frame.index)
    return pd.factorize(pd.MultiIndex.from_arrays([size.astype(str), seed.astype(str)]))[0]


def draw(
    frame: pd.DataFrame,
    unit: str,
    resamples: int,
    generator: np.random.Generator,
    budgets: Sequence[tuple[float, np.ndarray]] = (),
) -> Draws:
    """R = ``resamples`` draws of the runs in ``frame``, one row each, by ``generator``.

    ``unit`` is one of `UNITS`; any other raises `FlopsFitError`. ``budgets``: [(C, rows)] as
    `runs.budget_groups` gives them; runs of none form a stratum.
    """
    n = len(frame)
    if unit == "runs":
        weight = np.zeros((resamples, n))
        held = np.concatenate([rows for _, rows in budgets]) if budgets else np.zeros(0, dtype=int)
        for rows in (*(rows for _, rows in budgets), np.setdiff1d(np.arange(n), held)):
            k = len(rows)
            if k:
                weight[:, rows] = generator.multinomial(k, np.full(k, 1 / k), size=resamples)
        return Draws(unit, weight)
    if unit == "groups":
        group = group_ids(frame)
        k = int(group.max()) + 1
        counts = generator.multinomial(k, np.full(k, 1 / k), size=resamples)
        return Draws(unit, counts[:, group].astype(float))
    if unit == "wild":
        sign = generator.integers(0, 2, size=(resamples, n)) * 2.0 - 1.0
        return Draws(unit, np.ones((resamples, n)), sign)
    raise FlopsFitError(f"resample: {unit!r}; allowed: {', '.join(UNITS)}")
