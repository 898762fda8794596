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

SEPARATORS = ",;\t"
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
)
LISTS = (
    "runs",
    "results",
    "records",
    "data",
    "rows",
)  # keys under which a JSON object has its runs
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """A file's table: ``frame`` with rows 0, 1, ... and ``rows`` (n,), their numbers in the file."""

    frame: pd.DataFrame
    rows: np.ndarray


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
        raise FlopsFitError(f"{path}: no such file") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlopsFitError(f"{path}: cannot be read ({reason})") from None


def _text_of(path: Path) -> str:
    """The text in ``path``, UTF-8 or, where its byte order mark says so, UTF-16."""
    with OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        content = file.read()
    return content.decode("utf-16" if content.startswith(UTF16) else "utf-8-sig")


# CSV


def _read_csv(path: Path) -> Table:
    try:
        text = _text_of(path)
        separator, skipped = _dialect(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=separator,
                skiprows=skipped,
                skipinitialspace=True,
                index_col=False,
            )
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
    return Table(frame, _lines(text, separator, skipped, len(frame)))


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
        listed = next((value[k] for k in LISTS if isinstance(value.get(k), list)), None)
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
