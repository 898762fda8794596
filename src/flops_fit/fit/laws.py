"""The two kinds of law that every estimator ends in, and their optimum on C = f(N) D.

A law holds R versions of itself at once (row 0 of a fit is the estimate, the rows of a bootstrap
are its resamples), so that an interval keeps the dependence between the parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from flops_fit.fit.cost import Cost, Numbers

AROUND = np.linspace(-3.0, 3.0, 121)  # ln N around the closed form, to bracket the optimum
BISECTIONS = 50
SECANTS, ROOT_STEP = 12, 1e-12  # the most of a search, and the step in ln N at which it ends
KEPT = 4  # optima that a law remembers
MOST_WASTE = 1e6  # a factor in C beyond which nothing is looked for
SLOPE_STEP = 0.01  # ln C
MOST_LN = 300.0  # of ln N*: laws that bend nowhere put it anywhere, and e^709 is no float any more


def _exp(power: np.ndarray) -> np.ndarray:
    """e^power, finite even for a law that is none."""
    return np.exp(np.minimum(power, 2 * MOST_LN))


def _bounded(log_n: np.ndarray) -> np.ndarray:
    return np.clip(log_n, -MOST_LN, MOST_LN)


def _root(
    falling: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    steepness: np.ndarray,
) -> np.ndarray:
    """Where R functions, ``falling`` from above 0 at ``low`` to below 0 at ``high`` (R,), are 0: (R,).

    By secants inside the interval that is left, the first with a ``steepness`` (R,); by halves where
    they do not end, as at a jump.
    """
    at = (low + high) / 2
    slope, last, before = -steepness, at, np.full_like(at, np.nan)
    for i in range(SECANTS + BISECTIONS):
        value = falling(at)
        low, high = np.where(value > 0, at, low), np.where(value > 0, high, at)
        with np.errstate(all="ignore"):
            chord = (value - before) / (at - last)
            slope = np.where((chord < 0) & np.isfinite(chord), chord, slope)
            following = at - value / slope
        fits = (following >= low) & (following <= high) & (i < SECANTS)
        following = np.where(fits, following, (low + high) / 2)
        last, before, at = at, value, following
        if (np.abs(at - last) <= ROOT_STEP).all():
            break
    return at


CENTRAL, NORMAL = (0.05, 0.95), 3.2897  # of values, and of a normal's sds between them


def spread(values: np.ndarray) -> np.ndarray:
    """Sd of ``values`` along their last axis, from the central 90%.

    One resample that ran away does not move it. The result has the shape of the other axes.
    """
    low, high = np.quantile(values, CENTRAL, axis=-1)
    return (high - low) / NORMAL


@dataclass(frozen=True)
class SurfaceLaw:
    """L = E + A / N^alpha + B / D^beta; ``values`` (R, 5): E, ln A, ln B, alpha, beta."""

    values: np.ndarray
    columns: ClassVar[tuple[str, ...]] = ("E", "ln_A", "ln_B", "alpha", "beta")  # of ``values``
    _known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def _parts(self) -> tuple:
        """E, ln A, ln B, alpha, beta, gamma, kappa, each (R,) or a number."""
        return (*self.values.T, 1.0, 0.0)

    def loss(self, log_n: Numbers, log_d: Numbers) -> np.ndarray:
        """L at ``log_n`` = ln N and ``log_d`` = ln D, whose shapes broadcast against (R,)."""
        e, ln_a, ln_b, alpha, beta, gamma, kappa = self._parts
        terms = _exp(ln_a - alpha * log_n) + _exp(ln_b + kappa * log_n - beta * log_d)
        with np.errstate(over="ignore"):
            return e + np.minimum(terms**gamma, np.exp(2 * MOST_LN))

    def exponent(self) -> np.ndarray:
        """a = beta / (alpha + beta + kappa), of shape (R,): N* ~ C^a where f is proportional to N."""
        _, _, _, alpha, beta, _, kappa = self._parts
        return beta / (alpha + beta + kappa)

    def _balance(self, log_n: np.ndarray, log_c: Numbers, cost: Cost) -> np.ndarray:
        """ln of (gain of N) / (gain of D) along C = f(N) D: positive below N*, zero at it."""
        _, ln_a, ln_b, alpha, beta, _, kappa = self._parts
        log_d = cost.log_tokens(log_n, log_c)
        price = np.log(np.maximum(cost.slope(log_n) + kappa / beta, 1e-6))
        return (
            np.log(alpha / beta)
            + ln_a
            - alpha * log_n
            - ln_b
            - kappa * log_n
            + beta * log_d
            - price
        )

    def optimum(self, log_c: Numbers, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        """ln N* and L*, each of shape (R,), at ``log_c`` = ln C.

        The minimum of L over N with D = C / f(N), where ``cost`` is f. One answer asks for the same
        optimum many times, so the last few are kept.
        """
        if np.ndim(log_c):
            return self._optimum(log_c, cost)
        key = (float(log_c), cost)
        if key not in self._known:
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = self._optimum(log_c, cost)
        return self._known[key]

    def _optimum(self, log_c: Numbers, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        _, ln_a, ln_b, alpha, beta, _, kappa = self._parts
        both = np.maximum(beta + kappa, 1e-3)
        start = np.log(alpha / both) + ln_a - ln_b + beta * (log_c - np.log(cost.factor))
        log_n = _bounded(start / (alpha + both))
        if cost.params:
            grid = log_n + AROUND[:, None]
            best = np.argmin(self.loss(grid, cost.log_tokens(grid, log_c)), axis=0)
            at = np.arange(len(log_n))
            low = grid[np.maximum(best - 1, 0), at]
            high = grid[np.minimum(best + 1, len(AROUND) - 1), at]
            log_n = _root(lambda n: self._balance(n, log_c, cost), low, high, alpha + both)
        return log_n, self.loss(log_n, cost.log_tokens(log_n, log_c))

    def slope(self, log_c: float, cost: Cost) -> np.ndarray:
        """d ln N* / d ln C, of shape (R,), at ``log_c`` = ln C on the true ``cost``."""
        ends = [self.optimum(log_c + s * SLOPE_STEP, cost)[0] for s in (-1, 1)]
        return (ends[1] - ends[0]) / (2 * SLOPE_STEP)

    def range(self, log_c: float, cost: Cost, share: float) -> tuple[np.ndarray, np.ndarray]:
        """ln N below and above N* where reaching L*(C) costs C (1 + ``share``), each of shape (R,).

        ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        log_n, target = self.optimum(log_c, cost)
        more, ends = log_c + np.log1p(share), []
        for side in (-1.0, 1.0):

            def room(away: np.ndarray, side: float = side) -> np.ndarray:
                n = log_n + side * away
                return target - self.loss(n, cost.log_tokens(n, more))

            far, step = np.zeros_like(log_n), 0.1
            for _ in range(12):
                far = np.where(room(far) > 0, far + step, far)
                step *= 1.6
            start = np.zeros_like(log_n)
            away = _root(room, start, far, room(start) / np.maximum(far, 0.1))
            ends.append(_bounded(log_n + side * away))
        return ends[0], ends[1]

    def off_optimum(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """L, of shape (R,), where C is spent on a model of ``log_n`` = ln N.

        ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        return self.loss(log_n, cost.log_tokens(log_n, log_c))

    def waste(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """Extra compute, as a share of C, with which ``log_n`` = ln N reaches L*(C); inf if none does.

        Of shape (R,); ``log_n`` may also hold many sizes (k,) for R = 1. ``log_c`` = ln C; ``cost``: C =
        f(N) D. ln D follows in closed form from B N^kappa / D^beta = (L* - E)^(1 / gamma) - A / N^alpha.
        """
        e, ln_a, ln_b, alpha, beta, gamma, kappa = self._parts
        above = np.maximum(self.optimum(log_c, cost)[1] - e, 1e-300) ** (1 / gamma)
        room = above - _exp(ln_a - alpha * log_n)
        log_d = (ln_b + kappa * log_n - np.log(np.where(room > 0, room, 1.0))) / beta
        more = np.maximum(log_d + cost.log_flops_per_token(log_n) - log_c, 0.0)
        within = (room > 0) & (more < np.log(MOST_WASTE))
        return np.where(within, np.expm1(np.minimum(more, np.log(MOST_WASTE))), np.inf)


@dataclass(frozen=True)
class BentLaw(SurfaceLaw):
    """L = E + (A / N^alpha + B N^kappa / D^beta)^gamma; two more columns of ``values`` (R, 7)."""

    columns: ClassVar[tuple[str, ...]] = (*SurfaceLaw.columns, "gamma", "kappa")

    @property
    def _parts(self) -> tuple:
        return tuple(self.values.T)


@dataclass(frozen=True)
class PathLaw:
    """ln N* = u + a ln C and L* = E + K C^-gamma along the optimum, from approaches 1 and 2.

    ``values`` (R, 6): u, a, E, ln K, gamma, width, where off the optimum
    L = L* + width (L* - E) (ln N - ln N*)^2.
    """

    values: np.ndarray
    columns: ClassVar[tuple[str, ...]] = ("u", "a", "E", "ln_K", "gamma", "width")  # of ``values``

    def exponent(self) -> np.ndarray:
        """a, of shape (R,): N* ~ C^a."""
        return self.values[:, 1]

    def optimum(self, log_c: Numbers, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        """ln N* and L*, each of shape (R,), at ``log_c`` = ln C; ``cost`` plays no part in either."""
        u, a, e, ln_k, gamma, _ = self.values.T
        return _bounded(u + a * log_c), e + _exp(ln_k - gamma * log_c)

    def slope(self, log_c: float, cost: Cost) -> np.ndarray:
        """d ln N* / d ln C, of shape (R,): a, whatever ``log_c`` and ``cost`` are."""
        return self.exponent()

    def range(self, log_c: float, cost: Cost, share: float) -> tuple[np.ndarray, np.ndarray]:
        """ln N below and above N* where reaching L*(C) costs C (1 + ``share``), each of shape (R,).

        ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        gamma, width = self.values[:, 4], self.values[:, 5]
        more = log_c + np.log1p(share)
        centre = self.optimum(more, cost)[0]
        half = np.sqrt(np.expm1(gamma * np.log1p(share)) / np.maximum(width, 1e-12))
        log_n = self.optimum(log_c, cost)[0]
        return _bounded(np.minimum(centre - half, log_n)), _bounded(
            np.maximum(centre + half, log_n)
        )

    def off_optimum(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """L, of shape (R,), where C is spent on a model of ``log_n`` = ln N, by the parabola around N*.

        ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        width, e = self.values[:, 5], self.values[:, 2]
        best, loss = self.optimum(log_c, cost)
        return loss + width * (loss - e) * (log_n - best) ** 2

    def waste(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """Extra compute, as a share of C, with which ``log_n`` = ln N reaches L*(C); inf if none does.

        Of shape (R,); ``log_n`` may also hold many sizes (k,) for R = 1. ``log_c`` = ln C; ``cost``: C =
        f(N) D. The loss at C (1 + s) is L*(C) where (1 + s)^gamma = 1 + width (ln N - ln N*)^2.
        """
        gamma, width = self.values[:, 4], self.values[:, 5]

        def short(more: np.ndarray) -> np.ndarray:
            off = log_n - self.optimum(log_c + more, cost)[0]
            return np.log1p(width * off**2) - gamma * more

        far = np.full(len(gamma), 1e-3)
        for _ in range(30):
            far = np.where(short(far) > 0, 2 * far, far)
        finite = far < np.log(MOST_WASTE)
        more = _root(short, np.zeros(len(gamma)), far, gamma)
        return np.where(finite, np.expm1(np.minimum(more, np.log(MOST_WASTE))), np.inf)


@dataclass(frozen=True)
class StackLaw:
    """A weighted mean of ``laws``, each of R rows: of ln N*, of ln L* and of ln L of any run.

    ``weights``: "params", "loss" and "runs" -> (K,), which sum to 1.
    """

    laws: tuple
    weights: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        """R: how many versions of itself it holds."""
        return len(self.laws[0].values)

    def _mean(self, what: str, values: list) -> np.ndarray:
        weight = self.weights[what]
        return sum(w * v for w, v in zip(weight, values, strict=True) if w > 0)

    def members(self, log_c: Numbers, cost: Cost) -> list[tuple[np.ndarray, np.ndarray]]:
        """ln N* and L* of each member, of shape (R,), at ``log_c`` = ln C on ``cost``."""
        return [law.optimum(log_c, cost) for law in self.laws]

    def loss(self, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
        """L of any run at ``log_n`` = ln N and ``log_d`` = ln D, of shape (R,)."""
        used = [
            law.loss(log_n, log_d) if w > 0 else 1.0
            for law, w in zip(self.laws, self.weights["runs"], strict=True)
        ]
        return np.exp(self._mean("runs", [np.log(v) for v in used]))

    def exponent(self) -> np.ndarray:
        """a, of shape (R,): the mean over the members in the weights of N*."""
        return self._mean("params", [law.exponent() for law in self.laws])

    def exponent_sd(self) -> float:
        """Sd of a over the R rows, resamples of the runs: the mean of the members' in their weights.

        The weights of the mean are held over the resamples, so that its own sd would be too small.
        """
        return float(self.weights["params"] @ [spread(law.exponent()) for law in self.laws])

    def optimum(self, log_c: Numbers, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        """ln N* and L*, each of shape (R,), at ``log_c`` = ln C on ``cost``."""
        log_n, loss = zip(*self.members(log_c, cost), strict=True)
        return self._mean("params", log_n), np.exp(self._mean("loss", [np.log(v) for v in loss]))

    def slope(self, log_c: float, cost: Cost) -> np.ndarray:
        """d ln N* / d ln C, of shape (R,), at ``log_c`` = ln C on the true ``cost``."""
        return self._mean("params", [law.slope(log_c, cost) for law in self.laws])

    def range(self, log_c: float, cost: Cost, share: float) -> tuple[np.ndarray, np.ndarray]:
        """ln N below and above N* where reaching L*(C) costs C (1 + ``share``), each of shape (R,).

        The mean reach of the members. ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        log_n, low, high = self.optimum(log_c, cost)[0], 0.0, 0.0
        for law, weight in zip(self.laws, self.weights["params"], strict=True):
            if weight > 0:
                ends, centre = law.range(log_c, cost, share), law.optimum(log_c, cost)[0]
                low = low + weight * np.minimum(ends[0] - centre, 0)
                high = high + weight * np.maximum(ends[1] - centre, 0)
        return log_n + low, log_n + high

    def _off(
        self, log_n: Numbers, log_c: Numbers, cost: Cost
    ) -> Iterator[tuple["Law", float, np.ndarray]]:
        """Of each member: its law, weight, and the ln N as far from its own N* as asked."""
        off = log_n - self.optimum(log_c, cost)[0]
        for law, weight in zip(self.laws, self.weights["loss"], strict=True):
            if weight > 0:
                yield law, weight, law.optimum(log_c, cost)[0] + off

    def off_optimum(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """L, of shape (R,), where C is spent on a model of ``log_n`` = ln N.

        Every member is asked as far from its N* as ``log_n`` is from that of the stack. ``log_c``
        = ln C; ``cost``: C = f(N) D.
        """
        total: Numbers = 0.0
        for law, weight, n in self._off(log_n, log_c, cost):
            total = total + weight * np.log(law.off_optimum(n, log_c, cost))
        return np.exp(total)

    def waste(self, log_n: Numbers, log_c: Numbers, cost: Cost) -> np.ndarray:
        """Extra compute, a share of C, with which ``log_n`` = ln N reaches L*(C), of shape (R,).

        inf if most members say so. ``log_c`` = ln C; ``cost``: C = f(N) D.
        """
        total: Numbers = 0.0
        mass: Numbers = 0.0
        for law, weight, n in self._off(log_n, log_c, cost):
            waste = law.waste(n, log_c, cost)
            finite = np.isfinite(waste)
            total = total + weight * np.log1p(np.where(finite, waste, 0.0))
            mass = mass + weight * finite
        return np.where(mass > 0.5, np.expm1(total / np.maximum(mass, 1e-9)), np.inf)


Law = SurfaceLaw | PathLaw | StackLaw


def law_from_dict(value: dict) -> Law:
    """The law in the object ``value`` of FIT.json.

    Either ``{"columns": [...], "values": [[...], ...]}``, one row per version, or a stack of such.
    """
    if "members" in value:
        weights = {name: np.array(w, dtype=float) for name, w in value["weights"].items()}
        return StackLaw(tuple(map(law_from_dict, value["members"])), weights)
    columns = tuple(value["columns"])
    kind = next(k for k in (SurfaceLaw, BentLaw, PathLaw) if k.columns == columns)
    return kind(np.atleast_2d(np.asarray(value["values"], dtype=float)))


def law_to_dict(law: Law) -> dict:
    """``law`` as FIT.json keeps it: the inverse of `law_from_dict`."""
    if isinstance(law, StackLaw):
        weights = {name: w.tolist() for name, w in law.weights.items()}
        return {"members": [law_to_dict(member) for member in law.laws], "weights": weights}
    return {"columns": list(law.columns), "values": law.values.tolist()}
