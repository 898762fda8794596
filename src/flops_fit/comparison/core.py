"""`compare_fits`: from two fits to a `Comparison`."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from flops_fit.comparison.fairness import check_units, differences, doubts_of
from flops_fit.comparison.judge import (
    CANNOT_TELL,
    FALSE_ALARMS,
    Judged,
    judge,
    missing_at,
    unknown_at,
)
from flops_fit.comparison.models import Models, models_of
from flops_fit.comparison.multiplier import SAME_BUDGET, crossings, measured_multiplier, wall_clock
from flops_fit.comparison.pairs import Arm, joint_draws, pairs_of
from flops_fit.comparison.result import (
    ArmEntry,
    Comparison,
    Crossing,
    Curve,
    Doubt,
    ModelEntry,
    Row,
)
from flops_fit.comparison.sentences import crossing_text, summary_of
from flops_fit.errors import FlopsFitError
from flops_fit.fit.numbers import check_flops
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import ROUNDED

# Times the largest budget that both measured: the last row, and the end of the search
BEYOND = 10.0
POINTS = 33  # of the curve


def compare_fits(
    reference: Fit,
    candidate: Fit,
    flops: Sequence[float] | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    records: tuple[list[dict], list[dict]] | None = None,
    paired: bool = True,
    candidates: int = 1,
) -> Comparison:
    """Compare ``candidate`` with ``reference`` at matched compute.

    ``flops``: the C to answer for, in FLOPs; by default every budget that both measured and 10 times
    the largest of them. ``names`` of the two arms; ``records`` of their runs, for the fairness list
    and speeds; ``paired``: whether runs with a counterpart in the other arm are resampled together.
    ``candidates``: how many candidates are compared with this reference; together they get a wrong
    verdict as rarely as one would, so each needs a clearer difference (Bonferroni).

    Raises `FlopsFitError` for different units of loss, for a C that is not positive, and where both
    names are the same.
    """
    if names[0] == names[1]:
        raise FlopsFitError(f"names: both arms are called {names[0]!r}; allowed: two names")
    arms = (Arm.of(names[0], reference), Arm.of(names[1], candidate))
    check_units(*arms)
    shared, largest = _budgets(arms)
    asked = [check_flops(c) for c in flops] if flops else [*shared, largest * BEYOND]
    draws = None
    count = min(arm.fit.bootstrap.resamples for arm in arms)
    if count:
        generator = np.random.default_rng(reference.bootstrap.seed)
        draws = joint_draws(*arms, count, generator, paired)
    models = models_of(*arms, draws)
    doubts = doubts_of(*arms, models.luck, records)
    speeds = None if records is None else _speeds(arms, records)
    low = min(shared) if shared else max(arm.fit.data.flops[0] for arm in arms)
    span = (low, largest * BEYOND)
    sides = _Sides(arms, models, doubts, speeds, largest, FALSE_ALARMS / candidates)
    rows = sides.rows(asked)
    curve, crossing = sides.curve(*span)
    changed = [] if records is None else differences(records)
    return Comparison(
        reference=_entry(arms[0]),
        candidate=_entry(arms[1]),
        model=_model(models),
        rows=rows,
        crossing=crossing,
        fairness=doubts,
        differences=changed,
        paired=pairs_of(*arms) if paired else 0,
        level=sides.level,
        false_alarms=sides.alarms,
        loss_unit=reference.data.loss_unit,
        curve=curve,
        minima={arm.name: minima_of(arm) for arm in arms},
        summary=summary_of(rows, crossing, names, changed, sides.level),
        speeds=speeds,
    )


class _Sides:
    """Rows and curves of two arms, from the model that was chosen."""

    def __init__(
        self,
        arms: tuple[Arm, Arm],
        models: Models,
        doubts: list[Doubt],
        speeds: dict[str, float] | None,
        largest: float,
        alarms: float,
    ):
        self.arms, self.models, self.doubts, self.speeds = arms, models, doubts, speeds
        self.largest, self.alarms = largest, alarms
        self.level = arms[0].fit.bootstrap.level
        self.identified = all(arm.fit.identified for arm in arms)

    def rows(self, budgets: list[float]) -> list[Row]:
        """The answers at C = ``budgets``."""
        judged = judge(self.models, self.arms, np.log(budgets))
        return [self._row(c, judged, i) for i, c in enumerate(budgets)]

    def _row(self, flops: float, judged: Judged, i: int) -> Row:
        belief, log_m = judged.beliefs[i], float(judged.answer[i])
        reasons = unknown_at(self.arms, flops, log_m, belief is not None)
        estimated = np.isfinite(log_m) and not missing_at(self.arms, flops)
        multiplier = float(np.exp(log_m)) if estimated else None
        verdict, ci, noise, above, smallest = CANNOT_TELL, None, None, None, None
        if not reasons and belief is not None:
            ci = np.exp(belief.interval(self.level)).tolist()
            half = belief.noise * float(ndtri((1 + self.level) / 2))
            noise = np.exp([log_m - half, log_m + half]).tolist()
            above, smallest = belief.above, belief.smallest(self.alarms)
            reasons = [doubt.text for doubt in self.doubts if doubt.serious]
            verdict = CANNOT_TELL if reasons else belief.verdict(self.alarms)
            reasons = reasons or self._remarks(flops)
        speeds = self.speeds
        return Row(
            flops=flops,
            multiplier=multiplier,
            ci=ci,
            probability=above,
            verdict=verdict,
            reasons=reasons,
            ci_noise=noise,
            smallest=smallest,
            models={
                name: float(np.exp(v[i])) if estimated and np.isfinite(v[i]) else None
                for name, v in judged.log_m.items()
            },
            measured=self._measured(float(np.log(flops))),
            wall_clock=(
                wall_clock(multiplier, *(speeds[arm.name] for arm in self.arms))
                if speeds and multiplier is not None
                else None
            ),
            beyond_data=flops / self.largest,
        )

    def _measured(self, log_c: float) -> float | None:
        """M from the measured minima alone."""
        sides = [np.log(np.array(minima_of(arm)).reshape(-1, 2)).T for arm in self.arms]
        value = measured_multiplier(log_c, *((side[0], side[1]) for side in sides))
        return None if value is None else float(np.exp(value))

    def _remarks(self, flops: float) -> list[str]:
        """What a reader of an answer at C = ``flops`` should know of it."""
        beyond = flops / self.largest
        remarks = [d.text for d in self.doubts if d.topic in ("minima", "counting", "seeds")]
        if beyond > ROUNDED:
            remarks.append(f"C is {beyond:.3g} times the largest budget that both measured")
        return remarks

    def curve(self, low: float, high: float) -> tuple[Curve, Crossing]:
        """Frontiers and M between C = ``low`` and ``high``, and where M is 1."""
        span = [low, high]
        if not self.identified:
            text = "Whether the two frontiers cross is not known: a fit is not identifiable."
            nothing = Crossing(None, None, span, text)
            return Curve([], [], [], [], [], []), nothing
        grid = np.linspace(np.log(low), np.log(high), POINTS)
        judged = judge(self.models, self.arms, grid)
        pair = self.models.pairs[self.models.scores.name]
        ends = judged.ends(self.level).T
        curve = Curve(
            flops=np.exp(grid).tolist(),
            reference=np.exp(pair.reference.log_loss(grid)).tolist(),
            candidate=np.exp(pair.candidate.log_loss(grid)).tolist(),
            multiplier=_finite(judged.answer),
            low=_finite(ends[0]),
            high=_finite(ends[1]),
        )
        at, outside = crossings(self.models.log_multiplier, grid), np.maximum(ends[0], -ends[1])
        if not at:
            text = crossing_text(None, None, span, bool((outside > 0).all()))
            return curve, Crossing(None, None, span, text)
        # Of several crossings the last: it decides what holds at scale.
        flops, around = float(np.exp(at[-1])), _around(at[-1], grid, outside)
        return curve, Crossing(flops, around, span, crossing_text(flops, around, span))


def _around(at: float, grid: np.ndarray, outside: np.ndarray) -> list[float | None] | None:
    """The C around ``at`` = ln C where the interval of M holds 1, None for an end beyond the grid.

    ``outside`` (k,): how far ln 1 lies outside of the interval of ln M on the ``grid`` (k,) of ln C,
    negative where it lies inside; None for all where there are no intervals.
    """
    if np.isnan(outside).all():
        return None
    right = int(np.searchsorted(grid, at))

    def end(steps: range, side: int) -> float | None:
        last, value = at, -1.0
        for i in steps:
            if outside[i] > 0:
                share = value / (value - outside[i])
                return float(np.exp(last + share * (grid[i] - last)))
            last, value = grid[i], min(float(outside[i]), -1e-12)
        return None

    return [end(range(right - 1, -1, -1), -1), end(range(right, len(grid)), 1)]


def _finite(log_values: np.ndarray) -> list[float | None]:
    """e^values as a list, None for those that are not finite."""
    return [float(np.exp(v)) if np.isfinite(v) else None for v in log_values]


def _budgets(arms: tuple[Arm, Arm]) -> tuple[list[float], float]:
    """The budgets that both arms measured, and the largest C that both reach."""
    theirs = arms[1].fit.data.budgets
    shared = [
        c for c in arms[0].fit.data.budgets if any(abs(np.log(c / d)) < SAME_BUDGET for d in theirs)
    ]
    return shared, max(shared) if shared else min(a.fit.data.largest_budget for a in arms)


def minima_of(arm: Arm) -> list[list[float]]:
    """[[C, L*]] of the bracketed minima of ``arm``, ascending in C."""
    return [[b.flops, b.loss_opt] for b in arm.fit.isoflop.budgets if b.status == "bracketed"]


def _speeds(
    arms: tuple[Arm, Arm], records: tuple[list[dict], list[dict]]
) -> dict[str, float] | None:
    """Arm -> median FLOPs per second of its runs; None where a record lacks its time."""
    speeds = {}
    for arm, side in zip(arms, records, strict=True):
        known = [
            r.get("flops_here", r["flops_counted"]) / r["wall_seconds"]
            for r in side
            if r.get("wall_seconds") and r.get("flops_counted")
        ]
        if not known:
            return None
        speeds[arm.name] = float(np.median(known))
    return speeds


def _entry(arm: Arm) -> ArmEntry:
    fit = arm.fit
    return ArmEntry(
        name=arm.name,
        source=fit.data.source,
        n_runs=fit.data.n_runs,
        largest_budget=fit.data.largest_budget,
        method=fit.headline.method,
        noise=fit.parametric.scale,
    )


def _model(models: Models) -> ModelEntry:
    scores = models.scores
    return ModelEntry(
        name=scores.name,
        why=scores.why,
        likelihood_ratio=scores.likelihood_ratio,
        p_value=scores.p_value,
        weights=scores.weights,
        heldout=scores.heldout,
        tests=scores.tests,
        rho_N=scores.rho_N,
        rho_D=scores.rho_D,
    )
