"""Extra compute that other sizes than the best need for the same loss."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flops_fit.fit.prediction import FACTORS, predict
from flops_fit.fit.result import Fit
from flops_fit.notation import factor_text, flops_text, waste_text
from flops_fit.plots.hover import name_drawn, name_each, title_of
from flops_fit.plots.style import FAINT, MUTED, BudgetColours, beside, budget_handles, key, log_axis

FACTOR_GRID = np.geomspace(1 / 8, 8, 97)
MOST_WASTE = 1.0  # largest waste drawn, as a share of C
NEAR = 5  # per cent of C, within which a size is a good one
COLUMNS = ["kind", "flops", "factor", "params", "waste"]


def regret_numbers(fit: Fit, budgets: list[float]) -> pd.DataFrame:
    """The extra compute of N = ``factor`` x N* by ``fit``, at each of ``budgets`` (FLOPs).

    One row per budget and factor; the column ``waste`` is a share of C, empty where no compute is
    enough. ``kind`` is curve, or answer for the factors that the answer lists.
    """
    if not fit.identified:
        return pd.DataFrame(columns=COLUMNS)
    rows: list[tuple] = []
    for flops in budgets:
        answer = predict(fit, flops)
        if answer.params is None:  # not identifiable at this budget
            continue
        sizes = answer.params * FACTOR_GRID
        wastes = fit.answering.law.waste(np.log(sizes), np.log(flops), fit.cost)
        finite = [w if np.isfinite(w) else None for w in wastes.tolist()]
        rows += [("curve", flops, *point) for point in zip(FACTOR_GRID, sizes, finite, strict=True)]
        rows += [("answer", flops, r.factor, r.params, r.waste) for r in answer.regret]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw_regret(ax: Axes, numbers: pd.DataFrame) -> Axes:
    """Draw waste against N / N* on ``ax``, one line per budget.

    ``numbers`` has the rows of `regret_numbers`. The colours differ from those of the other
    figures, whose scale covers the budgets of the runs.
    """
    budgets = list(dict.fromkeys(numbers["flops"]))
    colours = BudgetColours(budgets)
    for flops in budgets:
        part = numbers[(numbers["flops"] == flops) & (numbers["kind"] == "curve")]
        (line,) = ax.plot(
            part["factor"], 100 * part["waste"].astype(float), color=colours(flops), zorder=3
        )
        name_drawn(line, flops, f"C {flops_text(flops)}")
        listed = numbers[(numbers["flops"] == flops) & (numbers["kind"] == "answer")]
        listed = listed[listed["waste"].notna()]
        marks = ax.scatter(
            listed["factor"],
            100 * listed["waste"].astype(float),
            s=16,
            color=colours(flops),
            zorder=4,
        )
        titles = [
            f"{title_of(row)} ({factor_text(row['factor'])}): {waste_text(row['waste'])} compute"
            for row in listed.to_dict("records")
        ]
        name_each(marks, titles, listed["flops"].tolist())
    ax.axhline(NEAR, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    beside(ax, f"{NEAR}%", NEAR)
    ax.axvline(1, color=FAINT, linewidth=1, zorder=0)
    log_axis(ax.xaxis, lambda v: f"{v:g}")
    ticks = sorted({1 / 4, 1.0, *FACTORS})
    ax.set_xticks(ticks, [f"×{t:g}" if t >= 1 else f"×1/{1 / t:g}" for t in ticks])
    ax.set(xlim=(FACTOR_GRID[0], FACTOR_GRID[-1]), ylim=(0, 100 * MOST_WASTE))
    ax.set(xlabel="N relative to the best N", ylabel="extra compute for the same loss (%)")
    key(ax, budget_handles(colours, budgets))
    return ax
