"""How sure a multiplier is, and what may be said of it: better, worse, no difference, cannot tell."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

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
    """What is believed of ln M at one C: each model's estimate with its error, and its weight.

    ``parts``: (weight, ln M, `Spread`), whose weights sum to 1 (model averaging; Hoeting et al. 1999).
    ``noise``: the standard deviation of ln M from the runs alone, by the model with most weight.
    """

    parts: tuple[tuple[float, float, Spread], ...]
    noise: float

    @property
    def answer(self) -> float:
        """ln M, the mean."""
        return sum(weight * log_m for weight, log_m, _ in self.parts)

    def below(self, log_m: float) -> float:
        """Probability that ln M is below ``log_m``."""
        return float(sum(w * stdtr(s.df, (log_m - m) / s.sd) for w, m, s in self.parts))

    @property
    def above(self) -> float:
        """Probability that M > 1."""
        return 1.0 - self.below(0.0)

    def quantile(self, share: float) -> float:
        """The ln M below which it lies with the probability ``share``."""
        each = [m + s.sd * stdtrit(s.df, share) for _, m, s in self.parts]
        low, high = min(each), max(each)
        if high - low > 1e-12:
            low = brentq(lambda x: self.below(x) - share, low, high, xtol=1e-9)
        return float(np.clip(low, self.answer - 2 * FARTHEST, self.answer + 2 * FARTHEST))

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

    Either model counts by its weight. The error of each is the noise of the runs and the luck of the
    seeds; that of the free one has the error of the form beyond the data of either arm too, as answers
    have it.
    """
    log_m = {each: pair.log_multiplier(log_c) for each, pair in models.pairs.items()}
    parts = {each: _parts(models, arms, log_c, values, each) for each, values in log_m.items()}
    weights = models.scores.weights
    beliefs: list[Belief | None] = []
    for i in range(len(log_c)):
        used = {
            each: weight
            for each, weight in weights.items()
            if weight > 0 and np.isfinite(log_m[each][i]) and parts[each]
        }
        if models.scores.name not in used:
            beliefs.append(None)
            continue
        total = sum(used.values())
        each_part = tuple(
            (
                w / total,
                float(log_m[name][i]),
                together([(float(sd[i]), df) for sd, df in parts[name]]),
            )
            for name, w in used.items()
        )
        beliefs.append(Belief(each_part, float(parts[models.scores.name][0][0][i])))
    return Judged(log_c, log_m, models.mean_of(log_m), beliefs)


Part = tuple[np.ndarray, float]  # sd of ln M at each C, and its degrees of freedom


def _parts(
    models: Models, arms: tuple[Arm, Arm], log_c: np.ndarray, log_m: np.ndarray, name: str
) -> list[Part]:
    """Noise of ln M, luck of seeds, and error of the form where it counts; empty without resamples."""
    pair = models.pairs[name]
    known = np.where(np.isfinite(log_m), log_m, 0.0)
    noise = pair.noise(log_c, known)
    if noise is None:
        return []
    slope = pair.reference.slope(log_c + known)
    # One M for all C answers to a shift of all runs with the slope where these are.
    budgets = np.log(arms[0].fit.data.budgets or arms[0].fit.data.flops)
    shift = slope if name == FREE else pair.reference.slope(budgets).mean()
    free = sum(arm.fit.parametric.n_runs - 5 for arm in arms)
    parts: list[Part] = [
        (noise, float(max(free, 1))),
        (models.luck.sd / shift * np.ones(len(log_c)), models.luck.df),
    ]
    if name == FREE and models.form is not None:
        ends = [np.log(arm.fit.data.largest_budget) for arm in arms]
        beyond = np.maximum(log_c + known - ends[0], log_c - ends[1])
        parts.append((models.form.tau * growth(beyond) / slope, models.form.df))
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
