"""What the answer depends on: the headline refitted under every other defensible choice.

An interval covers noise. How N and C are counted, which estimator reads the runs, how outliers weigh
and which runs are there at all often moves an answer further (Besiroglu et al. 2024, 2404.10102;
Porian et al. 2024, 2406.19146), so each choice is a row here, one choice changed at a time. Every row
is a point fit, kept as a law that can be evaluated at any C.
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from flops_fit.fit.estimators import Estimate, Runs
from flops_fit.fit.omissions import exclusion_rows, parts_of
from flops_fit.fit.options import FEWEST_RUNS
from flops_fit.fit.recounts import counting_rows
from flops_fit.fit.refit import SURFACES, Choices, refit, refit_row
from flops_fit.fit.runs import RunTable
from flops_fit.fit.sections import Refit, SensitivityEntry

DELTAS: dict[str, float | str] = {"auto": "auto", "1e-2": 1e-2}
DELTAS |= {"1e-3 (Hoffmann et al.)": 1e-3, "least squares": 1e3}


def sensitivity_of(
    table: RunTable,
    runs: Runs,
    curves: pd.DataFrame | None,
    estimates: dict[str, Estimate],
    how: Choices,
    stack: Refit | None = None,
) -> SensitivityEntry:
    """The refits of ``runs``, and notes on what was grouped or left away.

    ``table`` has the runs that it marks as outliers itself; ``curves`` are loss curves, for the
    envelope. ``estimates`` are those of the fit itself, among them ``how.method``, which is refitted.
    That is the headline, or the surface where the headline is the ``stack`` (given as its row), which
    takes too long to refit for every row.
    """
    fitted = estimates[how.method]
    near = {n: e.law.values[0] for n, e in estimates.items() if n in SURFACES}
    rows = [stack or refit_row("headline", "as fitted", fitted, runs.cost, True)]
    counted = list(counting_rows(runs, curves, how, fitted))
    rows += counted if len(counted) > 1 else []
    if stack:
        rows.append(replace(stack, group="estimator", label="stack"))
    rows += [
        refit_row("estimator", name, estimate, runs.cost, name == how.method)
        for name, estimate in estimates.items()
    ]
    rows += _deltas(runs, how, estimates)
    rows += exclusion_rows(table, runs, curves, how, fitted, near)
    parts, notes = parts_of(runs)
    if len(counted) == 1:
        notes.insert(0, "the table counts N and C in one way only")
    if stack:
        notes.insert(
            0, "the refits are of the surface only: compare them with its row under Estimator"
        )
    for group, label, keep in parts:
        if len(keep) >= FEWEST_RUNS:
            part = refit(how, runs.take(keep), curves, near)
            rows.append(refit_row(group, label, part, runs.cost))
        else:
            notes.append(f"{label}: {len(keep)} runs would remain, too few to fit")
    if stack:  # the others are choices of the surface
        rows = [replace(row, headline=row.method == stack.method) for row in rows]
    return SensitivityEntry(rows, notes)


def _deltas(runs: Runs, how: Choices, estimates: dict[str, Estimate]) -> Iterator[Refit]:
    """The surface under other thresholds, the fit's own first."""
    form = how.method if how.method in SURFACES else "surface"
    named = DELTAS if how.delta in DELTAS.values() else {f"{how.delta:g}": how.delta, **DELTAS}
    for label, delta in named.items():
        if delta == how.delta:
            yield refit_row("delta", label, estimates[form], runs.cost, form == how.method)
        else:
            other = refit(replace(how, method=form, delta=delta), runs)  # a small one can stick
            yield refit_row("delta", label, other, runs.cost)
