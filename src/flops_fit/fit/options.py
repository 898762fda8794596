"""How a table is fitted: every choice in one place, checked before any work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.bootstrap import UNITS
from flops_fit.fit.runs import RunTable
from flops_fit.fit.sizes import Size

METHODS = ("auto", "surface", "tied", "fixed_e", "isoflop", "envelope")
FEWEST_RUNS = 5  # one for each parameter of the surface


@dataclass(frozen=True)
class FitOptions:
    """The choices behind a fit.

    ``sizes``: the sizes known beyond the runs (`Size`). ``delta``: Huber threshold
    on ln L, "auto" = 1.345 robust scales. ``bootstrap``: number of resamples, drawn with ``seed``, 0
    for no intervals; ``level``: of the intervals. ``method``: the headline: surface, tied (alpha =
    beta), fixed_e, isoflop or envelope, each with intervals that cover noise only; "auto" is the
    stack.
    ``exclude``: "auto" leaves out runs beyond 6 robust scales, "none" fits all; the default is
    "auto", but "none" where the table marks its own outliers or ``delta`` is given. ``resample``:
    runs, groups or wild; default runs, or groups where sizes were repeated with several seeds.
    ``fixed_e``: irreducible loss to hold. ``curve``, ``window``: parabola or akima, and the factor
    in N around the lowest run that a parabola sees. ``sensitivity`` False saves the refits under
    other choices (`flops_fit.fit.sensitivity`). ``chance``: what guessing gives of the accuracy that
    the table was read with, None to estimate it. ``loss_unit`` is written beside every loss; default
    nats (per token), or bits per byte where the table's column says so.
    """

    sizes: Sequence[Size] | None = None
    delta: float | str = "auto"
    bootstrap: int = 1000
    seed: int = 0
    method: str = "auto"
    exclude: str | None = None
    resample: str | None = None
    level: float = 0.90
    fixed_e: float | None = None
    curve: str = "parabola"
    window: float | None = None
    sensitivity: bool = True
    loss_unit: str | None = None
    chance: float | None = None

    def check(self, table: RunTable) -> None:
        """Refuse bad settings, and a ``table`` of too few runs, by name, with a `FlopsFitError`."""
        if self.delta != "auto" and not (
            isinstance(self.delta, (int, float)) and 0 < self.delta < np.inf
        ):
            raise FlopsFitError(f"delta: {self.delta!r}; allowed: auto or a positive number")
        for name in ("bootstrap", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise FlopsFitError(f"{name}: {value!r}; allowed: an integer of at least 0")
        for name, allowed in (
            ("method", METHODS),
            ("exclude", (None, "auto", "none")),
            ("resample", (None, *UNITS)),
            ("curve", ("parabola", "akima")),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(a) for a in allowed if a is not None)
                raise FlopsFitError(f"{name}: {getattr(self, name)!r}; allowed: {choices}")
        if self.window is not None and not self.window > 1:
            raise FlopsFitError(f"window: {self.window!r}; allowed: a factor above 1")
        if not 0 < self.level < 1:
            raise FlopsFitError(f"level: {self.level!r}; allowed: between 0 and 1")
        if self.chance is not None and table.reading.accuracy is None:
            raise FlopsFitError("chance: allowed: with an accuracy (--accuracy COLUMN)")
        if self.chance is not None and not 0 <= self.chance < 1:
            raise FlopsFitError(f"chance: {self.chance!r}; allowed: from 0 to below 1")
        lowest = table.frame["loss"].min()
        if self.fixed_e is not None and not 0 < self.fixed_e < lowest:
            raise FlopsFitError(
                f"fixed_e: {self.fixed_e!r}; allowed: above 0 and below the lowest loss {lowest:.6g}"
            )
        if len(table.frame) < FEWEST_RUNS:
            raise FlopsFitError(
                f"{table.source}: {len(table.frame)} runs to fit, fewer than the {FEWEST_RUNS} "
                f"parameters of L = E + A/N^alpha + B/D^beta ({_left_out_text(table)}); more runs are "
                "needed"
            )

    def choices(self) -> dict[str, float | str | bool]:
        """The options that are not at their default; a fit keeps the resampling and sizes elsewhere."""
        elsewhere = ("sizes", "bootstrap", "seed", "level")
        named = (field for field in fields(self) if field.name not in elsewhere)
        return {f.name: v for f in named if (v := getattr(self, f.name)) != f.default}

    def excluding(self, table: RunTable) -> str:
        """The rule by which runs of ``table`` are left out: the one asked for, or the default."""
        return self.exclude or ("none" if table.marks_outliers or self.delta != "auto" else "auto")

    def resampling(self, frame: pd.DataFrame) -> str:
        """The unit in which runs of ``frame`` are resampled: the one asked for, or the default."""
        return self.resample or default_unit(frame)


def default_unit(frame: pd.DataFrame) -> str:
    """``groups`` where ``frame``, one row per run, repeats sizes with several seeds, else ``runs``."""
    repeated = "seed" in frame and frame["seed"].nunique() > 1
    return "groups" if repeated else "runs"


def needs(method: str) -> str:
    """What ``method`` needs that a table may lack, as text."""
    return {
        "isoflop": "runs that share compute budgets",
        "envelope": "loss curves (--curves, or results.json)",
        "fixed_e": "the value to hold (--fixed-e)",
    }.get(method, "more runs")


def _left_out_text(table: RunTable) -> str:
    """How many runs are left out, by reason: 2 left out: 2 diverged."""
    reasons = Counter(run.reason for run in table.left_out)
    each = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{len(table.left_out)} left out" + (f": {each}" if each else "")
