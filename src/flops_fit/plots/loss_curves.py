"""Training loss and learning rate of every run against the tokens it had seen."""

import pandas as pd
from matplotlib.axes import Axes

from flops_fit.plots.style import BudgetColours, log_axis, tick_count

COLUMNS = ["run_id", "budget", "params", "seed", "status", "tokens", "loss", "learning_rate"]


def loss_curve_numbers(records: list[dict]) -> pd.DataFrame:
    """One row per recorded point of every run that trained."""
    parts = [
        pd.DataFrame({
            "run_id": record["experiment_id"], "budget": record["compute_budget"],
            "params": record["params"], "seed": record["seed"], "status": record["status"],
            **{key: record["loss_curve"][key] for key in ("tokens", "loss", "learning_rate")},
        })
        for record in records
        if record.get("loss_curve", {}).get("tokens")
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def heldout_numbers(records: list[dict]) -> pd.DataFrame:
    """``budget, tokens, loss``: where each completed run ended on the held-out data."""
    rows = [
        {"budget": r["compute_budget"], "tokens": r["tokens_seen"], "loss": r["final_loss"]}
        for r in records
        if r["status"] == "completed" and r.get("final_loss") is not None
    ]
    return pd.DataFrame(rows, columns=["budget", "tokens", "loss"])


def draw_curves(ax: Axes, numbers: pd.DataFrame, column: str, colours: BudgetColours) -> Axes:
    """``column`` (loss or learning_rate) against tokens, a line a run, diverged runs crossed."""
    for _, run in numbers.groupby("run_id", sort=False):
        colour, diverged = colours(run["budget"].iloc[0]), run["status"].iloc[0] == "diverged"
        ax.plot(run["tokens"], run[column], color=colour, linewidth=1.0, alpha=0.85,
                linestyle=(0, (2, 1.5)) if diverged else "-", zorder=3)  # fmt: skip
        if diverged:
            last = run.iloc[-1]
            ax.scatter(last["tokens"], last[column], marker="x", s=45, linewidths=2,
                       color=colour, zorder=5)  # fmt: skip
    log_axis(ax.xaxis, tick_count)
    return ax
