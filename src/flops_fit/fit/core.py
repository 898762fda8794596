"""fit_runs: from a table of runs to the content of FIT.json."""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import interval, laws_entry
from flops_fit.fit.bootstrap import UNITS, draw
from flops_fit.fit.cost import cost_of
from flops_fit.fit.envelope import estimate_envelope
from flops_fit.fit.estimators import Estimate, Runs, estimate_isoflop, estimate_surface
from flops_fit.fit.forecast import forecast_surface
from flops_fit.fit.heldout import choose, hold_out
from flops_fit.fit.isoflop import STATUSES
from flops_fit.fit.runs import SAME_BUDGET, RunTable, budget_groups, prepare_runs
from flops_fit.fit.sensitivity import Choices, sensitivity_of

METHODS = ("auto", "surface", "tied", "fixed_e", "isoflop", "envelope")
FEWEST_RUNS = 5
HELDOUT_RESAMPLES = 200
MISFIT = 3.0  # residual scale over seed noise
MOVED = 1.2  # factor in N* that an exclusion must not move in silence


def fit_runs(
    runs: pd.DataFrame | RunTable,
    curves: pd.DataFrame | None = None,
    *,
    sizes: list[dict] | None = None,
    delta: float | str = "auto",
    bootstrap: int = 1000,
    seed: int = 0,
    method: str = "auto",
    exclude: str | None = None,
    resample: str | None = None,
    level: float = 0.90,
    fixed_e: float | None = None,
    curve: str = "parabola",
    window: float | None = None,
    sensitivity: bool = True,
    loss_unit: str | None = None,
) -> dict:
    """Fit a scaling law; returns the content of FIT.json (layout: `flops_fit.fit`).

    ``runs``: columns as `flops_fit.fit.runs` reads them. ``curves``: loss curves (run_id, tokens,
    flops, loss) for the envelope. ``sizes``: dicts size, params, flops_per_token known beyond the
    runs. ``delta``: Huber threshold on ln L, "auto" = 1.345 robust scales. ``bootstrap``: number of
    resamples, drawn with ``seed``, 0 for no intervals; ``level``: theirs. ``method``: the headline:
    surface, tied (alpha = beta), fixed_e, isoflop or envelope; "auto" by the held-out test.
    ``exclude``: "auto" leaves out runs beyond 6 robust scales, "none" fits all; the default is
    "auto", but "none" where the table marks its own outliers or ``delta`` is given. ``resample``:
    runs, groups or wild; default runs, or groups where sizes were repeated with several seeds.
    ``fixed_e``: irreducible loss to hold. ``curve``, ``window``: parabola or akima, and the factor
    in N around the lowest run that a parabola sees. ``sensitivity`` False saves the refits under
    other choices (`flops_fit.fit.sensitivity`). ``loss_unit`` is written beside every loss; default
    nats (per token), or bits per byte where the table's column says so.

    Raises `FlopsFitError` for bad values and for fewer runs than unknowns.
    """
    table = runs if isinstance(runs, RunTable) else prepare_runs(runs)
    table = replace(table, loss_unit=loss_unit or table.loss_unit)
    _check(table, delta, bootstrap, seed, method, exclude, resample, fixed_e, curve, window, level)
    frame = table.frame
    groups, grouping = budget_groups(frame)
    cost, cost_words = cost_of(frame, [*table.sizes, *(sizes or [])])
    data = Runs(frame, groups, cost)
    exclude = exclude or ("none" if table.marks_outliers or delta != "auto" else "auto")
    resample = resample or default_unit(frame)
    draws = (
        draw(frame, resample, bootstrap, np.random.default_rng(seed), groups) if bootstrap else None
    )

    def fit_all(part: Runs, part_draws, everything: bool = False) -> dict[str, Estimate]:
        surface = estimate_surface(part, part_draws, delta, exclude, profile=everything)
        found = {"surface": surface}
        if part.groups:
            found["isoflop"] = estimate_isoflop(
                part, part_draws, surface.weight, surface.draw_weight, curve, window
            )
        if curves is not None and len(curves):
            found["envelope"] = estimate_envelope(part, curves, part_draws, surface.weight)
        if everything:
            found["tied"] = estimate_surface(part, part_draws, delta, exclude, "tied")
            if fixed_e is not None:
                found["fixed_e"] = estimate_surface(
                    part, part_draws, delta, exclude, "fixed_e", fixed_e
                )
        return found

    estimates = fit_all(data, draws, everything=True)
    heldout = hold_out(data, fit_all, draws, min(HELDOUT_RESAMPLES, bootstrap))
    chosen, why = choose(estimates, heldout)
    if method != "auto":
        if method not in estimates:
            raise FlopsFitError(f"method: {method!r} needs {_needs(method)}")
        chosen, why = method, f"{method}: asked for"
    headline = headline_of(chosen, why, estimates, heldout, method == "auto", data)
    levels = level if draws is not None else None
    how = Choices(chosen, delta, exclude, fixed_e, curve, window)
    result = {
        "parametric": _surface_entry(estimates["surface"]),
        "isoflop": _isoflop_entry(
            estimates.get("isoflop"), data, grouping, _best_left_out(table, estimates, groups)
        ),
        "tied": _surface_entry(estimates["tied"]),
        **({"fixed_e": _surface_entry(estimates["fixed_e"])} if "fixed_e" in estimates else {}),
        **(
            {
                "envelope": {
                    **_path_entry(estimates["envelope"]),
                    "points": estimates["envelope"].detail,
                }
            }
            if "envelope" in estimates
            else {}
        ),
        "headline": headline,
        "status": estimates[chosen].status,
        "ci": _intervals(estimates, levels),
        "delta": estimates["surface"].detail[0].delta,
        "excluded": _excluded(table, estimates["surface"], data, delta, exclude, chosen),
        "heldout": heldout,
        "forecast": forecast_surface(data),
        "bootstrap": {
            "resamples": bootstrap,
            "unit": resample,
            "seed": seed,
            "level": level,
            "se": _errors(estimates["surface"]) if draws is not None else {},
            "usable": {
                n: int(e.usable.sum()) for n, e in estimates.items() if e.usable is not None
            },
            "seed_noise": seed_noise(frame),
        },
        "cost": {**cost.to_dict(), "words": cost_words},
        "sizes": _all_sizes(table.sizes, sizes),
        "data": _ranges(table, groups),
        "laws": {name: laws_entry(estimate) for name, estimate in estimates.items()},
        "sensitivity": sensitivity_of(table, data, curves, estimates, how) if sensitivity else None,
    }
    headline["warnings"] += [*table.doubts, *_warnings(result)]
    if result["status"] not in ("converged", "at_bound", "bracketed"):
        result["status"] = "not_identifiable"
    return result


def _warnings(result: dict) -> list[str]:
    """What the numbers alone would not tell: misfit beyond seed noise, weight of exclusions."""
    warnings = []
    noise, scale = result["bootstrap"]["seed_noise"], result["parametric"]["scale"]
    if noise and noise["df"] >= 3 and scale > MISFIT * noise["sd"]:
        warnings.append(
            f"the surface misses the runs by {100 * scale:.2g}% where seeds differ by "
            f"{100 * noise['sd']:.2g}%: its form does not fit here"
        )
    put_back = result["excluded"]["with_them"]
    if put_back:
        factor = put_back["params_at_largest"] / put_back["params_at_largest_without"]
        if abs(np.log(factor)) > np.log(MOVED):
            warnings.append(f"with the runs left out put back N* would be {factor:.2f} x as large")
    return warnings


def _check(table, delta, bootstrap, seed, method, exclude, resample, fixed_e, curve, window, level):
    """Bad settings and too few runs, refused by name."""
    if delta != "auto" and not (isinstance(delta, (int, float)) and 0 < delta < np.inf):
        raise FlopsFitError(f"delta: {delta!r}; allowed: auto or a positive number")
    if not isinstance(bootstrap, int) or bootstrap < 0:
        raise FlopsFitError(f"bootstrap: {bootstrap!r}; allowed: an integer of at least 0")
    if not isinstance(seed, int) or seed < 0:
        raise FlopsFitError(f"seed: {seed!r}; allowed: an integer of at least 0")
    for name, value, allowed in (
        ("method", method, METHODS),
        ("exclude", exclude, (None, "auto", "none")),
        ("resample", resample, (None, *UNITS)),
        ("curve", curve, ("parabola", "akima")),
    ):
        if value not in allowed:
            words = ", ".join(str(a) for a in allowed if a is not None)
            raise FlopsFitError(f"{name}: {value!r}; allowed: {words}")
    if window is not None and not window > 1:
        raise FlopsFitError(f"window: {window!r}; allowed: a factor above 1")
    if not 0 < level < 1:
        raise FlopsFitError(f"level: {level!r}; allowed: between 0 and 1")
    if fixed_e is not None and not 0 < fixed_e < table.frame["loss"].min():
        raise FlopsFitError(
            f"fixed_e: {fixed_e!r}; allowed: above 0 and below the lowest loss "
            f"{table.frame['loss'].min():.6g}"
        )
    if len(table.frame) < FEWEST_RUNS:
        raise FlopsFitError(
            f"{table.source}: {len(table.frame)} runs to fit, fewer than the 5 unknowns of "
            f"L = E + A/N^alpha + B/D^beta ({_left_out_text(table)}); more runs are needed"
        )


def _left_out_text(table: RunTable) -> str:
    """How many runs are left out, by reason: 2 left out: 2 diverged."""
    reasons = Counter(run["reason"] for run in table.left_out)
    words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{len(table.left_out)} left out" + (f": {words}" if words else "")


def _needs(method: str) -> str:
    return {
        "isoflop": "runs that share compute budgets",
        "envelope": "loss curves (--curves, or results.json)",
        "fixed_e": "the value to hold (--fixed-e)",
    }.get(method, "more runs")


def default_unit(frame: pd.DataFrame) -> str:
    """``groups`` where sizes were repeated with several seeds, else ``runs``."""
    repeated = "seed" in frame and frame["seed"].nunique() > 1
    return "groups" if repeated else "runs"


def seed_noise(frame: pd.DataFrame) -> dict | None:
    """Pooled sd of ln L between seeds of the same N and D, and its degrees of freedom."""
    if "seed" not in frame:
        return None
    cells = np.log(frame["loss"]).groupby([frame["params"], frame["tokens"]])
    free = int((cells.size() - 1).sum())
    if free < 1:
        return None
    return {"sd": float(np.sqrt((cells.var(ddof=0) * cells.size()).sum() / free)), "df": free}


def _surface_entry(estimate: Estimate) -> dict:
    fit, verdict = estimate.detail
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


def _best_left_out(table: RunTable, estimates: dict[str, Estimate], groups) -> list[dict | None]:
    """For each budget the run left out whose loss is below that of every run used, or None."""
    frame, weight = table.frame, estimates["surface"].weight
    near = np.log1p(SAME_BUDGET)
    best = []
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


def _isoflop_entry(
    estimate: Estimate | None, runs: Runs, grouping: str, left_out: list[dict | None]
) -> dict:
    if estimate is None:
        return {
            "a": 0.0,
            "status": "too_few_points",
            "reason": grouping,
            "shared": False,
            "budgets": [],
        }
    _, minima = estimate.detail
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
    return {**_path_entry(estimate), "budgets": entries, "shared": True, "grouping": grouping}


_MINIMUM_WORDS = {
    "bracketed": "the vertex is a minimum with lower and higher N on both sides",
    "at_edge": "the lowest loss is at an end of the sizes tried; its N is given, not a minimum",
    "no_minimum": "the parabola opens downwards; the lowest run's N is given",
    "too_few_points": "fewer than 4 sizes; the lowest run's N is given",
}


def _path_entry(estimate: Estimate) -> dict:
    _, a, e, ln_k, gamma, _ = estimate.law.values[0]
    return {
        "a": float(a),
        "status": estimate.status,
        "reason": estimate.reason,
        "loss_law": {"E": float(e), "ln_K": float(ln_k), "gamma": float(gamma)},
    }


def headline_of(
    chosen: str,
    why: str,
    estimates: dict[str, Estimate],
    heldout: dict,
    selected: bool,
    runs: Runs,
) -> dict:
    """FIT.json's ``headline``; ``selected``: by the held-out test, so that the choice is uncertain."""
    estimate = estimates[chosen]
    scores, spread = heldout["score"], heldout["spread"]
    covers = []
    if selected and chosen != "surface":
        best = scores.get(chosen, np.inf)
        covers = [
            n
            for n, s in scores.items()
            if n != chosen and s - best <= spread.get(n if n != "surface" else chosen, 0.0)
        ]
    mixture = {chosen: 1.0}
    if selected and chosen in heldout["selected"]:
        mixture = {n: s for n, s in heldout["selected"].items() if s > 0}
        mixture.setdefault(chosen, 0.0)
    candidates = [
        n
        for n in ("surface", "isoflop", "envelope", chosen)
        if n in estimates and estimates[n].status in ("converged", "at_bound", "bracketed")
    ]
    log_c = float(np.log(runs.column("flops").max()))
    return {
        "method": chosen,
        "words": why,
        "a": float(estimate.law.exponent()[0]),
        "slope": float(estimate.law.slope(log_c, runs.cost)[0]),
        "reason": estimate.reason,
        "mixture": mixture,
        "covers": covers,
        "candidates": list(dict.fromkeys([*candidates, chosen])),
        "warnings": [],
    }


def _intervals(estimates: dict[str, Estimate], level: float | None) -> dict:
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
        entry = _surface_entry(estimates["surface"])
        ci = {n: _holding(interval(v, level), entry[n]) for n, v in columns.items()}
    for name in ("isoflop", "envelope", "tied", "fixed_e"):
        if name in estimates and estimates[name].draws is not None:
            estimate = estimates[name]
            ends = interval(estimate.draws.exponent(), level)
            ci[f"{name}.a"] = _holding(ends, float(estimate.law.exponent()[0]))
    return ci


def _holding(ends: list[float], estimate: float) -> list[float]:
    """An interval widened, where resamples all lie beside the estimate, to hold it."""
    return [min(ends[0], estimate), max(ends[1], estimate)]


def _errors(estimate: Estimate) -> dict:
    e, ln_a, ln_b, alpha, beta = estimate.draws.values.T
    columns = {
        "E": e,
        "ln_A": ln_a,
        "ln_B": ln_b,
        "alpha": alpha,
        "beta": beta,
        "a": estimate.draws.exponent(),
    }
    return {name: float(np.std(values)) for name, values in columns.items()}


def _excluded(table, estimate, data, delta, exclude, chosen) -> dict:
    fit = estimate.detail[0]
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


def _all_sizes(own: list[dict], given: list[dict] | None) -> list[dict]:
    known = {entry["params"]: entry for entry in given or []}
    known.update({entry["params"]: {**known.get(entry["params"], {}), **entry} for entry in own})
    return [known[n] for n in sorted(known)]


def _ranges(table: RunTable, groups) -> dict:
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
