"""Tables from outside: what cannot be read as a table of numbers is refused by file, row, column."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV file with a header, as a data frame with rows 0, 1, ...

    Raises `FlopsFitError` naming the file where it is missing, is no CSV in UTF-8, has rows longer
    than its header (pandas would shift the columns in silence), or names a column twice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, skipinitialspace=True, index_col=False)
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except pd.errors.ParserWarning:
        raise FlopsFitError(
            f"{path}: the first row has more fields than the header; allowed: a name for each column"
        ) from None
    except (ValueError, OverflowError) as error:  # the parser's own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise FlopsFitError(f"{path}: not a readable CSV table ({reason})") from None
    for name in frame.columns:
        first, dot, number = str(name).rpartition(".")  # pandas makes x, x.1, ... of x, x
        if dot and number.isdigit() and first in frame:
            raise FlopsFitError(f"{path}: column {first!r} stands twice; allowed: each name once")
    return frame


def floats(column: pd.Series) -> pd.Series:
    """The column as floats: NaN for what is no number, infinity for what is too large for one."""
    try:
        return pd.to_numeric(column, errors="coerce").astype(float)
    except OverflowError:  # an integer of JSON may have any size
        return column.map(_float).astype(float)


def _float(value) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def positive(column: pd.Series, rows: pd.Series, source: str, zero: bool = False) -> pd.Series:
    """The column as floats; a `FlopsFitError` names the first value that is not finite and positive.

    ``rows`` are the numbers of the rows in the user's file; with ``zero``, 0 is allowed too.
    """
    values = floats(column)
    bad = ~(np.isfinite(values) & ((values >= 0) if zero else (values > 0)))
    if bad.any():
        at = column.index[bad][0]
        raise FlopsFitError(
            f"{source}: row {int(rows[at])}, column {column.name!r}: {shown(column[at])}; allowed: "
            f"a positive finite number{' or 0' if zero else ''}"
        )
    return values


def shown(value) -> str:
    """A cell as its file has it."""
    if (isinstance(value, float) and np.isnan(value)) or value is None:
        return "empty, or not a number"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
