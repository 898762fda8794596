"""Batched damped Newton for the log-sum-exp surface under a Huber loss, in NumPy.

One call minimises, for many problems b at once that share the inputs x = ln N, y = ln D (centred),

    F_b(theta) = sum_i w_bi Huber_delta_b( ln L_bi - lse(e, p - alpha x_i, q - beta y_i) )

with theta = (e, p, q, alpha, beta), lse(z) = ln sum_k exp(z_k) and Huber_delta(r) = r^2 / 2 for
|r| <= delta, delta (|r| - delta / 2) beyond (Hoffmann et al. 2022, approach 3). The residuals are
summed, not averaged: with an average the default tolerances of general optimisers stop far from the
minimum (Besiroglu et al. 2024).

The step uses the exact Hessian of F; where that is not positive definite, or the step does not
descend, it is damped with the Gauss-Newton matrix of the reweighted least-squares problem that has
the same gradient, which is positive semi-definite and scales with the parameters.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

METRIC_EVERY = 3  # iterations: the damping metric need not follow every step
FIRST_DAMPING, WORST_DAMPING = 0.1, 1e10
ROUNDING = 1e-29  # F of exact data is about n x (2e-16)^2: no step below it means anything
E_, P_, Q_, ALPHA_, BETA_ = range(5)

# F (R,), its gradient (k, R), Hessian (k, k, R) and damping metric (k, k, R) or None
Derivatives = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Form:
    """A surface with theta = offset + basis @ phi: free parameters phi, the others tied or fixed.

    ``basis`` is (p, k) and ``offset`` (p,); ``lower`` and ``upper`` bound theta, each (p,). p is 5
    for the classic surface, 7 for the forms of `forms`.
    """

    name: str  # surface, tied, fixed_e or one of `forms.FREE`
    basis: np.ndarray
    offset: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def size(self) -> int:
        """Number of free parameters k."""
        return self.basis.shape[1]


@dataclass(frozen=True)
class Batch:
    """Minima of R problems: theta (R, 5), objective (R,), converged (R,) of bool, iterations."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: int


class Design:
    """The inputs shared by all problems: x, y of shape (n,) and their monomials.

    ``chunk``: problems x points per block, so that its arrays stay in the cache.
    """

    chunk = 96_000

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y
        ones = np.ones_like(x)
        self.in_x = np.stack([ones, x, x * x], axis=1)
        self.in_y = np.stack([ones, y, y * y], axis=1)
        self.in_xy = np.stack([ones, x, y, x * y], axis=1)

    def log_surface(self, theta: np.ndarray) -> np.ndarray:
        """ln Lhat of shape (R, n) for theta of shape (R, 5)."""
        e, p, q, alpha, beta = theta.T[:, :, None]
        return np.log(np.exp(e) + np.exp(p - alpha * self.x) + np.exp(q - beta * self.y))

    def derivatives(
        self,
        theta: np.ndarray,
        log_loss: np.ndarray,
        weight: np.ndarray,
        delta: np.ndarray,
        with_metric: bool = True,
    ) -> Derivatives:
        """F (R,), gradient (5, R), Hessian and damping metric (5, 5, R; or None) at ``theta`` (R, 5).

        ``log_loss`` and ``weight``: (n,) or (R, n); ``delta``: thresholds (R, 1); ``with_metric``:
        whether the metric is computed.
        """
        return _derivatives(theta, log_loss, weight, delta, self, with_metric)


def _moments(v: np.ndarray, s_a: np.ndarray, s_b: np.ndarray, design: "Design") -> np.ndarray:
    """sum_i v_i J_i J_i^T as (5, 5, R), J the gradient of lse; s_a, s_b its softmax weights."""
    va, vb = v * s_a, v * s_b
    aa, ab, bb = va * s_a, va * s_b, vb * s_b
    ma, mb = va @ design.in_x[:, :2], vb @ design.in_y[:, :2]
    maa, mbb, mab = aa @ design.in_x, bb @ design.in_y, ab @ design.in_xy
    m = np.empty((5, 5, len(v)))
    ea, eb = ma[:, 0] - maa[:, 0] - mab[:, 0], mb[:, 0] - mab[:, 0] - mbb[:, 0]
    m[E_, E_] = v.sum(axis=1) - ma[:, 0] - mb[:, 0] - ea - eb
    m[E_, P_], m[E_, Q_] = ea, eb
    m[E_, ALPHA_] = maa[:, 1] + mab[:, 1] - ma[:, 1]
    m[E_, BETA_] = mbb[:, 1] + mab[:, 2] - mb[:, 1]
    m[P_, P_], m[P_, Q_], m[Q_, Q_] = maa[:, 0], mab[:, 0], mbb[:, 0]
    m[P_, ALPHA_], m[P_, BETA_] = -maa[:, 1], -mab[:, 2]
    m[Q_, ALPHA_], m[Q_, BETA_] = -mab[:, 1], -mbb[:, 1]
    m[ALPHA_, ALPHA_], m[ALPHA_, BETA_], m[BETA_, BETA_] = maa[:, 2], mab[:, 3], mbb[:, 2]
    for i in range(5):
        for j in range(i):
            m[i, j] = m[j, i]
    return m


def _derivatives(
    theta: np.ndarray,
    log_loss: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray,
    design: "Design",
    with_metric: bool = True,
) -> Derivatives:
    """F (R,), gradient (5, R), Hessian and damping metric (5, 5, R; or None) at theta (R, 5)."""
    e, p, q, alpha, beta = theta.T[:, :, None]
    term_a, term_b = np.exp(p - alpha * design.x), np.exp(q - beta * design.y)
    total = term_a + term_b
    total += np.exp(e)
    r = log_loss - np.log(total)
    s_a, s_b = term_a / total, term_b / total
    size = np.abs(r)
    inside = size <= delta
    u = np.clip(r, -delta, delta)
    wu = weight * u
    objective = np.einsum("rn,rn->r", wu, r - 0.5 * u)
    wua, wub = wu * s_a, wu * s_b
    first, second = wua @ design.in_x, wub @ design.in_y
    gradient = np.empty((5, len(theta)))
    gradient[E_] = first[:, 0] + second[:, 0] - wu.sum(axis=1)
    gradient[P_], gradient[Q_] = -first[:, 0], -second[:, 0]
    gradient[ALPHA_], gradient[BETA_] = first[:, 1], second[:, 1]
    # Hessian of Huber o lse: (psi' + psi) J J^T - psi sum_k s_k z_k' z_k'^T, psi = clip(r).
    hessian = _moments(weight * inside + wu, s_a, s_b, design)
    hessian[E_, E_] += gradient[E_]
    hessian[P_, P_] -= first[:, 0]
    hessian[Q_, Q_] -= second[:, 0]
    hessian[P_, ALPHA_] = hessian[ALPHA_, P_] = hessian[P_, ALPHA_] + first[:, 1]
    hessian[Q_, BETA_] = hessian[BETA_, Q_] = hessian[Q_, BETA_] + second[:, 1]
    hessian[ALPHA_, ALPHA_] -= first[:, 2]
    hessian[BETA_, BETA_] -= second[:, 2]
    if not with_metric:
        return objective, gradient, hessian, None
    irls = weight * np.divide(delta, size, out=np.ones_like(r), where=~inside)
    return objective, gradient, hessian, _moments(irls, s_a, s_b, design)


def _solve_positive(matrix: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x = matrix^-1 right by LDL^T over the last axis, and where all pivots are positive.

    matrix (k, k, R), right (k, R) -> x (k, R), positive (R,) of bool. Unrolled over k <= 7: one
    NumPy operation serves all R systems, which is far cheaper than R small LAPACK calls.
    """
    k = len(right)
    a, x = matrix.copy(), right.copy()
    positive = np.ones(right.shape[1], dtype=bool)
    scale = np.array([np.abs(matrix[i, i]) for i in range(k)]) * 1e-13 + 1e-300
    for i in range(k):
        good = a[i, i] > scale[i]
        positive &= good
        a[i, i] = np.where(good, a[i, i], 1.0)
        for j in range(i + 1, k):
            factor = a[j, i] / a[i, i]
            a[j, i + 1 :] -= factor * a[i, i + 1 :]
            x[j] -= factor * x[i]
    for i in reversed(range(k)):
        for j in range(i + 1, k):
            x[i] -= a[i, j] * x[j]
        x[i] /= a[i, i]
    return x, positive


def _project(
    form: Form, theta: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, metric: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The problem in phi, with parameters at a bound and pushed outwards frozen."""
    at = theta.T
    below, above = at <= form.lower[:, None], at >= form.upper[:, None]
    stuck = (below & (gradient > 0)) | (above & (gradient < 0))
    if form.size == len(gradient):
        g, h, m, frozen = gradient, hessian, metric, stuck
    else:
        t = form.basis
        g = t.T @ gradient
        # Both matrices are symmetric, so contracting the second index twice gives t^T s t.
        h, m = (np.tensordot(t, np.tensordot(t, s, (0, 0)), (0, 1)) for s in (hessian, metric))
        frozen = (np.abs(t).T @ stuck) > 0
    if frozen.any():
        g, h, m = np.where(frozen, 0.0, g), h.copy(), m.copy()
        for i in range(form.size):
            for s in (h, m):
                s[i] = np.where(frozen[i], 0.0, s[i])
                s[:, i] = np.where(frozen[i], 0.0, s[:, i])
                s[i, i] = np.where(frozen[i], 1.0, s[i, i])
    return g, h, m


def _descent(g: np.ndarray, h: np.ndarray, m: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Steps (k, R): of (h + damping m) where that is positive definite, else of (1 + damping) m."""
    step, positive = _solve_positive(h + damping * m, -g)
    if not positive.all():
        bad = ~positive
        matrix = (1 + damping[bad]) * m[..., bad]
        matrix += 1e-12 * np.abs(matrix).max(axis=(0, 1)) * np.eye(len(g))[..., None]
        step[:, bad], _ = _solve_positive(matrix, -g[:, bad])
    return step


def _minimise_block(
    form: Form,
    theta: np.ndarray,
    log_loss: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray,
    design: Design,
    tolerance: float,
    max_iterations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """One block of `minimise`: finished problems are put aside, the rest go on together."""
    theta = np.clip(theta, form.lower, form.upper)
    ended_at, value = theta.copy(), np.full(len(theta), np.inf)
    done = np.zeros(len(theta), dtype=bool)
    live = np.arange(len(theta))
    damping = np.zeros(len(theta))
    trial, at = theta, theta
    state: list[np.ndarray] = []
    metric = np.zeros(0)
    for iteration in range(1, max_iterations + 1):
        fresh = iteration % METRIC_EVERY == 1
        value_there, gradient, hessian, new_metric = design.derivatives(
            trial, log_loss, weight, delta, fresh
        )
        new = [value_there, gradient, hessian]
        if not state:
            assert new_metric is not None
            state, metric = new, new_metric
        else:
            # A step that no longer changes F is the end, whichever side rounding falls on.
            move = new[0] <= state[0] + 4e-16 * np.abs(state[0])
            at = np.where(move[:, None], trial, at)
            state = [np.where(move, n, old) for n, old in zip(new, state, strict=True)]
            metric = metric if new_metric is None else np.where(move, new_metric, metric)
            eased = np.where(damping > 0.5 * FIRST_DAMPING, damping * 0.1, 0.0)
            damping = np.where(move, eased, np.maximum(damping * 8, FIRST_DAMPING))
        g, h, m = _project(form, at, state[1], state[2], metric)
        step = _descent(g, h, m, damping)
        decrease = -np.einsum("kr,kr->r", g, step)
        finished = (decrease <= tolerance * state[0] + ROUNDING) | (damping > WORST_DAMPING)
        done[live[finished]] = True
        ended = finished | (iteration == max_iterations)
        if ended.any():
            ended_at[live[ended]], value[live[ended]] = at[ended], state[0][ended]
            keep = ~ended
            if not keep.any():
                break
            live, at, damping, step = live[keep], at[keep], damping[keep], step[:, keep]
            state, metric = [s[..., keep] for s in state], metric[..., keep]
            log_loss, weight, delta = (
                v[keep] if len(v) > 1 else v for v in (log_loss, weight, delta)
            )
        trial = np.clip(at + (form.basis @ step).T, form.lower, form.upper)
    return ended_at, value, done, iteration


@cache
def _threads() -> ThreadpoolController:
    """The loaded BLAS libraries, looked for once: the search reads the whole memory map."""
    return ThreadpoolController()


def minimise(
    form: Form,
    theta: np.ndarray,
    log_loss: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray | float,
    design: Design,
    tolerance: float = 1e-13,
    max_iterations: int = 60,
) -> Batch:
    """Minimise R problems from ``theta`` (R, p), which must lie in the ``form`` (offset + basis phi).

    ``design``: the n inputs; ``log_loss`` and ``weight``: (n,) or (R, n) (count weights; 0 leaves
    a point out), ``delta``: a number or (R,). ``converged`` means that the expected decrease of F
    of the next step is below ``tolerance`` x F; after ``max_iterations`` a problem ends without.
    BLAS runs on one thread: at these sizes more are several times slower.
    """
    theta = np.atleast_2d(theta)
    count, points = len(theta), len(design.x)
    log_loss, weight = np.atleast_2d(log_loss), np.atleast_2d(weight)
    delta = np.broadcast_to(np.atleast_1d(np.asarray(delta, dtype=float)), (count,))[:, None]
    block = max(1, design.chunk // points)

    def part(values: np.ndarray, rows: slice) -> np.ndarray:
        return values if len(values) == 1 else values[rows]

    blocks = []
    with _threads().limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, count, block):
            rows = slice(start, start + block)
            blocks.append(
                _minimise_block(
                    form,
                    theta[rows],
                    part(log_loss, rows),
                    part(weight, rows),
                    part(delta, rows),
                    design,
                    tolerance,
                    max_iterations,
                )
            )
    return Batch(
        np.concatenate([b[0] for b in blocks]),
        np.concatenate([b[1] for b in blocks]),
        np.concatenate([b[2] for b in blocks]),
        max(b[3] for b in blocks),
    )
