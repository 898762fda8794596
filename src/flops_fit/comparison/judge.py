"""How sure a multiplier is, and what may be said of it: better, worse, no difference, cannot tell."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from flops_fit.comparison.models import FREE, SHARED, Models
from flops_fit.comparison.multiplier import FARTHEST
from flops_fit.comparison.pairs import Arm
from flops_fit.fit.form_error import growth
from flops_fit.fit.laws import spread
from flops_fit.fit.verdict import MEANINGLESS, unanswerable

BETTER, WORSE, NO_DIFFERENCE, CANNOT_TELL = "better", "worse", "no difference shown", "cannot tell"
VERDICTS = (BETTER, WORSE, NO_DIFFERENCE, CANNOT_TELL)
FALSE_ALARMS = 0.05  # share of equal pairs that may be called better or worse
POWER = 0.8  # probability with which the smallest visible M would have been seen
SMOOTH = 1e9  # degrees of freedom of what is known well
LEAST = 1e-6  # sd of ln M: a fit compared with itself must not differ from it by rounding


@dataclass(frozen=True)
class Spread:
    """The error of ln M: Student's t with scale ``sd`` and ``df`` degrees of freedom."""

    sd: float
    df: float


def together(parts: list[tuple[float, float]]) -> Spread:
    """The sum of independent errors ``parts``, each (sd, degrees of freedom).

    Degrees of freedom by Welch and Satterthwaite.
    """
    variance = sum(sd**2 for sd, _ in parts)
    if variance < LEAST**2:
        return Spread(LEAST, SMOOTH)
    free = 1 / sum((sd**2 / variance) ** 2 / df for sd, df in parts)
    return Spread(float(np.sqrt(variance)), float(free))


@dataclass(frozen=True)
class Belief:
    """What is believed of ln M at one C: the ``answer``, and its error ``spread``.

    ``noise``: the standard deviation of the answer from the runs alone.
    """

    answer: float
    spread: Spread
    noise: float

    @property
    def above(self) -> float:
        """Probability that M > 1."""
        return float(stdtr(self.spread.df, self.answer / self.spread.sd))

    def quantile(self, share: float) -> float:
        """The ln M below which it lies with the probability ``share``."""
        away = float(self.spread.sd * stdtrit(self.spread.df, share))
        return self.answer + float(np.clip(away, -2 * FARTHEST, 2 * FARTHEST))

    def interval(self, level: float) -> tuple[float, float]:
        """The ends of the central interval of ln M at ``level``."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def verdict(self, alarms: float = FALSE_ALARMS) -> str:
        """better, worse or no difference shown.

        ``alarms``: the share of equal pairs that may be called better or worse.
        """
        if self.above >= 1 - alarms / 2:
            return BETTER
        return WORSE if self.above <= alarms / 2 else NO_DIFFERENCE

    def smallest(self, alarms: float = FALSE_ALARMS) -> float:
        """The smallest M > 1 that would have been called better with a probability of 80%.

        ``alarms``: the share of equal pairs that may be called better or worse.
        """
        reach = 2 * self.answer - self.quantile(alarms / 2) - self.quantile(1 - POWER)
        return float(np.exp(min(reach, FARTHEST)))


@dataclass(frozen=True, eq=False)
class Judged:
    """ln M at k values of ``log_c`` = ln C, and what is believed of it.

    ``log_m``: model -> (k,); ``answer`` (k,): their weighted mean; ``beliefs``: one for each C, None
    where there is no interval.
    """

    log_c: np.ndarray
    log_m: dict[str, np.ndarray]
    answer: np.ndarray
    beliefs: list[Belief | None]

    def ends(self, level: float) -> np.ndarray:
        """The ends (k, 2) of the intervals of ln M at ``level``, NaN where there are none."""
        nothing = (np.nan, np.nan)
        return np.array([b.interval(level) if b else nothing for b in self.beliefs])


def judge(models: Models, arms: tuple[Arm, Arm], log_c: np.ndarray) -> Judged:
    """ln M and its error at ``log_c`` = ln C of shape (k,), by the ``models`` of the two ``arms``.

    The answer is the mean of both models by their weights w. Its variance is the sum of the noise of
    that mean, over the joint resamples; of w (1 - w) times the squared difference of the models, the
    variance of a choice between them; of the luck of the seeds; and of the error of the form beyond
    the data of either arm, as answers have it, for the share of the free model.
    """
    log_m = {each: pair.log_multiplier(log_c) for each, pair in models.pairs.items()}
    answer = models.mean_of(log_m)
    known = {m: np.where(np.isfinite(v), v, 0.0) for m, v in log_m.items()}
    shares = models.shares(log_m)
    noise = _noise(models, log_c, known, shares)
    beliefs: list[Belief | None] = [None] * len(log_c)
    if noise is not None:
        parts = [(noise, _free(arms)), *_other_parts(models, arms, log_c, known, shares)]
        for i in np.flatnonzero(np.isfinite(answer)):
            error = together([(float(sd[i]), df) for sd, df in parts])
            beliefs[i] = Belief(float(answer[i]), error, float(noise[i]))
    return Judged(log_c, log_m, answer, beliefs)


Part = tuple[np.ndarray, float]  # sd of ln M at each C, and its degrees of freedom


def _free(arms: tuple[Arm, Arm]) -> float:
    """Degrees of freedom of the noise: runs of both arms beyond five parameters of each."""
    return float(max(sum(arm.fit.parametric.n_runs - 5 for arm in arms), 1))


def _noise(
    models: Models, log_c: np.ndarray, log_m: dict[str, np.ndarray], shares: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Standard deviation (k,) of the answer over the joint resamples; None without."""
    each = {m: pair.deviations(log_c, log_m[m]) for m, pair in models.pairs.items()}
    drawn = {m: values for m, values in each.items() if values is not None}
    if len(drawn) < len(each):
        return None
    rows = min(map(len, drawn.values()))
    return spread(sum(shares[m] * values[:rows] for m, values in drawn.items()).T)  # type: ignore


def _other_parts(
    models: Models,
    arms: tuple[Arm, Arm],
    log_c: np.ndarray,
    log_m: dict[str, np.ndarray],
    shares: dict[str, np.ndarray],
) -> list[Part]:
    """The errors of ln M beside noise: choice of the model, luck of seeds, and error of the form."""
    apart = np.abs(log_m[FREE] - log_m[SHARED])
    slope = models.pairs[FREE].reference.slope(log_c + log_m[FREE])
    # One M for all C answers to a shift of all runs with the slope where these are.
    budgets = np.log(arms[0].fit.data.budgets or arms[0].fit.data.flops)
    mean = models.pairs[SHARED].reference.slope(budgets).mean()
    shift = shares[SHARED] / mean + shares[FREE] / slope
    parts: list[Part] = [
        (np.sqrt(shares[SHARED] * shares[FREE]) * apart, SMOOTH),
        (models.luck.sd * shift, models.luck.df),
    ]
    if models.form is not None:
        ends = [np.log(arm.fit.data.largest_budget) for arm in arms]
        beyond = np.maximum(log_c + log_m[FREE] - ends[0], log_c - ends[1])
        form = models.form.tau * growth(beyond) / slope
        parts.append((shares[FREE] * form, models.form.df))
    return parts


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
