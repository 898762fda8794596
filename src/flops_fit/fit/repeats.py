"""What repeated data are worth, from runs that read their data several times.

    L = E + A / N^alpha + B / D'^beta

where D' tokens of fresh data are worth as much as D tokens of U unique ones, x = D / U - 1 repeats:

- none: D' = D;
- exponential (Muennighoff et al. 2023, arXiv 2305.16264): D' = U + U R (1 - exp(-x / R));
- hyperbolic: D' = U + U R x / (R + x).

The first repeat is worth as much as fresh data in both, and all together R passes over them. Forms are
tried in this order, and one is chosen over those before it where it predicts runs left out clearly
better.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from flops_fit.fit.estimators import Runs
from flops_fit.fit.numbers import interval
from flops_fit.fit.runs import RunTable
from flops_fit.fit.sections import RepeatForm, RepeatsEntry
from flops_fit.fit.surface import EFFICIENCY, Data, fit_surface, robust_scale

NONE, EXPONENTIAL, HYPERBOLIC = "none", "exponential", "hyperbolic"
FORMS = (NONE, EXPONENTIAL, HYPERBOLIC)
REPEATED = 1.05  # passes from which a run counts as one that repeats its data
FEWEST_REPEATED = 8  # such runs: one parameter more, on top of the law's five
LEAST_SPREAD = np.log(1.5)  # of ln of their passes
FOLDS = 5
CLEARLY = 2.0  # standard errors by which a form has to beat one before it on runs left out
START_R = (1.0, 5.0, 25.0, 125.0)
LARGEST_R = 1e4  # passes: beyond, no number of them loses its value
RESAMPLES = 60  # at most: each is a descent of its own


def effective(form: str, log_d: np.ndarray, log_u: np.ndarray, r: np.ndarray) -> np.ndarray:
    """ln D' of ``log_d`` = ln D tokens read from ``log_u`` = ln U unique ones; shapes broadcast.

    ``form`` is one of `FORMS`, ``r`` its R.
    """
    if form == NONE:
        return log_d + 0 * log_u
    x = np.maximum(np.expm1(log_d - log_u), 0.0)
    worth = -r * np.expm1(-x / r) if form == EXPONENTIAL else r * x / (r + x)
    return np.where(log_d <= log_u, log_d, log_u + np.log1p(worth))


@dataclass(frozen=True)
class _Table:
    """ln N, ln D, ln U and ln L of n runs, centred ln N and ln D."""

    log_n: np.ndarray
    log_d: np.ndarray
    log_u: np.ndarray
    log_loss: np.ndarray
    centre: tuple[float, float]

    def take(self, rows: np.ndarray) -> "_Table":
        log_n, log_d, log_u, log_loss = self.log_n, self.log_d, self.log_u, self.log_loss
        return _Table(log_n[rows], log_d[rows], log_u[rows], log_loss[rows], self.centre)

    def misses(self, form: str, theta: np.ndarray) -> np.ndarray:
        """ln L less that of the law, (n,)."""
        e, p, q, alpha, beta = theta[:5]
        r = np.exp(theta[5]) if form != NONE else np.ones(())
        log_d = effective(form, self.log_d, self.log_u, r) - self.centre[1]
        terms = [e + 0 * log_d, p - alpha * (self.log_n - self.centre[0]), q - beta * log_d]
        return self.log_loss - np.logaddexp.reduce(terms)


def with_repeats(table: RunTable, runs: Runs) -> Runs:
    """The ``runs`` of a fit together with those that ``table`` left out for their passes."""
    if not len(table.repeated):
        return runs
    return Runs(pd.concat([runs.frame, table.repeated], ignore_index=True), [], runs.cost)


def repeats_of(runs: Runs, resamples: int, level: float, seed: int) -> RepeatsEntry | None:
    """How repeats count in ``runs``; None where too few of them repeat their data.

    ``resamples``: number for the intervals of ``level``, drawn by ``seed``.
    """
    if "epochs" not in runs.frame:
        return None
    epochs = np.nan_to_num(runs.column("epochs"), nan=1.0)
    repeated = epochs >= REPEATED
    if repeated.sum() < FEWEST_REPEATED or np.ptp(np.log(epochs[repeated])) < LEAST_SPREAD:
        return None
    columns = [np.log(runs.column(c)) for c in ("params", "tokens", "loss")]
    log_n, log_d, log_loss = columns
    centre = float(log_n.mean()), float(log_d.mean())
    table = _Table(log_n, log_d, log_d - np.log(epochs), log_loss, centre)
    start = _plain(table)
    errors = {form: _left_out(form, table, start, repeated) for form in FORMS}
    chosen = NONE
    for form in FORMS[1:]:
        gain = errors[chosen] - errors[form]
        if gain.mean() > CLEARLY * gain.std(ddof=1) / np.sqrt(len(gain)):
            chosen = form
    thetas = {form: _best(form, table, start) for form in FORMS}
    generator, draws = np.random.default_rng(seed), []
    for _ in range(min(resamples, RESAMPLES)):
        rows = generator.integers(0, len(log_n), len(log_n))
        draws.append(_descend(chosen, table.take(rows), thetas[chosen]))
    forms = [RepeatForm(form, float(errors[form].mean()), _r(form, thetas[form])) for form in FORMS]
    drawn = [_coefficients(chosen, theta, centre) for theta in draws]
    return RepeatsEntry(
        form=chosen,
        forms=forms,
        n_repeated=int(repeated.sum()),
        most_epochs=float(epochs.max()),
        R=_r(chosen, thetas[chosen]),
        R_ci=interval(np.array([d[5] for d in drawn]), level) if drawn and chosen != NONE else None,
        law=_coefficients(chosen, thetas[chosen], centre),
        draws=drawn,
    )


def _plain(table: _Table) -> np.ndarray:
    """(5,): the classic surface, from which every descent starts."""
    data = Data.of(np.exp(table.log_n), np.exp(table.log_d), np.exp(table.log_loss))
    return fit_surface(data, exclude="none").theta


def _best(form: str, table: _Table, start: np.ndarray) -> np.ndarray:
    """The best of several starts in R."""
    if form == NONE:
        return _descend(form, table, start)
    thetas = [_descend(form, table, np.append(start[:5], np.log(r))) for r in START_R]
    return min(thetas, key=lambda theta: float(np.abs(table.misses(form, theta)).sum()))


def _descend(form: str, table: _Table, theta: np.ndarray) -> np.ndarray:
    """Huber minimum nearby, its threshold 1.345 robust scales of the residuals."""
    limits = np.array([30.0, 30.0, 30.0, 6.0, 6.0, np.log(LARGEST_R)])[: len(theta)]
    low = np.array([-30.0, -30.0, -30.0, 1e-3, 1e-3, -np.log(100)])[: len(theta)]
    for _ in range(2):
        miss = table.misses(form, theta)
        delta = EFFICIENCY * robust_scale(miss[None], np.ones((1, len(miss))))[0]
        theta = np.clip(theta, low + 1e-6, limits - 1e-6)
        theta = least_squares(
            lambda at: table.misses(form, at),
            theta,
            loss="huber",
            f_scale=max(float(delta), 1e-9),
            bounds=(low, limits),
            x_scale="jac",
        ).x
    return theta


def _left_out(form: str, table: _Table, start: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """|error of ln L| of each repeated run, predicted without the fifth of the runs that it is in."""
    order = np.lexsort([table.log_n, table.log_d - table.log_u])
    fold = np.empty(len(order), dtype=int)
    fold[order] = np.arange(len(order)) % FOLDS
    whole = _best(form, table, start)
    error = np.empty(len(order))
    for k in range(FOLDS):
        theta = _descend(form, table.take(fold != k), whole)
        error[fold == k] = np.abs(table.take(fold == k).misses(form, theta))
    return error[repeated]


def _r(form: str, theta: np.ndarray) -> float | None:
    return None if form == NONE else float(np.exp(theta[5]))


def _coefficients(form: str, theta: np.ndarray, centre: tuple[float, float]) -> list[float]:
    """[E, ln A, ln B, alpha, beta], and R where the form has one."""
    e, p, q, alpha, beta = theta[:5]
    law = [np.exp(e), p + alpha * centre[0], q + beta * centre[1], alpha, beta]
    return [float(v) for v in (*law, *([] if form == NONE else [np.exp(theta[5])]))]
