"""The model with shared exponents: one law for both arms, and two factors of the candidate.

    L = E + A / (rho_N N)^alpha + B / (rho_D D)^beta

with rho_N = rho_D = 1 for the reference. E, A, B, alpha and beta are common, so that with C = 6 N D
the multiplier is rho_N rho_D at every C. It is fitted to the runs of both arms at once, as the surface
of one arm is: residuals of ln L under a Huber loss, by Newton's method. Residuals of each arm are in
units of its noise, since one recipe may scatter more than another.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flops_fit.fit.design import Derivatives, Design
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.newton import Form, minimise
from flops_fit.fit.surface import (
    CONTINUATION,
    E_FLOOR,
    EFFICIENCY,
    EXPONENT_BOUNDS,
    ladder,
    robust_scale,
)

PARAMETERS = 7  # ln E, ln A, ln B, alpha, beta, and the candidate's shifts of ln A and ln B
LONG_DESCENT = 150  # iterations of the first fit
LARGEST_SHIFT = 20.0  # of ln A or ln B
POLISHED = 1e-6  # scale of the residuals, in units of noise, below which the data count as exact
REFIT = (1e-2, 3e-3)  # thresholds, in ln L, on the way to that of a resample


@dataclass(frozen=True, eq=False)
class Table:
    """The n runs of both arms, every array of shape (n,).

    ``log_n``, ``log_d`` and ``log_loss``: ln N, ln D and ln L; ``arm``: 0 reference, 1 candidate;
    ``noise`` (n,): the scale of ln L of the run's arm; ``weight`` (n,): 0 for a run left out.
    """

    log_n: np.ndarray
    log_d: np.ndarray
    log_loss: np.ndarray
    arm: np.ndarray
    noise: np.ndarray
    weight: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        """Means of ln N and ln D."""
        return float(self.log_n.mean()), float(self.log_d.mean())

    @cached_property
    def typical(self) -> float:
        """The geometric mean of the noise of both arms."""
        return float(np.exp(np.mean([np.log(self.noise[self.arm == k].mean()) for k in (0, 1)])))

    def below(self, rows: np.ndarray) -> "Table":
        """The same with only the runs where ``rows`` (n,) is true in use."""
        parts = (self.log_n, self.log_d, self.log_loss, self.arm, self.noise)
        return Table(*parts, self.weight * rows)


class PairDesign(Design):
    """The inputs of both arms, and the value and derivatives of the law there.

    The sum of exponentials is of z_k = X_k theta with theta = (e, p, q, alpha, beta, dp, dq), so its
    derivatives follow from those of the log-sum-exp in z. ``table``: the runs; ``wide``: whether in
    extended precision.
    """

    def __init__(self, table: Table, wide: bool = False):
        kind = np.longdouble if wide else float
        centre = table.centre
        x, y = (table.log_n - centre[0]).astype(kind), (table.log_d - centre[1]).astype(kind)
        super().__init__(x, y)
        zero, one, arm = np.zeros_like(x), np.ones_like(x), table.arm.astype(kind)
        self.terms = (
            np.stack([one, zero, zero, zero, zero, zero, zero], axis=1),
            np.stack([zero, one, zero, -x, zero, arm, zero], axis=1),
            np.stack([zero, zero, one, zero, -y, zero, arm], axis=1),
        )
        self.scale = (table.noise / table.typical).astype(kind)

    def log_terms(self, theta: np.ndarray) -> np.ndarray:
        """ln of the three terms for ``theta`` (R, 7), of shape (3, R, n)."""
        return np.stack([theta @ part.T for part in self.terms])

    def log_surface(self, theta: np.ndarray) -> np.ndarray:
        """ln Lhat, of shape (R, n), for ``theta`` (R, 7)."""
        return np.log(np.exp(self.log_terms(theta)).sum(axis=0))

    def slopes(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The terms' shares (3, R, n), and d ln Lhat / d theta (R, n, 7), at ``theta`` (R, 7)."""
        terms = np.exp(self.log_terms(theta))
        share = terms / terms.sum(axis=0)
        return share, sum(s[..., None] * x for s, x in zip(share, self.terms, strict=True))

    def derivatives(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> Derivatives:
        """F (R,), its gradient (7, R) and Hessian (7, 7, R) at ``theta`` (R, 7).

        ``log_loss`` and ``weight``: (n,) or (R, n); ``delta``: thresholds (R, 1), of residuals in
        which both arms have the noise ``typical``.
        """
        share, jacobian = self.slopes(theta)
        r = (log_loss - self.log_surface(theta)) / self.scale
        u = np.clip(r, -delta, delta)
        pull = weight * u
        objective = np.einsum("rn,rn->r", pull, r - 0.5 * u)
        pull = pull / self.scale
        gradient = -np.einsum("rn,rni->ir", pull, jacobian)
        inside = weight * (np.abs(r) <= delta) / self.scale**2
        hessian = np.einsum("rn,rni,rnj->ijr", inside + pull, jacobian, jacobian, optimize=True)
        for s, x in zip(share, self.terms, strict=True):
            hessian -= np.einsum("rn,ni,nj->ijr", pull * s, x, x, optimize=True)
        return objective, gradient, hessian

    def metric(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> np.ndarray:
        """The Hessian (7, 7, R) of the reweighted least squares that have the gradient of F.

        ``theta`` (R, 7), ``log_loss``, ``weight`` and ``delta``: as in `derivatives`.
        """
        r = (log_loss - self.log_surface(theta)) / self.scale
        far = weight * np.minimum(1, delta / np.maximum(np.abs(r), 1e-300)) / self.scale**2
        jacobian = self.slopes(theta)[1]
        return np.einsum("rn,rni,rnj->ijr", far, jacobian, jacobian, optimize=True)

    def moved(
        self, theta: np.ndarray, step: np.ndarray, end: np.ndarray, centre: np.ndarray
    ) -> np.ndarray:
        """``end``, where a straight ``step`` from ``theta`` leads; ``centre`` plays no part."""
        return end


@dataclass(frozen=True, eq=False)
class Shared:
    """The fitted model: ``theta`` (7,) around ``centre``, the means of ln N and ln D.

    ``residual`` (n,): of ln L, in units of noise; ``objective``: the summed Huber loss of
    these residuals; ``draws`` (R, 7): theta of the resamples.
    """

    theta: np.ndarray
    centre: tuple[float, float]
    residual: np.ndarray
    objective: float
    draws: np.ndarray | None = None

    @property
    def log_factors(self) -> tuple[float, float]:
        """ln rho_N and ln rho_D of the candidate."""
        _, _, _, alpha, beta, shift_a, shift_b = self.theta
        return float(-shift_a / alpha), float(-shift_b / beta)

    def law(self, arm: int, theta: np.ndarray | None = None) -> SurfaceLaw:
        """The law of ``arm`` (0 reference, 1 candidate); of ``theta`` (R, 7) where that is given."""
        e, p, q, alpha, beta, shift_a, shift_b = np.atleast_2d(
            self.theta if theta is None else theta
        ).T
        log_a = p + arm * shift_a + alpha * self.centre[0]
        log_b = q + arm * shift_b + beta * self.centre[1]
        return SurfaceLaw(np.column_stack([np.exp(e), log_a, log_b, alpha, beta]))


def huber(residual: np.ndarray, weight: np.ndarray) -> float:
    """Summed Huber loss of ``residual`` (n,), in units of noise, under ``weight`` (n,)."""
    u = np.clip(residual, -EFFICIENCY, EFFICIENCY)
    return float((weight * u * (residual - u / 2)).sum())


def fit_shared(table: Table, reference: np.ndarray, candidate: np.ndarray) -> Shared:
    """Fit the model with shared exponents to ``table``.

    ``reference`` and ``candidate``, of shape (5,): E, ln A, ln B, alpha and beta of the surface of
    either arm alone, from which and from the mean of which the fit starts.
    """
    design, form = PairDesign(table), _form(table)
    theta = np.clip(_starts(table, reference, candidate), form.lower, form.upper)
    steps = ladder(table.typical * EFFICIENCY, CONTINUATION)
    for delta in steps:
        tolerance = 1e-13 if delta == steps[-1] else 1e-4
        batch = minimise(
            form, theta, table.log_loss, table.weight, delta, design, tolerance, LONG_DESCENT
        )
        theta = batch.theta
    best = theta[int(np.argmin(batch.objective))]
    residual = (table.log_loss - design.log_surface(best[None])[0]) / table.noise
    scale = float(robust_scale(residual[None], table.weight[None])[0])
    if scale * table.typical < POLISHED or table.typical < POLISHED:
        best, residual = _polish(table, form, best)
    return Shared(best, table.centre, residual, huber(residual, table.weight))


def refit_shared(
    table: Table, fit: Shared, weight: np.ndarray, log_loss: np.ndarray | None = None
) -> np.ndarray:
    """theta (R, 7) of every resample, from ``fit`` on ``table``.

    ``weight`` (R, n): how often each run is in a resample; ``log_loss`` (R, n): its losses, where
    these are redrawn.
    """
    design, form = PairDesign(table), _form(table)
    losses = np.atleast_2d(table.log_loss if log_loss is None else log_loss)
    theta = np.repeat(fit.theta[None], len(weight), axis=0)
    final = table.typical * EFFICIENCY
    for delta in ladder(final, REFIT):
        tolerance = 1e-10 if delta == final else 1e-2
        theta = minimise(form, theta, losses, weight, delta, design, tolerance).theta
    return theta


def _form(table: Table) -> Form:
    """All seven free, within the bounds that a surface has."""
    low, high = table.log_loss.min(), table.log_loss.max()
    least, most = EXPONENT_BOUNDS
    lower = np.array([low + np.log(E_FLOOR), *[low - 40] * 2, *[least] * 2, *[-LARGEST_SHIFT] * 2])
    upper = np.array([high, *[high + 10] * 2, *[most] * 2, *[LARGEST_SHIFT] * 2])
    return Form("shared", np.eye(PARAMETERS), np.zeros(PARAMETERS), lower, upper)


def _starts(table: Table, reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Starts (3, 7): the exponents of either arm and their mean, each term as its arm has it."""
    x, y = table.centre
    starts = []
    sides = []
    for e, log_a, log_b, alpha, beta in (reference, candidate):
        sides.append((np.log(max(e, 1e-300)), log_a - alpha * x, log_b - beta * y, alpha, beta))
    shifts = sides[1][1] - sides[0][1], sides[1][2] - sides[0][2]
    for side in (sides[0], sides[1], np.mean(sides, axis=0)):
        starts.append([side[0], sides[0][1], sides[0][2], side[3], side[4], *shifts])
    return np.array(starts)


def _polish(table: Table, form: Form, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton steps by QR with residuals in extended precision, for exact data."""
    wide, design = PairDesign(table, wide=True), PairDesign(table)
    root = np.sqrt(table.weight)

    def residual(at: np.ndarray) -> np.ndarray:
        return table.log_loss - wide.log_surface(at[None].astype(np.longdouble))[0]

    r = residual(theta)
    for _ in range(8):
        matrix = root[:, None] * design.slopes(theta[None])[1][0]
        step = np.linalg.lstsq(matrix, (root * r).astype(float), rcond=1e-15)[0]
        trial = np.clip(theta + step, form.lower, form.upper)
        new = residual(trial)
        if not (table.weight * new**2).sum() < (table.weight * r**2).sum():
            break
        theta, r = trial, new
    return theta, (r / table.noise).astype(float)
