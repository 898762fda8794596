"""`Fit`: everything that a fit is, and FIT.json, the file that keeps it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, check_format, read_json
from flops_fit.fit.cost import Cost
from flops_fit.fit.plain import OMITTED, Unreadable, fields_of, with_fields
from flops_fit.fit.sections import (
    AxisEntry,
    Bootstrap,
    DataEntry,
    EnvelopeEntry,
    Excluded,
    FittedLaw,
    Headline,
    Heldout,
    IsoflopEntry,
    RepeatsEntry,
    SensitivityEntry,
    StackEntry,
    SurfaceEntry,
    TableEntry,
)
from flops_fit.fit.sigmoid import AccuracyEntry
from flops_fit.fit.sizes import Size


@dataclass(frozen=True)
class FitCost(Cost):
    """C = f(N) D of the runs, and ``origin``, a sentence on where f is from."""

    origin: str = ""

    def to_dict(self) -> dict:
        """As FIT.json keeps it."""
        return {**super().to_dict(), "words": self.origin}

    @classmethod
    def from_dict(cls, value: dict) -> "FitCost":
        """The inverse of `to_dict`, from the object ``value``."""
        cost = Cost.from_dict(value)
        return cls(cost.factor, cost.params, cost.per_token, origin=value["words"])


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit: what `fit_runs` returns, `predict` answers from and FIT.json keeps.

    The fields are the sections of FIT.json, described in `flops_fit.fit`: ``parametric, isoflop, tied,
    fixed_e, envelope, stack, axis, headline, status, ci, ci_noise, delta, excluded, heldout,
    bootstrap, cost, sizes, data, table, laws,
    repeats, sensitivity, accuracy`` and ``choices``. `to_dict` gives plain data,
    `read_fit` reads a file.
    """

    parametric: SurfaceEntry  # the classic surface, approach 3
    isoflop: IsoflopEntry  # minima of the budgets, approach 2
    tied: SurfaceEntry  # alpha = beta
    fixed_e: SurfaceEntry | None = field(metadata=OMITTED)  # E held, where it was asked for
    envelope: EnvelopeEntry | None = field(metadata=OMITTED)  # approach 1, where there are curves
    stack: StackEntry | None  # None where one estimator was asked for, or the runs allow none
    axis: AxisEntry | None  # None where N and D vary apart
    headline: Headline  # which estimator answers
    status: str  # of the headline: converged, at_bound, bracketed or not_identifiable
    ci: dict[str, list[float]]  # [low, high] of the parameters over the resamples
    ci_noise: dict[str, list[float]]  # the same: no measurement shows a parameter of a formula
    delta: float  # Huber threshold of the surface, on ln L
    excluded: Excluded  # runs left out
    heldout: Heldout  # predictions of budgets left out
    bootstrap: Bootstrap  # how the intervals were made
    cost: FitCost  # C = f(N) D
    sizes: list[Size]  # those known, in order of N
    data: DataEntry  # where the runs are from
    table: TableEntry  # the runs as fitted
    laws: dict[str, FittedLaw]  # of each estimator, to be asked at any C
    repeats: RepeatsEntry | None = field(metadata=OMITTED)  # where enough runs repeat their data
    sensitivity: SensitivityEntry | None  # refits under other choices; None if not asked for
    accuracy: AccuracyEntry | None = field(default=None, metadata=OMITTED)  # where it was asked for
    # Options that are not at their default; those of `data` and `bootstrap` stand there
    choices: dict[str, float | str | bool] | None = field(default=None, metadata=OMITTED)

    @property
    def identified(self) -> bool:
        """Whether the runs determine a law, so that there are answers at all."""
        return self.status != "not_identifiable"

    @property
    def missing(self) -> str:
        """Why the runs determine no law; empty where they do."""
        return "" if self.identified else self.headline.reason.removeprefix("not identifiable: ")

    @property
    def answering(self) -> FittedLaw:
        """The law of the headline, and its resamples."""
        return self.laws[self.headline.method]

    def log_distance(self, flops: float) -> float:
        """ln of C = ``flops`` over the largest budget of the data."""
        return float(np.log(flops / self.data.largest_budget))

    def to_dict(self) -> dict:
        """The content of FIT.json: dicts, lists, texts and finite numbers only."""
        return {"format": FORMAT, **fields_of(self)}

    @classmethod
    def from_dict(cls, value: object, name: str | Path = "fit") -> "Fit":
        """The fit whose `to_dict` is ``value``, also as versions before ``format`` wrote it.

        ``name`` stands in messages. Raises `FlopsFitError` for anything else, and for a ``format``
        that only newer versions know.
        """
        if not isinstance(value, dict) or "laws" not in value:
            raise FlopsFitError(f"{name}: not a fit; expected what flops-fit fit writes")
        check_format(value, name)
        try:
            fit = with_fields(cls, value)
        except Unreadable as error:
            raise FlopsFitError(
                f"{name}: {error}; not as this version of flops-fit writes a fit, so fit again"
            ) from None
        if fit.headline.method not in fit.laws or fit.data.n_runs < 1:
            raise FlopsFitError(f"{name}: no law of its headline, or no runs, in it; fit again")
        return fit


def read_fit(path: str | Path) -> Fit:
    """The fit in the file ``path`` (FIT.json).

    Raises `FlopsFitError` naming the file where it is missing, broken, not a fit, or of a newer
    version.
    """
    return Fit.from_dict(read_json(path), path)
