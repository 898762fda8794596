"""A plan as a table, for people and as CSV."""

import csv
import io

COLUMNS = (
    "experiment_id", "compute_budget", "size_param_value", "seed", "params", "params_nonembedding",
    "params_total", "num_tokens", "tokens_per_param", "steps", "batch_items", "batch_tokens",
    "learning_rate", "flops_counted", "flops_6nd", "counted_over_6nd", "count_method",
)  # fmt: skip


def plan_rows(plan: dict) -> list[dict]:
    """The plan's experiments as flat rows with what can be derived from them."""
    return [
        {
            **row,
            "tokens_per_param": row["num_tokens"] / row["params"],
            "batch_tokens": row["batch_items"] * row["tokens_per_item"],
            "counted_over_6nd": row["flops_counted"] / row["flops_6nd"],
        }
        for row in plan["experiments"]
    ]


def plan_csv(plan: dict) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(plan_rows(plan))
    return text.getvalue()


def format_plan(plan: dict) -> str:
    """The plan for a terminal: a line per experiment, then skipped cells, warnings and totals."""
    lines = [f"{'budget':>9} {'size':>6} {'seed':>4} {'N':>9} {'D':>9} {'D/N':>7} {'steps':>6} "
             f"{'batch':>7} {'rate':>8} {'FLOPs':>9} {'/6ND':>5}"]  # fmt: skip
    lines += [
        f"{r['compute_budget']:9.3g} {r['size_param_value']:>6} {r['seed']:4d} {r['params']:9.3g} "
        f"{r['num_tokens']:9.3g} {r['tokens_per_param']:7.3g} {r['steps']:6d} "
        f"{r['batch_tokens']:7d} {r['learning_rate']:8.3g} {r['flops_counted']:9.3g} "
        f"{r['counted_over_6nd']:5.2f}"
        for r in plan_rows(plan)
    ]
    lines += [
        f"skipped: budget {s['compute_budget']:g}, size {s['size_param_value']}: {s['reason']}"
        for s in plan["skipped"]
    ]
    lines += [f"warning: {warning}" for warning in plan["warnings"]]
    total = sum(row["flops_counted"] for row in plan["experiments"])
    budgets = len({row["compute_budget"] for row in plan["experiments"]})
    lines.append(f"{len(plan['experiments'])} experiments, {budgets} budgets, {total:.3g} FLOPs")
    return "\n".join(lines)
