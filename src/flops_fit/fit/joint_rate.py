"""The best learning rate and batch (and weight decay) together, as rules of N and D.

They depend on each other: a larger batch wants a higher rate. Li et al. 2025 (arXiv 2503.04715)
found lr = 1.79 N^-0.713 D^0.307 and a batch of 0.58 D^0.571 tokens. In each cell (N, D) a paraboloid
of ln L in the logarithms of all that was varied, through the runs near the lowest loss, gives the
best of each at once; over the cells each is ln x* = c + p ln N + q ln D by least squares.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.learning_rate import AT_EDGE, BRACKETED, LEAST_SPREAD, TOO_FEW
from flops_fit.fit.numbers import interval

MARGIN = 0.01  # of ln L above the lowest of a cell: runs that the paraboloid sees
SPARE = 2  # runs beyond the paraboloid's coefficients, however far above the lowest
FEWEST_VALUES = 3  # of what was varied, in a cell
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
    intervals of its powers over resamples of the cells, drawn by ``seed``; and under the names of the
    others that were varied their rules. Cells that do not bracket their best values are flagged and
    not used. Raises `FlopsFitError` where fewer than three cells do.
    """
    names = varied(frame)
    done = frame[(frame["status"] == "completed") & frame["loss"].notna()]
    cells = [_cell(key, group, names) for key, group in done.groupby(CELL, sort=True)]
    used = [cell for cell in cells if cell.status == BRACKETED]
    if len(used) < FEWEST_CELLS:
        raise FlopsFitError(
            f"{' and '.join(names)}: {len(used)} of {len(cells)} cells bracket their best values; "
            f"rules need {FEWEST_CELLS}. Try a wider range"
        )
    logs = np.log([[cell.params, cell.tokens] for cell in used])
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(used), (RESAMPLES, len(used)))
    flagged = [cell for cell in cells if cell.status != BRACKETED]
    notes = [f"size {c.size:g}, D {c.tokens:.3g}: {_says(c)}" for c in flagged]
    rules: dict = {}
    for name in names:
        best = np.log([cell.best[name] for cell in used])
        rules[name], lost = _rule(logs, best, draws)
        notes += [f"{name}: {note}" for note in lost]
    rate = rules.pop("learning_rate")
    return {**rate, **rules, "cells": [asdict(cell) for cell in cells], "notes": notes}


def _cell(key: tuple[float, ...], group: pd.DataFrame, names: list[str]) -> JointCell:
    """The minimum of one cell; repeated seeds are averaged."""
    means = group.groupby(names)["loss"].mean()
    values = np.log(np.array(means.index.to_list(), dtype=float))
    log_loss = np.log(means.to_numpy())
    lowest = int(np.argmin(log_loss))
    size = 1 + len(names) + len(names) * (len(names) + 1) // 2

    def cell(at: np.ndarray, loss: float, curvature: float, runs: int, how: tuple) -> JointCell:
        best = {name: float(np.exp(v)) for name, v in zip(names, at, strict=True)}
        where, loss = (float(key[0]), float(key[1]), float(key[2])), float(np.exp(loss))
        return JointCell(*where, best["learning_rate"], best, loss, loss * curvature, runs, *how)

    ends = values.min(axis=0), values.max(axis=0)
    plain = (values[lowest], log_loss[lowest], 0.0, len(means))
    if len(means) < size + 1 or any(len(np.unique(v)) < FEWEST_VALUES for v in values.T):
        return cell(*plain, (TOO_FEW,))
    at_end = (values[lowest] <= ends[0]) | (values[lowest] >= ends[1])
    if at_end.any():
        return cell(*plain, (AT_EDGE, names[int(np.argmax(at_end))]))
    above = log_loss - log_loss[lowest]
    near = above <= max(MARGIN, np.sort(above)[min(size + SPARE, len(means)) - 1])
    vertex, loss, hessian = _vertex(values[near], log_loss[near])
    if hessian is None:
        return cell(*plain, (AT_EDGE, " and ".join(names)))
    outside = (vertex < ends[0]) | (vertex > ends[1])
    if outside.any():
        return cell(*plain, (AT_EDGE, names[int(np.argmax(outside))]))
    curvature = float(hessian[0, 0]) / 2
    return cell(vertex, loss, curvature, int(near.sum()), (BRACKETED,))


def _vertex(
    values: np.ndarray, log_loss: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Where the paraboloid through values (n, k) is lowest, ln L there, and its second derivatives.

    They are None where it does not open upwards.
    """
    centre = values.mean(axis=0)
    z, k = values - centre, values.shape[1]
    pairs = [(i, j) for i in range(k) for j in range(i, k)]
    design = np.column_stack([np.ones(len(z)), z, *(z[:, i] * z[:, j] for i, j in pairs)])
    solution, _, rank, _ = np.linalg.lstsq(design, log_loss, rcond=None)
    slope, hessian = solution[1 : k + 1], np.zeros((k, k))
    for (i, j), value in zip(pairs, solution[k + 1 :], strict=True):
        hessian[i, j] += value
        hessian[j, i] += value
    if rank < design.shape[1] or np.linalg.eigvalsh(hessian)[0] <= 0:
        return centre, float(log_loss.min()), None
    step = -np.linalg.solve(hessian, slope)
    return centre + step, float(solution[0] + slope @ step / 2), hessian


def _rule(logs: np.ndarray, best: np.ndarray, draws: np.ndarray) -> tuple[dict, list[str]]:
    """The rule of ln x* on ln N and ln D, those that vary, and notes on what is left out."""
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
    drawn = np.array([np.linalg.lstsq(design[d], best[d], rcond=None)[0] for d in draws])
    residual = best - design @ solution
    rule: dict = {
        "value": float(np.exp(solution[0])),
        "scatter": float(np.sqrt(np.mean(residual**2))),
        "interval": {},
    }
    for column, (index, name) in enumerate(kept, 1):
        reference = float(np.exp(centre[index]))
        rule[name] = {"reference": reference, "power": float(solution[column])}
        rule["interval"][name] = interval(drawn[:, column], LEVEL)
    return rule, notes


def _says(cell: JointCell) -> str:
    if cell.status == TOO_FEW:
        return "too few runs completed; not used"
    return f"the best {cell.edge} lies at an edge of those tried; not used"
