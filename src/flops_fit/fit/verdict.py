"""The verdict on an answer (trust, provisional or not identifiable), and the reasons for it.

*Trust* is a promise about the decision: the advised size costs at most 5% more compute than the best
one, with a probability of 90% or more. A reason that concerns the runs forbids trust whatever the
probability.
"""

import math

import numpy as np

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.answer import NOT_IDENTIFIABLE, PROVISIONAL, TRUST
from flops_fit.fit.cost import Numbers
from flops_fit.fit.estimators import ONE_BUDGET_SPAN
from flops_fit.fit.result import Fit
from flops_fit.notation import count_text, flops_text, span_text

PROMISED = 0.90  # probability that the advised size costs at most 5% more compute than the best
FAR = 10.0  # beyond the data by more than this: provisional at best
ROUNDED = 1.01  # whole batches leave a budget a little beside its name
MEANINGLESS = 1000.0  # beyond the data by more than this, no interval means anything
ELSEWHERE = 1.1  # factor in C beyond which runs of one budget say nothing
DECADE = 10.0  # budgets within this factor of the largest have to show minima
OUTSIDE = 1.05  # factor beyond the runs' own range of C or D / N: no run shows such training
RATIO_COUNTS = 2.0  # a factor in D / N beyond that of the runs counts as its square in C


def reasons_at(
    fit: Fit, flops: float, has_interval: bool, promise: float | None
) -> tuple[str, list[str]]:
    """The verdict on the answer of ``fit`` at C = ``flops``, and the reasons that hold it down.

    ``has_interval``: whether the answer has one; ``promise``: the probability that the advised size
    costs at most 5% more compute than the best one, None where it is not known.
    """
    unknown = unanswerable(fit, flops)
    if unknown:
        return NOT_IDENTIFIABLE, [unknown]
    reasons = [*_distance(fit, flops), *_runs(fit)]
    if fit.status == "at_bound":
        reasons.append(fit.headline.reason)
    if not has_interval:
        reasons.append("there are no intervals: the fit was made with --bootstrap 0")
    elif fit.stack is None:
        reasons.append(
            f"the interval covers noise only: it comes from one estimator, {fit.headline.method}"
        )
    elif promise is not None and promise < PROMISED:
        reasons.append(
            "the advised size costs at most 5% more compute than the best one with a probability of "
            f"{promise_text(promise)}; trust needs {PROMISED:.0%}"
        )
    reasons += fit.headline.warnings
    return (PROVISIONAL if reasons else TRUST), reasons


def unanswerable(fit: Fit, flops: float) -> str:
    """Why ``fit`` has no answer at C = ``flops`` at all; empty where it has one."""
    if not fit.identified:
        return fit.missing
    low, high = fit.data.flops
    if not has_trend(fit) and not low / ELSEWHERE <= flops <= high * ELSEWHERE:
        return (
            f"all runs cost {span_text(fit.data.flops, flops_text)} FLOPs: runs of one budget show its "
            "optimum, and say nothing about other budgets"
        )
    return ""


def has_trend(fit: Fit) -> bool:
    """Whether ``fit`` says how the optimum changes with C: it has one, and not at one budget alone."""
    low, high = fit.data.flops
    return fit.identified and high / low >= ONE_BUDGET_SPAN


def ratios_of(fit: Fit) -> tuple[float, float]:
    """The lowest and the highest D / N of the runs of ``fit``."""
    columns = fit.table.columns
    tokens, params = (np.array(columns[name], dtype=float) for name in ("tokens", "params"))
    return float((tokens / params).min()), float((tokens / params).max())


def distance_of_run(fit: Fit, flops: Numbers, ratio: Numbers) -> np.ndarray:
    """How far runs lie beyond those of ``fit``, in ln C, at least 0.

    ``flops`` and ``ratio``, arrays of one shape (or numbers): C of each, and its tokens per parameter.
    A factor in D / N outside that of the runs counts `RATIO_COUNTS` times: where runs of the highest
    D / N of published sweeps are left out, intervals so widened hold them at every distance.
    """
    low, high = np.log(ratios_of(fit))
    outside = np.maximum(np.log(ratio) - high, 0) + np.maximum(low - np.log(ratio), 0)
    return np.maximum(np.log(flops / fit.data.largest_budget), 0) + RATIO_COUNTS * outside


def untested_run(fit: Fit, flops: float, ratio: float) -> str:
    """Why no run of ``fit`` says what one of C = ``flops`` and ``ratio`` = D / N gives; else empty.

    The loss beyond the runs' budgets was tested on budgets left out; other tokens per parameter, or
    less compute than any run, never were.
    """
    low, high = ratios_of(fit)
    if not low / OUTSIDE <= ratio <= high * OUTSIDE:
        return (
            f"{count_text(ratio)} tokens per parameter are beyond those of the runs, "
            f"{count_text(low)} to {count_text(high)}, so no run tests this"
        )
    if flops < fit.data.flops[0] / OUTSIDE:
        least = flops_text(fit.data.flops[0])
        return f"{flops_text(flops)} FLOPs are less than those of any run, {least}"
    return ""


def _distance(fit: Fit, flops: float) -> list[str]:
    """Reasons from how far beyond the data C lies, and whether that was ever tested."""
    reasons, beyond = [], flops / fit.data.largest_budget
    if beyond > FAR * ROUNDED:
        reasons.append(f"the budget is {beyond:.3g} times the largest budget of the data")
    if beyond > MEANINGLESS:
        reasons.append("this is so far beyond the data that every number here is a guess")
    tested = fit.stack.tests["params"] if fit.stack else fit.heldout.levels
    if beyond > ROUNDED and not tested:
        reasons.append(
            "the budget is beyond the data, and untested: no budget could be left out and predicted"
        )
    return reasons


def _runs(fit: Fit) -> list[str]:
    """Reasons that concern the runs."""
    reasons, data = [], fit.data
    span = data.flops[1] / data.flops[0]
    if span < ONE_BUDGET_SPAN:
        reasons.append(
            f"the runs span a factor of {span:.2g} in compute, too little to see a trend in it"
        )
    if data.most_epochs and data.most_epochs > MOST_EPOCHS:
        reasons.append(
            f"some runs read their data up to {data.most_epochs:.2g} times: beyond {MOST_EPOCHS:g} "
            "passes repeated data are worth less than fresh data"
        )
    if fit.isoflop.shared:
        budgets = fit.isoflop.budgets
        near = [b for b in budgets if b.flops * DECADE >= budgets[-1].flops]
        edge = [b for b in near if b.status != "bracketed"]
        if edge and (edge[-1] is budgets[-1] or len(edge) > len(near) / 2):
            each = ", ".join(f"{flops_text(b.flops)} ({b.status.replace('_', ' ')})" for b in edge)
            reasons.append(f"budgets without a bracketed minimum: {each}")
    return reasons


def promise_text(promise: float) -> str:
    """``promise``, a probability, as text that never rounds up to what trust needs."""
    rounded = f"{promise:.0%}"
    if rounded == "100%":
        return "over 99%"
    if promise < PROMISED and rounded == f"{PROMISED:.0%}":
        return f"{math.floor(1000 * promise) / 10:g}%"
    return rounded
