"""How sure a multiplier is, and what may be said of it: better, worse, no difference, cannot tell."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from flops_fit.comparison.models import FREE, Models
from flops_fit.comparison.multiplier import FARTHEST
from flops_fit.comparison.pairs import Arm
from flops_fit.fit.form_error import growth
from flops_fit.fit.verdict import MEANINGLESS, unanswerable

BETTER, WORSE, NO_DIFFERENCE, CANNOT_TELL = "better", "worse", "no difference shown", "cannot tell"
VERDICTS = (BETTER, WORSE, NO_DIFFERENCE, CANNOT_TELL)
FALSE_ALARMS = 0.05  # share of equal pairs that may be called better or worse
POWER = 0.8  # probability with which the smallest visible M would have been seen
SMOOTH = 1e9  # degrees of freedom of what is known well
LEAST = 1e-6  # sd of ln M: a fit compared with itself must not differ from it by rounding


@dataclass(frozen=True)
class Spread:
    """The error of ln M: Student's t with scale ``sd`` and ``df`` degrees of freedom.

    ``noise``: the part of ``sd`` from the runs alone.
    """

    sd: float
    df: float
    noise: float

    def half_width(self, level: float) -> float:
        """Half of the interval of ln M at ``level``."""
        return min(float(student.ppf((1 + level) / 2, self.df)) * self.sd, 2 * FARTHEST)

    def above(self, log_multiplier: float) -> float:
        """Probability that M > 1 where the estimate is ``log_multiplier`` = ln M."""
        return float(student.cdf(log_multiplier / self.sd, self.df))

    def smallest(self, alarms: float = FALSE_ALARMS) -> float:
        """The smallest M > 1 that would have been called better with a probability of 80%.

        ``alarms``: the share of equal pairs that may be called better or worse.
        """
        reach = student.ppf(1 - alarms / 2, self.df) + student.ppf(POWER, self.df)
        return float(np.exp(min(reach * self.sd, FARTHEST)))


Part = tuple[np.ndarray, float]  # sd of ln M at each C, and its degrees of freedom


def together(parts: list[tuple[float, float]], noise: float) -> Spread:
    """The sum of independent errors ``parts``, each (sd, degrees of freedom).

    Degrees of freedom by Welch and Satterthwaite; ``noise``: the part from the runs alone.
    """
    variance = sum(sd**2 for sd, _ in parts)
    if variance < LEAST**2:
        return Spread(LEAST, SMOOTH, noise)
    free = 1 / sum((sd**2 / variance) ** 2 / df for sd, df in parts)
    return Spread(float(np.sqrt(variance)), float(free), noise)


@dataclass(frozen=True, eq=False)
class Judged:
    """ln M by either model at k values of ``log_c`` = ln C, and the error of the one that answers.

    ``name``: the model that answers; ``log_m``: model -> (k,); ``spreads``: one `Spread` for each C,
    None where there is none.
    """

    log_c: np.ndarray
    log_m: dict[str, np.ndarray]
    spreads: list[Spread | None]
    name: str

    @property
    def answer(self) -> np.ndarray:
        """ln M by the model that answers, (k,)."""
        return self.log_m[self.name]


def judge(models: Models, arms: tuple[Arm, Arm], log_c: np.ndarray) -> Judged:
    """ln M and its error at ``log_c`` = ln C of shape (k,), by the ``models`` of the two ``arms``.

    The error of the free model is noise, and the error of the form beyond the data of either arm, as
    answers have it. That of the shared one is its noise, and in the weight of the doubt
    (`Scores.doubt`) what the free model says otherwise and how unsure that is (Buckland et al. 1997,
    model averaging).
    """
    name, doubt = models.scores.name, models.scores.doubt
    log_m = {each: pair.log_multiplier(log_c) for each, pair in models.pairs.items()}
    parts = {each: _parts(models, arms, log_c, log_m[each], each) for each in {name, FREE}}
    spreads: list[Spread | None] = []
    for i in range(len(log_c)):
        used = [(float(sd[i]), df) for sd, df in parts[name]]
        if not used or not np.isfinite(log_m[name][i]):
            spreads.append(None)
            continue
        noise = used[0][0]
        if name != FREE and np.isfinite(log_m[FREE][i]):
            apart = float(log_m[FREE][i] - log_m[name][i])
            others = [(float(sd[i]) * np.sqrt(doubt), df) for sd, df in parts[FREE]]
            used = [(sd * np.sqrt(1 - doubt), df) for sd, df in used]
            used += [*others, (np.sqrt(doubt) * abs(apart), SMOOTH)]
        spreads.append(together(used, noise))
    return Judged(log_c, log_m, spreads, name)


def _parts(
    models: Models, arms: tuple[Arm, Arm], log_c: np.ndarray, log_m: np.ndarray, name: str
) -> list[Part]:
    """The noise of ln M, then the error of the form where it counts; empty without resamples."""
    pair = models.pairs[name]
    known = np.where(np.isfinite(log_m), log_m, 0.0)
    noise = pair.noise(log_c, known)
    if noise is None:
        return []
    free = sum(arm.fit.parametric.n_runs - 5 for arm in arms)
    parts: list[Part] = [(noise, float(max(free, 1)))]
    if name == FREE and models.form is not None:
        ends = [np.log(arm.fit.data.largest_budget) for arm in arms]
        beyond = np.maximum(log_c + known - ends[0], log_c - ends[1])
        slope = pair.reference.slope(log_c + known)
        parts.append((models.form.tau * growth(beyond) / slope, models.form.df))
    return parts


def verdict_of(log_multiplier: float, spread: Spread, alarms: float = FALSE_ALARMS) -> str:
    """better, worse or no difference shown for ``log_multiplier`` = ln M with the error ``spread``.

    ``alarms``: the share of equal pairs that may be called better or worse.
    """
    above = spread.above(log_multiplier)
    if above >= 1 - alarms / 2:
        return BETTER
    return WORSE if above <= alarms / 2 else NO_DIFFERENCE


def unknown_at(arms: tuple[Arm, Arm], flops: float, log_m: float, resampled: bool) -> list[str]:
    """Why there is no verdict on ``arms`` at C = ``flops``: empty where there is one.

    ``log_m``: ln M there; ``resampled``: whether it has an interval.
    """
    reasons = missing_at(arms, flops)
    if reasons:
        return reasons
    if not np.isfinite(log_m):
        more = "more than 1000 times" if log_m > 0 else "less than a thousandth of"
        return [
            f"{arms[0].name} needs {more} this compute for the loss of {arms[1].name}, if it reaches "
            "it at all"
        ]
    return [] if resampled else ["there are no intervals: a fit was made with --bootstrap 0"]


def missing_at(arms: tuple[Arm, Arm], flops: float) -> list[str]:
    """Which of ``arms`` has no answer at C = ``flops`` by itself, and why."""
    reasons = []
    for arm in arms:
        why = unanswerable(arm.fit, flops)
        if why:
            reasons.append(f"{arm.name}: {why}")
        elif flops / arm.fit.data.largest_budget > MEANINGLESS:
            reasons.append(f"{arm.name}: C is more than {MEANINGLESS:g} times its largest budget")
    return reasons
