"""The second round: which further runs make the answer better, as a config that shares the old runs.

First come the runs without which a minimum is not known: sizes beyond an edge, sizes on a side that
has only one. Where every minimum is bracketed, ways to tighten the answer are compared by the same
simulation that `flops-fit simulate` shows: how much narrower the interval of N* gets per FLOP.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import yaml

from flops_fit.fit.cost import Cost
from flops_fit.fit.saved import laws_of
from flops_fit.rounds.grid import Action, Grid
from flops_fit.rounds.simulate import simulate
from flops_fit.rounds.truth import Truth

ENOUGH_SIZES = 5  # of a curve: three unknowns of a parabola and two to test them
MOST_PER_SIDE = 4  # further sizes on one side of one budget, before measuring again
BEYOND_OPTIMUM = 0.75  # steps of a window: half brackets the optimum, the rest is for noise
BESIDE = 2  # sizes that each side of a minimum should have
WORTH = 0.05  # an interval narrower by less than this is no reason to pay
TIMES, RESAMPLES = 60, 100  # of each simulation here: designs share their luck, so fewer do


def log_optimum(fit: dict, flops: float) -> float | None:
    """ln N* of the headline at a budget; None where the law is not identified."""
    if fit["status"] == "not_identifiable":
        return None
    law = laws_of(fit)[fit["headline"]["method"]][0]
    return float(law.optimum(np.log(flops), Cost.from_dict(fit["cost"]))[0][0])


def repairs(fit: dict, grid: Grid) -> list[Action]:
    """The fewest runs that bracket what is not bracketed, and even out one-sided windows."""
    found = []
    for entry in fit["isoflop"]["budgets"]:
        budget = min(grid.budgets, key=lambda b: abs(math.log(b / entry["flops"])))
        step = grid.spacing(budget)
        wanted, why = _wanted(entry, grid, budget, step, log_optimum(fit, budget))
        sizes: list = []
        taken = set(grid.sizes(budget))
        for target in wanted:
            size = grid.size_at(target, budget, taken, step)
            if size is not None:
                sizes.append(size)
                taken.add(size)
        if sizes:
            sizes.sort(key=grid.log_n)
            told = ", ".join(map(str, sizes))
            found.append(Action(f"sizes {told} at {budget:g} FLOPs", why, {budget: sizes}))
    return found


def _wanted(
    entry: dict, grid: Grid, budget: float, step: float, best: float | None
) -> tuple[list[float], str]:
    """ln N of the sizes that a budget lacks, and why."""
    low, high = np.log(entry["params_range"])
    own = [v for v in map(grid.log_n, grid.sizes(budget)) if low - 1e-9 <= v <= high + 1e-9]
    measured = math.log(entry["params_opt"])
    if entry["status"] == "at_edge":
        side = _side(entry, own)
        edge = low if side < 0 else high
        # The size nearest N* must not be the last one, with some room for noise.
        short = 0.0 if best is None else side * (best - edge) / step
        count = math.ceil(short + BEYOND_OPTIMUM)
        count = min(max(count, 1), MOST_PER_SIDE)
        name = "smallest" if side < 0 else "largest"
        return [edge + side * step * (k + 1) for k in range(count)], (
            f"the lowest loss at {budget:g} FLOPs lies at the {name} size tried: the minimum is not "
            "bracketed"
        )
    if entry["status"] == "no_minimum":
        return [low - step, high + step], f"the curve at {budget:g} FLOPs shows no minimum"
    if entry["status"] == "too_few_points":
        side = -1 if (best if best is not None else measured) < (low + high) / 2 else 1
        ends, wanted = {-1: low, 1: high}, []
        for _ in range(max(ENOUGH_SIZES - len(own), 0)):
            ends[side] += side * step
            wanted.append(ends[side])
            side = -side
        return wanted, f"{len(own)} sizes at {budget:g} FLOPs are too few for a minimum"
    for side, beyond in ((-1, sum(v < measured for v in own)), (1, sum(v > measured for v in own))):
        if beyond < BESIDE:
            edge = low if side < 0 else high
            where = "smaller" if side < 0 else "larger"
            return [edge + side * step], (
                f"the minimum at {budget:g} FLOPs has {beyond} {where} size: the window is "
                "off-centre"
            )
    return [], ""


def _side(entry: dict, own: list[float]) -> int:
    """Where a minimum at the edge lies: -1 below the sizes tried, 1 above."""
    measured = math.log(entry["params_opt"])
    if math.isclose(measured, min(own), abs_tol=1e-6):
        return -1
    if math.isclose(measured, max(own), abs_tol=1e-6):
        return 1
    _, slope, curvature = entry["coefficients"]  # the lowest run is inside, the vertex is not
    return -1 if entry["centre"] - slope / (2 * curvature) < measured else 1


def tightenings(fit: dict, grid: Grid) -> list[Action]:
    """Ways to narrow an answer whose minima are all bracketed."""
    between = {b: _between(fit, grid, b) for b in grid.budgets}
    between = {b: sizes for b, sizes in between.items() if sizes}
    found = [
        Action(f"sizes {', '.join(map(str, sizes))} at {b:g} FLOPs", "beside N*", {b: sizes})
        for b, sizes in between.items()
    ]
    if len(between) > 1:
        found.append(Action("all of these", "beside every N*", between))
    seed = int(grid.design["seed"].max()) + 1
    found.append(
        Action(f"seed {seed} for every run", "less noise, and a measure of it", {}, (seed,))
    )
    budgets = grid.budgets
    if len(budgets) > 1:
        ratio = (budgets[-1] / budgets[0]) ** (1 / (len(budgets) - 1))
        further = float(f"{budgets[-1] * ratio:.3g}")
        best, step = log_optimum(fit, further), grid.spacing()
        if best is not None:
            sizes: list = []
            for k in range(-(ENOUGH_SIZES // 2), ENOUGH_SIZES // 2 + 1):
                size = grid.size_at(best + k * step, budgets[-1], set(sizes), step)
                sizes += [size] if size is not None else []
            if len(sizes) == ENOUGH_SIZES:
                told = ", ".join(map(str, sizes))
                found.append(
                    Action(
                        f"budget {further:g} FLOPs with sizes {told}",
                        "nearer to the answer",
                        {further: sizes},
                    )
                )
    return found


def _between(fit: dict, grid: Grid, budget: float) -> list:
    """New sizes in the gaps on both sides of the size nearest N*."""
    best = log_optimum(fit, budget)
    sizes = grid.sizes(budget)
    own = [grid.log_n(s) for s in sizes]
    if best is None or len(own) < 3:
        return []
    at = int(np.clip(np.argmin(np.abs(np.array(own) - best)), 1, len(own) - 2))
    new, taken = [], set(sizes)
    for low, high in ((own[at - 1], own[at]), (own[at], own[at + 1])):
        size = grid.size_at((low + high) / 2, budget, taken, (high - low) / 2)
        if size is not None:
            new.append(size)
            taken.add(size)
    return new


@dataclass(frozen=True)
class Outlook:
    """What an action costs (FLOPs) and brings, by simulation.

    ``width``: expected ln(high / low) of N* at the target; ``bracketed``: share of plays in which
    every minimum is bracketed.
    """

    action: Action | None
    flops: float
    runs: int
    width: float | None
    bracketed: float

    def gain(self, before: "Outlook") -> float:
        """How much narrower than before, in ln of the width."""
        if not self.width or not before.width:
            return 0.0
        return math.log(before.width / self.width)


def outlook(
    grid: Grid,
    action: Action | None,
    truth: Truth,
    method: str,
    flops: float,
    fit_options: dict | None = None,
) -> Outlook:
    """Simulate the sweep with an action's runs added (None: as it is)."""
    design = grid.design if action is None else grid.with_runs(action)
    told = simulate(
        design,
        truth,
        flops=flops,
        times=TIMES,
        resamples=RESAMPLES,
        fits=0,
        fit_options=fit_options,
    )
    found = told["estimators"].get(method, told["estimators"]["surface"])
    width = found["params"]["width"] if "params" in found else None
    cost = float(design["flops"].sum() - grid.design["flops"].sum())
    return Outlook(action, cost, len(design) - len(grid.design), width, told["all_bracketed"])


def best_action(options: list[Outlook], before: Outlook, most: float) -> Outlook | None:
    """The affordable option that narrows the interval most per FLOP; None where none is worth it."""
    worth = [o for o in options if o.flops <= most and 1 - math.exp(-o.gain(before)) >= WORTH]
    return max(worth, key=lambda o: o.gain(before) / o.flops, default=None)


def merged(actions: list[Action]) -> Action:
    """Several actions as one."""
    sizes = {budget: new for action in actions for budget, new in action.sizes.items()}
    seeds = tuple(sorted({seed for action in actions for seed in action.seeds}))
    return Action(
        "; ".join(a.words for a in actions), "; ".join(a.why for a in actions), sizes, seeds
    )


def next_name(name: str) -> str:
    """demo -> demo-round2 -> demo-round3: a new folder of tables, while runs are shared by id."""
    found = re.fullmatch(r"(.*)-round(\d+)", name)
    return f"{found[1]}-round{int(found[2]) + 1}" if found else f"{name}-round2"


def grown(raw: dict, config: dict, grid: Grid, action: Action, name: str) -> dict:
    """The config ``raw`` (complete: ``config``) with an action's runs added, under a new name.

    Sizes become those that the plan really used, listed by budget, whatever named them before; all
    else stays as it is, and with it the id of every old run.
    """
    budgets = sorted({*grid.budgets, *action.sizes})
    sizes = {
        number(b): [
            number(s) for s in sorted([*grid.sizes(b), *action.sizes.get(b, [])], key=grid.log_n)
        ]
        for b in budgets
    }
    new = {
        **raw,
        "name": name,
        "budgets": [number(b) for b in budgets],
        "sizes": {"per_budget": sizes},
    }
    if action.seeds:
        new["seeds"] = [*config["seeds"], *action.seeds]
    return new


def number(value: float) -> int | str | float:
    """A number as a config would write it: 8.1e11 instead of 810000000000.0."""
    if float(value).is_integer() and abs(value) < 1e6:
        return int(value)
    mantissa, exponent = f"{value:.14e}".split("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if float(short) == float(value) and abs(value) >= 1e6 else float(value)


def config_text(config: dict, head: list[str]) -> str:
    """A config as YAML below comment lines."""
    body = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in head) + body
