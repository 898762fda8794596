"""Approach 3: the parametric surface L(N, D) = E + A / N^alpha + B / D^beta.

Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, fitted as Besiroglu et al. 2024 (2404.10102)
ask for: residuals of ln L summed under a Huber loss, inputs centred in log space, and a minimiser
that ends at the minimum. Starts come from variable projection: for every (alpha, beta) of a grid
the best E, A, B >= 0 is a small linear problem. Each start is then followed by Newton's method
while the Huber threshold shrinks, because with a small threshold alone it can stick.
"""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.design import Design
from flops_fit.fit.newton import Batch, Form, minimise

HOFFMANN_DELTA = 1e-3  # Hoffmann et al. 2022, approach 3
EFFICIENCY = 1.345  # Huber 1981: 95% efficient under normal noise
MAD_TO_SD = 1.4826  # median |r| of a normal is sd / 1.4826
SCALE_FLOOR = 1e-9  # relative; exact data must lose no run
EXCLUDE_BEYOND = 6.0  # robust scales
EXCLUDE_AT_MOST = 0.10  # of the runs
CONTINUATION = (3e-2, 1e-2, 3e-3, 1e-3)
EXPONENTS = np.geomspace(0.03, 2.5, 28)
STARTS = 8
LONG_DESCENT = 150  # iterations: along a flat valley Newton creeps
E_FLOOR = 1e-6  # of the lowest loss: below it E is "at bound"
EXPONENT_BOUNDS = (1e-3, 6.0)


@dataclass(frozen=True)
class Data:
    """Runs ready to fit: log_loss, x, y of shape (n,); x = ln N - centre[0], y = ln D - centre[1]."""

    log_loss: np.ndarray
    design: Design  # x and y
    centre: tuple[float, float]

    @classmethod
    def of(cls, params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> "Data":
        """From N (``params``), D (``tokens``) and ``loss``, each of shape (n,), positive."""
        x, y = np.log(params), np.log(tokens)
        centre = (float(x.mean()), float(y.mean()))
        return cls(np.log(loss), Design(x - centre[0], y - centre[1]), centre)

    def take(self, rows: np.ndarray) -> "Data":
        """The runs at ``rows`` (k,), with the same centre, so that theta keeps its meaning."""
        design = Design(self.design.x[rows], self.design.y[rows])
        return Data(self.log_loss[rows], design, self.centre)

    def __len__(self) -> int:
        return len(self.log_loss)


def _bounds(data: Data) -> tuple[np.ndarray, np.ndarray]:
    low, high = data.log_loss.min(), data.log_loss.max()
    lower = np.array([low + np.log(E_FLOOR), low - 40, low - 40, *[EXPONENT_BOUNDS[0]] * 2])
    upper = np.array([high, high + 10, high + 10, *[EXPONENT_BOUNDS[1]] * 2])
    return lower, upper


def free_form(data: Data) -> Form:
    """E, A, B, alpha and beta all free, within bounds that suit ``data``."""
    return Form("surface", np.eye(5), np.zeros(5), *_bounds(data))


def tied_form(data: Data) -> Form:
    """alpha = beta: one exponent, for grids too small for two; bounds suit ``data``."""
    basis = np.zeros((5, 4))
    basis[[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]] = 1
    return Form("tied", basis, np.zeros(5), *_bounds(data))


def fixed_e_form(data: Data, irreducible: float) -> Form:
    """E held at ``irreducible`` (unit of the losses), the other four free; bounds suit ``data``."""
    offset = np.array([np.log(irreducible), 0, 0, 0, 0])
    lower, upper = _bounds(data)
    lower[0] = min(lower[0], offset[0])
    upper[0] = max(upper[0], offset[0])
    return Form("fixed_e", np.eye(5)[:, 1:], offset, lower, upper)


@dataclass(frozen=True)
class Surface:
    """A fitted surface; theta as in `newton`, residuals ln L - ln Lhat of all runs (n,)."""

    form: Form  # what is free
    theta: np.ndarray
    centre: tuple[float, float]  # of ln N and ln D
    objective: float  # summed Huber loss
    delta: float  # Huber threshold
    scale: float  # robust scale of the residuals
    weight: np.ndarray  # 1 for runs used (n,)
    residual: np.ndarray  # (n,)
    converged: bool  # whether the minimiser ended at a minimum
    starts: int  # of the search
    spread: float  # relative, of the objectives of the starts
    same_minimum: int  # starts that ended there

    @property
    def n_runs(self) -> int:
        """Runs that the fit used."""
        return int((self.weight > 0).sum())


def coefficients(theta: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """E, A, B, alpha, beta, of shape (..., 5), from ``theta`` (..., 5) around ``centre``."""
    theta = np.asarray(theta)
    e, p, q, alpha, beta = np.moveaxis(theta, -1, 0)
    log_a, log_b = p + alpha * centre[0], q + beta * centre[1]
    return np.stack([np.exp(e), np.exp(log_a), np.exp(log_b), alpha, beta], axis=-1)


def _nonnegative(gram: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """min_c>=0 c^T gram c - 2 right^T c for many 3 x 3 problems: c (..., 3) and the minimum.

    With three coefficients all seven supports are tried: exact, and one batch of solves each.
    """
    best = np.full(right.shape[:-1], np.inf)
    solution = np.zeros_like(right)
    for support in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]):
        g = gram[..., support, :][..., :, support]
        ridge = 1e-14 * np.trace(g, axis1=-2, axis2=-1) + np.finfo(float).tiny
        g = g + ridge[..., None, None] * np.eye(len(support))
        c = np.linalg.solve(g, right[..., support, None])[..., 0]
        value = -np.einsum("...i,...i->...", right[..., support], c)
        take = (c >= 0).all(axis=-1) & (value < best)
        best = np.where(take, value, best)
        full = np.zeros_like(right)
        full[..., support] = c
        solution = np.where(take[..., None], full, solution)
    return solution, best


def projected_starts(data: Data, form: Form, weight: np.ndarray, count: int = STARTS) -> np.ndarray:
    """Starts theta (<= ``count``, 5): the lowest local minima over a grid of (alpha, beta).

    ``data``: the n runs, of ``weight`` (n,); ``form``: what is free. For each pair, E, A', B' >= 0
    minimise the relative squared error sum w (Lhat / L - 1)^2.
    """
    alpha, beta = (g.ravel() for g in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    if form.name == "tied":
        alpha = beta = EXPONENTS
    inverse = np.exp(-data.log_loss)
    ones = np.broadcast_to(inverse, (len(alpha), len(data)))
    columns = np.stack(
        [
            ones,
            np.exp(-alpha[:, None] * data.design.x) * inverse,
            np.exp(-beta[:, None] * data.design.y) * inverse,
        ],
        axis=1,
    )
    norm = np.sqrt((columns**2).mean(axis=-1, keepdims=True))
    columns = columns / norm
    gram = np.einsum("gin,gjn,n->gij", columns, columns, weight, optimize=True)
    solution, value = _nonnegative(gram, columns @ weight)
    solution = solution / norm[..., 0]
    if form.name == "tied":
        lowest = list(np.argsort(value)[:count])
    else:
        grid = value.reshape(len(EXPONENTS), len(EXPONENTS))
        padded = np.pad(grid, 1, constant_values=np.inf)
        around = np.min(
            [
                np.roll(padded, (i, j), (0, 1))[1:-1, 1:-1]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
                if i or j
            ],
            axis=0,
        )
        order = np.argsort(value)
        local = [i for i in order if (grid <= around).ravel()[i]]
        # Valleys are long and flat: besides the local minima, well-spread good cells.
        spread = list(order[: len(order) // 4 : max(1, len(order) // 4 // count)])
        lowest = list(dict.fromkeys(local[: count // 2] + spread))[:count]
    with np.errstate(divide="ignore"):
        theta = np.column_stack([np.log(solution[lowest]), alpha[lowest], beta[lowest]])
    if form.name == "fixed_e":
        theta[:, 0] = form.offset[0]
    return np.clip(theta, form.lower, form.upper)


def robust_scale(residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """1.4826 median |r|, floored, of shape (R,).

    ``residual`` and ``weight``: of shape (R, n), the weights being counts.
    """
    size = np.abs(residual)
    order = np.argsort(size, axis=-1)
    size = np.take_along_axis(size, order, axis=-1)
    mass = np.cumsum(np.take_along_axis(weight, order, axis=-1), axis=-1)
    half = mass[..., -1:] / 2
    middle = np.argmax(mass >= half, axis=-1)[..., None]
    upper = np.argmax(mass > half, axis=-1)[..., None]
    median = (
        np.take_along_axis(size, middle, axis=-1) + np.take_along_axis(size, upper, axis=-1)
    ) / 2
    return np.maximum(MAD_TO_SD * median[..., 0], SCALE_FLOOR)


def far_runs(residual: np.ndarray, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which runs lie beyond 6 robust scales, the farthest first, at most 10%: bool, of shape (R, n).

    ``residual`` and ``weight``: (R, n), the weights being counts; ``scale``: (R,).
    """
    size = np.where(weight > 0, np.abs(residual), 0.0)
    far = size > EXCLUDE_BEYOND * np.asarray(scale)[..., None]
    if not far.any():
        return far
    allowed = np.floor(EXCLUDE_AT_MOST * weight.sum(axis=-1, keepdims=True) + 1e-9)
    order = np.argsort(-size, axis=-1)
    used = np.cumsum(np.take_along_axis(weight * far, order, axis=-1), axis=-1)
    within = np.zeros_like(far)
    np.put_along_axis(within, order, used <= allowed, axis=-1)
    return far & within


def ladder(final: float, steps: tuple[float, ...] = CONTINUATION) -> list[float]:
    """Thresholds down to ``final`` by way of ``steps``: from a small one alone a descent can stick."""
    return [d for d in steps if d > 2 * final] + [final]


def _descend(data: Data, form: Form, theta: np.ndarray, weight: np.ndarray, delta: float) -> Batch:
    """Follow starts down the ladder of thresholds to ``delta``."""
    for step in ladder(delta):
        tolerance = 1e-13 if step == delta else 1e-4
        batch = minimise(
            form, theta, data.log_loss, weight, step, data.design, tolerance, LONG_DESCENT
        )
        theta = batch.theta
    return batch


def _polish(
    data: Data, form: Form, theta: np.ndarray, weight: np.ndarray, delta: float
) -> tuple[np.ndarray, float, np.ndarray]:
    """Gauss-Newton steps by QR in extended precision, for exact data.

    Normal equations square the condition number; on noise-free runs that costs the last digits.
    Taken only while the objective falls.
    """
    wide = np.longdouble
    x, y, log_loss = (v.astype(wide) for v in (data.design.x, data.design.y, data.log_loss))

    def evaluate(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        e, p, q, alpha, beta = at.astype(wide)
        terms = np.stack([np.exp(e) + 0 * x, np.exp(p - alpha * x), np.exp(q - beta * y)])
        total = terms.sum(axis=0)
        r = log_loss - np.log(total)
        u = np.clip(r, -delta, delta)
        s = terms / total
        jacobian = np.stack([s[0], s[1], s[2], -x * s[1], -y * s[2]], axis=1)
        return (weight * u * (r - u / 2)).sum(), r, jacobian

    value, r, jacobian = evaluate(theta)
    for _ in range(8):
        root = np.sqrt(weight * np.minimum(1, delta / np.maximum(np.abs(r), 1e-300)))
        matrix = (root[:, None] * jacobian).astype(float) @ form.basis
        step = np.linalg.lstsq(matrix, (root * r).astype(float), rcond=1e-15)[0]
        trial = np.clip(theta + form.basis @ step, form.lower, form.upper)
        new, new_r, new_jacobian = evaluate(trial)
        if not new < value:
            break
        theta, value, r, jacobian = trial, new, new_r, new_jacobian
    return theta, float(value), r.astype(float)


def fit_surface(
    data: Data,
    form: Form | None = None,
    delta: float | str = "auto",
    exclude: str = "auto",
    starts: int = STARTS,
    start: np.ndarray | None = None,
) -> Surface:
    """Fit the surface of ``form`` (default: all free) to ``data``.

    ``delta`` "auto" sets the Huber threshold to 1.345 robust scales of the residuals, determined
    with the fit; a number fixes it. ``exclude`` "auto" leaves out runs beyond 6 robust scales (at
    most 10%), "none" fits every run. ``starts``: number of them. ``start``, of shape (5,): E, ln
    A, ln B, alpha, beta replaces it where the law is known to be near, as in a simulation.
    """
    form = form or free_form(data)
    weight = np.ones(len(data))
    auto = delta == "auto"
    current = CONTINUATION[1] if auto else float(delta)
    if start is None:
        first = projected_starts(data, form, weight, starts)
    else:
        e, ln_a, ln_b, alpha, beta = start
        centred = ln_a - alpha * data.centre[0], ln_b - beta * data.centre[1]
        first = np.array([[np.log(e), *centred, alpha, beta]])
    batch = _descend(data, form, first, weight, current)
    best = int(np.argmin(batch.objective))
    theta = batch.theta[best]
    objective = batch.objective[best]
    spread = float(np.ptp(batch.objective) / max(objective, 1e-28))
    same = int((batch.objective <= objective * (1 + 1e-6) + 1e-28).sum())
    converged = bool(batch.converged[best])
    for _ in range(12):
        residual = data.log_loss - data.design.log_surface(theta[None])[0]
        scale = float(robust_scale(residual[None], weight[None])[0])
        target = EFFICIENCY * scale if auto else current
        out = np.zeros(len(data), dtype=bool)
        if exclude == "auto":
            out = far_runs(residual[None], np.ones((1, len(data))), np.array([scale]))[0]
        settled = abs(target - current) <= 1e-10 * current and (weight == ~out).all()
        if settled:
            break
        current, weight = target, (~out).astype(float)
        batch = minimise(form, theta, data.log_loss, weight, current, data.design)
        theta, objective = batch.theta[0], batch.objective[0]
        converged = bool(batch.converged[0])
    theta, objective, residual = _polish(data, form, theta, weight, current)
    return Surface(
        form,
        theta,
        data.centre,
        objective,
        current,
        scale,
        weight,
        residual,
        converged,
        len(batch.theta) if len(batch.theta) > 1 else starts,
        spread,
        same,
    )
