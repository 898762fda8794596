"""One refit of the headline, by the steps that `fit_runs` takes, and its row in the fit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.fit.cost import Cost
from flops_fit.fit.envelope import estimate_envelope
from flops_fit.fit.estimators import Estimate, Runs, estimate_isoflop, estimate_surface
from flops_fit.fit.sections import Refit

SURFACES = ("surface", "tied", "fixed_e")
NearLaws = dict[str, np.ndarray]  # surface -> law (5,) of almost the same runs


@dataclass(frozen=True)
class Choices:
    """How the headline was fitted; each refit changes one of these.

    ``method``: the estimator; the others are fields of `FitOptions`, ``exclude`` as it was decided.
    """

    method: str
    delta: float | str  # Huber threshold
    exclude: str
    fixed_e: float | None = None  # E held there
    curve: str = "parabola"  # of a budget
    window: float | None = None  # of a parabola


def refit_row(
    group: str,
    label: str,
    estimate: Estimate,
    cost: Cost,
    headline: bool = False,
    count: str = "params",
) -> Refit:
    """The row of ``estimate`` on ``cost``, under ``label`` in ``group`` (`sensitivity.GROUPS`).

    ``headline``: whether this is the fit's own choice; ``count``: the column that N is in it.
    """
    return Refit(
        group=group,
        label=label,
        headline=headline,
        count=count,
        status=estimate.status,
        reason=estimate.reason,
        method=estimate.name,
        n_runs=int((estimate.weight > 0).sum()),
        a=float(estimate.law.exponent()[0]),
        law=estimate.law,
        cost=cost,
    )


def refit(
    how: Choices, runs: Runs, curves: pd.DataFrame | None = None, near: NearLaws | None = None
) -> Estimate:
    """The point estimate on ``runs``, by the choices ``how`` and the steps that `fit_runs` takes.

    ``curves``: loss curves, one row per point, for the envelope. ``near``: surface -> law (5,) of
    almost the same runs, which saves the search for starts.
    """
    near = near or {}
    if how.method in SURFACES:
        return estimate_surface(
            runs, None, how.delta, how.exclude, how.method, how.fixed_e, start=near.get(how.method)
        )
    weight = None
    if how.exclude == "auto":
        start = near.get("surface")
        weight = estimate_surface(runs, None, how.delta, "auto", start=start).weight
    if how.method == "isoflop":
        return estimate_isoflop(runs, None, weight, curve=how.curve, window=how.window)
    assert curves is not None
    return estimate_envelope(runs, curves, weight=weight)
