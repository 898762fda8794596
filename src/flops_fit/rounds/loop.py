"""Rounds until the answer is good enough: each is an ordinary sweep that Snakemake runs.

The loop keeps no state but files: the config of each round beside the config of the sweep, and what
the workflow leaves below ``results``. Given again, it finds them and goes on after the last round.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import sweep_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import write_atomic
from flops_fit.fit.calibrate import PRIOR_DF, prior
from flops_fit.fit.cost import cost_of
from flops_fit.fit.form_error import FormError
from flops_fit.fit.isoflop import FEWEST_SIZES
from flops_fit.fit.options import FitOptions
from flops_fit.fit.prediction import optimum_at, predict, spread_of_draws
from flops_fit.fit.result import Fit, read_fit
from flops_fit.fit.sizes import Size
from flops_fit.notation import flops_text
from flops_fit.plan.cache import plan_config
from flops_fit.plan.price import priced_resources, rate_for
from flops_fit.plan.table import plan_rows
from flops_fit.rounds.choice import Belief, Cells, Scores, choose, first_grid, next_round
from flops_fit.rounds.goal import Goal, check_possible, interval_text, reach_of
from flops_fit.rounds.next import config_text, number, side_of
from flops_fit.rounds.simulate import design_of, simulate
from flops_fit.rounds.truth import Truth, truth_for

RESULTS = "results"  # where the workflow writes
WORTH = 0.03  # least narrowing of the interval that justifies another round
TIMES, RESAMPLES = 40, 100  # plays of a sweep, to check what the delta method expects
SAFELY = 0.97  # of the goal: what a choice has to be expected to reach
MOST_ROUNDS = 50
LEVEL = FitOptions().level  # of the intervals of a sweep
REACHED, MONEY, NOTHING = "reached", "money", "nothing helps"
GRID_KEYS = (
    "name",
    "budgets",
    "sizes",
    "seeds",
    "until",
)  # in which a round differs from the sweep


@dataclass(frozen=True)
class Round:
    """A round of ``number``: its ``name``, its ``config`` file, its ``runs`` (n,) among the cells."""

    number: int
    name: str
    config: Path
    runs: np.ndarray


@dataclass(frozen=True)
class End:
    """Why the rounds ended: ``reason`` (reached, money, nothing helps) and a sentence on it."""

    reason: str
    sentence: str


class Rounds:
    """The rounds of the sweep in the config file ``path`` towards ``goal``.

    ``most``: FLOPs that all rounds together may take (None: the whole grid of the config). ``paths``
    are searched for modules and data.
    """

    def __init__(self, path: Path, config: dict, goal: Goal, most: float | None, paths: list[str]):
        self.path, self.config, self.goal, self.paths = path, config, goal, paths
        self.most = math.inf if most is None else most
        self.raw = yaml.safe_load(path.read_text())
        _check(path, config)

    @cached_property
    def plan(self) -> Plan:
        """The plan of all runs that rounds can choose: the config's grid with its first seed."""
        return plan_config({**self.config, "seeds": self.config["seeds"][:1]}, RESULTS, self.paths)

    @cached_property
    def design(self) -> pd.DataFrame:
        """The runs that rounds can choose, one per row, as a fit will read them."""
        return design_of(self.plan, self.config["fit"]["params"])

    @cached_property
    def cells(self) -> Cells:
        """The runs that rounds can choose, and what they take."""
        plan, pricing, design = self.plan, self.config["pricing"], self.design
        resources = priced_resources(pricing, plan.resources)
        rate = rate_for(pricing, resources.gpus, plan.precision, RESULTS)
        alone = replace(plan, resources=resources, branches={})
        money = [row.price.money for row in plan_rows(alone, rate, pricing["per_hour"], None)]
        flops = np.array([alone.flops_here(e) for e in plan.experiments])
        branches = [plan.branches.get(e.experiment_id) for e in plan.experiments]
        return Cells(
            budget=design["budget"].to_numpy(dtype=float),
            log_n=np.log(design["params"].to_numpy(dtype=float)),
            log_d=np.log(design["tokens"].to_numpy(dtype=float)),
            flops=flops,
            money=flops if pricing["per_hour"] is None else np.array(money, dtype=float),
            trunk=np.array([branch.trunk if branch else "" for branch in branches]),
            leave=np.array(
                [
                    branch.tokens / e.num_tokens if branch else 0.0
                    for branch, e in zip(branches, plan.experiments, strict=True)
                ]
            ),
        )

    def possible(self) -> str:
        """What the error of the form alone costs at the goal; refuses a goal that it forbids."""
        form, largest = _usual_forms()[self.goal.law], float(self.cells.budget.max())
        return check_possible(self.goal, form, largest, LEVEL, "as other sweeps showed")

    def known(self) -> Round | None:
        """The last round whose config is there; None before the first.

        Raises `FlopsFitError` for a round of another version of the sweep.
        """
        last = None
        for number_ in range(1, MOST_ROUNDS + 1):
            path = self._file(number_)
            if not path.exists():
                return last
            raw = yaml.safe_load(path.read_text())
            if _rest(raw) != _rest(self.raw):
                raise FlopsFitError(
                    f"{path}: made from another version of {self.path}; allowed: the rounds of this "
                    "config; delete the configs of its rounds to begin again (trained runs are kept)"
                )
            last = Round(number_, raw["name"], path, self._runs(raw))
        return last

    def _file(self, number_: int) -> Path:
        return self.path.with_name(f"{self.config['name']}-round{number_}.yaml")

    def _runs(self, raw: Mapping[str, Any]) -> np.ndarray:
        """Which of the cells a round's config holds."""
        chosen = {
            (float(budget), float(size))
            for budget, sizes in raw["sizes"]["per_budget"].items()
            for size in sizes
        }
        pairs = zip(self.design["budget"], self.design["size"], strict=True)
        return np.array([(float(b), float(s)) in chosen for b, s in pairs])

    def write(self, number_: int, runs: np.ndarray, why: str) -> Round:
        """Write the config of round ``number_`` with ``runs`` (n,), and ``why`` at its head."""
        sizes: dict[float, list] = {}
        for row in self.design[runs].sort_values(["budget", "params"]).itertuples(index=False):
            sizes.setdefault(row.budget, []).append(number(row.size))
        name, path = self._file(number_).stem, self._file(number_)
        raw = {key: value for key, value in self.raw.items() if key != "until"} | {
            "name": name,
            "budgets": [number(b) for b in sizes],
            "sizes": {"per_budget": {number(b): values for b, values in sizes.items()}},
            "seeds": self.config["seeds"][:1],
        }
        head = [f"Made by `flops-fit sweep` from {self.path}: {self.goal.text}.", why]
        complete_config(raw)
        write_atomic(path, config_text(raw, head))
        return Round(number_, name, path, runs)

    def first(self) -> np.ndarray:
        """The runs (n,) of the first round; raises `FlopsFitError` where they cost too much."""
        runs = first_grid(self.cells.budget, self.cells.log_n)
        flops = self.cells.total(runs)
        if flops > self.most:
            raise FlopsFitError(
                f"--max-flops: {self.most:g}; the first round of {int(runs.sum())} runs costs "
                f"{flops_text(flops)}; allowed: more, or a config with smaller budgets"
            )
        return runs

    def fit_of(self, last: Round) -> Fit:
        """The fit that the workflow left of the round ``last``."""
        return read_fit(sweep_folder(RESULTS, last.name) / "fit.json")

    def line(self, last: Round, fit: Fit) -> str:
        """One line on the round ``last`` and its ``fit``."""
        count, flops = int(last.runs.sum()), flops_text(self.cells.total(last.runs))
        return (
            f"round {last.number}: {count} runs, {flops} FLOPs, "
            f"{interval_text(self.goal, predict(fit, self.goal.flops))}; goal {self.goal.text}"
        )

    def cost_text(self, runs: np.ndarray) -> str:
        """How many ``runs`` (n,) there are, and what they take, as text."""
        budgets = ", ".join(flops_text(c) for c in np.unique(self.cells.budget[runs]))
        per_hour, currency = (self.config["pricing"][key] for key in ("per_hour", "currency"))
        money = "" if per_hour is None else f" ({currency}{self.cells.price(runs):.2f})"
        flops, every = (flops_text(self.cells.total(r)) for r in (runs, np.ones_like(runs)))
        return (
            f"{int(runs.sum())} of {len(runs)} runs of the grid, {flops} of {every} FLOPs{money}, at "
            f"budgets {budgets}"
        )

    def to_dict(self, last: Round, fit: Fit) -> dict[str, Any]:
        """The round ``last`` and its ``fit`` as plain data."""
        answer = predict(fit, self.goal.flops)
        return {
            "round": last.number,
            "config": str(last.config),
            "runs": int(last.runs.sum()),
            "flops": self.cells.total(last.runs),
            "estimate": getattr(answer, self.goal.quantity),
            "interval": (answer.ci or {}).get(self.goal.quantity),
            "reached": self.goal.reached(answer),
            "verdict": answer.verdict,
        }

    def after(self, last: Round, fit: Fit) -> tuple[np.ndarray, str] | End:
        """The runs (n,) of the round after ``last``, whose fit is ``fit``, and why; or the end."""
        bracketing = self._unbracketed(last, fit)
        runs = last.runs | bracketing
        if bracketing.any() and self.cells.total(runs) <= self.most:
            return runs, "Why: they bracket minima that the fit does not show"
        if self.goal.reached(predict(fit, self.goal.flops)):
            return End(REACHED, f"the interval is reached: {self._interval(fit)}")
        scores, forms = self._scores(last, fit), self._forms(fit)
        chosen = choose(scores, last.runs, self.most, self._enough(scores, last, fit, forms))
        if (chosen == last.runs).all():
            return self._nothing_left(last, fit)
        now, then = self._expected(last.runs, chosen, fit, forms)
        most = self.goal.half_width(predict(fit, self.goal.flops).loss)
        if now and then and most and then > max((1 - WORTH) * now, most):
            sentence = f"nothing helps: {self._interval(fit)}; {self._text(then)} is expected"
            return End(NOTHING, f"{sentence} of all that can still be trained")
        runs = next_round(self.cells, last.runs, chosen)
        expected = "" if then is None else f"; expected of all that is planned: {self._text(then)}"
        return runs, f"Why: they narrow the answer most for their price{expected}"

    def _interval(self, fit: Fit) -> str:
        return interval_text(self.goal, predict(fit, self.goal.flops))

    def _text(self, half: float) -> str:
        return f"{self.goal.name} within {self.goal.as_text(half)}"

    def _nothing_left(self, last: Round, fit: Fit) -> End:
        """Why no run can be added to the round ``last``."""
        if last.runs.all():
            return End(NOTHING, f"nothing is left of the config's grid: {self._interval(fit)}")
        left = (self.cells.shares(last.runs) * self.cells.flops)[~last.runs]
        if self.cells.total(last.runs) + left.min() > self.most:
            return End(MONEY, f"the FLOPs of --max-flops are spent: {self._interval(fit)}")
        return End(NOTHING, f"nothing that can be paid for helps: {self._interval(fit)}")

    def _unbracketed(self, last: Round, fit: Fit) -> np.ndarray:
        """Runs (n,) of the grid that would bracket minima which ``fit`` does not show.

        A largest budget with too few sizes counts, smaller ones need none.
        """
        more, log_n = np.zeros_like(last.runs), self.cells.log_n
        for entry in fit.isoflop.budgets:
            here = np.isclose(self.cells.budget, entry.flops)
            tried, left = log_n[here & last.runs], here & ~last.runs
            if entry.status == "at_edge":
                side = side_of(entry, tried)
                away = side * (log_n - (side * tried).max() * side)
                need = 1
            elif entry.status == "no_minimum":
                away = np.maximum(tried.min() - log_n, log_n - tried.max())
                need = 1
            elif entry.status == "too_few_points" and entry is fit.isoflop.budgets[-1]:
                away = np.abs(log_n - self._optimum(fit, entry.flops))
                need = FEWEST_SIZES - len(tried)
            else:
                continue
            rows = np.flatnonzero(left & (away > 0))
            more[rows[np.argsort(away[rows])][:need]] = True
        return more

    def _optimum(self, fit: Fit, flops: float) -> float:
        return float(fit.answering.law.optimum(math.log(flops), fit.cost)[0][0])

    def _truth(self, fit: Fit) -> Truth:
        try:
            return truth_for(self.design, fit=fit)
        except FlopsFitError:
            return truth_for(self.design)

    def _scores(self, last: Round, fit: Fit) -> Scores:
        truth = self._truth(fit)
        sizes = [
            Size(params=row.params, flops_per_token=row.flops_per_token)
            for row in self.design.itertuples(index=False)
        ]
        belief = Belief.of(truth.law, truth.noise, cost_of(self.design, sizes)[0])
        return Scores(self.cells, belief, math.log(self.goal.flops), {self.goal.law: 1.0})

    def _forms(self, fit: Fit) -> dict[str, FormError]:
        if fit.stack is not None and fit.stack.form_error is not None:
            return fit.stack.form_error
        return _usual_forms()

    def _half(self, runs: np.ndarray, sd: float, forms: Mapping[str, FormError]) -> float:
        """Half of the interval, in ln, to expect of ``runs`` whose noise at the goal is ``sd``."""
        away = math.log(self.goal.flops / self.cells.budget[runs].max())
        return forms[self.goal.law].half_width(sd, away, LEVEL)

    def _sd(self, fit: Fit) -> float | None:
        draws = fit.answering.draws
        if draws is None or not fit.identified:
            return None
        return spread_of_draws(draws, math.log(self.goal.flops), fit.cost)[self.goal.law]

    def _enough(
        self, scores: Scores, last: Round, fit: Fit, forms: Mapping[str, FormError]
    ) -> Callable[[np.ndarray], bool]:
        """Whether runs are expected to reach the goal, by the delta method."""
        sd, law = self._sd(fit), self.goal.law
        answer = predict(fit, self.goal.flops)
        most = self.goal.half_width(answer.loss)
        if sd is None or most is None:
            return lambda runs: False
        before = scores.noise_variance(last.runs, law)

        def enough(runs: np.ndarray) -> bool:
            top = self.cells.budget == self.cells.budget[runs].max()
            if (top & runs).sum() < min(FEWEST_SIZES, top.sum()):
                return False
            then = sd * math.sqrt(scores.noise_variance(runs, law) / before)
            return self._half(runs, then, forms) <= SAFELY * most

        return enough

    def _expected(
        self, runs: np.ndarray, chosen: np.ndarray, fit: Fit, forms: Mapping[str, FormError]
    ) -> tuple[float | None, float | None]:
        """Half of the interval now and after ``chosen`` (n,), in ln, by plays on the fitted law."""
        sd = self._sd(fit)
        if sd is None:
            return None, None
        truth, widths = self._truth(fit), []
        for part in (runs, chosen):
            played = simulate(
                self.design[part].reset_index(drop=True),
                truth,
                flops=self.goal.flops,
                times=TIMES,
                resamples=RESAMPLES,
                fits=0,
                fit_options=self.config["fit"],
            )["estimators"]["surface"]
            widths.append(played[self.goal.law]["width"] if self.goal.law in played else None)
        now = reach_of(self.goal, optimum_at(fit, self.goal.flops))
        if not widths[0] or not widths[1]:
            return now, None
        return now, self._half(chosen, sd * widths[1] / widths[0], forms)


def _usual_forms() -> dict[str, FormError]:
    """The error of the form that other families of sweeps showed."""
    return {name: FormError(prior()[name], PRIOR_DF, 0) for name in ("params", "loss")}


def _rest(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a round shares with its sweep."""
    return {key: value for key, value in raw.items() if key not in GRID_KEYS}


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a sweep whose fit gives no interval with the error of the form."""
    fit = config["fit"]
    if not fit["bootstrap"]:
        raise FlopsFitError(f"{path}: fit.bootstrap: 0 gives no interval; allowed: 1 or more")
    if fit["method"] != "auto":
        raise FlopsFitError(
            f"{path}: fit.method: {fit['method']!r} gives an interval of noise alone; allowed: auto"
        )
