"""The best learning rate and batch (and weight decay) together, as rules of N and D.

They depend on each other: a larger batch wants a higher rate. Li et al. 2025 (arXiv 2503.04715)
found lr = 1.79 N^-0.713 D^0.307 and a batch of 0.58 D^0.571 tokens. In each cell (N, D) a paraboloid
of ln L in the logarithms of all that was varied, through the runs near the lowest loss, gives the
best of each at once; over the cells each is ln x* = c + p ln N + q ln D by least squares.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.learning_rate import AT_EDGE, BRACKETED, LEAST_SPREAD, TOO_FEW
from flops_fit.fit.numbers import interval
from flops_fit.fit.valley import FEWEST_VALUES, Tried, Valley, valley, valleys_together

MARGIN = 0.01  # of ln L above the lowest of a cell: runs that the paraboloid sees
MARGINS = (0.005, 0.02)  # between which a resample draws it
RESAMPLES, LEVEL = 400, 0.90
FEWEST_CELLS = 3
CELL = ["size", "params", "tokens"]
AXES = ("learning_rate", "batch_tokens", "weight_decay")


@dataclass(frozen=True)
class JointCell:
    """What was tried at one ``size`` and D: ``best`` holds the minimum of the paraboloid by name.

    ``params`` and ``tokens`` are N and D, ``best_rate`` is the learning rate of the minimum, ``loss``
    its loss and ``curvature`` that of the loss in ln lr there; ``runs`` is the number of runs that the
    paraboloid saw. ``status``: bracketed, at_edge or too_few_points; ``edge`` names what lies at the
    edge of the values tried.
    """

    size: float
    params: float
    tokens: float
    best_rate: float
    best: dict[str, float]
    loss: float
    curvature: float
    runs: int
    status: str
    edge: str = ""


def varied(frame: pd.DataFrame) -> list[str]:
    """Which of `AXES` are columns of ``frame`` (one row per run) with several values in one cell."""
    names = [name for name in AXES if name in frame]
    cells = frame.groupby(CELL)
    return [name for name in names if cells[name].nunique().max() >= FEWEST_VALUES]


def fit_jointly(frame: pd.DataFrame, seed: int = 0) -> dict:
    """Fit the rules to ``frame``, one row per run, columns as `read_rates` gives them.

    Returns the rule for the learning rate, as `fit_learning_rate` gives it, with ``interval``: the 90%
    intervals of its powers over resamples drawn by ``seed``; and under the names of the others that
    were varied their rules. Cells that do not bracket their best values are flagged and not used.
    Raises `FlopsFitError` where fewer than three cells do.
    """
    names = varied(frame)
    done = frame[(frame["status"] == "completed") & frame["loss"].notna()]
    groups = list(done.groupby(CELL, sort=True))
    tried = [_tried(group, names) for _, group in groups]
    valleys = _valleys(tried, MARGIN)
    cells = [
        _cell(key, cell, minimum, names)
        for (key, _), cell, minimum in zip(groups, tried, valleys, strict=True)
    ]
    used = [i for i, cell in enumerate(cells) if cell.status == BRACKETED]
    if len(used) < FEWEST_CELLS:
        raise FlopsFitError(
            f"{' and '.join(names)}: {len(used)} of {len(cells)} cells bracket their best values; "
            f"rules need {FEWEST_CELLS}. Try a wider range"
        )
    logs = np.log([[cells[i].params, cells[i].tokens] for i in used])
    at = [(tried[i], minimum) for i in used if (minimum := valleys[i]) is not None]
    drawn = np.array(list(_resampled(at, np.random.default_rng(seed))))
    flagged = [cell for cell in cells if cell.status != BRACKETED]
    notes = [f"size {c.size:g}, D {c.tokens:.3g}: {_says(c)}" for c in flagged]
    rules: dict = {}
    for index, name in enumerate(names):
        best = np.array([minimum.at[index] for _, minimum in at])
        rules[name], lost = _rule(logs, best, drawn[:, :, index], seed)
        notes += [f"{name}: {note}" for note in lost]
    rate = rules.pop("learning_rate")
    return {**rate, **rules, "cells": [asdict(cell) for cell in cells], "notes": notes}


def _tried(group: pd.DataFrame, names: list[str]) -> Tried:
    """The completed runs of one cell; repeated seeds are averaged."""
    means = group.groupby(names)["loss"].mean()
    return Tried(np.log(np.array(means.index.to_list(), dtype=float)), np.log(means.to_numpy()))


def _valleys(tried: list[Tried], margin: float, cubic: bool = False) -> list[Valley | None]:
    """The minimum of each cell, by itself where it has enough runs, else with the others."""
    few = [cell for cell in tried if not cell.alone and cell.placed]
    together = iter(valleys_together(few, margin))
    return [
        valley(cell, margin, cubic) if cell.alone else next(together) if cell.placed else None
        for cell in tried
    ]


def _cell(
    key: tuple[float, ...], tried: Tried, minimum: Valley | None, names: list[str]
) -> JointCell:
    """What the ``minimum`` of a cell says, and whether it is bracketed."""
    lowest, (low, high) = tried.lowest, tried.ends

    def cell(at: np.ndarray, loss: float, curvature: float, runs: int, *how: str) -> JointCell:
        best = {name: float(np.exp(v)) for name, v in zip(names, at, strict=True)}
        where, loss = (float(key[0]), float(key[1]), float(key[2])), float(np.exp(loss))
        return JointCell(*where, best["learning_rate"], best, loss, loss * curvature, runs, *how)

    plain = (tried.x[lowest], tried.log_loss[lowest], 0.0, len(tried.x))
    if not tried.alone and (not tried.placed or minimum is None):
        return cell(*plain, TOO_FEW)
    at_end = (tried.x[lowest] <= low) | (tried.x[lowest] >= high)
    if tried.alone and at_end.any():
        return cell(*plain, AT_EDGE, names[int(np.argmax(at_end))])
    if minimum is None:
        return cell(*plain, AT_EDGE, " and ".join(names))
    outside = (minimum.at < low) | (minimum.at > high)
    if outside.any():
        return cell(*plain, AT_EDGE, names[int(np.argmax(outside))])
    curvature = float(minimum.hessian[0, 0]) / 2
    return cell(minimum.at, minimum.log_loss, curvature, int(minimum.near.sum()), BRACKETED)


def _resampled(
    cells: list[tuple[Tried, Valley]], generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """How far the minima of ``cells`` move in each resample, (cells, k); nan where one has none.

    A resample adds noise of the size of the residuals to the losses, draws the window around the
    lowest loss anew, and takes a paraboloid or a cubic: the choice of both moves all cells alike,
    which a resample of the cells alone would not show.
    """
    free = sum(max(minimum.free, 0.0) for _, minimum in cells)
    squares = sum(float(minimum.misses @ minimum.misses) for _, minimum in cells)
    noise = float(np.sqrt(squares / free)) if free > 0 else 0.0
    for _ in range(RESAMPLES):
        margin = float(np.exp(generator.uniform(*np.log(MARGINS))))
        cubic = bool(generator.integers(2))
        drawn = []
        for tried, _ in cells:
            losses = tried.log_loss + noise * generator.standard_normal(len(tried.log_loss))
            drawn.append(Tried(tried.x, losses))
        moved = np.full((len(cells), cells[0][0].x.shape[1]), np.nan)
        for i, after in enumerate(_valleys(drawn, margin, cubic)):
            tried, before = cells[i]
            low, high = tried.ends
            if after is not None and ((after.at >= low) & (after.at <= high)).all():
                moved[i] = after.at - before.at
        yield moved


def _rule(
    logs: np.ndarray, best: np.ndarray, moved: np.ndarray, seed: int
) -> tuple[dict, list[str]]:
    """The rule of ln x* on ln N and ln D, those that vary, and notes on what is left out.

    ``best`` (cells,) is ln x*, ``moved`` (draws, cells) what it moves in each resample. A draw adds
    to that a deviation of each cell from the rule, drawn from those that are seen.
    """
    centre, notes = logs.mean(axis=0), []
    kept: list[tuple[int, str]] = []
    for index, name in enumerate(("params", "tokens")):
        if np.ptp(logs[:, index]) < LEAST_SPREAD or len(logs) < 3 + len(kept):
            notes.append(
                f"the power of {name} is not identifiable from {len(logs)} cells: left out"
            )
        else:
            kept.append((index, name))
    design = np.column_stack([np.ones(len(logs)), *((logs - centre)[:, i] for i, _ in kept)])
    if np.linalg.matrix_rank(design, tol=LEAST_SPREAD) < design.shape[1]:
        design, kept = design[:, :-1], kept[:-1]
        notes.append("N and D vary together: the power of tokens is left out")
    solution = np.linalg.lstsq(design, best, rcond=None)[0]
    residual = best - design @ solution
    free = len(best) - design.shape[1]
    deviations = residual * np.sqrt(len(best) / free) if free else np.zeros(len(best))
    generator = np.random.default_rng(seed)
    drawn = []
    for move in moved:
        seen = np.isfinite(move)
        if np.linalg.matrix_rank(design[seen], tol=LEAST_SPREAD) < design.shape[1]:
            continue
        values = best + move + generator.choice(deviations, len(best))
        drawn.append(np.linalg.lstsq(design[seen], values[seen], rcond=None)[0])
    rule: dict = {
        "value": float(np.exp(solution[0])),
        "scatter": float(np.sqrt(np.mean(residual**2))),
        "interval": {},
    }
    for column, (index, name) in enumerate(kept, 1):
        reference = float(np.exp(centre[index]))
        rule[name] = {"reference": reference, "power": float(solution[column])}
        rule["interval"][name] = interval(np.array(drawn)[:, column], LEVEL)
    return rule, notes


def _says(cell: JointCell) -> str:
    if cell.status == TOO_FEW:
        return "too few runs completed; not used"
    return f"the best {cell.edge} lies at an edge of those tried; not used"
