"""Pairs of parameters of the surface, one point per resample."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.result import Fit
from flops_fit.plots.hover import name_drawn
from flops_fit.plots.style import INK, MUTED

COLUMNS = ["E", "ln_A", "ln_B", "alpha", "beta"]
NAMES = {"E": "E", "ln_A": "ln A", "ln_B": "ln B", "alpha": "α", "beta": "β"}
MOST_DRAWS = 400
NARROW = 4.5  # inches; a narrower figure has smaller numbers


def uncertainty_numbers(fit: Fit) -> pd.DataFrame:
    """One row per resample of the surface of ``fit`` (at most `MOST_DRAWS`), below the estimate."""
    law, draws = fit.laws["surface"].law, fit.laws["surface"].draws
    if draws is None or fit.parametric.status == "not_identifiable":
        return pd.DataFrame(columns=["kind", *COLUMNS])
    assert isinstance(law, SurfaceLaw)
    assert isinstance(draws, SurfaceLaw)
    rows = [*law.values.tolist(), *draws.values[:MOST_DRAWS].tolist()]
    numbers = pd.DataFrame(rows, columns=list(law.columns))[COLUMNS]
    numbers.insert(0, "kind", ["estimate", *["resample"] * (len(rows) - 1)])
    return numbers


def draw_uncertainty(figure: Figure, numbers: pd.DataFrame) -> None:
    """Draw the rows ``numbers`` of `uncertainty_numbers` in ``figure``.

    Pairs are below the diagonal, distributions on it.
    """
    draws, estimate = numbers[numbers["kind"] == "resample"], numbers.iloc[0]
    axes = figure.subplots(len(COLUMNS), len(COLUMNS), sharex="col")
    for i, row in enumerate(COLUMNS):
        for j, column in enumerate(COLUMNS):
            ax = axes[i, j]
            if j > i:
                ax.set_axis_off()
                continue
            if i == j:
                spread = np.ptp(draws[column]) > 1e-9 * np.abs(draws[column]).max()
                ax.hist(draws[column], bins=20 if spread else 1, color=MUTED, alpha=0.5)
                ax.axvline(estimate[column], color=INK, linewidth=1)
                ax.set_yticks([])
            else:
                ax.scatter(
                    draws[column],
                    draws[row],
                    s=3,
                    color=MUTED,
                    alpha=0.5,
                    linewidths=0,
                    rasterized=True,
                )
                (cross,) = ax.plot(estimate[column], estimate[row], "+", color=INK, markersize=8)
                pair = ", ".join(f"{NAMES[key]} {estimate[key]:.4g}" for key in (column, row))
                name_drawn(cross, title=f"estimate: {pair}")
            _dress(ax, i, j)


def _dress(ax: Axes, i: int, j: int) -> None:
    ax.grid(False)
    last = len(COLUMNS) - 1
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(2))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    size = 7.5 if ax.figure.bbox.width > NARROW * ax.figure.dpi else 5.5
    ax.tick_params(labelsize=size, labelbottom=i == last, labelleft=j == 0 and i > 0)
    if i == last:
        ax.set_xlabel(NAMES[COLUMNS[j]])
    if j == 0 and i:
        ax.set_ylabel(NAMES[COLUMNS[i]])
