"""Training loss and learning rate of every run against the tokens seen."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flops_fit.constants import Status
from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_drawn, name_marks, title_of
from flops_fit.plots.style import (
    MOST_LABELS,
    MUTED,
    BudgetColours,
    budget_handles,
    key,
    log_axis,
    tick_count,
    tick_loss,
)

COLUMNS = [
    "experiment_id",
    "budget",
    "params",
    "seed",
    "status",
    "tokens",
    "flops",
    "loss",
    "learning_rate",
]
ENDS = ["experiment_id", "budget", "params", "tokens", "flops", "loss"]  # of completed runs
WINDOW = 0.15  # in ln tokens
MOST_CURVES = 200  # per figure; more would overlap and make the file very large


def drawn_records(records: list[dict]) -> list[dict]:
    """Those of ``records`` that have a loss curve, at most `MOST_CURVES`.

    Of more, up to a quarter are diverged runs, and the rest are spread evenly over C, N and seeds.
    """
    trained = [record for record in records if record.get("loss_curve", {}).get("tokens")]
    if len(trained) <= MOST_CURVES:
        return trained
    trained.sort(key=lambda r: (r["compute_budget"], r["params"], r["seed"]))
    diverged = [r for r in trained if r["status"] == Status.DIVERGED][: MOST_CURVES // 4]
    others = [r for r in trained if r["status"] != Status.DIVERGED]
    count = min(MOST_CURVES - len(diverged), len(others))
    return diverged + [others[i * len(others) // count] for i in range(count)]


def loss_curve_numbers(records: list[dict]) -> pd.DataFrame:
    """One row per recorded point of the loss curves in ``records``.

    The column ``learning_rate`` is empty for runs of a user's own script, which does not tell it.
    """
    parts = [
        pd.DataFrame(
            {
                "experiment_id": record["experiment_id"],
                "budget": record["compute_budget"],
                "params": record["params"],
                "seed": record["seed"],
                "status": record["status"],
                **{key: record["loss_curve"][key] for key in ("tokens", "loss")},
                "learning_rate": record["loss_curve"].get("learning_rate"),
                "flops": [record["flops_per_token"] * d for d in record["loss_curve"]["tokens"]],
            }
        )
        for record in records
        if record.get("loss_curve", {}).get("tokens")
    ]
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def heldout_numbers(records: list[dict]) -> pd.DataFrame:
    """The held-out end of each completed run in ``records``, with the columns `ENDS`."""
    rows = [
        {
            "experiment_id": r["experiment_id"],
            "budget": r["compute_budget"],
            "params": r["params"],
            "tokens": r["tokens_seen"],
            "flops": r["flops_per_token"] * r["tokens_seen"],
            "loss": r["final_loss"],
        }
        for r in records
        if r["status"] == Status.COMPLETED and r.get("final_loss") is not None
    ]
    return pd.DataFrame(rows, columns=ENDS)


def draw_losses(
    ax: Axes,
    numbers: pd.DataFrame,
    ends: pd.DataFrame,
    colours: BudgetColours,
    against: str = "tokens",
) -> Axes:
    """Draw training loss ``against`` "tokens" or "flops" on ``ax``.

    ``numbers`` has one row per point (`loss_curve_numbers`), ``ends`` one row per completed run
    (`heldout_numbers`), drawn as a dot; ``colours`` are those of the budgets. Diverged runs end in a
    cross, at the top of the axis where they leave the range of the completed runs.
    """
    good = numbers.loc[numbers["status"] != Status.DIVERGED, "loss"]
    top = 1.04 * float((good if len(good) else numbers["loss"]).max())
    for _, run in numbers.groupby("experiment_id", sort=False):
        mean = _averaged(run)
        _draw_run(ax, mean, mean["loss"].clip(upper=top), colours, against)
    marks = ax.scatter(
        ends[against],
        ends["loss"],
        c=colours(ends["budget"]),
        s=18,
        edgecolors="white",
        linewidths=0.6,
        zorder=4,
    )
    name_marks(marks, ends.drop(columns="flops"))
    low = min(float(numbers["loss"].min()), float(ends["loss"].min()) if len(ends) else top)
    ax.set_ylim(low / 1.04, top)
    log_axis(ax.yaxis, tick_loss)
    log_axis(ax.xaxis, tick_count if against == "tokens" else flops_text)
    if against == "tokens":
        _key(ax, numbers, colours)
    return ax


def _averaged(run: pd.DataFrame) -> pd.DataFrame:
    """The points of one ``run``, averaged over windows of 15% in tokens.

    Single steps scatter so much that the curves of many runs cover each other. The last step of a
    diverged run stays as it is, because a cross marks it.
    """
    window = np.floor(np.log(run["tokens"].astype(float)) / WINDOW)
    if run["status"].iloc[0] == Status.DIVERGED:
        window.iloc[-1] = np.inf
    first = ["experiment_id", "status", "budget"]
    mean = run.drop(columns=first).groupby(window).mean()
    return mean.assign(**{name: run[name].iloc[0] for name in first})


def draw_rates(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours) -> Axes:
    """Draw the learning rate against tokens on ``ax``, one line per run.

    ``numbers`` has one row per point (`loss_curve_numbers`); ``colours`` are those of the budgets.
    """
    for _, run in numbers.groupby("experiment_id", sort=False):
        _draw_run(ax, run, run["learning_rate"], colours)
    ax.set_ylim(bottom=0)
    log_axis(ax.xaxis, tick_count)
    return ax


def _draw_run(
    ax: Axes, run: pd.DataFrame, values: pd.Series, colours: BudgetColours, against: str = "tokens"
) -> None:
    colour, diverged = colours(run["budget"].iloc[0]), run["status"].iloc[0] == Status.DIVERGED
    last = run.iloc[-1]
    (line,) = ax.plot(
        run[against],
        values,
        color=colour,
        linewidth=1.0,
        alpha=0.85,
        linestyle=(0, (2, 1.5)) if diverged else "-",
        zorder=3,
    )
    title = title_of({key: last[key] for key in ("experiment_id", "budget", "params", "tokens")})
    name_drawn(line, last["budget"], f"{title}, diverged" if diverged else title)
    if diverged:
        ax.scatter(
            run[against].iloc[-1],
            values.iloc[-1],
            marker="x",
            s=45,
            linewidths=2,
            color=colour,
            zorder=5,
            clip_on=False,
        )


def _key(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours) -> None:
    def mark(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=MUTED, label=label, **style)

    budgets = sorted(numbers["budget"].unique())
    handles = budget_handles(colours, budgets) if len(budgets) <= MOST_LABELS else []
    if not handles:
        colours.bar(ax)
    handles.append(mark("o", "held-out loss at the end", markersize=4))
    if (numbers["status"] == Status.DIVERGED).any():
        handles.append(mark("x", "diverged", markersize=5, markeredgewidth=1.6))
    key(ax, handles)
