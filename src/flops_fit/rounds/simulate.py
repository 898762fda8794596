"""Simulate a planned sweep many times with a given law: will its grid give an answer?

Each simulation computes the loss of every run from the law at the run's real N and D, adds seed
noise, and fits the result with the usual estimators and resamples. Counting over the simulations
gives the width of the intervals, the error of the answer and how often a minimum is bracketed.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.fit.bootstrap import draw
from flops_fit.fit.core import fit_runs
from flops_fit.fit.cost import Cost, cost_of
from flops_fit.fit.estimators import Estimate, Runs, estimate_isoflop, estimate_surface
from flops_fit.fit.isoflop import Minima
from flops_fit.fit.laws import PathLaw, SurfaceLaw
from flops_fit.fit.numbers import check_flops, interval
from flops_fit.fit.options import FEWEST_RUNS, default_unit
from flops_fit.fit.prediction import predict
from flops_fit.fit.runs import RunTable, budget_groups, prepare_runs
from flops_fit.rounds.counted import Counted
from flops_fit.rounds.truth import Truth
from flops_fit.store.collect import planned_table

TIMES, RESAMPLES, FITS = 200, 200, 20
BEYOND = 10.0  # default budget to answer for, as a multiple of the largest

Groups = list[tuple[float, np.ndarray]]  # of runs that share a budget: (FLOPs, row positions)


def design_of(plan: Plan, params: str = "params") -> pd.DataFrame:
    """The runs of ``plan`` as the fit will read them, without losses.

    Returns one row per run; its column ``params`` is N, counted as the argument ``params`` says.
    """
    frame = pd.DataFrame(planned_table(plan))
    counts = ["params", "params_nonembedding", "params_total", "flops_per_token"]
    columns = ["experiment_id", "budget", "size", "seed", *counts, "tokens", "flops"]
    return frame.assign(params=frame[params])[columns]


def losses_of(design: pd.DataFrame, truth: Truth, times: int, seed: int = 0) -> np.ndarray:
    """Losses simulated with ``truth``, shape (times, n), for the n rows of ``design``.

    The noise of a run depends on ``seed`` and on its budget, N and seed only, so two designs have
    the same noise in the runs that they share. ``times`` is the number of simulations.
    """
    log_n, log_d = (np.log(design[name].to_numpy(dtype=float)) for name in ("params", "tokens"))
    smooth = truth.law.loss(log_n[:, None], log_d[:, None])[:, 0]
    keys = zip(design["budget"], design["params"], design["seed"], strict=True)
    noise = np.stack(
        [
            np.random.default_rng(
                [seed, zlib.crc32(repr(tuple(map(float, key))).encode())]
            ).standard_normal(times)
            for key in keys
        ],
        axis=1,
    )
    if truth.relative:
        return smooth * np.exp(truth.noise * noise)
    return np.maximum(smooth + truth.noise * noise, 1e-9 * smooth)


@dataclass(frozen=True)
class SimulatedFit:
    """One estimator on one simulated sweep: values and interval ends of a, ln N* and L*.

    ``usable``: whether its status allows an answer; ``value``: shape (3,); ``ends``: shape (3, 2),
    or None without an interval.
    """

    usable: bool
    value: np.ndarray
    ends: np.ndarray | None


def simulate(
    design: pd.DataFrame,
    truth: Truth,
    *,
    flops: float | None = None,
    times: int = TIMES,
    resamples: int = RESAMPLES,
    fits: int = FITS,
    seed: int = 0,
    level: float = 0.90,
    fit_options: dict | None = None,
    each: Callable[[], object] = lambda: None,
) -> dict:
    """Simulate the sweep ``times`` times and summarise a, ln N* and L* at ``flops`` as plain data.

    ``design``: one row per run (`design_of`). ``truth``: the law and the noise (`truth_for`).
    ``flops``: 10 times the largest budget by default. ``resamples``: number behind each simulated
    interval. ``fits``: how many simulations also get a complete fit with headline and verdict, as
    ``flops-fit fit`` does it. ``seed``: of the noise. ``level``: of the intervals.
    ``fit_options``: delta, exclude and method of the sweep's fit. ``each`` is called after every
    simulation and after every complete fit.

    For every estimator and quantity it returns ``true``, ``bias`` (mean error), ``spread`` (width
    of the central 90% of the estimates), ``width`` (mean width of the intervals) and ``coverage``
    (how often they contain the truth). Those of ``params`` are in ln N. Raises `FlopsFitError` for
    options that cannot be simulated.
    """
    options = _checked(design, times, resamples, fits, seed, fit_options or {})
    losses = losses_of(design, truth, times, seed)
    table = prepare_runs(design.assign(loss=losses[0]), "plan", outside=False)
    groups, _ = budget_groups(table.frame)
    cost, _ = cost_of(table.frame, table.sizes)
    target = check_flops(BEYOND * design["budget"].max() if flops is None else flops)
    simulated, minima = _simulate_fits(
        table, groups, cost, truth, Counted(list(losses), each), resamples, options, target, level
    )
    log_n, loss = (float(v[0]) for v in truth.law.optimum(np.log(target), cost))
    true = {"surface": [float(truth.law.exponent()[0]), log_n, loss]}
    true["isoflop"] = [_path_exponent(truth, cost, groups), log_n, loss]
    return {
        "design": {
            "runs": len(design),
            "budgets": [c for c, _ in groups],
            "flops": float(design["flops"].sum()),
        },
        "law": dict(zip(("E", "A", "B", "alpha", "beta"), _coefficients(truth.law), strict=True))
        | {"source": truth.source},
        "noise": {
            "sd": truth.noise,
            "unit": "share of the loss" if truth.relative else "nats",
            "source": truth.noise_source,
        },
        "times": times,
        "resamples": resamples,
        "level": level,
        "seed": seed,
        "target": {
            "flops": target,
            "params": float(np.exp(log_n)),
            "tokens": float(np.exp(cost.log_tokens(log_n, np.log(target)))),
            "loss": loss,
        },
        "estimators": {
            name: _summary(fitted, true[name], level) for name, fitted in simulated.items()
        },
        "minima": minima.by_budget(truth, cost, groups),
        "all_bracketed": float(minima.bracketed.all(axis=1).mean()) if groups else None,
        "whole_fits": _whole_fits(
            table, Counted(list(losses[:fits]), each), resamples, options, level, true, target
        ),
    }


def _checked(
    design: pd.DataFrame, times: int, resamples: int, fits: int, seed: int, fit_options: dict
) -> dict:
    """Check the options and return those of the fit; raises `FlopsFitError` for a bad one."""
    if len(design) < FEWEST_RUNS:
        raise FlopsFitError(f"plan: {len(design)} runs; at least {FEWEST_RUNS} can be fitted")
    for name, value, least in (("times", times, 2), ("resamples", resamples, 2), ("fits", fits, 0)):
        if not isinstance(value, int) or value < least:
            raise FlopsFitError(f"{name}: {value!r}; allowed: a whole number of at least {least}")
    if not isinstance(seed, int) or seed < 0:
        raise FlopsFitError(f"seed: {seed!r}; allowed: a whole number of at least 0")
    if fit_options.get("method") == "envelope":
        raise FlopsFitError("method: 'envelope' needs loss curves, which are not simulated")
    return {k: v for k, v in fit_options.items() if k in ("delta", "exclude", "method")}


@dataclass(frozen=True)
class SimulatedMinima:
    """The minima of all simulations: ``bracketed`` and ``log_n``, each of shape (times, budgets)."""

    bracketed: np.ndarray
    log_n: np.ndarray

    def by_budget(self, truth: Truth, cost: Cost, groups: Groups) -> list[dict]:
        """For each of ``groups``: share bracketed, optimum of ``truth``, mean error of ln N*.

        ``groups`` are pairs (FLOPs, row indices); ``cost`` converts N and D to FLOPs.
        """
        best = [float(truth.law.optimum(np.log(c), cost)[0][0]) for c, _ in groups]
        return [
            {
                "flops": c,
                "bracketed": float(self.bracketed[:, k].mean()),
                "params": float(np.exp(best[k])),
                "bias": _mean_error(self.log_n[self.bracketed[:, k], k], best[k]),
            }
            for k, (c, _) in enumerate(groups)
        ]


def _simulate_fits(
    table: RunTable,
    groups: Groups,
    cost: Cost,
    truth: Truth,
    losses: Counted[np.ndarray],
    resamples: int,
    options: dict,
    target: float,
    level: float,
) -> tuple[dict[str, list[SimulatedFit]], SimulatedMinima]:
    """Apply both estimators to every row of ``losses``: estimator -> its fits, and the minima."""
    generator = np.random.default_rng(0)
    draws = draw(table.frame, default_unit(table.frame), resamples, generator, groups)
    simulated: dict[str, list[SimulatedFit]] = {
        "surface": [],
        **({"isoflop": []} if groups else {}),
    }
    brackets, vertices = [], []
    for loss in losses:
        runs = Runs(table.frame.assign(loss=loss), groups, cost)
        surface = estimate_surface(
            runs,
            draws,
            options.get("delta", "auto"),
            options.get("exclude") or "auto",
            start=truth.law.values[0],
        )
        simulated["surface"].append(_simulated_fit(surface, cost, target, level))
        if groups:
            path = estimate_isoflop(runs, draws, surface.weight, surface.draw_weight)
            simulated["isoflop"].append(_simulated_fit(path, cost, target, level))
            minima: list[Minima] = path.minima.minima
            brackets.append([int(m.status[0]) == 0 for m in minima])
            vertices.append([float(m.log_n[0]) for m in minima])
    shape = (len(losses), len(groups))
    return simulated, SimulatedMinima(
        np.array(brackets, dtype=bool).reshape(shape), np.array(vertices).reshape(shape)
    )


def _coefficients(law: SurfaceLaw) -> list[float]:
    e, ln_a, ln_b, alpha, beta = law.values[0]
    return [float(v) for v in (e, np.exp(ln_a), np.exp(ln_b), alpha, beta)]


def _path_exponent(truth: Truth, cost: Cost, groups: Groups) -> float:
    """The slope of ln N* over ln C that the minima of these budgets estimate."""
    log_c = np.log([c for c, _ in groups])
    if len(log_c) < 2:
        return float(truth.law.exponent()[0])
    return float(np.polyfit(log_c, [truth.law.optimum(c, cost)[0][0] for c in log_c], 1)[0])


def _simulated_fit(estimate: Estimate, cost: Cost, flops: float, level: float) -> SimulatedFit:
    def values(law: SurfaceLaw | PathLaw) -> np.ndarray:
        return np.stack([law.exponent(), *law.optimum(np.log(flops), cost)])

    usable = estimate.status in ("converged", "at_bound", "bracketed")
    ends = None
    if estimate.draws is not None and len(estimate.draws.values):
        ends = np.array([interval(v, level) for v in values(estimate.draws)])
    return SimulatedFit(usable, values(estimate.law)[:, 0], ends)


def _mean_error(values: np.ndarray, true: float) -> float | None:
    return float(values.mean() - true) if len(values) else None


def _summary(simulated: list[SimulatedFit], true: list[float], level: float) -> dict:
    """Bias, spread, width and coverage of the usable fits of one estimator."""
    usable = [fit for fit in simulated if fit.usable and fit.ends is not None]
    summary: dict = {"usable": len(usable) / len(simulated)}
    if not usable:
        return summary
    value, ends = np.array([p.value for p in usable]), np.array([p.ends for p in usable])
    for i, name in enumerate(("a", "params", "loss")):
        low, high = interval(value[:, i], level)
        inside = (ends[:, i, 0] <= true[i]) & (true[i] <= ends[:, i, 1])
        summary[name] = {
            "true": true[i],
            "bias": float(value[:, i].mean() - true[i]),
            "spread": high - low,
            "width": float((ends[:, i, 1] - ends[:, i, 0]).mean()),
            "coverage": float(inside.mean()),
        }
    return summary


def _whole_fits(
    table: RunTable,
    losses: Counted[np.ndarray],
    resamples: int,
    options: dict,
    level: float,
    true: dict[str, list[float]],
    flops: float,
) -> dict | None:
    """Verdicts, headlines and intervals of the simulations that get a complete fit."""
    if not len(losses):
        return None
    answers = []
    for loss in losses:
        part = RunTable(table.frame.assign(loss=loss), "plan", sizes=table.sizes)
        answers.append(
            predict(
                fit_runs(part, bootstrap=resamples, level=level, sensitivity=False, **options),
                flops,
            )
        )
    known = [a.ci for a in answers if a.ci]
    log_ends = np.array([np.log(ci["params"]) for ci in known]).reshape(-1, 2)
    ends = np.array([ci["loss"] for ci in known]).reshape(-1, 2)
    _, log_n, lowest = true["surface"]
    reasons = Counter(kind for a in answers for kind in {_kind(reason) for reason in a.reasons})

    def shares(counts: Counter) -> dict[str, float]:
        return {name: count / len(answers) for name, count in counts.most_common()}

    return {
        "count": len(answers),
        "verdicts": shares(Counter(a.verdict for a in answers)),
        "headlines": shares(Counter(a.method for a in answers)),
        "reasons": shares(reasons),
        "params": _held(log_ends, log_n),
        "loss": _held(ends, lowest),
    }


def _held(ends: np.ndarray, true: float) -> dict:
    """Mean width of the intervals (k, 2) and how often they contain the truth; None without any."""
    if not len(ends):
        return {"width": None, "coverage": None}
    return {
        "width": float((ends[:, 1] - ends[:, 0]).mean()),
        "coverage": float(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean()),
    }


def _kind(reason: str) -> str:
    """A reason without its numbers, so that equal ones can be counted."""
    return re.sub(r"[^\s\w]*\d[\w.+-]*%?", "…", reason.split(":")[0].split(" (")[0])
