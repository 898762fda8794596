"""Tables beside those of runs: loss curves for the envelope, and points to predict."""

from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.columns import columns_for, counts_in
from flops_fit.fit.formats import read_table
from flops_fit.fit.tables import positive

COLUMNS = ("experiment_id", "tokens", "flops", "loss")


def named_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the names of its runs in a column experiment_id, where it was run_id."""
    if "experiment_id" in frame or "run_id" not in frame:
        return frame
    return frame.rename(columns={"run_id": "experiment_id"})


def read_curves(path: str | Path) -> pd.DataFrame:
    """Loss curves as columns experiment_id, tokens, flops, loss.

    ``path``: a CSV with these columns, or results.json, whose runs without a curve, or not
    completed, are passed over. Raises `FlopsFitError` naming file and column or run.
    """
    path = Path(path)
    if path.suffix != ".json":
        table = read_table(path)
        frame, rows = named_runs(table.frame), pd.Series(table.rows)
        missing = set(COLUMNS) - set(frame.columns)
        if missing:
            raise FlopsFitError(f"{path}: loss curves lack the column {sorted(missing)[0]!r}")
        for name in ("tokens", "flops", "loss"):
            frame[name] = positive(frame[name], rows, str(path))
        return frame
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise FlopsFitError(f"{path}: expected a JSON list of runs, one object each")
    parts = [part for record in records if (part := _curve(record, path)) is not None]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(parts, ignore_index=True)


def _curve(record: dict, path: Path) -> pd.DataFrame | None:
    """The loss curve of one record; None where it has none, or did not complete."""
    curve = record.get("loss_curve")
    if not isinstance(curve, dict) or not curve.get("tokens"):
        return None
    if record.get("status", "completed") != "completed":
        return None
    nested = record["experiment"] if isinstance(record.get("experiment"), dict) else {}
    rate = record.get("flops_per_token", nested.get("flops_per_token"))
    name = record.get("experiment_id", nested.get("experiment_id", record.get("run_id")))
    if rate is None or name is None:
        return None
    try:
        tokens, loss = (np.asarray(curve[key], dtype=float) for key in ("tokens", "loss"))
        flops = float(rate) * tokens
        return pd.DataFrame(dict(zip(COLUMNS, (name, tokens, flops, loss), strict=True)))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise FlopsFitError(
            f"{path}: the loss curve of {name!r}; allowed: tokens and loss, lists of as many numbers"
        ) from None


def read_points(path: str | Path) -> pd.DataFrame:
    """The points to predict in the table ``path``, with its columns of N and D as params and tokens.

    These may have the names and units that a table of runs may have; other columns are kept as they
    are. Raises `FlopsFitError` where one of both is missing or a number is not positive.
    """
    table = read_table(path)
    frame, rows = table.frame, pd.Series(table.rows)
    if frame.empty:
        raise FlopsFitError(f"{path}: no points in it; at least one row is needed")
    for name in ("params", "tokens"):
        possible = columns_for(frame, name)
        if not possible:
            raise FlopsFitError(f"{path}: no column {name!r}; needed: params, tokens")
        column, unit = possible[0]
        frame[name] = positive(counts_in(frame[column], unit)[0], rows, str(path), name=column)
    return frame
