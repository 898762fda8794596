"""Read a table of finished runs, whoever made it, and say what was made of it.

A table needs N (params), D (tokens) and the loss of each run; any two of N, D, C give the third
through C = 6 N D, which is then said in ``notes``. Rows that cannot be fitted are never dropped
silently: they stand in ``left_out`` with the reason.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.columns import Columns, costs_unread, recognise
from flops_fit.fit.derived import completed
from flops_fit.fit.exports import read_folder
from flops_fit.fit.formats import read_table
from flops_fit.fit.left_out import reasons
from flops_fit.fit.names import fold, named_column
from flops_fit.fit.rows import (
    LeftOut,
    Reading,
    contradicting_passes,
    doubts,
    on_repeats,
    one_per_group,
    too_many_epochs,
    where,
)
from flops_fit.fit.sigmoid import accuracies
from flops_fit.fit.sizes import Size
from flops_fit.fit.tables import floats, positive
from flops_fit.fit.units import (
    check_cost,
    compared_costs,
    cost_per_token,
    miscounted,
    settle_budgets,
)

OURS = {"flops_6nd", "flops_counted"}  # together only in the tables that this project writes
LOSS = "loss"  # in these tables; other columns that look like a loss are metrics
COUNTS = ("params_matmul", "params_nonembedding", "params_total")  # N counted otherwise
KEPT = (*COUNTS, "flops_counted", "epochs")  # as they stand, for sensitivity and verdict
COUNTED = (*COUNTS, "flops_per_token")
SAME_BUDGET = 0.03  # ln C: runs closer than this share a budget where the table names none
BUDGET_WIDTH = 0.10  # ln C: a chain of neighbours wider than this is no budget
FEWEST_SHARED = 4  # runs of a budget, where the table names none
SAME_SIZE = 0.01  # relative: N of one value of the size parameter
AS_IT_STANDS = Reading()
NO_LOSS = (
    "; for a run without a loss delete its row, or say in a column status that it failed or diverged; "
    "of a run's history --last-per COLUMN keeps the last row; --loss COLUMN takes another column"
)
NO_LOG = (
    "; the law takes the logarithm of the loss: leave such runs out (--where, a column status or \
outlier), or fit a loss that is above 0 (--loss), as cross-entropy is"
)


@dataclass(frozen=True)
class RunTable:
    """Runs ready to fit.

    ``source``: the file's name. ``frame``: one row per run, columns experiment_id, row, params,
    tokens, flops, loss, and where known budget, size, seed, epochs and other counts of N (`COUNTS`).
    ``left_out``: the rows not fitted; ``marked``: those of them that the table itself calls outliers
    and whose numbers are sound, as in ``frame``; ``repeated``: those left out for their passes over
    the data, from which only the worth of repeats is fitted. ``sizes``: those tried. ``notes``: what was
    recognised, derived and assumed, one sentence each; ``doubts``: what speaks against trusting a
    law of these rows. ``loss_unit``: "nats", "bits per byte" or the like. ``params_column``: the
    column that was asked for as N; ``reading``: the other choices.
    """

    frame: pd.DataFrame
    source: str
    left_out: list[LeftOut] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loss_unit: str = "nats"
    params_column: str = "params"
    marked: pd.DataFrame = field(default_factory=pd.DataFrame)
    doubts: list[str] = field(default_factory=list)
    reading: Reading = AS_IT_STANDS
    repeated: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def marks_outliers(self) -> bool:
        """Whether the table itself names outliers."""
        return any(run.reason == "outlier" for run in self.left_out)


def read_runs(
    path: str | Path, params: str = "params", reading: Reading = AS_IT_STANDS
) -> RunTable:
    """Read the runs in ``path``: CSV, JSON, JSON Lines, Parquet, or a folder with one file per run.

    ``params`` names the column that is N: params, params_nonembedding or params_total. N, D and the
    loss are needed; of N, D and C any two do (C = 6 N D). ``reading``: choices that a table leaves,
    as `Reading(where=["dataset=c4"], best_per="params,tokens")`. Raises `FlopsFitError` naming file,
    row, column and value, as `prepare_runs` does.
    """
    if not Path(path).is_dir():
        table = read_table(path)
        runs = prepare_runs(table.frame, str(path), table.rows, params, reading)
        return replace(runs, notes=[*table.notes, *runs.notes])
    table, notes = read_folder(Path(path), reading.loss_column)
    try:
        runs = prepare_runs(table.frame, str(path), table.rows, params, reading)
    except FlopsFitError as error:  # a row of the folder is a file
        row = re.search(r": row (\d+)[,:]", str(error))
        file = f" (row {row[1]}: {table.frame['file'].iloc[int(row[1]) - 1]})" if row else ""
        raise FlopsFitError(f"{error}{file}") from None
    return replace(runs, notes=notes + runs.notes)


def prepare_runs(
    frame: pd.DataFrame,
    source: str = "runs",
    rows: int | np.ndarray = 0,
    params: str = "params",
    reading: Reading = AS_IT_STANDS,
    outside: bool | None = None,
) -> RunTable:
    """Check a data frame of runs and give it our columns.

    ``frame``: one run a row, columns under their own or well-known names (`columns.ALIASES`);
    ``source`` names it in messages. ``rows``: the number of every row (n,) in messages, or of the
    first (2 for a CSV with a header); ``params`` names the column that is N, another ``params`` is
    then kept as params_matmul; ``reading``: choices that a table leaves; ``outside``: whether its
    costs and rows are looked at with doubt (default: unless it has our own columns `OURS`). A row
    whose ``status`` is not "completed" or whose ``outlier`` is true is left out before its numbers
    are looked at. Raises `FlopsFitError` naming source, row, column and value for anything else that
    is not a positive finite number, and for a C that cannot be what N and D cost.
    """
    if frame.empty:
        raise FlopsFitError(f"{source}: no runs in it; at least one row is needed")
    numbers = np.arange(len(frame)) + rows if isinstance(rows, int) else rows
    raw = frame.reset_index(drop=True)
    outside = not set(raw.columns) >= OURS if outside is None else outside
    raw, notes = where(raw, reading.where, source)
    columns = _columns(raw, params, source, reading)
    frame, names = columns.frame, columns.names
    frame["row"] = numbers[raw.index]
    notes += columns.notes
    frame["experiment_id"] = _named(frame)
    reason = reasons(frame, raw if outside else raw[:0], source, names)
    if not outside and reading.loss_column is not None:  # a metric that was not finite
        reason[(reason == "") & frame["loss"].isna()] = f"no value of {reading.loss_column}"
    frame = frame.drop(columns=["outlier", "status"], errors="ignore")
    lost, marked = frame[reason != ""], frame[reason == "outlier"].copy()
    left_out = _entries(lost, reason)
    frame = frame[reason == ""].copy()
    if frame.empty:
        kinds = ", ".join(sorted(set(reason)))
        raise FlopsFitError(
            f"{source}: all {len(left_out)} runs are left out as {kinds}; nothing to fit (a run with "
            "status completed or finished, or none, is fitted)"
        )
    frame, chosen = one_per_group(frame, raw, reading, source)
    frame = _checked(frame.copy(), source, names)
    notes += chosen
    marked = completed(_sound(marked, frame), source, [], reading, raw.columns)
    before = {
        "tokens" if name == "unique_tokens" else name for name in frame
    }  # what C did not give
    frame = completed(frame, source, notes, reading, raw.columns)
    for name in ("params", "tokens", "flops", "loss"):
        frame[name] = positive(frame[name], frame["row"], source)  # derived: maybe out of range
    if outside and not reading.cost_as_given:
        derived = not {"params", "tokens"} <= before
        check_cost(frame, source, names, derived, chosen=reading.cost_column is not None)
    if outside:
        notes += compared_costs(frame, names, costs_unread(raw, columns))
    notes += cost_per_token(frame, names) + settle_budgets(frame, marked, names)
    passes = contradicting_passes(frame)
    frame, repeated = _without_repeats(frame, reading.max_epochs, source)
    notes += on_repeats(frame) + passes
    remarks, why = _doubted(frame, raw, columns, reading) if outside else ([], [])
    return RunTable(
        frame.reset_index(drop=True),
        source,
        left_out + _entries(repeated, f"more than {reading.max_epochs or 0:g} epochs"),
        _sizes(frame),
        notes + remarks + why,
        columns.loss_unit,
        params,
        marked.reset_index(drop=True),
        why,
        reading,
        repeated.reset_index(drop=True),
    )


def _doubted(
    frame: pd.DataFrame, raw: pd.DataFrame, columns: Columns, reading: Reading
) -> tuple[list[str], list[str]]:
    """Notes on the runs of ``frame``, and reasons against trust in a law of them."""
    notes, reasons = doubts(frame, raw.loc[frame.index], columns, reading.cost_as_given)
    chosen = reading.cost_as_given or reading.cost_column is not None
    return notes, reasons + ([] if chosen else miscounted(frame, columns.names))


def _without_repeats(
    frame: pd.DataFrame, most: float | None, source: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``frame`` with its passes over the data: the runs that make at most ``most``, and the others."""
    if "unique_tokens" in frame:
        unique = frame["unique_tokens"].where(frame["unique_tokens"] > 0)
        frame = frame.drop(columns="unique_tokens")
        if "epochs" not in frame:
            frame = frame.assign(epochs=frame["tokens"] / unique)
    if most is None:
        return frame, frame[:0]
    many = too_many_epochs(frame, most)
    if many.all():
        raise FlopsFitError(f"{source}: every run reads its data more than {most:g} times")
    return frame[~many], frame[many]


def _columns(raw: pd.DataFrame, params: str, source: str, reading: Reading) -> Columns:
    """The recognised columns, with ``params`` as N, and those `KEPT` for sensitivity and verdict."""
    if params != "params":
        if params not in raw.columns:
            raise FlopsFitError(f"{source}: no column {params!r}, which was asked for as N")
        raw = raw.copy()
        if "params" in raw and "params_matmul" not in raw:
            raw["params_matmul"] = raw["params"]
        raw["params"] = raw[params]
    ours = LOSS if {*OURS, LOSS} <= set(raw.columns) and raw[LOSS].notna().any() else None
    columns = recognise(raw, source, reading.loss_column or ours, reading.cost_column)
    if reading.accuracy is not None:
        column = named_column(raw, reading.accuracy, f"{source}: accuracy column")
        columns.frame["accuracy"], columns.names["accuracy"] = raw[column], column
    folded = {fold(column): column for column in reversed(list(raw.columns))}
    for name in KEPT:
        if name in folded and name not in columns.frame:
            columns.frame[name] = raw[folded[name]]
            columns.names[name] = folded[name]
    return columns


def _named(frame: pd.DataFrame) -> pd.Series:
    """The names of the runs, or that of its row where a run has none."""
    numbered = pd.Series([f"row {row}" for row in frame["row"]], frame.index)
    given = frame["experiment_id"].astype(object) if "experiment_id" in frame else numbered
    return given.fillna(numbered).astype(str)


def _entries(frame: pd.DataFrame, reason: pd.Series | str) -> list[LeftOut]:
    why = [reason] * len(frame) if isinstance(reason, str) else reason[frame.index]
    return [
        LeftOut(row.experiment_id, int(row.row), text)
        for row, text in zip(frame.itertuples(), why, strict=True)
    ]


def _checked(frame: pd.DataFrame, source: str, names: dict[str, str]) -> pd.DataFrame:
    """``frame`` with its numbers as floats; columns that are empty throughout are dropped."""

    def numbers(part: pd.DataFrame, name: str, **how: Any) -> pd.Series:
        return positive(part[name], part["row"], source, name=names[name], **how)

    known = frame["loss"].map(lambda cell: cell == cell and cell is not None)
    numbers(frame[~known], "loss", why=NO_LOSS)
    text = frame["loss"].map(lambda cell: isinstance(cell, str)) & floats(frame["loss"]).isna()
    numbers(frame[text], "loss", why=NO_LOSS)
    frame["loss"] = numbers(frame, "loss", why=NO_LOG)
    for name in ("params", "tokens", "flops", "budget", "flops_per_token"):
        if name not in frame:
            continue
        known = frame[name].notna()
        if not known.any():
            frame = frame.drop(columns=name)
        elif known.all() or name in ("params", "tokens"):
            frame[name] = numbers(frame, name)
        else:
            values = numbers(frame[known], name)
            if name == "flops":
                at = frame.index[~known][0]
                raise FlopsFitError(
                    f"{source}: row {int(frame.loc[at, 'row'])}, column {names[name]!r}: empty; fill "
                    "it for every run or for none"
                )
            frame[name] = values.reindex(frame.index)
    if "accuracy" in frame:
        frame["accuracy"] = accuracies(frame, source, names["accuracy"])
    for name in (*KEPT, "unique_tokens"):
        if name in frame:  # 0 of a model without a body; empty where not known
            frame[name] = numbers(frame[frame[name].notna()], name, zero=True)
    return frame


def _sound(marked: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``marked`` with positive finite numbers wherever ``frame`` has numbers."""
    marked = marked[[c for c in frame if c in marked]].copy()
    names = [c for c in ("params", "tokens", "flops", "budget", "loss") if c in marked]
    marked[names] = marked[names].apply(pd.to_numeric, errors="coerce").astype(float)
    return marked[(np.isfinite(marked[names]) & (marked[names] > 0)).all(axis=1)].copy()


def _sizes(frame: pd.DataFrame) -> list[Size]:
    """One entry per size value (or N where these do not name one N each), in order of N."""
    key = "params"
    if "size" in frame and frame["size"].notna().all():  # a width with several depths is no size
        spans = frame.groupby("size")["params"].agg(["min", "max"])
        key = "size" if (spans["max"] <= spans["min"] * (1 + SAME_SIZE)).all() else key
    table = []
    for value, rows in frame.groupby(key):
        known = {
            name: float(rows[name].dropna().iloc[0])
            for name in ("params", *COUNTED)
            if name in rows and rows[name].notna().any()
        }
        table.append(Size(_plain_value(value) if key == "size" else None, **known))
    return sorted(table, key=lambda size: size.params)


def _plain_value(value: object) -> int | float | str:
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    if not np.isfinite(number):
        return str(number)
    return int(number) if number.is_integer() else number


def budget_groups(frame: pd.DataFrame) -> tuple[list[tuple[float, np.ndarray]], str]:
    """Runs of ``frame`` that share a compute budget, ascending, and how they were recognised.

    Each is (C, row positions). With a ``budget`` column the grouping is exact. Without one,
    neighbours in ln C closer than 3% are chained; chains wider than 10% or of fewer than 4 runs are
    no budget, and unless budgets hold half the runs there are none. Nothing is ever rounded, so
    1.5e19 and 1.9e19 stay apart.
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
    how = "runs within 3% in C taken as one budget"
    return [(float(np.exp(np.median(log_c[rows]))), np.sort(rows)) for rows in chains], how
