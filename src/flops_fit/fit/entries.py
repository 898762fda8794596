"""The parts of FIT.json that describe the estimators, the runs left out and the data."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from flops_fit.fit.estimators import Estimate, Runs, estimate_surface
from flops_fit.fit.isoflop import STATUSES
from flops_fit.fit.runs import SAME_BUDGET, RunTable
from flops_fit.fit.saved import interval


def seed_noise(frame: pd.DataFrame) -> dict | None:
    """Pooled sd of ln L between seeds of the same N and D, and its degrees of freedom."""
    if "seed" not in frame:
        return None
    cells = np.log(frame["loss"]).groupby([frame["params"], frame["tokens"]])
    free = int((cells.size() - 1).sum())
    if free < 1:
        return None
    return {"sd": float(np.sqrt((cells.var(ddof=0) * cells.size()).sum() / free)), "df": free}


def surface_entry(estimate: Estimate) -> dict:
    """FIT.json's entry of a surface."""
    fit, verdict = estimate.surface
    e, ln_a, ln_b, alpha, beta = estimate.law.values[0]
    a = float(estimate.law.exponent()[0])
    return {
        "E": float(e),
        "A": float(np.exp(ln_a)),
        "B": float(np.exp(ln_b)),
        "alpha": float(alpha),
        "beta": float(beta),
        "a": a,
        "b": 1 - a,
        "objective": fit.objective,
        "n_runs": fit.n_runs,
        "status": estimate.status,
        "reason": estimate.reason,
        "delta": fit.delta,
        "scale": fit.scale,
        "starts": fit.starts,
        "starts_spread": fit.spread,
        "starts_at_minimum": fit.same_minimum,
        "condition": verdict.condition,
        "se_a": verdict.se_a,
        "profile_E": verdict.profile,
    }


def best_left_out(table: RunTable, surface: Estimate, groups) -> list[dict | None]:
    """For each budget the run left out whose loss is below that of every run used, or None."""
    frame, weight = table.frame, surface.weight
    near = np.log1p(SAME_BUDGET)
    best: list[dict | None] = []
    for flops, rows in groups:
        used = frame.iloc[rows[weight[rows] > 0]]
        out = frame.iloc[rows[weight[rows] == 0]]
        if len(table.marked):
            cost = table.marked["budget" if "budget" in table.marked else "flops"]
            out = pd.concat([out, table.marked[np.abs(np.log(cost / flops)) <= near]])
        out = out[out["loss"] < used["loss"].min()] if len(used) else out
        lowest = None if out.empty else out.loc[[out["loss"].idxmin()]].iloc[0]
        best.append(
            None
            if lowest is None
            else {
                "run_id": str(lowest["run_id"]),
                "row": int(lowest["row"]),
                "params": float(lowest["params"]),
                "loss": float(lowest["loss"]),
            }
        )
    return best


def isoflop_entry(
    estimate: Estimate | None, runs: Runs, grouping: str, left_out: list[dict | None]
) -> dict:
    """FIT.json's ``isoflop``."""
    if estimate is None:
        return {
            "a": 0.0,
            "status": "too_few_points",
            "reason": grouping,
            "shared": False,
            "budgets": [],
        }
    minima = estimate.minima.minima
    params, entries = runs.column("params"), []
    for (flops, rows), m, best in zip(runs.groups, minima, left_out, strict=True):
        status = STATUSES[int(m.status[0])]
        entries.append(
            {
                "flops": flops,
                "params_opt": float(np.exp(m.log_n[0])),
                "tokens_opt": float(np.exp(runs.cost.log_tokens(m.log_n[0], np.log(flops)))),
                "loss_opt": float(m.loss[0]),
                "status": status,
                "reason": _MINIMUM_WORDS[status],
                "curvature": float(m.curvature[0]),
                "coefficients": [float(c) for c in m.coefficients[0]],
                "centre": m.centre,
                "params_range": [float(params[rows].min()), float(params[rows].max())],
                "n_runs": len(rows),
                "best_left_out": best,
            }
        )
    return {**path_entry(estimate), "budgets": entries, "shared": True, "grouping": grouping}


_MINIMUM_WORDS = {
    "bracketed": "the vertex is a minimum with lower and higher N on both sides",
    "at_edge": "the lowest loss is at an end of the sizes tried; its N is given, not a minimum",
    "no_minimum": "the parabola opens downwards; the lowest run's N is given",
    "too_few_points": "fewer than 4 sizes; the lowest run's N is given",
}


def path_entry(estimate: Estimate) -> dict:
    """What every path has: exponent, status and the law of its loss."""
    _, a, e, ln_k, gamma, _ = estimate.law.values[0]
    return {
        "a": float(a),
        "status": estimate.status,
        "reason": estimate.reason,
        "loss_law": {"E": float(e), "ln_K": float(ln_k), "gamma": float(gamma)},
    }


def intervals(estimates: dict[str, Estimate], level: float | None) -> dict:
    """Percentile intervals of the parameters over the resamples: noise alone."""
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
        ci = {n: _holding(interval(v, level), entry[n]) for n, v in columns.items()}
    for name in ("isoflop", "envelope", "tied", "fixed_e"):
        drawn = estimates[name].draws if name in estimates else None
        if drawn is not None:
            ends = interval(drawn.exponent(), level)
            ci[f"{name}.a"] = _holding(ends, float(estimates[name].law.exponent()[0]))
    return ci


def _holding(ends: list[float], estimate: float) -> list[float]:
    """An interval widened, where resamples all lie beside the estimate, to hold it."""
    return [min(ends[0], estimate), max(ends[1], estimate)]


def errors(estimate: Estimate) -> dict:
    """Standard errors of the surface's parameters over the resamples."""
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


def excluded(table: RunTable, estimate: Estimate, data: Runs, delta, exclude: str) -> dict:
    """FIT.json's ``excluded``: what was left out and why, and the surface with it put back."""
    fit = estimate.surface.fit
    frame = table.frame
    far = np.flatnonzero(fit.weight == 0)
    runs = [dict(run) for run in table.left_out]
    for i in far:
        runs.append(
            {
                "run_id": frame["run_id"].iloc[i],
                "row": int(frame["row"].iloc[i]),
                "reason": f"residual {fit.residual[i] / fit.scale:+.1f} robust scales",
            }
        )
    counts = pd.Series([run["reason"] for run in table.left_out], dtype=object).value_counts()
    with_them = None
    if len(far):
        again = estimate_surface(data, None, delta, "none")
        e, _, _, alpha, beta = again.law.values[0]
        log_c = float(np.log(frame["flops"].max()))
        with_them = {
            "E": float(e),
            "alpha": float(alpha),
            "beta": float(beta),
            "a": float(again.law.exponent()[0]),
            "params_at_largest": float(np.exp(again.law.optimum(log_c, data.cost)[0][0])),
            "params_at_largest_without": float(
                np.exp(estimate.law.optimum(log_c, data.cost)[0][0])
            ),
        }
    return {
        "rule": exclude,
        "count": len(runs),
        "by_reason": {
            **{str(k): int(v) for k, v in counts.items()},
            **({"residual": len(far)} if len(far) else {}),
        },
        "runs": runs,
        "with_them": with_them,
    }


def all_sizes(own: list[dict], given: list[dict] | None) -> list[dict]:
    """The sizes of the table and those known beyond it, in order of N."""
    known = {entry["params"]: entry for entry in given or []}
    known.update({entry["params"]: {**known.get(entry["params"], {}), **entry} for entry in own})
    return [known[n] for n in sorted(known)]


def ranges(table: RunTable, groups) -> dict:
    """FIT.json's ``data``."""
    frame = table.frame
    spans = {
        c: [float(frame[c].min()), float(frame[c].max())]
        for c in ("params", "tokens", "flops", "loss")
    }
    named = "budget" in frame and groups
    largest = groups[-1][0] if named else spans["flops"][1]
    return {
        "source": table.source,
        "params_column": table.params_column,
        "reading": asdict(table.reading),
        "n_runs": len(frame),
        **spans,
        "budgets": [c for c, _ in groups],
        "largest_budget": float(largest),
        "seeds": int(frame["seed"].nunique()) if "seed" in frame else 1,
        "most_epochs": _most_epochs(frame),
        "loss_unit": table.loss_unit,
        "notes": table.notes,
    }


def _most_epochs(frame: pd.DataFrame) -> float | None:
    """The most passes that a run made over its data, None where no run tells."""
    most = frame["epochs"].max() if "epochs" in frame else np.nan
    return None if np.isnan(most) else float(most)


def table_entry(frame: pd.DataFrame) -> dict:
    """The table that was fitted, and the SHA-256 of its numbers: FIT.json's ``table``."""
    names = [c for c in ("params", "tokens", "flops", "loss", "seed", "budget") if c in frame]
    columns = {name: [_plain(value) for value in frame[name].tolist()] for name in names}
    text = json.dumps(columns, sort_keys=True, separators=(",", ":"))
    return {"columns": columns, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _plain(value: Any) -> float | str | None:
    """A cell as JSON holds it; seeds may be names."""
    if pd.isna(value):
        return None
    return value if isinstance(value, str) else float(value)
