"""The sections of a fit that describe the estimators, the runs left out and the data."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from flops_fit.fit.estimators import Estimate, Runs, estimate_surface
from flops_fit.fit.isoflop import STATUSES
from flops_fit.fit.numbers import interval
from flops_fit.fit.rows import LeftOut
from flops_fit.fit.runs import SAME_BUDGET, RunTable
from flops_fit.fit.sections import (
    BetterRun,
    BudgetEntry,
    Cell,
    DataEntry,
    EnvelopeEntry,
    Excluded,
    IsoflopEntry,
    LossLaw,
    PutBack,
    SeedNoise,
    SurfaceEntry,
    TableEntry,
)
from flops_fit.fit.sizes import Size


def seed_noise(frame: pd.DataFrame) -> SeedNoise | None:
    """Pooled sd of ln L between seeds of the same N and D in ``frame``, one row per run."""
    if "seed" not in frame:
        return None
    cells = np.log(frame["loss"]).groupby([frame["params"], frame["tokens"]])
    free = int((cells.size() - 1).sum())
    if free < 1:
        return None
    return SeedNoise(float(np.sqrt((cells.var(ddof=0) * cells.size()).sum() / free)), free)


def surface_entry(estimate: Estimate) -> SurfaceEntry:
    """The entry of ``estimate``, which is by a surface."""
    fit, identified = estimate.surface
    e, ln_a, ln_b, alpha, beta = estimate.law.values[0]
    a = float(estimate.law.exponent()[0])
    return SurfaceEntry(
        E=float(e),
        A=float(np.exp(ln_a)),
        B=float(np.exp(ln_b)),
        alpha=float(alpha),
        beta=float(beta),
        a=a,
        b=1 - a,
        objective=fit.objective,
        n_runs=fit.n_runs,
        status=estimate.status,
        reason=estimate.reason,
        delta=fit.delta,
        scale=fit.scale,
        starts=fit.starts,
        starts_spread=fit.spread,
        starts_at_minimum=fit.same_minimum,
        condition=identified.condition,
        se_a=identified.se_a,
        profile_E=identified.profile,
    )


def best_left_out(table: RunTable, surface: Estimate, runs: Runs) -> list[BetterRun | None]:
    """For each budget of ``runs`` the run left out with a lower loss than every run used, or None.

    ``table`` has the runs that it marks as outliers itself; ``surface`` left out the others.
    """
    frame, weight = table.frame, surface.weight
    near = np.log1p(SAME_BUDGET)
    best: list[BetterRun | None] = []
    for flops, rows in runs.groups:
        used = frame.iloc[rows[weight[rows] > 0]]
        out = frame.iloc[rows[weight[rows] == 0]]
        if len(table.marked):
            cost = table.marked["budget" if "budget" in table.marked else "flops"]
            out = pd.concat([out, table.marked[np.abs(np.log(cost / flops)) <= near]])
        out = out[out["loss"] < used["loss"].min()] if len(used) else out
        if out.empty:
            best.append(None)
            continue
        lowest = out.loc[[out["loss"].idxmin()]].iloc[0]
        name, row = str(lowest["experiment_id"]), int(lowest["row"])
        best.append(BetterRun(name, row, float(lowest["params"]), float(lowest["loss"])))
    return best


def isoflop_entry(
    estimate: Estimate | None, runs: Runs, grouping: str, left_out: Sequence[BetterRun | None]
) -> IsoflopEntry:
    """The entry of approach 2: ``estimate``, None where ``runs`` share no budgets.

    ``grouping``: how the budgets were recognised; ``left_out``: `best_left_out` of each of them.
    """
    if estimate is None:
        return IsoflopEntry(0.0, "too_few_points", grouping, None, [], False, None)
    params, entries = runs.column("params"), []
    minima = estimate.minima.minima
    for (flops, rows), m, best in zip(runs.groups, minima, left_out, strict=True):
        status = STATUSES[int(m.status[0])]
        entries.append(
            BudgetEntry(
                flops=flops,
                params_opt=float(np.exp(m.log_n[0])),
                tokens_opt=float(np.exp(runs.cost.log_tokens(m.log_n[0], np.log(flops)))),
                loss_opt=float(m.loss[0]),
                status=status,
                reason=_MINIMUM_WORDS[status],
                curvature=float(m.curvature[0]),
                coefficients=[float(c) for c in m.coefficients[0]],
                centre=m.centre,
                params_range=[float(params[rows].min()), float(params[rows].max())],
                n_runs=len(rows),
                best_left_out=best,
            )
        )
    a, law = _path(estimate)
    return IsoflopEntry(a, estimate.status, estimate.reason, law, entries, True, grouping)


def envelope_entry(estimate: Estimate | None) -> EnvelopeEntry | None:
    """The entry of approach 1: ``estimate``, None where there are no loss curves."""
    if estimate is None:
        return None
    a, law = _path(estimate)
    assert isinstance(estimate.detail, list)
    return EnvelopeEntry(a, estimate.status, estimate.reason, law, estimate.detail)


def _path(estimate: Estimate) -> tuple[float, LossLaw]:
    """Exponent of a path and the law of its loss."""
    _, a, e, ln_k, gamma, _ = estimate.law.values[0]
    return float(a), LossLaw(float(e), float(ln_k), float(gamma))


_MINIMUM_WORDS = {
    "bracketed": "the vertex is a minimum with lower and higher N on both sides",
    "at_edge": "the lowest loss is at an end of the sizes tried; its N is given, which is no minimum",
    "no_minimum": "the parabola opens downwards; the lowest run's N is given",
    "too_few_points": "fewer than 4 sizes; the lowest run's N is given",
}


def intervals(estimates: dict[str, Estimate], level: float | None) -> dict[str, list[float]]:
    """Percentile intervals of the parameters of ``estimates`` over the resamples: noise only.

    ``level``: the share of resamples inside, None without resamples.
    """
    if level is None:
        return {}
    ci = {}
    surface = estimates["surface"].draws
    if surface is not None and len(surface.values):
        e, ln_a, ln_b, alpha, beta = surface.values.T
        a = surface.exponent()
        columns = {
            "E": e,
            "A": np.exp(ln_a),
            "B": np.exp(ln_b),
            "alpha": alpha,
            "beta": beta,
            "a": a,
            "b": 1 - a,
        }
        entry = surface_entry(estimates["surface"])
        ci = {n: _holding(interval(v, level), getattr(entry, n)) for n, v in columns.items()}
    for name in ("isoflop", "envelope", "tied", "fixed_e"):
        drawn = estimates[name].draws if name in estimates else None
        if drawn is not None:
            ends = interval(drawn.exponent(), level)
            ci[f"{name}.a"] = _holding(ends, float(estimates[name].law.exponent()[0]))
    return ci


def _holding(ends: list[float], estimate: float) -> list[float]:
    """An interval widened, where resamples all lie beside the estimate, to hold it."""
    return [min(ends[0], estimate), max(ends[1], estimate)]


def errors(estimate: Estimate) -> dict[str, float]:
    """Standard errors of the parameters of ``estimate``, a surface, over its resamples."""
    draws = estimate.draws
    assert draws is not None
    e, ln_a, ln_b, alpha, beta = draws.values.T
    columns = {
        "E": e,
        "ln_A": ln_a,
        "ln_B": ln_b,
        "alpha": alpha,
        "beta": beta,
        "a": draws.exponent(),
    }
    return {name: float(np.std(values)) for name, values in columns.items()}


def excluded(
    table: RunTable, estimate: Estimate, runs: Runs, delta: float | str, rule: str
) -> Excluded:
    """What was left out of ``table`` and why, and the surface with it put back.

    ``estimate``: the surface, which left out runs by ``rule`` under the threshold ``delta``; ``runs``
    are those of the table as every estimator sees them.
    """
    fit = estimate.surface.fit
    frame = table.frame
    far = np.flatnonzero(fit.weight == 0)
    by_residual = [
        LeftOut(
            frame["experiment_id"].iloc[i],
            int(frame["row"].iloc[i]),
            f"residual {fit.residual[i] / fit.scale:+.1f} robust scales",
        )
        for i in far
    ]
    counts = pd.Series([run.reason for run in table.left_out], dtype=object).value_counts()
    by_reason = {str(k): int(v) for k, v in counts.items()}
    return Excluded(
        rule=rule,
        count=len(table.left_out) + len(by_residual),
        by_reason=by_reason | ({"residual": len(far)} if len(far) else {}),
        runs=[*table.left_out, *by_residual],
        with_them=_put_back(estimate, runs, delta) if len(far) else None,
    )


def _put_back(estimate: Estimate, runs: Runs, delta: float | str) -> PutBack:
    """The surface fitted on every run."""
    again = estimate_surface(runs, None, delta, "none")
    e, _, _, alpha, beta = again.law.values[0]
    log_c = float(np.log(runs.column("flops").max()))
    return PutBack(
        E=float(e),
        alpha=float(alpha),
        beta=float(beta),
        a=float(again.law.exponent()[0]),
        params_at_largest=float(np.exp(again.law.optimum(log_c, runs.cost)[0][0])),
        params_at_largest_without=float(np.exp(estimate.law.optimum(log_c, runs.cost)[0][0])),
    )


def all_sizes(tried: Iterable[Size], given: Iterable[Size] | None) -> list[Size]:
    """The sizes ``tried`` by the runs and those ``given`` beyond them, in order of N.

    Where both know a size, the counts of the runs come first.
    """
    known = {size.params: size for size in given or ()}
    for size in tried:
        counts = {k: v for k, v in vars(size).items() if v is not None or k == "size"}
        known[size.params] = replace(known.get(size.params, size), **counts)
    return [known[n] for n in sorted(known)]


def data_entry(table: RunTable, runs: Runs) -> DataEntry:
    """Where the runs of ``table`` are from, how they were read, and their ranges and budgets."""
    frame = table.frame
    spans = {
        c: [float(frame[c].min()), float(frame[c].max())]
        for c in ("params", "tokens", "flops", "loss")
    }
    named = "budget" in frame and runs.groups
    largest = runs.groups[-1][0] if named else spans["flops"][1]
    return DataEntry(
        source=table.source,
        params_column=table.params_column,
        reading=table.reading,
        n_runs=len(frame),
        **spans,
        budgets=[c for c, _ in runs.groups],
        largest_budget=float(largest),
        seeds=int(frame["seed"].nunique()) if "seed" in frame else 1,
        most_epochs=_most_epochs(frame),
        loss_unit=table.loss_unit,
        notes=table.notes,
    )


def _most_epochs(frame: pd.DataFrame) -> float | None:
    """The most passes that a run made over its data, None where no run tells."""
    most = frame["epochs"].max() if "epochs" in frame else np.nan
    return None if np.isnan(most) else float(most)


def table_entry(frame: pd.DataFrame) -> TableEntry:
    """The columns of ``frame`` as they were fitted, and the SHA-256 of their numbers."""
    names = [c for c in ("params", "tokens", "flops", "loss", "seed", "budget") if c in frame]
    columns = {name: [_plain(value) for value in frame[name].tolist()] for name in names}
    text = json.dumps(columns, sort_keys=True, separators=(",", ":"))
    return TableEntry(columns, hashlib.sha256(text.encode()).hexdigest())


def _plain(value: Cell) -> Cell:
    """A cell as JSON holds it; seeds may be names."""
    if value is None or pd.isna(value):
        return None
    return value if isinstance(value, str) else float(value)
