"""Which runs narrow the answer at one budget most for their price, by the delta method on a fitted law.

The parameters of L = E + A/N^alpha + B/D^beta get two more for each budget b: by how much ln L* and
ln N* there lie off the law, of standard deviations tau_L g(d_b) and tau_N g(d_b). This is the error of
the form of law (`flops_fit.fit.form_error`) at the distance d_b of b from the budget asked: runs far
below it measure another law than the one there, however many they are. With J_i the gradient of ln L at
run i, and g that of ln N* (or ln L*) at the budget asked, the variance expected of the answer is

    V = g^T (P + sum_i J_i J_i^T / noise^2)^-1 g

with P the prior of all parameters. Least V for a given price is c-optimal design (Elfving 1952), as in
active selection of scaling experiments (2604.22753). A choice by gain per FLOP alone never affords the
large budgets, so each budget in turn is opened first, and the rest filled up (Khuller et al. 1999).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flops_fit.fit.calibrate import prior
from flops_fit.fit.cost import Cost
from flops_fit.fit.design import Design
from flops_fit.fit.form_error import growth
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.measure import REACH

PRIOR_SD = np.array([1.0, 3.0, 3.0, 0.15, 0.15])  # of ln E, ln A, ln B, alpha, beta around the fit
STEP = 1e-4  # in a parameter, for the gradient of the answer
BEND, FARTHEST = 0.3, 1.5  # ln N around N*: where the bend of a curve is read, and where it ends
BRACKET = (-0.5, 0.5)  # ln N around N*: the sizes of a new budget
LEAST_NOISE, USUAL_NOISE, MOST_NOISE = 0.0005, 0.003, 0.005  # of ln L between runs
MOST_MISFIT = 10.0
FIRST_BUDGETS, FIRST_SIZES = 3, 5  # of the first grid


@dataclass(frozen=True)
class Cells:
    """The runs that can be chosen, and what each of them takes; all arrays of shape (n,).

    ``budget``: C in FLOPs; ``log_n`` and ``log_d``: ln N and ln D; ``flops`` and ``money`` of the run
    trained from nothing (``money`` equals ``flops`` where there is no price). Runs of one ``trunk`` (a
    name, empty for none) share their steps up to where the shorter one leaves it, the ``leave``-th
    share of its own D. ``paid``: the share of each run that has been trained, 0 before it is.
    ``repeat``: which of the seeds of its budget a run has, 0 for the first. A budget has all of its
    sizes in the same seeds.
    """

    budget: np.ndarray
    log_n: np.ndarray
    log_d: np.ndarray
    flops: np.ndarray
    money: np.ndarray
    trunk: np.ndarray
    leave: np.ndarray
    paid: np.ndarray
    repeat: np.ndarray

    def size_in(self, have: np.ndarray, run: int) -> list[int]:
        """The ``run`` and the further seeds of its size, as many as its budget has in ``have`` (n,)."""
        here = self.budget == self.budget[run]
        seeds = self.repeat[here & have].max(initial=0)
        again = here & (self.log_n == self.log_n[run]) & (self.repeat > 0) & (self.repeat <= seeds)
        return [run, *np.flatnonzero(again & ~have)]

    def next_seed(self, have: np.ndarray, budget: float) -> list[int]:
        """The runs that give all sizes that ``have`` (n,) holds at ``budget`` one more seed."""
        here = self.budget == budget
        again = here & (self.repeat == self.repeat[here & have].max() + 1)
        return list(np.flatnonzero(again & np.isin(self.log_n, self.log_n[here & have])))

    @cached_property
    def _covered(self) -> np.ndarray:
        """The share (n, n) of each run (a row) that the state which another one leaves covers."""
        shared = (self.trunk != "") & (self.trunk == self.trunk[:, None])
        shared &= self.log_d < self.log_d[:, None]
        return shared * self.leave * np.exp(np.minimum(self.log_d - self.log_d[:, None], 0.0))

    @cached_property
    def _states(self) -> np.ndarray:
        """Which trained runs (n,) have left a state that stays: the longest of each trunk."""
        trained = self.paid > 0
        longer = trained & (self.trunk == self.trunk[:, None]) & (self.log_d > self.log_d[:, None])
        return trained & ~longer.any(axis=1)

    def shares(self, have: np.ndarray) -> np.ndarray:
        """The share (n,) of each run that these rounds train.

        Of a trained run it is what was ``paid``. Another one starts from the furthest state that
        covers a part of it, the last one of its trunk or one that a run in ``have`` (n,) will leave.
        """
        there = np.where(self.paid > 0, self._states, have)
        left = 1 - (self._covered * there).max(axis=1)
        return np.where(self.paid > 0, self.paid, left)

    def total(self, have: np.ndarray) -> float:
        """The FLOPs of all runs in ``have`` (n,) together."""
        return float((self.shares(have) * self.flops)[have].sum())

    def price(self, have: np.ndarray) -> float:
        """The money (or FLOPs, without a price) of all runs in ``have`` (n,) together."""
        return float((self.shares(have) * self.money)[have].sum())


@dataclass(frozen=True)
class Belief:
    """What the runs so far say: the ``law`` (one row), the ``noise`` of ln L, the error of the form.

    ``tau``: {"params", "loss"}, that error in ln N* and ln L* where C is doubled; ``cost``: C = f(N) D.
    """

    law: SurfaceLaw
    noise: float
    tau: dict[str, float]
    cost: Cost

    @classmethod
    def of(cls, law: SurfaceLaw, noise: float, cost: Cost) -> "Belief":
        """What the surface ``law`` says, whose residual scale is ``noise``, on ``cost``.

        What of the scale exceeds the noise of runs is misfit, which no number of runs averages out: the
        error of the form is then larger than that of other sweeps by as much.
        """
        misfit = min(max(noise / USUAL_NOISE, 1.0), MOST_MISFIT)
        tau = {name: misfit * prior()[name] for name in ("params", "loss")}
        return cls(SurfaceLaw(law.values[:1]), min(max(noise, LEAST_NOISE), MOST_NOISE), tau, cost)


class Scores:
    """Expected variances of the answer at ``log_c`` = ln C for any choice among ``cells``.

    ``belief`` is what the runs so far say; ``weights`` of ln N* and ln L* sum to 1. The runs in
    ``lost`` (n,) were trained and have no loss, so they say nothing.
    """

    def __init__(
        self,
        cells: Cells,
        belief: Belief,
        log_c: float,
        weights: dict[str, float],
        lost: np.ndarray | None = None,
    ):
        self.cells, self.belief, self.log_c, self.weights = cells, belief, log_c, weights
        values = belief.law.values[:1]
        theta = np.concatenate([np.log(np.maximum(values[:, :1], 1e-3)), values[:, 1:]], axis=1)
        law_part = Design(cells.log_n, cells.log_d).jacobian(theta)[0]
        off, deviations = self._off_the_law()
        self.rows = np.concatenate([law_part, off], axis=1) / belief.noise
        if lost is not None:
            self.rows[lost] = 0.0
        self.prior = np.diag(np.concatenate([PRIOR_SD, deviations]) ** -2.0)
        self.gradients = {
            name: np.concatenate([g, np.zeros(off.shape[1])])
            for name, g in _gradients(theta[0], log_c, belief.cost).items()
        }

    def _off_the_law(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradients (n, 2 B) by the shifts of each budget's minimum, and their sds (2 B,)."""
        belief, budgets = self.belief, np.unique(self.cells.budget)
        columns, deviations = [], []
        for c in budgets:
            log_c, here = np.log(c), self.cells.budget == c
            best, loss = (float(v[0]) for v in belief.law.optimum(log_c, belief.cost))
            around = best + BEND * np.array([-1.0, 1.0])
            sides = [float(belief.law.off_optimum(n, log_c, belief.cost)[0]) for n in around]
            bend = (np.log(sides).sum() - 2 * np.log(loss)) / BEND**2
            shift = -bend * np.clip(self.cells.log_n - best, -FARTHEST, FARTHEST)
            columns += [here.astype(float), here * shift]
            away = float(growth(self.log_c - log_c))
            deviations += [belief.tau["loss"] * away, belief.tau["params"] * away]
        return np.stack(columns, axis=1), np.array(deviations)

    def optimum(self, budget: float) -> float:
        """ln N* at a ``budget`` in FLOPs as far as it is known, or the nearest end of its sizes."""
        log_n = self.cells.log_n[self.cells.budget == budget]
        best = self.belief.law.optimum(np.log(budget), self.belief.cost)[0][0]
        return float(np.clip(best, log_n.min(), log_n.max()))

    def covariance(self, have: np.ndarray) -> np.ndarray:
        """The expected covariance of the parameters after the runs ``have`` (n,) of booleans."""
        rows = self.rows[have]
        return np.linalg.inv(self.prior + rows.T @ rows)

    def noise_variance(self, have: np.ndarray, name: str) -> float:
        """The variance that noise alone gives ln N* (``name`` params) or ln L* after ``have`` (n,)."""
        law = slice(len(PRIOR_SD))
        rows, g = self.rows[have][:, law], self.gradients[name][law]
        return float(g @ np.linalg.solve(self.prior[law, law] + rows.T @ rows, g))

    def variances(self, have: np.ndarray) -> dict[str, float]:
        """The expected variances of ln N* and ln L* after the runs ``have`` (n,)."""
        covariance = self.covariance(have)
        return {name: float(g @ covariance @ g) for name, g in self.gradients.items()}

    def worths(self, have: np.ndarray, steps: list[list[int]]) -> np.ndarray:
        """By what share each of ``steps``, lists of runs, is expected to reduce the variances.

        ``have`` (n,): the runs before. Returns an array of one share for each step.
        """
        covariance, worth = self.covariance(have), np.zeros(len(steps))
        for name, weight in self.weights.items():
            g = self.gradients[name]
            spread, total = self.rows @ (covariance @ g), float(g @ covariance @ g)
            for i, step in enumerate(steps):
                rows = self.rows[step]
                inner = np.eye(len(step)) + rows @ covariance @ rows.T
                fall = spread[step] @ np.linalg.solve(inner, spread[step])
                worth[i] += weight * fall / total
        return worth


def _gradients(theta: np.ndarray, log_c: float, cost: Cost) -> dict[str, np.ndarray]:
    """Gradients (5,) of ln N* and ln L* at ln C by ln E, ln A, ln B, alpha and beta."""
    values = theta + STEP * np.concatenate([np.eye(5), -np.eye(5)])
    values[:, 0] = np.exp(values[:, 0])
    log_n, loss = SurfaceLaw(values).optimum(log_c, cost)
    return {
        name: (of[:5] - of[5:]) / (2 * STEP)
        for name, of in (("params", log_n), ("loss", np.log(loss)))
    }


def first_grid(cells: Cells) -> np.ndarray:
    """The runs of ``cells`` to begin with: the smallest budgets, each with sizes evenly spread in ln N.

    They have the first seed. Returns booleans (n,).
    """
    budget, log_n = cells.budget, cells.log_n
    chosen = np.zeros(len(budget), dtype=bool)
    for c in np.unique(budget)[:FIRST_BUDGETS]:
        rows = np.flatnonzero((budget == c) & (cells.repeat == 0))
        for target in np.linspace(log_n[rows].min(), log_n[rows].max(), FIRST_SIZES):
            chosen[rows[np.argmin(np.abs(log_n[rows] - target))]] = True
    return chosen


def steps(scores: Scores, have: np.ndarray) -> list[list[int]]:
    """What can be added to the runs ``have`` (n,) of ``scores`` in one step: lists of runs.

    At a budget that has runs already, a size not farther from N* than a measured minimum reaches; at a
    new budget the sizes that bracket its minimum. Only where there is none of these, one more seed of
    all sizes of a budget: before, cheap repeats far below the budget asked would tilt the fit.
    """
    cells, every = scores.cells, openings(scores, have)
    for c in np.unique(cells.budget[have]):
        away = np.abs(cells.log_n - scores.optimum(c))
        new = (cells.budget == c) & (cells.repeat == 0) & ~have & (away < REACH)
        every += [cells.size_in(have, int(run)) for run in np.flatnonzero(new)]
    if every:
        return every
    again = (cells.next_seed(have, c) for c in np.unique(cells.budget[have]))
    return [step for step in again if step]


def openings(scores: Scores, have: np.ndarray) -> list[list[int]]:
    """The `opening` of each budget of ``scores`` that has no runs in ``have`` (n,)."""
    new = np.setdiff1d(scores.cells.budget, scores.cells.budget[have])
    return [opening(scores, c) for c in new]


def opening(scores: Scores, budget: float) -> list[int]:
    """The runs of ``scores`` at ``budget`` that bracket its minimum: the fewest sizes around N*."""
    cells, best = scores.cells, scores.optimum(budget)
    left = list(np.flatnonzero((cells.budget == budget) & (cells.repeat == 0)))
    picked: list[int] = []
    for off in BRACKET:
        if left:
            nearest = min(left, key=lambda i: abs(cells.log_n[i] - best - off))
            picked.append(int(nearest))
            left.remove(nearest)
    return picked


def choose(
    scores: Scores,
    have: np.ndarray,
    most: float,
    enough: Callable[[np.ndarray], bool] = lambda have: False,
) -> np.ndarray:
    """The runs, booleans (n,), that narrow the answer most beside ``have`` (n,) for ``most`` in all.

    Where some choice is expected to be ``enough``, the cheapest of those found. Each budget without
    runs is opened first in turn (or none); then the step of most worth per price by ``scores`` is
    taken, again and again.
    """
    cells = scores.cells
    plans = []
    for first in ([], *openings(scores, have)):
        chosen = have.copy()
        chosen[first] = True
        if cells.total(chosen) > most and first:
            continue
        chosen = _filled(scores, chosen, most, enough)
        reached = enough(chosen)
        rank = cells.price(chosen) if reached else _sum(scores, chosen)
        plans.append((not reached, rank, chosen))
    return min(plans, key=lambda plan: plan[:2])[2]


def _sum(scores: Scores, have: np.ndarray) -> float:
    """The logarithms of the variances in their weights."""
    variances = scores.variances(have)
    return sum(weight * float(np.log(variances[name])) for name, weight in scores.weights.items())


def _filled(
    scores: Scores, have: np.ndarray, most: float, enough: Callable[[np.ndarray], bool]
) -> np.ndarray:
    """``have`` (n,) and step by step what is worth most for its price, up to ``most`` in all."""
    cells, chosen = scores.cells, have.copy()
    while not enough(chosen):
        paid, options = cells.price(chosen), []
        for step in steps(scores, chosen):
            after = chosen.copy()
            after[step] = True
            if cells.total(after) <= most:
                options.append((step, max(cells.price(after) - paid, 1e-12 * paid)))
        if not options:
            break
        worth = scores.worths(chosen, [step for step, _ in options])
        chosen[options[int(np.argmax(worth / [price for _, price in options]))][0]] = True
    return chosen


def next_round(cells: Cells, have: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The first part of what was ``chosen`` (n,) beside ``have`` (n,): the cheapest budgets.

    The runs are those of ``cells``. A round costs at most as much as all rounds before it,
    but takes at least one budget: its runs change the choice.
    """
    after = have.copy()
    most = 2 * cells.total(have)
    for c in np.unique(cells.budget[chosen & ~have]):
        rows = chosen & (cells.budget == c)
        if (after & ~have).any() and cells.total(after | rows) > most:
            break
        after |= rows
    return after
