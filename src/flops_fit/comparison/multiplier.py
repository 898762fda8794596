"""The compute multiplier: how much compute a reference needs for what a candidate reaches.

M(C) = C' / C with L*_reference(C') = L*_candidate(C), both losses the best for their compute. M > 1
means that the candidate is better.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import Law, StackLaw

FARTHEST = float(np.log(1000.0))  # |ln M| beyond which nothing is looked for
STEP = 0.02  # ln C, on either side, for a slope
FLATTEST = 1e-9  # -d ln L* / d ln C below which a loss no longer falls
MOST_STEPS, TINY = 60, 1e-13  # of a root in ln M
SAME_BUDGET = 0.03  # ln C: budgets of two arms that are closer are one


@dataclass(frozen=True, eq=False)
class Frontier:
    """The best loss of one arm at each C.

    ``law`` of the estimate, ``draws`` of its resamples (None without), ``cost``: C = f(N) D.
    """

    law: Law
    draws: Law | None
    cost: Cost

    def log_loss(self, log_c: np.ndarray) -> np.ndarray:
        """ln L* of the estimate at ``log_c`` = ln C of shape (k,), which the result has too."""
        return log_losses(self.law, log_c, self.cost)[0]

    def slope(self, log_c: np.ndarray) -> np.ndarray:
        """-d ln L* / d ln C of the estimate at ``log_c`` = ln C (k,), positive where the loss falls."""
        ends = self.log_loss(np.concatenate([log_c - STEP, log_c + STEP])).reshape(2, -1)
        return np.maximum((ends[0] - ends[1]) / (2 * STEP), FLATTEST)


def log_losses(law: Law, log_c: np.ndarray, cost: Cost) -> np.ndarray:
    """ln L*, of shape (R, k), of the R rows of ``law`` at ``log_c`` = ln C (k,) on ``cost``."""
    count = len(log_c)

    def repeated(part: Law) -> Law:
        if isinstance(part, StackLaw):
            return replace(part, laws=tuple(repeated(member) for member in part.laws))
        return replace(part, values=np.repeat(part.values, count, axis=0))

    rows = law.rows if isinstance(law, StackLaw) else len(law.values)
    loss = repeated(law).optimum(np.tile(log_c, rows), cost)[1]
    return np.log(loss).reshape(rows, count)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two arms under one model, the ``reference`` and the ``candidate``.

    Row i of the resamples of both comes from the same joint resample.
    """

    reference: Frontier
    candidate: Frontier

    def log_multiplier(self, log_c: np.ndarray) -> np.ndarray:
        """ln M at ``log_c`` = ln C of the candidate, both of shape (k,).

        It is infinite where the reference needs more than 1000 times C, or less than C / 1000.
        """
        target = self.candidate.log_loss(log_c)

        def above(log_ratio: np.ndarray) -> np.ndarray:
            return self.reference.log_loss(log_c + log_ratio) - target

        return _root(above, len(log_c))

    def gap(self, log_c: np.ndarray) -> np.ndarray:
        """ln L* of the reference less that of the candidate, both at ``log_c`` = ln C (k,)."""
        return self.reference.log_loss(log_c) - self.candidate.log_loss(log_c)

    def deviations(self, log_c: np.ndarray, log_multiplier: np.ndarray) -> np.ndarray | None:
        """ln M of every joint resample at ``log_c`` = ln C, but for a constant at each C: (R, k).

        Around ``log_multiplier`` = ln M of the estimate; both of shape (k,). None without resamples. To
        first order an error of either ln L* moves ln M by itself over the slope of the reference, so
        that no resample needs a root.
        """
        reference, candidate = self.reference.draws, self.candidate.draws
        if reference is None or candidate is None:
            return None
        at = log_c + log_multiplier
        gap = log_losses(reference, at, self.reference.cost)
        gap = gap - log_losses(candidate, log_c, self.candidate.cost)
        return gap / self.reference.slope(at)


def _root(falling: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Where each of ``count`` falling functions of ln M is 0, within `FARTHEST`, else infinite.

    Secant steps inside a bracket, which is halved where a step leaves it.
    """
    low, high = np.full(count, -FARTHEST), np.full(count, FARTHEST)
    beyond, below = falling(high) > 0, falling(low) < 0
    x, last = np.zeros(count), np.full(count, -STEP)
    value, before = falling(x), falling(last)
    for _ in range(MOST_STEPS):
        low, high = np.where(value > 0, x, low), np.where(value > 0, high, x)
        moved = np.abs(x - last) > TINY
        slope = np.where(moved, (value - before) / np.where(moved, x - last, 1.0), 0.0)
        step = np.where(slope < 0, x - value / np.where(slope < 0, slope, -1.0), x)
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        new = np.where((value == 0) | ~moved | beyond | below, x, new)
        if (np.abs(new - x) <= TINY).all():
            x = new
            break
        last, before, x = x, value, new
        value = falling(x)
    return np.where(beyond, np.inf, np.where(below, -np.inf, x))


def crossings(gain: Callable[[np.ndarray], np.ndarray], log_c: np.ndarray) -> list[float]:
    """Every ln C at which M is 1, ascending.

    ``gain``: a function of ln C (k,) with the sign of ln M, such as ln M itself; ``log_c`` of shape
    (k,): the grid of ln C on which changes of sign are looked for.
    """
    signs = np.sign(gain(log_c))
    changes = np.flatnonzero(signs[:-1] * signs[1:] < 0)

    def at(value: float) -> float:
        return float(np.clip(gain(np.array([value]))[0], -FARTHEST, FARTHEST))

    return [float(brentq(at, log_c[i], log_c[i + 1], xtol=1e-12)) for i in changes]


def measured_multiplier(
    log_c: float, reference: tuple[np.ndarray, np.ndarray], candidate: tuple[np.ndarray, np.ndarray]
) -> float | None:
    """ln M at ``log_c`` = ln C from the measured minima alone, without any law.

    ``reference`` and ``candidate``: ln C and ln L* of the minima, each of shape (k,), ascending in C.
    ln L* is interpolated in ln C between the minima of the reference, and continued beyond them by at
    most the last step between two. None where the candidate has no minimum at C, where the reference
    has fewer than two, and where its losses do not fall.
    """
    at = np.flatnonzero(np.abs(candidate[0] - log_c) < SAME_BUDGET)
    x, y = reference
    if not len(at) or len(x) < 2 or not (np.diff(y) < 0).all():
        return None
    target = float(candidate[1][at[0]])
    right = int(np.clip(np.searchsorted(-y, -target), 1, len(x) - 1))
    step, slope = x[right] - x[right - 1], (y[right] - y[right - 1]) / (x[right] - x[right - 1])
    there = float(x[right - 1] + (target - y[right - 1]) / slope)
    inside = x[0] - step - 1e-9 <= there <= x[-1] + step + 1e-9
    return there - log_c if inside else None


def wall_clock(multiplier: float, reference_speed: float, candidate_speed: float) -> float:
    """The factor in time that ``multiplier`` = M is worth: M times the ratio of the speeds.

    ``reference_speed`` and ``candidate_speed``: of training, in one unit, such as tokens per second
    at one size, or FLOPs per second.
    """
    return multiplier * candidate_speed / reference_speed
