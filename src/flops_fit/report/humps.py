"""Whether the resamples of a fit fall into two groups, which one interval hides."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.result import Fit
from flops_fit.notation import count_text, flops_text

FEWEST = 500  # resamples, below which chance makes two humps of one
DEEPEST = 0.75  # of the lower hump: how high the valley between two humps may be
SMALLEST = 0.2  # share of the resamples in a hump
GRID = 256
SYMBOLS = {"alpha": "α", "beta": "β", "E": "E"}


@dataclass(frozen=True)
class Humps:
    """Two groups of values: the ``valley`` between them, and where the ``lower`` and ``upper`` peak.

    ``share_lower`` is the share of the values below the valley.
    """

    valley: float
    lower: float
    upper: float
    share_lower: float


def humps_of(values: np.ndarray) -> Humps | None:
    """The two humps of ``values`` (n,), or None where there is one, or too few values to tell.

    The density is estimated with a Gaussian kernel of two thirds of Silverman's width (1986, equation
    3.31), which suits one hump and would close the valley between two.
    """
    n, spread = len(values), float(np.std(values))
    quartiles = float(np.subtract(*np.percentile(values, [75, 25]))) / 1.34
    width = 0.6 * min(spread, quartiles) * n**-0.2
    if n < FEWEST or width <= 1e-9 * float(np.abs(values).max()):
        return None
    grid = np.linspace(values.min() - width, values.max() + width, GRID)
    density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    inner = np.arange(1, GRID - 1)
    peaks = inner[(density[inner] > density[inner - 1]) & (density[inner] >= density[inner + 1])]
    best, depth = None, DEEPEST
    for one in range(len(peaks) - 1):
        between = slice(peaks[one], peaks[one + 1] + 1)
        valley = peaks[one] + int(np.argmin(density[between]))
        left, right = (peaks[: one + 1], peaks[one + 1 :])
        lower, upper = (int(side[np.argmax(density[side])]) for side in (left, right))
        below = float((values < grid[valley]).mean())
        height = density[valley] / min(density[lower], density[upper])
        if height < depth and SMALLEST <= below <= 1 - SMALLEST:
            depth = height
            best = Humps(float(grid[valley]), float(grid[lower]), float(grid[upper]), below)
    return best


def humps_sentence(fit: Fit, flops: float) -> str:
    """What to make of resamples of the surface in two groups, at the budget ``flops``.

    It is empty where there is one group, and where ``fit`` has no resamples.
    """
    draws = fit.laws["surface"].draws
    if fit.parametric.status == "not_identifiable" or not isinstance(draws, SurfaceLaw):
        return ""
    for name, symbol in SYMBOLS.items():
        values = draws.values[:, draws.columns.index(name)]
        humps = humps_of(values)
        if humps is None:
            continue
        log_n = draws.optimum(float(np.log(flops)), fit.cost)[0]
        sides = [np.median(log_n[side]) for side in (values < humps.valley, values >= humps.valley)]
        lower, upper = (count_text(float(np.exp(side))) for side in sides)
        return (
            f"The resamples of {symbol} fall into two groups, around {humps.lower:.2g} "
            f"({humps.share_lower:.0%} of them) and {humps.upper:.2g}: a few runs decide between two "
            f"shapes of the surface, and one interval covers both. The best N of the surface at "
            f"{flops_text(flops)} FLOPs is about {lower} in the first group and {upper} in the second"
        )
    return ""
