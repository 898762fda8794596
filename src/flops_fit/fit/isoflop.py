"""Approach 2: the minimum of each compute budget, and the path through them.

Hoffmann et al. 2022, approach 2: at each budget a parabola of the loss in ln N, whose vertex is
N*; then ln N* on a line in ln C. A vertex counts only where it is a minimum that the runs bracket.
All arrays hold R versions (1 for the estimate, R for resamples) over count weights.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from flops_fit.fit.laws import PathLaw

FEWEST_SIZES = 4  # three coefficients of a parabola and one to test it
GAMMAS = np.geomspace(0.01, 1.0, 60)
STATUSES = ("bracketed", "at_edge", "no_minimum", "too_few_points")

MOST_WIDTH = 1e9  # of a parabola in ln N, over L* - E


@dataclass(frozen=True)
class Minima:
    """Minima of one budget: log_n, loss, curvature, status (index into STATUSES), each (R,).

    ``coefficients`` (R, 3): loss = c0 + c1 z + c2 z^2 with z = ln N - ``centre``.
    """

    log_n: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray
    status: np.ndarray
    coefficients: np.ndarray
    centre: float


def _size_means(
    x: np.ndarray, loss: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct ln N (k,), mean loss (R, k) over the weights, and total weights (R, k)."""
    sizes, which = np.unique(x, return_inverse=True)
    member = np.eye(len(sizes))[which]
    total = weight @ member
    mean = (weight * loss) @ member / np.maximum(total, 1e-300)
    return sizes, np.where(total > 0, mean, np.inf), total


def parabola_minimum(
    x: np.ndarray,
    loss: np.ndarray,
    weight: np.ndarray,
    window: float | None = None,
    fewest: int = FEWEST_SIZES,
) -> Minima:
    """Least-squares parabola of ``loss`` (R or 1, n) in ``x`` = ln N (n,) under ``weight`` (R, n).

    ``window`` keeps only sizes within that factor of the lowest one (and at least ``fewest`` of
    them): a parabola over a wide grid is biased, by -5% in D at +-16x for Chinchilla's exponents.
    With fewer than ``fewest`` sizes there is no minimum.
    """
    weight = np.atleast_2d(weight)
    loss = np.broadcast_to(np.atleast_2d(loss), weight.shape)
    unused = np.asarray(
        weight.sum(axis=1) == 0
    )  # every run left out: the lowest is given, as of too few points
    weight = np.where(unused[:, None], 1.0, weight)
    centre = float(x.mean())
    sizes, mean, total = _size_means(x, loss, weight)
    present = total > 0
    lowest = np.argmin(mean, axis=1)
    if window is not None:
        far = np.abs(sizes[None] - sizes[lowest][:, None])
        reach = np.maximum(
            np.log(window),
            np.sort(np.where(present, far, np.inf), axis=1)[:, min(fewest, len(sizes)) - 1],
        )
        near = np.abs(x[None] - sizes[lowest][:, None]) <= reach[:, None] + 1e-12
        weight = weight * near
    scale = max(float(np.ptp(x)) / 2, 1e-9)
    z = (x - centre) / scale
    powers = np.stack([z**k for k in range(5)], axis=1)
    moments = weight @ powers
    right = (weight * loss) @ powers[:, :3]
    gram = moments[:, np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]])]
    gram = gram + 1e-13 * (1 + moments[:, :1, None]) * np.eye(3)
    c = np.linalg.solve(gram, right[..., None])[..., 0]
    curved = c[:, 2] > 1e-12 * np.abs(c[:, 0])
    vertex = np.where(curved, -c[:, 1] / np.where(curved, 2 * c[:, 2], 1.0), 0.0)
    log_n = centre + scale * vertex
    at_vertex = c[:, 0] + c[:, 1] * vertex + c[:, 2] * vertex**2
    first = np.argmax(present, axis=1)
    last = len(sizes) - 1 - np.argmax(present[:, ::-1], axis=1)
    inside = (log_n > sizes[first]) & (log_n < sizes[last]) & (lowest > first) & (lowest < last)
    status = np.where(inside, 0, 1)
    status = np.where(curved, status, 2)
    status = np.where((present.sum(axis=1) >= fewest) & ~unused, status, 3)
    rows = np.arange(len(weight))
    log_n = np.where(status == 0, log_n, sizes[lowest])
    at = np.where(status == 0, at_vertex, mean[rows, lowest])
    coefficients = np.stack([c[:, 0], c[:, 1] / scale, c[:, 2] / scale**2], axis=1)
    return Minima(log_n, at, coefficients[:, 2], status, coefficients, centre)


def akima_minimum(
    x: np.ndarray, loss: np.ndarray, weight: np.ndarray, fewest: int = FEWEST_SIZES
) -> Minima:
    """The minimum read off an Akima curve through the mean losses of the sizes.

    ``x``, ``loss``, ``weight`` and ``fewest``: as `parabola_minimum` takes them, of the same shapes.
    Porian et al. 2024 (2406.19146) interpolate so. It follows the runs (and their noise) where a
    parabola would impose its symmetry; curvature and coefficients still are the parabola's.
    """
    base = parabola_minimum(x, loss, weight, fewest=fewest)
    weight = np.atleast_2d(weight)
    loss = np.broadcast_to(np.atleast_2d(loss), weight.shape)
    sizes, mean, total = _size_means(x, loss, weight)
    log_n, at = base.log_n.copy(), base.loss.copy()
    status = np.where(base.status == 2, 1, base.status)
    for r in np.flatnonzero(base.status < 3):
        has = total[r] > 0
        knots, values = sizes[has], mean[r, has]
        lowest = int(np.argmin(values))
        if not 0 < lowest < len(knots) - 1:
            continue
        grid = np.linspace(knots[lowest - 1], knots[lowest + 1], 2001)
        curve = Akima1DInterpolator(knots, values)(grid)
        best = int(np.argmin(curve))
        log_n[r], at[r], status[r] = grid[best], curve[best], 0
    return Minima(log_n, at, base.curvature, status, base.coefficients, base.centre)


def loss_law(log_c: np.ndarray, loss: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(R, 3) of E, ln K, gamma in L* = E + K C^-gamma.

    ``log_c`` (k,): ln C of the minima; ``loss`` and ``weight`` (R, k): their losses and weights. E and K
    are linear given gamma, gamma comes from a grid and is refined in it once; E >= 0. With two
    budgets E cannot be known and is 0.
    """
    centre = log_c.mean()
    z = log_c - centre
    count = (weight > 0).sum(axis=1)

    def solve(gammas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        basis = np.exp(-gammas[..., None] * z)
        w = weight[:, None, :]
        total = w.sum(axis=2)
        b1, b2 = (w * basis).sum(axis=2), (w * basis**2).sum(axis=2)
        l1, lb = (w * loss[:, None]).sum(axis=2), (w * loss[:, None] * basis).sum(axis=2)
        k = (total * lb - b1 * l1) / np.maximum(total * b2 - b1**2, 1e-300)
        e = (l1 - k * b1) / np.maximum(total, 1e-300)
        bad = (e < 0) | (count < 3)[:, None]
        k, e = np.where(bad, lb / np.maximum(b2, 1e-300), k), np.where(bad, 0.0, e)
        k = np.maximum(k, 1e-300)
        miss = (w * (loss[:, None] - e[..., None] - k[..., None] * basis) ** 2).sum(axis=2)
        best = np.argmin(miss, axis=1)
        rows = np.arange(len(loss))
        return (
            gammas[rows, best] if gammas.ndim == 2 else gammas[best],
            e[rows, best],
            k[rows, best],
        )

    gamma, _, _ = solve(np.broadcast_to(GAMMAS, (len(loss), len(GAMMAS))))
    step = np.log(GAMMAS[1] / GAMMAS[0])
    for width in (step, step / 20, step / 400):
        gamma, e, k = solve(gamma[:, None] * np.exp(np.linspace(-width, width, 41)))
    return np.column_stack([e, np.log(k) + gamma * centre, gamma])


def path_law(
    log_c: np.ndarray,
    log_n: np.ndarray,
    loss: np.ndarray,
    curvature: np.ndarray,
    weight: np.ndarray,
) -> PathLaw:
    """The law through minima at ``log_c`` of shape (k,), by weighted least squares.

    ``log_n``, ``loss`` and ``curvature`` (R, k): of the minima; ``weight`` (R, k): 0 leaves a
    budget out.
    """
    mass = np.maximum(weight.sum(axis=1), 1e-300)
    mean_c = (weight @ log_c) / mass
    mean_n = (weight * log_n).sum(axis=1) / mass
    dc = log_c[None] - mean_c[:, None]
    spread = (weight * dc**2).sum(axis=1)
    slope = (weight * dc * (log_n - mean_n[:, None])).sum(axis=1) / np.maximum(spread, 1e-300)
    slope = np.where(spread > 1e-12, slope, 0.0)
    law = loss_law(log_c, loss, weight)
    above = np.exp(law[:, 1:2] - law[:, 2:3] * log_c[None])
    share = np.clip(curvature, 1e-12, None) / np.maximum(above, 1e-300)
    share = np.minimum(share, MOST_WIDTH)  # L* - E of a law that is none may be nothing
    width = (weight * share).sum(axis=1) / mass
    return PathLaw(np.column_stack([mean_n - slope * mean_c, slope, law, width]))
