"""Refits with other runs left out: by rule, the worst ones, each budget, each seed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.estimators import ONE_BUDGET_SPAN, Estimate, Runs
from flops_fit.fit.options import FEWEST_RUNS
from flops_fit.fit.refit import Choices, NearLaws, refit, refit_row
from flops_fit.fit.repeats import with_repeats
from flops_fit.fit.runs import RunTable, budget_groups
from flops_fit.fit.sections import Refit

WORST = (0.02, 0.04)  # shares of the runs to drop as the worst, and at most
MOST_DROPPED = (5, 10)  # this many: Besiroglu et al. 2024 dropped 5 of 245, of the highest loss
MOST_PARTS = 12  # budgets or seeds left out one by one; more are left out in groups
SLABS = 4  # by C, a quarter each, where runs share no budgets


def exclusion_rows(
    table: RunTable,
    runs: Runs,
    curves: pd.DataFrame | None,
    how: Choices,
    fitted: Estimate,
    near: NearLaws,
) -> Iterator[Refit]:
    """Refits of ``runs`` by other rules on which runs count.

    Those that ``table`` marks as outliers are put back. ``how``: the choices behind ``fitted``, the
    fit's own estimate; ``curves``: loss curves, for the envelope; ``near``: as `refit` takes it.
    """
    marked = len(table.marked)
    everything = runs
    if marked:
        frame = pd.concat([runs.frame, table.marked], ignore_index=True)
        groups = budget_groups(frame)[0] if runs.groups else []
        everything = Runs(frame, groups, runs.cost)
        automatic = " and those beyond 6 robust scales" * (how.exclude == "auto")
        label = f"without the {marked} that the table marks{automatic}"
        yield refit_row("exclusion", label, fitted, runs.cost, True)
    keep_all = replace(how, exclude="none")
    as_it_was = not marked and how.exclude == "none"
    whole = fitted if as_it_was else refit(keep_all, everything, curves, near)
    yield refit_row("exclusion", "every run kept", whole, runs.cost, as_it_was)
    if not marked and how.exclude == "auto":
        label = "without those beyond 6 robust scales"
        yield refit_row("exclusion", label, fitted, runs.cost, True)
    else:
        rule = refit(replace(how, exclude="auto"), everything, curves, near)
        yield refit_row("exclusion", "without those beyond 6 robust scales", rule, runs.cost)
    if "epochs" in everything.frame:
        fresh = np.flatnonzero(~(everything.column("epochs") > MOST_EPOCHS))
        if FEWEST_RUNS <= len(fresh) < len(everything):
            label = (
                f"without the {len(everything) - len(fresh)} of more than {MOST_EPOCHS:g} epochs"
            )
            part = everything.take(fresh)
            yield refit_row("exclusion", label, refit(keep_all, part, curves, near), runs.cost)
    if len(table.repeated):
        with_them = with_repeats(table, everything)
        label = f"with the {len(table.repeated)} left out for their epochs"
        yield refit_row("exclusion", label, refit(keep_all, with_them, curves, near), runs.cost)
    surface = whole
    if how.method != "surface":
        surface = refit(replace(keep_all, method="surface"), everything, near=near)
    misfit, loss = np.abs(surface.surface.fit.residual), everything.column("loss")
    for one, several, size in (
        ("worst-fitting run", "worst-fitting runs", misfit),
        ("run with the highest loss", "runs with the highest losses", loss),
    ):
        order = np.argsort(-size, kind="stable")
        for count in _dropped(len(everything)):
            part = everything.take(np.sort(order[count:]))
            label = f"without the {count} {several}" if count > 1 else f"without the {one}"
            yield refit_row("exclusion", label, refit(keep_all, part, curves, near), runs.cost)


def _dropped(n_runs: int) -> list[int]:
    """How many runs to drop: 5 and 10 of 245, fewer of fewer."""
    pairs = zip(WORST, MOST_DROPPED, strict=True)
    counts = {max(i + 1, min(most, round(share * n_runs))) for i, (share, most) in enumerate(pairs)}
    return [k for k in sorted(counts) if n_runs - k > FEWEST_RUNS]


Part = tuple[str, str, np.ndarray]


def parts_of(runs: Runs) -> tuple[list[Part], list[str]]:
    """(group, label, rows kept) of ``runs`` for every budget and seed left out, and notes.

    Where there are many, neighbours are left out together. The rows are positions (k,) in the runs.
    """
    parts, notes = _budget_parts(runs)
    if "seed" not in runs.frame or runs.frame["seed"].nunique() < 2:
        return parts, notes
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


def _budget_parts(runs: Runs) -> tuple[list[Part], list[str]]:
    """The runs without one budget, or without a quarter of the range of C."""
    parts: list[Part] = []
    notes: list[str] = []
    everything = np.arange(len(runs))
    low, high = runs.column("flops").min(), runs.column("flops").max()
    if high < ONE_BUDGET_SPAN * low:
        return [], ["the runs have one budget, so none of it can be left out"]
    if len(runs.groups) < 2:
        notes.append("no shared budgets: runs are left out by C instead, a quarter at a time")
        order = np.argsort(runs.column("flops"), kind="stable")
        for gone in np.array_split(order, SLABS):
            ends = (_flops(float(runs.column("flops")[i])) for i in (gone[0], gone[-1]))
            label = f"without {' to '.join(dict.fromkeys(ends))} FLOPs"
            parts.append(("budget", label, np.setdiff1d(everything, gone)))
        return parts, notes
    budgets = [[g] for g in runs.groups]
    if len(budgets) > MOST_PARTS:
        notes.append(f"{len(budgets)} budgets, left out in {MOST_PARTS} groups of neighbours")
        places = np.array_split(np.arange(len(budgets)), MOST_PARTS)
        budgets = [[runs.groups[i] for i in part] for part in places]
    for group in budgets:
        label = " to ".join(dict.fromkeys(_flops(c) for c, _ in (group[0], group[-1])))
        gone = np.concatenate([rows for _, rows in group])
        parts.append(("budget", f"without {label} FLOPs", np.setdiff1d(everything, gone)))
    return parts, notes


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def _flops(value: float) -> str:
    """C in a label of FIT.json, such as 8.1×10¹¹, whatever the notation of the pages becomes."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}×{power}"
