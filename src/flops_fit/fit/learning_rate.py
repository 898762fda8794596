"""The best learning rate as a rule of N and D, from runs at several rates.

Untuned rates are among the largest causes of wrong laws (Porian et al. 2024, arXiv 2406.19146): a
rate tuned at one size tilts every curve. In each cell (size, D) the loss is a parabola in ln lr
around its lowest point; the minima of all cells then give ln lr* = c + p ln N + q ln D.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from flops_fit.constants import flops_6nd
from flops_fit.errors import FlopsFitError
from flops_fit.fit.formats import read_table
from flops_fit.fit.tables import floats, positive

FAR_OFF = 2.0  # factor in the rate between a rule and a cell that contradicts it
BRACKETED, AT_EDGE, TOO_FEW = "bracketed", "at_edge", "too_few_points"
COLUMNS = ("params", "tokens", "learning_rate", "loss")
NEIGHBOURS = 2  # rates on each side of the lowest that the parabola sees
TOGETHER = 0.99  # correlation of ln N and ln D, beyond which their powers cannot be separated
LEAST_SPREAD = 0.1  # of ln N or ln D over the cells, below which its power is not identifiable


@dataclass(frozen=True)
class Cell:
    """The rates tried at one size and D: ``best_rate`` is the parabola's minimum if bracketed."""

    size: float
    params: float  # N
    tokens: float  # D
    best_rate: float
    loss: float  # at the best rate
    curvature: float  # of the parabola in ln lr
    status: str  # bracketed, at_edge or too_few_points


def read_rates(path: str) -> pd.DataFrame:
    """Read the run table of a learning-rate sweep in the file ``path``, one row per run.

    Columns params, tokens, learning_rate and loss; size, budget and status where there are any, and
    what else was varied: batch_tokens (in this project's tables: tokens / steps) and weight_decay.
    Raises `FlopsFitError` that names what it lacks.
    """
    table = read_table(path)
    frame = table.frame
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise FlopsFitError(f"{path}: no column {missing[0]!r}; needed: {', '.join(COLUMNS)}")
    rows = pd.Series(table.rows)
    if "steps" in frame:
        steps = positive(frame["steps"], rows, path)
        batch = (floats(frame["tokens"]) / steps).round()
        known = floats(frame["batch_tokens"]) if "batch_tokens" in frame else batch
        frame["batch_tokens"] = known.fillna(batch)
    numbers = ["params", "tokens", "learning_rate"]
    numbers += [n for n in ("size", "batch_tokens", "weight_decay") if n in frame]
    for name in numbers:
        frame[name] = positive(frame[name], rows, path)
    given = {"size": frame["params"], "status": "completed"}
    given["budget"] = flops_6nd(frame["params"], frame["tokens"])
    for name, values in given.items():
        if name not in frame:
            frame[name] = values
    done = frame["status"] == "completed"
    planned = frame[done].groupby(["size", "budget"])["tokens"].first()
    for row in frame.index[~done]:  # a run that ended early has seen a part of its D
        cell = frame.loc[row, "size"], frame.loc[row, "budget"]
        frame.loc[row, "tokens"] = planned.get(cell, frame.loc[row, "tokens"])
    frame["loss"] = floats(frame["loss"])
    positive(frame["loss"][done], rows, path)
    return frame


def fit_learning_rate(frame: pd.DataFrame) -> dict:
    """Fit the rule to ``frame``: columns size, params, tokens, learning_rate, loss, status.

    Returns a rule as configs take it (``value`` and, where identifiable, ``params`` and ``tokens``
    with ``reference`` and ``power``), with ``cells``, ``notes`` and the ``scatter`` of ln lr*
    around the rule. Cells whose best rate lies at an edge of those tried, diverged runs beyond it
    aside, are flagged and not used; ``misses`` counts those of them where the rule lies on the other
    side of that edge by more than a factor of 2. Raises `FlopsFitError` where no cell is bracketed.
    """
    cells = [_cell(group) for _, group in frame.groupby(["size", "params", "tokens"], sort=True)]
    used = [cell for cell in cells if cell.status == BRACKETED]
    if not used:
        raise FlopsFitError(
            "learning_rate_factors: no cell brackets its best rate; every lowest loss lies at an "
            "edge of the rates tried. Try a wider range of factors"
        )
    logs = np.log([[cell.params, cell.tokens, cell.best_rate] for cell in used])
    rule, notes, scatter = _regress(logs)
    flagged = [cell for cell in cells if cell.status != BRACKETED]
    notes += [f"{_name(c)}: {_words(c)}" for c in flagged]
    misses = [miss for cell in flagged if (miss := _miss(cell, frame, rule))]
    return {
        **rule,
        "scatter": scatter,
        "notes": notes + misses,
        "misses": len(misses),
        "cells": [asdict(cell) for cell in cells],
    }


def _miss(cell: Cell, frame: pd.DataFrame, rule: dict) -> str:
    """In what the ``rule`` contradicts a ``cell`` of ``frame`` at an edge; empty where it agrees."""
    if cell.status != AT_EDGE:
        return ""
    runs = frame[(frame["size"] == cell.size) & (frame["tokens"] == cell.tokens)]
    tried = runs["learning_rate"][(runs["status"] == "completed") & runs["loss"].notna()]
    given = rule["value"]
    for name, value in (("params", cell.params), ("tokens", cell.tokens)):
        if name in rule:
            given *= (value / rule[name]["reference"]) ** rule[name]["power"]
    high = cell.best_rate <= tried.min() and given > FAR_OFF * cell.best_rate
    low = cell.best_rate >= tried.max() and given < cell.best_rate / FAR_OFF
    if not (high or low):
        return ""
    return (
        f"{_name(cell)}: the rule gives {given:.3g} there, although the best rate is "
        f"{cell.best_rate:.3g} or {'lower' if high else 'higher'}, so it does not hold there. Add "
        f"{'smaller' if high else 'larger'} learning_rate_factors"
    )


def _name(cell: Cell) -> str:
    return f"size {cell.size:g}, D {cell.tokens:.3g}"


def _cell(group: pd.DataFrame) -> Cell:
    """Minimum of one cell; repeated seeds are averaged, diverged rates only bound the range."""
    done = group[(group["status"] == "completed") & group["loss"].notna()]
    means = done.groupby("learning_rate")["loss"].mean().sort_index()
    head = (
        float(group["size"].iloc[0]),
        float(group["params"].iloc[0]),
        float(group["tokens"].iloc[0]),
    )
    if len(means) < 3:
        rate, loss = (means.idxmin(), means.min()) if len(means) else (0.0, 0.0)
        return Cell(*head, float(rate), float(loss), 0.0, TOO_FEW)
    best = int(np.argmin(means.to_numpy()))
    rate, loss = float(means.index[best]), float(means.iloc[best])
    if best in (0, len(means) - 1):
        return Cell(*head, rate, loss, 0.0, AT_EDGE)
    near = means.iloc[max(best - NEIGHBOURS, 0) : best + NEIGHBOURS + 1]
    x = np.log(near.index.to_numpy() / rate)
    curvature, slope, at_best = np.polyfit(x, near.to_numpy(), 2)
    shift = -slope / (2 * curvature) if curvature > 0 else np.inf
    if not x.min() < shift < x.max():
        return Cell(*head, rate, loss, float(curvature), AT_EDGE)
    minimum = at_best + slope * shift / 2
    return Cell(*head, float(rate * np.exp(shift)), float(minimum), float(curvature), BRACKETED)


def _regress(logs: np.ndarray) -> tuple[dict, list[str], float]:
    """Least squares of ln lr* on ln N and ln D, each only if it varies and there are enough cells."""
    notes: list[str] = []
    columns: list[np.ndarray] = []
    names: list[tuple[str, float]] = []
    centre = logs[:, :2].mean(axis=0)
    for index, name in enumerate(("params", "tokens")):
        spread = np.ptp(logs[:, index])
        if spread < LEAST_SPREAD or len(logs) < 3 + len(columns):
            notes.append(
                f"the power of {name} is not identifiable from {len(logs)} cells: left out"
            )
            continue
        columns.append(logs[:, index] - centre[index])
        names.append((name, float(np.exp(centre[index]))))
    design = np.column_stack([np.ones(len(logs)), *columns])
    if len(names) == 2 and abs(np.corrcoef(design[:, 1], design[:, 2])[0, 1]) > TOGETHER:
        design, names = design[:, :-1], names[:-1]
        notes.append("N and D vary together: the power of tokens is left out")
    solution, *_ = np.linalg.lstsq(design, logs[:, 2], rcond=None)
    residual = logs[:, 2] - design @ solution
    scatter = float(np.sqrt(np.mean(residual**2)))
    powers = {
        name: {"reference": reference, "power": float(power)}
        for (name, reference), power in zip(names, solution[1:], strict=True)
    }
    return {"value": float(np.exp(solution[0])), **powers}, notes, scatter


def _words(cell: Cell) -> str:
    if cell.status == TOO_FEW:
        return "fewer than three rates completed; not used"
    return f"the best rate {cell.best_rate:.3g} lies at an edge of those tried; not used"
