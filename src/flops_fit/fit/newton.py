"""Batched damped Newton for laws of N and D under a Huber loss, in NumPy.

One call minimises F_b(theta) of `design` for many problems b at once that share the runs. The step uses
the exact Hessian of F; where that is not positive definite, or the step does not descend, it is damped
with the matrix of the reweighted least-squares problem that has the same gradient, which is positive
semi-definite and scales with the parameters. A step follows the valley of F (`Design.moved`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg.lapack import dposv
from threadpoolctl import ThreadpoolController

from flops_fit.fit.design import Design, part

FEW = 12  # systems that LAPACK solves faster, one by one
SMALLEST_PIVOT = 1e-13  # of a diagonal element
FIRST_DAMPING, WORST_DAMPING = 0.1, 1e10
ROUNDING = 1e-29  # F of exact data is about n x (2e-16)^2: no step below it means anything


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


def _solve_positive(matrix: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x = matrix^-1 right over the last axis, and where all pivots are positive.

    matrix (k, k, R), right (k, R) -> x (k, R), positive (R,) of bool. By LDL^T unrolled over k <= 7:
    one NumPy operation serves all R systems, which is far cheaper than many small LAPACK calls.
    """
    k, count = right.shape
    least = SMALLEST_PIVOT * np.abs(np.einsum("iir->ir", matrix)) + 1e-300
    if count <= FEW:
        solved = [dposv(matrix[..., r], right[:, r]) for r in range(count)]
        pivots = np.stack([factor.diagonal() for factor, _, _ in solved], axis=1) ** 2
        if not any(info for _, _, info in solved) and (pivots > least).all():
            return np.stack([x for _, x, _ in solved], axis=1), np.ones(count, dtype=bool)
    a, x = matrix.copy(), right.copy()
    positive = np.ones(count, dtype=bool)
    for i in range(k):
        good = a[i, i] > least[i]
        if not good.all():
            positive &= good
            a[i, i][~good] = 1.0
        factor = a[i + 1 :, i] / a[i, i]
        a[i + 1 :, i + 1 :] -= factor[:, None] * a[i, i + 1 :]
        x[i + 1 :] -= factor * x[i]
    for i in reversed(range(k)):
        x[i] -= (a[i, i + 1 :] * x[i + 1 :]).sum(axis=0)
        x[i] /= a[i, i]
    return x, positive


def _in_phi(form: Form, frozen: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A symmetric ``matrix`` (p, p, R) in phi, with the parameters ``frozen`` (k, R) taken out."""
    if form.size < len(matrix):
        # Symmetric, so contracting the second index twice gives basis^T matrix basis.
        matrix = np.tensordot(form.basis, np.tensordot(form.basis, matrix, (0, 0)), (0, 1))
    if frozen.any():
        matrix = np.where(frozen | frozen[:, None], 0.0, matrix)
        for i in range(form.size):
            matrix[i, i] = np.where(frozen[i], 1.0, matrix[i, i])
    return matrix


def _descent(g: np.ndarray, h: np.ndarray, m: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Steps (k, R): of (h + damping m) where that is positive definite, else of (1 + damping) m."""
    step, positive = _solve_positive(h + damping * m, -g)
    if not positive.all():
        bad = ~positive
        matrix = (1 + damping[bad]) * m[..., bad]
        matrix += 1e-12 * np.abs(matrix).max(axis=(0, 1)) * np.eye(len(g))[..., None]
        step[:, bad], _ = _solve_positive(matrix, -g[:, bad])
    return step


def _minimise(
    form: Form,
    theta: np.ndarray,
    log_loss: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray,
    design: Design,
    tolerance: float,
    max_iterations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """`minimise` by one thread: finished problems are put aside, the rest go on together."""
    at = trial = np.clip(theta, form.lower, form.upper)
    ended_at, value = at.copy(), np.full(len(at), np.inf)
    done = np.zeros(len(at), dtype=bool)
    live, damping = np.arange(len(at)), np.zeros(len(at))
    centre = (np.stack([design.x, design.y]) @ weight.T) / weight.sum(axis=1)
    # The metric is computed where a step needs it, and kept until there is a move.
    metric, known = np.zeros((form.size, form.size, len(at))), np.zeros(len(at), dtype=bool)
    state: tuple[np.ndarray, ...] = ()
    for iteration in range(1, max_iterations + 1):
        new = design.derivatives(trial, log_loss, weight, delta)
        if not state:
            state = new
        else:
            # A step that no longer changes F is the end, whichever side rounding falls on.
            move = new[0] <= state[0] + 4e-16 * np.abs(state[0])
            if move.all():
                at, state = trial, new
            else:
                at = np.where(move[:, None], trial, at)
                state = tuple(np.where(move, n, old) for n, old in zip(new, state, strict=True))
            known &= ~move
            eased = np.where(damping > 0.5 * FIRST_DAMPING, damping * 0.1, 0.0)
            damping = np.where(move, eased, np.maximum(damping * 8, FIRST_DAMPING))
        objective, gradient, hessian = state
        below, above = form.lower[:, None] >= at.T, form.upper[:, None] <= at.T
        # Parameters at a bound and pushed outwards stay there.
        stuck = (below & (gradient > 0)) | (above & (gradient < 0))
        frozen = (np.abs(form.basis).T @ stuck) > 0
        g = np.where(frozen, 0.0, form.basis.T @ gradient)
        h = _in_phi(form, frozen, hessian)
        step, positive = _solve_positive(h, -g)
        damped = np.flatnonzero(~positive | (damping > 0))
        if len(damped):
            missing = damped[~known[damped]]
            if len(missing):
                problem = (part(v, missing) for v in (log_loss, weight, delta))
                fresh = design.metric(at[missing], *problem)
                metric[..., missing] = _in_phi(form, frozen[:, missing], fresh)
                known[missing] = True
            step[:, damped] = _descent(
                g[:, damped], h[..., damped], metric[..., damped], damping[damped]
            )
        decrease = -np.einsum("kr,kr->r", g, step)
        finished = (decrease <= tolerance * objective + ROUNDING) | (damping > WORST_DAMPING)
        done[live[finished]] = True
        full = (form.basis @ step).T
        trial = np.clip(at + full, form.lower, form.upper)
        trial = np.clip(design.moved(at, full, trial, centre), form.lower, form.upper)
        ended = finished | (iteration == max_iterations)
        if ended.any():
            # The last step is as good as the others, and costs no look at the runs.
            last = finished & positive & (damping == 0) & (decrease > ROUNDING)
            end = np.where(last[:, None], trial, at)
            ended_at[live[ended]], value[live[ended]] = end[ended], objective[ended]
            keep = ~ended
            if not keep.any():
                break
            live, at, trial, damping, known = (v[keep] for v in (live, at, trial, damping, known))
            state, metric = tuple(s[..., keep] for s in state), metric[..., keep]
            log_loss, weight, delta = (part(v, keep) for v in (log_loss, weight, delta))
            centre = centre if centre.shape[1] == 1 else centre[:, keep]
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
    log_loss, weight = np.atleast_2d(log_loss), np.atleast_2d(weight)
    delta = np.broadcast_to(np.atleast_1d(np.asarray(delta, dtype=float)), (len(theta),))[:, None]
    with _threads().limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
        return Batch(
            *_minimise(form, theta, log_loss, weight, delta, design, tolerance, max_iterations)
        )
