"""Minima paths as members of the stack: approach 2 over all sizes, and over those near the minimum."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Estimate, Runs, estimate_isoflop
from flops_fit.fit.isoflop import path_law
from flops_fit.fit.laws import PathLaw

WINDOW = 4.0  # factor in N around the lowest run
WINDOWS = {"minima": None, "minima nearby": WINDOW}
FEWEST_BUDGETS = 3  # bracketed budgets: two fix a line, one tests it


@dataclass(frozen=True)
class Path:
    """One path: its laws on J prefixes (``values`` (J, 6), ``usable`` (J,)), and with one budget
    less (``less`` (J, k, 6), for the jackknife), and its resamples (R, 6) or None."""

    name: str  # one of `WINDOWS`
    values: np.ndarray
    usable: np.ndarray
    less: np.ndarray
    known: np.ndarray  # which budgets each prefix has (J, k)
    draws: np.ndarray | None  # resamples (R, 6)

    def at(self, log_c: np.ndarray) -> tuple[dict, dict]:
        """ln N* and ln L* of each prefix, and their jackknife sds, at ``log_c`` = ln C (J, T)."""
        optimum = _optimum(self.values, log_c)
        spread = {}
        count = np.maximum(self.known.sum(axis=1), 1)[:, None]
        for name, value in _optimum(self.less, log_c[:, None]).items():
            off = np.where(self.known[..., None], value - optimum[name][:, None], 0.0)
            off = np.where(
                self.known[..., None], off - off.sum(1, keepdims=True) / count[:, None], 0
            )
            spread[name] = np.sqrt((count - 1) / count * (off**2).sum(axis=1))
        for value in (*optimum.values(), *spread.values()):
            value[~self.usable] = np.nan
        return optimum, spread

    def law(self) -> PathLaw:
        """The path through all budgets."""
        return PathLaw(self.values[-1:])


def _optimum(values: np.ndarray, log_c: np.ndarray) -> dict[str, np.ndarray]:
    u, a, e, ln_k, gamma, _ = (v[..., None] for v in np.moveaxis(values, -1, 0))
    loss = e + np.exp(ln_k - gamma * log_c)
    return {"params": u + a * log_c, "loss": np.log(np.maximum(loss, 1e-300))}


def paths(
    runs: Runs,
    weight: np.ndarray,
    ends: np.ndarray,
    draws: Draws | None,
    draw_weight: np.ndarray | None,
) -> list[Path]:
    """The paths of ``runs`` on prefixes up to ln C = ``ends`` (J,), the last of them all budgets.

    ``weight`` (n,) and ``draw_weight`` (R, n) carry the exclusions; ``draws``: the resamples.
    """
    if len(runs.groups) < FEWEST_BUDGETS:
        return []
    lines = []
    for name, window in WINDOWS.items():
        estimate = estimate_isoflop(runs, draws, weight, draw_weight, window=window)
        path = _path(name, estimate, ends, draws)
        if path is not None:
            lines.append(path)
    return lines


def _path(name: str, estimate: Estimate, ends: np.ndarray, draws: Draws | None) -> Path | None:
    flops, minima = estimate.minima
    log_c = np.log(flops)
    good = np.array([m.status[0] == 0 for m in minima])
    if good.sum() < FEWEST_BUDGETS:
        return None
    columns = [np.array([getattr(m, f)[0] for m in minima]) for f in ("log_n", "loss", "curvature")]

    def laws(held: np.ndarray) -> np.ndarray:
        log_n, loss, curvature = (np.broadcast_to(column, held.shape) for column in columns)
        return path_law(log_c, log_n, loss, curvature, held.astype(float)).values

    known = good & (log_c <= ends[:, None] + 1e-9)
    less = known[:, None, :] & ~np.eye(len(log_c), dtype=bool)
    dropped = laws(less.reshape(-1, len(log_c))).reshape(*known.shape, -1)
    resampled = None
    if draws is not None:
        resampled = np.repeat(estimate.law.values, len(draws), axis=0)
        if estimate.draws is not None:
            resampled[estimate.usable] = estimate.draws.values
    return Path(name, laws(known), known.sum(axis=1) >= FEWEST_BUDGETS, dropped, known, resampled)
