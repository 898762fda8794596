"""Where the Python API keeps its records, and who speaks and writes."""

import os
import sys
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json, write_json
from flops_fit.store.records import set_aside


def is_main_process() -> bool:
    """Whether this process writes; a script without a launcher has rank 0."""
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str) -> None:
    """A line to the user, from the main process alone."""
    if is_main_process():
        print(f"flops-fit: {text}", file=sys.stderr)


class ResultsFile:
    """``results.json``: a list of records, at most one for each experiment id."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder, "results.json")
        self.records = self._read()

    def _read(self) -> dict[str, dict]:
        if not self.path.exists():
            return {}
        try:
            return {record["experiment_id"]: record for record in read_json(self.path)}
        except (FlopsFitError, TypeError, KeyError):
            if is_main_process():
                kept = set_aside(self.path)
                say(f"{self.path} is broken; moved to {kept.name}, starting anew")
            return {}

    def add(self, record: dict) -> None:
        self.records[record["experiment_id"]] = record
        if is_main_process():
            write_json(self.path, list(self.records.values()))
