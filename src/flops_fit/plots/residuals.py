"""Measured against fitted loss, and the residuals of the surface against C, N and D."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flops_fit.fit.prediction import loss_at
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_marks
from flops_fit.plots.style import BAND, INK, MUTED, BudgetColours, log_axis, tick_count, tick_loss

COLUMNS = ["experiment_id", "status", "flops", "params", "tokens", "loss", "fitted", "residual"]
PANELS = {"flops": "compute C (FLOPs)", "params": "parameters N", "tokens": "tokens D"}
BINS, FEWEST_IN_BIN = 6, 3
NEAR = 0.05  # in ln x: closer values, such as those of one budget, form a group
MANY = 300  # runs in four panels; with more, an SVG holds the points as one image


def residuals_of(runs: pd.DataFrame, fit: Fit) -> pd.Series:
    """ln(loss / fitted) by the surface of ``fit`` for each row of ``runs``; empty without a surface.

    ``runs`` has the columns params, tokens and loss.
    """
    if fit.parametric.status == "not_identifiable":
        return pd.Series(np.nan, runs.index)
    return np.log(runs["loss"] / loss_at(fit, runs["params"], runs["tokens"]))


def residual_numbers(table: RunTable, fit: Fit) -> pd.DataFrame:
    """One row per run of ``table``: its loss, that of the surface of ``fit``, and the residual.

    ``residual`` is ln(loss / fitted), ``status`` is used or excluded. Empty if the surface is not
    identifiable.
    """
    if fit.parametric.status == "not_identifiable":
        return pd.DataFrame(columns=COLUMNS)
    frame = table.frame
    left_out = {run.experiment_id for run in fit.excluded.runs}
    return pd.DataFrame(
        {
            **{
                name: frame[name] for name in ("experiment_id", "flops", "params", "tokens", "loss")
            },
            "status": np.where(frame["experiment_id"].isin(left_out), "excluded", "used"),
            "fitted": loss_at(fit, frame["params"], frame["tokens"]),
            "residual": residuals_of(frame, fit),
        }
    )[COLUMNS]


def draw_fitted(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours, unit: str) -> Axes:
    """Draw measured against fitted loss in ``unit`` on ``ax``; on the line both are equal.

    ``numbers`` has one row per run (`residual_numbers`); ``colours`` are those of the budgets.
    """
    ends = [numbers[["loss", "fitted"]].min().min(), numbers[["loss", "fitted"]].max().max()]
    ax.plot(ends, ends, color=MUTED, linewidth=0.9, zorder=1)
    _scatter(ax, numbers, numbers["fitted"], numbers["loss"], colours)
    log_axis(ax.xaxis, tick_loss)
    log_axis(ax.yaxis, tick_loss)
    ax.set(xlabel=f"fitted loss ({unit})", ylabel="measured loss")
    return ax


def draw_residuals(
    ax: Axes, numbers: pd.DataFrame, name: str, colours: BudgetColours, scale: float
) -> Axes:
    """Draw residuals in per cent and their medians against ``name`` (a key of `PANELS`) on ``ax``.

    ``numbers`` has one row per run (`residual_numbers`); ``colours`` are those of the budgets. The
    band is one robust ``scale`` on both sides.
    """
    percent = 100 * numbers["residual"]
    ax.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    ax.axhspan(-100 * scale, 100 * scale, color=BAND, alpha=0.2, linewidth=0, zorder=0)
    _scatter(ax, numbers, numbers[name], percent, colours)
    used = numbers[numbers["status"] == "used"].sort_values(name)
    medians = [used.iloc[part][[name, "residual"]].median() for part in _parts(used[name])]
    ax.plot(
        [m[name] for m in medians],
        [100 * m["residual"] for m in medians],
        color=INK,
        linewidth=1.2,
        zorder=5,
    )
    log_axis(ax.xaxis, flops_text if name == "flops" else tick_count)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel=PANELS[name], ylabel="measured / fitted − 1 (%)")
    return ax


def _parts(values: pd.Series) -> list[np.ndarray]:
    """Positions of ascending ``values`` in groups of nearly equal values, else of equal size."""
    group = np.cumsum(np.diff(np.log(values), prepend=np.log(values.iloc[:1])) > NEAR)
    if group[-1] < BINS:
        return [np.flatnonzero(group == k) for k in range(group[-1] + 1)]
    bins = max(min(BINS, len(values) // FEWEST_IN_BIN), 1)
    return np.array_split(np.arange(len(values)), bins)


def _scatter(
    ax: Axes, numbers: pd.DataFrame, x: pd.Series, y: pd.Series, colours: BudgetColours
) -> None:
    for status, marker, size in (("used", "o", 15), ("excluded", "x", 24)):
        rows = numbers["status"] == status
        marks = ax.scatter(
            x[rows],
            y[rows],
            c=colours(numbers.loc[rows, "flops"]),
            s=size,
            marker=marker,
            zorder=4,
            rasterized=len(numbers) > MANY,
            **(
                {"edgecolors": "white", "linewidths": 0.5} if marker == "o" else {"linewidths": 1.2}
            ),
        )
        name_marks(marks, numbers[rows])
