"""Laws of more freedom than the classic surface, fitted by the same batched Newton.

    L = E + (A / N^alpha + B N^kappa / D^beta)^gamma

with gamma = 1 and kappa = 0 the classic law of Hoffmann et al. 2022. A free gamma lets the sum of
both terms fall faster or slower than the terms themselves; a free kappa lets B depend on N. Where
the runs say little about them they stay at 1 and 0: each deviation costs as much as one run of
noise whose logarithm (ln gamma / 0.7, kappa / 0.15) is off by as many robust scales. On exact data
the scale goes to zero and the prior with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fit.design import G_, K_, Derivatives, Design
from flops_fit.fit.newton import Form, minimise
from flops_fit.fit.surface import EFFICIENCY, SCALE_FLOOR, Data, robust_scale

PRIOR_SD = np.array(
    [*[np.inf] * 5, 0.7, 0.15]
)  # of theta = (e, p, q, alpha, beta, ln gamma, kappa)
EXPONENTS = (1e-3, 3.0)
LARGEST_GAMMA, LARGEST_KAPPA = 10.0, 1.0
FREE = {"classic": (), "gamma": (G_,), "B(N)": (K_,), "gamma + B(N)": (G_, K_)}
LADDER = (3e-2, 1e-2, 3e-3)
START_E = (0.3, 0.6, 0.8, 0.9)  # of the lowest loss
START_GAMMA = (0.5, 1.0, 2.0)
EXPONENT_STARTS = np.geomspace(0.03, 2.0, 16)
MOST, CLOSE = 150, 1e-13  # iterations, and the relative decrease at which a fit ends
FEW, ROUGH = 20, 1e-6  # the same where a fit is one of many
SETTLING = 12  # rounds in which the threshold follows the scale
POLISHED = 1e-7  # robust scale below which the data count as exact


class BentDesign(Design):
    """Inputs ``x`` and ``y`` (n,) of the forms of `FREE`: F has a prior of gamma and kappa as well.

    F adds half of (scale x deviation / `PRIOR_SD`)^2 to the sum of Huber losses, with the scale that
    belongs to the threshold, delta / 1.345. ``bends``: whether gamma is free; else it must be 1.
    """

    size = 7

    def __init__(self, x: np.ndarray, y: np.ndarray, bends: bool = True):
        super().__init__(x, y)
        self.bends = bends

    def take(self, rows: np.ndarray) -> "BentDesign":
        """The same at some of the inputs: ``rows`` (k,), their positions."""
        return BentDesign(self.x[rows], self.y[rows], self.bends)

    def for_form(self, form: Form) -> "BentDesign":
        """The same inputs, with the derivatives that ``form`` needs."""
        return BentDesign(self.x, self.y, bool(form.basis[G_].any()))

    def derivatives(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> Derivatives:
        """F (R,), its gradient (7, R) and Hessian (7, 7, R) at ``theta`` (R, 7).

        ``log_loss`` and ``weight``: (n,) or (R, n); ``delta``: thresholds (R, 1).
        """
        objective, gradient, hessian = super().derivatives(theta, log_loss, weight, delta)
        pull = _pull(delta)
        gradient += pull * theta.T
        return objective + 0.5 * (pull * theta.T**2).sum(axis=0), gradient, _add(hessian, pull)

    def metric(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> np.ndarray:
        """The Hessian (7, 7, R) of the reweighted least squares that have the gradient of F.

        ``theta`` (R, 7), ``log_loss``, ``weight`` and ``delta``: as in `derivatives`.
        """
        return _add(super().metric(theta, log_loss, weight, delta), _pull(delta))


def _pull(delta: np.ndarray) -> np.ndarray:
    """Curvature (7, R) of the prior under the thresholds ``delta`` (R, 1)."""
    return (delta.T / EFFICIENCY / PRIOR_SD[:, None]) ** 2


def _add(matrix: np.ndarray, pull: np.ndarray) -> np.ndarray:
    for i in (G_, K_):
        matrix[i, i] += pull[i]
    return matrix


@dataclass(frozen=True)
class Fits:
    """R fitted laws of one form: theta (R, 7), robust scale and convergence (R,)."""

    form: Form
    theta: np.ndarray
    scale: np.ndarray


def bent_form(data: Data, name: str) -> Form:
    """The form ``name`` of `FREE` for ``data``: five parameters, and gamma or kappa beside them."""
    low, high = data.log_loss.min(), data.log_loss.max()
    lower = np.array(
        [
            low + np.log(1e-6),
            low - 60,
            low - 60,
            *[EXPONENTS[0]] * 2,
            -np.log(LARGEST_GAMMA),
            -LARGEST_KAPPA,
        ]
    )
    upper = np.array(
        [high, high + 60, high + 60, *[EXPONENTS[1]] * 2, np.log(LARGEST_GAMMA), LARGEST_KAPPA]
    )
    basis = np.eye(7)[:, [*range(5), *FREE[name]]]
    return Form(name, basis, np.zeros(7), lower, upper)


@np.errstate(over="ignore", invalid="ignore")  # of a wild run; what is not finite is not taken
def starts_for(data: Data, weight: np.ndarray, gammas: Sequence[float] = START_GAMMA) -> np.ndarray:
    """One start (7,) for each E and gamma of a grid: the best pair of exponents, A and B >= 0.

    ``data``: the n runs, of ``weight`` (n,); ``gammas``: those tried. (L - E)^(1 / gamma) is linear in
    A and B, so each pair of exponents is a small linear problem.
    """
    starts = []
    x, y = data.design.x, data.design.y
    left, right = np.exp(-np.outer(EXPONENT_STARTS, x)), np.exp(-np.outer(EXPONENT_STARTS, y))
    for share in START_E:
        e = share * np.exp(data.log_loss[weight > 0].min())
        room = np.log(np.exp(data.log_loss) - min(e, 0.999 * np.exp(data.log_loss.min())))
        for gamma in gammas:
            inverse = np.exp(-room / gamma)
            a, b = left * inverse, right * inverse
            aa, bb, ab = (a * a) @ weight, (b * b) @ weight, (a * weight) @ b.T
            ra, rb = a @ weight, b @ weight
            det = np.maximum(aa[:, None] * bb - ab**2, 1e-300)
            ca = (ra[:, None] * bb - ab * rb) / det
            cb = (aa[:, None] * rb - ab * ra[:, None]) / det
            gain = np.where((ca > 0) & (cb > 0), ca * ra[:, None] + cb * rb, -np.inf)
            i, j = map(int, np.unravel_index(np.argmax(gain), gain.shape))
            if np.isfinite(gain[i, j]):
                terms = [np.log(ca[i, j]), np.log(cb[i, j])]
            else:  # one wild run decides the weights: any finite start, with equal terms
                i = j = len(EXPONENT_STARTS) // 2
                terms = [float(np.median(room)) / gamma - np.log(2)] * 2
            exponents = [EXPONENT_STARTS[i], EXPONENT_STARTS[j]]
            starts.append([np.log(e), *terms, *exponents, np.log(gamma), 0.0])
    return np.array(starts).reshape(-1, 7)


def fit_bent(
    data: Data,
    design: BentDesign,
    form: Form,
    weight: np.ndarray,
    held: np.ndarray,
    starts: np.ndarray,
    keep: int = 3,
) -> Fits:
    """The law of one ``form`` for R weightings ``weight`` (R, n) of the runs ``held`` (R, n).

    ``data`` and ``design``: the n runs; ``starts`` (S, 7): of each problem. All starts take a few steps
    under a wide threshold; the best ``keep`` of each problem go down the ladder, the best one settles
    roughly with its threshold, 1.345 robust scales.
    """
    count, many = len(weight), len(starts)
    log_loss, bending = data.log_loss, design.for_form(form)
    theta = np.tile(np.clip(starts, form.lower, form.upper), (count, 1))
    theta[:, ~form.basis.any(axis=1)] = 0.0
    rows = np.repeat(np.arange(count), many)
    for step in LADDER:
        steps = 8 if step == LADDER[0] and many > keep else 20
        batch = minimise(form, theta, log_loss, weight[rows], step, bending, 1e-3, steps)
        value = np.where(np.isfinite(batch.objective), batch.objective, np.inf)
        each = value.reshape(count, -1)
        left = keep if step != LADDER[-1] else 1
        best = np.argsort(each, axis=1)[:, :left]
        at = (np.arange(count)[:, None] * each.shape[1] + best).ravel()
        theta, rows = batch.theta[at], rows[at]
    return settle(
        data, design, form, weight, theta, LADDER[-1], 3, count=held, close=ROUGH, most=FEW
    )


def settle(
    data: Data,
    design: BentDesign,
    form: Form,
    weight: np.ndarray,
    theta: np.ndarray,
    delta: float | np.ndarray,
    rounds: int = SETTLING,
    log_loss: np.ndarray | None = None,
    *,
    count: np.ndarray,
    close: float = CLOSE,
    most: int = MOST,
) -> Fits:
    """Let the threshold follow the robust scale of each problem, from ``theta`` (R, 7) nearby.

    ``data`` and ``design``: the n runs, fitted by ``form`` under ``weight`` (R, n); ``delta``: the first
    thresholds, a number or (R,); ``rounds``: at most so many; ``log_loss`` (R, n): instead of that of
    the runs; ``close`` and ``most``: relative decrease and number of iterations at which a fit ends.
    ``count`` (R, n): how often each run is there. The scale is taken over it, since under weights
    C^kappa a few runs could carry half of the mass, and be fitted exactly.
    """
    log_loss = np.atleast_2d(data.log_loss if log_loss is None else log_loss)
    bending = design.for_form(form)
    current = np.full(len(theta), delta, dtype=float) if np.ndim(delta) == 0 else delta
    for _ in range(rounds):
        theta = minimise(form, theta, log_loss, weight, current, bending, close, most).theta
        residual = log_loss - design.log_surface(theta)
        scale = robust_scale(residual, count)
        target = EFFICIENCY * scale
        settled = np.abs(target - current) <= 1e-4 * current
        if settled.all():
            break
        current = np.where(settled, current, target)
    exact = np.flatnonzero(scale < POLISHED)
    for i in exact:
        theta[i] = polish(data, form, theta[i], weight[i])
    if len(exact):
        scale = robust_scale(log_loss - design.log_surface(theta), count)
    return Fits(form, theta, np.maximum(scale, SCALE_FLOOR))


def polish(data: Data, form: Form, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``theta`` (7,) of ``form`` after Gauss-Newton steps in extended precision, for exact ``data``.

    By QR, with residuals of the n runs of ``weight`` (n,) in extended precision.
    """
    wide = BentDesign(data.design.x.astype(np.longdouble), data.design.y.astype(np.longdouble))
    root = np.sqrt(weight)[:, None]

    def residual(at: np.ndarray) -> np.ndarray:
        return data.log_loss - wide.log_surface(at[None].astype(np.longdouble))[0]

    r = residual(theta)
    for _ in range(8):
        matrix = root * (wide.jacobian(theta[None])[0].astype(float) @ form.basis)
        step = np.linalg.lstsq(matrix, root[:, 0] * r.astype(float), rcond=1e-15)[0]
        trial = np.clip(theta + form.basis @ step, form.lower, form.upper)
        new = residual(trial)
        if not (weight * new**2).sum() < (weight * r**2).sum():
            break
        theta, r = trial, new
    return theta


def covariance(data: Data, design: BentDesign, fits: Fits, weight: np.ndarray) -> np.ndarray:
    """Sandwich covariance (R, 7, 7) of theta: inverse Hessian, scores squared, inverse Hessian.

    ``data`` and ``design``: the n runs; ``fits``: R of them, under ``weight`` (R, n). Inflated by
    n / (n - parameters) with n the effective number of runs (sum w)^2 / sum w^2.
    """
    jacobian = design.jacobian(fits.theta) @ fits.form.basis
    delta = EFFICIENCY * fits.scale[:, None]
    r = data.log_loss - design.log_surface(fits.theta)
    u = np.clip(r, -delta, delta)
    bread = np.einsum(
        "rn,rni,rnj->rij", weight * (np.abs(r) <= delta), jacobian, jacobian, optimize=True
    )
    meat = np.einsum("rn,rni,rnj->rij", (weight * u) ** 2, jacobian, jacobian, optimize=True)
    prior = (1 / PRIOR_SD**2) @ fits.form.basis
    bread = bread + fits.scale[:, None, None] ** 2 * np.diag(prior)
    unit = np.sqrt(np.maximum(np.einsum("rii->ri", bread), 1e-300))
    outer = unit[:, :, None] * unit[:, None, :]
    inverse = np.linalg.pinv(bread / outer, rcond=1e-10, hermitian=True) / outer
    held = weight.sum(axis=1) ** 2 / np.maximum((weight**2).sum(axis=1), 1e-300)
    free = held / np.maximum(held - fits.form.size, 1.0)
    phi = inverse @ meat @ inverse * free[:, None, None]
    return fits.form.basis @ phi @ fits.form.basis.T
