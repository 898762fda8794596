"""What one budget says by itself, without any law: N* and L* of a local curve, and their errors."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.isoflop import FEWEST_SIZES

REACH = np.log(4.0)  # ln N around the lowest run
FEWEST_CUBIC = 7  # sizes
CLUSTERS, FEWEST_IN_CLUSTER = 10, 8  # of a table without shared budgets
Groups = list[tuple[float, np.ndarray]]  # C, and the rows of the runs that share it
TREND = 0.1  # ln C: a group wider than this needs a trend in C


@dataclass(frozen=True)
class Minimum:
    """A measured minimum: ln N*, ln L* and their standard errors at ``flops``.

    ``coefficients`` of ln L in powers of ln N - ``centre``, over the sizes ``span`` [low, high].
    """

    flops: float
    log_n: float  # ln N*
    log_loss: float  # ln L*
    se_n: float  # of ln N*
    se_loss: float  # of ln L*
    coefficients: tuple[float, ...]
    centre: float
    span: tuple[float, float]

    def excess(self, log_n: float) -> float:
        """ln L at ``log_n`` = ln N above the minimum; straight beyond the sizes of the curve."""
        at = float(np.clip(log_n, *self.span))
        rise = np.polynomial.polynomial.polyder(self.coefficients)
        value = np.polynomial.polynomial.polyval(at - self.centre, self.coefficients)
        value += (log_n - at) * np.polynomial.polynomial.polyval(at - self.centre, rise)
        return float(value - self.log_loss)


@dataclass(frozen=True)
class _Curve:
    """A local polynomial: its design, residuals, and the vertex with the gradients of its place."""

    flops: float
    log_n: float
    log_loss: float
    grad_n: np.ndarray
    grad_loss: np.ndarray
    inverse: np.ndarray
    squares: float
    free: int
    coefficients: tuple[float, ...]
    centre: float
    span: tuple[float, float]


def groups_of(log_c: np.ndarray, groups: Groups) -> Groups:
    """The shared budgets ``groups``, or clusters of the runs in ``log_c`` (n,) where there are none."""
    if groups:
        return groups
    count = min(CLUSTERS, len(log_c) // FEWEST_IN_CLUSTER)
    if count < 2:
        return []
    return [(float(np.exp(log_c[rows].mean())), rows) for rows in _clusters(log_c, count)]


def _clusters(log_c: np.ndarray, count: int) -> list[np.ndarray]:
    """k-means on a line, from quantiles; clusters of too few runs join their nearer neighbour."""
    values = np.sort(log_c)
    centres = np.unique(np.quantile(values, (np.arange(count) + 0.5) / count))
    for _ in range(100):
        parts = np.split(values, np.searchsorted(values, (centres[1:] + centres[:-1]) / 2))
        moved = np.array([part.mean() for part in parts if len(part)])
        if len(moved) == len(centres) and np.allclose(moved, centres, atol=1e-9):
            break
        centres = moved
    sizes = [len(part) for part in parts]
    while len(centres) > 2 and min(sizes) < FEWEST_IN_CLUSTER:
        i = int(np.argmin(sizes))
        sides = [j for j in (i - 1, i + 1) if 0 <= j < len(centres)]
        j = min(sides, key=lambda j: abs(centres[j] - centres[i]))
        low, high = min(i, j), max(i, j)
        total = sizes[low] + sizes[high]
        centres[low] = (centres[low] * sizes[low] + centres[high] * sizes[high]) / total
        sizes[low] = total
        del sizes[high]
        centres = np.delete(centres, high)
    edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
    order = np.argsort(log_c, kind="stable")
    return [np.sort(part) for part in np.split(order, edges) if len(part)]


def _curve(
    flops: float, x: np.ndarray, log_loss: np.ndarray, log_c: np.ndarray, weight: np.ndarray
) -> _Curve | None:
    """The local curve of one group, or None where it shows no minimum inside its sizes."""
    keep = weight > 0
    x, y, t = x[keep], log_loss[keep], log_c[keep] - np.log(flops)
    sizes = np.unique(x)
    if len(sizes) < FEWEST_SIZES:
        return None
    trend = [t] if np.ptp(t) > TREND else []
    centre = _lowest(x, y, trend)
    reach = max(REACH, np.sort(np.abs(sizes - centre))[min(FEWEST_SIZES, len(sizes) - 1)])
    near = np.abs(x - centre) <= reach + 1e-9
    x, y, trend = x[near], y[near], [v[near] for v in trend]
    sizes = np.unique(x)
    degree = 3 if len(sizes) >= FEWEST_CUBIC else 2
    z = x - centre
    design = np.stack([*(z**k for k in range(degree + 1)), *trend], axis=1)
    free = len(y) - design.shape[1]
    if free < 0 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse = np.linalg.inv(design.T @ design)
    c = inverse @ (design.T @ y)
    squares = float(((y - design @ c) ** 2).sum())
    vertex = _vertex(c[: degree + 1], sizes[0] - centre, sizes[-1] - centre)
    if vertex is None:
        return None
    powers = np.arange(degree + 1)
    first = np.append(powers * vertex ** np.maximum(powers - 1, 0), [0.0] * len(trend))
    value = np.append(vertex**powers, [0.0] * len(trend))
    second = 2 * c[2] + (6 * c[3] * vertex if degree == 3 else 0.0)
    return _Curve(
        flops,
        centre + vertex,
        float(value @ c),
        -first / second,
        value,
        inverse,
        squares,
        free,
        tuple(map(float, c[: degree + 1])),
        centre,
        (float(sizes[0]), float(sizes[-1])),
    )


def _lowest(x: np.ndarray, y: np.ndarray, trend: list[np.ndarray]) -> float:
    """ln N around which to look: of the lowest run, once a trend in C is taken off."""
    if not trend:
        return float(x[np.argmin(y)])
    z = x - x.mean()
    design = np.stack([np.ones_like(z), z, z**2, *trend], axis=1)
    c = np.linalg.lstsq(design, y, rcond=None)[0]
    return float(x[np.argmin(design[:, :3] @ c[:3])])


def _vertex(c: np.ndarray, low: float, high: float) -> float | None:
    """The minimum of a polynomial strictly inside (low, high), or None."""
    roots = np.roots(np.polynomial.polynomial.polyder(c)[::-1])
    roots = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    second = np.polynomial.polynomial.polyder(c, 2)
    inside = [
        r for r in roots if low < r < high and np.polynomial.polynomial.polyval(r, second) > 1e-9
    ]
    if not inside:
        return None
    return float(min(inside, key=lambda r: np.polynomial.polynomial.polyval(r, c)))


def measure(
    log_n: np.ndarray, log_loss: np.ndarray, log_c: np.ndarray, groups: Groups, weight: np.ndarray
) -> list[Minimum | None]:
    """The minimum of each of ``groups`` with its error, or None where it is not bracketed.

    ``log_n``, ``log_loss`` and ``log_c``: ln N, ln L and ln C of the runs, arrays (n,); runs of
    ``weight`` (n,) 0 are left out. The scatter behind the errors is pooled over the
    groups, since one alone has few degrees of freedom.
    """
    curves = [_curve(c, log_n[r], log_loss[r], log_c[r], weight[r]) for c, r in groups]
    used = [curve for curve in curves if curve]
    free = sum(curve.free for curve in used)
    variance = sum(curve.squares for curve in used) / max(free, 1)

    def minimum(curve: _Curve) -> Minimum:
        se_n, se_loss = (
            float(np.sqrt(variance * (g @ curve.inverse @ g)))
            for g in (curve.grad_n, curve.grad_loss)
        )
        return Minimum(
            curve.flops,
            curve.log_n,
            curve.log_loss,
            se_n,
            se_loss,
            curve.coefficients,
            curve.centre,
            curve.span,
        )

    return [None if curve is None else minimum(curve) for curve in curves]
