"""Merge the records of a sweep: ``results.json`` with everything, ``results.csv`` for the fit."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import hashes_file, run_folder, tables_file
from flops_fit.files import FORMAT, read_json, write_atomic, write_json
from flops_fit.plugins.data_files import FileHashes
from flops_fit.store.records import RESULT, read_failure, read_record
from flops_fit.store.verified import Verified, state_of
from flops_fit.sweep import SIX_ND, n_key, spent_flops

COUNTS = (
    "num_params",
    "params",
    "params_nonembedding",
    "params_total",
    "flops_per_token",
    "flops_per_position",
)
FAILED = "failed"


def collect(plan: dict, results: str | Path, failed: Iterable[str] = ()) -> list[dict]:
    """The records of ``plan``'s experiments, in its order, each with its budget.

    Counts are taken from the plan, so that all runs are counted by the same counter whenever they
    were trained. Experiments in ``failed`` are allowed to have no record: they stay in the list
    with status ``failed`` and their reason. Raises `FlopsFitError` naming a broken or foreign file.
    """
    failed, verified = set(failed), Verified(results)
    records = [
        _record(row, results, row["experiment_id"] in failed, verified)
        for row in plan["experiments"]
    ]
    verified.save()
    return records


def _record(row: dict, results: str | Path, failed: bool, verified: Verified) -> dict:
    folder = run_folder(results, row["experiment_id"])
    counts = {key: row[key] for key in COUNTS if key in row}
    planned = {
        "compute_budget": row["compute_budget"],
        "size_param_value": row["size_param_value"],
        "seed": row["seed"],
        "num_tokens": row["num_tokens"],
    }
    if failed:
        reason = read_failure(folder, row["hash"]) or "no record and no failure file"
        return {
            "experiment_id": row["experiment_id"],
            "hash": row["hash"],
            **planned,
            **counts,
            "status": FAILED,
            "reason": reason,
        }
    state = state_of(folder / RESULT, row["hash"])
    record = read_record(folder / RESULT, row["experiment_id"], row["hash"])
    verified.note(folder / RESULT, state)
    if record["tokens_seen"] != row["num_tokens"] and record["status"] == "completed":
        raise FlopsFitError(
            f"{folder / RESULT}: trained on {record['tokens_seen']} tokens, planned "
            f"{row['num_tokens']}"
        )
    merged = {**record, **planned, **counts}
    if "flops_per_position" in counts:  # what was spent for a token, not what was expected
        merged["flops_counted"] = spent_flops(merged)
        merged["flops_per_token"] = merged["flops_counted"] / merged["tokens_seen"]
    return merged


def run_table(records: list[dict], convention: str) -> list[dict]:
    """One flat row per record, in the columns that the fit reads.

    ``flops`` follows ``convention`` (counted or 6nd) for the tokens really seen; ``loss`` is the
    held-out loss, empty for a run that diverged or failed.
    """
    return [_row(record, convention) for record in records]


def _row(record: dict, convention: str) -> dict:
    identity = record.get("identity", {})
    tokens = record.get("tokens_seen", record["num_tokens"])
    counted = spent_flops(record) if "tokens_seen" in record else record["flops_per_token"] * tokens
    six_nd = 6.0 * record["num_params"] * tokens
    return {
        "run_id": record["experiment_id"],
        "status": record["status"],
        "budget": record["compute_budget"],
        "size": record["size_param_value"],
        "seed": record["seed"],
        "params": record[n_key(convention)],
        "params_nonembedding": record["params_nonembedding"],
        "params_total": record["params_total"],
        "num_params": record["num_params"],
        "tokens": tokens,
        "flops": counted if convention == "counted" else six_nd,
        "flops_6nd": six_nd,
        "flops_counted": counted,
        "flops_per_token": counted / tokens if convention == "counted" else six_nd / tokens,
        "loss": record.get("final_loss"),
        "loss_se": record.get("final_loss_se"),
        "steps": record.get("steps_done"),
        "batch_items": identity.get("batch_items"),
        "learning_rate": identity.get("learning_rate"),
        "epochs": record.get("epochs"),
        "wall_seconds": record.get("wall_seconds"),
        "tokens_per_second": record.get("tokens_per_second"),
        "reason": record["reason"],
        **({"params_matmul": record["params"]} if convention == SIX_ND else {}),
    }


def write_results(records: list[dict], convention: str, json_path: str, csv_path: str) -> None:
    """Write both tables, each whole."""
    rows = run_table(records, convention)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_json(json_path, records)
    write_atomic(csv_path, text.getvalue())


def note_tables(results: str | Path, sweep: str, tables: Iterable[str]) -> None:
    """Keep what the tables of a sweep hold, so that `edited_tables` notices an edit by hand."""
    hashes = FileHashes(hashes_file(results))
    digests = {str(Path(path)): hashes.of(Path(path)) for path in tables}
    write_json(tables_file(results, sweep), {"format": FORMAT, "sha256": digests})


def edited_tables(results: str | Path, sweep: str) -> list[Path]:
    """The tables of a sweep that are not as `collect` wrote them."""
    try:
        known = read_json(tables_file(results, sweep))["sha256"]
        hashes = FileHashes(hashes_file(results))
        edited = [p for p in map(Path, known) if p.exists() and hashes.of(p) != known[str(p)]]
    except (FlopsFitError, KeyError, TypeError):  # not collected yet, or by an older version
        return []
    hashes.save()
    return edited


def read_results(path: str | Path) -> list[dict]:
    """The records of a ``results.json``; raises `FlopsFitError` for another file."""
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise FlopsFitError(f"{path}: expected a JSON list of records")
    return records
