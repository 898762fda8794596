"""The fitted surface L(N, D): contours, runs, IsoFLOP lines and the frontier of best sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path

from flops_fit.fit.cost import Cost
from flops_fit.fit.prediction import loss_at
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.fit.sections import DataEntry
from flops_fit.fit.verdict import unanswerable
from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_drawn, name_marks
from flops_fit.plots.residuals import residuals_of
from flops_fit.plots.style import (
    FAINT,
    INK,
    MUTED,
    NEUTRAL,
    BudgetColours,
    key,
    log_axis,
    tick_count,
)

GRID_POINTS = 41
MARGIN = 1.6  # factor drawn beyond the runs in N and D
LEVELS = 11
CONTOUR, BEYOND = "#8d97a8", "#fbfcfd"
MOST_LINES = 8  # most IsoFLOP lines drawn
LABEL_GAP = 0.035  # least distance of a contour's label from anything else, in widths of the axes
COLUMNS = [
    *("kind", "experiment_id", "flops", "params", "tokens", "loss", "residual", "beyond_data")
]


def surface_numbers(table: RunTable, fit: Fit, budgets: list[float]) -> pd.DataFrame:
    """Rows of ``kind`` run, grid (the surface of ``fit``), line (C = f(N) D at a budget) and frontier.

    Runs are those of ``table``. The frontier is N*, D* of the surface, up to the largest of
    ``budgets`` (FLOPs). If the surface is not identifiable, only the runs remain.
    """
    frame, data = table.frame, fit.data
    last = data.largest_budget
    runs = pd.DataFrame(
        {
            "kind": "run",
            **{key: frame[key] for key in ("experiment_id", "flops", "params", "tokens", "loss")},
            "residual": residuals_of(frame, fit),
        }
    )
    if fit.parametric.status == "not_identifiable":
        return runs.reindex(columns=COLUMNS)
    cost, law = fit.cost, fit.laws["surface"].law
    answered = [c for c in budgets if not unanswerable(fit, c)]
    reach = np.geomspace(data.flops[0], max([last, *answered]), GRID_POINTS)
    best = np.array([law.optimum(np.log(c), cost) for c in reach])[:, :, 0]
    frontier = pd.DataFrame(
        {
            "kind": "frontier",
            "flops": reach,
            "params": np.exp(best[:, 0]),
            "tokens": np.exp(cost.log_tokens(best[:, 0], np.log(reach))),
            "loss": best[:, 1],
            "beyond_data": reach / last,
        }
    )
    known = pd.concat([runs, frontier])
    spans = [(known[c].min() / MARGIN, known[c].max() * MARGIN) for c in ("params", "tokens")]
    n, d = np.meshgrid(*(np.geomspace(low, high, GRID_POINTS) for low, high in spans))
    flops = np.exp(cost.log_flops_per_token(np.log(n))) * d
    grid = pd.DataFrame(
        {
            "kind": "grid",
            "flops": flops.ravel(),
            "params": n.ravel(),
            "tokens": d.ravel(),
            "loss": loss_at(fit, n, d).ravel(),
            "beyond_data": flops.ravel() / last,
        }
    )
    lines = [_line(c, cost, spans) for c in _line_budgets(data)]
    return pd.concat([runs, grid, *lines, frontier], ignore_index=True).reindex(columns=COLUMNS)


def _line_budgets(data: DataEntry) -> list[float]:
    if 0 < len(data.budgets) <= MOST_LINES:
        return data.budgets
    low, high = np.log10(data.flops)
    decades = 10.0 ** np.arange(np.ceil(low), np.floor(high) + 1)
    return list(decades[:: max(1, -(-len(decades) // MOST_LINES))])


def _line(flops: float, cost: Cost, spans: list) -> pd.DataFrame:
    low, high = spans[0]
    params = np.geomspace(low, high, GRID_POINTS)
    tokens = np.exp(cost.log_tokens(np.log(params), np.log(flops)))
    inside = (tokens >= spans[1][0]) & (tokens <= spans[1][1])
    return pd.DataFrame(
        {"kind": "line", "flops": flops, "params": params[inside], "tokens": tokens[inside]}
    )


def draw_surface(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours, unit: str) -> Axes:
    """Draw the rows ``numbers`` of `surface_numbers` on ``ax``, with log axes.

    ``colours`` are those of the budgets; contours are labelled with the loss in ``unit``.
    """
    parts = dict(list(numbers.groupby("kind")))
    grid = parts["grid"]
    shape = (GRID_POINTS, GRID_POINTS)
    n, d, loss, beyond = (
        grid[c].to_numpy(dtype=float).reshape(shape)
        for c in ("params", "tokens", "loss", "beyond_data")
    )
    ax.set(xscale="log", yscale="log", xlim=(n.min(), n.max()), ylim=(d.min(), d.max()))
    measured = parts["run"]["loss"]
    low = float(min(measured.min(), parts["frontier"]["loss"].min()))
    levels = contour_levels(low, float(measured.max()))
    drawn: dict[str, Any] = {"levels": levels, "zorder": 0}
    ax.contourf(
        n,
        d,
        loss,
        cmap=NEUTRAL.reversed(),
        norm=LogNorm(levels[0], levels[-1]),
        extend="both",
        **drawn,
    )
    lines = ax.contour(n, d, loss, colors=CONTOUR, linewidths=0.6, **drawn)
    two_decimals = np.allclose(levels, np.round(levels, 2), rtol=0, atol=1e-12)
    write = "{:.2f}" if two_decimals else "{:.3g}"
    ax.clabel(
        lines,
        fmt=write.format,
        fontsize=8,
        colors=MUTED,
        inline_spacing=3,
        manual=_label_places(ax, lines.get_paths(), parts),
    )
    ax.contourf(n, d, beyond, levels=[1, np.inf], colors="white", alpha=0.55, zorder=1)
    _draw_lines(ax, parts, colours)
    runs = parts["run"]
    marks = ax.scatter(
        runs["params"],
        runs["tokens"],
        c=colours(runs["flops"]),
        s=15,
        zorder=4,
        edgecolors="white",
        linewidths=0.5,
    )
    name_marks(marks, runs)
    frontier = parts["frontier"]
    for part, dashes in (
        (frontier[frontier["beyond_data"] <= 1], "-"),
        (frontier[frontier["beyond_data"] >= 1], (0, (3, 1.6))),
    ):
        ax.plot(part["params"], part["tokens"], color=INK, linewidth=2, linestyle=dashes, zorder=5)
    handles: list[Artist] = [Line2D([], [], color=CONTOUR, linewidth=0.8, label=f"loss ({unit})")]
    if frontier["flops"].max() > 1.1 * frontier["flops"].min():
        handles.insert(
            0, Line2D([], [], color=INK, linewidth=2, label="best N and D by the surface")
        )
    if beyond.max() > 1:
        handles.append(Patch(facecolor=BEYOND, edgecolor=FAINT, label="beyond the data"))
    key(ax, handles)
    ax.set(xlabel="parameters N", ylabel="tokens D")
    ax.grid(False)
    log_axis(ax.xaxis, tick_count)
    log_axis(ax.yaxis, tick_count)
    return ax


def _label_places(ax: Axes, contours: Sequence[Path], parts: dict) -> list[tuple[float, float]]:
    """Where each contour is farthest from runs, lines, the frame and other labels.

    Contours that have no such place have no label.
    """
    to_share = ax.transScale + ax.transLimits  # data to shares of the axes' width and height
    taken = np.concatenate(
        [
            to_share.transform(parts[kind][["params", "tokens"]].dropna().to_numpy(dtype=float))
            for kind in ("run", "line", "frontier")
            if kind in parts
        ]
    )
    places = []
    for contour in contours:
        points = np.asarray(contour.vertices)
        if not len(points):
            continue
        shares = to_share.transform(points)
        gap = np.hypot(*(shares[:, None] - taken[None]).T).min(axis=0)
        gap = np.minimum(gap, np.minimum(shares, 1 - shares).min(axis=1))
        best = int(np.argmax(gap))
        if gap[best] > LABEL_GAP:
            places.append((float(points[best, 0]), float(points[best, 1])))
            taken = np.vstack([taken, shares[best]])
    return places


def contour_levels(low: float, high: float) -> np.ndarray:
    """Contour levels of the loss between ``low`` and ``high``, in ascending order, shape (k,).

    They have two decimals, unless the losses are too small or too close together for that.
    """
    low, high = min(low, high), max(low, high)
    levels = np.unique(np.round(np.geomspace(low, high, LEVELS), 2))
    if len(levels) > 1 and levels[0] > 0:
        return levels
    return np.geomspace(low, max(high, 1.01 * low), LEVELS)


def _draw_lines(ax: Axes, parts: dict, colours: BudgetColours) -> None:
    """Draw IsoFLOP lines in the colour of their budget, with a label at the lower end."""
    if "line" not in parts:
        return
    right = parts["grid"]["params"].max()
    lowest = parts["line"]["flops"].min()
    for flops, line in parts["line"].groupby("flops"):
        (drawn,) = ax.plot(
            line["params"], line["tokens"], color=colours(flops), linewidth=0.9, zorder=2
        )
        name_drawn(drawn, flops)
        end = line.iloc[-1]
        at_right = end["params"] >= right / 1.3  # otherwise the label would cross the frame
        below = flops == lowest and not at_right  # nothing is drawn there
        label = ax.annotate(
            flops_text(flops),
            (right if at_right else end["params"], end["tokens"]),
            xytext=(5, 0) if at_right else (-14, 1) if below else (4, 2),
            textcoords="offset points",
            ha="right" if below else "left",
            va="center" if at_right else "bottom",
            color=colours.text(flops),
            fontsize=8.5,
            fontweight="bold",
            annotation_clip=False,
            zorder=6,
        )
        name_drawn(label, flops)
