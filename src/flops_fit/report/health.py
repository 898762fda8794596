"""Health of the runs: their cost, and every run or cell that the fit does not use."""

from collections import Counter

from flops_fit.experiment.plan import Plan
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.notation import count_text, flops_text, loss_text, share_text, time_text
from flops_fit.store.collect import batch_items
from flops_fit.sweep import SIX_ND

MOST_ROWS = 1000  # per table of the page; the CSV has all rows


def health_of(table: RunTable, records: list[dict], fit: Fit, plan: Plan | None) -> dict:
    """Planned and spent resources, and every run or cell that the fit does not use, with its reason.

    ``table`` holds the runs of ``fit``, ``records`` their records, ``plan`` the plan of the
    sweep or None.
    """
    reasons = {r["experiment_id"]: r.get("reason", "") for r in records}
    budgets = {r["experiment_id"]: flops_text(r["compute_budget"]) for r in records}
    left_out = [
        {
            "run": run.experiment_id,
            "budget": budgets.get(run.experiment_id, ""),
            "why": ": ".join(filter(None, [run.reason, reasons.get(run.experiment_id, "")])),
        }
        for run in fit.excluded.runs
    ]
    skipped = [
        {
            "budget": flops_text(cell.compute_budget),
            "size": cell.size_param_value,
            "why": cell.reason,
        }
        for cell in (plan.skipped if plan else [])
    ]
    return {
        "left_out": left_out[:MOST_ROWS],
        "skipped": skipped[:MOST_ROWS],
        "warnings": plan.warnings if plan else [],
        "spent": _spent(records, plan),
        "runs": _runs(table, records),
        "count": len(table.frame),
    }


def _share(record: dict) -> float:
    """The share of its tokens that a run trained itself; others of its trunk trained the rest."""
    return record.get("tokens_here", record["tokens_seen"]) / record["tokens_seen"]


def _spent(records: list[dict], plan: Plan | None) -> list[tuple[str, str, str]]:
    """Rows (label, planned, spent) on the cost of the sweep."""
    trained = [r for r in records if r.get("tokens_seen")]
    if not trained:
        return []
    key = "flops_6nd" if plan and plan.convention == SIX_ND else "flops_counted"
    planned = [(e, plan.share_here(e)) for e in plan.experiments] if plan else []
    counts = Counter(r["status"] for r in records)
    done = ", ".join(f"{n} {status}" for status, n in counts.items())
    rows = [("Runs", str(len(planned) or ""), done)]
    for label, name, seen, write in (
        ("Training FLOPs", key, key, flops_text),
        ("Tokens", "num_tokens", "tokens_seen", count_text),
    ):
        total = sum(getattr(experiment, name) * share for experiment, share in planned)
        spent = sum(r[seen] * _share(r) for r in trained)
        rows.append((label, write(total) if total else "", write(spent)))
    seconds = [r["wall_seconds"] for r in trained if r.get("wall_seconds")]
    if seconds:
        longest = f"{time_text(sum(seconds))}; longest run {time_text(max(seconds))}"
        rows.append(("Time of all runs", "", longest))
    device = sum(
        r["wall_seconds"] * r.get("processes", 1) for r in trained if r.get("wall_seconds")
    )
    if device:
        rows.append(("Device-hours", "", f"{device / 3600:.3g}"))
    speeds = [r[key] * _share(r) / r["wall_seconds"] for r in trained if r.get("wall_seconds")]
    if speeds:
        spread = f"{flops_text(min(speeds))} to {flops_text(max(speeds))} FLOP/s per run"
        rows.append(("Throughput", "", spread))
    shares = [r["peak_share"] for r in trained if r.get("peak_share")]
    if shares:
        best = f"{share_text(min(shares))} to {share_text(max(shares))}"
        rows.append(("Share of the device's peak", "", best))
    waiting = [r["data_share"] for r in trained if r.get("data_share") is not None]
    if waiting:
        rows.append(("Waiting for data", "", f"at most {100 * max(waiting):.0f}% of a run's time"))
    epochs = [r["epochs"] for r in trained if r.get("epochs")]
    if epochs:
        rows.append(("Passes over the training data", "", f"at most {max(epochs):.2g}"))
    return rows


def _runs(table: RunTable, records: list[dict]) -> list[dict]:
    """The runs in the fit as text, at most `MOST_ROWS`."""
    known = {r["experiment_id"]: r for r in records}
    rows = []
    compute = "budget" if "budget" in table.frame else "flops"
    for run in table.frame.sort_values([compute, "params"])[:MOST_ROWS].to_dict("records"):
        record = known.get(run["experiment_id"], {})
        rate = record.get("identity", {}).get("learning_rate")
        rows.append(
            {
                "run": run["experiment_id"],
                "flops": flops_text(run["flops"]),
                "params": count_text(run["params"]),
                "tokens": count_text(run["tokens"]),
                "loss": loss_text(run["loss"]),
                "rate": "" if rate is None else f"{rate:.3g}",
                "batch": batch_items(record) or "",
                "steps": record.get("steps_done", ""),
                "speed": count_text(record["tokens_per_second"])
                if record.get("tokens_per_second")
                else "",
                "time": time_text(record["wall_seconds"]) if record.get("wall_seconds") else "",
            }
        )
    return rows
