"""What each single estimator predicts for the largest budgets, fitted without them.

One score for all: at each budget left out, the excess loss of a model of the predicted N* (read
from a local interpolation of the runs left out) plus the error of the predicted L*, both relative.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from flops_fit.fit.estimators import USABLE, Estimate, Runs
from flops_fit.fit.identify import FEWEST_TESTABLE
from flops_fit.fit.isoflop import FEWEST_SIZES
from flops_fit.fit.laws import PathLaw, SurfaceLaw
from flops_fit.fit.sections import Heldout, HeldoutLevel, HeldoutPrediction

LEAVE_OUT = (1, 2, 3)
NOTHING_IDENTIFIED = "these runs do not identify any estimator"


@dataclass(frozen=True)
class Reference:
    """The runs of one budget left out, interpolated: Akima in ln N, straight beyond the ends."""

    flops: float  # the budget
    log_n: np.ndarray  # ln N of its sizes (k,)
    loss: np.ndarray  # mean loss of each size (k,)

    @classmethod
    def of(cls, runs: Runs, flops: float, rows: np.ndarray) -> "Reference | None":
        """The reference of the budget ``flops``, whose runs are the ``rows`` (k,) of ``runs``.

        None where the budget has too few sizes or its lowest loss is at an end.
        """
        log_n, which = np.unique(np.log(runs.column("params")[rows]), return_inverse=True)
        loss = np.bincount(which, runs.column("loss")[rows]) / np.bincount(which)
        if len(log_n) < FEWEST_SIZES or not 0 < np.argmin(loss) < len(loss) - 1:
            return None
        return cls(flops, log_n, loss)

    def at(self, log_n: np.ndarray) -> np.ndarray:
        """Loss of shape (k,) at ``log_n`` = ln N (k,)."""
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


def score(law: SurfaceLaw | PathLaw, runs: Runs, references: list[Reference]) -> np.ndarray:
    """Mean over ``references`` of relative excess loss at N* + |relative error of L*|, of shape (R,).

    ``law`` has R versions; ``runs`` give the cost on which it is asked.
    """
    total = np.zeros(len(law.values))
    for reference in references:
        log_n, loss = law.optimum(np.log(reference.flops), runs.cost)
        _, lowest = reference.best()
        excess = np.maximum(reference.at(log_n) - lowest, 0.0) / lowest
        total = total + excess + np.abs(loss - lowest) / lowest
    return total / len(references)


def hold_out(runs: Runs, fit_all: Callable[[Runs], dict[str, Estimate]]) -> Heldout:
    """Ask every estimator for the largest budgets of ``runs``, fitted without them.

    ``fit_all`` fits every estimator on some of the runs. ``levels``: per number of budgets left out,
    predicted against measured; ``score`` is the mean over the levels at which all estimators could
    be compared.
    """
    levels: list[HeldoutLevel] = []
    scores: list[dict[str, float]] = []  # per level, by estimator
    for out in LEAVE_OUT:
        if len(runs.groups) - out < 2:
            break
        left = runs.groups[-out:]
        references = [r for c, rows in left if (r := Reference.of(runs, c, rows))]
        training = runs.below(left[0][0])
        if not references or len(training) < FEWEST_TESTABLE:
            continue
        estimates = {n: e for n, e in fit_all(training).items() if e.status in USABLE}
        scores.append({n: float(score(e.law, runs, references)[0]) for n, e in estimates.items()})
        predictions = [
            _prediction(name, estimate.law, reference, runs)
            for name, estimate in estimates.items()
            for reference in references
        ]
        levels.append(
            HeldoutLevel(out, float(runs.groups[-out - 1][0]), len(training), predictions)
        )
    names = set(scores[0]) if scores else set()
    # Too little is left at some level for an estimator: compare where all of them can be.
    shared = [level for level in scores if names <= set(level)]
    return Heldout(
        levels,
        len(shared),
        {n: float(np.mean([level[n] for level in shared])) for n in sorted(names)},
    )


def _prediction(
    name: str, law: SurfaceLaw | PathLaw, reference: Reference, runs: Runs
) -> HeldoutPrediction:
    """What one estimator predicted for one budget left out, and what was measured there."""
    log_n, loss = law.optimum(np.log(reference.flops), runs.cost)
    measured_n, measured_loss = reference.best()
    return HeldoutPrediction(
        estimator=name,
        flops=reference.flops,
        params=float(np.exp(log_n[0])),
        params_measured=float(np.exp(measured_n)),
        loss=float(loss[0]),
        loss_measured=measured_loss,
        excess=float(max(reference.at(log_n)[0] - measured_loss, 0.0) / measured_loss),
        loss_error=float((loss[0] - measured_loss) / measured_loss),
    )


def fallback(estimates: dict[str, Estimate], heldout: Heldout, why: str) -> tuple[str, str]:
    """The headline where there is no stack, and the reason.

    The best of the usable ``estimates`` on the budgets of ``heldout``; ``why`` says why there is no
    stack.
    """
    usable = [
        n
        for n in ("surface", "isoflop", "envelope")
        if n in estimates and estimates[n].status in USABLE
    ]
    if not usable:
        return "surface", NOTHING_IDENTIFIED
    best = min(usable, key=lambda n: heldout.score.get(n, np.inf))
    return best, f"{best}: there is no stack, since {why}"
