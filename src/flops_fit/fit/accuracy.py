"""The accuracy on a task at a budget: the loss by the law, then the sigmoid of the fit."""

import numpy as np
from scipy.special import ndtri

from flops_fit.fit.answer import NOT_IDENTIFIABLE, PROVISIONAL, AccuracyAnswer, Answer, Interval
from flops_fit.fit.numbers import interval
from flops_fit.fit.result import Fit
from flops_fit.fit.sigmoid import AccuracyEntry, sigmoid, spread_at

SAMPLES = 4000  # of the loss, the sigmoid and a run's scatter together
SEEN = 2.0  # scatters of a run by which a loss may lie below all losses of the runs
PLATEAU = 2.0  # widths from the middle at which 12% of the rise are left


def accuracy_at(fit: Fit, answer: Answer) -> AccuracyAnswer | None:
    """The accuracy of the optimum in ``answer``; None where ``fit`` has none to predict.

    Its interval holds that of the loss (noise and the error of the form), the noise of the sigmoid
    and the scatter of a run around it.
    """
    entry, best = fit.accuracy, answer.optimum
    if entry is None:
        return None
    reasons = [entry.reason] if entry.law is None else []
    if best is None:
        reasons.append("there is no loss to predict it from")
    if entry.law is None or best is None:
        return AccuracyAnswer(entry.name, None, None, None, None, NOT_IDENTIFIABLE, reasons)
    value = float(sigmoid(np.array(entry.law), np.array(best.loss)))
    ci = noise = None
    if entry.draws and "loss" in best.ci:
        ci = _interval(fit, entry, value, best.loss, best.ci["loss"], entry.scatter)
        noise = _interval(fit, entry, value, best.loss, best.ci_noise["loss"], 0.0)
    reasons = [*answer.reasons, *_doubts(fit, entry, best.loss)]
    if ci is None and not answer.reasons:
        reasons.append("there are no intervals: the fit was made with --bootstrap 0")
    verdict = PROVISIONAL if reasons else answer.verdict
    return AccuracyAnswer(entry.name, value, ci, noise, best.loss, verdict, reasons)


def _interval(
    fit: Fit, entry: AccuracyEntry, value: float, loss: float, ends: Interval, scatter: float
) -> Interval:
    """[low, high] of the accuracy, where the loss has the interval ``ends``."""
    generator, level = np.random.default_rng(fit.bootstrap.seed), fit.bootstrap.level
    half = float(np.log(ends[1] / ends[0])) / 2
    sd = half / float(ndtri((1 + level) / 2))
    losses = loss * np.exp(sd * generator.standard_normal(SAMPLES))
    laws = np.array(entry.draws)[np.arange(SAMPLES) % len(entry.draws)]
    values = sigmoid(laws, losses)
    values = values + scatter * spread_at(values) * generator.standard_normal(SAMPLES)
    low, high = interval(np.clip(values, 0, 1), level)
    return [min(low, value), max(high, value)]


def _doubts(fit: Fit, entry: AccuracyEntry, loss: float) -> list[str]:
    """Why the sigmoid is not to be trusted at a predicted ``loss``."""
    assert entry.law is not None
    low, high, middle, width = entry.law
    reasons, (least, most) = [], entry.losses
    noise = fit.stack.noise if fit.stack else fit.parametric.scale
    if loss < least * np.exp(-SEEN * noise) * (1 - 1e-6):
        reasons.append(
            f"the loss {loss:.4f} lies below those of all runs with {entry.name}, at least {least:.4f}: "
            "there the sigmoid is extrapolated"
        )
    if middle < least:
        reasons.append(
            f"no run is half-way up the sigmoid, so its upper end, {high:.3g}, is an extrapolation"
        )
    if entry.chance is None and most < middle + PLATEAU * width:
        reasons.append(
            f"no run is near the lower end of the sigmoid, so that end, {low:.3g}, is an extrapolation; "
            "state it (--chance) if you know it"
        )
    return reasons
