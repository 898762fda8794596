"""Files that hold tables: CSV and its dialects, JSON, JSON Lines and Parquet, as data frames."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.tables import POINTS

SEPARATORS = ",;\t"
MOST_SHOWN = 4  # lines of a list in a note
OPENERS: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_LINES = (".jsonl", ".ndjson")
NOT_READ = (
    ".xls",
    ".xlsx",
    ".ods",
    ".feather",
    ".arrow",
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".zip",
    *(".tar", ".7z", ".h5", ".db", ".sqlite", ".yaml", ".yml", ".md", ".tex", ".html"),
)
LISTS = (
    "runs",
    "results",
    "records",
    "data",
    "rows",
    "log_history",
)  # keys of a JSON object's runs
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
ZIPPED = b"PK\x03\x04"  # how workbooks of spreadsheets start
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """A file's table: ``frame`` with rows 0, 1, ... and ``rows`` (n,), their numbers in the file.

    ``notes`` say which lines were passed over.
    """

    frame: pd.DataFrame
    rows: np.ndarray
    notes: tuple[str, ...] = ()


def kind_of(path: Path) -> str:
    """The suffix of the file ``path`` in lower case, without that of its compression."""
    suffixes = [s.lower() for s in path.suffixes]
    return next((s for s in reversed(suffixes) if s not in OPENERS), "")


def read_table(path: str | Path) -> Table:
    """The table in ``path``, by its suffix; what is neither JSON nor Parquet is read as CSV.

    A CSV file may be separated by commas, semicolons or tabs, and may start with a byte order mark;
    its rows are numbered by its lines. Raises `FlopsFitError` naming the file where it is missing,
    is no such table, has rows longer than its header, or names a column twice.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind in NOT_READ:
        raise FlopsFitError(
            f"{path}: a {kind} file is not read; save the table as CSV, JSON, JSON Lines or Parquet"
        )
    try:
        if kind in (".json", *JSON_LINES):
            return _read_json(path, lines_first=kind != ".json")
        if kind in (".parquet", ".pq"):
            return _read_parquet(path)
        return _read_csv(path)
    except FileNotFoundError:
        hint = "; allowed: a file or a folder, or /dev/stdin" if str(path) == "-" else ""
        raise FlopsFitError(f"{path}: no such file{hint}") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlopsFitError(f"{path}: cannot be read ({reason})") from None


def _text_of(path: Path) -> str:
    """The text in ``path``: UTF-8, or UTF-16 or Windows' code page, as spreadsheets write it too."""
    with OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        content = file.read()
    if content.startswith(ZIPPED):
        raise FlopsFitError(
            f"{path}: a workbook of a spreadsheet is not read; save the table as CSV"
        )
    if content.startswith(UTF16):
        return content.decode("utf-16")
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("cp1252")


# CSV


def _read_csv(path: Path) -> Table:
    try:
        text = _text_of(path)
        separator, skipped = _dialect(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = _parsed(text, separator, skipped)
            frame = _with_points(frame, text, separator, skipped).map(_inner)
    except pd.errors.ParserWarning:
        raise FlopsFitError(
            f"{path}: the first row has more fields than the header; allowed: a name for each column"
        ) from None
    except (ValueError, OverflowError) as error:  # the parser's own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise FlopsFitError(
            f"{path}: not a readable CSV table ({reason}); columns must be separated by commas, "
            "semicolons or tabs, with as many in each row as in the header"
        ) from None
    for name in frame.columns:
        first, dot, number = str(name).rpartition(".")  # pandas makes x, x.1, ... of x, x
        if dot and number.isdigit() and first in frame:
            raise FlopsFitError(f"{path}: column {first!r} stands twice; allowed: each name once")
    return _only_rows(Table(frame, _lines(text, separator, skipped, len(frame))))


def _parsed(text: str, separator: str, skipped: int, as_text: bool = False) -> pd.DataFrame:
    return pd.read_csv(
        io.StringIO(text, newline=""),
        sep=separator,
        skiprows=skipped,
        skipinitialspace=True,
        index_col=False,
        dtype=str if as_text else None,
    )


def _with_points(frame: pd.DataFrame, text: str, separator: str, skipped: int) -> pd.DataFrame:
    """``frame`` with the text of cells such as 1.234 where other columns have decimal commas.

    There they are thousands, which the parser takes for decimals.
    """
    texts = frame.select_dtypes(exclude="number")
    commas = texts.apply(lambda column: column.dropna().map(_has_decimal_comma).mean() > 0.5)
    if separator == "," or texts.empty or not commas.any():
        return frame
    raw = _parsed(text, separator, skipped, as_text=True)
    for column in frame.select_dtypes(include="float"):
        dotted = raw[column].dropna()
        dotted = dotted[dotted.str.contains(".", regex=False)]
        if len(dotted) and dotted.str.fullmatch(POINTS).all():
            frame[column] = raw[column]
    return frame


def _inner(cell: object) -> object:
    """The value in a cell such as {"value": 7e6}, as exports of configs have it."""
    if not (isinstance(cell, str) and cell.startswith("{") and '"value"' in cell):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    inner = value.get("value", cell) if isinstance(value, dict) else cell
    return inner if isinstance(inner, (str, int, float)) else cell


def _has_decimal_comma(cell: object) -> bool:
    return isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def _only_rows(table: Table) -> Table:
    """The rows of ``table`` that hold something: no empty lines, comments or repeated headers."""
    frame, notes = table.frame, []
    texts = frame.map(lambda cell: "" if cell != cell or cell is None else str(cell).strip())
    empty = (texts == "").all(axis=1)
    header = (texts == [str(c).strip() for c in frame.columns]).all(axis=1)
    comment = texts.iloc[:, 0].str.startswith("#") & (texts.iloc[:, 1:] == "").all(axis=1)
    for which, what in ((header, "repeat the header"), (comment & ~empty, "are comments")):
        if which.any():
            numbers = ", ".join(str(row) for row in table.rows[which][:MOST_SHOWN])
            more = ", ..." if which.sum() > MOST_SHOWN else ""
            notes.append(f"passed over: lines that {what} ({numbers}{more})")
    kept = ~(empty | header | comment)
    if kept.all():
        return table
    frame = frame[kept].reset_index(drop=True)
    if header.any() or comment.any():  # their text made text of whole columns
        frame = frame.apply(_numeric_again)
    return Table(frame, table.rows[kept], tuple(notes))


def _numeric_again(column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if (numbers.notna() | column.isna()).all() else column


def _dialect(text: str) -> tuple[str, int]:
    """The separator of a CSV text, and how many lines stand before its header.

    These are Excel's sep=; and comments. A header may be a comment itself: numpy writes it so.
    """
    comments = 0
    for number, line in enumerate(io.StringIO(text, newline=None)):
        declared = re.fullmatch(r"\"?sep=(.)\"?", line.strip("\n"), re.IGNORECASE)
        if declared:
            return declared[1], number + 1
        bare = re.sub(r'"[^"]*"', "", line)
        separator = max(SEPARATORS, key=bare.count)
        if line.startswith("#") and separator not in bare:
            comments = number + 1
        elif line.strip():
            return separator, comments
    return ",", 0


def _lines(text: str, separator: str, skipped: int, count: int) -> np.ndarray:
    """The line on which each of ``count`` rows starts; blank lines hold none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    starts, before = [], 0
    try:
        for row in reader:
            blank = not row or (len(row) == 1 and not row[0].strip())
            if not blank and before >= skipped:
                starts.append(before + 1)
            before = reader.line_num
    except csv.Error:  # a field of megabytes
        starts = []
    if len(starts) != count + 1:
        return np.arange(count) + skipped + 2
    return np.array(starts[1:], dtype=int)


# JSON


def _read_json(path: Path, lines_first: bool) -> Table:
    try:
        text = _text_of(path)
    except UnicodeDecodeError as error:
        raise FlopsFitError(f"{path}: not valid JSON ({error})") from None
    numbered = _json_lines(text) if lines_first else None
    if numbered is None:
        try:
            rows = _records(json.loads(text))
        except (ValueError, RecursionError) as error:
            numbered = None if lines_first else _json_lines(text)
            if numbered is None:
                raise FlopsFitError(f"{path}: not valid JSON ({error})") from None
        else:
            if rows is None:
                raise FlopsFitError(f"{path}: expected a JSON list of runs, one object each")
            numbered = list(range(1, len(rows) + 1)), rows
    numbers, rows = numbered
    try:
        frame = pd.DataFrame([_flat(row) for row in rows])
    except RecursionError:
        raise FlopsFitError(f"{path}: objects nested too deeply") from None
    return Table(frame, np.array(numbers, dtype=int))


def _json_lines(text: str) -> tuple[list[int], list[dict]] | None:
    """(line numbers, objects) of a text with one JSON object a line, None where it is none."""
    numbered = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                return None
            if not isinstance(value, dict):
                return None
            numbered.append((number, value))
    return ([n for n, _ in numbered], [v for _, v in numbered]) if numbered else None


def _records(value: object) -> list[dict] | None:
    """The runs of a JSON value: a list, a list under a name, columns, or runs by name; else None."""
    if isinstance(value, dict):
        listed = _rows_within(value)
        if listed is not None:
            value = listed
        elif value and all(isinstance(v, list) for v in value.values()):
            if len({len(v) for v in value.values()}) > 1:
                return None
            columns = value.items()
            count = len(next(iter(value.values())))
            value = [{name: cells[i] for name, cells in columns} for i in range(count)]
        elif value and all(isinstance(v, dict) for v in value.values()):
            cells = [key for column in value.values() for key in column]
            if cells and all(str(key).isdigit() for key in cells):  # as pandas writes columns
                keys = list(dict.fromkeys(cells))
                value = [{c: v.get(k) for c, v in value.items()} for k in keys]
            else:
                value = [{"experiment_id": name, **run} for name, run in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    return None


def _rows_within(value: dict) -> list | None:
    """The list of a JSON object that has its runs: under a usual name, or the only one of objects."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):  # as pandas splits a table
        rows = [row for row in data if isinstance(row, list) and len(row) == len(columns)]
        return [dict(zip(columns, row, strict=True)) for row in rows] if rows == data else None
    listed = next((value[k] for k in LISTS if isinstance(value.get(k), list)), None)
    if listed is None:
        lists = [v for v in value.values() if isinstance(v, list) and v]
        objects = [v for v in lists if all(isinstance(row, dict) for row in v)]
        listed = objects[0] if len(objects) == 1 and len(lists) == 1 else None
    return listed


def _flat(row: dict, prefix: str = "") -> dict:
    """A JSON object as one row: nested objects give columns such as config.n_embd, lists none.

    Records of this project keep to their own fields and those of their experiment.
    """
    inner = row.get("experiment")
    if not prefix and (isinstance(inner, dict) or isinstance(row.get("identity"), dict)):
        merged = {**(inner if isinstance(inner, dict) else {}), **row}
        return {k: v for k, v in merged.items() if not isinstance(v, dict | list)}
    flat: dict = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{key}"] = value
    return flat


def record_in(path: Path) -> dict | None:
    """The flat record in the JSON file ``path``, None where it holds more than one object."""
    if kind_of(path) != ".json":
        return None
    try:
        value = json.loads(_text_of(path))
        single = isinstance(value, dict) and not any(isinstance(value.get(k), list) for k in LISTS)
        return _flat(value) if single else None
    except (OSError, EOFError, ValueError, RecursionError, lzma.LZMAError, zlib.error):
        return None  # `read_table` says what is wrong with it


# Parquet


def _read_parquet(path: Path) -> Table:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise FlopsFitError(
            f"{path}: reading Parquet needs pyarrow (pip install 'flops-fit[hf]'); or save the table "
            "as CSV"
        ) from None
    except FileNotFoundError:
        raise
    except Exception as error:  # of pyarrow, which has a class of its own for each
        reason = " ".join(str(error).split())[:200]
        raise FlopsFitError(f"{path}: not a readable Parquet table ({reason})") from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    rows = [_flat(row) for row in frame.to_dict("records")]
    return Table(pd.DataFrame(rows), np.arange(len(frame)) + 1)
