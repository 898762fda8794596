"""What each single estimator would have said of the largest budgets, fitted without them.

One score for all: at each budget left out, the excess loss of a model of the predicted N* (read
from a local interpolation of the runs left out) plus the error of the predicted L*, both relative.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from flops_fit.fit.estimators import USABLE, Estimate, Runs

LEAVE_OUT = (1, 2, 3)
FEWEST_SIZES = 4  # of a budget, to be a reference
FEWEST_TRAINING = 7  # runs


@dataclass(frozen=True)
class Reference:
    """The runs of one budget left out, interpolated: Akima in ln N, straight beyond the ends."""

    flops: float
    log_n: np.ndarray
    loss: np.ndarray

    @classmethod
    def of(cls, runs: Runs, flops: float, rows: np.ndarray) -> "Reference | None":
        """None where the budget has too few sizes or its lowest loss is at an end."""
        log_n, which = np.unique(np.log(runs.column("params")[rows]), return_inverse=True)
        loss = np.bincount(which, runs.column("loss")[rows]) / np.bincount(which)
        if len(log_n) < FEWEST_SIZES or not 0 < np.argmin(loss) < len(loss) - 1:
            return None
        return cls(flops, log_n, loss)

    def at(self, log_n: np.ndarray) -> np.ndarray:
        """Loss at ln N."""
        inside = Akima1DInterpolator(self.log_n, self.loss)(
            np.clip(log_n, self.log_n[0], self.log_n[-1])
        )
        left = (self.loss[1] - self.loss[0]) / (self.log_n[1] - self.log_n[0])
        right = (self.loss[-1] - self.loss[-2]) / (self.log_n[-1] - self.log_n[-2])
        return (
            inside
            + np.minimum(log_n - self.log_n[0], 0) * left
            + np.maximum(log_n - self.log_n[-1], 0) * right
        )

    def best(self) -> tuple[float, float]:
        """ln N and loss of the interpolated minimum."""
        grid = np.linspace(self.log_n[0], self.log_n[-1], 2001)
        curve = self.at(grid)
        at = int(np.argmin(curve))
        return float(grid[at]), float(curve[at])


def score(law, runs: Runs, references: list[Reference]) -> np.ndarray:
    """Mean over references of relative excess loss at N* + |relative error of L*|, (R,)."""
    total = np.zeros(len(law.values))
    for reference in references:
        log_n, loss = law.optimum(np.log(reference.flops), runs.cost)
        _, lowest = reference.best()
        excess = np.maximum(reference.at(log_n) - lowest, 0.0) / lowest
        total = total + excess + np.abs(loss - lowest) / lowest
    return total / len(references)


def hold_out(runs: Runs, fit_all) -> dict:
    """Ask every estimator for the budgets left out.

    ``fit_all(runs) -> dict of Estimate``. Returns FIT.json's ``heldout``: ``levels`` (per number of
    budgets left out: trained on, predicted against measured), ``levels_scored`` and ``score`` per
    estimator, where all could be compared.
    """
    levels: list[dict] = []
    scores: list[dict[str, float]] = []  # per level, by estimator
    for out in LEAVE_OUT:
        if len(runs.groups) - out < 2:
            break
        left = runs.groups[-out:]
        references = [r for c, rows in left if (r := Reference.of(runs, c, rows))]
        training = runs.below(left[0][0])
        if not references or len(training) < FEWEST_TRAINING:
            continue
        estimates = {n: e for n, e in fit_all(training).items() if e.status in USABLE}
        scores.append({n: float(score(e.law, runs, references)[0]) for n, e in estimates.items()})
        levels.append(
            {
                "left_out": out,
                "trained_up_to": float(runs.groups[-out - 1][0]),
                "n_runs": len(training),
                "predictions": [
                    _prediction(name, estimate.law, reference, runs)
                    for name, estimate in estimates.items()
                    for reference in references
                ],
            }
        )
    names = set(scores[0]) if scores else set()
    # Too little is left at some level for an estimator: compare where all of them can be.
    shared = [level for level in scores if names <= set(level)]
    return {
        "levels": levels,
        "levels_scored": len(shared),
        "score": {n: float(np.mean([level[n] for level in shared])) for n in sorted(names)},
    }


def _prediction(name: str, law, reference: Reference, runs: Runs) -> dict:
    """What one estimator said of one budget left out, and what was measured there."""
    log_n, loss = law.optimum(np.log(reference.flops), runs.cost)
    measured_n, measured_loss = reference.best()
    return {
        "estimator": name,
        "flops": reference.flops,
        "params": float(np.exp(log_n[0])),
        "params_measured": float(np.exp(measured_n)),
        "loss": float(loss[0]),
        "loss_measured": measured_loss,
        "excess": float(max(reference.at(log_n)[0] - measured_loss, 0.0) / measured_loss),
        "loss_error": float((loss[0] - measured_loss) / measured_loss),
    }


def fallback(estimates: dict[str, Estimate], heldout: dict, why: str) -> tuple[str, str]:
    """The headline where there is no stack, and why: the best of what is usable on budgets left out."""
    usable = [
        n
        for n in ("surface", "isoflop", "envelope")
        if n in estimates and estimates[n].status in USABLE
    ]
    if not usable:
        return "surface", "no estimator is identified by these runs"
    best = min(usable, key=lambda n: heldout["score"].get(n, np.inf))
    return best, f"{best}: no stack, since {why}"
