"""The figure of the refits: N* under every other choice, beside the interval of the answer."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flops_fit.fit.estimators import USABLE
from flops_fit.fit.prediction import predict
from flops_fit.fit.result import Fit
from flops_fit.fit.sensitivity import GROUPS, sensitivity_at
from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_drawn, title_of
from flops_fit.plots.style import BAND, INK, MUTED, log_axis, tick_count

COLUMNS = [
    "kind",
    "flops",
    "group",
    "label",
    "headline",
    "status",
    "n_runs",
    "a",
    "params",
    "tokens",
    "tokens_per_param",
    "loss",
    "count",
    "own_params",
    "own_tokens_per_param",
    "low",
    "high",
]
ROW_HEIGHT, NARROW_ROW = 0.2, 0.13  # inches
LABEL_WIDTH, NARROW_LABEL_WIDTH = 42, 28  # characters
NARROW = 4.5  # inches; a narrower figure has short lines in its labels
PALE = "#c3cad5"


def sensitivity_numbers(fit: Fit, budgets: list[float]) -> pd.DataFrame:
    """The refits of ``fit`` at each of ``budgets`` (FLOPs), and the answers to compare them with.

    One row per refit and budget (``kind`` refit, columns as `sensitivity_at` gives them), and one
    per answer (``kind`` answer) with its interval of N from ``low`` to ``high``.
    """
    if not fit.sensitivity or not fit.identified:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for flops in budgets:
        answer = predict(fit, flops)
        if answer.params is None:  # not identifiable at this budget
            continue
        low, high = (answer.ci or {}).get("params", (None, None))
        rows.append(
            {"kind": "answer", "flops": flops, "params": answer.params, "low": low, "high": high}
        )
        rows += [
            {"kind": "refit", "flops": flops, **vars(row)}
            for row in sensitivity_at(fit, flops)
            if row.group in GROUPS
        ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def sensitivity_height(numbers: pd.DataFrame, width: float) -> float:
    """Height in inches of the figure of ``numbers`` (rows of `sensitivity_numbers`).

    ``width`` is its width in inches.
    """
    part = _last(numbers)
    labels = sum(_label(text, width).count("\n") + 1 for text in part["label"])
    heads = sum(_label(GROUPS[g], width).count("\n") + 1 for g in part["group"].unique())
    narrow = width < NARROW
    return (1.5 if narrow else 1.1) + (NARROW_ROW if narrow else ROW_HEIGHT) * (labels + heads)


def _last(numbers: pd.DataFrame) -> pd.DataFrame:
    """The refits at the last budget, which is the one drawn."""
    return numbers[(numbers["kind"] == "refit") & (numbers["flops"] == numbers["flops"].iloc[-1])]


def _label(text: str, width: float) -> str:
    """``text`` in lines that leave room for the marks of a figure of ``width`` inches."""
    return "\n".join(textwrap.wrap(text, NARROW_LABEL_WIDTH if width < NARROW else LABEL_WIDTH))


def draw_sensitivity(ax: Axes, numbers: pd.DataFrame) -> Axes:
    """Draw the rows ``numbers`` of `sensitivity_numbers` on ``ax``: one line per refit.

    A filled mark is the choice behind the answer, a cross a refit without a law.
    """
    part = _last(numbers)
    answer = numbers[numbers["kind"] == "answer"].iloc[-1]
    ticks: list[float] = []
    labels: list[str] = []
    heads, y = [], 0.0
    width = ax.figure.figure.get_figwidth()
    ax.axvline(answer["params"], color=INK, linewidth=1, zorder=2)
    if pd.notna(answer["low"]):
        ax.axvspan(answer["low"], answer["high"], color=BAND, alpha=0.25, linewidth=0, zorder=0)
    usable = part["status"].isin(USABLE)
    known = [*part.loc[usable, "params"], answer["params"], *answer[["low", "high"]].dropna()]
    left, right = min(known) / 1.06, max(known) * 1.06
    for group, rows in part.groupby("group", sort=False):
        heads.append(len(ticks))
        head = _label(GROUPS[group], width)
        ticks.append(y + head.count("\n") / 2)
        labels.append(head)
        y += head.count("\n") + 1
        for (_, row), fine in zip(rows.iterrows(), usable[rows.index], strict=True):
            text = _label(row["label"], width)
            at = y + text.count("\n") / 2
            mark = _mark(ax, float(np.clip(row["params"], left, right)), at, row["headline"], fine)
            numbers_of = title_of(row[["params", "tokens", "loss"]]) if fine else row["status"]
            name_drawn(mark, title=f"{GROUPS[group]}: {row['label']}: {numbers_of}")
            ticks.append(at)
            labels.append(text)
            y += text.count("\n") + 1
    ax.set(ylim=(y - 0.3, -0.7), xlim=(left, right))
    ax.set_yticks(ticks, labels, fontsize=6.5 if width < NARROW else 8.5)
    for i, label in enumerate(ax.get_yticklabels()):
        label.set(color=INK if i in heads else MUTED, weight="bold" if i in heads else "normal")
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    log_axis(ax.xaxis, tick_count)
    counted = "" if width < NARROW else ", counted as in the fit"
    ax.set_xlabel(f"best N at {flops_text(answer['flops'])} FLOPs{counted}")
    _key(ax, answer, not usable.all())
    return ax


def _mark(ax: Axes, x: float, y: float, headline: bool, usable: bool) -> PathCollection:
    style: dict[str, Any] = {"marker": "o", "s": 26, "facecolors": INK if headline else "white"}
    if not usable:
        style = {"marker": "x", "s": 22, "facecolors": MUTED}
    ax.axhline(y, color=PALE, linewidth=0.5, zorder=1)
    return ax.scatter(
        x,
        y,
        edgecolors=None if not usable else INK,
        linewidths=1.1,
        zorder=4,
        clip_on=False,
        **style,
    )


def _key(ax: Axes, answer: pd.Series, some_failed: bool) -> None:
    def mark(marker: str, face: str, label: str) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            markersize=5,
            color=INK,
            markerfacecolor=face,
            label=label,
        )

    handles: list[Artist] = [mark("o", INK, "as fitted"), mark("o", "white", "another choice")]
    if some_failed:
        handles.append(mark("x", INK, "no law could be fitted"))
    if pd.notna(answer["low"]):
        handles.append(Patch(color=BAND, alpha=0.35, label="interval of the answer"))
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=1 if ax.figure.figure.get_figwidth() < NARROW else len(handles) // 3 + 2,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.2,
        handlelength=1.4,
        labelcolor=MUTED,
    )
