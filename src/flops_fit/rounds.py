"""The second round: which further runs make the answer better, as a config that shares the old runs.

First come the runs without which a minimum is not known: sizes beyond an edge, sizes on a side that
has only one. Where every minimum is bracketed, ways to tighten the answer are compared by the same
simulation that `flops-fit simulate` shows: how much narrower the interval of N* gets per FLOP.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import laws_of
from flops_fit.fit.cost import Cost
from flops_fit.simulate import Truth, simulate

ENOUGH_SIZES = 5  # of a curve: three unknowns of a parabola and two to test them
MOST_PER_SIDE = 4  # further sizes on one side of one budget, before measuring again
BEYOND_OPTIMUM = 0.75  # steps of a window: half brackets the optimum, the rest is for noise
BESIDE = 2  # sizes that each side of a minimum should have
WORTH = 0.05  # an interval narrower by less than this is no reason to pay
TIMES, RESAMPLES = 60, 100  # of each simulation here: designs share their luck, so fewer do


@dataclass(frozen=True)
class Action:
    """Runs to add: ``sizes`` by budget (new sizes only), ``seeds`` beyond the old; and why."""

    words: str
    why: str
    sizes: dict[float, list]
    seeds: tuple[int, ...] = ()


class Grid:
    """The runs of a plan and what a new one would be.

    ``count(sizes) -> {size: ModelCount}`` builds a model; ``params`` names the count that is N.
    """

    def __init__(self, design: pd.DataFrame, count: Callable, params: str = "params",
                 convention: str = "counted"):  # fmt: skip
        self.design, self.count, self.params, self.convention = design, count, params, convention
        self.known = {
            row.size: (float(row.params), float(row.flops_per_token))
            for row in design.itertuples(index=False)
        }

    @property
    def budgets(self) -> list[float]:
        return sorted(self.design["budget"].unique())

    def sizes(self, budget: float) -> list:
        """Size values at a budget, in order of N."""
        found = set(self.design.loc[self.design["budget"] == budget, "size"])
        return sorted(found, key=lambda size: self.known[size][0])

    def log_n(self, size) -> float:
        return math.log(self._look(size)[0])

    def spacing(self, budget: float | None = None) -> float:
        """Typical step in ln N between neighbours, of one budget or of all."""
        chosen = self.budgets if budget is None else [budget]
        steps = [np.diff([self.log_n(s) for s in self.sizes(b)]) for b in chosen]
        flat = np.concatenate(steps)
        return float(np.median(flat)) if len(flat) else self.spacing() if budget else 0.5

    def size_at(self, log_n: float, budget: float, taken: set, tolerance: float):
        """A size that can be built, with ln N near ``log_n`` and not in ``taken``; None if none is.

        A size used elsewhere in the sweep is preferred where it lies within a third of
        ``tolerance``; else whole multiples of what this budget's sizes share are tried, then finer.
        """
        near = [s for s in self.known if s not in taken
                and abs(self.log_n(s) - log_n) <= tolerance / 3]  # fmt: skip
        if near:
            return min(near, key=lambda s: abs(self.log_n(s) - log_n))
        guess = self._interpolate(log_n)
        own = self.sizes(budget) or sorted(self.known)
        if not all(isinstance(s, int) or float(s).is_integer() for s in own):
            size = float(f"{guess:.3g}")
            return size if size not in taken and self._builds(size) else None
        step = math.gcd(*(int(s) for s in own))
        while step:
            around = round(guess / step)
            for k in sorted(range(around - 2, around + 3), key=lambda k: abs(k * step - guess)):
                size = k * step
                if size > 0 and size not in taken and self._builds(size):
                    if abs(self.log_n(size) - log_n) < 0.75 * tolerance:
                        return size
                    break
            step = step // 2 if step % 2 == 0 else (1 if step > 1 else 0)
        return None

    def nearest(self, params: float):
        """The size that can be built whose N is nearest to ``params``."""
        target, step = math.log(params), self.spacing()
        found = [
            self.size_at(target, self.budgets[-1], set(), s) for s in (step / 8, step, 8 * step)
        ]
        sizes = [size for size in (*found, *self.known) if size is not None]
        return min(sizes, key=lambda size: abs(self.log_n(size) - target))

    def with_runs(self, action: Action) -> pd.DataFrame:
        """The design with an action's runs added."""
        seeds = sorted(self.design["seed"].unique())
        rows = [self.row(b, s, seed) for b, sizes in action.sizes.items() for s in sizes
                for seed in seeds]  # fmt: skip
        parts = [self.design, pd.DataFrame(rows, columns=self.design.columns)]
        once = self.design[self.design["seed"] == seeds[0]]
        parts += [once.assign(seed=seed) for seed in action.seeds]
        return pd.concat([p for p in parts if len(p)], ignore_index=True)

    def row(self, budget: float, size, seed: int) -> dict:
        """A run that is not planned yet: D is what the budget pays for."""
        params, per_token = self._look(size)
        tokens = budget / per_token
        counts = dict.fromkeys(("params", "params_nonembedding", "params_total"), params)
        return {"run_id": f"{budget:g}-{size}-s{seed}", "budget": budget, "size": size, "seed": seed,
                **counts, "flops_per_token": per_token, "tokens": tokens,
                "flops": budget}  # fmt: skip

    def _interpolate(self, log_n: float) -> float:
        """The size value at ln N, straight in ln size against ln N, beyond the ends too."""
        pairs = sorted((math.log(n), math.log(s)) for s, (n, _) in self.known.items())
        if len(pairs) == 1:
            return math.exp(pairs[0][1] + (log_n - pairs[0][0]) / 2)
        x, y = (np.array(v) for v in zip(*pairs, strict=True))
        at = int(np.clip(np.searchsorted(x, log_n), 1, len(x) - 1))
        slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
        return math.exp(y[at - 1] + slope * (log_n - x[at - 1]))

    def _builds(self, size) -> bool:
        try:
            self._look(size)
        except FlopsFitError:
            return False
        return True

    def _look(self, size) -> tuple[float, float]:
        if size not in self.known:
            counted = self.count([size])[size]
            per_token = (
                counted.flops_per_token
                if self.convention == "counted"
                else 6.0 * counted.num_params
            )
            self.known[size] = float(getattr(counted, self.params)), float(per_token)
        return self.known[size]


def check_matches(fit: dict, grid: Grid) -> None:
    """Refuse a fit of another sweep than the config's."""
    counted = fit["data"].get("params_column", grid.params)
    if counted != grid.params:
        raise FlopsFitError(
            f"fit.params: the config counts N as {grid.params}, the fit as "
            f"{counted}; fit again with --params {grid.params}"
        )
    if not fit["isoflop"]["shared"]:
        raise FlopsFitError("fit: its runs share no budgets, so there is no grid to extend")
    fitted = [b["flops"] for b in fit["isoflop"]["budgets"]]
    unknown = [c for c in fitted if not any(math.isclose(c, b) for b in grid.budgets)]
    if unknown:
        told = ", ".join(f"{b:g}" for b in grid.budgets)
        raise FlopsFitError(
            f"fit: budget {unknown[0]:g} is not in the config (budgets {told}); is it of this sweep?"
        )


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
                found.append(Action(f"budget {further:g} FLOPs with sizes {told}",
                                    "nearer to the answer", {further: sizes}))  # fmt: skip
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


def outlook(grid: Grid, action: Action | None, truth: Truth, method: str, flops: float,
            fit_options: dict | None = None) -> Outlook:  # fmt: skip
    """Simulate the sweep with an action's runs added (None: as it is)."""
    design = grid.design if action is None else grid.with_runs(action)
    told = simulate(design, truth, flops=flops, times=TIMES, resamples=RESAMPLES, fits=0,
                    fit_options=fit_options)  # fmt: skip
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
        number(b): [number(s) for s in sorted(
            [*grid.sizes(b), *action.sizes.get(b, [])], key=grid.log_n
        )]
        for b in budgets
    }  # fmt: skip
    new = {**raw, "name": name, "budgets": [number(b) for b in budgets],
           "sizes": {"per_budget": sizes}}  # fmt: skip
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
