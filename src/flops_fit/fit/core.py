"""`fit_runs`: from a table of runs to a `Fit`."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import ndtri

from flops_fit.errors import FlopsFitError
from flops_fit.fit.axis import axis_of
from flops_fit.fit.bootstrap import Draws, draw
from flops_fit.fit.calibrate import QUANTITIES, form_error, tests_of
from flops_fit.fit.cost import cost_of
from flops_fit.fit.curves import named_runs
from flops_fit.fit.entries import (
    all_sizes,
    best_left_out,
    data_entry,
    envelope_entry,
    errors,
    excluded,
    intervals,
    isoflop_entry,
    seed_noise,
    surface_entry,
    table_entry,
)
from flops_fit.fit.envelope import estimate_envelope
from flops_fit.fit.estimators import (
    ONE_BUDGET_SPAN,
    USABLE,
    Estimate,
    Runs,
    estimate_isoflop,
    estimate_surface,
)
from flops_fit.fit.heldout import NOTHING_IDENTIFIED, fallback, hold_out
from flops_fit.fit.identify import too_little
from flops_fit.fit.laws import Law
from flops_fit.fit.options import FitOptions, needs
from flops_fit.fit.refit import Choices
from flops_fit.fit.refits import sensitivity_of
from flops_fit.fit.repeats import repeats_of, with_repeats
from flops_fit.fit.result import Fit, FitCost
from flops_fit.fit.runs import RunTable, budget_groups, prepare_runs
from flops_fit.fit.sections import (
    AxisEntry,
    Bootstrap,
    FittedLaw,
    Headline,
    Heldout,
    Refit,
    SensitivityEntry,
    StackEntry,
    StackMember,
)
from flops_fit.fit.sigmoid import AccuracyEntry, accuracy_of
from flops_fit.fit.stack import Stack, Vagueness, build

MISFIT = 3.0  # residual scale over seed noise
FEWEST_REPEATS = 3  # degrees of freedom of a seed noise that is compared
OFF_COST = 1.1  # factor between C and f(N) D that one run in ten may exceed
MOVED = 1.2  # factor in N* that an exclusion must not move in silence


def fit_runs(
    runs: pd.DataFrame | RunTable,
    curves: pd.DataFrame | None = None,
    options: FitOptions | None = None,
    **choices: object,
) -> Fit:
    """Fit a scaling law to ``runs``.

    ``runs``: one run per row, columns as `flops_fit.fit.runs` reads them. ``curves``: loss curves
    (columns experiment_id, tokens, flops, loss) for the envelope. ``options``: a `FitOptions`;
    ``choices`` are fields of it, given by name instead of or over it.

    Raises `FlopsFitError` for bad values and for fewer runs than parameters of the law.
    """
    options = replace(options or FitOptions(), **choices)  # type: ignore[arg-type]
    table = runs if isinstance(runs, RunTable) else prepare_runs(runs)
    table = replace(table, loss_unit=options.loss_unit or table.loss_unit)
    options.check(table)
    groups, grouping = budget_groups(table.frame)
    cost, cost_words = cost_of(table.frame, [*table.sizes, *(options.sizes or [])])
    curves = None if curves is None else named_runs(curves)
    fitting = _Fitting(table, Runs(table.frame, groups, cost), curves, options).all()
    return fitting.result(grouping, cost_words)


@dataclass
class _Fitting:
    """One table on its way through the estimators; `all` fills in what has no value yet."""

    table: RunTable
    runs: Runs
    curves: pd.DataFrame | None
    options: FitOptions
    draws: Draws | None = None
    exclude: str = ""
    unit: str = ""
    axis: AxisEntry | None = None
    heldout: Heldout = field(default_factory=lambda: Heldout([], 0, {}))
    estimates: dict[str, Estimate] = field(default_factory=dict)
    stack: Stack | None = None
    chosen: str = "surface"
    why: str = ""

    def all(self) -> "_Fitting":
        """Fit every estimator, the stack where it is asked for, and choose the headline."""
        o, frame = self.options, self.table.frame
        self.exclude, self.unit = o.excluding(self.table), o.resampling(frame)
        if o.bootstrap:
            generator = np.random.default_rng(o.seed)
            self.draws = draw(frame, self.unit, o.bootstrap, generator, self.runs.groups)
        draws = self.draws
        self.axis = axis_of(self.runs, draws, o.level)
        self.estimates = self._estimates(self.runs, draws, whole=True)
        surface = self.estimates["surface"]
        if self.axis:
            surface = self.estimates["surface"] = replace(
                surface, status="not_identifiable", reason=self.axis.missing
            )
        self.heldout = hold_out(self.runs, lambda part: self._estimates(part, None))
        if o.method == "auto":
            self.chosen, self.why = self._stacked(surface, draws)
        elif o.method in self.estimates:
            self.chosen, self.why = o.method, f"{o.method}: asked for"
        else:
            raise FlopsFitError(f"method: {o.method!r} needs {needs(o.method)}")
        return self

    def _stacked(self, surface: Estimate, draws: Draws | None) -> tuple[str, str]:
        """Build the stack where the runs support one; returns the headline and the reason."""
        if self.axis:
            return "surface", NOTHING_IDENTIFIED
        why = too_little(self.runs.frame[surface.weight > 0])
        if not why:
            stack = build(self.runs, surface.weight, draws, surface.draw_weight)
            vagueness = stack.vagueness(one_budget(self.runs), self.runs.cost)
            why = vagueness.too_large()
            if not why:
                self.stack = stack
                return "stack", f"stack: {_stack_words(stack)}"
            self._doubt(vagueness)
        return fallback(self.estimates, self.heldout, why)

    def _doubt(self, vagueness: Vagueness) -> None:
        """Let no estimate answer that contradicts a stack which is itself too vague to answer.

        The error of its form may be far larger than its noise, and only the other forms show it.
        """
        for name, estimate in self.estimates.items():
            log_n, _ = estimate.law.optimum(vagueness.log_c, self.runs.cost)
            against = vagueness.contradicts(name, float(log_n[0]))
            if estimate.status in USABLE and against:
                self.estimates[name] = replace(estimate, status="not_identifiable", reason=against)

    def _estimates(
        self, part: Runs, draws: Draws | None, whole: bool = False
    ) -> dict[str, Estimate]:
        """Every estimator on ``part``; ``whole`` adds the profile of E and the tied surfaces."""
        o = self.options
        surface = estimate_surface(part, draws, o.delta, self.exclude, profile=whole)
        estimates: dict[str, Estimate] = {"surface": surface}
        if part.groups:
            estimates["isoflop"] = estimate_isoflop(
                part, draws, surface.weight, surface.draw_weight, o.curve, o.window
            )
        if self.curves is not None and len(self.curves):
            estimates["envelope"] = estimate_envelope(part, self.curves, draws, surface.weight)
        if whole:
            estimates["tied"] = estimate_surface(part, draws, o.delta, self.exclude, "tied")
            if o.fixed_e is not None:
                estimates["fixed_e"] = estimate_surface(
                    part, draws, o.delta, self.exclude, "fixed_e", o.fixed_e
                )
        return estimates

    def _headline(self) -> tuple[Headline, str]:
        """The headline, without its warnings and notes, and its status."""
        if self.stack is not None:
            law: Law = self.stack.law
            status, reason = "converged", self.why
        else:
            estimate = self.estimates[self.chosen]
            law, status, reason = estimate.law, estimate.status, estimate.reason
        candidates = [
            n
            for n in ("surface", "isoflop", "envelope", self.chosen)
            if n in self.estimates and self.estimates[n].status in USABLE
        ]
        log_c = float(np.log(self.runs.column("flops").max()))
        if self.axis or status not in USABLE:
            status = "not_identifiable"
            reason = self.axis.missing if self.axis else reason
        headline = Headline(
            method=self.chosen,
            why=self.why,
            a=float(law.exponent()[0]),
            slope=float(law.slope(log_c, self.runs.cost)[0]),
            reason=reason,
            candidates=list(dict.fromkeys([self.chosen, *candidates])),
            warnings=[],
            notes=[],
        )
        return headline, status

    def result(self, grouping: str, cost_words: str) -> Fit:
        """The fit; ``grouping`` and ``cost_words`` say how budgets and cost were recognised."""
        estimates, table, o = self.estimates, self.table, self.options
        surface, cost = estimates["surface"], self.runs.cost
        headline, status = self._headline()
        parameters, fixed_e = self._intervals(), estimates.get("fixed_e")
        fit = Fit(
            parametric=surface_entry(surface),
            isoflop=isoflop_entry(
                estimates.get("isoflop"),
                self.runs,
                grouping,
                best_left_out(table, surface, self.runs),
            ),
            tied=surface_entry(estimates["tied"]),
            fixed_e=surface_entry(fixed_e) if fixed_e else None,
            envelope=envelope_entry(estimates.get("envelope")),
            stack=_stack_entry(self.stack, bool(o.bootstrap)),
            axis=self.axis,
            headline=headline,
            status=status,
            ci=parameters,
            ci_noise=parameters,
            delta=surface.surface.fit.delta,
            excluded=excluded(table, surface, self.runs, o.delta, self.exclude),
            heldout=self.heldout,
            bootstrap=self._bootstrap(),
            cost=FitCost(cost.factor, cost.params, cost.per_token, origin=cost_words),
            sizes=all_sizes(table.sizes, o.sizes),
            data=data_entry(table, self.runs),
            table=table_entry(table.frame),
            laws=self._laws(),
            repeats=repeats_of(with_repeats(table, self.runs), o.bootstrap, o.level, o.seed),
            sensitivity=self._sensitivity(status) if o.sensitivity else None,
            accuracy=self._accuracy(),
            choices=o.choices() or None,
        )
        warnings = [*table.doubts, *_cost_doubts(self.runs), *_warnings(fit)]
        return replace(fit, headline=replace(headline, warnings=warnings, notes=_notes(fit)))

    def _intervals(self) -> dict[str, list[float]]:
        """Intervals of the parameters over the resamples."""
        o = self.options
        ends = intervals(self.estimates, o.level if o.bootstrap else None)
        if o.bootstrap and self.stack is not None and self.stack.draws is not None:
            a, z = float(self.stack.law.exponent()[0]), float(ndtri((1 + o.level) / 2))
            half = z * self.stack.draws.exponent_sd()
            ends["stack.a"] = [a - half, a + half]
        return ends

    def _bootstrap(self) -> Bootstrap:
        o, stack = self.options, self.stack
        return Bootstrap(
            resamples=o.bootstrap,
            stack=0 if stack is None or stack.draws is None else stack.draws.rows,
            unit=self.unit,
            seed=o.seed,
            level=o.level,
            se=errors(self.estimates["surface"]) if o.bootstrap else {},
            usable={
                n: int(e.usable.sum()) for n, e in self.estimates.items() if e.usable is not None
            },
            seed_noise=seed_noise(self.table.frame),
        )

    def _laws(self) -> dict[str, FittedLaw]:
        laws = {name: FittedLaw(e.law, e.draws) for name, e in self.estimates.items()}
        if self.stack is not None:
            laws["stack"] = FittedLaw(self.stack.law, self.stack.draws)
        return laws

    def _accuracy(self) -> AccuracyEntry | None:
        """The accuracy as a sigmoid of the loss, where the table was read with one."""
        o, name, weight = (
            self.options,
            self.table.reading.accuracy,
            self.estimates["surface"].weight,
        )
        if name is None:
            return None
        return accuracy_of(self.runs, weight, name, o.chance, self.draws, o.seed)

    def _sensitivity(self, status: str) -> SensitivityEntry:
        """The refits under other choices."""
        o, stack = self.options, None
        if self.stack is not None:
            stack = Refit(
                group="headline",
                label="as fitted",
                headline=True,
                count="params",
                status=status,
                reason="",
                method="stack",
                n_runs=int((self.estimates["surface"].weight > 0).sum()),
                a=float(self.stack.law.exponent()[0]),
                law=self.stack.law,
                cost=self.runs.cost,
            )
        method = self.chosen if self.chosen in self.estimates else "surface"
        how = Choices(method, o.delta, self.exclude, o.fixed_e, o.curve, o.window)
        return sensitivity_of(self.table, self.runs, self.curves, self.estimates, how, stack)


def one_budget(runs: Runs) -> bool:
    """Whether all ``runs`` cost about the same, so that nothing is known of other budgets."""
    return bool(np.ptp(np.log(runs.column("flops"))) < np.log(ONE_BUDGET_SPAN))


def _stack_words(stack: Stack) -> str:
    """How the stack was weighed, as text."""
    tested = len({test.flops for test in tests_of(stack, "loss")})
    tail = (
        f"weighed by their errors on {tested} budgets left out"
        if tested
        else "weighed by their noise, since no budget could be left out"
    )
    return f"{len(stack.names)} forms, weights of runs and paths of minima, {tail}"


def _stack_entry(stack: Stack | None, resampled: bool) -> StackEntry | None:
    """Members with their weights, the chained tests and, if ``resampled``, the error of the form."""
    if stack is None:
        return None
    weights = stack.law.weights
    members = [
        StackMember(
            name=name,
            weight_params=float(weights["params"][i]),
            weight_loss=float(weights["loss"][i]),
            weight_runs=float(weights["runs"][i]),
            scale=stack.scales.get(name),
        )
        for i, name in enumerate(stack.names)
    ]
    return StackEntry(
        members=members,
        tests={name: tests_of(stack, name) for name in QUANTITIES},
        form_error={name: form_error(stack, name) for name in QUANTITIES} if resampled else None,
        noise=stack.noise,
    )


def _cost_doubts(runs: Runs) -> list[str]:
    """A reason against trust where C of the ``runs`` is no function of N times D."""
    log_f = runs.cost.log_flops_per_token(np.log(runs.column("params")))
    off = np.abs(np.log(runs.column("flops") / runs.column("tokens")) - log_f)
    if np.quantile(off, 0.9) <= np.log(OFF_COST):
        return []
    return [
        f"the FLOPs of the runs differ from C = f(N) D by a factor of up to {np.exp(off.max()):.2f}: "
        "N* is the best size for a cost that these runs did not have"
    ]


def _warnings(fit: Fit) -> list[str]:
    """What the numbers do not show by themselves and the verdict must know: weight of exclusions."""
    put_back = fit.excluded.with_them
    if put_back:
        factor = put_back.params_at_largest / put_back.params_at_largest_without
        if abs(np.log(factor)) > np.log(MOVED):
            return [f"with the runs left out put back, N* would be {factor:.2f} times as large"]
    return []


def _notes(fit: Fit) -> list[str]:
    """What a reader should know and the interval already covers: misfit beyond seed noise."""
    noise = fit.bootstrap.seed_noise
    scale = fit.stack.noise if fit.stack else fit.parametric.scale
    if not noise or noise.df < FEWEST_REPEATS or scale <= MISFIT * noise.sd:
        return []
    law = "the best law of the stack" if fit.stack else "the surface"
    return [
        f"{law} misses the runs by {100 * scale:.2g}%, while seeds differ by {100 * noise.sd:.2g}%: "
        "its form does not fit here"
    ]
