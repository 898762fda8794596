"""Every confirmation that was ever run from a folder of results, beside the store.

One JSON object a line in ``confirmations.jsonl``: it stays when the folder of a sweep is deleted.
"""

import json
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_atomic

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
    """The ledger of a folder of results, oldest first; empty where none was kept."""
    path = Path(results) / LEDGER
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except ValueError:
        raise FlopsFitError(
            f"{path}: not a ledger of confirmations; allowed: one JSON object a line"
        ) from None


def enter(results: str | Path, told: dict) -> None:
    """Add a finished confirmation (`confirm.compare`), in the place of an earlier one of its name."""
    entry = {key: told[key] for key in KEPT}
    others = [
        e for e in entries(results) if (e["sweep"], e["name"]) != (told["sweep"], told["name"])
    ]
    lines = "".join(json.dumps(e, sort_keys=True) + "\n" for e in [*others, entry])
    write_atomic(Path(results) / LEDGER, lines)


def ledger_words(results: str | Path) -> str:
    """How many confirmations held, in a sentence; empty where none has an interval to be in."""
    judged = [e for e in entries(results) if e["inside_run"] is not None]
    if not judged:
        return ""
    held = sum(e["inside_run"] for e in judged)
    runs = f"{len(judged)} confirmation run{'s' * (len(judged) > 1)}"
    return (
        f"Of {runs} trained from these results so far, {held} fell inside the interval predicted."
    )
