"""The list of all confirmation runs of a folder of results.

It has one JSON object per line in ``confirmations.jsonl``, and stays when the folder of a sweep is
deleted.
"""

import json
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, check_format, write_atomic

LEDGER = "confirmations.jsonl"
KEPT = (
    "sweep",
    "name",
    "experiment_id",
    "status",
    "flops",
    "loss",
    "difference",
    "inside_law",
    "inside_run",
)


def entries(results: str | Path) -> list[dict]:
    """The entries in the folder ``results``, oldest first; empty without a ledger.

    Raises `FlopsFitError` if the file is not valid.
    """
    path = Path(results) / LEDGER
    if not path.exists():
        return []
    try:
        kept = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except ValueError:
        raise FlopsFitError(
            f"{path}: not a ledger of confirmations; allowed: one JSON object per line"
        ) from None
    for entry in kept:
        check_format(entry, path)
    return kept


def enter(results: str | Path, outcome: dict) -> None:
    """Add the ``outcome`` of a confirmation (`confirm.compare`) to the ledger in ``results``.

    It replaces an earlier entry of the same sweep and name.
    """
    entry = {"format": FORMAT, **{key: outcome[key] for key in KEPT}}
    others = [
        e
        for e in entries(results)
        if (e["sweep"], e["name"]) != (outcome["sweep"], outcome["name"])
    ]
    lines = "".join(json.dumps(e, sort_keys=True) + "\n" for e in [*others, entry])
    write_atomic(Path(results) / LEDGER, lines)


def ledger_text(results: str | Path) -> str:
    """One sentence on how many predictions in ``results`` were right; empty if none has an interval."""
    judged = [e for e in entries(results) if e["inside_run"] is not None]
    if not judged:
        return ""
    held = sum(e["inside_run"] for e in judged)
    runs = f"{len(judged)} confirmation run{'s' * (len(judged) > 1)}"
    return (
        f"Of {runs} trained from these results so far, {held} fell inside the interval predicted."
    )
