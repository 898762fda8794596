"""The figures of a comparison: frontiers with M below, and the IsoFLOP curves of every arm."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flops_fit.comparison.result import Comparison
from flops_fit.comparison.sentences import factor
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.notation import flops_text, unit_text
from flops_fit.plots.hover import name_drawn, name_each, name_marks, title_of
from flops_fit.plots.isoflop import isoflop_numbers
from flops_fit.plots.style import (
    MUTED,
    STYLE,
    BudgetColours,
    log_axis,
    message,
    save,
    star,
    tick_count,
    tick_loss,
)

NAME, ISOFLOP = "compare", "compare_isoflop"
REFERENCE = "#31688e"
CANDIDATES = ("#b5541c", "#3b7d3a", "#8b4a9c", "#a6761d", "#c2356b", "#4d4d4d")
COLUMNS = ["kind", "arm", "flops", "loss", "multiplier", "low", "high"]
PANEL_COLUMNS = ["arm", "kind", "budget", "params", "tokens", "loss", "residual", "status"]
WIDEST = 30.0  # M and 1/M that are drawn
PER_ROW = 3  # panels


def compare_numbers(comparisons: list[Comparison]) -> pd.DataFrame:
    """What the figure of ``comparisons`` shows: rows of ``kind`` frontier, minimum, multiplier and row.

    ``arm`` is the candidate for M. ``multiplier, low`` and ``high``: M and the ends of its interval on
    a grid of ``flops``, and, for kind row, where it was asked; ``loss`` of an arm on its frontier and at
    its measured minima. All have the same reference.
    """
    first = comparisons[0]
    rows = _frontier(first, first.reference.name, first.curve.reference)
    for each in comparisons:
        name, curve = each.candidate.name, each.curve
        rows += _frontier(each, name, curve.candidate)
        values = zip(curve.flops, curve.multiplier, curve.low, curve.high, strict=True)
        asked = ((row.flops, row.multiplier, *(row.ci or (None, None))) for row in each.rows)
        for kind, points in (("multiplier", values), ("row", asked)):
            rows += [
                {"kind": kind, "arm": name, "flops": c, "multiplier": m, "low": low, "high": high}
                for c, m, low, high in points
            ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _frontier(comparison: Comparison, name: str, losses: list[float]) -> list[dict]:
    """Rows of the frontier of the arm ``name`` and of its measured minima."""
    line = zip(comparison.curve.flops, losses, strict=True)
    kinds = (("frontier", line), ("minimum", comparison.minima[name]))
    return [
        {"kind": kind, "arm": name, "flops": c, "loss": loss}
        for kind, points in kinds
        for c, loss in points
    ]


def colours_of_arms(comparisons: list[Comparison]) -> dict[str, str]:
    """The colour of the reference and of each candidate of ``comparisons``, by their names."""
    colours = {comparisons[0].reference.name: REFERENCE}
    for i, each in enumerate(comparisons):
        colours[each.candidate.name] = CANDIDATES[i % len(CANDIDATES)]
    return colours


def compare_figure(
    comparisons: list[Comparison], width: float = 6.4
) -> tuple[Figure, pd.DataFrame]:
    """The figure of ``comparisons``, which share their reference, and its numbers, one row per point.

    ``width`` in inches.
    """
    numbers = compare_numbers(comparisons)
    figure = Figure(figsize=(width, 0.95 * width))
    drawn = [each for each in comparisons if each.curve.flops]
    if not drawn:
        message(figure.subplots(), "There is nothing to draw: a fit is not identifiable.")
        return figure, numbers
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    colours = colours_of_arms(comparisons)
    draw_frontiers(top, numbers, colours, unit_text(comparisons[0].loss_unit))
    draw_multipliers(bottom, numbers, colours)
    for ax in (top, bottom):
        _ends_of_data(ax, drawn)
    return figure, numbers


def draw_frontiers(ax: Axes, numbers: pd.DataFrame, colours: dict[str, str], unit: str) -> Axes:
    """Draw on ``ax`` the best loss of all arms against C.

    ``numbers`` has the rows and columns of `compare_numbers`; ``colours`` are those of the arms, and
    ``unit`` is that of the loss.
    """
    for name, colour in colours.items():
        side = numbers[numbers["arm"] == name]
        line = side[side["kind"] == "frontier"]
        ax.plot(line["flops"], line["loss"], color=colour, label=name)
        points = side[side["kind"] == "minimum"]
        stars = ax.scatter(
            points["flops"], points["loss"], s=60, marker="*", color=colour, zorder=3
        )
        name_each(stars, _titles(f"{name}, minimum", points[["flops", "loss"]]), [])
    ax.set_title(f"Best loss ({unit})")
    ax.set_xscale("log")
    log_axis(ax.yaxis, tick_loss)
    ax.legend(loc="upper right")
    return ax


def draw_multipliers(ax: Axes, numbers: pd.DataFrame, colours: dict[str, str]) -> Axes:
    """Draw on ``ax`` M of every candidate against C with its interval.

    ``numbers`` has the rows and columns of `compare_numbers`; ``colours`` are those of the arms.
    """
    for name, line in numbers[numbers["kind"] == "multiplier"].groupby("arm", sort=False):
        colour = colours[str(name)]
        line = line.astype({"low": float, "high": float})
        ends = [line[end].clip(1 / WIDEST, WIDEST) for end in ("low", "high")]
        ax.fill_between(line["flops"], *ends, color=colour, alpha=0.2, linewidth=0)
        ax.plot(line["flops"], line["multiplier"].astype(float), color=colour)
        rows = numbers[(numbers["kind"] == "row") & (numbers["arm"] == name)]
        rows = rows[rows["multiplier"].notna()]
        shown = rows[rows["flops"].between(line["flops"].min() * 0.99, line["flops"].max() * 1.01)]
        points = shown["flops"], shown["multiplier"]
        marks = ax.scatter(*points, s=22, facecolors="white", edgecolors=colour, zorder=4)
        named = [f"M {factor(m)}" for m in shown["multiplier"]]
        heads = _titles(str(name), shown[["flops"]])
        name_each(marks, [f"{h}, {m}" for h, m in zip(heads, named, strict=True)], [])
    ax.axhline(1.0, color=MUTED, linewidth=0.9)
    ax.set_title("Compute multiplier M: above 1 the candidate is better")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8), max(high, 1.25))
    log_axis(ax.yaxis, tick_count)
    log_axis(ax.xaxis, flops_text)
    ax.set_xlabel("compute C of the candidate (FLOPs)")
    return ax


def _titles(name: str, points: pd.DataFrame) -> list[str]:
    return [f"{name}: {title_of(row)}" for row in points.to_dict("records")]


def _ends_of_data(ax: Axes, comparisons: list[Comparison]) -> None:
    """Dotted lines at the largest budgets that reference and candidate both measured."""
    for each in comparisons:
        largest = min(each.reference.largest_budget, each.candidate.largest_budget)
        ax.axvline(largest, color=MUTED, linewidth=0.7, linestyle=":", zorder=1)


def isoflop_panels(fits: dict[str, Fit], width: float = 6.4) -> tuple[Figure, pd.DataFrame]:
    """The IsoFLOP curves of every arm side by side, and their numbers, one row per point.

    The columns are those of `isoflop_numbers`, and ``arm``. ``fits`` by the names of the arms;
    ``width`` in inches.
    """
    parts = []
    for name, fit in fits.items():
        frame = pd.DataFrame(fit.table.columns)
        frame = frame.assign(experiment_id=[str(i) for i in range(len(frame))])
        parts.append(isoflop_numbers(RunTable(frame, fit.data.source), fit).assign(arm=name))
    numbers = pd.concat(parts, ignore_index=True).reindex(columns=PANEL_COLUMNS)
    columns = min(len(fits), PER_ROW)
    rows = -(-len(fits) // columns)
    figure = Figure(figsize=(width, rows * max(0.9 * width / columns, 2.4)))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = BudgetColours(numbers["budget"].dropna().tolist())
    for ax, name in zip(axes.flat, fits, strict=False):
        draw_panel(ax, numbers[numbers["arm"] == name], colours)
        ax.set_title(name)
    for ax in axes.flat[len(fits) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel(f"loss ({unit_text(next(iter(fits.values())).data.loss_unit)})")
    log_axis(axes[0, 0].xaxis, tick_count)
    figure.supxlabel("parameters N", fontsize=9.5)
    return figure, numbers


def draw_panel(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours) -> Axes:
    """Draw on ``ax`` runs, curves and minima of one arm.

    ``numbers`` has its rows of `isoflop_panels`, with the same columns; ``colours`` are those of the
    budgets.
    """
    runs = numbers[numbers["kind"] == "run"]
    marks = ax.scatter(runs["params"], runs["loss"], s=9, c=colours(runs["budget"]), zorder=4)
    name_marks(marks, runs)
    for flops, line in numbers[numbers["kind"].isin(["curve", "slice"])].groupby("budget"):
        (drawn,) = ax.plot(line["params"], line["loss"], color=colours(float(flops)), linewidth=1.2)
        name_drawn(drawn, float(flops))
    for _, row in numbers[numbers["kind"] == "minimum"].dropna(subset=["loss"]).iterrows():
        colour = colours(float(row["budget"]))
        star(ax, row, ("params", "loss"), colour, size=70, width=0.8, zorder=6)
    return ax


def write_figures(
    comparisons: list[Comparison], fits: dict[str, Fit], folder: str | Path, dpi: int = 200
) -> None:
    """Write both figures of ``comparisons`` to ``folder``, each as SVG, PNG (at ``dpi``) and CSV.

    ``fits`` by the names of the arms, the reference first.
    """
    with matplotlib.rc_context(STYLE), np.errstate(invalid="ignore"):
        save(*compare_figure(comparisons), folder, NAME, dpi)
        save(*isoflop_panels(fits), folder, ISOFLOP, dpi)
