"""The figure of a comparison: both frontiers, and below them M with its interval."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flops_fit.comparison.result import Comparison
from flops_fit.notation import flops_text, unit_text
from flops_fit.plots.style import (
    BAND,
    INK,
    MUTED,
    STYLE,
    log_axis,
    message,
    save,
    tick_count,
    tick_loss,
)

NAME = "compare"
REFERENCE, CANDIDATE = "#31688e", "#b5541c"
COLUMNS = ["kind", "arm", "flops", "loss", "multiplier", "low", "high"]
WIDEST = 30.0  # M and 1/M that are drawn


def compare_numbers(comparison: Comparison) -> pd.DataFrame:
    """What the figure of ``comparison`` shows: rows of ``kind`` frontier, minimum, multiplier and row.

    ``multiplier, low`` and ``high``: M and the ends of its interval on a grid of ``flops``, and, for
    kind row, where it was asked; ``loss`` of an ``arm`` on its frontier and at its measured minima.
    """
    curve, rows = comparison.curve, []
    sides = ((comparison.reference, curve.reference), (comparison.candidate, curve.candidate))
    for arm, losses in sides:
        rows += [
            {"kind": "frontier", "arm": arm.name, "flops": c, "loss": loss}
            for c, loss in zip(curve.flops, losses, strict=True)
        ]
        rows += [
            {"kind": "minimum", "arm": arm.name, "flops": c, "loss": loss}
            for c, loss in comparison.minima[arm.name]
        ]
    values = zip(curve.flops, curve.multiplier, curve.low, curve.high, strict=True)
    rows += [
        {"kind": "multiplier", "flops": c, "multiplier": m, "low": low, "high": high}
        for c, m, low, high in values
    ]
    for row in comparison.rows:
        low, high = row.ci or (None, None)
        rows.append(
            {
                "kind": "row",
                "flops": row.flops,
                "multiplier": row.multiplier,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def compare_figure(comparison: Comparison, width: float = 6.4) -> tuple[Figure, pd.DataFrame]:
    """The figure of ``comparison`` and its numbers, one row per point; ``width`` in inches."""
    numbers = compare_numbers(comparison)
    figure = Figure(figsize=(width, 0.95 * width))
    if not comparison.curve.flops:
        message(figure.subplots(), "There is nothing to draw: a fit is not identifiable.")
        return figure, numbers
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    draw_frontiers(top, numbers, comparison)
    draw_multiplier(bottom, numbers, comparison)
    return figure, numbers


def draw_frontiers(ax: Axes, numbers: pd.DataFrame, comparison: Comparison) -> Axes:
    """Draw on ``ax`` the best loss of both arms against C.

    ``numbers`` has the rows and columns of `compare_numbers` of ``comparison``.
    """
    arms = ((comparison.reference.name, REFERENCE), (comparison.candidate.name, CANDIDATE))
    for name, colour in arms:
        side = numbers[numbers["arm"] == name]
        line = side[side["kind"] == "frontier"]
        ax.plot(line["flops"], line["loss"], color=colour, label=name)
        points = side[side["kind"] == "minimum"]
        ax.scatter(points["flops"], points["loss"], s=60, marker="*", color=colour, zorder=3)
    _end_of_data(ax, comparison)
    ax.set_title(f"Best loss ({unit_text(comparison.loss_unit)})")
    ax.set_xscale("log")
    log_axis(ax.yaxis, tick_loss)
    ax.legend(loc="upper right")
    return ax


def draw_multiplier(ax: Axes, numbers: pd.DataFrame, comparison: Comparison) -> Axes:
    """Draw on ``ax`` M against C with its interval.

    ``numbers`` has the rows and columns of `compare_numbers` of ``comparison``.
    """
    line = numbers[numbers["kind"] == "multiplier"].astype({"low": float, "high": float})
    ends = [line[name].clip(1 / WIDEST, WIDEST) for name in ("low", "high")]
    ax.fill_between(line["flops"], *ends, color=BAND, alpha=0.3, linewidth=0)
    ax.plot(line["flops"], line["multiplier"].astype(float), color=INK)
    rows = numbers[(numbers["kind"] == "row") & numbers["multiplier"].notna()]
    shown = rows[rows["flops"].between(line["flops"].min() * 0.99, line["flops"].max() * 1.01)]
    ax.scatter(
        shown["flops"], shown["multiplier"], s=22, facecolors="white", edgecolors=INK, zorder=4
    )
    ax.axhline(1.0, color=MUTED, linewidth=0.9)
    _end_of_data(ax, comparison)
    ax.set_title("Compute multiplier M: above 1 the candidate is better")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8), max(high, 1.25))
    log_axis(ax.yaxis, tick_count)
    log_axis(ax.xaxis, flops_text)
    ax.set_xlabel("compute C of the candidate (FLOPs)")
    return ax


def _end_of_data(ax: Axes, comparison: Comparison) -> None:
    """A dotted line at the largest budget that both arms measured."""
    arms = (comparison.reference, comparison.candidate)
    largest = min(arm.largest_budget for arm in arms)
    ax.axvline(largest, color=MUTED, linewidth=0.7, linestyle=":", zorder=1)


def write_figure(comparison: Comparison, folder: str | Path, dpi: int = 200) -> None:
    """Write compare.svg, compare.png (at ``dpi``) and compare.csv of ``comparison`` to ``folder``."""
    with matplotlib.rc_context(STYLE), np.errstate(invalid="ignore"):
        figure, numbers = compare_figure(comparison)
        save(figure, numbers, folder, NAME, dpi)
