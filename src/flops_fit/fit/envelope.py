"""Approach 1: the lower envelope of the training curves (Hoffmann et al. 2022).

At many values of C the lowest curve names N*; a power law goes through them. The sizes tried
quantise N*, so the lowest size and its two neighbours are joined by a parabola in ln N. Curves of a
decaying learning rate are high before their end: the envelope then leans on the runs' last points,
which is why it is a cross-check and has to win the held-out test to be more.
"""

import numpy as np
import pandas as pd

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Estimate, Runs
from flops_fit.fit.isoflop import path_law
from flops_fit.fit.laws import PathLaw

LEVELS = 30  # values of C
FEWEST_LEVELS = 4
FEWEST_SPAN = np.log(2)  # ln C
SMOOTH = 0.05  # ln C: half width of the running mean over a curve


def _smooth(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Mean of the points within +-5% in C of each point."""
    total = np.concatenate([[0.0], np.cumsum(loss)])
    low = np.searchsorted(log_c, log_c - SMOOTH)
    high = np.searchsorted(log_c, log_c + SMOOTH, side="right")
    return (total[high] - total[low]) / (high - low)


def _table(runs: Runs, curves: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """ln C of the levels (k,) and the loss of each run there (n, k); inf off its curve."""
    parts = {}
    rows = {name: i for i, name in enumerate(runs.frame["experiment_id"])}
    for name, curve in curves.groupby("experiment_id"):
        curve = curve[(curve["flops"] > 0) & np.isfinite(curve["loss"])].sort_values("flops")
        if str(name) in rows and len(curve) >= 2:
            log_c = np.log(curve["flops"].to_numpy(dtype=float))
            parts[rows[str(name)]] = log_c, _smooth(log_c, curve["loss"].to_numpy(dtype=float))
    if len(parts) < 2:
        return np.zeros(0), np.zeros((len(runs), 0))
    ends = [c[-1] for c, _ in parts.values()]
    levels = np.linspace(min(ends), max(ends), LEVELS)
    table = np.full((len(runs), LEVELS), np.inf)
    for i, (log_c, loss) in parts.items():
        table[i] = np.interp(levels, log_c, loss, left=np.inf, right=np.inf)
    return levels, table


def _minima(
    log_n: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N*, loss, curvature and bracketed, each (R, k), from losses (R, sizes, k) at ln N (sizes,)."""
    lowest = np.argmin(table, axis=1)
    inner = np.clip(lowest, 1, len(log_n) - 2)
    around = [np.take_along_axis(table, (inner + d)[:, None], axis=1)[:, 0] for d in (-1, 0, 1)]
    ok = np.isfinite(around).all(axis=0) & (lowest == inner)
    y0, y1, y2 = (np.where(ok, y, 0.0) for y in around)
    x0, x1, x2 = (log_n[inner + d] for d in (-1, 0, 1))
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = np.maximum((right - left) / (x2 - x0), 1e-12)
    vertex = np.where(ok, (x0 + x1) / 2 - left / (2 * curvature), 0.0)
    vertex = np.clip(vertex, x0, x2)
    loss = y1 + (vertex - x1) * (left + curvature * (vertex - x0))
    return vertex, np.where(ok, loss, 0.0), curvature, ok


def estimate_envelope(
    runs: Runs, curves: pd.DataFrame, draws: Draws | None = None, weight: np.ndarray | None = None
) -> Estimate:
    """Approach 1 on ``runs`` with their ``curves`` (columns experiment_id, flops, loss).

    ``weight`` (n,): 0 leaves a run out. ``draws``: resamples, which drop the curves of runs that they
    do not hold.
    """
    weight = np.ones(len(runs)) if weight is None else weight
    levels, table = _table(runs, curves)
    flat = PathLaw(np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]))
    if not len(levels):
        why = "fewer than two runs have a loss curve"
        return Estimate("envelope", flat, "too_few_points", why, weight, detail=[])
    order = np.argsort(np.log(runs.column("params")), kind="stable")
    log_n, starts = np.unique(np.log(runs.column("params"))[order], return_index=True)
    if len(log_n) < 3:
        why = f"{len(log_n)} sizes; at least 3 are needed"
        return Estimate("envelope", flat, "too_few_points", why, weight, detail=[])

    def by_size(present: np.ndarray) -> np.ndarray:
        """Lowest loss of each size at each level over the runs present: (R, sizes, k)."""
        masked = np.where(present[:, order, None] > 0, table[order][None], np.inf)
        return np.minimum.reduceat(masked, starts, axis=1)

    log_n_opt, loss, curvature, ok = _minima(log_n, by_size(weight[None]))
    enough = ok[0].sum() >= FEWEST_LEVELS and np.ptp(levels[ok[0]]) >= FEWEST_SPAN
    if not enough:
        why = f"{int(ok.sum())} of {LEVELS} values of C have the lowest curve between two others"
        return Estimate("envelope", flat, "too_few_points", why, weight, detail=[])
    law = path_law(levels, log_n_opt, loss, curvature, ok.astype(float))
    points = np.exp(np.column_stack([levels, log_n_opt[0]]))[ok[0]]
    detail = [
        [float(c), float(n), float(y)] for (c, n), y in zip(points, loss[0, ok[0]], strict=True)
    ]
    why = f"{int(ok.sum())} of {LEVELS} values of C bracketed"
    if draws is None:
        return Estimate("envelope", law, "bracketed", why, weight, detail=detail)
    drawn = [_minima(log_n, by_size(w[None] * weight)) for w in draws.weight]
    log_n_opt, loss, curvature, ok = (np.concatenate(v) for v in zip(*drawn, strict=True))
    usable = ok.sum(axis=1) >= FEWEST_LEVELS
    drawn_law = None
    if usable.any():
        drawn_law = path_law(
            levels, log_n_opt[usable], loss[usable], curvature[usable], ok[usable].astype(float)
        )
    return Estimate("envelope", law, "bracketed", why, weight, drawn_law, usable, detail=detail)
