"""Read a table of finished runs, whoever made it, and say what was made of it.

A table needs N (params), D (tokens) and the loss of each run; any two of N, D, C give the third
through C = 6 N D, which is then said in ``notes``. Rows that cannot be fitted are never dropped
silently: they stand in ``left_out`` with the reason.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.tables import positive, read_table

# Canonical column -> names met in other people's tables, most trusted first.
ALIASES = {
    "run_id": ("experiment_id", "label", "name", "experiment"),
    "params": (
        "params_active_precise",  # Gemstones
        "num_params",
        "parameters",  # Stanford CS336, assignment 3
        "model_size",  # ml-scalefit; "Model Size" of Epoch
        "n_params",
        "params_total",
        "n",  # kyo-takano/chinchilla
    ),
    "tokens": ("num_tokens", "n_tokens", "tokens_trained", "training_tokens", "d"),
    "flops": ("actual_flops", "training_flop", "training_flops", "flop", "c"),
    "budget": ("budget_flops", "compute_budget", "flops_budget"),
    "loss": ("final_loss", "val/loss", "val_loss", "val_bpb", "loss_nats", "train/loss"),
    "flops_per_token": ("flops_per_token_att", "flops_per_token_cc"),
    "size": ("size_param_value", "model_dim", "hidden_dim", "width", "depth"),
    "seed": (),
    "outlier": (),
    "status": ("state",),  # "State" of a Weights & Biases export
}
BITS_PER_BYTE = ("val_bpb", "bits_per_byte", "bpb")
COUNTS = ("params_matmul", "params_nonembedding", "params_total")  # N counted otherwise
KEPT = (*COUNTS, "flops_counted", "epochs")  # as they stand, for sensitivity and verdict
SIZE_COLUMNS = ("params", *COUNTS, "flops_per_token")
# An empty status leaves no run out; "finished" and "success" are how trackers and jobs say it.
COMPLETED = {"completed", "finished", "success", "", "nan", "none"}
TRUE, FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", "", "nan", "none"}
SAME_BUDGET = 0.03  # ln C: runs closer than this share a budget where the table names none
BUDGET_WIDTH = 0.10  # ln C: a chain of neighbours wider than this is no budget
FEWEST_SHARED = 4


@dataclass(frozen=True)
class RunTable:
    """Runs ready to fit.

    ``source``: the file's name. ``frame``: one row a run, columns run_id, row, params, tokens,
    flops, loss, and where known budget, size, seed, epochs and other counts of N (`COUNTS`).
    ``left_out``: dicts run_id, row, reason of the rows not fitted; ``marked``: those of them that
    the table itself calls outliers and whose numbers are sound, as in ``frame``. ``sizes``: dicts
    size, params, other counts of N, flops_per_token. ``notes``: what was recognised, derived and
    assumed, a sentence each. ``loss_unit``: "nats" or "bits per byte". ``params_column``: the
    column that was asked for as N.
    """

    frame: pd.DataFrame
    source: str
    left_out: list[dict] = field(default_factory=list)
    sizes: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loss_unit: str = "nats"
    params_column: str = "params"
    marked: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def marks_outliers(self) -> bool:
        """Whether the table itself names outliers."""
        return any(run["reason"] == "outlier" for run in self.left_out)


def read_runs(path: str | Path, params: str = "params") -> RunTable:
    """Read the runs in ``path``: a CSV, or a JSON list of records (plain rows, or of our own runs).

    ``params`` names the column that is N: params, params_nonembedding or params_total. N, D and the
    loss are needed; of N, D and C any two do (C = 6 N D). Raises `FlopsFitError` naming file, row,
    column and value, as `prepare_runs` does.
    """
    path = Path(path)
    if path.suffix == ".json":
        rows = read_json(path)
        if isinstance(rows, dict):
            rows = rows.get("runs", rows.get("results"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FlopsFitError(f"{path}: expected a JSON list of runs, one object each")
        nested = [
            row["experiment"] if isinstance(row.get("experiment"), dict) else {} for row in rows
        ]
        frame = pd.DataFrame(
            [
                {k: v for k, v in {**inner, **row}.items() if not isinstance(v, (dict, list))}
                for inner, row in zip(nested, rows, strict=True)
            ]
        )
        first_line = 1
    else:
        frame = read_table(path)
        first_line = 2
    return prepare_runs(frame, str(path), first_line, params)


def read_curves(path: str | Path) -> pd.DataFrame:
    """Loss curves as columns run_id, tokens, flops, loss.

    ``path``: a CSV with these columns, or results.json, whose runs without a curve, or not
    completed, are passed over. Raises `FlopsFitError` naming file and column or run.
    """
    path = Path(path)
    if path.suffix != ".json":
        frame = read_table(path)
        missing = {"run_id", "tokens", "flops", "loss"} - set(frame.columns)
        if missing:
            raise FlopsFitError(f"{path}: loss curves lack the column {sorted(missing)[0]!r}")
        rows = pd.Series(np.arange(len(frame)) + 2)
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


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", str(name).strip()).lower()


def _legible(name) -> str:
    return str(name) if str(name).isprintable() else repr(name)


def _recognise(frame: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str], str]:
    """Give the columns our names; notes on aliases and the loss unit."""
    plain = {_plain(column): column for column in reversed(list(frame.columns))}
    chosen, notes, unit = {}, [], "nats"
    for name, aliases in ALIASES.items():
        for alias in (name, *aliases):
            if alias in plain and plain[alias] not in chosen.values():
                chosen[name] = plain[alias]
                if alias != name:
                    notes.append(f"column {plain[alias]!r} read as {name}")
                if name == "loss" and alias in BITS_PER_BYTE:
                    unit = "bits per byte"
                break
    if "loss" not in chosen:
        raise FlopsFitError(
            f"{source}: no column for the loss; found {', '.join(map(_legible, frame.columns))}; "
            f"allowed: loss, {', '.join(ALIASES['loss'])}{_separator_hint(frame)}"
        )
    keep = {new: frame[old] for new, old in chosen.items()}
    for name in KEPT:
        if name in plain and name not in keep:
            keep[name] = frame[plain[name]]
    return pd.DataFrame(keep, index=frame.index), notes, unit


def _separator_hint(frame: pd.DataFrame) -> str:
    """What to do where the whole header was read as one column."""
    alone = len(frame.columns) == 1 and any(mark in str(frame.columns[0]) for mark in ";\t|")
    return "; columns must be separated by commas" if alone else ""


def _flags(column: pd.Series, source: str, first_line: int) -> pd.Series:
    text = column.astype(object).fillna("").astype(str).str.strip().str.lower()
    bad = ~text.isin(TRUE | FALSE)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise FlopsFitError(
            f"{source}: row {at + first_line}, column 'outlier': {column.iloc[at]!r}; "
            "allowed: true or false"
        )
    return text.isin(TRUE)


def _numbers(frame: pd.DataFrame, name: str, source: str) -> pd.Series:
    """Column as floats; what is not a positive finite number is an error naming its place."""
    return positive(frame[name], frame["row"], source)


def prepare_runs(
    frame: pd.DataFrame, source: str = "runs", first_line: int = 0, params: str = "params"
) -> RunTable:
    """Check a data frame of runs and give it our columns.

    ``frame``: one run a row, columns under their own or well-known names (`ALIASES`); ``source``
    names it in messages. ``first_line`` is the number of the first row in messages (2 for a CSV
    with a header); ``params`` names the column that is N, another ``params`` is then kept as
    params_matmul. A row whose ``status`` is not "completed" or whose ``outlier`` is true is left
    out before its numbers are looked at. Raises `FlopsFitError` naming source, row, column and
    value for anything else that is not a positive finite number.
    """
    if frame.empty:
        raise FlopsFitError(f"{source}: no runs in it; at least one row is needed")
    frame = frame.reset_index(drop=True)
    if params != "params":
        if params not in frame.columns:
            raise FlopsFitError(f"{source}: no column {params!r}, which was asked for as N")
        if "params" in frame and "params_matmul" not in frame:
            frame["params_matmul"] = frame["params"]
        frame["params"] = frame[params]
    frame, notes, unit = _recognise(frame, source)
    frame["row"] = np.arange(len(frame)) + first_line
    numbered = pd.Series([f"row {row}" for row in frame["row"]], frame.index)
    own = frame["run_id"].astype(object) if "run_id" in frame else numbered
    frame["run_id"] = own.fillna(numbered).astype(str)
    reason = pd.Series("", index=frame.index)
    if "outlier" in frame:
        reason[_flags(frame["outlier"], source, first_line)] = "outlier"
    if "status" in frame:
        status = frame["status"].astype(object).fillna("").astype(str).str.strip()
        lost = ~status.str.lower().isin(COMPLETED)
        reason[lost] = status[lost]
    left_out = [
        {"run_id": row.run_id, "row": int(row.row), "reason": why}
        for row, why in zip(frame.itertuples(), reason, strict=True)
        if why
    ]
    frame = frame.drop(columns=["outlier", "status"], errors="ignore")
    marked, frame = frame[reason == "outlier"].copy(), frame[reason == ""].copy()
    if frame.empty:
        found = ", ".join(sorted(set(reason)))
        raise FlopsFitError(
            f"{source}: all {len(left_out)} runs are left out as {found}; nothing to fit (a run with "
            "status completed or finished, or none, is fitted)"
        )
    frame["loss"] = _numbers(frame, "loss", source)
    for name in ("params", "tokens", "flops", "budget", "flops_per_token"):
        if name in frame and not frame[name].isna().all():
            if name in ("budget", "flops_per_token", "flops") and frame[name].isna().any():
                known = frame[name].notna()
                frame.loc[known, name] = _numbers(frame[known], name, source)
                if name == "flops_per_token":
                    continue
                if name == "flops":
                    at = frame.index[~known][0]
                    raise FlopsFitError(
                        f"{source}: row {int(frame.loc[at, 'row'])}, column 'flops': empty; fill "
                        "it for every run or for none"
                    )
            else:
                frame[name] = _numbers(frame, name, source)
        elif name in frame:
            frame = frame.drop(columns=name)
    for name in KEPT:
        if name in frame:  # 0 of a model without a body; empty where not known
            known = frame[frame[name].notna()]
            frame[name] = positive(known[name], known["row"], source, zero=True)
    twice = int(
        frame.duplicated([c for c in ("params", "tokens", "flops", "loss") if c in frame]).sum()
    )
    if twice:
        notes.append(
            f"{twice} rows repeat the numbers of another; the fit takes them for runs of their own"
        )
    marked = _complete(_sound(marked, frame), source, [])
    frame = _complete(frame, source, notes)
    for name in ("params", "tokens", "flops", "loss"):
        frame[name] = _numbers(frame, name, source)  # what was derived may be out of range
    return RunTable(
        frame.reset_index(drop=True), source, left_out, _sizes(frame), notes, unit, params,
        marked.reset_index(drop=True),
    )  # fmt: skip


def _sound(marked: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``marked`` with positive finite numbers wherever ``frame`` has numbers."""
    marked = marked[[c for c in frame if c in marked]].copy()
    names = [c for c in ("params", "tokens", "flops", "budget", "loss") if c in marked]
    marked[names] = marked[names].apply(pd.to_numeric, errors="coerce").astype(float)
    return marked[(np.isfinite(marked[names]) & (marked[names] > 0)).all(axis=1)].copy()


def _full(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool(frame[name].notna().all())


def _complete(frame: pd.DataFrame, source: str, notes: list[str]) -> pd.DataFrame:
    """Fill in what N, D and C determine between them."""
    if "flops" not in frame and "tokens" in frame and _full(frame, "flops_per_token"):
        frame["flops"] = frame["flops_per_token"] * frame["tokens"]
        notes.append("flops = flops_per_token x tokens")
    compute = "flops" if "flops" in frame else "budget" if "budget" in frame else None
    for name, other in (("tokens", "params"), ("params", "tokens")):
        if name in frame:
            continue
        if other not in frame or compute is None:
            raise FlopsFitError(
                f"{source}: no column for {name}, and no other two of params, tokens, flops to "
                f"derive it from; allowed names: {name}, {', '.join(ALIASES[name])}"
            )
        frame[name] = frame[compute] / (6 * frame[other])
        notes.append(f"{name} = {compute} / (6 {other})")
    if "flops" not in frame:
        frame["flops"] = 6 * frame["params"] * frame["tokens"]
        notes.append("flops = 6 params tokens")
    return frame


def _sizes(frame: pd.DataFrame) -> list[dict]:
    """One entry per size value (or N where sizes are not named), in order of N."""
    key = "size" if "size" in frame and frame["size"].notna().all() else "params"
    table = []
    for value, rows in frame.groupby(key):
        entry = {"size": _plain_value(value) if key == "size" else None}
        for name in SIZE_COLUMNS:
            if name in rows and rows[name].notna().any():
                entry[name] = float(rows[name].dropna().iloc[0])
        table.append(entry)
    return sorted(table, key=lambda entry: entry["params"])


def _plain_value(value):
    if isinstance(value, str):
        return value
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value


def budget_groups(frame: pd.DataFrame) -> tuple[list[tuple[float, np.ndarray]], str]:
    """Runs that share a compute budget: [(C, row positions)], ascending, and how they were found.

    With a ``budget`` column the grouping is exact. Without one, neighbours in ln C closer than 3%
    are chained; chains wider than 10% or of fewer than 4 runs are no budget, and unless budgets
    hold half the runs there are none. Nothing is ever rounded, so 1.5e19 and 1.9e19 stay apart.
    """
    if "budget" in frame and frame["budget"].notna().any():
        groups = frame.groupby("budget").indices
        return [(float(c), np.asarray(rows)) for c, rows in sorted(groups.items())], "column budget"
    log_c = np.log(frame["flops"].to_numpy())
    order = np.argsort(log_c, kind="stable")
    breaks = np.flatnonzero(np.diff(log_c[order]) > SAME_BUDGET) + 1
    chains = [rows for rows in np.split(order, breaks) if len(rows) >= FEWEST_SHARED]
    chains = [rows for rows in chains if np.ptp(log_c[rows]) <= BUDGET_WIDTH]
    if sum(map(len, chains)) < len(frame) / 2:
        return [], "no shared budgets: runs do not cluster in ln C"
    found = "runs within 3% in C taken as one budget"
    return [(float(np.exp(np.median(log_c[rows]))), np.sort(rows)) for rows in chains], found


def read_points(path: str | Path) -> pd.DataFrame:
    """A CSV of points to predict, with positive numbers in params and tokens."""
    frame = read_table(path)
    if frame.empty:
        raise FlopsFitError(f"{path}: no points in it; at least one row is needed")
    for name in ("params", "tokens"):
        if name not in frame:
            raise FlopsFitError(f"{path}: no column {name!r}; needed: params, tokens")
        numbered = frame.assign(row=np.arange(len(frame)) + 2)
        frame[name] = _numbers(numbered, name, str(path))
    return frame
