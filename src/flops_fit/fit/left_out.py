"""Rows of a table that are no runs to fit, by what the table says of them: a status, or a flag."""

import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.names import fold, legible, listed

# An empty status leaves no run out; the others are how trackers and jobs say that a run ended well.
COMPLETED = set(listed("completed complete finished success succeeded done ok nan none")) | {""}
TRUE, FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", "", "nan", "none"}
MARKS = {"x", "y", "n"}  # how people tick a cell
UNFIT = set(
    listed("""exclude excluded ignore ignored skip skipped diverged is_diverged failed is_failed crashed
    invalid is_invalid bad oom""")
)
FIT = set(
    listed("valid is_valid include included keep converged finished is_finished is_completed")
)


def words_of(column: pd.Series) -> pd.Series:
    """The cells of ``column`` as text in lower case, empty where there is nothing."""
    return column.astype(object).fillna("").astype(str).str.strip().str.lower()


def reasons(
    frame: pd.DataFrame, raw: pd.DataFrame, source: str, names: dict[str, str]
) -> pd.Series:
    """Why each row of ``frame`` is left out, empty for those that are fitted.

    ``raw``: the same rows in the columns of the file ``source``; ``names``: the file's names of ours.
    Raises `FlopsFitError` for an outlier that is neither true nor false.
    """
    reason = pd.Series("", index=frame.index)
    rows = raw.astype(str)
    first: dict[tuple, int] = {}
    for at, cells in zip(raw.index, rows.itertuples(index=False, name=None), strict=True):
        before = first.setdefault(cells, at)
        if before != at:
            reason[at] = f"repeats row {int(frame.loc[before, 'row'])}"
    for column, name in _flags(raw, names):
        reason[_flagged(raw[column], name)] = name if name in UNFIT else f"not {name}"
    if "outlier" in frame:
        reason[_outliers(frame["outlier"], frame["row"], source, names["outlier"])] = "outlier"
    if "status" in frame:
        status = frame["status"].astype(object).fillna("").astype(str).str.strip()
        lost = ~status.str.lower().isin(COMPLETED)
        reason[lost] = status[lost]
    return reason


def unread_flags(raw: pd.DataFrame, names: dict[str, str]) -> list[str]:
    """Notes on columns of ``raw``, one row per run, that are called like flags and hold something else.

    ``names``: the file's names of our columns.
    """
    unread = [c for c, _ in _flags(raw, names) if not _is_flag(raw[c])]
    return [
        f"column {legible(c)} holds more than true and false, and leaves no run out" for c in unread
    ]


def _flags(raw: pd.DataFrame, names: dict[str, str]) -> list[tuple[str, str]]:
    """(column, folded name) of the columns of ``raw`` that are called like flags."""
    folded = [(c, fold(c)) for c in raw.columns if c not in names.values()]
    return [(c, name) for c, name in folded if name in UNFIT | FIT]


def _is_flag(column: pd.Series) -> bool:
    return bool(words_of(column).isin(TRUE | FALSE | MARKS).all())


def _flagged(column: pd.Series, name: str) -> pd.Series:
    """Which cells of a column of flags leave their row out; none where it holds anything else."""
    cells = words_of(column)
    if not _is_flag(column):
        return pd.Series(False, column.index)
    if name in UNFIT:
        return cells.isin(TRUE | (MARKS - {"n"}))
    return cells.isin({"false", "0", "0.0", "no", "n"})


def _outliers(column: pd.Series, rows: pd.Series, source: str, name: str) -> pd.Series:
    cells = words_of(column)
    bad = ~cells.isin(TRUE | FALSE)
    if bad.any():
        at = column.index[bad][0]
        raise FlopsFitError(
            f"{source}: row {int(rows[at])}, column {name!r}: {column[at]!r}; "
            "allowed: true or false"
        )
    return cells.isin(TRUE)
