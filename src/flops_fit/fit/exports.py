"""A folder in which each run has a file, or a folder of files, of its own, as trackers export it."""

from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.columns import columns_for
from flops_fit.fit.formats import JSON_LINES, Table, kind_of, read_table, record_in
from flops_fit.fit.tables import floats

READ = (".csv", ".tsv", ".txt", ".json", ".parquet", ".pq", *JSON_LINES)
WITHIN = ("*", "files/*")  # of a run's folder: where Weights & Biases keeps wandb-summary.json


def read_folder(path: Path) -> tuple[Table, list[str]]:
    """The runs in the folder ``path`` as one table, one row per file in order, and notes on how.

    A file is one run, named after it: its only object or row, or of a history the last value of
    each column. A file whose rows differ in N is a table of runs, taken as a whole. Raises
    `FlopsFitError` where no file is a table.
    """
    parts, histories = [], 0
    for entry in sorted(path.glob("[!.]*")):
        inside = [entry] if entry.is_file() else [f for p in WITHIN for f in sorted(entry.glob(p))]
        frames = [_frame(file) for file in inside if _is_read(file)]
        if not frames:
            continue
        whole = [f for f in frames if _is_table(f)]
        if whole:
            parts += [f.assign(file=entry.name) for f in whole]
            continue
        histories += sum(len(frame) > 1 for frame in frames)
        run: dict = {"file": entry.name}
        for frame in frames:
            run |= frame.ffill().iloc[-1].dropna().to_dict() if len(frame) else {}
        run.setdefault("experiment_id", entry.stem if entry.is_file() else entry.name)
        parts.append(pd.DataFrame([run]))
    if not parts:
        raise FlopsFitError(f"{path}: no tables in this folder; allowed: files {', '.join(READ)}")
    frame = pd.concat(parts, ignore_index=True)
    notes = [f"a folder: {len(parts)} files or folders give {len(frame)} rows"]
    if histories:
        notes.append(f"{histories} of them are histories, of which the last values count")
    return Table(frame, np.arange(len(frame)) + 1), notes


def _is_read(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and kind_of(file) in READ


def _frame(file: Path) -> pd.DataFrame:
    record = record_in(file)
    return read_table(file).frame if record is None else pd.DataFrame([record])


def _is_table(frame: pd.DataFrame) -> bool:
    """Whether the rows are runs: several sizes."""
    sizes = columns_for(frame, "params")
    return bool(sizes) and floats(frame[sizes[0][0]]).nunique() > 1
