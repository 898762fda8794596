"""The law at the runs: its value, and the derivatives of a Huber loss of ln L by its parameters.

    ln Lhat = lse(e, gamma lse(p - alpha x, q + kappa x - beta y)),    lse(z) = ln sum_k exp(z_k)

with x = ln N and y = ln D (centred). theta is (e, p, q, alpha, beta) for the classic surface, where
gamma = 1 and kappa = 0, and (e, p, q, alpha, beta, ln gamma, kappa) for the forms of `forms`. For many
problems b at once, whose residuals are summed under a Huber loss,

    F_b(theta) = sum_i w_bi Huber_delta_b( ln L_bi - ln Lhat_bi )

with Huber_delta(r) = r^2 / 2 for |r| <= delta, delta (|r| - delta / 2) beyond (Hoffmann et al. 2022,
approach 3). With an average instead of the sum the default tolerances of general optimisers stop far
from the minimum (Besiroglu et al. 2024).
"""

from typing import NamedTuple

import numpy as np

E_, P_, Q_, ALPHA_, BETA_, G_, K_ = range(7)
FARTHEST = 500.0  # ln: exp of it is still finite
NEAREST = 1e-9  # to 1, of the reducible share of a loss

# What a parameter multiplies in its term of the law: (parameter, sign, monomial).
Slots = tuple[tuple[int, int, int], ...]
IRREDUCIBLE: Slots = ((E_, 1, 0),)
FIRST: Slots = ((P_, 1, 0), (ALPHA_, -1, 1))
SECOND: Slots = ((Q_, 1, 0), (BETA_, -1, 2), (K_, 1, 1))
BEND: Slots = ((G_, 1, 0),)
PRODUCT = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # of 1, x and y, among 1, x, y, xx, xy, yy
MONOMIALS = 6
BLOCKS = (IRREDUCIBLE, FIRST, SECOND, BEND)
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (3, 3))

Factors = tuple[np.ndarray, np.ndarray | float]
Derivatives = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # F (R,), gradient (p, R), Hessian (p, p, R)


class Parts(NamedTuple):
    """The law at n inputs for R thetas: ln Lhat and its derivatives by ln of either term, (R, n).

    Where gamma is free also that by ln gamma (``bend``), the first term's share of the sum of both and
    ln of the sum to the gamma, (R, n), and ``gamma`` (R, 1).
    """

    log_loss: np.ndarray
    first: np.ndarray
    second: np.ndarray
    bend: np.ndarray | None = None
    share: np.ndarray | None = None
    log_sum: np.ndarray | None = None
    gamma: np.ndarray | float = 1.0


class Design:
    """The inputs shared by all problems: ``x`` and ``y`` of shape (n,), and their monomials.

    ``chunk``: problems x points per block, so that its arrays stay in the cache.
    """

    chunk = 8_000
    size = 5  # of theta
    bends = False  # whether gamma is free

    def __init__(self, x: np.ndarray, y: np.ndarray):
        one = np.ones_like(x)
        self.x, self.y = x, y
        self.powers = np.stack([one, x, y, x * x, x * y, y * y], axis=1)
        terms = [[slot for slot in slots if slot[0] < self.size] for slots in (FIRST, SECOND)]
        self._terms = [
            ([i for i, _, _ in slots], np.stack([s * self.powers[:, m] for _, s, m in slots]))
            for slots in terms
        ]

    def parts(self, theta: np.ndarray) -> Parts:
        """The law for ``theta`` (R, p) at the inputs."""
        first, second = (np.exp(theta[:, rows] @ inputs) for rows, inputs in self._terms)
        e = theta[:, :1]
        total = first + second
        if not self.bends:
            total += np.exp(e)
            first /= total
            second /= total
            return Parts(np.log(total), first, second)
        gamma = np.exp(theta[:, G_ : G_ + 1])
        log_sum = gamma * np.log(total)
        share = first / total
        above = np.exp(np.minimum(log_sum - e, FARTHEST))
        total = 1 + above
        above /= total
        first = above * gamma
        first *= share
        second = gamma * above
        second -= first
        return Parts(e + np.log(total), first, second, above * log_sum, share, log_sum, gamma)

    def log_surface(self, theta: np.ndarray) -> np.ndarray:
        """ln Lhat, of shape (R, n), for ``theta`` (R, p)."""
        chunks = self._chunks(len(theta))
        return np.concatenate([self.parts(theta[rows]).log_loss for rows in chunks])

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """d ln Lhat / d theta at ``theta`` (R, p), of shape (R, n, p)."""
        at = self.parts(theta)
        s = (at.first + at.second) / at.gamma
        derivatives = [1 - s, at.first, at.second, -self.x * at.first, -self.y * at.second]
        if self.size > len(derivatives):
            bend = np.zeros_like(s) if at.bend is None else at.bend
            derivatives += [bend, self.x * at.second]
        return np.stack(derivatives, axis=-1)

    def derivatives(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> Derivatives:
        """F (R,), its gradient (p, R) and Hessian (p, p, R) at ``theta`` (R, p).

        ``log_loss`` and ``weight``: (n,) or (R, n); ``delta``: thresholds (R, 1).
        """
        count = len(theta)
        objective, squares, slopes = np.empty(count), [], []
        for rows in self._chunks(count):
            at, w = self.parts(theta[rows]), part(weight, rows)
            r, d = part(log_loss, rows) - at.log_loss, part(delta, rows)
            u = np.clip(r, -d, d)
            wu = w * u
            objective[rows] = np.einsum("rn,rn->r", wu, r) - 0.5 * np.einsum("rn,rn->r", wu, u)
            v = w * (u == r)
            v += wu
            squares.append(self._squares(v, at))
            slopes.append(self._slopes(wu, at))
        gamma = self._gamma(theta)
        blocks, first = _pairs(_joined(squares), gamma), _joined(slopes)
        # With psi = clip(r) and J the gradient of ln Lhat, the Hessian is a sum of
        # (psi' + psi) J J^T - psi (Hessian of Lhat) / Lhat.
        rest = first[0] - (first[1] + first[2]) / gamma
        bent = gamma - 1
        blocks[0] -= rest
        blocks[3] -= first[1]
        blocks[5] -= first[2]
        singles = [rest, first[1], first[2]]
        if self.bends:
            _, one, two, bend, shared, one_bent, two_bent, twice = first
            blocks[3] -= bent * shared
            blocks[4] -= bent * (one - shared)
            blocks[5] -= bent * (two - one + shared)
            blocks[7] -= one + one_bent
            blocks[8] -= two + two_bent
            blocks[9] -= bend + twice
            singles.append(bend)
        return objective, -self._scattered(singles, SINGLES), self._matrix(blocks)

    def metric(
        self, theta: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: np.ndarray
    ) -> np.ndarray:
        """The Hessian (p, p, R) of the reweighted least squares that have the gradient of F.

        ``theta`` (R, p), ``log_loss``, ``weight`` and ``delta``: as in `derivatives`.
        """
        squares = []
        for rows in self._chunks(len(theta)):
            at = self.parts(theta[rows])
            far = np.abs(part(log_loss, rows) - at.log_loss)
            far /= part(delta, rows)
            np.maximum(far, 1.0, out=far)
            squares.append(self._squares(part(weight, rows) / far, at))
        return self._matrix(_pairs(_joined(squares), self._gamma(theta)))

    def _chunks(self, count: int) -> list[slice]:
        step = max(1, self.chunk // len(self.x))
        return [slice(start, start + step) for start in range(0, count, step)]

    def _gamma(self, theta: np.ndarray) -> np.ndarray | float:
        return np.exp(theta[:, G_]) if self.bends else 1.0

    def _sums(self, factors: list[Factors]) -> np.ndarray:
        """Sums over the runs of K products, times each monomial: (K, R, 6)."""
        products = np.empty((len(factors), *np.shape(factors[0][0])))
        for (left, right), out in zip(factors, products, strict=True):
            np.multiply(left, right, out=out)
        count = products.shape[1]
        return (products.reshape(-1, len(self.x)) @ self.powers).reshape(-1, count, MONOMIALS)

    def _squares(self, v: np.ndarray, at: Parts) -> np.ndarray:
        """Sums (K, R, 6) of v, its products with each derivative, and with each pair; ``v`` (R, n)."""
        one, two = v * at.first, v * at.second
        factors: list[Factors] = [(v, 1.0), (one, 1.0), (two, 1.0)]
        factors += [(one, at.first), (one, at.second), (two, at.second)]
        if at.bend is not None:
            bend = v * at.bend
            factors += [(bend, 1.0), (bend, at.first), (bend, at.second), (bend, at.bend)]
        return self._sums(factors)

    def _slopes(self, wu: np.ndarray, at: Parts) -> np.ndarray:
        """Sums (K, R, 6) of ``wu`` (R, n) times what the first and second derivatives of Lhat need."""
        factors: list[Factors] = [(wu, 1.0), (wu, at.first), (wu, at.second)]
        if at.bend is not None and at.share is not None and at.log_sum is not None:
            one, two, bend = wu * at.first, wu * at.second, wu * at.bend
            factors += [(bend, 1.0), (one, at.share)]
            factors += [(v, at.log_sum) for v in (one, two, bend)]
        return self._sums(factors)

    def _scattered(self, blocks: list[np.ndarray], scatter: np.ndarray) -> np.ndarray:
        """The entries of all p parameters (or pairs of them) from ``blocks`` of (6, R) each."""
        columns = MONOMIALS * len(blocks)
        return scatter[..., : self.size, :columns] @ np.concatenate(blocks)

    def _matrix(self, blocks: list[np.ndarray]) -> np.ndarray:
        """(p, p, R) from the ``blocks`` of `PAIRS`."""
        return self._scattered(blocks, DOUBLES[: self.size])

    def moved(
        self, theta: np.ndarray, step: np.ndarray, end: np.ndarray, centre: np.ndarray
    ) -> np.ndarray:
        """Where a curve that leaves ``theta`` (R, p) in the direction of ``step`` leads: (R, p).

        ``end`` (R, p): theta + step within bounds, from which the exponents, gamma and kappa are taken.
        ``centre`` (2, R): x and y in the middle of the runs. There ln Lhat and the slopes of both terms
        (ln of share x exponent) change as the straight step changes them to first order; E, A and B
        follow. The runs determine these three well, whatever the exponents are, so that the floor of
        the valley of F is almost straight in them, while a straight step in theta soon leaves it.
        """
        x, y = centre
        e, p, q, alpha, beta, gamma, _ = _at_centre(theta, x, y)
        de, dp, dq, da, db, dg, _ = _at_centre(step, x, y)
        _, _, _, alpha_end, beta_end, gamma_end, kappa_end = _at_centre(end, x, y)
        with np.errstate(all="ignore"):
            total = np.logaddexp(p, q)
            first, second = np.exp(p - total), np.exp(q - total)
            bent = np.exp(gamma) * total
            height = np.logaddexp(e, bent)
            rise = bent * dg + np.exp(gamma) * (first * dp + second * dq)
            rest = np.exp(e - height)  # E's share
            share = rest * (rise - de) + dg + bent - height + gamma
            one = share + p - total + second * (dp - dq) + da / alpha - np.log(alpha_end / alpha)
            two = share + q - total - first * (dp - dq) + db / beta - np.log(beta_end / beta)
            both = np.logaddexp(one, two)
            high = np.minimum(both - gamma_end, np.log1p(-NEAREST))
            height = height + rest * de + (1 - rest) * rise
            total = (height + high) / np.exp(gamma_end)
            first, second = total + one - both, total + two - both
            moved = end.copy()
            moved[:, E_] = height + np.log(-np.expm1(high))
            moved[:, P_] = first + alpha_end * x
            moved[:, Q_] = second - kappa_end * x + beta_end * y
        usable = np.isfinite(moved).all(axis=1) & (step[:, E_] != 0)  # E may be held
        return np.where(usable[:, None], moved, end)


def _at_centre(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """The seven parameters of ``theta`` (R, p), (R,) each, or a step in them, with x and y as origin."""
    zero = np.zeros(len(theta))
    e, p, q, alpha, beta, gamma, kappa, *_ = (*theta.T, zero, zero)
    return e, p - alpha * x, q + kappa * x - beta * y, alpha, beta, gamma, kappa


def part(values: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """``values`` (R, ...) of the problems ``rows``, or (1, ...) as it is: shared by all."""
    return values if len(values) == 1 else values[rows]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """(K, 6, R) from chunks of (K, r, 6)."""
    return np.ascontiguousarray(np.concatenate(parts, axis=1).swapaxes(1, 2))


def _pairs(sums: np.ndarray, gamma: np.ndarray | float) -> list[np.ndarray]:
    """The blocks of sum_i v_i J_i J_i^T, in the order of `PAIRS`, from the sums of `Design._squares`.

    d ln Lhat / d e is 1 - s with s the share of the terms, and the derivatives by both terms add up to
    gamma s, so that its products follow from theirs.
    """
    v, one, two, first, mixed, second, *bends = sums
    e_one, e_two = one - (first + mixed) / gamma, two - (mixed + second) / gamma
    blocks = [v - (one + two + e_one + e_two) / gamma, e_one, e_two, first, mixed, second]
    if bends:
        bend, bend_one, bend_two, both = bends
        blocks += [bend - (bend_one + bend_two) / gamma, bend_one, bend_two, both]
    return blocks


def _scatters() -> tuple[np.ndarray, np.ndarray]:
    """Where the sums of blocks go: in a gradient (p, blocks x 6), in a matrix (p, p, blocks x 6)."""
    single = np.zeros((7, len(BLOCKS), MONOMIALS))
    double = np.zeros((7, 7, len(PAIRS), MONOMIALS))
    for block, slots in enumerate(BLOCKS):
        for i, sign, m in slots:
            single[i, block, m] = sign
    for block, (left, right) in enumerate(PAIRS):
        for i, sign_i, m in BLOCKS[left]:
            for j, sign_j, k in BLOCKS[right]:
                double[i, j, block, PRODUCT[m][k]] = sign_i * sign_j
                double[j, i, block, PRODUCT[m][k]] = sign_i * sign_j
    return single.reshape(7, -1), double.reshape(7, 7, -1)


SINGLES, DOUBLES = _scatters()
