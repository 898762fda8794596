"""N*, D*, L* and tokens per parameter against compute: measured, fitted and extrapolated."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flops_fit.fit.answer import Optimum
from flops_fit.fit.laws import StackLaw
from flops_fit.fit.prediction import optimum_at
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import has_trend, unanswerable
from flops_fit.notation import flops_text, unit_text
from flops_fit.plots.hover import name_drawn, name_marks
from flops_fit.plots.style import (
    BAND,
    INK,
    MUTED,
    BudgetColours,
    beside,
    log_axis,
    star,
    tick_count,
    tick_loss,
)

GRID_POINTS = 25
QUANTITIES = {
    "params": "Parameters N*",
    "tokens": "Tokens D*",
    "loss": "Loss L*",
    "tokens_per_param": "Tokens per parameter",
}
REFERENCE_SLOPE = 0.5  # in Hoffmann et al. 2022 both N* and D* grow about as C^0.5
LEAST_RATIO_SPAN = 3.0
REFERENCE_RATIO = 20.0  # tokens per parameter, Hoffmann et al. 2022
ENDS = ("", "_low", "_high", "_noise_low", "_noise_high")
COLUMNS = [
    "kind",
    "flops",
    *(f"{q}{end}" for q in QUANTITIES for end in ENDS),
    "beyond_data",
    "status",
]
LEAST_WEIGHT = 0.02  # least weight of a member of the stack that is drawn


def optima_numbers(fit: Fit, budgets: list[float]) -> pd.DataFrame:
    """The optima of ``fit``: rows of ``kind`` law (on a grid of C), answer (one per budget) and minimum.

    ``budgets`` are those to answer for, in FLOPs. Columns ending in ``_low`` and ``_high`` are the
    ends of the intervals, in ``_noise_low`` and ``_noise_high`` of those that cover noise alone,
    empty without resamples; ``beyond_data`` is C divided by the largest budget of the data. Rows of
    ``kind`` member are the members of a stack, with their name in ``status``.
    """
    rows = [
        {
            "kind": "minimum",
            "flops": b.flops,
            "params": b.params_opt,
            "tokens": b.tokens_opt,
            "loss": b.loss_opt,
            "tokens_per_param": b.tokens_opt / b.params_opt,
            "status": b.status,
        }
        for b in fit.isoflop.budgets
    ]
    if fit.identified:
        data = fit.data
        first, last = min(data.budgets or [data.flops[0]]), data.largest_budget
        identified = [c for c in budgets if not unanswerable(fit, c)]
        grid = np.geomspace(first, max([last, *identified]), GRID_POINTS)
        steps = sorted({*grid, last}) if has_trend(fit) else [last]
        rows += [_row("law", optimum_at(fit, c)) for c in steps]
        rows += [_row("answer", optimum_at(fit, c)) for c in identified]
        rows += _members(fit, steps)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _members(fit: Fit, grid: list[float]) -> list[dict]:
    """N* and L* on the grid of C of every member of the stack with a weight in either."""
    if not fit.stack:
        return []
    stack, cost = fit.laws["stack"].law, fit.cost
    assert isinstance(stack, StackLaw)
    drawn = [max(m.weight_params, m.weight_loss) >= LEAST_WEIGHT for m in fit.stack.members]
    rows = []
    for flops in grid:
        optima = stack.members(float(np.log(flops)), cost)
        for member, (log_n, loss), draw in zip(fit.stack.members, optima, drawn, strict=True):
            if draw:
                rows.append(
                    {
                        "kind": "member",
                        "flops": flops,
                        "params": float(np.exp(log_n[0])),
                        "loss": float(loss[0]),
                        "status": member.name,
                    }
                )
    return rows


def _row(kind: str, answer: Optimum) -> dict:
    row: dict = {"kind": kind, "flops": answer.flops, "beyond_data": answer.beyond_data}
    for quantity in QUANTITIES:
        low, high = answer.ci.get(quantity, (None, None))
        least, most = answer.ci_noise.get(quantity, (None, None))
        row |= {
            quantity: getattr(answer, quantity),
            f"{quantity}_low": low,
            f"{quantity}_high": high,
            f"{quantity}_noise_low": least,
            f"{quantity}_noise_high": most,
        }
    return row


def draw_optimum(ax: Axes, numbers: pd.DataFrame, quantity: str, colours: BudgetColours) -> Axes:
    """Draw one panel on ``ax``: ``quantity`` (a key of `QUANTITIES`) against C.

    ``numbers`` has the rows of `optima_numbers`; ``colours`` are those of the budgets.
    """
    law = numbers[numbers["kind"] == "law"]
    inside, beyond = law[law["beyond_data"] <= 1], law[law["beyond_data"] >= 1]
    for part, alpha, dashes in ((inside, 0.30, "-"), (beyond, 0.16, (0, (3.5, 2)))):
        for ends in ("", "_noise"):  # the inner band covers noise alone
            low, high = f"{quantity}{ends}_low", f"{quantity}{ends}_high"
            if part[low].notna().any():
                ax.fill_between(
                    part["flops"], part[low], part[high], color=BAND, alpha=alpha, linewidth=0
                )
        ax.plot(part["flops"], part[quantity], color=INK, linestyle=dashes, zorder=3)
    if len(beyond) > 1:
        ax.axvline(beyond["flops"].iloc[0], color=MUTED, linewidth=0.7, linestyle=":", zorder=1)
    for name, member in numbers[numbers["kind"] == "member"].groupby("status"):
        if member[quantity].notna().any():
            (line,) = ax.plot(
                member["flops"], member[quantity], color=MUTED, linewidth=0.5, alpha=0.6, zorder=2
            )
            name_drawn(line, title=f"member of the stack: {name}")
    answers = numbers[numbers["kind"] == "answer"]
    marks = ax.scatter(
        answers["flops"],
        answers[quantity],
        s=22,
        marker="o",
        facecolors="white",
        edgecolors=INK,
        linewidths=1.1,
        zorder=4,
    )
    name_marks(marks, answers[["flops", "params", "tokens", "loss"]])
    for _, row in numbers[numbers["kind"] == "minimum"].iterrows():
        star(ax, row, ("flops", quantity), colours(row["flops"]), size=75, width=0.8, zorder=5)
    ax.set_title(QUANTITIES[quantity])
    log_axis(ax.xaxis, flops_text)
    if quantity == "loss":
        log_axis(ax.yaxis, tick_loss)
        return ax
    _reference(ax, law, quantity)
    if quantity == "tokens_per_param":
        ax.set_yscale("log")  # first: a linear axis may begin below 0
        _widen(ax, LEAST_RATIO_SPAN)
    log_axis(ax.yaxis, tick_count)
    return ax


def _widen(ax: Axes, least: float) -> None:
    """Extend the y axis to a factor of at least ``least``, so that noise does not fill the panel."""
    low, high = ax.get_ylim()
    more = max(np.log(least) - np.log(high / low), 0) / 2
    ax.set_ylim(low * np.exp(-more), high * np.exp(more))


def _reference(ax: Axes, law: pd.DataFrame, quantity: str) -> None:
    """Draw the published rule of thumb: slope 1/2, or 20 tokens per parameter."""
    if law.empty:
        return
    style: dict[str, Any] = {
        "color": MUTED,
        "linewidth": 0.8,
        "linestyle": (0, (1, 2)),
        "zorder": 2,
    }
    c = law["flops"].to_numpy()
    if quantity == "tokens_per_param":
        ax.axhline(REFERENCE_RATIO, **style)
        beside(ax, f"{REFERENCE_RATIO:g}", REFERENCE_RATIO)
        return
    middle = len(c) // 2
    line = law[quantity].iloc[middle] * (c / c[middle]) ** REFERENCE_SLOPE
    ax.plot(c, line, **style)
    beside(ax, "$C^{\\,0.5}$", line[-1])


def draw_optima(
    axes: dict[str, Axes], numbers: pd.DataFrame, colours: BudgetColours, fit: Fit
) -> dict[str, Axes]:
    """Draw all panels; ``axes`` maps each key of `QUANTITIES` to its Axes.

    ``numbers`` has the rows of `optima_numbers` for ``fit``; ``colours`` are those of the budgets.
    """
    for quantity, ax in axes.items():
        draw_optimum(ax, numbers, quantity, colours)
    if not fit.identified:
        axes["params"].text(
            0.5,
            0.5,
            "no law: not identifiable",
            color=MUTED,
            ha="center",
            transform=axes["params"].transAxes,
        )
    else:
        growth = f"∝ $C^{{\\,{fit.headline.slope:.2f}}}$"
        axes["params"].set_title(f"{QUANTITIES['params']} {growth}")
    _name_parts(axes["params"], numbers)
    for quantity in ("loss", "tokens_per_param"):
        axes[quantity].set_xlabel("compute C (FLOPs)")
    axes["loss"].set_ylabel(unit_text(fit.data.loss_unit))
    return axes


def _name_parts(ax: Axes, numbers: pd.DataFrame) -> None:
    """Mark on the figure where the data end."""
    law = numbers[numbers["kind"] == "law"]
    if law.empty or law["beyond_data"].max() <= 1:
        return
    last = law.loc[law["beyond_data"] >= 1, "flops"].iloc[0]
    for text, offset, side in (("data", -5, "right"), ("extrapolated", 5, "left")):
        ax.annotate(
            text,
            (last, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(offset, 0),
            textcoords="offset points",
            ha=side,
            va="bottom",
            color=MUTED,
            fontsize=8.5,
        )
