"""The grid of a planned sweep: its runs, and the runs that could be added to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.fit.result import Fit
from flops_fit.sweep import flops_per_token, n_key

Size = int | float  # a value of the argument that the sweep varies


@dataclass(frozen=True)
class Action:
    """Runs to add: new ``sizes`` for each budget, new ``seeds`` for every run.

    ``text`` names the runs, ``why`` gives the reason.
    """

    text: str
    why: str
    sizes: dict[float, list]
    seeds: tuple[int, ...] = ()


class Grid:
    """The runs of a plan, and what a new run would be.

    ``design`` is a table with one row per run (see `flops_fit.rounds.simulate.design_of`);
    ``count(sizes) -> {size: ModelCount}`` counts models; ``params`` names the count that is N, and
    ``convention`` says what a budget means.
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
        """The compute budgets in ascending order, in FLOPs."""
        return sorted(self.design["budget"].unique())

    def sizes(self, budget: float) -> list:
        """Size values at a ``budget``, in ascending order of N."""
        sizes = set(self.design.loc[self.design["budget"] == budget, "size"])
        return sorted(sizes, key=lambda size: self.known[size][0])

    def seeds(self, budget: float) -> list[int]:
        """The seeds at a ``budget`` in FLOPs; those of the largest one where it has no runs."""
        here = self.design["budget"] == (budget if budget in self.budgets else self.budgets[-1])
        return sorted(self.design.loc[here, "seed"].unique())

    def log_n(self, size: Size) -> float:
        """ln N of a ``size`` value."""
        return math.log(self._look(size)[0])

    def spacing(self, budget: float | None = None) -> float:
        """Median step in ln N between neighbouring sizes, at one ``budget`` or (None) at all."""
        chosen = self.budgets if budget is None else [budget]
        steps = [np.diff([self.log_n(s) for s in self.sizes(b)]) for b in chosen]
        flat = np.concatenate(steps)
        return float(np.median(flat)) if len(flat) else self.spacing() if budget else 0.5

    def size_at(self, log_n: float, budget: float, taken: set, tolerance: float) -> Size | None:
        """A size that can be built, not in ``taken``, with ln N near ``log_n``; None without one.

        A size used elsewhere in the sweep is preferred if it lies within a third of ``tolerance``
        (in ln N). Otherwise multiples of the common divisor of the sizes at ``budget`` are tried,
        then multiples of smaller steps.
        """
        near = [
            s for s in self.known if s not in taken and abs(self.log_n(s) - log_n) <= tolerance / 3
        ]
        if near:
            return min(near, key=lambda s: abs(self.log_n(s) - log_n))
        guess = self._interpolate(log_n)
        used = self.sizes(budget) or sorted(self.known)
        if not all(isinstance(s, int) or float(s).is_integer() for s in used):
            size = float(f"{guess:.3g}")
            return size if size not in taken and self.builds(size) else None
        step = math.gcd(*(int(s) for s in used))
        while step:
            around = round(guess / step)
            for k in sorted(range(around - 2, around + 3), key=lambda k: abs(k * step - guess)):
                size = k * step
                if size > 0 and size not in taken and self.builds(size):
                    if abs(self.log_n(size) - log_n) < 0.75 * tolerance:
                        return size
                    break
            step = step // 2 if step % 2 == 0 else (1 if step > 1 else 0)
        return None

    def nearest(self, params: float) -> Size:
        """The size value that can be built and has N nearest to ``params``."""
        target, step = math.log(params), self.spacing()
        near = [
            self.size_at(target, self.budgets[-1], set(), s) for s in (step / 8, step, 8 * step)
        ]
        sizes = [size for size in (*near, *self.known) if size is not None]
        return min(sizes, key=lambda size: abs(self.log_n(size) - target))

    def with_runs(self, action: Action) -> pd.DataFrame:
        """The design, one row per run, with the runs of ``action`` added."""
        rows = [
            self.row(b, s, seed)
            for b, sizes in action.sizes.items()
            for s in sizes
            for seed in self.seeds(b)
        ]
        added = [pd.DataFrame(rows, columns=self.design.columns)] if rows else []
        grown = pd.concat([self.design, *added], ignore_index=True)
        once = grown.drop_duplicates(["budget", "size"])
        repeated = [once.assign(seed=seed) for seed in action.seeds]
        return pd.concat([grown, *repeated], ignore_index=True)

    def row(self, budget: float, size: Size, seed: int) -> dict:
        """The row of a new run at ``budget`` with ``size`` and ``seed``; D follows from the budget."""
        params, per_token = self._look(size)
        tokens = budget / per_token
        counts = dict.fromkeys(("params", "params_nonembedding", "params_total"), params)
        return {
            "experiment_id": f"{budget:g}-{size}-s{seed}",
            "budget": budget,
            "size": size,
            "seed": seed,
            **counts,
            "flops_per_token": per_token,
            "tokens": tokens,
            "flops": budget,
        }

    def _interpolate(self, log_n: float) -> float:
        """The size value at ln N: linear in ln size against ln N, also beyond the known sizes."""
        pairs = sorted((math.log(n), math.log(s)) for s, (n, _) in self.known.items())
        if len(pairs) == 1:
            return math.exp(pairs[0][1] + (log_n - pairs[0][0]) / 2)
        x, y = (np.array(v) for v in zip(*pairs, strict=True))
        at = int(np.clip(np.searchsorted(x, log_n), 1, len(x) - 1))
        slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
        return math.exp(y[at - 1] + slope * (log_n - x[at - 1]))

    def builds(self, size: Size) -> bool:
        """Whether a model of this ``size`` value can be built."""
        try:
            self._look(size)
        except FlopsFitError:
            return False
        return True

    def _look(self, size: Size) -> tuple[float, float]:
        if size not in self.known:
            counted = self.count([size])[size]
            per_token = flops_per_token(counted, self.convention)
            n = getattr(counted, n_key(self.convention, self.params))
            self.known[size] = float(n), float(per_token)
        return self.known[size]


def check_matches(fit: Fit, grid: Grid) -> None:
    """Refuse a ``fit`` that does not belong to the sweep of ``grid``, with a `FlopsFitError`."""
    counted = fit.data.params_column
    if counted != grid.params:
        raise FlopsFitError(
            f"fit.params: the config counts N as {grid.params}, but the fit as "
            f"{counted}; fit again with --params {grid.params}"
        )
    if not fit.isoflop.shared:
        raise FlopsFitError("fit: its runs share no budgets, so there is no grid to add runs to")
    fitted = [b.flops for b in fit.isoflop.budgets]
    unknown = [c for c in fitted if not any(math.isclose(c, b) for b in grid.budgets)]
    if unknown:
        allowed = ", ".join(f"{b:g}" for b in grid.budgets)
        raise FlopsFitError(
            f"fit: budget {unknown[0]:g} is not in the config; allowed: a fit of this sweep, with "
            f"budgets {allowed}"
        )


def grid_config(path: str) -> dict:
    """Read the config file ``path`` and fill in its defaults.

    Raises `FlopsFitError` if it is no sweep over a grid of sizes and budgets.
    """
    from flops_fit.config.factors import tunes_rate
    from flops_fit.config.load import load_config
    from flops_fit.errors import FlopsFitError

    config = load_config(path)
    for key, given in (
        ("runs", config["runs"] is not None),
        ("learning_rate_factors", tunes_rate(config)),
        ("confirm", config["confirm"] is not None),
    ):
        if given:
            raise FlopsFitError(
                f"{path}: {key}: not used here; allowed: a sweep over a grid of sizes and budgets"
            )
    return config


def planned_grid(config: dict, fit: Fit, results: str, paths: list[str]) -> tuple:
    """The plan and the `Grid` of the sweep of ``config``, after checking that ``fit`` is its fit.

    ``results`` is the folder of results, ``paths`` are searched for modules and data.
    """
    from flops_fit.plan.cache import plan_config
    from flops_fit.plan.planning import planning_of
    from flops_fit.plugins.resolve import add_search_paths
    from flops_fit.rounds.grid import Grid, check_matches
    from flops_fit.rounds.simulate import design_of

    plan = plan_config(config, results, paths)
    add_search_paths(paths)
    params = config["fit"]["params"]
    grid = Grid(design_of(plan, params), planning_of(config).costs.of, params, plan.convention)
    check_matches(fit, grid)
    return plan, grid


def added_runs(
    plan: Plan, config: dict, results: str, paths: list[str], source: str
) -> tuple[int, float]:
    """How many runs the larger ``config`` adds to the ``plan`` of ``source``, and their FLOPs.

    ``results`` is the folder of results, ``paths`` are searched for modules and data. Raises
    `FlopsFitError` where a run of the plan would not be the same.
    """
    from flops_fit.config.complete import complete_config
    from flops_fit.plan.cache import plan_config

    planned = plan_config(complete_config(config), results, paths)
    known = {experiment.experiment_id for experiment in plan.experiments}
    added = [e for e in planned.experiments if e.experiment_id not in known]
    if len(added) + len(known) != len(planned.experiments) or not added:
        raise FlopsFitError(f"{source}: a larger grid would change its existing runs")
    return len(added), sum(planned.flops_here(experiment) for experiment in added)
