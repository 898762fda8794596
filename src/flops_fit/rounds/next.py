"""The second round: which additional runs improve the answer most, as a config with the old runs.

Runs that a minimum needs come first: sizes beyond an edge, and sizes on a side that has only one.
If every minimum is bracketed, ways to narrow the answer's interval are compared by the simulation
of `flops-fit simulate`: how much narrower the interval of N* becomes per FLOP.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import Served
from flops_fit.fit.result import Fit
from flops_fit.fit.sections import BudgetEntry
from flops_fit.notation import count_text, flops_text
from flops_fit.rounds.grid import Action, Grid
from flops_fit.rounds.simulate import simulate
from flops_fit.rounds.truth import Truth
from flops_fit.sweep import seeds_at

ENOUGH_SIZES = 5  # per budget: a parabola has three parameters, and two more sizes test it
MOST_PER_SIDE = 4  # new sizes on one side of one budget, before the next measurement
BEYOND_OPTIMUM = 0.75  # steps of the grid: half a step to bracket the optimum, the rest for noise
BESIDE = 2  # sizes on each side of a minimum
WORTH = 0.05  # least narrowing of the interval that justifies new runs
TIMES, RESAMPLES = 60, 100  # per simulation: all designs share their noise, so few are enough

NO_RUNS = Action("no runs", "", {})


def log_optimum(fit: Fit, flops: float) -> float | None:
    """ln N* of the headline of ``fit`` at a budget of ``flops``; None if it is not identifiable."""
    if not fit.identified:
        return None
    law = fit.answering.law
    return float(law.optimum(np.log(flops), fit.cost)[0][0])


def repairs(fit: Fit, grid: Grid) -> list[Action]:
    """The fewest runs to add to ``grid`` so that every minimum of ``fit`` is bracketed.

    Budgets with a single size on one side of the minimum get another one there.
    """
    actions = []
    for entry in fit.isoflop.budgets:
        budget = min(grid.budgets, key=lambda b: abs(math.log(b / entry.flops)))
        step = grid.spacing(budget)
        targets, why = _missing(entry, grid, budget, step, log_optimum(fit, budget))
        sizes: list = []
        taken = set(grid.sizes(budget))
        for target in targets:
            size = grid.size_at(target, budget, taken, step)
            if size is not None:
                sizes.append(size)
                taken.add(size)
        if sizes:
            sizes.sort(key=grid.log_n)
            text = f"sizes {listed(sizes)} at {flops_text(budget)} FLOPs"
            actions.append(Action(text, why, {budget: sizes}))
    return actions


def _missing(
    entry: BudgetEntry, grid: Grid, budget: float, step: float, best: float | None
) -> tuple[list[float], str]:
    """ln N of the sizes that a budget needs in addition, and the reason."""
    low, high = np.log(entry.params_range)
    tried = [v for v in map(grid.log_n, grid.sizes(budget)) if low - 1e-9 <= v <= high + 1e-9]
    measured = math.log(entry.params_opt)
    if entry.status == "at_edge":
        side = side_of(entry, tried)
        edge = low if side < 0 else high
        # A size beyond N* must exist, with a margin for noise.
        short = 0.0 if best is None else side * (best - edge) / step
        count = math.ceil(short + BEYOND_OPTIMUM)
        count = min(max(count, 1), MOST_PER_SIDE)
        name = "smallest" if side < 0 else "largest"
        return [edge + side * step * (k + 1) for k in range(count)], (
            f"the lowest loss at {flops_text(budget)} FLOPs is that of the {name} size tried, so the "
            "minimum is not bracketed"
        )
    if entry.status == "no_minimum":
        return [
            low - step,
            high + step,
        ], f"the curve at {flops_text(budget)} FLOPs shows no minimum"
    if entry.status == "too_few_points":
        side = -1 if (best if best is not None else measured) < (low + high) / 2 else 1
        ends, targets = {-1: low, 1: high}, []
        for _ in range(max(ENOUGH_SIZES - len(tried), 0)):
            ends[side] += side * step
            targets.append(ends[side])
            side = -side
        return (
            targets,
            f"{len(tried)} sizes at {flops_text(budget)} FLOPs are too few for a minimum",
        )
    for side, beyond in (
        (-1, sum(v < measured for v in tried)),
        (1, sum(v > measured for v in tried)),
    ):
        if beyond < BESIDE:
            edge = low if side < 0 else high
            where = "smaller" if side < 0 else "larger"
            return [edge + side * step], (
                f"the minimum at {flops_text(budget)} FLOPs has only {beyond} {where} size, so the "
                "sizes are off-centre"
            )
    return [], ""


def side_of(entry: BudgetEntry, tried: Sequence[float]) -> int:
    """The side of the minimum of ``entry``, which is at the edge: -1 below ``tried`` (ln N), 1 above."""
    measured = math.log(entry.params_opt)
    if math.isclose(measured, min(tried), abs_tol=1e-6):
        return -1
    if math.isclose(measured, max(tried), abs_tol=1e-6):
        return 1
    # The run of lowest loss lies inside, but the vertex of the parabola does not.
    _, slope, curvature = entry.coefficients
    return -1 if entry.centre - slope / (2 * curvature) < measured else 1


def tightenings(fit: Fit, grid: Grid) -> list[Action]:
    """Ways to narrow the interval of ``fit`` by adding runs to ``grid``, all minima being bracketed."""
    between = {b: sizes_beside(fit, grid, b) for b in grid.budgets}
    between = {b: sizes for b, sizes in between.items() if sizes}
    actions = [
        Action(f"sizes {listed(sizes)} at {flops_text(b)} FLOPs", "beside N*", {b: sizes})
        for b, sizes in between.items()
    ]
    if len(between) > 1:
        actions.append(Action("all of these", "beside every N*", between))
    seed = int(grid.design["seed"].max()) + 1
    actions.append(
        Action(f"seed {seed} for every run", "less noise, and a measured noise", {}, (seed,))
    )
    budgets = grid.budgets
    if len(budgets) > 1:
        ratio = (budgets[-1] / budgets[0]) ** (1 / (len(budgets) - 1))
        further = float(f"{budgets[-1] * ratio:.3g}")
        sizes = sizes_around(fit, grid, further)
        if sizes:
            text = f"budget {flops_text(further)} FLOPs with sizes {listed(sizes)}"
            actions.append(Action(text, "closer to the budget asked for", {further: sizes}))
    return actions


def sizes_beside(fit: Fit, grid: Grid, budget: float) -> list:
    """New sizes of ``grid`` in the gaps beside the one nearest N* of ``fit`` at a ``budget``."""
    best = log_optimum(fit, budget)
    sizes = grid.sizes(budget)
    tried = [grid.log_n(s) for s in sizes]
    if best is None or len(tried) < 3:
        return []
    at = int(np.clip(np.argmin(np.abs(np.array(tried) - best)), 1, len(tried) - 2))
    new, taken = [], set(sizes)
    for low, high in ((tried[at - 1], tried[at]), (tried[at], tried[at + 1])):
        size = grid.size_at((low + high) / 2, budget, taken, (high - low) / 2)
        if size is not None:
            new.append(size)
            taken.add(size)
    return new


def sizes_around(fit: Fit, grid: Grid, budget: float) -> list:
    """`ENOUGH_SIZES` sizes around N* of ``fit`` at a ``budget`` that ``grid`` lacks; else none."""
    best, step = log_optimum(fit, budget), grid.spacing()
    if best is None:
        return []
    sizes: list = []
    for k in range(-(ENOUGH_SIZES // 2), ENOUGH_SIZES // 2 + 1):
        size = grid.size_at(best + k * step, grid.budgets[-1], set(sizes), step)
        sizes += [size] if size is not None else []
    return sizes if len(sizes) == ENOUGH_SIZES else []


def over_trained(fit: Fit, grid: Grid, served: Served) -> Action:
    """One smaller model at each of the two largest budgets of ``grid``, as over-trained as ``served``.

    They have its tokens per parameter, and so test what ``fit`` says of it. Raises `FlopsFitError`
    where no such size can be built.
    """
    sizes: dict[float, list] = {}
    for budget in grid.budgets[-2:]:
        target = _log_params(fit, budget, served.tokens_per_param)
        size = grid.size_at(target, budget, set(grid.sizes(budget)), grid.spacing(budget))
        if size is not None:
            sizes[budget] = [size]
    ratio = f"{count_text(served.tokens_per_param)} tokens per parameter"
    if not sizes:
        raise FlopsFitError(
            f"--serve: {served.tokens_served:g}; no size of {ratio} can be added at "
            f"{', '.join(map(flops_text, grid.budgets[-2:]))} FLOPs"
        )
    text = ", ".join(
        f"size {each[0]} at {flops_text(budget)} FLOPs" for budget, each in sizes.items()
    )
    why = (
        f"about {ratio}, as the model has that serves {count_text(served.tokens_served)} tokens at the "
        "least cost"
    )
    return Action(text, why, sizes)


def _log_params(fit: Fit, budget: float, ratio: float) -> float:
    """ln N of the model that a budget trains on so many tokens per parameter."""
    low, high = 0.0, math.log(budget)
    for _ in range(60):
        middle = (low + high) / 2
        above = float(fit.cost.log_tokens(middle, math.log(budget))) - middle > math.log(ratio)
        low, high = (middle, high) if above else (low, middle)
    return low


@dataclass(frozen=True)
class Outlook:
    """Cost and effect of an ``action``, by simulation.

    ``flops`` and ``runs`` are what it adds; ``width`` is the expected ln(high / low) of N* at the
    target, ``bracketed`` the share of simulations in which every minimum is bracketed.
    """

    action: Action
    flops: float
    runs: int
    width: float | None
    bracketed: float

    def gain(self, before: "Outlook") -> float:
        """How much narrower the interval is than ``before``: ln of the ratio of the widths."""
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
    each: Callable[[], object] = lambda: None,
) -> Outlook:
    """Simulate the sweep of ``grid`` with the runs of ``action`` added (None: as it is).

    Runs are drawn from ``truth``; ``method`` is the estimator whose interval at ``flops`` counts,
    and ``fit_options`` are those of the sweep's fit; ``each`` is called after every simulation.
    """
    design = grid.design if action is None else grid.with_runs(action)
    outcome = simulate(
        design,
        truth,
        flops=flops,
        times=TIMES,
        resamples=RESAMPLES,
        fits=0,
        fit_options=fit_options,
        each=each,
    )
    estimator = outcome["estimators"].get(method, outcome["estimators"]["surface"])
    width = estimator["params"]["width"] if "params" in estimator else None
    cost = float(design["flops"].sum() - grid.design["flops"].sum())
    return Outlook(
        action or NO_RUNS, cost, len(design) - len(grid.design), width, outcome["all_bracketed"]
    )


def best_action(options: list[Outlook], before: Outlook, most: float) -> Outlook | None:
    """Of ``options``, the one that narrows the interval of ``before`` most per FLOP.

    Only those of at most ``most`` FLOPs count; None if none narrows it by `WORTH`.
    """
    worth = [o for o in options if o.flops <= most and 1 - math.exp(-o.gain(before)) >= WORTH]
    return max(worth, key=lambda o: o.gain(before) / o.flops, default=None)


def merged(actions: list[Action]) -> Action:
    """All ``actions`` as a single one."""
    sizes: dict[float, list] = {}
    for budget, new in (pair for action in actions for pair in action.sizes.items()):
        sizes[budget] = [*dict.fromkeys([*sizes.get(budget, []), *new])]
    seeds = tuple(sorted({seed for action in actions for seed in action.seeds}))
    text = "; ".join(a.text for a in actions)
    why = "; ".join(a.why for a in actions if a.why)
    return Action(text, why, sizes, seeds)


def listed(sizes: Sequence) -> str:
    """The values of ``sizes`` as text."""
    return ", ".join(map(str, sizes))


def next_name(name: str) -> str:
    """The name of the round after ``name``: demo, demo-round2, demo-round3."""
    match = re.fullmatch(r"(.*)-round(\d+)", name)
    return f"{match[1]}-round{int(match[2]) + 1}" if match else f"{name}-round2"


def grown(raw: dict, config: dict, grid: Grid, action: Action, name: str) -> dict:
    """The config ``raw`` with the runs of ``action`` added to ``grid``, under the new ``name``.

    ``config`` is ``raw`` with all defaults. The sizes are listed by budget, as the plan used them;
    everything else stays as it is, so every old run keeps its id.
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
    if action.seeds or isinstance(config["seeds"], Mapping):
        new["seeds"] = as_seeds(
            {b: [*seeds_at(config["seeds"], b), *action.seeds] for b in budgets}
        )
    return new


def as_seeds(seeds: Mapping[float, list[int]]) -> list[int] | dict[int | str | float, list[int]]:
    """The ``seeds`` of every budget as a config has them: one list where all have the same."""
    lists = list(seeds.values())
    if all(each == lists[0] for each in lists):
        return lists[0]
    return {number(budget): each for budget, each in seeds.items()}


def number(value: float) -> int | str | float:
    """``value`` as a config would write it: 8.1e11 instead of 810000000000.0."""
    if float(value).is_integer() and abs(value) < 1e6:
        return int(value)
    mantissa, exponent = f"{value:.14e}".split("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if float(short) == float(value) and abs(value) >= 1e6 else float(value)


def config_text(config: dict, head: list[str]) -> str:
    """``config`` as YAML below the comment lines of ``head``."""
    body = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in head) + body
