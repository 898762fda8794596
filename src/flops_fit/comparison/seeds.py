"""The luck of a seed: what all runs of one seed have in common by chance.

It shifts a whole sweep, so that no resample of runs and no residual around a law shows it. With y the
loss ln L of a cell (budget and size) and a seed,

    y = cell + u_seed + e,    Var(u) = luck^2,    Var(e) = noise^2,

and a shift u of all runs shifts ln L* at every C by u. What runs of all sizes share is the order of the
data, which is the same in two arms with the same seeds, so that there u cancels but for what each
recipe makes of it. Where seeds are repeated, luck^2 is the variance component of a two-way table: of the
difference of the arms where they have the same seeds, else of either arm. Few seeds show little, so the
mean square between seeds is shrunk to what is known of other sweeps (Smyth 2004), as that of the form
is. With one seed nothing is measured, and what is known of other sweeps stands alone.
"""

from dataclasses import dataclass

import numpy as np

from flops_fit.comparison.pairs import Arm, labels_of

# Luck over the noise of a run. Between the two seeds of the standard sweep (docs/standard/results.csv)
# the luck is 0.29% of the loss, and the noise of a run is 0.29%.
LUCK_OF_NOISE = 1.0
LUCK_DF = 3.0  # degrees of freedom that this counts as, like what is known of the form of a law
BORROWED, MEASURED = "borrowed", "measured"

Cells = dict[tuple, dict[str, float]]  # (budget, size) -> seed -> ln L


@dataclass(frozen=True)
class SeedLuck:
    """The error of the difference of ln L* of two arms that the luck of their seeds makes.

    ``sd``: its standard deviation; ``df``: the degrees of freedom behind it; ``source``: measured or
    borrowed; ``seeds``: of the reference, of the candidate, and of those that both have.
    """

    sd: float
    df: float
    source: str
    seeds: tuple[int, int, int]


def seed_luck(reference: Arm, candidate: Arm) -> SeedLuck:
    """What the luck of seeds adds to the difference of ``reference`` and ``candidate``, in ln L*."""
    arms = (reference, candidate)
    cells = [_cells(arm, other) for arm, other in (arms, arms[::-1])]
    first, second = ({seed for row in side.values() for seed in row} for side in cells)
    seeds = (len(first), len(second), len(first & second))
    both = {
        cell: {s: row[s] - cells[1][cell][s] for s in row if s in cells[1][cell]}
        for cell, row in cells[0].items()
        if cell in cells[1]
    }
    known = component(both, 0.0)
    if known:
        variance, df = known
        return SeedLuck(float(np.sqrt(variance / seeds[2])), df, MEASURED, seeds)
    parts, measured = [], 0
    for arm, side, count in zip(arms, cells, seeds[:2], strict=True):
        usual = LUCK_OF_NOISE * arm.fit.parametric.scale
        known = component(side, usual)
        measured += known is not None
        variance, df = known or (usual**2, LUCK_DF)
        parts.append((variance / count, df))
    total = sum(part for part, _ in parts)
    df = total**2 / sum(part**2 / df for part, df in parts) if total else LUCK_DF
    source = MEASURED if measured == len(arms) else BORROWED
    return SeedLuck(float(np.sqrt(total)), float(df), source, seeds)


def component(cells: Cells, usual: float) -> tuple[float, float] | None:
    """The variance of the luck of a seed in ``cells``, and the degrees of freedom behind it.

    ``usual``: its standard deviation in other sweeps, towards which it is shrunk. From the cells that
    have every seed; None with one seed, or fewer than two such cells.
    """
    seeds = sorted({seed for row in cells.values() for seed in row})
    table = np.array([[row[s] for s in seeds] for row in cells.values() if len(row) == len(seeds)])
    if len(seeds) < 2 or len(table) < 2:
        return None
    rows, columns = table.shape
    of_seed = table.mean(axis=0)
    rest = table - of_seed - table.mean(axis=1, keepdims=True) + table.mean()
    within = float((rest**2).sum()) / ((rows - 1) * (columns - 1) * rows)
    squares = (columns - 1) * float(of_seed.var(ddof=1)) + LUCK_DF * (within + usual**2)
    df = columns - 1 + LUCK_DF
    return max(squares / df - within, 0.0), df


def _cells(arm: Arm, other: Arm) -> Cells:
    """ln L of ``arm`` by cell and seed; the mean of repeated runs."""
    losses: dict[tuple, dict[str, list[float]]] = {}
    for label, loss in zip(labels_of(arm, other), np.log(arm.runs.column("loss")), strict=True):
        losses.setdefault(label[:2], {}).setdefault(label[2], []).append(float(loss))
    return {
        cell: {seed: float(np.mean(values)) for seed, values in row.items()}
        for cell, row in losses.items()
    }
