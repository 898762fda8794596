"""Tables beside those of runs: loss curves for the envelope, and points to predict."""

from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.formats import read_table
from flops_fit.fit.tables import positive


def read_curves(path: str | Path) -> pd.DataFrame:
    """Loss curves as columns run_id, tokens, flops, loss.

    ``path``: a CSV with these columns, or results.json, whose runs without a curve, or not
    completed, are passed over. Raises `FlopsFitError` naming file and column or run.
    """
    path = Path(path)
    if path.suffix != ".json":
        table = read_table(path)
        frame, rows = table.frame, pd.Series(table.rows)
        missing = {"run_id", "tokens", "flops", "loss"} - set(frame.columns)
        if missing:
            raise FlopsFitError(f"{path}: loss curves lack the column {sorted(missing)[0]!r}")
        for name in ("tokens", "flops", "loss"):
            frame[name] = positive(frame[name], rows, str(path))
        return frame
    records, parts = read_json(path), []
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise FlopsFitError(f"{path}: expected a JSON list of runs, one object each")
    for record in records:
        curve = record.get("loss_curve")
        if not isinstance(curve, dict) or not curve.get("tokens"):
            continue
        if record.get("status", "completed") != "completed":
            continue
        nested = record["experiment"] if isinstance(record.get("experiment"), dict) else {}
        rate = record.get("flops_per_token", nested.get("flops_per_token"))
        name = record.get("experiment_id", nested.get("experiment_id", record.get("run_id")))
        if rate is None or name is None:
            continue
        try:
            tokens, loss = (np.asarray(curve[key], dtype=float) for key in ("tokens", "loss"))
            columns = {
                "run_id": name,
                "tokens": tokens,
                "flops": float(rate) * tokens,
                "loss": loss,
            }
            parts.append(pd.DataFrame(columns))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise FlopsFitError(
                f"{path}: the loss curve of {name!r}; allowed: tokens and loss, lists of as many numbers"
            ) from None
    if not parts:
        return pd.DataFrame(columns=["run_id", "tokens", "flops", "loss"])
    return pd.concat(parts, ignore_index=True)


def read_points(path: str | Path) -> pd.DataFrame:
    """A CSV of points to predict, with positive numbers in params and tokens."""
    table = read_table(path)
    frame, rows = table.frame, pd.Series(table.rows)
    if frame.empty:
        raise FlopsFitError(f"{path}: no points in it; at least one row is needed")
    for name in ("params", "tokens"):
        if name not in frame:
            raise FlopsFitError(f"{path}: no column {name!r}; needed: params, tokens")
        frame[name] = positive(frame[name], rows, str(path))
    return frame
