"""The accuracy on a task as a sigmoid of the loss, the second step of its prediction.

    accuracy = low + (high - low) / (1 + exp((loss - middle) / width))

``low`` is what guessing gives, ``high`` what the best models reach. The first step, the loss, is the
law of the fit (so do Gadre et al. 2024, arXiv 2403.08540, and Bhagia et al. 2024, arXiv 2412.04403).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from flops_fit.errors import FlopsFitError
from flops_fit.fit.bootstrap import Draws, draw
from flops_fit.fit.estimators import Runs
from flops_fit.fit.tables import shown

FEWEST = 8  # runs with an accuracy: twice the parameters
CLEARLY = 3.0  # t of the rank correlation of loss and accuracy
AT_CHANCE = 3.0  # standard errors of the mean of the best third above chance
SATURATED = 0.9  # a mean above it, without a trend
RESAMPLES = 200  # at most
EDGE = 0.02  # of an accuracy: nearer to 0 or 1 the scatter is taken for that here
FARTHEST = 3.0  # spans of the losses by which the middle may lie outside of them
WIDTHS = (0.01, 4.0)  # of the sigmoid, in spans of the losses
STARTS = [(at, width) for at in (-0.3, 0.0, 0.3, 0.6, 0.9) for width in (0.07, 0.2, 0.5)]


@dataclass(frozen=True)
class AccuracyEntry:
    """The accuracy ``name`` of the runs as a sigmoid of their loss.

    ``chance``: its lower end where that was stated; ``losses`` and ``values``: [lowest, highest] of
    the ``n_runs`` that have one; ``law``: [low, high, middle, width], None where the runs do not
    determine one (``reason``); ``draws``: the same of each resample; ``scatter``: the sd of a run
    around it, in units of sqrt(a (1 - a)) at accuracy a.
    """

    name: str  # of the column
    chance: float | None
    n_runs: int
    losses: list[float]
    values: list[float]
    law: list[float] | None
    draws: list[list[float]]
    scatter: float
    reason: str  # why there is no law; empty where there is


def sigmoid(law: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The accuracy at each ``loss``; the last axis of ``law`` is [low, high, middle, width]."""
    low, high, middle, width = np.moveaxis(np.asarray(law, dtype=float), -1, 0)
    return low + (high - low) / (1 + np.exp(np.clip((loss - middle) / width, -500, 500)))


def describe_sigmoid(entry: AccuracyEntry) -> str:
    """What ``entry`` says of its runs, in a sentence."""
    if entry.law is None:
        return f"{entry.name} is not identifiable: {entry.reason}"
    low, high, middle, width = entry.law
    stated = "stated" if entry.chance is not None else "estimated"
    return (
        f"{entry.name} of {entry.n_runs} runs as a sigmoid of the loss: from {low:.3g} ({stated}) to "
        f"{high:.3g}, half-way at a loss of {middle:.4g}, width {width:.3g}"
    )


def accuracies(frame: pd.DataFrame, source: str, name: str) -> pd.Series:
    """The column ``accuracy`` of ``frame`` as floats, NaN where a row has none.

    ``name`` is its name in the file ``source``. Raises `FlopsFitError` for a value that is no number
    from 0 to 1, naming its row.
    """
    cells = frame["accuracy"]
    values = pd.to_numeric(cells, errors="coerce").astype(float)
    bad = cells.notna() & ~((values >= 0) & (values <= 1))
    if bad.any():
        at = cells.index[bad][0]
        raise FlopsFitError(
            f"{source}: row {int(frame.loc[at, 'row'])}, column {name!r}: {shown(cells[at])}; allowed: "
            "an accuracy from 0 to 1 (divide per cent by 100), or an empty cell"
        )
    return values


def accuracy_of(
    runs: Runs, weight: np.ndarray, name: str, chance: float | None, draws: Draws | None, seed: int
) -> AccuracyEntry:
    """The accuracy ``name`` of the ``runs`` of ``weight`` (n,), 0 where left out of the law.

    ``chance``: its lower end, None to estimate it; ``draws``: the resamples of the law, which the
    sigmoid shares; signs of residuals are replaced by runs drawn with ``seed``.
    """
    values = runs.column("accuracy")
    rows = np.flatnonzero((weight > 0) & np.isfinite(values))
    loss, accuracy = runs.column("loss")[rows], values[rows]
    reason = undetermined(loss, accuracy, name, chance)
    law, drawn, scatter = None, [], 0.0
    if not reason:
        law = _best(loss, accuracy, chance)
        scatter = _scatter(law, loss, accuracy, chance)
        drawn = [
            _descend(loss, accuracy, chance, law, counts).tolist()
            for counts in _counts(runs, rows, draws, seed)
        ]
    return AccuracyEntry(
        name=name,
        chance=chance,
        n_runs=len(rows),
        losses=_ends(loss),
        values=_ends(accuracy),
        law=None if law is None else law.tolist(),
        draws=drawn,
        scatter=scatter,
        reason=reason,
    )


def undetermined(loss: np.ndarray, accuracy: np.ndarray, name: str, chance: float | None) -> str:
    """Why runs of ``loss`` and ``accuracy`` (n,) determine no sigmoid of ``name``; empty if they do.

    ``chance`` as in `accuracy_of`.
    """
    count = len(loss)
    if count < FEWEST:
        return f"{count} runs have a value of {name}; a sigmoid needs at least {FEWEST}"
    order = np.argsort(loss)
    best, mean, trend = (
        accuracy[order[: count // 3]],
        float(accuracy.mean()),
        _trend(loss, accuracy),
    )
    error = float(accuracy.std(ddof=1))
    near = chance is not None and best.mean() - chance <= AT_CHANCE * error / np.sqrt(len(best))
    if near and trend > -CLEARLY:
        return (
            f"{name} is at chance in all runs: {best.mean():.3g} on average in the third of the "
            f"lowest losses, where guessing gives {chance:.3g}"
        )
    if trend >= CLEARLY:
        return f"{name} is higher where the loss is higher; an accuracy is higher for better models"
    if trend > -CLEARLY:
        if mean > SATURATED:
            return (
                f"{name} is saturated: {mean:.3g} on average, and no higher where the loss is lower"
            )
        return (
            f"{name} does not rise as the loss falls: {mean:.3g} on average, from {accuracy.min():.3g} "
            f"to {accuracy.max():.3g}, so it may be at chance in all runs"
        )
    for part, half in (("lower", order[: count // 2]), ("higher", order[count // 2 :])):
        if _trend(loss[half], accuracy[half]) >= CLEARLY:
            return (
                f"{name} is no monotone function of the loss: among the runs of {part} loss it falls as "
                "the loss falls"
            )
    return ""


def _trend(loss: np.ndarray, accuracy: np.ndarray) -> float:
    """t of the rank correlation of loss and accuracy; 0 where one of them is constant."""
    ranks = [pd.Series(v).rank().to_numpy() for v in (loss, accuracy)]
    if min(np.ptp(r) for r in ranks) == 0:
        return 0.0
    r = float(np.corrcoef(*ranks)[0, 1])
    return r * float(np.sqrt((len(loss) - 2) / max(1 - r**2, 1e-9)))


def _best(loss: np.ndarray, accuracy: np.ndarray, chance: float | None) -> np.ndarray:
    """(4,): the best of several starts."""
    span, lowest = float(np.ptp(loss)), float(loss.min())
    low = float(accuracy.min()) if chance is None else chance
    high = min(1.0, float(accuracy.max()) + 0.1)
    starts = [np.array([low, high, lowest + at * span, w * span]) for at, w in STARTS]
    each = [_descend(loss, accuracy, chance, start) for start in starts]
    return min(each, key=lambda law: float(((accuracy - sigmoid(law, loss)) ** 2).sum()))


def _descend(
    loss: np.ndarray,
    accuracy: np.ndarray,
    chance: float | None,
    start: np.ndarray,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """(4,): the least squares near ``start`` of runs that count so often."""
    span = float(np.ptp(loss))
    root = np.sqrt(np.ones(len(loss)) if counts is None else counts)
    lower = np.array([0.0, 0.0, loss.min() - FARTHEST * span, np.log(WIDTHS[0] * span)])
    upper = np.array([1.0, 1.0, loss.max() + FARTHEST * span, np.log(WIDTHS[1] * span)])
    free = np.arange(4) if chance is None else np.arange(1, 4)
    whole = np.append(start[:3], np.log(start[3]))
    if chance is not None:
        whole[0] = chance

    def law(part: np.ndarray) -> np.ndarray:
        at = whole.copy()
        at[free] = part
        return np.append(at[:3], np.exp(at[3]))

    nearest = least_squares(
        lambda part: root * (accuracy - sigmoid(law(part), loss)),
        np.clip(whole, lower + 1e-9, upper - 1e-9)[free],
        bounds=(lower[free], upper[free]),
        x_scale=np.array([1.0, 1.0, span, 1.0])[free],
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=200,
    )
    return law(nearest.x)


def spread_at(accuracy: np.ndarray) -> np.ndarray:
    """sqrt(a (1 - a)) at each ``accuracy`` a, as of answers that are right or wrong."""
    inside = np.clip(accuracy, EDGE, 1 - EDGE)
    return np.sqrt(inside * (1 - inside))


def _scatter(
    law: np.ndarray, loss: np.ndarray, accuracy: np.ndarray, chance: float | None
) -> float:
    at = sigmoid(law, loss)
    free = max(len(loss) - (4 if chance is None else 3), 1)
    return float(np.sqrt((((accuracy - at) / spread_at(at)) ** 2).sum() / free))


def _counts(runs: Runs, rows: np.ndarray, draws: Draws | None, seed: int) -> np.ndarray:
    """(R, k): how often each resample has the runs ``rows``; none without resamples."""
    if draws is None:
        return np.zeros((0, len(rows)))
    draws = draws.first(RESAMPLES)
    if draws.sign is not None:
        draws = draw(runs.frame, "runs", len(draws), np.random.default_rng(seed), runs.groups)
    counts = draws.weight[:, rows]
    return counts[(counts > 0).sum(axis=1) >= FEWEST // 2]


def _ends(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())] if len(values) else []
