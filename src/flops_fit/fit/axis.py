"""Tables in which N and D do not vary apart from each other, and the law that they still support.

Looked for in the design alone, before any fit, so that noise cannot change the verdict.
"""

import numpy as np

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Runs

COLLINEAR = 0.05  # rms distance of ln N and ln D from a line, below which there is one axis
STEADY = 0.05  # spread of ln x below which x counts as held
FEWEST_DISTINCT = 4  # values of x: three unknowns and one to test them
FEWEST_RUNS = 5
GRID = np.geomspace(0.01, 3.0, 60)
MISSING = {
    "params": "all runs have the same D, so that nothing says what more tokens are worth; N* needs "
    "runs with at least 3 values of D at several N",
    "tokens": "all runs have the same N, so that nothing says what more parameters are worth; N* "
    "needs runs of at least 3 sizes at several D",
    "flops": "D follows N in all runs, so that their effects cannot be separated; N* needs sizes "
    "with more and with fewer tokens each, as at fixed compute",
}


def axis_of(runs: Runs, draws: Draws | None, level: float) -> dict | None:
    """FIT.json's ``axis``, None where N and D vary apart from each other.

    ``x`` (params, tokens or flops), ``missing`` (what N* needs), and the law L = E + A x^-alpha
    where the runs support it (else E is None): ``E, A, alpha``, ``draws`` [[E, ln A, alpha]],
    ``range`` of x, ``held`` {name: value} of what did not vary and the table's mean C / (N D).
    """
    log_n, log_d, log_c = (np.log(runs.column(c)) for c in ("params", "tokens", "flops"))
    x = _which(log_n, log_d)
    if x is None:
        return None
    values = {"params": log_n, "tokens": log_d, "flops": log_c}[x]
    entry = {
        "x": x,
        "missing": MISSING[x],
        "range": [float(np.exp(values.min())), float(np.exp(values.max()))],
        "params": float(np.exp(log_n.mean())),
        "tokens": float(np.exp(log_d.mean())),
        "E": None,
        "A": None,
        "alpha": None,
        "level": level,
        "draws": [],
    }
    distinct = len(np.unique(np.round(values, 6)))
    if distinct < FEWEST_DISTINCT or len(values) < FEWEST_RUNS:
        return entry
    weight = np.ones((1, len(values)))
    if draws is not None:
        weight = np.concatenate([weight, draws.weight])
    fits = _power(values, runs.column("loss"), weight)
    e, ln_a, alpha = fits[0]
    return entry | {
        "E": float(e),
        "A": float(np.exp(ln_a)),
        "alpha": float(alpha),
        "draws": fits[1:].tolist(),
    }


def _which(log_n: np.ndarray, log_d: np.ndarray) -> str | None:
    """The one axis of the design, or None where there are two."""
    if np.ptp(log_d) < STEADY:
        return "params"
    if np.ptp(log_n) < STEADY:
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
        log_x - centre, loss, weight, np.broadcast_to(GRID, (len(weight), len(GRID)))
    )
    for width in (0.1, 0.005, 0.00025):
        grid = alpha[:, None] * np.exp(np.linspace(-width, width, 41))
        e, a, alpha = _linear(log_x - centre, loss, weight, grid)
    return np.stack([e, np.log(np.maximum(a, 1e-300)) + alpha * centre, alpha], axis=1)


def _linear(z, loss, weight, alphas):
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


def axis_at(fit: dict, flops: float) -> dict | None:
    """The axis' answer at a budget: ``{x, E, A, alpha, loss, ci, verdict, words}``; None without.

    ``loss``: of the next run along the axis that costs C, with what was held kept; ``ci`` its
    interval (noise alone). ``verdict``: provisional inside 10 times the range, else not identifiable.
    """
    axis = fit["axis"]
    if not axis:
        return None
    told = {key: axis[key] for key in ("x", "E", "A", "alpha")}
    told |= {
        "at": None,
        "loss": None,
        "ci": None,
        "verdict": "not identifiable",
        "missing": axis["missing"],
    }
    if axis["E"] is None:
        return told
    rate = fit["data"]["flops"][1] / (fit["data"]["params"][1] * fit["data"]["tokens"][1])
    held = {"params": axis["tokens"], "tokens": axis["params"], "flops": 1 / rate}[axis["x"]]
    log_x = float(np.log(flops / (rate * held)))
    draws = np.array(axis["draws"]).reshape(-1, 3)
    loss = float(axis["E"] + axis["A"] * np.exp(-axis["alpha"] * log_x))
    ends = None
    if len(draws):
        tails = [(1 - axis["level"]) / 2, (1 + axis["level"]) / 2]
        drawn = draws[:, 0] + np.exp(draws[:, 1] - draws[:, 2] * log_x)
        low, high = np.quantile(drawn, tails)
        ends = [float(min(low, loss)), float(max(high, loss))]
    return told | {"at": float(np.exp(log_x)), "loss": loss, "ci": ends, "verdict": "provisional"}
