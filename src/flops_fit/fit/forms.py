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

from flops_fit.fit.newton import Derivatives, Design, Form, minimise
from flops_fit.fit.surface import EFFICIENCY, SCALE_FLOOR, Data, robust_scale

E_, P_, Q_, ALPHA_, BETA_, G_, K_ = range(
    7
)  # theta: ln E, ln A, ln B, alpha, beta, ln gamma, kappa
PRIOR_SD = np.array([np.inf, np.inf, np.inf, np.inf, np.inf, 0.7, 0.15])
EXPONENTS = (1e-3, 3.0)
LARGEST_GAMMA, LARGEST_KAPPA = 10.0, 1.0
FREE = {"classic": (), "gamma": (G_,), "B(N)": (K_,), "gamma + B(N)": (G_, K_)}
LADDER = (3e-2, 1e-2, 3e-3)
START_E = (0.3, 0.6, 0.8, 0.9)  # of the lowest loss
START_GAMMA = (0.5, 1.0, 2.0)
EXPONENT_STARTS = np.geomspace(0.03, 2.0, 16)
MOST, CLOSE = 150, 1e-13  # iterations, and the relative decrease at which a fit ends
FEW, ROUGH = 20, 1e-6  # the same where a fit is one of many
FARTHEST = 500.0  # ln: exp of it is still finite
SETTLING = 12  # rounds in which the threshold follows the scale
POLISHED = 1e-7  # robust scale below which the data count as exact


class BentDesign(Design):
    """Inputs x = ln N and y = ln D (centred), and the law's value and derivatives there.

    ``bends``: whether derivatives by gamma are computed; else they are 0, which saves a third.
    """

    chunk = 48_000

    def __init__(self, x: np.ndarray, y: np.ndarray, bends: bool = True):
        super().__init__(x, y)
        self.bends = bends
        one = np.ones_like(x)
        self.powers = np.stack([one, x, y, x * x, x * y, y * y], axis=1)

    def take(self, rows: np.ndarray) -> "BentDesign":
        """The same at some of the inputs: ``rows`` (k,), their positions."""
        return BentDesign(self.x[rows], self.y[rows], self.bends)

    def for_form(self, form: Form) -> "BentDesign":
        """The same inputs, with the derivatives that ``form`` needs."""
        return BentDesign(self.x, self.y, bool(form.basis[G_].any()))

    def parts(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """The parts of the law for ``theta`` (R, 7) at the n inputs.

        gamma (R, 1), then of shape (R, n): the first term's share of the sum, ln of (...)^gamma,
        its share of Lhat, and ln Lhat.
        """
        e, p, q, alpha, beta, g, k = theta.T[:, :, None]
        first = p - alpha * self.x
        ratio = np.exp(np.minimum(q + k * self.x - beta * self.y - first, FARTHEST))
        gamma = np.exp(g)
        bent = gamma * (first + np.log1p(ratio))
        above = np.exp(np.clip(bent - e, -FARTHEST, FARTHEST))
        return gamma, 1 / (1 + ratio), bent, above / (1 + above), e + np.log1p(above)

    def log_surface(self, theta: np.ndarray) -> np.ndarray:
        """ln Lhat, of shape (R, n), for ``theta`` (R, 7)."""
        return self.parts(theta)[-1]

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """d ln Lhat / d theta at ``theta`` (R, 7), of shape (R, n, 7)."""
        gamma, w1, bent, s, _ = self.parts(theta)
        j1, j2 = s * gamma * w1, s * gamma * (1 - w1)
        return np.stack([1 - s, j1, j2, -self.x * j1, -self.y * j2, s * bent, self.x * j2], axis=-1)

    def derivatives(
        self,
        theta: np.ndarray,
        log_loss: np.ndarray,
        weight: np.ndarray,
        delta: np.ndarray,
        with_metric: bool = True,
    ) -> Derivatives:
        """F (R,), gradient (7, R), Hessian and damping metric (7, 7, R; or None) at ``theta`` (R, 7).

        ``log_loss`` and ``weight``: (n,) or (R, n); ``delta``: thresholds (R, 1); ``with_metric``:
        whether the metric is computed. F adds to the sum of Huber losses half of (scale x
        deviation / `PRIOR_SD`)^2, with the scale that belongs to the threshold, delta / 1.345.
        """
        gamma, w1, bent, s, total = self.parts(theta)
        r = log_loss - total
        u = np.clip(r, -delta, delta)
        wu = weight * u
        inside = np.abs(r) <= delta
        w2 = 1 - w1
        t1, t2 = gamma * w1, gamma * w2
        jacobian = [1 - s, s * t1, s * t2]
        if self.bends:
            jacobian.append(s * bent)
        terms = len(jacobian)
        gradient = self._spread([-wu * j for j in jacobian])
        v = weight * inside
        # f = lse(e, t): its second derivative is s (1 - s) (dt - de)(dt - de)^T + s d2t, and with
        # J = de + s (dt - de) both outer products are sums over de and s (dt - de).
        bulk, lift = v * s * s - wu * s * (1 - s), v * s * (1 - s) + wu * s * (1 - s)
        tilt = (t1, t2, bent)[: terms - 1]
        lifted, bulky = [lift * t for t in tilt], [bulk * t for t in tilt]
        blocks = {(0, 0): v * (1 - s) ** 2 - wu * s * (1 - s)}
        for i in range(terms - 1):
            blocks[0, i + 1] = lifted[i]
            for j in range(i, terms - 1):
                blocks[i + 1, j + 1] = bulky[i] * tilt[j]
        mix = wu * jacobian[1] * w2
        blocks[1, 1] -= mix
        blocks[2, 2] -= mix
        blocks[1, 2] += mix
        if self.bends:
            for i in (1, 2, 3):
                blocks[i, 3] -= wu * jacobian[i]
        hessian = self._gram(blocks)
        metric = None
        if with_metric:
            irls = weight * np.divide(delta, np.abs(r), out=np.ones_like(r), where=~inside)
            metric = self._gram(
                {
                    (i, j): irls * jacobian[i] * jacobian[j]
                    for i in range(terms)
                    for j in range(i, terms)
                }
            )
        objective = np.einsum("rn,rn->r", wu, r - 0.5 * u)
        scale = np.broadcast_to(delta, (len(theta), 1))[:, 0] / EFFICIENCY
        pull = scale[:, None] ** 2 / PRIOR_SD**2
        objective = objective + 0.5 * (pull * theta**2).sum(axis=1)
        gradient += (pull * theta).T
        for i in (G_, K_):
            for matrix in (hessian, metric):
                if matrix is not None:
                    matrix[i, i] += pull[:, i]
        return objective, gradient, hessian, metric

    def _spread(self, parts: list[np.ndarray]) -> np.ndarray:
        """Sums over the runs of parts (e, z1, z2 and, if it bends, g), by parameter: (7, R)."""
        e, first, second = parts[:3]
        one, two = first @ self.powers[:, :2], second @ self.powers[:, :3]
        bend = parts[3].sum(1) if self.bends else np.zeros(len(e))
        return np.stack([e.sum(1), one[:, 0], two[:, 0], -one[:, 1], -two[:, 2], bend, two[:, 1]])

    def _gram(self, blocks: dict) -> np.ndarray:
        """Sums over the runs of a quadratic form in (e, z1, z2, g), by parameters: (7, 7, R)."""
        m = {key: value @ self.powers for key, value in blocks.items()}
        h = np.zeros((7, 7, len(m[0, 0])))
        one, x, y, xx, xy, yy = range(6)
        rows = ((E_, [(0, 1), (0, 2)]), (G_, [(1, 3), (2, 3)]))
        for row, pair in rows if self.bends else rows[:1]:
            a, b = (m[p] for p in pair)
            h[row, row] = m[(0, 0) if row == E_ else (3, 3)][:, one]
            h[row, P_], h[row, ALPHA_] = a[:, one], -a[:, x]
            h[row, Q_], h[row, BETA_], h[row, K_] = b[:, one], -b[:, y], b[:, x]
        if self.bends:
            h[E_, G_] = m[0, 3][:, one]
        aa, ab, bb = m[1, 1], m[1, 2], m[2, 2]
        h[P_, P_], h[P_, ALPHA_], h[ALPHA_, ALPHA_] = aa[:, one], -aa[:, x], aa[:, xx]
        h[P_, Q_], h[P_, BETA_], h[P_, K_] = ab[:, one], -ab[:, y], ab[:, x]
        h[Q_, ALPHA_], h[ALPHA_, BETA_], h[ALPHA_, K_] = -ab[:, x], ab[:, xy], -ab[:, xx]
        h[Q_, Q_], h[Q_, BETA_], h[Q_, K_] = bb[:, one], -bb[:, y], bb[:, x]
        h[BETA_, BETA_], h[BETA_, K_], h[K_, K_] = bb[:, yy], -bb[:, xy], bb[:, xx]
        return h + h.swapaxes(0, 1) - h * np.eye(7)[..., None]


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
