"""The IsoFLOP figure: loss against N at each compute budget, with the measured minima."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from flops_fit.fit.prediction import loss_at, optimum_at, predict
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable, budget_groups
from flops_fit.fit.sections import BudgetEntry
from flops_fit.fit.verdict import has_trend
from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_drawn, name_marks
from flops_fit.plots.residuals import residuals_of
from flops_fit.plots.style import (
    INK,
    MARKERS,
    MOST_LABELS,
    MUTED,
    BudgetColours,
    key,
    log_axis,
    spread,
    star,
    tick_count,
)

CURVE_POINTS = 81
LAW_POINTS = 13
SLICES = 6  # budgets at which the surface is drawn where runs share no budgets
COLUMNS = [
    *("kind", "budget", "params", "tokens", "loss", "residual", "seed", "status", "experiment_id")
]


def isoflop_numbers(table: RunTable, fit: Fit) -> pd.DataFrame:
    """Everything that the figure draws of ``table`` and ``fit``: one row per point, with its ``kind``.

    The kinds are ``run`` (with status used or excluded); ``curve``, the fitted parabola over the
    sizes tried; ``minimum`` (with the status of the fit); ``near_optimal``, the part of the curve
    that costs at most 5% more compute by the headline law; and ``law``, N* and L* of the headline.
    Where runs share no budgets, ``slice`` replaces the curves: the surface at a few budgets.
    """
    frame = table.frame
    excluded = {run.experiment_id for run in fit.excluded.runs}
    groups, _ = budget_groups(frame)
    budget = frame["flops"].astype(float).copy()
    for flops, rows in groups:
        budget.iloc[rows] = flops
    runs = pd.DataFrame(
        {
            "kind": "run",
            "budget": budget,
            "params": frame["params"],
            "tokens": frame["tokens"],
            "loss": frame["loss"],
            "residual": residuals_of(frame, fit),
            "seed": frame.get("seed", 0),
            "status": ["excluded" if r in excluded else "used" for r in frame["experiment_id"]],
            "experiment_id": frame["experiment_id"],
        }
    )
    parts = [runs]
    if fit.isoflop.budgets:
        for entry in fit.isoflop.budgets:
            parts += _budget(entry, runs[runs["budget"] == entry.flops], fit)
    elif fit.parametric.status != "not_identifiable":
        parts += _slices(fit, runs)
    if has_trend(fit):
        grid = np.geomspace(budget.min(), budget.max(), LAW_POINTS)
        answers = [optimum_at(fit, c) for c in grid]
        parts.append(
            pd.DataFrame(
                {
                    "kind": "law",
                    "budget": grid,
                    "params": [a.params for a in answers],
                    "tokens": [a.tokens for a in answers],
                    "loss": [a.loss for a in answers],
                }
            )
        )
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _budget(entry: BudgetEntry, runs: pd.DataFrame, fit: Fit) -> list[pd.DataFrame]:
    """Curve, near-optimal part and minimum of one budget."""
    status = entry.status
    minimum = {
        "kind": "minimum",
        "budget": entry.flops,
        "params": entry.params_opt,
        "tokens": entry.tokens_opt,
        "loss": entry.loss_opt,
        "status": status,
    }
    parts = [pd.DataFrame([minimum])]
    if status == "too_few_points" or runs.empty:
        return parts
    low, high = runs["params"].min(), runs["params"].max()
    spans = [("curve", low, high)]
    if status == "bracketed" and fit.identified:
        near = predict(fit, entry.flops).range_5pct
        if near is not None:
            spans.append(("near_optimal", *np.clip(near, low, high)))
    for kind, start, end in spans:
        params = np.geomspace(start, end, CURVE_POINTS)
        z = np.log(params) - entry.centre
        loss = np.polynomial.polynomial.polyval(z, entry.coefficients)
        parts.append(
            pd.DataFrame(
                {
                    "kind": kind,
                    "budget": entry.flops,
                    "params": params,
                    "loss": loss,
                    "status": status,
                }
            )
        )
    return parts


def _slices(fit: Fit, runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The surface along C = f(N) D at a few budgets, over the sizes of the runs near each."""
    cost, parts = fit.cost, []
    edges = np.geomspace(runs["budget"].min(), runs["budget"].max(), SLICES + 1)
    for low, high in itertools.pairwise(edges):
        near = runs[(runs["budget"] >= low) & (runs["budget"] <= high)]
        if near["params"].nunique() < 3:
            continue
        flops = float(np.sqrt(low * high))
        params = np.geomspace(near["params"].min(), near["params"].max(), CURVE_POINTS)
        tokens = np.exp(cost.log_tokens(np.log(params), np.log(flops)))
        loss = loss_at(fit, params, tokens)
        parts.append(
            pd.DataFrame(
                {"kind": "slice", "budget": flops, "params": params, "tokens": tokens, "loss": loss}
            )
        )
    return parts


def draw_isoflop(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours, unit: str) -> Axes:
    """Draw ``numbers``, the rows of `isoflop_numbers`, on ``ax``.

    ``colours`` are those of the budgets, ``unit`` is that of the loss.
    """
    parts = dict(list(numbers.groupby("kind")))
    runs = parts["run"]
    shared = "minimum" in parts
    _draw_lines(ax, parts, colours)
    seeds = sorted(runs["seed"].unique())
    for (seed, status), group in runs.groupby(["seed", "status"]):
        style: dict[str, Any] = {
            "s": 17,
            "linewidths": 0.6,
            "edgecolors": "white",
            "marker": MARKERS[seeds.index(seed) % len(MARKERS)],
        }
        if status == "excluded":
            style = {"s": 24, "linewidths": 1.2, "marker": "x"}
        marks = ax.scatter(
            group["params"], group["loss"], c=colours(group["budget"]), zorder=4, **style
        )
        name_marks(marks, group)
    for _, row in parts["minimum"].iterrows() if shared else ():
        star(ax, row, ("params", "loss"), colours(row["budget"]), size=110, width=0.9, zorder=6)
    ax.set(xlabel="parameters N", ylabel=f"loss ({unit})")
    ax.set_xlim(runs["params"].min() / 1.25, runs["params"].max() * 1.25)
    budgets = sorted(runs["budget"].unique())
    if shared and len(budgets) <= MOST_LABELS:
        ax.set_xlim(
            right=runs["params"].max() * (runs["params"].max() / runs["params"].min()) ** 0.2
        )
        log_axis(ax.xaxis, tick_count)
        _label_ends(ax, runs, colours)
    else:
        log_axis(ax.xaxis, tick_count)
        colours.bar(ax)
    _key(ax, parts, seeds)
    return ax


def _draw_lines(ax: Axes, parts: dict, colours: BudgetColours) -> None:
    styles: dict[str, dict[str, Any]] = {
        "near_optimal": {"linewidth": 8, "alpha": 0.22, "solid_capstyle": "butt", "zorder": 2},
        "curve": {"linewidth": 1.4, "zorder": 3},
        "slice": {"linewidth": 1.2, "zorder": 3},
    }
    for kind, style in styles.items():
        for flops, line in parts[kind].groupby("budget") if kind in parts else ():
            dashed = kind == "curve" and line["status"].iloc[0] != "bracketed"
            (drawn,) = ax.plot(
                line["params"],
                line["loss"],
                color=colours(flops),
                linestyle=(0, (4, 2)) if dashed else "-",
                **style,
            )
            name_drawn(drawn, flops)
    if "law" in parts:
        law = parts["law"]
        ax.plot(
            law["params"], law["loss"], color=INK, linewidth=1.1, linestyle=(0, (1, 1.6)), zorder=5
        )


def _label_ends(ax: Axes, runs: pd.DataFrame, colours: BudgetColours) -> None:
    """Write each budget at the right end of its curve."""
    ends = runs.loc[runs.groupby("budget")["params"].idxmax()]
    low, high = ax.get_ylim()
    heights = spread(ends["loss"].to_numpy(), (high - low) * 0.045)
    top = ends["loss"].idxmax()
    for (index, row), height in zip(ends.iterrows(), heights, strict=True):
        text = flops_text(row["budget"]) + (" FLOPs" if index == top else "")
        label = ax.annotate(
            text,
            (row["params"], height),
            xytext=(7, 0),
            textcoords="offset points",
            color=colours.text(row["budget"]),
            va="center",
            fontsize=9,
            fontweight="bold",
        )
        name_drawn(label, row["budget"])


def _key(ax: Axes, parts: dict, seeds: list) -> None:
    """The legend of the marks; budgets are labelled at their curves."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=MUTED, label=label, **style)

    named = seeds if 1 < len(seeds) <= len(MARKERS) else []  # more seeds share markers
    handles: list[Artist] = [
        mark(MARKERS[i], f"seed {seed:g}", markersize=4.5) for i, seed in enumerate(named)
    ]
    statuses = set(parts["minimum"]["status"]) if "minimum" in parts else set()
    if "bracketed" in statuses:
        handles.append(mark("*", "minimum, used", markersize=9, markeredgecolor=INK))
    if statuses - {"bracketed"}:
        handles.append(mark("*", "no minimum, not used", markersize=9, markerfacecolor="white"))
    if (parts["run"]["status"] == "excluded").any():
        handles.append(mark("x", "run left out", markersize=5))
    if "near_optimal" in parts:
        handles.append(Patch(color=MUTED, alpha=0.3, label="at most 5% more compute"))
    if "slice" in parts:
        handles.append(Line2D([], [], color=MUTED, label="fitted surface"))
    if "law" in parts:
        handles.append(
            Line2D([], [], color=INK, linewidth=1.1, linestyle=(0, (1, 1.6)), label="fitted N*(C)")
        )
    key(ax, handles)
