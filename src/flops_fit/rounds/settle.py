"""The second round of a comparison: the runs that narrow the interval of M most per FLOP.

Under either model (`flops_fit.comparison.models`) ln M has the variance noise^2 + luck^2 + form^2. What
new runs change of it is known without simulating them: with J the derivatives of ln L of all runs by the
parameters of the law, and s the noise of a run, the parameters have the covariance (sum J' J / s^2)^-1,
and ln M, a difference of two ln L* over the slope of the reference, follows to first order. The luck of
seeds falls with their number, and the error of the form with the distance of C to the largest budget.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from flops_fit.comparison.judge import FALSE_ALARMS, POWER
from flops_fit.comparison.models import FREE, SHARED, Models
from flops_fit.comparison.multiplier import SAME_BUDGET
from flops_fit.comparison.pairs import Arm
from flops_fit.errors import FlopsFitError
from flops_fit.fit.form_error import growth
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.notation import flops_text
from flops_fit.rounds.grid import Action, Grid
from flops_fit.rounds.next import WORTH, listed, log_optimum, merged, sizes_around, sizes_beside
from flops_fit.rounds.truth import law_of_fit

Actions = tuple[Action | None, Action | None]  # of the reference and of the candidate
Designs = tuple[pd.DataFrame, pd.DataFrame]  # one row per run
QUIET = 1e-9  # ln L: the least noise of a run
RIDGE = 1e-12  # of the information, so that it has an inverse where runs leave a parameter open


@dataclass(frozen=True, eq=False)
class Question:
    """ln M at C = ``flops`` of two ``arms`` with their ``grids``, by the ``models`` of their comparison.

    ``surfaces``: the surface of either arm with the noise of its runs, in ln L; ``sd``: the standard
    deviation of ln M as the comparison states it now.
    """

    arms: tuple[Arm, Arm]
    grids: tuple[Grid, Grid]
    models: Models
    surfaces: tuple[tuple[SurfaceLaw, float], ...]
    flops: float
    sd: float

    def designs(self, actions: Actions = (None, None)) -> Designs:
        """The runs of both arms, with those of ``actions`` added."""
        reference, candidate = (
            grid.design if action is None else grid.with_runs(action)
            for grid, action in zip(self.grids, actions, strict=True)
        )
        return reference, candidate

    def expected(self, designs: Designs) -> float:
        """The standard deviation of ln M that is expected of the runs in ``designs``."""
        return self.sd * math.sqrt(self._variance(designs) / self._now)

    @cached_property
    def _now(self) -> float:
        return self._variance(self.designs())

    @cached_property
    def _log_c(self) -> tuple[float, float]:
        """ln C at which the reference is asked, and the candidate."""
        log_c = math.log(self.flops)
        log_m = float(self.models.log_multiplier(np.array([log_c]))[0])
        return log_c + log_m, log_c

    @cached_property
    def _slope(self) -> float:
        """-d ln L* / d ln C of the reference, where it is asked."""
        pair = self.models.pairs[self.models.scores.name]
        return float(pair.reference.slope(np.array([self._log_c[0]]))[0])

    def _variance(self, designs: Designs) -> float:
        """The variance of ln M: of both models, by their weights."""
        luck = self.models.luck
        seeds = [_seeds(self.designs()), _seeds(designs)]
        common = luck.sd**2 * seeds[0] / seeds[1]
        form = 0.0
        if self.models.form is not None:
            tops = [math.log(design["budget"].max()) for design in designs]
            beyond = max(at - top for at, top in zip(self._log_c, tops, strict=True))
            form = float((self.models.form.tau * growth(beyond)) ** 2)
        weights = self.models.scores.weights
        parts = {
            SHARED: self._noise_shared(designs) + common,
            FREE: self._noise_free(designs) + common + form,
        }
        return sum(weights[name] * part for name, part in parts.items()) / self._slope**2

    def _noise_free(self, designs: Designs) -> float:
        """The variance of the difference of ln L*, each arm with its own law."""
        total = 0.0
        for k, design in enumerate(designs):
            law, noise = self.surfaces[k]
            at = self._optimum(law, k)
            total += _variance_of(at, [_gradients(law, *_points(design)) / noise])
        return total

    def _noise_shared(self, designs: Designs) -> float:
        """The same with the parameters of the shared model: those of one arm, and two shifts."""
        pair = self.models.pairs[SHARED]
        at, rows = [], []
        for k, (design, side) in enumerate(
            zip(designs, (pair.reference, pair.candidate), strict=True)
        ):
            law = side.law
            assert isinstance(law, SurfaceLaw)
            at.append(_with_shifts(self._optimum(law, k), k))
            rows.append(_with_shifts(_gradients(law, *_points(design)), k) / self.surfaces[k][1])
        return _variance_of(at[0] - at[1], rows)

    def _optimum(self, law: SurfaceLaw, k: int) -> np.ndarray:
        """d ln L* by the parameters of the ``law`` of arm ``k``, (1, 5): those at its best N and D."""
        log_c, cost = self._log_c[k], self.arms[k].fit.cost
        log_n = law.optimum(log_c, cost)[0]
        return _gradients(law, log_n, cost.log_tokens(log_n, np.array([log_c])))


def _points(design: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """ln N and ln D, (n,), of the runs in ``design``."""
    log_n, log_d = (np.log(design[name].to_numpy(dtype=float)) for name in ("params", "tokens"))
    return log_n, log_d


def _gradients(law: SurfaceLaw, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """d ln L by ln E, ln A, ln B, alpha and beta of ``law`` at ln N and ln D: (n, 5)."""
    e, ln_a, ln_b, alpha, beta = law.values[0]
    terms = np.stack(
        [np.full_like(log_n, e), np.exp(ln_a - alpha * log_n), np.exp(ln_b - beta * log_d)]
    )
    one, n, d = terms / terms.sum(axis=0)
    return np.stack([one, n, d, -log_n * n, -log_d * d], axis=1)


def _with_shifts(gradient: np.ndarray, k: int) -> np.ndarray:
    """``gradient`` (n, 5) of arm ``k`` with the candidate's shifts of ln A and ln B: (n, 7)."""
    return np.hstack([gradient, k * gradient[:, 1:3]])


def _variance_of(at: np.ndarray, rows: list[np.ndarray]) -> float:
    """The variance of a quantity with the gradient ``at`` (1, p), from the ``rows`` (n, p) of runs.

    Each row is the gradient of ln L of a run over its noise.
    """
    jacobian = np.vstack(rows)
    scale = np.sqrt((jacobian**2).sum(axis=0)) + 1e-300
    scaled = jacobian / scale
    information = scaled.T @ scaled + RIDGE * np.eye(len(scale))
    step = at[0] / scale
    return float(step @ np.linalg.solve(information, step))


def _seeds(designs: Designs) -> int:
    """Seeds that the luck is averaged over: those of both arms, or of the arm that has fewer."""
    each = [set(design["seed"]) for design in designs]
    common = len(each[0] & each[1])
    return common if common > 1 else min(map(len, each))


@dataclass(frozen=True)
class Proposal:
    """Runs that may be added to the arms of a comparison, and what they are expected to change.

    ``actions`` of the reference and of the candidate; ``flops`` and ``runs``: what they add; ``sd``:
    the expected standard deviation of ln M with them; ``last``: which of the runs came last, as text.
    """

    actions: Actions
    flops: float
    runs: int
    sd: float
    last: str

    def shows(self, log_m: float) -> float:
        """The probability that a gain of ``log_m`` = ln M would then be called better or worse."""
        return float(ndtr(abs(log_m) / self.sd - ndtri(1 - FALSE_ALARMS / 2)))


def proposals(question: Question, most: float) -> list[Proposal]:
    """Rounds of at most ``most`` FLOPs for ``question``, each with all runs of the one before it.

    Each step adds the runs for which the variance of ln M falls most for a FLOP.
    """
    steps: list[Proposal] = []
    actions: Actions = (None, None)
    left, sd, flops = [step for step in _steps(question) if any(step)], question.sd, 0.0
    while left:
        options = [_proposal(question, actions, step) for step in left]
        gains = [
            (sd**2 - o.sd**2) / max(o.flops - flops, 1.0) if o.flops <= most else -1.0
            for o in options
        ]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        chosen = options[best]
        actions, sd, flops = chosen.actions, chosen.sd, chosen.flops
        steps.append(chosen)
        del left[best]
    return steps


def enough(steps: list[Proposal], question: Question, log_m: float) -> Proposal | None:
    """The first of ``steps`` that would show ``log_m`` = ln M with a probability of 80%, else the last.

    None where even the last narrows the interval of ``question`` by less than 5%.
    """
    if not steps or 1 - steps[-1].sd / question.sd < WORTH:
        return None
    return next((step for step in steps if step.shows(log_m) >= POWER), steps[-1])


def _proposal(question: Question, before: Actions, step: Actions) -> Proposal:
    """The runs of ``before`` and of one more ``step``."""
    pairs = list(zip(before, step, strict=True))
    reference, candidate = (merged([a for a in each if a]) if any(each) else None for each in pairs)
    designs, now = question.designs((reference, candidate)), question.designs()
    named = [
        f"{arm.name}: {action.text}"
        for arm, action in zip(question.arms, step, strict=True)
        if action is not None
    ]
    return Proposal(
        actions=(reference, candidate),
        flops=float(sum(d["flops"].sum() for d in designs) - sum(d["flops"].sum() for d in now)),
        runs=sum(map(len, designs)) - sum(map(len, now)),
        sd=question.expected(designs),
        last="; ".join(named),
    )


def _steps(question: Question) -> Iterator[Actions]:
    """What may be added: sizes beside N* in one arm, budgets in both, seeds, and missing budgets.

    A new budget and a new seed are for both arms, so that these stay comparable; a seed that one arm
    lacks comes before a new one, since the luck of seeds cancels only where both have it.
    """
    arms, grids = question.arms, question.grids
    for budget in grids[0].budgets:
        yield _beside(arms[0], grids[0], budget), None
    for budget in grids[1].budgets:
        yield None, _beside(arms[1], grids[1], budget)
    shared = [c for c in grids[0].budgets if _near(c, grids[1])]
    for budget in _new_budgets(shared):
        reference, candidate = (_window(arms[k], grids[k], budget) for k in (0, 1))
        if reference and candidate:
            alike = all(map(grids[1].builds, reference.sizes[budget]))
            yield reference, reference if alike and _together(arms, grids, budget) else candidate
    for budget in grids[0].budgets:
        if not _near(budget, grids[1]):
            yield None, _window(arms[1], grids[1], budget)
    for budget in grids[1].budgets:
        if not _near(budget, grids[0]):
            yield _window(arms[0], grids[0], budget), None
    seeds = [set(map(int, grid.design["seed"])) for grid in grids]
    every = seeds[0] | seeds[1]
    missing = [sorted(every - side) for side in seeds]
    if not any(missing):
        missing = [[max(every) + 1]] * 2
    yield _seeded(missing[0]), _seeded(missing[1])


def _together(arms: tuple[Arm, Arm], grids: tuple[Grid, Grid], budget: float) -> bool:
    """Whether N* of both arms is so close that the same sizes suit both, and pair their runs."""
    best = [log_optimum(arm.fit, budget) for arm in arms]
    step = min(grid.spacing() for grid in grids)
    return best[0] is not None and best[1] is not None and abs(best[0] - best[1]) < step / 2


def _near(budget: float, grid: Grid) -> bool:
    """Whether ``grid`` has the ``budget``."""
    return any(abs(math.log(budget / known)) < SAME_BUDGET for known in grid.budgets)


def _new_budgets(budgets: list[float]) -> list[float]:
    """Halfway, in ln C, between two neighbours of ``budgets``, and one step beyond the largest."""
    if len(budgets) < 2:
        return []
    steps = [math.log(high / low) for low, high in itertools.pairwise(budgets)]
    halves = [math.sqrt(low * high) for low, high in itertools.pairwise(budgets)]
    further = budgets[-1] * math.exp(sum(steps) / len(steps))
    return [float(f"{c:.3g}") for c in (*halves, further)]


def _beside(arm: Arm, grid: Grid, budget: float) -> Action | None:
    """New sizes in the gaps on both sides of N* of ``arm`` at a ``budget`` of its ``grid``."""
    return _sized(budget, sizes_beside(arm.fit, grid, budget))


def _window(arm: Arm, grid: Grid, budget: float) -> Action | None:
    """Sizes around N* of ``arm`` at a ``budget`` that its ``grid`` lacks."""
    return _sized(budget, sizes_around(arm.fit, grid, budget))


def _sized(budget: float, sizes: list) -> Action | None:
    if not sizes:
        return None
    text = f"sizes {listed(sizes)} at {flops_text(budget)} FLOPs"
    return Action(text, "", {budget: sizes})


def _seeded(seeds: list[int]) -> Action | None:
    """Further ``seeds`` for every run of an arm."""
    if not seeds:
        return None
    return Action(f"seed {', '.join(map(str, seeds))} for every run", "", {}, tuple(seeds))


def question_of(
    arms: tuple[Arm, Arm], grids: tuple[Grid, Grid], models: Models, flops: float, sd: float
) -> Question:
    """The `Question` of the two ``arms``, whose sweeps are ``grids``, at C = ``flops``.

    ``models`` and ``sd``, of ln M: as their comparison has them. Raises `FlopsFitError` where the
    surface of an arm is not identified, since then nothing says what a run would add.
    """
    surfaces = []
    for arm in arms:
        try:
            law, _, noise = law_of_fit(arm.fit)
        except FlopsFitError as error:
            raise FlopsFitError(f"{arm.name}: {error}") from None
        surfaces.append((law, max(noise, QUIET)))
    return Question(arms, grids, models, tuple(surfaces), flops, sd)
