"""Tables in which N and D do not vary apart from each other, and the law that they still support.

Looked for in the design alone, before any fit, so that noise cannot change the verdict.
"""

from dataclasses import replace

import numpy as np

from flops_fit.fit.answer import NOT_IDENTIFIABLE, PROVISIONAL, AxisAnswer
from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Runs
from flops_fit.fit.numbers import interval
from flops_fit.fit.options import FEWEST_RUNS
from flops_fit.fit.result import Fit
from flops_fit.fit.sections import AxisEntry

COLLINEAR = 0.05  # rms distance of ln N and ln D from a line, below which there is one axis
CONSTANT = 0.05  # spread of ln x below which x counts as constant
FEWEST_VALUES = 4  # of x: three parameters of the law and one to test them
ALPHAS = np.geomspace(0.01, 3.0, 60)
MISSING = {
    "params": "all runs have the same D, so they do not show what more tokens are worth; N* needs "
    "runs with at least 3 values of D at several N",
    "tokens": "all runs have the same N, so they do not show what more parameters are worth; N* "
    "needs runs of at least 3 sizes at several D",
    "flops": "D follows N in all runs, so their effects cannot be separated; N* needs each size with "
    "more and with fewer tokens, as at fixed compute",
}


def axis_of(runs: Runs, draws: Draws | None, level: float) -> AxisEntry | None:
    """The one axis of ``runs`` and the law along it, None where N and D vary apart from each other.

    ``draws``: the resamples behind its intervals of ``level``. The law L = E + A x^-alpha stands
    only where the runs support it; else E, A and alpha are None.
    """
    log_n, log_d, log_c = (np.log(runs.column(c)) for c in ("params", "tokens", "flops"))
    x = _which(log_n, log_d)
    if x is None:
        return None
    values = {"params": log_n, "tokens": log_d, "flops": log_c}[x]
    entry = AxisEntry(
        x=x,
        missing=MISSING[x],
        range=[float(np.exp(values.min())), float(np.exp(values.max()))],
        params=float(np.exp(log_n.mean())),
        tokens=float(np.exp(log_d.mean())),
        E=None,
        A=None,
        alpha=None,
        level=level,
        draws=[],
    )
    distinct = len(np.unique(np.round(values, 6)))
    if distinct < FEWEST_VALUES or len(values) < FEWEST_RUNS:
        return entry
    weight = np.ones((1, len(values)))
    if draws is not None:
        weight = np.concatenate([weight, draws.weight])
    fits = _power(values, runs.column("loss"), weight)
    e, ln_a, alpha = fits[0]
    return replace(
        entry, E=float(e), A=float(np.exp(ln_a)), alpha=float(alpha), draws=fits[1:].tolist()
    )


def _which(log_n: np.ndarray, log_d: np.ndarray) -> str | None:
    """The one axis of the design, or None where there are two."""
    if np.ptp(log_d) < CONSTANT:
        return "params"
    if np.ptp(log_n) < CONSTANT:
        return "tokens"
    points = np.stack([log_n - log_n.mean(), log_d - log_d.mean()], axis=1)
    if points[:, 0] @ points[:, 1] <= 0:  # D falls as N grows: a budget, which has an optimum
        return None
    narrow = np.linalg.svd(points, compute_uv=False)[-1] / np.sqrt(len(points))
    return "flops" if narrow < COLLINEAR else None


def _power(log_x: np.ndarray, loss: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(R, 3) of E, ln A, alpha in L = E + A x^-alpha by relative least squares, weights (R, n)."""
    centre = log_x.mean()
    e, a, alpha = _linear(
        log_x - centre, loss, weight, np.broadcast_to(ALPHAS, (len(weight), len(ALPHAS)))
    )
    for width in (0.1, 0.005, 0.00025):
        grid = alpha[:, None] * np.exp(np.linspace(-width, width, 41))
        e, a, alpha = _linear(log_x - centre, loss, weight, grid)
    return np.stack([e, np.log(np.maximum(a, 1e-300)) + alpha * centre, alpha], axis=1)


def _linear(
    z: np.ndarray, loss: np.ndarray, weight: np.ndarray, alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best E >= 0, A >= 0 and alpha of each row of ``alphas`` (R, k)."""
    basis = np.exp(-alphas[..., None] * z)
    w = (weight / loss**2)[:, None]
    total, b1, b2 = w.sum(-1), (w * basis).sum(-1), (w * basis**2).sum(-1)
    l1, lb = (w * loss).sum(-1), (w * loss * basis).sum(-1)
    a = (total * lb - b1 * l1) / np.maximum(total * b2 - b1**2, 1e-300)
    e = (l1 - a * b1) / total
    flat, low = a < 0, e < 0
    a, e = np.where(low, lb / b2, a), np.where(low, 0.0, e)
    a, e = np.where(flat, 0.0, a), np.where(flat, l1 / total, e)
    miss = (w * (loss - e[..., None] - a[..., None] * basis) ** 2).sum(-1)
    rows, at = np.arange(len(alphas)), np.argmin(miss, axis=1)
    return e[rows, at], a[rows, at], alphas[rows, at]


def axis_at(fit: Fit, flops: float) -> AxisAnswer | None:
    """What ``fit`` supports along its one axis at C = ``flops``; None where N and D vary apart.

    ``loss`` is that of the run along the axis that costs C, with what was held fixed kept; ``ci`` its
    interval (noise only). ``verdict``: provisional where the runs support a law, else not
    identifiable.
    """
    axis = fit.axis
    if axis is None:
        return None
    if axis.E is None or axis.A is None or axis.alpha is None:
        nothing = (None,) * 6
        return AxisAnswer(axis.x, *nothing, NOT_IDENTIFIABLE, axis.missing)
    data = fit.data
    rate = data.flops[1] / (data.params[1] * data.tokens[1])
    held = {"params": axis.tokens, "tokens": axis.params, "flops": 1 / rate}[axis.x]
    log_x = float(np.log(flops / (rate * held)))
    draws = np.array(axis.draws).reshape(-1, 3)
    loss = float(axis.E + axis.A * np.exp(-axis.alpha * log_x))
    ends = None
    if len(draws):
        drawn = draws[:, 0] + np.exp(draws[:, 1] - draws[:, 2] * log_x)
        low, high = interval(drawn, axis.level)
        ends = [min(low, loss), max(high, loss)]
    at = float(np.exp(log_x))
    law = (axis.E, axis.A, axis.alpha)
    return AxisAnswer(axis.x, *law, at, loss, ends, PROVISIONAL, axis.missing)
