"""Loss against learning rate at every size and D of a learning-rate sweep, with the fitted rule."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flops_fit.plan.rules import make_rule
from flops_fit.plots.hover import name_drawn, name_marks, title_of
from flops_fit.plots.style import INK, MUTED, STYLE, BudgetColours, log_axis, save, tick_count

NARROW = 4.5  # inches; a narrower figure has two panels in a row, not three


def draw_rate_figure(runs: pd.DataFrame, fit: dict, folder: str, dpi: int, width: float) -> None:
    """Write learning_rate.svg, .png and .csv to ``folder``, one panel per size and D.

    ``runs`` has one row per run (columns size, tokens, budget, learning_rate, loss), ``fit`` is the
    fitted rule. ``dpi`` is the resolution of the PNG file, ``width`` the width in inches.
    """
    rule = make_rule("learning_rate", fit)
    colours = BudgetColours(runs["budget"].unique())
    columns = min(2 if width < NARROW else 3, len(fit["cells"]))
    rows = -(-len(fit["cells"]) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 0.5 + 0.9 * rows * min(width / columns, 2.5)))
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for ax, cell in zip(panels, fit["cells"], strict=False):
            draw_cell(ax, runs, cell, rule, colours)
        for ax in panels[len(fit["cells"]) :]:
            ax.set_axis_off()
        log_axis(panels[0].xaxis, lambda value: f"{value:g}")
        figure.supxlabel("peak learning rate (dotted: the rule)", fontsize=9.5, color=INK)
        figure.supylabel("loss", fontsize=9.5, color=INK)
        save(figure, pd.DataFrame(fit["cells"]), folder, "learning_rate", dpi)


def draw_cell(
    ax: Axes, runs: pd.DataFrame, cell: dict, rule: Callable, colours: BudgetColours
) -> Axes:
    """Draw one ``cell`` (a size and D) on ``ax``, with the ``rule`` as a dotted line.

    Of ``runs`` (one row per run) those of the cell are dots, coloured by budget with ``colours``. A
    star marks a bracketed minimum, a hollow square a best rate at the edge.
    """
    tried = runs[(runs["size"] == cell["size"]) & (runs["tokens"] == cell["tokens"])]
    tried = tried[tried["loss"].notna()].sort_values("learning_rate")
    colour = colours(runs.loc[runs["tokens"] == cell["tokens"], "budget"].iloc[0])
    marks = ax.scatter(tried["learning_rate"], tried["loss"], s=13, color=colour, zorder=3)
    name_marks(marks, tried)
    at = cell["best_rate"], cell["loss"]
    style: dict[str, Any] = {"zorder": 4, "clip_on": False}
    best_text = title_of({"learning_rate": cell["best_rate"], "loss": cell["loss"]})
    if cell["status"] == "bracketed":
        near = np.log(tried["learning_rate"] / cell["best_rate"])
        x = np.linspace(near.min(), near.max(), 60)
        curve = cell["loss"] + cell["curvature"] * x**2
        ax.plot(cell["best_rate"] * np.exp(x), curve, linewidth=1, color=colour)
        best = ax.scatter(
            *at, s=90, marker="*", color=colour, edgecolors=INK, linewidths=0.6, **style
        )
        name_drawn(best, title=f"minimum: {best_text}")
    elif len(tried):
        best = ax.scatter(*at, s=48, marker="s", facecolors="white", edgecolors=colour, **style)
        name_drawn(best, title=f"lowest at the edge of the rates tried: {best_text}")
    factors = {"params": cell["params"], "tokens": cell["tokens"], "size": cell["size"]}
    ax.axvline(rule(**factors), color=MUTED, linestyle=":", linewidth=1)
    ax.set_title(f"size {cell['size']:g}, D {tick_count(cell['tokens'])}", fontsize=8)
    return ax
