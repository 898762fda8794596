"""fit_runs: from a table of runs to the content of FIT.json."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.axis import axis_of
from flops_fit.fit.bootstrap import Draws, draw
from flops_fit.fit.calibrate import QUANTITIES, form_error, tests_of
from flops_fit.fit.cost import cost_of
from flops_fit.fit.entries import (
    all_sizes,
    best_left_out,
    errors,
    excluded,
    intervals,
    isoflop_entry,
    path_entry,
    ranges,
    seed_noise,
    surface_entry,
    table_entry,
)
from flops_fit.fit.envelope import estimate_envelope
from flops_fit.fit.estimators import USABLE, Estimate, Runs, estimate_isoflop, estimate_surface
from flops_fit.fit.heldout import fallback, hold_out
from flops_fit.fit.identify import too_little
from flops_fit.fit.options import FitOptions, needs
from flops_fit.fit.runs import RunTable, budget_groups, prepare_runs
from flops_fit.fit.saved import interval, laws_entry
from flops_fit.fit.sensitivity import Choices, sensitivity_of
from flops_fit.fit.stack import Stack, build

MISFIT = 3.0  # residual scale over seed noise
NARROW = 2.0  # span of C below which the runs are those of one budget
MOVED = 1.2  # factor in N* that an exclusion must not move in silence


def fit_runs(
    runs: pd.DataFrame | RunTable,
    curves: pd.DataFrame | None = None,
    options: FitOptions | None = None,
    **choices,
) -> dict:
    """Fit a scaling law; returns the content of FIT.json (layout: `flops_fit.fit`).

    ``runs``: columns as `flops_fit.fit.runs` reads them. ``curves``: loss curves (run_id, tokens,
    flops, loss) for the envelope. ``options``: a `FitOptions`; ``choices`` are fields of it, given
    by name instead of or over it.

    Raises `FlopsFitError` for bad values and for fewer runs than unknowns.
    """
    options = replace(options or FitOptions(), **choices)
    table = runs if isinstance(runs, RunTable) else prepare_runs(runs)
    table = replace(table, loss_unit=options.loss_unit or table.loss_unit)
    options.check(table)
    frame = table.frame
    groups, grouping = budget_groups(frame)
    cost, cost_words = cost_of(frame, [*table.sizes, *(options.sizes or [])])
    fitted = _Fitting(table, Runs(frame, groups, cost), curves, options).all()
    estimates, stack, data = fitted.estimates, fitted.stack, fitted.runs
    level = options.level if options.bootstrap else None
    method = fitted.headline["method"]
    how = Choices(
        method if method in estimates else "surface",
        options.delta,
        fitted.exclude,
        options.fixed_e,
        options.curve,
        options.window,
    )
    parameters = intervals(estimates, level)
    if level and stack is not None and stack.draws is not None:
        parameters["stack.a"] = interval(stack.draws.exponent(), level)
    result = {
        "parametric": surface_entry(estimates["surface"]),
        "isoflop": isoflop_entry(
            estimates.get("isoflop"),
            data,
            grouping,
            best_left_out(table, estimates["surface"], groups),
        ),
        **{n: surface_entry(estimates[n]) for n in ("tied", "fixed_e") if n in estimates},
        **_envelope_entry(estimates),
        "stack": _stack_entry(stack, level),
        "axis": fitted.axis,
        "headline": fitted.headline,
        "status": fitted.status,
        "ci": parameters,
        "ci_noise": parameters,
        "delta": estimates["surface"].surface.fit.delta,
        "excluded": excluded(table, estimates["surface"], data, options.delta, fitted.exclude),
        "heldout": fitted.heldout,
        "bootstrap": {
            "resamples": options.bootstrap,
            "stack": 0 if stack is None or stack.draws is None else stack.draws.rows,
            "unit": fitted.unit,
            "seed": options.seed,
            "level": options.level,
            "se": errors(estimates["surface"]) if level else {},
            "usable": {
                n: int(e.usable.sum()) for n, e in estimates.items() if e.usable is not None
            },
            "seed_noise": seed_noise(frame),
        },
        "cost": {**cost.to_dict(), "words": cost_words},
        "sizes": all_sizes(table.sizes, options.sizes),
        "data": ranges(table, groups),
        "table": table_entry(frame),
        "laws": fitted.laws(),
        "sensitivity": fitted.sensitivity(how) if options.sensitivity else None,
    }
    fitted.headline["warnings"] += [*table.doubts, *_warnings(result)]
    fitted.headline["notes"] += _notes(result)
    return result


@dataclass
class _Fitting:
    """One table on its way through the estimators; `all` fills in what has no value yet."""

    table: RunTable
    runs: Runs
    curves: pd.DataFrame | None
    options: FitOptions
    exclude: str = ""
    unit: str = ""
    axis: dict | None = None
    heldout: dict = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    stack: Stack | None = None
    headline: dict = field(default_factory=dict)
    status: str = ""

    def all(self) -> "_Fitting":
        """Fit every estimator, the stack where it is asked for, and choose the headline."""
        o, frame = self.options, self.table.frame
        self.exclude, self.unit = o.excluding(self.table), o.resampling(frame)
        draws = None
        if o.bootstrap:
            generator = np.random.default_rng(o.seed)
            draws = draw(frame, self.unit, o.bootstrap, generator, self.runs.groups)
        self.axis = axis_of(self.runs, draws, o.level)
        self.estimates = self._estimates(self.runs, draws, whole=True)
        surface = self.estimates["surface"]
        if self.axis:
            surface = self.estimates["surface"] = replace(
                surface, status="not_identifiable", reason=self.axis["missing"]
            )
        self.heldout = hold_out(self.runs, lambda part: self._estimates(part, None))
        if o.method == "auto":
            self._choose(*self._stacked(surface, draws))
            return self
        if o.method not in self.estimates:
            raise FlopsFitError(f"method: {o.method!r} needs {needs(o.method)}")
        self._choose(o.method, f"{o.method}: asked for")
        return self

    def _stacked(self, surface: Estimate, draws: Draws | None) -> tuple[str, str]:
        """Build the stack where the runs can bear one; the headline and why, in words."""
        if self.axis:
            return "surface", "no estimator is identified by these runs"
        why = too_little(self.runs.frame[surface.weight > 0])
        if not why:
            stack = build(self.runs, surface.weight, draws, surface.draw_weight)
            why = stack.vague(one_budget(self.runs), self.runs.cost)
        if why:
            return fallback(self.estimates, self.heldout, why)
        self.stack = stack
        return "stack", f"stack: {_stack_words(stack)}"

    def _estimates(self, part: Runs, draws: Draws | None, whole: bool = False) -> dict:
        """Every estimator on ``part``; ``whole`` adds the profile of E and the tied surfaces."""
        o = self.options
        surface = estimate_surface(part, draws, o.delta, self.exclude, profile=whole)
        found: dict[str, Estimate] = {"surface": surface}
        if part.groups:
            found["isoflop"] = estimate_isoflop(
                part, draws, surface.weight, surface.draw_weight, o.curve, o.window
            )
        if self.curves is not None and len(self.curves):
            found["envelope"] = estimate_envelope(part, self.curves, draws, surface.weight)
        if whole:
            found["tied"] = estimate_surface(part, draws, o.delta, self.exclude, "tied")
            if o.fixed_e is not None:
                found["fixed_e"] = estimate_surface(
                    part, draws, o.delta, self.exclude, "fixed_e", o.fixed_e
                )
        return found

    def _choose(self, chosen: str, why: str) -> None:
        """Set ``headline`` and ``status``."""
        if self.stack is not None:
            law, status, reason = self.stack.law, "converged", why
        else:
            estimate = self.estimates[chosen]
            law, status, reason = estimate.law, estimate.status, estimate.reason
        candidates = [
            n
            for n in ("surface", "isoflop", "envelope", chosen)
            if n in self.estimates and self.estimates[n].status in USABLE
        ]
        log_c = float(np.log(self.runs.column("flops").max()))
        if self.axis or status not in USABLE:
            status = "not_identifiable"
            reason = self.axis["missing"] if self.axis else reason
        self.status = status
        self.headline = {
            "method": chosen,
            "words": why,
            "a": float(law.exponent()[0]),
            "slope": float(law.slope(log_c, self.runs.cost)[0]),
            "reason": reason,
            "candidates": list(dict.fromkeys([chosen, *candidates])),
            "warnings": [],
            "notes": [],
        }

    def laws(self) -> dict:
        """FIT.json's ``laws``."""
        entries = {name: laws_entry(e.law, e.draws) for name, e in self.estimates.items()}
        if self.stack is not None:
            entries["stack"] = laws_entry(self.stack.law, self.stack.draws)
        return entries

    def sensitivity(self, how: Choices) -> dict:
        """FIT.json's ``sensitivity``."""
        stack = None
        if self.stack is not None:
            surface = self.estimates["surface"]
            stack = Estimate("stack", self.stack.law, self.status, "", surface.weight)
        return sensitivity_of(self.table, self.runs, self.curves, self.estimates, how, stack)


def one_budget(runs: Runs) -> bool:
    """Whether all runs cost about the same, so that nothing is known of other budgets."""
    return bool(np.ptp(np.log(runs.column("flops"))) < np.log(NARROW))


def _stack_words(stack: Stack) -> str:
    """How the stack was weighed, in words."""
    tested = len({test["flops"] for test in tests_of(stack, "loss")})
    tail = (
        f"weighed by their errors on {tested} budgets left out"
        if tested
        else "weighed by their noise, since no budget could be left out"
    )
    return f"{len(stack.names)} forms, weights of runs and paths of minima, {tail}"


def _stack_entry(stack: Stack | None, level: float | None) -> dict | None:
    """FIT.json's ``stack``: members with their weights, the chained tests, the error of the form."""
    if stack is None:
        return None
    weights = stack.law.weights
    return {
        "members": [
            {
                "name": name,
                "weight_params": float(weights["params"][i]),
                "weight_loss": float(weights["loss"][i]),
                "weight_runs": float(weights["runs"][i]),
                "scale": stack.scales.get(name),
            }
            for i, name in enumerate(stack.names)
        ],
        "tests": {name: tests_of(stack, name) for name in QUANTITIES},
        "form_error": {name: vars(form_error(stack, name)).copy() for name in QUANTITIES}
        if level
        else None,
        "noise": stack.noise,
    }


def _envelope_entry(estimates: dict[str, Estimate]) -> dict:
    if "envelope" not in estimates:
        return {}
    envelope = estimates["envelope"]
    return {"envelope": {**path_entry(envelope), "points": envelope.detail}}


def _warnings(result: dict) -> list[str]:
    """What the numbers alone would not tell and the verdict must: the weight of exclusions."""
    put_back = result["excluded"]["with_them"]
    if put_back:
        factor = put_back["params_at_largest"] / put_back["params_at_largest_without"]
        if abs(np.log(factor)) > np.log(MOVED):
            return [f"with the runs left out put back N* would be {factor:.2f} x as large"]
    return []


def _notes(result: dict) -> list[str]:
    """What a reader should know and the interval already holds: misfit beyond seed noise."""
    noise, stack = result["bootstrap"]["seed_noise"], result["stack"]
    scale = stack["noise"] if stack else result["parametric"]["scale"]
    if not noise or noise["df"] < 3 or scale <= MISFIT * noise["sd"]:
        return []
    law = "the best law of the stack" if stack else "the surface"
    return [
        f"{law} misses the runs by {100 * scale:.2g}% where seeds differ by {100 * noise['sd']:.2g}%: "
        "its form does not fit here"
    ]
