"""Forecast of the next budget's loss: a surface in which dear runs weigh more.

Where the surface is not quite the truth, the runs nearest to the extrapolation say most about it:
weights w ~ C^kappa. kappa is chosen inside the data by forward chaining (fit the cheaper runs,
predict the next ones, move on) and shrunk to 0: the smallest kappa within 1% of the best mean
error. Never used for a or N*, which such weights hurt where the surface is exact.
"""

from itertools import pairwise

import numpy as np

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Runs, refit_surface
from flops_fit.fit.newton import minimise
from flops_fit.fit.surface import Data, coefficients, fit_surface

KAPPAS = np.arange(0.0, 2.01, 0.25)
SHRINK = 0.01  # relative: a smaller kappa this close to the best is preferred
MOST_SLABS = 10
FEWEST_IN_SLAB = 4
FEWEST_TRAINING = 8


def _slabs(runs: Runs) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, next) row positions: the next budget, or slabs of the dearer half by C."""
    if len(runs.groups) >= 3:
        slabs = [
            (np.concatenate([rows for _, rows in runs.groups[:k]]), runs.groups[k][1])
            for k in range(2, len(runs.groups))
        ]
    else:
        order = np.argsort(runs.column("flops"), kind="stable")
        half = len(order) // 2
        count = min(MOST_SLABS, (len(order) - half) // FEWEST_IN_SLAB)
        edges = np.linspace(half, len(order), count + 1).astype(int)
        slabs = [(order[:low], order[low:high]) for low, high in pairwise(edges)]
    return [(train, ahead) for train, ahead in slabs if len(train) >= FEWEST_TRAINING]


def forecast_surface(runs: Runs) -> dict:
    """FIT.json's ``forecast``: ``E, A, B, alpha, beta, kappa`` and the chained errors behind it.

    Threshold and exclusions are always automatic here, inside each fold too. ``errors``: mean
    relative error of the next runs' loss for each kappa of ``kappas``, over ``folds`` steps.
    """
    data = Data.of(runs.column("params"), runs.column("tokens"), runs.column("loss"))
    log_c = np.log(runs.column("flops"))
    fit = fit_surface(data)
    slabs = _slabs(runs)
    errors = np.zeros(len(KAPPAS))
    if slabs:
        masks = np.zeros((len(slabs), len(data)))
        for mask, (train, _) in zip(masks, slabs, strict=True):
            mask[train] = 1
        base = refit_surface(data, fit, Draws("runs", masks), auto_delta=True, auto_exclude=True)
        for i, (train, ahead) in enumerate(slabs):
            top = log_c[train].max()
            weight = base.weight[i] * np.exp(KAPPAS[:, None] * (log_c - top)) * masks[i]
            theta = _weighted(data, fit.form, base.theta[i], weight, base.delta[i])
            predicted = data.take(ahead).design.log_surface(theta)
            errors += np.abs(np.expm1(predicted - data.log_loss[ahead])).mean(axis=1) / len(slabs)
    kappa = float(KAPPAS[np.argmax(errors <= errors.min() * (1 + SHRINK))])
    weight = fit.weight * np.exp(kappa * (log_c - log_c.max()))
    theta = _weighted(data, fit.form, fit.theta, weight[None], fit.delta)[0]
    names = ("E", "A", "B", "alpha", "beta")
    return {
        **{n: float(v) for n, v in zip(names, coefficients(theta, fit.centre), strict=True)},
        "kappa": kappa,
        "kappas": KAPPAS.tolist(),
        "errors": errors.tolist(),
        "folds": len(slabs),
        "n_runs": fit.n_runs,
    }


def _weighted(data, form, theta, weight, delta):
    """theta (k, 5) for weights (k, n), from one start."""
    starts = np.repeat(theta[None], len(weight), axis=0)
    return minimise(form, starts, data.log_loss, weight, delta, data.design).theta
