"""The grid of a planned sweep: its runs, and what a run that is not planned yet would be."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.sweep import n_key


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

    def __init__(
        self,
        design: pd.DataFrame,
        count: Callable,
        params: str = "params",
        convention: str = "counted",
    ):
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
        near = [
            s for s in self.known if s not in taken and abs(self.log_n(s) - log_n) <= tolerance / 3
        ]
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
        rows = [
            self.row(b, s, seed)
            for b, sizes in action.sizes.items()
            for s in sizes
            for seed in seeds
        ]
        parts = [self.design, pd.DataFrame(rows, columns=self.design.columns)]
        once = self.design[self.design["seed"] == seeds[0]]
        parts += [once.assign(seed=seed) for seed in action.seeds]
        return pd.concat([p for p in parts if len(p)], ignore_index=True)

    def row(self, budget: float, size, seed: int) -> dict:
        """A run that is not planned yet: D is what the budget pays for."""
        params, per_token = self._look(size)
        tokens = budget / per_token
        counts = dict.fromkeys(("params", "params_nonembedding", "params_total"), params)
        return {
            "run_id": f"{budget:g}-{size}-s{seed}",
            "budget": budget,
            "size": size,
            "seed": seed,
            **counts,
            "flops_per_token": per_token,
            "tokens": tokens,
            "flops": budget,
        }

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
            n = getattr(counted, n_key(self.convention, self.params))
            self.known[size] = float(n), float(per_token)
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


def grid_config(path: str) -> dict:
    """A config that trains a grid of sizes and budgets, complete; others are refused."""
    from flops_fit.config.load import load_config
    from flops_fit.errors import FlopsFitError

    config = load_config(path)
    for key, given in (
        ("runs", config["runs"] is not None),
        ("learning_rate_factors", len(config["learning_rate_factors"]) > 1),
        ("confirm", config["confirm"] is not None),
    ):
        if given:
            raise FlopsFitError(f"{path}: {key}: this is no sweep over a grid of sizes and budgets")
    return config


def planned_grid(config: dict, fit: dict, results: str, paths: list[str]) -> tuple:
    """The sweep's plan and its grid, of which ``fit`` must be the fit."""
    from flops_fit.plan.cache import plan_config
    from flops_fit.plan.planner import model_costs
    from flops_fit.plugins.resolve import add_search_paths
    from flops_fit.rounds.grid import Grid, check_matches
    from flops_fit.rounds.simulate import design_of

    plan = plan_config(config, results, paths)
    add_search_paths(paths)
    params = config["fit"]["params"]
    grid = Grid(design_of(plan, params), model_costs(config).of, params, plan["convention"])
    check_matches(fit, grid)
    return plan, grid
