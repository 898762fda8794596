"""A plan with its price as a table: for a page, as CSV, and for a terminal."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.notation import count_text, time_text
from flops_fit.plan.price import DEVICES, Rate, device_kind, price, work_of_row
from flops_fit.plan.schedule import phases

COLUMNS = (
    "experiment_id",
    "compute_budget",
    "size_param_value",
    "seed",
    "params",
    "params_nonembedding",
    "params_total",
    "num_tokens",
    "tokens_per_param",
    "epochs",
    "steps",
    "warmup_steps",
    "plateau_steps",
    "decay_steps",
    "batch_items",
    "batch_tokens",
    "learning_rate",
    "flops_counted",
    "flops_6nd",
    "counted_over_6nd",
    "count_method",
    "memory_bytes",
    "seconds",
    "device_hours",
    "money",
)


def plan_rows(plan: dict, rate: Rate, per_hour: float | None, unique_tokens: int | None) -> list:
    """The plan's experiments as flat rows, each with what can be derived and what it will cost.

    ``per_hour`` is the money of one device; ``unique_tokens`` of the training data give the epochs
    (None where the data have not been looked at yet).
    """
    return [_row(row, plan, rate, per_hour, unique_tokens) for row in plan["experiments"]]


def _row(row: dict, plan: dict, rate: Rate, per_hour, unique_tokens) -> dict:
    cost = price(work_of_row(row), rate, plan["resources"], per_hour)
    steps = phases(row["steps"], plan["schedule"])
    return {
        **row,
        "tokens_per_param": row["num_tokens"] / row["params"],
        "epochs": row["num_tokens"] / unique_tokens if unique_tokens else None,
        "warmup_steps": steps["warmup"],
        "plateau_steps": steps["plateau"],
        "decay_steps": steps["decay"],
        "batch_tokens": round(row["batch_items"] * row["tokens_per_item"]),
        "counted_over_6nd": row["flops_counted"] / row["flops_6nd"],
        **vars(cost),
    }


def unique_tokens(plan: dict) -> int | None:
    """Unique tokens of the training data, if `check_inputs` has counted them, or the plan could."""
    if not Path(plan["check"]).exists():
        return plan.get("data", {}).get("unique_tokens")
    try:
        return read_json(plan["check"])["unique_tokens"]
    except KeyError:
        raise FlopsFitError(f"{plan['check']}: no unique_tokens in it; delete it") from None


def totals(rows: list[dict]) -> dict:
    """What all of ``rows`` take together; money None without a price."""
    money = [row["money"] for row in rows]
    return {
        "experiments": len(rows),
        "budgets": len({row["compute_budget"] for row in rows}),
        "tokens": sum(row["num_tokens"] for row in rows),
        "flops_counted": sum(row["flops_counted"] for row in rows),
        "flops_6nd": sum(row["flops_6nd"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "longest_seconds": max(row["seconds"] for row in rows),
        "device_hours": sum(row["device_hours"] for row in rows),
        "memory_bytes": max(row["memory_bytes"] for row in rows),
        "money": None if None in money else sum(money),
    }


def plan_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_plan(
    plan: dict, rows: list[dict], warnings: list[str], rate: Rate, currency: str
) -> str:
    """The plan for a terminal: a line per experiment, skipped cells, warnings, and what it takes."""
    lines = [
        f"{'budget':>8} {'size':>6} {'seed':>4} {'N':>8} {'D':>8} {'D/N':>6} {'epochs':>6} "
        f"{'steps (up+flat+down)':>22} {'batch':>8} {'rate':>8} {'FLOPs':>8} {'/6ND':>5} "
        f"{'memory':>7} {'time':>8}"
    ]
    lines += [_line(row) for row in rows]
    lines += [
        f"skipped: budget {s['compute_budget']:g}, size {s['size_param_value']}: {s['reason']}"
        for s in plan["skipped"]
    ]
    lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join([*lines, *closing(plan, rows, rate, currency)])


def plan_summary(
    plan: Mapping, rows: list[dict], warnings: list[str], rate: Rate, currency: str
) -> str:
    """What the sweep takes and what may go wrong, without its experiments."""
    lines = [*closing(plan, rows, rate, currency), *(f"warning: {w}" for w in warnings)]
    return "\n".join(lines) + "\n"


def closing(plan: Mapping, rows: list[dict], rate: Rate, currency: str) -> list[str]:
    """What the sweep takes in all, and where the estimate of time comes from."""
    total = totals(rows)
    device = DEVICES[device_kind(plan["resources"]["gpus"])]
    money = "" if total["money"] is None else f", {currency}{total['money']:.2f}"
    return [
        f"{total['experiments']} experiments, {total['budgets']} budgets, "
        f"{total['flops_counted']:.3g} FLOPs ({total['flops_6nd']:.3g} by 6 N D)",
        f"about {total['device_hours']:.3g} {device} hours{money}: {time_text(total['seconds'])} one "
        f"after another, the longest run {time_text(total['longest_seconds'])}",
        f"at {rate.flops_per_second:.3g} FLOP/s a {device} and {1000 * rate.step_seconds:.3g} ms a "
        f"step: {rate.source}",
    ]


def _line(r: dict) -> str:
    steps = f"{r['steps']} ({r['warmup_steps']}+{r['plateau_steps']}+{r['decay_steps']})"
    epochs = "?" if r["epochs"] is None else f"{r['epochs']:.2g}"
    return (
        f"{r['compute_budget']:8.3g} {r['size_param_value']:>6} {r['seed']:4d} "
        f"{count_text(r['params']):>8} {count_text(r['num_tokens']):>8} "
        f"{r['tokens_per_param']:6.3g} {epochs:>6} {steps:>22} {r['batch_tokens']:8d} "
        f"{r['learning_rate']:8.3g} {r['flops_counted']:8.3g} {r['counted_over_6nd']:5.2f} "
        f"{r['memory_bytes'] / 1e9:5.2f}GB {time_text(r['seconds']):>8}"
    )
