"""The figure of a plan: every experiment in the plane of N and D."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flops_fit.constants import PUBLISHED_RATIO
from flops_fit.notation import count_text, flops_text
from flops_fit.plan.table import PlanRow
from flops_fit.plots.hover import name_drawn, name_each, title_of
from flops_fit.plots.style import MUTED, STYLE, BudgetColours, drawn_as, key, log_axis, tick_count
from flops_fit.sweep import Experiment


def plan_figure(rows: list[PlanRow], width: float = 6.4) -> bytes:
    """The figure of ``rows`` (`flops_fit.plan.table.plan_rows`) as SVG; ``width`` in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 0.68 * width))
        draw_plan(figure.subplots(), rows)
        return drawn_as(figure, "svg")


def draw_plan(ax: Axes, rows: list[PlanRow]) -> Axes:
    """Draw the experiments ``rows`` on ``ax``, joined along each budget.

    The dashed line has 20 tokens per parameter.
    """
    experiments = [row.experiment for row in rows]
    budgets = sorted({e.compute_budget for e in experiments})
    colours = BudgetColours(budgets)
    for budget in budgets:
        cells = [e for e in experiments if e.compute_budget == budget]
        cells.sort(key=lambda experiment: experiment.count.params)
        params = [experiment.count.params for experiment in cells]
        tokens = [experiment.num_tokens for experiment in cells]
        (line,) = ax.plot(params, tokens, color=colours(budget), linewidth=1)
        marks = ax.scatter(params, tokens, color=colours(budget), s=20, zorder=3)
        name_drawn(line, budget)
        name_each(marks, [_title(e) for e in cells], [budget] * len(cells))
        label = ax.annotate(
            flops_text(budget),
            (params[0], tokens[0]),
            xytext=(-7, 0),
            ha="right",
            va="center",
            textcoords="offset points",
            fontsize=8.5,
            color=colours.text(budget),
        )
        name_drawn(label, budget)
    _reference(ax, rows)
    ax.set(xlabel="parameters N", ylabel="tokens D")
    ax.margins(0.12, 0.08)
    ax.set(xscale="log", yscale="log")
    left, right = ax.get_xlim()
    ax.set_xlim(left * (left / right) ** 0.08, right)  # space for the labels of the budgets
    for axis in (ax.xaxis, ax.yaxis):
        log_axis(axis, tick_count)
    return ax


def _title(experiment: Experiment) -> str:
    numbers = title_of(
        {
            "budget": experiment.compute_budget,
            "params": experiment.count.params,
            "tokens": experiment.num_tokens,
        }
    )
    ratio = count_text(experiment.num_tokens / experiment.count.params)
    return f"{experiment.experiment_id}: {numbers}, {ratio} tokens per parameter"


def _reference(ax: Axes, rows: list[PlanRow]) -> None:
    params = np.array([row.experiment.count.params for row in rows], dtype=float)
    tokens = np.array([row.experiment.num_tokens for row in rows], dtype=float)
    low = max(params.min(), tokens.min() / PUBLISHED_RATIO)
    high = min(params.max(), tokens.max() / PUBLISHED_RATIO)
    if low < high:
        ends = np.array([low, high])
        ax.plot(ends, PUBLISHED_RATIO * ends, "--", color=MUTED, linewidth=1, zorder=1)
        label = f"{PUBLISHED_RATIO} tokens per parameter"
        key(ax, [Line2D([], [], linestyle="--", color=MUTED, linewidth=1, label=label)])
