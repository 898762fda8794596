"""Refits with N and C counted in every other way that the table knows."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from flops_fit.constants import FLOPS_PER_PARAM_TOKEN, flops_6nd
from flops_fit.fit.cost import Cost, cost_of
from flops_fit.fit.estimators import Estimate, Runs, path_through
from flops_fit.fit.refit import SURFACES, Choices, refit, refit_row
from flops_fit.fit.runs import COUNTS
from flops_fit.fit.sections import Refit
from flops_fit.fit.sizes import Size

SAME_COUNT = 1e-9  # relative


def _number(runs: Runs, name: str) -> np.ndarray | None:
    """A column as positive numbers (n,), or None where it is not there for every run."""
    if name not in runs.frame:
        return None
    values = pd.to_numeric(runs.frame[name], errors="coerce").to_numpy(dtype=float)
    return values if (np.isfinite(values) & (values > 0)).all() else None


def _counts(runs: Runs) -> dict[str, np.ndarray]:
    """Every way in which the table counts N: column -> (n,), the fit's first."""
    counts = {"params": runs.column("params")}
    for name in COUNTS:
        values = _number(runs, name)
        known = counts.values()
        if values is not None and not any(np.allclose(values, v, rtol=SAME_COUNT) for v in known):
            counts[name] = values
    return counts


def _costs(runs: Runs) -> dict[str, np.ndarray | None]:
    """Every way in which C is counted: words -> C of each run (n,); None is 6 N D."""
    table, counted = runs.column("flops"), _number(runs, "flops_counted")
    is_counted = counted is not None and np.allclose(table, counted, rtol=1e-6)
    costs = {"counted" if is_counted else "as in the table": table}
    if counted is not None and not is_counted:
        costs["counted"] = counted
    if np.allclose(table, flops_6nd(runs.column("params"), runs.column("tokens")), rtol=1e-6):
        costs.pop("as in the table", None)
        return {"6 N D": None, **costs}
    return {**costs, "6 N D": None}


def counting_rows(
    runs: Runs, curves: pd.DataFrame | None, how: Choices, fitted: Estimate
) -> Iterator[Refit]:
    """The refits of ``runs`` with N by every count of it, C counted and as 6 N D.

    ``how``: the choices behind ``fitted``, the fit's own estimate, which comes first; ``curves``:
    loss curves, one row per point, for the envelope.
    """
    for count, params in _counts(runs).items():
        named = "params as fitted" if count == "params" else count
        latest = fitted if count == "params" else None
        for i, (convention, flops) in enumerate(_costs(runs).items()):
            label = f"N: {named}; C: {convention}"
            if count == "params" and i == 0:
                yield refit_row("counting", label, fitted, runs.cost, True)
                continue
            changed, cost = _recounted(runs, params, flops)
            if latest is None or how.method not in SURFACES:  # a surface does not see C
                latest = refit(how, changed, _priced(curves, changed))
            by_6nd = flops is None and how.method == "isoflop"
            estimate = _along_6nd(latest, changed) if by_6nd else latest
            yield refit_row("counting", label, estimate, cost, False, count)


def _recounted(runs: Runs, params: np.ndarray, flops: np.ndarray | None) -> tuple[Runs, Cost]:
    """The runs with N = ``params`` and C = ``flops`` (6 N D where None), and the cost to answer on.

    Budgets stay those of the true cost, at which the runs were planned.
    """
    table, tokens = runs.column("flops"), runs.column("tokens")
    spent = table if flops is None else flops
    frame = runs.frame.assign(params=params, flops=spent)
    rate = _number(runs, "flops_per_token") if spent is table else None
    known = [] if rate is None else zip(params, rate, strict=True)
    cost, _ = cost_of(frame, [Size(params=n, flops_per_token=f) for n, f in known])
    groups = runs.groups if spent is table else [(_mean(spent[r]), r) for _, r in runs.groups]
    if flops is None:
        return Runs(frame.assign(flops=flops_6nd(params, tokens)), groups, cost), Cost()
    return Runs(frame, groups, cost), cost


def _along_6nd(estimate: Estimate, runs: Runs) -> Estimate:
    """Minima with C = 6 N D, which runs of one budget do not share: it is counted at the minimum."""
    budgets, minima = estimate.minima
    log_n = np.array([m.log_n[0] for m in minima])
    log_c = np.log(FLOPS_PER_PARAM_TOKEN) + log_n + runs.cost.log_tokens(log_n, np.log(budgets))
    law, status, reason = path_through(log_c, minima)
    return replace(estimate, law=law, status=status, reason=reason)


def _mean(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def _priced(curves: pd.DataFrame | None, runs: Runs) -> pd.DataFrame | None:
    """Loss curves with C counted as ``runs`` count it."""
    if curves is None or curves.empty:
        return curves
    rate = pd.Series(
        runs.column("flops") / runs.column("tokens"), index=runs.frame["experiment_id"].astype(str)
    )
    known = curves[curves["experiment_id"].astype(str).isin(rate.index)]
    names = known["experiment_id"].astype(str)
    return known.assign(flops=known["tokens"].to_numpy() * rate[names].to_numpy())
