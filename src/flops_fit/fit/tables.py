"""Cells of tables from outside as numbers: what cannot be one is refused by file, row, column."""

import re
from typing import Any

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError

SCALES = {
    **dict.fromkeys(("", "x"), 1.0),
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mm", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
NUMBER = re.compile(
    r"([+-]?\d[\d.,'’_\s]*(?:e[+-]?\d+)?)"  # 1,300.5 or 1 300 or 2.8e9
    r"\s*(?:[x×·*]\s*10\s*(?:\^\s*\{?([+-]?\d+)\}?|([⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)))?"  # x 10^9 or × 10⁹
    r"\s*([a-z]*?)\s*(?:params|parameters|tokens|toks?|flops?)?",
    re.IGNORECASE,
)
FLOPS = {"p": 1e15, "e": 1e18, "z": 1e21, "peta": 1e15, "exa": 1e18, "zetta": 1e21}
FLOPS |= {"giga": 1e9, "tera": 1e12}
PF_DAYS = re.compile(r"\s*(?:pf|pflops?|petaflops?)(?:/s)?[-\s]?days?", re.IGNORECASE)
PF_DAY = 8.64e19  # FLOPs
POWER = re.compile(r"10\s*[\^⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]")  # without a mantissa: 10^18
POWERS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
SMALLEST, LARGEST = 1e-100, 1e100  # beyond, products of two numbers are no floats any more
POINTS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(\.\d{3})+\s*")  # 6.960.510, and 960.510 beside it
GROUPING = (",", ".", "'", "’", "_", " ", "\u00a0", "\u202f", "\u2009", "\u2007")  # of thousands


def floats(column: pd.Series) -> pd.Series:
    """The column as floats: NaN for what is no number, infinity for what is too large for one."""
    try:
        return pd.to_numeric(column, errors="coerce").astype(float)
    except OverflowError:  # an integer of JSON may have any size
        return column.map(_float).astype(float)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def spoken_floats(
    column: pd.Series, decimal_commas: bool = False, points: bool = False
) -> tuple[pd.Series, str]:
    """`floats`, with numbers as people write them: 70M, 1.3 B, 1,300,000,000, 2,718, 1.2×10¹⁸.

    Where no cell of the column tells whether its commas are decimal or between thousands,
    ``decimal_commas`` decides; a column that has both kinds keeps NaN there. With ``points`` a point
    stands between thousands wherever it could, as in files with decimal commas. Returns the floats
    and, where a cell was read so, an example as text ("'70M' read as 7e+07").
    """
    values, cells = floats(column), _texts(column)
    grouped = cells.str.fullmatch(POINTS)
    several = bool((grouped & values.isna()).any())  # 1.234.567: then 960.510 is no float either
    alike = points and bool(
        (grouped | cells.str.contains(",") | ~cells.str.contains(".", regex=False)).all()
    )
    if several or alike:
        values[grouped] = np.nan
    texts = column[values.isna()].map(lambda cell: cell.strip() if isinstance(cell, str) else "")
    texts = texts[texts != ""]
    if texts.empty:
        return values, ""
    rest = column[~grouped] if alike else column
    comma = _decimal_comma(texts, rest, decimal_commas)
    if comma is None:
        return values, ""
    joined = texts.map(lambda text: text.replace(".", "") if POINTS.fullmatch(text) else text)
    spoken = joined.map(lambda text: _spoken(text, comma)).astype(float)
    known = spoken.notna()
    if not known.any():
        return values, ""
    values[spoken.index[known]] = spoken[known]
    at = spoken.index[known][0]
    return values, f"{shown(texts[at])} read as {digits(values[at])}"


def digits(value: float) -> str:
    """``value`` with all its digits where it is a whole number, 7,000,000; else with six."""
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.6g}"


def _texts(column: pd.Series) -> pd.Series:
    """The cells that are text, "" for others."""
    return column.map(lambda cell: cell if isinstance(cell, str) else "").astype(str)


def scaled(column: pd.Series) -> pd.Series:
    """Which cells of ``column`` bring a unit of their own: 70M or 2 billion."""
    return _texts(column).map(lambda text: _unit(text.strip())[1] not in (None, 1.0))


def _unit(text: str) -> tuple[str, float | None]:
    """A cell without its unit (M, billion, EFLOPs, PF-days), and the unit; None for an unknown one."""
    days = PF_DAYS.search(text)
    if days and days.end() == len(text):
        return text[: days.start()], PF_DAY
    before = "1x" if POWER.match(text) else ""
    match = NUMBER.fullmatch(before + text)
    name = match[4].lower() if match else ""
    if match and name not in SCALES and "flop" in text.lower():
        return text[: match.start(4) - len(before)], FLOPS.get(name)
    return text, SCALES.get(name) if match else None


def has_decimal_commas(column: pd.Series) -> bool:
    """Whether a cell of ``column``, whose commas are no thousands, has a comma."""
    return bool(_texts(column).str.fullmatch(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", case=False).any())


def _decimal_comma(texts: pd.Series, column: pd.Series, otherwise: bool) -> bool | None:
    """Whether commas stand before decimals in ``texts``; None where both kinds occur."""
    bare = texts.str.extract(r"([+-]?\d[\d.,]*)", expand=False).fillna("")
    commas = bare[bare.str.contains(",")]
    if commas.empty:
        return False
    grouped = commas.str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
    thousands = grouped & (commas.str.count(",") + commas.str.count(r"\.") > 1)
    if thousands.any():
        return False if grouped.all() else None
    if grouped.all():
        return otherwise
    points = column.drop(commas.index).astype(str).str.fullmatch(r"\s*[+-]?\d+\.\d+\s*")
    return None if points.any() else True  # 1.500 beside 1,5 may be fifteen hundred


def _spoken(text: str, decimal_comma: bool) -> float:
    """One cell as a number, NaN where it is none."""
    text = text.replace("$", "").replace("\\times", "x")
    text, scale = _unit(text)
    match = NUMBER.fullmatch(f"1x{text}" if POWER.match(text) else text)
    if not match or scale is None:
        return float("nan")
    digits = match[1].strip()
    if decimal_comma:
        digits = digits.translate(str.maketrans(",.", ".,"))
    for mark in GROUPING:
        if mark in digits and (mark != "." or digits.count(".") > 1):
            if not re.fullmatch(rf"[+-]?\d{{1,3}}({re.escape(mark)}\d{{3}})+(\.\d+)?", digits):
                return float("nan")
            digits = digits.replace(mark, "")
    power = int(match[2] or (match[3] or "0").translate(POWERS))
    return _float(f"{digits}e{power}" if power else digits) * scale


def positive(
    column: pd.Series,
    rows: pd.Series,
    source: str,
    zero: bool = False,
    name: str | None = None,
    why: str = "",
) -> pd.Series:
    """The ``column`` as floats.

    ``rows`` are the numbers of the rows in the file ``source``, ``name`` is the column's name there
    (default: that of ``column``); with ``zero``, 0 is allowed too. Raises `FlopsFitError`, which ends
    with ``why``, naming the first value that is not finite and positive.
    """
    values = floats(column)
    within = (values >= SMALLEST) & (values <= LARGEST)
    bad = ~(within | (values == 0) if zero else within)
    if bad.any():
        at = column.index[bad][0]
        raise FlopsFitError(
            f"{source}: row {int(rows[at])}, column {name or column.name!r}: {shown(column[at])}; "
            f"allowed: a positive finite number{' or 0' if zero else ''}{_limits(values[at])}{why}"
        )
    return values


def _limits(value: float) -> str:
    """What to say of a number that is positive and finite, and yet refused."""
    return f" from {SMALLEST:g} to {LARGEST:g}" if np.isfinite(value) and value > 0 else ""


def shown(value: object) -> str:
    """The cell ``value`` as its file has it, shortened to 40 characters."""
    if (isinstance(value, float) and np.isnan(value)) or value is None or value is pd.NaT:
        return "empty, or not a number"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame``, row by row, with an apostrophe before text that is a formula in spreadsheets."""
    texts = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{c: frame[c].map(_inert) for c in texts})


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "@")) else cell
