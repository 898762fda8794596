"""The luck of a seed: what all runs of one seed have in common by chance, such as the order of data.

It shifts a whole sweep, so that no resample of runs and no residual around a law shows it. With y the
loss ln L of a cell (budget and size) and a seed,

    y = cell + u_seed + e,    Var(u) = luck^2,    Var(e) = noise^2,

and a shift u of all runs shifts ln L* at every C by u. Where seeds are repeated, luck^2 is the variance
component of a two-way table (Satterthwaite 1946 for its degrees of freedom); where both arms have the
same seeds, that of the difference of the arms, in which common luck cancels. With one seed it cannot be
measured, and a figure from another sweep takes its place.
"""

from dataclasses import dataclass

import numpy as np

from flops_fit.comparison.pairs import Arm, labels_of

# Between the two seeds of the standard sweep (docs/standard/results.csv): the seeds differ by 0.42% of
# the loss over all cells, so that the luck of one is 0.29%; a run scatters by 0.28% around that.
LUCK_OF_NOISE = 1.0
LUCK_DF = 3.0  # degrees of freedom that this figure counts as, like that of the form of a law
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
    """What the luck of seeds adds to the difference of ``reference`` and ``candidate``, in ln L*.

    Measured from seeds that both arms have, else from those of each arm, else from those of one of them,
    else borrowed in proportion to the noise of a run.
    """
    arms = (reference, candidate)
    cells = [_cells(arm, other) for arm, other in (arms, arms[::-1])]
    first, second = ({seed for row in side.values() for seed in row} for side in cells)
    seeds = (len(first), len(second), len(first & second))
    if seeds[2] > 1:
        both = {
            cell: {s: row[s] - cells[1][cell][s] for s in row if s in cells[1][cell]}
            for cell, row in cells[0].items()
            if cell in cells[1]
        }
        known = component(both)
        if known:
            return SeedLuck(known[0] / np.sqrt(known[2]), known[1], MEASURED, seeds)
    measured = [component(side) for side in cells]
    known = measured[0] or measured[1]
    if known:
        parts = []
        for own, count in zip(measured, seeds[:2], strict=True):
            sd, df, used = own or known
            parts.append((sd**2 / (used if own else count), df))
        variance = sum(part for part, _ in parts)
        weights = sum(part**2 / df for part, df in parts)
        df = variance**2 / weights if variance else known[1]
        return SeedLuck(float(np.sqrt(variance)), float(df), MEASURED, seeds)
    noise = [arm.fit.parametric.scale for arm in arms]
    variance = sum(
        (LUCK_OF_NOISE * sd) ** 2 / count for sd, count in zip(noise, seeds, strict=False)
    )
    return SeedLuck(float(np.sqrt(variance)), LUCK_DF, BORROWED, seeds)


def component(cells: Cells) -> tuple[float, float, int] | None:
    """The luck of a seed in ``cells``: its standard deviation, degrees of freedom, and seeds.

    From the cells that have every seed; None with one seed, or fewer than two such cells.
    """
    seeds = sorted({seed for row in cells.values() for seed in row})
    table = np.array([[row[s] for s in seeds] for row in cells.values() if len(row) == len(seeds)])
    if len(seeds) < 2 or len(table) < 2:
        return None
    rows, columns = table.shape
    of_seed = table.mean(axis=0)
    rest = table - of_seed - table.mean(axis=1, keepdims=True) + table.mean()
    between = float(of_seed.var(ddof=1))
    within = float((rest**2).sum()) / ((rows - 1) * (columns - 1) * rows)
    luck = max(between - within, 0.0)
    doubt = between**2 / (columns - 1) + within**2 / ((rows - 1) * (columns - 1))
    return float(np.sqrt(luck)), float(max(luck**2 / doubt, 1e-9) if doubt else 1.0), columns


def _cells(arm: Arm, other: Arm) -> Cells:
    """ln L of ``arm`` by cell and seed; the mean of repeated runs."""
    losses: dict[tuple, dict[str, list[float]]] = {}
    for label, loss in zip(labels_of(arm, other), np.log(arm.runs.column("loss")), strict=True):
        losses.setdefault(label[:2], {}).setdefault(label[2], []).append(float(loss))
    return {
        cell: {seed: float(np.mean(values)) for seed, values in row.items()}
        for cell, row in losses.items()
    }
