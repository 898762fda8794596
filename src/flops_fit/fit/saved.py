"""A fit as FIT.json keeps it: its laws, its checks, and numbers asked of it."""

from pathlib import Path

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import Law, law_from_dict, law_to_dict

KEYS = (
    *("parametric", "isoflop", "tied", "stack", "axis", "headline", "status", "ci", "ci_noise"),
    *("excluded", "heldout", "bootstrap", "cost", "sizes", "data", "table", "laws", "sensitivity"),
)


def interval(values: np.ndarray, level: float) -> list[float]:
    """Percentile interval [low, high]."""
    return [float(v) for v in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def laws_entry(law: Law, draws: Law | None) -> dict:
    """A law and its resamples as FIT.json keeps them under ``laws``."""
    return {"law": law_to_dict(law), "draws": None if draws is None else law_to_dict(draws)}


def laws_of(fit: dict) -> dict[str, tuple]:
    """Estimator -> (law of the estimate, law of its resamples or None), from FIT.json."""
    return {
        name: (
            law_from_dict(entry["law"]),
            law_from_dict(entry["draws"]) if entry["draws"] else None,
        )
        for name, entry in fit["laws"].items()
    }


def read_fit(path: str | Path) -> dict:
    """FIT.json in ``path``, checked as far as every answer needs it; a `FlopsFitError` names it."""
    fit = read_json(path)
    if not isinstance(fit, dict) or "laws" not in fit:
        raise FlopsFitError(f"{path}: not a fit; expected what flops-fit fit writes")
    missing = [key for key in KEYS if key not in fit]
    if missing:
        raise FlopsFitError(f"{path}: no {missing[0]!r} in it, so another version's; fit again")
    try:
        laws = laws_of(fit)
        Cost.from_dict(fit["cost"])
        whole = fit["headline"]["method"] in laws and fit["data"]["n_runs"] > 0
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise FlopsFitError(f"{path}: not as flops-fit fit wrote it; fit again")
    return fit


def check_flops(flops: float) -> float:
    """A budget in FLOPs as a float; `FlopsFitError` unless positive and finite."""
    return positive_number("flops", flops, " of FLOPs")


def positive_number(name: str, value: float, unit: str = "") -> float:
    """The value as a float; `FlopsFitError` by ``name`` unless positive and finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise FlopsFitError(f"{name}: {value!r}; allowed: a positive finite number{unit}")
    return number
