"""Where the loss of one cell is lowest: a paraboloid, or a cubic, through the runs near the minimum.

``x`` holds the logarithms of all that was varied, as offsets from the mean of the cell's runs. A cell
with enough runs near its minimum has a curvature that is estimated from them alone. Cells with fewer,
as a fraction of a grid has, share one curvature of ln L and keep a level and a slope each.
"""

import itertools
from dataclasses import dataclass

import numpy as np

SPARE = 2  # runs beyond the coefficients of a fit, however far above the lowest
FEWEST_VALUES = 3  # of what was varied, in a cell
NEWTON_STEPS, LONGEST_STEP = 20, 0.5  # of the cubic's minimum, from the paraboloid's


@dataclass(frozen=True)
class Tried:
    """The runs of one cell: ``x`` (n, k), the logarithms of what was varied, ``log_loss`` (n,)."""

    x: np.ndarray
    log_loss: np.ndarray

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest value tried of each, (k,)."""
        return self.x.min(axis=0), self.x.max(axis=0)

    @property
    def lowest(self) -> int:
        """The row of the lowest loss."""
        return int(np.argmin(self.log_loss))

    @property
    def alone(self) -> bool:
        """Whether there are enough runs for a curvature of this cell alone."""
        values = min(len(np.unique(column)) for column in self.x.T)
        return values >= FEWEST_VALUES and len(self.x) >= coefficients(self.x.shape[1], 2) + SPARE

    @property
    def placed(self) -> bool:
        """Whether there are enough runs for a level and a slope, with one to spare."""
        return len(self.x) >= self.x.shape[1] + 2

    def near(self, margin: float, fewest: int) -> np.ndarray:
        """Which runs lie within ``margin`` of ln L above the lowest, at least ``fewest``, (n,)."""
        above = self.log_loss - self.log_loss[self.lowest]
        return above <= max(margin, np.sort(above)[min(fewest, len(above)) - 1])


@dataclass(frozen=True)
class Valley:
    """Where a fitted function is lowest.

    ``at`` (k,) is the place, ``log_loss`` the value there, ``hessian`` (k, k) its second derivatives;
    ``near`` (n,) marks the runs that the function was fitted to, and ``misses`` are their residuals in
    ln L. ``free`` is the number of residuals less that of the coefficients.
    """

    at: np.ndarray
    log_loss: float
    hessian: np.ndarray
    near: np.ndarray
    misses: np.ndarray
    free: float


def coefficients(k: int, degree: int) -> int:
    """The number of coefficients of a polynomial of ``degree`` in ``k`` variables."""
    return sum(len(_powers(k, d)) for d in range(degree + 1))


def valley(cell: Tried, margin: float, cubic: bool = False) -> Valley | None:
    """The minimum of ``cell`` by itself, from the runs within ``margin`` of ln L above the lowest.

    ``cubic``: a polynomial of third degree where there are enough runs for one. None where the
    function does not open upwards.
    """
    k = cell.x.shape[1]
    fewest = coefficients(k, 2) + SPARE
    near = cell.near(margin, fewest)
    third = cubic and near.sum() >= coefficients(k, 3) + SPARE
    centre = cell.x[near].mean(axis=0)
    z, y = cell.x[near] - centre, cell.log_loss[near]
    design = _monomials(z, 2)
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    if rank < design.shape[1]:
        return None
    hessian = _hessian(solution[1 + k :], k)
    place = _bottom(hessian, solution[1 : 1 + k])
    if place is None:
        return None
    if third:
        design = _monomials(z, 3)
        solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        low, high = z.min(axis=0), z.max(axis=0)
        lowest = _descend(solution, np.clip(place, low, high)) if rank == design.shape[1] else None
        if lowest is None:
            return None
        place, hessian = lowest
    loss = float((_monomials(place[None], 3 if third else 2) @ solution)[0])
    misses = y - design @ solution
    return Valley(centre + place, loss, hessian, near, misses, len(y) - design.shape[1])


def valleys_together(cells: list[Tried], margin: float) -> list[Valley | None]:
    """The minima of ``cells`` that share one curvature of ln L; None for all where it is not known.

    Each keeps a level and a slope; ``margin`` as in `valley`.
    """
    if not cells:
        return []
    k = cells[0].x.shape[1]
    nears = [cell.near(margin, coefficients(k, 2)) for cell in cells]
    centres = [cell.x[near].mean(axis=0) for cell, near in zip(cells, nears, strict=True)]
    projected, flat = [], []
    for cell, near, centre in zip(cells, nears, centres, strict=True):
        z, y = cell.x[near] - centre, cell.log_loss[near]
        plane, bowl = np.split(_monomials(z, 2), [1 + k], axis=1)
        off = np.column_stack([bowl, y])
        off = off - plane @ np.linalg.lstsq(plane, off, rcond=None)[0]
        projected.append(off)
        flat.append((plane, bowl, y))
    stacked = np.vstack(projected)
    shape, _, rank, _ = np.linalg.lstsq(stacked[:, :-1], stacked[:, -1], rcond=None)
    hessian = _hessian(shape, k)
    if rank < stacked.shape[1] - 1 or np.linalg.eigvalsh(hessian)[0] <= 0:
        return [None] * len(cells)
    lost = (stacked.shape[1] - 1) / len(cells)  # of the shared coefficients, for each cell
    valleys: list[Valley | None] = []
    for (plane, bowl, y), near, centre in zip(flat, nears, centres, strict=True):
        tilt = np.linalg.lstsq(plane, y - bowl @ shape, rcond=None)[0]
        step = -np.linalg.solve(hessian, tilt[1:])
        misses = y - bowl @ shape - plane @ tilt
        loss = float(tilt[0] + tilt[1:] @ step / 2)
        free = len(y) - plane.shape[1] - lost
        valleys.append(Valley(centre + step, loss, hessian, near, misses, free))
    return valleys


def _powers(k: int, degree: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations_with_replacement(range(k), degree))


def _monomials(z: np.ndarray, degree: int) -> np.ndarray:
    """The products of the columns of ``z`` (n, k) up to ``degree``, those of low degree first."""
    columns = [
        np.prod(z[:, list(power)], axis=1)
        for d in range(degree + 1)
        for power in _powers(z.shape[1], d)
    ]
    return np.column_stack(columns)


def _hessian(quadratic: np.ndarray, k: int) -> np.ndarray:
    """The second derivatives (k, k) of the part of degree 2, from its coefficients."""
    hessian = np.zeros((k, k))
    for (i, j), value in zip(_powers(k, 2), quadratic, strict=True):
        hessian[i, j] += value
        hessian[j, i] += value
    return hessian


def _bottom(hessian: np.ndarray, slope: np.ndarray) -> np.ndarray | None:
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    return -np.linalg.solve(hessian, slope)


def _descend(solution: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The minimum of a cubic near ``place`` by Newton's method, and the second derivatives there."""
    k = len(place)
    first = 1 + k + len(_powers(k, 2))
    slope, flat = solution[1 : 1 + k], _hessian(solution[1 + k : first], k)
    tensor = np.zeros((k, k, k))  # symmetric third derivatives
    for power, value in zip(_powers(k, 3), solution[first:], strict=True):
        for place_in in itertools.permutations(power):
            tensor[place_in] += value
    for _ in range(NEWTON_STEPS):
        twist = tensor @ place
        hessian = flat + twist
        step = _bottom(hessian, slope + flat @ place + twist @ place / 2)
        if step is None:
            return None
        place = place + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
    return place, flat + tensor @ place
