"""What a round of a sweep showed, and what follows it: further runs, or the end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import Answer
from flops_fit.fit.calibrate import PRIOR_DF, prior
from flops_fit.fit.cost import cost_of
from flops_fit.fit.form_error import FormError
from flops_fit.fit.isoflop import FEWEST_SIZES
from flops_fit.fit.options import FitOptions
from flops_fit.fit.prediction import predict, spread_of_draws
from flops_fit.fit.result import Fit
from flops_fit.fit.sizes import Size
from flops_fit.rounds.choice import Belief, Cells, Scores, choose, next_round
from flops_fit.rounds.goal import Goal, interval_text, reach_of
from flops_fit.rounds.next import side_of
from flops_fit.rounds.simulate import simulate
from flops_fit.rounds.truth import Truth, truth_for

WORTH = 0.03  # least narrowing of the interval that justifies another round
TIMES, RESAMPLES = 40, 100  # plays of a sweep, to check what the delta method expects
SAFELY = 0.97  # of the goal: what a choice has to be expected to reach
LEVEL = FitOptions().level  # of the intervals of a sweep
REACHED, MONEY, NOTHING = "reached", "money", "nothing helps"


@dataclass(frozen=True)
class End:
    """Why the rounds ended: ``reason`` (reached, money, nothing helps) and a sentence on it."""

    reason: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """The ``fit`` of ``runs`` (n,) among ``cells``, held against ``goal``.

    ``design`` has a row for each of the cells. ``most``: FLOPs that all rounds together may take;
    ``lost`` (n,): the runs without a loss, which diverged or failed; ``fit_options``: those of the
    sweep.
    """

    goal: Goal
    most: float
    design: pd.DataFrame
    cells: Cells
    runs: np.ndarray
    lost: np.ndarray
    fit: Fit
    fit_options: Mapping[str, Any]

    @cached_property
    def answer(self) -> Answer:
        """What the fit predicts at the budget of the goal."""
        return predict(self.fit, self.goal.flops)

    @property
    def interval(self) -> str:
        """The interval of the quantity of the goal as text."""
        text = interval_text(self.goal, self.answer)
        alone = self.fit.stack is None and self.answer.ci
        return f"{text}, of noise alone" if alone else text

    @property
    def reached(self) -> bool:
        """Whether the interval is as narrow as the goal, and holds the error of the form.

        Without a stack a single estimator answers, however far it may be off.
        """
        return self.fit.stack is not None and self.goal.reached(self.answer)

    def following(self) -> tuple[np.ndarray, str] | End:
        """The runs (n,) of the round after this one and why, or the end."""
        runs = self.runs | self._unbracketed()
        if (runs != self.runs).any() and self.cells.total(runs) <= self.most:
            return runs, "Why: they bracket minima that the fit does not show"
        if self.reached:
            return End(REACHED, self.interval)
        chosen = choose(self._scores, self.runs, self.most, self._enough)
        if (chosen == self.runs).all():
            return self._nothing_left()
        then = self._expected(chosen)
        if not self._helps(then) and self._enough(chosen):
            # Plays expect less of it than the delta method, so all that can be paid for is tried.
            chosen = choose(self._scores, self.runs, self.most)
            then = self._expected(chosen)
        if then is not None and not self._helps(then):
            sentence = f"{self.interval}; {self._text(then)} is expected of all that can be trained"
            return End(NOTHING, sentence)
        runs = next_round(self.cells, self.runs, chosen)
        expected = "" if then is None else f"; expected of all that is planned: {self._text(then)}"
        return runs, f"Why: they narrow the answer most for their price{expected}"

    def _helps(self, then: float | None) -> bool:
        """Whether half of an interval of ``then``, in ln, is the goal or narrower by `WORTH`."""
        if self.fit.stack is None:
            return True
        now, most = reach_of(self.goal, self.answer), self.goal.half_width(self.answer.loss)
        return not (now and then and most) or then <= max((1 - WORTH) * now, most)

    def _text(self, half: float) -> str:
        return f"{self.goal.name} within {self.goal.as_text(half, self.answer.loss)}"

    def _nothing_left(self) -> End:
        """Why no run can be added."""
        if self.runs.all():
            return End(NOTHING, f"nothing is left of the config's grid: {self.interval}")
        left = (self.cells.shares(self.runs) * self.cells.flops)[~self.runs]
        if self.cells.total(self.runs) + left.min() > self.most:
            return End(MONEY, f"the FLOPs of --max-flops are spent: {self.interval}")
        return End(NOTHING, f"nothing that can be paid for helps: {self.interval}")

    def _unbracketed(self) -> np.ndarray:
        """Runs (n,) of the grid that would bracket minima which the fit does not show.

        A largest budget with too few sizes counts, smaller ones need none.
        """
        more, log_n = np.zeros_like(self.runs), self.cells.log_n
        for entry in self.fit.isoflop.budgets:
            here = np.isclose(self.cells.budget, entry.flops)
            tried = np.unique(log_n[here & self._measured])
            left = here & ~self.runs & (self.cells.repeat == 0)
            if entry.status == "at_edge":
                side = side_of(entry, list(tried))
                away = side * (log_n - (side * tried).max() * side)
                need = 1
            elif entry.status == "no_minimum":
                away = np.maximum(tried.min() - log_n, log_n - tried.max())
                need = 1
            elif entry.status == "too_few_points" and entry is self.fit.isoflop.budgets[-1]:
                best = self.fit.answering.law.optimum(math.log(entry.flops), self.fit.cost)[0][0]
                away = np.abs(log_n - best)
                need = FEWEST_SIZES - len(tried)
            else:
                continue
            rows = np.flatnonzero(left & (away > 0))
            for run in rows[np.argsort(away[rows])][:need]:
                more[self.cells.size_in(self.runs, run)] = True
        return more

    @property
    def _measured(self) -> np.ndarray:
        """The runs (n,) that have a loss."""
        return self.runs & ~self.lost

    @cached_property
    def _truth(self) -> Truth:
        try:
            return truth_for(self.design, fit=self.fit)
        except FlopsFitError:
            return truth_for(self.design)

    @cached_property
    def _scores(self) -> Scores:
        sizes = [
            Size(params=row.params, flops_per_token=row.flops_per_token)
            for row in self.design.itertuples(index=False)
        ]
        belief = Belief.of(self._truth.law, self._truth.noise, cost_of(self.design, sizes)[0])
        weights = {self.goal.law: 1.0}
        return Scores(self.cells, belief, math.log(self.goal.flops), weights, self.lost)

    @cached_property
    def _sd(self) -> float | None:
        """The noise of the fit at the goal, in ln; None where it does not say."""
        draws = self.fit.answering.draws
        if draws is None or not self.fit.identified:
            return None
        return spread_of_draws(draws, math.log(self.goal.flops), self.fit.cost)[self.goal.law]

    def _half(self, runs: np.ndarray, sd: float) -> float:
        """Half of the interval, in ln, to expect of ``runs`` whose noise at the goal is ``sd``."""
        stack = self.fit.stack
        forms = stack.form_error if stack is not None else None
        away = math.log(self.goal.flops / self.cells.budget[runs & ~self.lost].max())
        return (forms or usual_forms())[self.goal.law].half_width(sd, away, LEVEL)

    def _enough(self, runs: np.ndarray) -> bool:
        """Whether ``runs`` (n,) are expected to reach the goal, by the delta method."""
        most = self.goal.half_width(self.answer.loss)
        runs = runs & ~self.lost
        top = self.cells.budget == self.cells.budget[runs].max()
        tried, every = (len(np.unique(self.cells.log_n[part])) for part in (top & runs, top))
        few = tried < min(FEWEST_SIZES, every)
        if self._sd is None or most is None or few:
            return False
        before, then = (
            self._scores.noise_variance(part, self.goal.law) for part in (self.runs, runs)
        )
        return self._half(runs, self._sd * math.sqrt(then / before)) <= SAFELY * most

    def _expected(self, chosen: np.ndarray) -> float | None:
        """Half of the interval after ``chosen`` (n,), in ln, by plays on the fitted law."""
        if self._sd is None:
            return None
        widths = []
        for part in (self._measured, chosen & ~self.lost):
            played = simulate(
                self.design[part].reset_index(drop=True),
                self._truth,
                flops=self.goal.flops,
                times=TIMES,
                resamples=RESAMPLES,
                fits=0,
                fit_options=dict(self.fit_options),
            )["estimators"]["surface"]
            widths.append(played[self.goal.law]["width"] if self.goal.law in played else None)
        if not widths[0] or not widths[1]:
            return None
        return self._half(chosen, self._sd * widths[1] / widths[0])


def usual_forms() -> dict[str, FormError]:
    """The error of the form that other families of sweeps showed."""
    return {name: FormError(prior()[name], PRIOR_DF, 0) for name in ("params", "loss")}
