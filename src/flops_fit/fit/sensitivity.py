"""What the answer depends on: the headline refitted under every other defensible choice.

An interval speaks of noise. How N and C are counted, which estimator reads the runs, how outliers
weigh and which runs are there at all often moves an answer further (Besiroglu et al. 2024,
2404.10102; Porian et al. 2024, 2406.19146), so each choice is a row here, one choice changed at a
time. Every row is a point fit, kept as a law that can be evaluated at any C.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.cost import Cost, cost_of
from flops_fit.fit.envelope import estimate_envelope
from flops_fit.fit.estimators import (
    USABLE,
    Estimate,
    Runs,
    estimate_isoflop,
    estimate_surface,
    path_through,
)
from flops_fit.fit.laws import law_from_dict, law_to_dict
from flops_fit.fit.runs import COUNTS, RunTable, budget_groups

GROUPS = {  # in the order of the table
    "counting": "How N and C are counted",
    "estimator": "Estimator",
    "delta": "Huber threshold of the surface",
    "exclusion": "Runs left out",
    "budget": "Without one budget or range of C",
    "seed": "Without one seed",
}
SURFACES = ("surface", "tied", "fixed_e")
DELTAS: dict[str, float | str] = {"auto": "auto", "1e-2": 1e-2}
DELTAS |= {"1e-3 (Hoffmann et al.)": 1e-3, "least squares": 1e3}
FEWEST_RUNS = 5  # as many as the surface has unknowns
WORST = (0.02, 0.04)  # shares of the runs to drop as the worst, and at most
MOST_DROPPED = (5, 10)  # this many: Besiroglu et al. 2024 dropped 5 of 245, of the highest loss
MOST_PARTS = 12  # budgets or seeds left out one by one; more are left out in groups
SLABS = 4  # by C, a quarter each, where runs share no budgets
SAME = 1e-9  # relative


@dataclass(frozen=True)
class Choices:
    """How the headline was fitted; a row of the table changes one of these."""

    method: str
    delta: float | str
    exclude: str
    fixed_e: float | None = None
    curve: str = "parabola"
    window: float | None = None


@dataclass(frozen=True)
class Row:
    """One refit. ``count``: the column that N means in it ("params": as in the fit itself)."""

    group: str
    label: str
    estimate: Estimate
    cost: Cost
    headline: bool = False
    count: str = "params"

    def to_dict(self) -> dict:
        """As FIT.json keeps it."""
        e = self.estimate
        return {
            **{name: getattr(self, name) for name in ("group", "label", "headline", "count")},
            **{name: getattr(e, name) for name in ("status", "reason")},
            "method": e.name,
            "n_runs": int((e.weight > 0).sum()),
            "a": float(e.law.exponent()[0]),
            "law": law_to_dict(e.law),
            "cost": self.cost.to_dict(),
        }


def refit(
    how: Choices, runs: Runs, curves: pd.DataFrame | None = None, near: dict | None = None
) -> Estimate:
    """The point estimate of ``how`` on ``runs``, by the same steps as `fit_runs` takes.

    ``near``: surface -> law (5,) of almost the same runs, which saves the search for starts.
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
    return estimate_envelope(runs, curves, weight=weight)


def sensitivity_of(
    table: RunTable,
    runs: Runs,
    curves: pd.DataFrame | None,
    estimates: dict[str, Estimate],
    how: Choices,
    stack: Estimate | None = None,
) -> dict:
    """FIT.json's ``sensitivity``: ``rows`` and ``notes`` on what was grouped or left away.

    ``estimates`` are those of the fit itself, among them ``how.method``, which is refitted. That is
    the headline, or the surface where the headline is a ``stack``, too dear to refit for every row.
    """
    own = estimates[how.method]
    near = {n: e.law.values[0] for n, e in estimates.items() if n in SURFACES}
    rows = [Row("headline", "as fitted", stack or own, runs.cost, True)]
    counted = list(_counting(runs, curves, how, own))
    rows += counted if len(counted) > 1 else []
    if stack:
        rows.append(Row("estimator", "stack", stack, runs.cost, True))
    rows += [
        Row("estimator", name, estimate, runs.cost, not stack and name == how.method)
        for name, estimate in estimates.items()
    ]
    rows += _deltas(runs, how, estimates)
    rows += _exclusions(table, runs, curves, how, own, near)
    parts, notes = _parts(runs)
    if len(counted) == 1:
        notes.insert(0, "the table counts N and C in one way only")
    if stack:
        notes.insert(
            0, "refits are of the surface alone, to be compared with its row under Estimator"
        )
    for group, label, keep in parts:
        if len(keep) >= FEWEST_RUNS:
            rows.append(Row(group, label, refit(how, runs.take(keep), curves, near), runs.cost))
        else:
            notes.append(f"{label}: {len(keep)} runs would remain, too few to fit")
    if stack:  # the others are choices of the surface
        rows = [replace(row, headline=row.estimate is stack) for row in rows]
    return {"rows": [row.to_dict() for row in rows], "notes": notes}


def _number(runs: Runs, name: str) -> np.ndarray | None:
    """A column as positive numbers (n,), or None where it is not there for every run."""
    if name not in runs.frame:
        return None
    values = pd.to_numeric(runs.frame[name], errors="coerce").to_numpy(dtype=float)
    return values if (np.isfinite(values) & (values > 0)).all() else None


def _counts(runs: Runs) -> dict[str, np.ndarray]:
    """Every way in which the table counts N: column -> (n,), the fit's own first."""
    counts = {"params": runs.column("params")}
    for name in COUNTS:
        values = _number(runs, name)
        known = counts.values()
        if values is not None and not any(np.allclose(values, v, rtol=SAME) for v in known):
            counts[name] = values
    return counts


def _costs(runs: Runs) -> dict[str, np.ndarray | None]:
    """Every way in which C is counted: words -> C of each run (n,); None is 6 N D."""
    own, counted = runs.column("flops"), _number(runs, "flops_counted")
    is_counted = counted is not None and np.allclose(own, counted, rtol=1e-6)
    costs = {"counted" if is_counted else "as in the table": own}
    if counted is not None and not is_counted:
        costs["counted"] = counted
    if np.allclose(own, 6 * runs.column("params") * runs.column("tokens"), rtol=1e-6):
        costs.pop("as in the table", None)
        return {"6 N D": None, **costs}
    return {**costs, "6 N D": None}


def _counting(runs: Runs, curves, how: Choices, own: Estimate) -> Iterator[Row]:
    """N by every count of it, C counted and as 6 N D."""
    for count, params in _counts(runs).items():
        named = "params as fitted" if count == "params" else count
        fitted = own if count == "params" else None
        for i, (words, flops) in enumerate(_costs(runs).items()):
            label = f"N: {named}; C: {words}"
            if count == "params" and i == 0:
                yield Row("counting", label, own, runs.cost, True)
                continue
            changed, cost = _recounted(runs, params, flops)
            if fitted is None or how.method not in SURFACES:  # a surface does not see C
                fitted = refit(how, changed, _priced(curves, changed))
            by_6nd = flops is None and how.method == "isoflop"
            estimate = _along_6nd(fitted, changed) if by_6nd else fitted
            yield Row("counting", label, estimate, cost, False, count)


def _recounted(runs: Runs, params, flops) -> tuple[Runs, Cost]:
    """The runs with N = ``params`` and C = ``flops`` (6 N D where None), and the cost to answer on.

    Budgets stay those of the true cost, at which the runs were planned.
    """
    own, tokens = runs.column("flops"), runs.column("tokens")
    spent = own if flops is None else flops
    frame = runs.frame.assign(params=params, flops=spent)
    rate = _number(runs, "flops_per_token") if spent is own else None
    known = [] if rate is None else zip(params, rate, strict=True)
    cost, _ = cost_of(frame, [{"params": n, "flops_per_token": f} for n, f in known])
    groups = runs.groups if spent is own else [(_mean(spent[r]), r) for _, r in runs.groups]
    if flops is None:
        return Runs(frame.assign(flops=6 * params * tokens), groups, cost), Cost()
    return Runs(frame, groups, cost), cost


def _along_6nd(estimate: Estimate, runs: Runs) -> Estimate:
    """Minima with C = 6 N D, which runs of one budget do not share: it is counted at the minimum."""
    budgets, minima = estimate.minima
    log_n = np.array([m.log_n[0] for m in minima])
    log_c = np.log(6) + log_n + runs.cost.log_tokens(log_n, np.log(budgets))
    law, status, reason = path_through(log_c, minima)
    return replace(estimate, law=law, status=status, reason=reason)


def _mean(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def _priced(curves: pd.DataFrame | None, runs: Runs) -> pd.DataFrame | None:
    """Loss curves with C counted as ``runs`` count it."""
    if curves is None or curves.empty:
        return curves
    rate = pd.Series(
        runs.column("flops") / runs.column("tokens"), index=runs.frame["run_id"].astype(str)
    )
    known = curves[curves["run_id"].astype(str).isin(rate.index)]
    return known.assign(
        flops=known["tokens"].to_numpy() * rate[known["run_id"].astype(str)].to_numpy()
    )


def _deltas(runs: Runs, how: Choices, estimates: dict[str, Estimate]) -> Iterator[Row]:
    """The surface under other thresholds, the fit's own first."""
    form = how.method if how.method in SURFACES else "surface"
    named = DELTAS if how.delta in DELTAS.values() else {f"{how.delta:g}": how.delta, **DELTAS}
    for label, delta in named.items():
        if delta == how.delta:
            yield Row("delta", label, estimates[form], runs.cost, form == how.method)
        else:
            other = refit(replace(how, method=form, delta=delta), runs)  # a small one can stick
            yield Row("delta", label, other, runs.cost)


def _exclusions(
    table: RunTable, runs: Runs, curves, how: Choices, own: Estimate, near: dict
) -> Iterator[Row]:
    """Other rules on which runs count, those that the table marks as outliers put back."""
    marked = len(table.marked)
    everything = runs
    if marked:
        frame = pd.concat([runs.frame, table.marked], ignore_index=True)
        groups = budget_groups(frame)[0] if runs.groups else []
        everything = Runs(frame, groups, runs.cost)
        automatic = " and those beyond 6 robust scales" * (how.exclude == "auto")
        label = f"without the {marked} that the table marks{automatic}"
        yield Row("exclusion", label, own, runs.cost, True)
    keep_all = replace(how, exclude="none")
    as_it_was = not marked and how.exclude == "none"
    whole = own if as_it_was else refit(keep_all, everything, curves, near)
    yield Row("exclusion", "every run kept", whole, runs.cost, as_it_was)
    if not marked and how.exclude == "auto":
        label = "without those beyond 6 robust scales"
        yield Row("exclusion", label, own, runs.cost, True)
    else:
        rule = refit(replace(how, exclude="auto"), everything, curves, near)
        yield Row("exclusion", "without those beyond 6 robust scales", rule, runs.cost)
    if "epochs" in everything.frame:
        fresh = np.flatnonzero(~(everything.column("epochs") > MOST_EPOCHS))
        if FEWEST_RUNS <= len(fresh) < len(everything):
            label = (
                f"without the {len(everything) - len(fresh)} of more than {MOST_EPOCHS:g} epochs"
            )
            part = everything.take(fresh)
            yield Row("exclusion", label, refit(keep_all, part, curves, near), runs.cost)
    surface = whole
    if how.method != "surface":
        surface = refit(replace(keep_all, method="surface"), everything, near=near)
    misfit, loss = np.abs(surface.surface.fit.residual), everything.column("loss")
    for words, size in (("worst-fitting", misfit), ("of the highest loss", loss)):
        order = np.argsort(-size, kind="stable")
        for count in _dropped(len(everything)):
            part = everything.take(np.sort(order[count:]))
            label = f"without the {count} {words}" if count > 1 else f"without the one {words}"
            yield Row("exclusion", label, refit(keep_all, part, curves, near), runs.cost)


def _dropped(n_runs: int) -> list[int]:
    """How many runs to drop: 5 and 10 of 245, fewer of fewer."""
    pairs = zip(WORST, MOST_DROPPED, strict=True)
    counts = {max(i + 1, min(most, round(share * n_runs))) for i, (share, most) in enumerate(pairs)}
    return [k for k in sorted(counts) if n_runs - k > FEWEST_RUNS]


def _parts(runs: Runs) -> tuple[list[tuple[str, str, np.ndarray]], list[str]]:
    """(group, label, rows kept) for every budget and seed left out; many go in neighbourly groups."""
    parts, notes = [], []
    everything = np.arange(len(runs))
    if len(runs.groups) > 1:
        budgets = [[g] for g in runs.groups]
        if len(budgets) > MOST_PARTS:
            notes.append(f"{len(budgets)} budgets, left out in {MOST_PARTS} groups of neighbours")
            places = np.array_split(np.arange(len(budgets)), MOST_PARTS)
            budgets = [[runs.groups[i] for i in part] for part in places]
        for group in budgets:
            label = " to ".join(dict.fromkeys(_flops(c) for c, _ in (group[0], group[-1])))
            gone = np.concatenate([rows for _, rows in group])
            parts.append(("budget", f"without {label} FLOPs", np.setdiff1d(everything, gone)))
    else:
        notes.append("no shared budgets: runs left out by C instead, a quarter at a time")
        order = np.argsort(runs.column("flops"), kind="stable")
        for gone in np.array_split(order, SLABS):
            ends = (_flops(float(runs.column("flops")[i])) for i in (gone[0], gone[-1]))
            label = f"without {' to '.join(dict.fromkeys(ends))} FLOPs"
            parts.append(("budget", label, np.setdiff1d(everything, gone)))
    if "seed" in runs.frame and runs.frame["seed"].nunique() > 1:
        seed = runs.frame["seed"]
        seed = seed if pd.api.types.is_numeric_dtype(seed) else seed.astype(str)
        seeds = np.sort(seed.unique())
        for several in np.array_split(seeds, min(len(seeds), MOST_PARTS)):
            named = (s if isinstance(s, str) else f"{s:g}" for s in several[[0, -1]])
            label = f"without seed {' to '.join(dict.fromkeys(named))}"
            parts.append(("seed", label, np.flatnonzero(~seed.isin(several))))
        if len(seeds) > MOST_PARTS:
            notes.append(f"{len(seeds)} seeds, left out in {MOST_PARTS} groups")
    return parts, notes


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def _flops(value: float) -> str:
    """C in a label of FIT.json, such as 8.1×10¹¹, whatever the notation of pages becomes."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}×{power}"


# Reading it


def in_own_count(fit: dict, count: str, params: float) -> float:
    """N as the fit counts it, of the model whose ``count`` (a column of the table) is ``params``.

    Read off the table of sizes; between them the ratio of both counts is interpolated, beyond them
    it keeps its last value, as that of the cost does.
    """
    if count == "params":
        return params
    known = {s[count]: s["params"] for s in fit["sizes"] if s.get(count)}
    pairs = tuple(sorted(known)), tuple(known[n] for n in sorted(known))
    ratio = Cost(
        pairs[1][0] / pairs[0][0], *pairs, trend=False
    )  # N by its other count, in the place of f(N)
    return float(np.exp(ratio.log_flops_per_token(np.log(params))))


def sensitivity_at(fit: dict, flops: float) -> list[dict]:
    """The rows of FIT.json's ``sensitivity`` evaluated at C = ``flops``, as each row counts C.

    Each is ``group, label, headline, method, status, reason, n_runs, a, params, tokens,
    tokens_per_param, loss``, with N in the fit's own count, so that rows compare; ``count,
    own_params, own_tokens_per_param`` say the same in the row's own count of N. Where no law could
    be fitted (``status`` not in `USABLE`) the numbers stand, but mean little.
    """
    rows, log_c = [], np.log(flops)
    for row in fit["sensitivity"]["rows"]:
        law, cost = law_from_dict(row["law"]), Cost.from_dict(row["cost"])
        log_n, loss = (float(v[0]) for v in law.optimum(log_c, cost))
        own, tokens = float(np.exp(log_n)), float(np.exp(cost.log_tokens(log_n, log_c)))
        params = in_own_count(fit, row["count"], own)
        rows.append(
            {
                **{key: value for key, value in row.items() if key not in ("law", "cost")},
                "params": params,
                "tokens": tokens,
                "tokens_per_param": tokens / params,
                "loss": loss,
                "own_params": own,
                "own_tokens_per_param": tokens / own,
            }
        )
    return rows


def spread_of(rows: list[dict], name: str = "params") -> dict[str, list[float]]:
    """[lowest, highest] ``name`` over the usable ``rows`` of `sensitivity_at`: all and by group."""
    usable = [row for row in rows if row["status"] in USABLE]
    spread = {"all": usable} | {g: [r for r in usable if r["group"] == g] for g in GROUPS}
    return {
        group: [min(r[name] for r in part), max(r[name] for r in part)]
        for group, part in spread.items()
        if part
    }
