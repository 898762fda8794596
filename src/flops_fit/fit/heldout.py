"""Which estimator to believe: leave the largest budgets out, refit, and see who predicts them.

One score for all: at each budget left out, the excess loss of a model of the predicted N* (read
from a local interpolation of the runs left out) plus the error of the predicted L*, both relative.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Estimate, Runs

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


def score(estimate: Estimate, law, runs: Runs, references: list[Reference]) -> np.ndarray:
    """Mean over references of relative excess loss at N* + |relative error of L*|, (R,)."""
    total = np.zeros(len(law.values))
    for reference in references:
        log_n, loss = law.optimum(np.log(reference.flops), runs.cost)
        _, lowest = reference.best()
        excess = np.maximum(reference.at(log_n) - lowest, 0.0) / lowest
        total = total + excess + np.abs(loss - lowest) / lowest
    return total / len(references)


def hold_out(runs: Runs, fit_all, draws: Draws | None, resamples: int) -> dict:
    """Score every estimator on the budgets left out.

    ``fit_all(runs, draws) -> dict of Estimate``. Returns FIT.json's ``heldout``: ``levels`` (per
    number of budgets left out: trained on, predicted against measured), ``score`` per estimator,
    ``spread`` (sd over resamples of surface minus estimator) and ``selected`` (share of resamples
    in which the rule of the headline would have chosen each).
    """
    levels: list[dict] = []
    scores: list[dict[str, float]] = []  # per level, by estimator
    drawn: list[dict[str, np.ndarray]] = []  # the same on every resample
    budgets = runs.groups
    for out in LEAVE_OUT:
        if len(budgets) - out < 2:
            break
        left = budgets[-out:]
        references = [r for c, rows in left if (r := Reference.of(runs, c, rows))]
        training = runs.below(left[0][0])
        if not references or len(training) < FEWEST_TRAINING:
            continue
        keep = np.sort(np.concatenate([rows for _, rows in budgets[:-out]]))
        part = draws.first(resamples).take(keep) if draws is not None else None
        if part is not None:
            part = _nonempty(part)
        estimates = fit_all(training, part)
        predictions: list[dict] = []
        level = {
            "left_out": out,
            "trained_up_to": float(budgets[-out - 1][0]),
            "n_runs": len(training),
            "predictions": predictions,
        }
        scores.append({})
        drawn.append({})
        for name, estimate in estimates.items():
            if not _usable(estimate):
                continue
            scores[-1][name] = float(score(estimate, estimate.law, runs, references)[0])
            if estimate.draws is not None:
                full = np.full(resamples, np.nan)
                values = score(estimate, estimate.draws, runs, references)
                full[np.flatnonzero(estimate.usable)[: len(values)]] = values
                drawn[-1][name] = full
            for reference in references:
                log_n, loss = estimate.law.optimum(np.log(reference.flops), runs.cost)
                measured_n, measured_loss = reference.best()
                predictions.append(
                    {
                        "estimator": name,
                        "flops": reference.flops,
                        "params": float(np.exp(log_n[0])),
                        "params_measured": float(np.exp(measured_n)),
                        "loss": float(loss[0]),
                        "loss_measured": measured_loss,
                        "excess": float(
                            max(reference.at(log_n)[0] - measured_loss, 0.0) / measured_loss
                        ),
                        "loss_error": float((loss[0] - measured_loss) / measured_loss),
                    }
                )
        levels.append(level)
    names = set(scores[0]) if scores else set()
    # Too little is left at some level for an estimator: compare where all of them can be.
    shared = [i for i, level in enumerate(scores) if names <= set(level)]
    result = {
        "levels": levels,
        "levels_scored": len(shared),
        "score": {n: float(np.mean([scores[i][n] for i in shared])) for n in sorted(names)},
        "spread": {},
        "selected": {},
    }
    resampled = {
        n: np.mean([drawn[i][n] for i in shared], axis=0)
        for n in sorted(names)
        if all(n in drawn[i] for i in shared)
    }
    if "surface" in resampled:
        _compare(result, resampled)
    return result


def _nonempty(draws: Draws) -> Draws:
    """Resamples seen on a subset may hold no run of it: those keep every run once."""
    empty = (draws.weight > 0).sum(axis=1) < 5
    weight = np.where(empty[:, None], 1.0, draws.weight)
    return Draws(draws.unit, weight, draws.sign)


def _usable(estimate: Estimate) -> bool:
    return estimate.status in ("converged", "at_bound", "bracketed")


def _compare(result: dict, resampled: dict[str, np.ndarray]) -> None:
    surface = resampled["surface"]
    gains = {}
    for name, values in resampled.items():
        if name == "surface":
            continue
        gain = surface - values
        gain = gain[np.isfinite(gain)]
        if len(gain) < 20:
            continue
        result["spread"][name] = float(np.std(gain))
        gains[name] = surface - values - result["spread"][name]
    if gains:
        table = np.nan_to_num(np.stack([np.zeros_like(surface), *gains.values()]), nan=-1.0)
        chosen = np.argmax(table, axis=0)
        share = np.bincount(chosen, minlength=len(table)) / len(chosen)
        result["selected"] = dict(zip(["surface", *gains], map(float, share), strict=True))
    else:
        result["selected"] = {"surface": 1.0}


def choose(estimates: dict[str, Estimate], heldout: dict) -> tuple[str, str]:
    """The headline estimator and why, in words.

    The surface stays unless another beats its score by more than the resampling spread of the
    difference; where the surface cannot be identified, the best of the others.
    """
    scores = heldout["score"]
    usable = [
        n for n in ("surface", "isoflop", "envelope") if n in estimates and _usable(estimates[n])
    ]
    if "surface" not in usable:
        if not usable:
            return "surface", "no estimator is identified by these runs; the surface is printed"
        best = min(usable, key=lambda n: scores.get(n, np.inf))
        return best, f"{best}: the surface is not identifiable"
    if "surface" not in scores or len(scores) < 2:
        others = "no other estimator" if len(usable) < 2 else "too few budgets to leave any out"
        return "surface", f"surface: {others}, so no held-out comparison"
    best = min((n for n in usable if n in scores), key=scores.get)
    told = ", ".join(f"{n} {100 * s:.2f}%" for n, s in sorted(scores.items(), key=lambda i: i[1]))
    depth = heldout["levels_scored"]
    tail = f"(held-out score on the last {depth} budget{'s' * (depth > 1)}: {told})"
    if best == "surface":
        return "surface", f"surface: the best held-out score {tail}"
    gain, spread = scores["surface"] - scores[best], heldout["spread"].get(best, 0.0)
    if gain > spread:
        return best, f"{best}: beats the surface by more than the resampling spread {tail}"
    return "surface", f"surface: {best} is not better by more than the resampling spread {tail}"
