"""Two models of a pair, and which of them answers.

*Free*: each arm has the law of its own fit, whatever answers there. *Shared*: one law for both with
the same exponents (`shared`), which is far less noisy beyond the data, and wrong where the exponents
differ. A likelihood ratio and the errors on budgets left out decide, and both are reported.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import fdtrc

from flops_fit.comparison.multiplier import SAME_BUDGET, Frontier, Pair
from flops_fit.comparison.pairs import Arm
from flops_fit.comparison.seeds import SeedLuck, seed_luck
from flops_fit.comparison.shared import Shared, Table, fit_shared, huber, refit_shared
from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.calibrate import from_tests, moments, prior
from flops_fit.fit.cost import Cost
from flops_fit.fit.estimators import Estimate, estimate_isoflop, estimate_surface
from flops_fit.fit.form_error import FormError
from flops_fit.fit.forms import BentDesign
from flops_fit.fit.laws import Law, PathLaw, StackLaw
from flops_fit.fit.measure import measure
from flops_fit.fit.members import fit_members, resample_members
from flops_fit.fit.paths import paths
from flops_fit.fit.sections import ChainTest
from flops_fit.fit.stack import LEAST_DRAWS
from flops_fit.fit.surface import Data

SHARED, FREE = "shared", "free"
COMMON = 3  # parameters that only the free model has twice: E, alpha and beta
WORSE = 2.0  # factor in the error on budgets left out beyond which exponents are not shared
NO_ERROR = 1e-3  # of ln M on budgets left out: below it no model is worse
# 2 (F - F') / s^2 of Huber losses is chi-square only after this factor: E psi' / E psi^2 under a normal
# distribution at the threshold 1.345 (Ronchetti 1982, "tau test").
HUBER_FACTOR = 1.157
# Var(e - e') / (Var(e) + Var(e')) of the errors e of two like arms on the same budgets left out, over
# the six pairs of the sweeps of Porian et al. (2024), with the noise of both sides taken off, since that
# does not cancel (benchmarks/compare.py --form): 1 for unrelated arms. Part of the error of the form is
# common, and cancels.
LIKE = 0.42
ENOUGH_DRAWS = 300  # for a standard deviation at many C


@dataclass(frozen=True)
class Scores:
    """What decides between the models, and the factors of the shared one.

    ``likelihood_ratio``: of free over shared, twice the difference in ln likelihood, with ``p_value``
    (of F with 3 degrees of freedom: small where the exponents differ). ``heldout``: model -> root mean
    square error of ln M on budgets left out, None where no budget could be left out in both arms;
    ``tests``: their number. ``rho_N`` and ``rho_D``: how many reference parameters and tokens one of
    the candidate's is worth.
    """

    likelihood_ratio: float
    p_value: float
    heldout: dict[str, float] | None
    tests: int
    rho_N: float
    rho_D: float

    @property
    def weights(self) -> dict[str, float]:
        """Model -> its weight, which sum to 1.

        By Akaike's criterion, as the probability that the model predicts best (Burnham and Anderson
        2002); the shared model has none where it fails on budgets left out.
        """
        gain = min(max(self.likelihood_ratio / 2 - COMMON, -50.0), 50.0)
        free = 1.0 if self._fails else 1 / (1 + float(np.exp(-gain)))
        return {SHARED: 1 - free, FREE: free}

    @property
    def _fails(self) -> bool:
        """Whether shared exponents predict budgets left out far worse than free ones."""
        heldout = self.heldout
        return bool(heldout) and heldout[SHARED] > max(WORSE * heldout[FREE], NO_ERROR)  # type: ignore

    @property
    def name(self) -> str:
        """The model with most weight."""
        return FREE if self.weights[FREE] > 0.5 else SHARED

    @property
    def why(self) -> str:
        """Why that one, as a sentence."""
        tested = f"a likelihood ratio of {self.likelihood_ratio:.3g} (p = {self.p_value:.2g})"
        left_out = "no budget could be left out to test it"
        if self.heldout:
            each = ", ".join(f"{v:.2g} {name}" for name, v in self.heldout.items())
            left_out = f"errors of ln M on budgets left out: {each}"
        if self._fails:
            return f"shared exponents predict budgets left out worse ({left_out}), despite {tested}"
        share = f"it has {self.weights[self.name]:.0%} of the weight"
        if self.name == FREE:
            return (
                f"{share}, since the exponents of the two arms seem to differ: {tested}; {left_out}"
            )
        return f"{share}, since no difference of the exponents shows: {tested}; {left_out}"


@dataclass(frozen=True, eq=False)
class Models:
    """Both models of a pair of arms, the ``scores`` that weigh them, and what is wrong with both.

    ``pairs``: model -> both arms under it; ``form``: the error of the form in ln L* of one arm less that
    of the other, None where it is not known; ``luck``: what the seeds add to that difference.
    """

    pairs: dict[str, Pair]
    scores: Scores
    form: FormError | None
    luck: SeedLuck

    def shares(self, log_m: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Model -> its weight (k,) at every C, for ``log_m``, ln M (k,) by each: 0 where not finite."""
        each = {m: w * np.isfinite(log_m[m]) for m, w in self.scores.weights.items()}
        total = np.maximum(sum(each.values()), 1e-9)
        return {m: w / total for m, w in each.items()}

    def mean_of(self, log_m: dict[str, np.ndarray]) -> np.ndarray:
        """The weighted mean of ``log_m``, ln M (k,) by each model, of those that are finite."""
        best = log_m[self.scores.name]
        known = {m: np.where(np.isfinite(v), v, 0.0) for m, v in log_m.items()}
        mean = sum(w * known[m] for m, w in self.shares(log_m).items())
        return np.where(np.isfinite(best), mean, best)

    def log_multiplier(self, log_c: np.ndarray) -> np.ndarray:
        """ln M at ``log_c`` = ln C of the candidate, both of shape (k,): the mean of both models."""
        return self.mean_of({m: pair.log_multiplier(log_c) for m, pair in self.pairs.items()})


def models_of(reference: Arm, candidate: Arm, draws: tuple[Draws, Draws] | None) -> Models:
    """Fit both models to ``reference`` and ``candidate``, and refit them on the joint ``draws``."""
    arms = (reference, candidate)
    each = (None, None) if draws is None else draws
    surfaces = [_surface(arm, d) for arm, d in zip(arms, each, strict=True)]
    table = _table(arms, surfaces)
    start = [surface.law.values[0] for surface in surfaces]
    shared = fit_shared(table, start[0], start[1])
    if draws is not None:
        shared = replace(shared, draws=_shared_draws(table, shared, surfaces, draws))
    tests = matched_tests(reference, candidate)
    pairs = {
        SHARED: Pair(*(_shared_frontier(shared, arm.fit.cost, k) for k, arm in enumerate(arms))),
        FREE: _free_pair(arms, surfaces, draws),
    }
    scores = _scores(table, shared, surfaces, _heldout(arms, table, start, tests, pairs[FREE]))
    return Models(pairs, scores, _form_error(arms, tests), seed_luck(reference, candidate))


def _surface(arm: Arm, draws: Draws | None) -> Estimate:
    """The classic surface of one arm alone, with the exclusions of its fit."""
    return estimate_surface(arm.runs, draws, "auto", arm.fit.excluded.rule)


def _table(arms: tuple[Arm, Arm], surfaces: list[Estimate]) -> Table:
    """The runs of both arms, each with the noise of its arm around its surface."""

    def both(name: str) -> np.ndarray:
        return np.log(np.concatenate([arm.runs.column(name) for arm in arms]))

    sizes = [len(arm.runs) for arm in arms]
    noise = []
    for surface in surfaces:
        fit = surface.surface.fit
        noise.append(fit.scale * np.sqrt(fit.n_runs / max(fit.n_runs - fit.form.size, 1)))
    return Table(
        both("params"),
        both("tokens"),
        both("loss"),
        np.repeat([0, 1], sizes),
        np.repeat(noise, sizes),
        np.concatenate([surface.weight for surface in surfaces]),
    )


def _shared_draws(
    table: Table, shared: Shared, surfaces: list[Estimate], draws: tuple[Draws, Draws]
) -> np.ndarray:
    """theta (R, 7) of the shared model on every joint resample."""
    held = [s.draw_weight for s in surfaces]
    weight = np.concatenate([w for w in held if w is not None], axis=1)
    signs = [d.sign for d in draws if d.sign is not None]
    if not signs:
        return refit_shared(table, shared, weight)
    residual = shared.residual * table.noise
    used = table.weight.sum()
    inflated = residual * np.sqrt(used / max(used - len(shared.theta), 1))
    losses = (table.log_loss - residual)[None] + np.concatenate(signs, axis=1) * inflated
    return refit_shared(table, shared, weight, losses)


def _shared_frontier(shared: Shared, cost: Cost, arm: int) -> Frontier:
    draws = None if shared.draws is None else shared.law(arm, shared.draws[:ENOUGH_DRAWS])
    return Frontier(shared.law(arm), draws, cost)


def _free_pair(
    arms: tuple[Arm, Arm], surfaces: list[Estimate], draws: tuple[Draws, Draws] | None
) -> Pair:
    """The laws that answer in the two fits, refitted on the joint resamples.

    Two stacks have the mean of their weights, so that what is wrong with a member in both arms cancels.
    """
    drawn: list[Law | None] = [None, None]
    if draws is not None:
        refits = [_refits(*side) for side in zip(arms, surfaces, draws, strict=True)]
        rows = min(len(usable) for _, usable in refits)
        both = np.logical_and(*(usable[:rows] for _, usable in refits))
        both[np.cumsum(both) > ENOUGH_DRAWS] = False
        drawn = [_taken(law, usable, both) for law, usable in refits]
    laws = _alike([arm.fit.answering.law for arm in arms])
    sides = zip(arms, laws, drawn, strict=True)
    return Pair(*(Frontier(law, draws, arm.fit.cost) for arm, law, draws in sides))


def _alike(laws: list[Law]) -> list[Law]:
    """The two ``laws``, with the same weights where both are stacks of the same members."""
    first, second = laws
    if not (isinstance(first, StackLaw) and isinstance(second, StackLaw)):
        return laws
    if len(first.laws) != len(second.laws):
        return laws
    mean = {name: (weight + second.weights[name]) / 2 for name, weight in first.weights.items()}
    return [replace(first, weights=mean), replace(second, weights=mean)]


def _refits(arm: Arm, surface: Estimate, draws: Draws) -> tuple[Law, np.ndarray]:
    """The law that answers in the fit of ``arm`` on the resamples, and which of them (R,) have one.

    Of the envelope, which needs loss curves that a fit does not keep, its own resamples.
    """
    method, runs = arm.fit.headline.method, arm.runs
    if method == "stack":
        law = _stack_refits(arm, surface, draws)
        return law, np.ones(law.rows, dtype=bool)
    if method == "envelope":
        kept = arm.fit.answering.draws
        assert kept is not None
        assert not isinstance(kept, StackLaw)
        return kept, np.ones(len(kept.values), dtype=bool)
    estimate = surface
    if method == "isoflop":
        estimate = estimate_isoflop(runs, draws, surface.weight, surface.draw_weight)
    elif method != "surface":
        fixed = arm.fit.fixed_e.E if method == "fixed_e" and arm.fit.fixed_e else None
        estimate = estimate_surface(runs, draws, "auto", arm.fit.excluded.rule, method, fixed)
    assert estimate.draws is not None
    assert estimate.usable is not None
    return estimate.draws, estimate.usable


def _stack_refits(arm: Arm, surface: Estimate, draws: Draws) -> StackLaw:
    """Every member of the stack of ``arm`` on the first of the resamples, with its weights held."""
    law, runs = arm.fit.answering.law, arm.runs
    assert isinstance(law, StackLaw)
    assert surface.draw_weight is not None
    count = min(len(draws), max(LEAST_DRAWS, len(draws) // len(law.laws)))
    draws, held = draws.first(count), surface.draw_weight[:count]
    data = Data.of(runs.column("params"), runs.column("tokens"), runs.column("loss"))
    design = BentDesign(data.design.x, data.design.y)
    log_c = np.log(runs.column("flops"))
    fits = fit_members(data, design, log_c, surface.weight[None])
    members = resample_members(data, design, log_c, surface.weight, fits, draws, held)
    lines = paths(runs, surface.weight, np.array([log_c.max()]), draws, held)
    through = (PathLaw(line.draws) for line in lines if line.draws is not None)
    return StackLaw((*members, *through), law.weights)


def _taken(law: Law, usable: np.ndarray, both: np.ndarray) -> Law:
    """The rows of ``law`` for the resamples that both arms have; ``law`` has one for each usable one."""
    at = np.flatnonzero(both)
    rows = (np.cumsum(usable) - 1)[at]
    if isinstance(law, StackLaw):
        return replace(law, laws=tuple(replace(m, values=m.values[rows]) for m in law.laws))
    return replace(law, values=law.values[rows])


Matched = list[tuple[ChainTest, ChainTest]]


def matched_tests(reference: Arm, candidate: Arm) -> Matched:
    """Predictions of ``reference`` and ``candidate`` for one budget from the same cheaper ones."""
    if reference.fit.stack is None or candidate.fit.stack is None:
        return []

    def same(a: float, b: float) -> bool:
        return abs(np.log(a / b)) < SAME_BUDGET

    return [
        (r, c)
        for r in reference.fit.stack.tests["loss"]
        for c in candidate.fit.stack.tests["loss"]
        if same(r.flops, c.flops) and same(r.trained_up_to, c.trained_up_to)
    ]


def _form_error(arms: tuple[Arm, Arm], matched: Matched) -> FormError | None:
    """The error of the form in the difference of the arms' ln L*.

    Two fits with the same budgets show it: of what their predictions missed, the common part cancels.
    As for one fit, few tests are shrunk towards what other sweeps showed, less what like arms share.
    """
    forms = [arm.fit.stack.form_error for arm in arms if arm.fit.stack]
    known = [form["loss"] for form in forms if form]
    if len(known) < len(arms):
        return None
    if not matched:
        tau = float(np.sqrt(LIKE) * np.hypot(known[0].tau, known[1].tau))
        return FormError(tau, min(form.df for form in known), 0)
    both = [
        replace(
            c,
            error=r.error - c.error,
            sd=float(np.hypot(r.sd, c.sd)),
            se=float(np.hypot(r.se, c.se)),
        )
        for r, c in matched
    ]
    return from_tests(*moments(both, "loss"), np.sqrt(2 * LIKE) * prior()["loss"], len(both))


def _heldout(
    arms: tuple[Arm, Arm], table: Table, start: list[np.ndarray], matched: Matched, free: Pair
) -> dict[str, list[float]]:
    """Errors of ln M of both models on budgets left out, one for each of the ``matched`` tests."""
    errors: dict[str, list[float]] = {SHARED: [], FREE: []}
    minima = [_minima(arm, table.weight[table.arm == k]) for k, arm in enumerate(arms)]
    log_c = np.log(np.concatenate([arm.runs.column("flops") for arm in arms]))
    fits: dict[float, Pair] = {}
    for r, c in matched:
        measured = [
            next((v for f, v in side.items() if abs(np.log(f / r.flops)) < SAME_BUDGET), None)
            for side in minima
        ]
        if measured[0] is None or measured[1] is None:
            continue
        top = float(np.log(max(r.trained_up_to, c.trained_up_to)))
        if top not in fits:
            part = fit_shared(table.below(log_c <= top + SAME_BUDGET), start[0], start[1])
            fits[top] = Pair(*(_shared_frontier(part, a.fit.cost, k) for k, a in enumerate(arms)))
        at = np.log([r.flops])
        slope = float(free.reference.slope(at)[0])
        errors[FREE].append((r.error - c.error) / slope)
        gap = float(fits[top].gap(at)[0])
        errors[SHARED].append((gap - (measured[0] - measured[1])) / slope)
    return errors


def _minima(arm: Arm, weight: np.ndarray) -> dict[float, float]:
    """C -> ln L* of the bracketed minima of ``arm``, whose runs have ``weight`` (n,)."""
    logs = [np.log(arm.runs.column(name)) for name in ("params", "loss", "flops")]
    minima = measure(logs[0], logs[1], logs[2], arm.runs.groups, weight)
    return {m.flops: m.log_loss for m in minima if m}


def _scores(
    table: Table, shared: Shared, surfaces: list[Estimate], errors: dict[str, list[float]]
) -> Scores:
    """The likelihood ratio of the two models in their surfaces, and their errors on budgets left out."""
    apart = np.concatenate([surface.surface.fit.residual for surface in surfaces]) / table.noise
    ratio = 2 * HUBER_FACTOR * (shared.objective - huber(apart, table.weight))
    free = max(int(table.weight.sum()) - 2 * 5, 1)
    count = len(errors[FREE])
    rms = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items() if e}
    rho = np.exp(shared.log_factors)
    return Scores(
        likelihood_ratio=max(float(ratio), 0.0),
        p_value=float(fdtrc(COMMON, free, max(ratio, 0.0) / COMMON)),
        heldout=rms if count else None,
        tests=count,
        rho_N=float(rho[0]),
        rho_D=float(rho[1]),
    )
