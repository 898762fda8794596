"""A folder in which each run has a file, or a folder of files, of its own, as trackers export it."""

from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.columns import columns_for
from flops_fit.fit.formats import JSON_LINES, Table, kind_of, read_table, record_in
from flops_fit.fit.losses import losses_in
from flops_fit.fit.tables import floats

READ = (".csv", ".tsv", ".txt", ".json", ".parquet", ".pq", *JSON_LINES)
EARLIER = 0.97  # of the tokens of a run: a loss logged before was not logged at its end
WITHIN = ("*", "files/*")  # of a run's folder: where Weights & Biases keeps wandb-summary.json


def read_folder(path: Path, loss: str | None = None) -> tuple[Table, list[str]]:
    """The runs in the folder ``path`` as one table, one row per file in order, and notes on how.

    A file is one run, named after it: its only object or row, or of a history the last value of
    each column, with the tokens and FLOPs of the row in which the loss was logged last (the column
    ``loss``, or the best). A file whose rows differ in N is a table of runs, taken as a whole. Raises
    `FlopsFitError` where no file is a table.
    """
    parts, histories, earlier = [], 0, []
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
            counts = _at_loss(frame, loss)
            earlier += [counts[c] / run[c] for c in counts if counts[c] < EARLIER * run[c]][:1]
            run |= counts
        run.setdefault("experiment_id", entry.stem if entry.is_file() else entry.name)
        parts.append(pd.DataFrame([run]))
    if not parts:
        raise FlopsFitError(f"{path}: no tables in this folder; allowed: files {', '.join(READ)}")
    frame = pd.concat(parts, ignore_index=True)
    notes = [f"a folder: {len(parts)} files or folders give {len(frame)} rows"]
    if histories:
        notes.append(f"{histories} of them are histories, of which the last values count")
    if earlier:
        notes.append(
            f"{len(earlier)} of them logged their last loss before their end (the first at "
            f"{min(earlier):.0%} of its tokens): the tokens at that loss count"
        )
    return Table(frame, np.arange(len(frame)) + 1), notes


def _at_loss(history: pd.DataFrame, asked: str | None) -> dict[str, float]:
    """The tokens and FLOPs of a history where its loss was logged last, by column."""
    names = [c for c in losses_in(history) if floats(history[c]).notna().any()]
    names = [asked] if asked is not None and asked in history.columns else names
    if not names or len(history) < 2:
        return {}
    last = floats(history[names[0]]).last_valid_index()
    counts = [c for name in ("tokens", "flops") for c, _ in columns_for(history, name)]
    values = {c: floats(history[c]).ffill().loc[last] for c in counts}
    return {c: float(value) for c, value in values.items() if value == value}


def _is_read(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and kind_of(file) in READ


def _frame(file: Path) -> pd.DataFrame:
    record = record_in(file)
    return read_table(file).frame if record is None else pd.DataFrame([record])


def _is_table(frame: pd.DataFrame) -> bool:
    """Whether the rows are runs: several sizes."""
    sizes = columns_for(frame, "params")
    return bool(sizes) and floats(frame[sizes[0][0]]).nunique() > 1
