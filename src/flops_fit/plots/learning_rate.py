"""Loss against learning rate in every cell of a learning-rate sweep, with the fitted rule."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flops_fit.plots.style import MUTED, STYLE, BudgetColours, log_axis, save


def draw_rate_figure(runs: pd.DataFrame, fit: dict, folder: str, dpi: int, width: float) -> None:
    """Write learning_rate.svg, .png and .csv to ``folder``."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 0.62 * width))
        draw_learning_rate(figure.subplots(), runs, fit, BudgetColours(runs["budget"].unique()))
        save(figure, pd.DataFrame(fit["cells"]), folder, "learning_rate", dpi)


def draw_learning_rate(ax: Axes, runs: pd.DataFrame, fit: dict, colours: BudgetColours) -> Axes:
    """Loss above each cell's lowest, against the rate: dots runs, stars the bracketed minima.

    Losses are shown relative to their cell, since cells differ in loss far more than rates do.
    The tick below each curve is what the rule says there.
    """
    for cell in fit["cells"]:
        own = runs[(runs["size"] == cell["size"]) & (runs["tokens"] == cell["tokens"])]
        own = own[own["loss"].notna()].sort_values("learning_rate")
        if own.empty:
            continue
        colour = colours(own["budget"].iloc[0])
        above = own["loss"] - own["loss"].min()
        ax.plot(own["learning_rate"], above, "o-", markersize=3.5, linewidth=1, color=colour)
        bracketed = cell["status"] == "bracketed"
        ax.plot(cell["best_rate"], cell["loss"] - own["loss"].min(), "*" if bracketed else "s",
                markersize=11 if bracketed else 8, color=colour, zorder=4,
                markerfacecolor=colour if bracketed else "white")  # fmt: skip
        end = own.iloc[-1]
        ax.annotate(f"size {cell['size']:g}, D {cell['tokens']:.2g}",
                    (end["learning_rate"], above.iloc[-1]), xytext=(4, 0), fontsize=7,
                    textcoords="offset points", color=MUTED, va="center")  # fmt: skip
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("loss above the cell's lowest (nats per token)")
    ax.set_ylim(bottom=-0.01, top=np.nanquantile(_above(runs), 0.95) * 1.1 + 0.01)
    ax.margins(x=0.12)
    log_axis(ax.xaxis, lambda value: f"{value:g}")
    return ax


def _above(runs: pd.DataFrame) -> np.ndarray:
    lowest = runs.groupby(["size", "tokens"])["loss"].transform("min")
    return (runs["loss"] - lowest).to_numpy()
