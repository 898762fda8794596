"""Merge the records of a sweep: ``results.json`` with everything, ``results.csv`` for the fit."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flops_fit.batch import Batches
from flops_fit.constants import Status, flops_6nd, table_names
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import hashes_file, run_folder, tables_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.recipe import recipe_kind
from flops_fit.files import (
    FORMAT,
    check_format,
    read_json,
    read_object,
    write_atomic,
    write_json,
    write_object,
)
from flops_fit.plugins.data_files import FileHashes
from flops_fit.store.records import RESULT, read_failure, read_record
from flops_fit.store.verified import Verified, state_of
from flops_fit.sweep import COUNTED, SIX_ND, Experiment, ModelCount, n_key


def collect(plan: Plan, results: str | Path, failed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The records below ``results`` of the experiments of ``plan``, in its order, with their budgets.

    Counts are taken from the plan, so that all runs are counted by the same counter whenever they
    were trained. Experiments whose ids are in ``failed`` may lack a record: they stay in the list
    with status ``failed`` and their reason. Raises `FlopsFitError` naming a broken or foreign file.
    """
    without_record, verified = set(failed), Verified(results)
    records = [
        _failed_record(experiment, results)
        if experiment.experiment_id in without_record
        else _record(experiment, results, verified)
        for experiment in plan.experiments
    ]
    verified.save()
    return records


def planned_fields(experiment: Experiment) -> dict[str, Any]:
    """What a record in ``results.json`` says of how its ``experiment`` was planned."""
    return {
        "compute_budget": experiment.compute_budget,
        "size_param_value": experiment.size_param_value,
        "seed": experiment.seed,
        "num_tokens": experiment.num_tokens,
    }


def _counts(count: ModelCount) -> dict[str, Any]:
    """The part of a count that fits read."""
    without = ("count_method", "activation_bytes", "fixed_bytes", "evaluation_bytes")
    return {name: value for name, value in count.to_dict().items() if name not in without}


def _failed_record(experiment: Experiment, results: str | Path) -> dict[str, Any]:
    folder = run_folder(results, experiment.experiment_id)
    return {
        "format": FORMAT,
        "experiment_id": experiment.experiment_id,
        "hash": experiment.hash,
        **planned_fields(experiment),
        **_counts(experiment.count),
        "status": Status.FAILED,
        "reason": read_failure(folder, experiment.hash) or "no record and no failure file",
    }


def _record(experiment: Experiment, results: str | Path, verified: Verified) -> dict[str, Any]:
    path = run_folder(results, experiment.experiment_id) / RESULT
    state = state_of(path, experiment.hash)
    record = read_record(path, experiment.experiment_id, experiment.hash)
    if state is not None:
        verified.note(path, state)
    kind = recipe_kind(record.get("identity", {}))
    wrong = kind.wrong_tokens(record["tokens_seen"], experiment.num_tokens)
    if wrong and Status(record["status"]).usable:
        raise FlopsFitError(f"{path}: {wrong}")
    count = experiment.count
    merged = {**record, **planned_fields(experiment), **_counts(count)}
    if count.flops_per_position is not None:  # what was spent for a token, not what was expected
        merged["flops_counted"] = count.spent_flops(
            record["tokens_seen"], record["input_positions"]
        )
        merged["flops_per_token"] = merged["flops_counted"] / merged["tokens_seen"]
    return merged


def run_table(records: Iterable[Mapping[str, Any]], convention: str) -> list[dict[str, Any]]:
    """One flat row per record of ``records``, in the columns that the fit reads.

    ``flops`` follows ``convention`` (counted or 6nd) for the tokens really seen; ``loss`` is the
    held-out loss, empty for a run that diverged or failed. Every metric of a run is a column of its
    name, empty where a run has no finite value of it; ``metrics.`` stands before a name that a column
    has already.
    """
    records = list(records)
    rows = [_row(record, convention) for record in records]
    names = dict.fromkeys(name for record in records for name in record.get("metrics", {}))
    for row, record in zip(rows, records, strict=True):
        measured = record.get("metrics", {})
        row |= {f"metrics.{n}" if n in row else n: measured.get(n) for n in names}
    return rows


def planned_table(plan: Plan) -> list[dict[str, Any]]:
    """The `run_table` of the experiments of ``plan``, as if all were completed, without losses."""
    ended = {"status": Status.COMPLETED, "reason": ""}
    return run_table(
        [{**experiment.to_dict(), **ended} for experiment in plan.experiments], plan.convention
    )


def _row(record: Mapping[str, Any], convention: str) -> dict[str, Any]:
    identity = record.get("identity", {})
    named, count = table_names(record), ModelCount.from_dict(record)
    tokens = record.get("tokens_seen", record["num_tokens"])
    counted = count.spent_flops(tokens, record.get("input_positions"))
    six_nd = flops_6nd(count.num_params, tokens)
    flops = counted if convention == COUNTED else six_nd
    return {
        "experiment_id": record["experiment_id"],
        "status": record["status"],
        "budget": named["budget"],
        "size": named["size"],
        "seed": record["seed"],
        "params": getattr(count, n_key(convention)),
        "params_nonembedding": count.params_nonembedding,
        "params_total": count.params_total,
        "num_params": count.num_params,
        "tokens": tokens,
        "flops": flops,
        "flops_6nd": six_nd,
        "flops_counted": counted,
        "flops_per_token": flops / tokens,
        "loss": named.get("loss"),
        "loss_se": named.get("loss_se"),
        "steps": record.get("steps_done"),
        "batch_items": batch_items(record),
        "learning_rate": identity.get("learning_rate"),
        "epochs": record.get("epochs"),
        "wall_seconds": record.get("wall_seconds"),
        "tokens_per_second": record.get("tokens_per_second"),
        "reason": record["reason"],
        **({"params_matmul": count.params} if convention == SIX_ND else {}),
        **_varied(record),
    }


def _varied(record: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a run whose weight decay, batch or share of the data its sweep varies."""
    identity = record.get("identity", record)
    columns = {}
    if record.get("steps_done") and identity.get("expected_items") is None:
        batch_tokens = round(identity.get("batch_items", 0) * (record.get("tokens_per_item") or 0))
        if 0 < record["tokens_seen"] < batch_tokens * record["steps_done"]:  # the last is smaller
            columns["batch_tokens"] = batch_tokens
    if identity.get("weight_decay") is not None:
        columns["weight_decay"] = identity["weight_decay"]
    if identity.get("unique_fraction") is not None:
        columns["unique_fraction"] = identity["unique_fraction"]
        columns["unique_tokens"] = record.get("unique_tokens")
    return columns


def batch_items(record: Mapping[str, Any]) -> int | None:
    """The global batch of the run of ``record`` in items; where it grew, the mean over its steps.

    None where the record does not say it.
    """
    identity = record.get("identity", {})
    if not identity.get("batch_growth"):
        return identity.get("batch_items")
    batches = Batches(identity["batch_items"], identity["batch_growth"])
    return batches.mean(record["tokens_seen"] / record["tokens_per_item"], record["steps_done"])


def write_results(
    records: list[dict[str, Any]], convention: str, json_path: str | Path, csv_path: str | Path
) -> None:
    """Write ``records`` to ``json_path`` and their `run_table` to ``csv_path``, each file whole.

    ``convention`` as in `run_table`.
    """
    rows = run_table(records, convention)
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_json(json_path, records)
    write_atomic(csv_path, text.getvalue())


def note_tables(results: str | Path, sweep: str, tables: Iterable[str]) -> None:
    """Keep what the ``tables`` of ``sweep`` hold, so that `edited_tables` notices an edit by hand.

    ``results`` is the folder of all results.
    """
    hashes = FileHashes(hashes_file(results))
    digests = {str(Path(path)): hashes.of(Path(path)) for path in tables}
    write_object(tables_file(results, sweep), {"sha256": digests})


def edited_tables(results: str | Path, sweep: str) -> list[Path]:
    """The tables of ``sweep``, below ``results``, that are not as `collect` wrote them."""
    try:
        known = read_object(tables_file(results, sweep))["sha256"]
        hashes = FileHashes(hashes_file(results))
        edited = [p for p in map(Path, known) if p.exists() and hashes.of(p) != known[str(p)]]
    except (FlopsFitError, KeyError, TypeError):  # not collected yet, or by another version
        return []
    hashes.save()
    return edited


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The records of the ``results.json`` at ``path``.

    Raises `FlopsFitError` for another file, or for a record of a newer version.
    """
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise FlopsFitError(f"{path}: expected a JSON list of records")
    for record in records:
        check_format(record, path)
    return records
