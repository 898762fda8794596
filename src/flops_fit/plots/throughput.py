"""The speed of the runs: FLOP/s against N, and the share of the device's peak."""

import pandas as pd
from matplotlib.axes import Axes

from flops_fit.notation import flops_text
from flops_fit.plots.hover import name_marks
from flops_fit.plots.style import BudgetColours, log_axis, tick_count

COLUMNS = [
    "experiment_id",
    "budget",
    "params",
    "tokens",
    "loss",
    "host",
    "device",
    "processes",
    "wall_seconds",
    "flops_per_second",
    "peak_share",
    "data_share",
]


def throughput_numbers(records: list[dict]) -> pd.DataFrame:
    """One row per run in ``records`` with a recorded time: counted FLOPs divided by its total time."""
    rows = [
        {
            **{key: record.get(key) for key in COLUMNS},
            "experiment_id": record["experiment_id"],
            "budget": record["compute_budget"],
            "tokens": record.get("tokens_seen"),
            "loss": record.get("final_loss"),
            "flops_per_second": record.get("flops_here", record["flops_counted"])
            / record["wall_seconds"],
        }
        for record in records
        if record.get("wall_seconds") and record.get("flops_counted")
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw_throughput(ax: Axes, numbers: pd.DataFrame, colours: BudgetColours) -> Axes:
    """Draw FLOP/s against N on ``ax``.

    ``numbers`` has one row per run (`throughput_numbers`); ``colours`` are those of the budgets.
    """
    marks = ax.scatter(
        numbers["params"],
        numbers["flops_per_second"],
        c=colours(numbers["budget"]),
        s=22,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    name_marks(marks, numbers)
    log_axis(ax.xaxis, tick_count)
    log_axis(ax.yaxis, flops_text)
    ax.set(xlabel="parameters N", ylabel="FLOP/s of a run")
    return ax
