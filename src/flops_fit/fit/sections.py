"""The sections of a fit, one class each, with the field names of FIT.json.

N is in parameters, D in tokens, C in FLOPs, losses are in the unit of the runs. ``status`` and
``reason`` say how far a section's numbers can be trusted. An interval is [low, high].
"""

from dataclasses import dataclass, field

from flops_fit.fit.cost import Cost
from flops_fit.fit.form_error import FormError
from flops_fit.fit.laws import Law, law_from_dict, law_to_dict
from flops_fit.fit.plain import OMITTED
from flops_fit.fit.rows import LeftOut, Reading

Cell = float | str | None
AS_LAW = {"read": law_from_dict, "write": law_to_dict}


@dataclass(frozen=True)
class BetterRun:
    """A run left out whose ``loss`` is below that of every run used at its budget."""

    experiment_id: str = field(metadata={"before": "run_id"})  # its name
    row: int  # in the table
    params: float  # N
    loss: float


@dataclass(frozen=True)
class SurfaceEntry:
    """A surface L = E + A / N^alpha + B / D^beta, and how well the runs determine it.

    ``a`` = beta / (alpha + beta) and ``b`` = 1 - a; ``objective``: summed Huber loss of ln L;
    ``delta``: its threshold; ``scale``: robust scale of the residuals of ln L; ``starts`` of the
    minimiser, the relative spread of their objectives and how many ended at the minimum;
    ``condition`` number; ``se_a``: asymptotic standard error of a; ``profile_E``: [[E, rise of the
    objective]].
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    a: float
    b: float
    objective: float
    n_runs: int  # runs used
    status: str  # converged, at_bound or not_identifiable
    reason: str  # for the status
    delta: float
    scale: float
    starts: int
    starts_spread: float  # relative spread of their objectives
    starts_at_minimum: int  # how many ended there
    condition: float
    se_a: float
    profile_E: list[list[float]]


@dataclass(frozen=True)
class LossLaw:
    """L* = E + K C^-gamma along the optimum, with ``ln_K`` = ln K."""

    E: float
    ln_K: float
    gamma: float


@dataclass(frozen=True)
class BudgetEntry:
    """The measured minimum of one compute budget of ``flops``.

    The curve is loss = c0 + c1 z + c2 z^2 with z = ln N - ``centre`` and ``coefficients`` [c0, c1,
    c2]. Where the minimum is not bracketed the optimum given is the lowest run.
    """

    flops: float
    params_opt: float  # N*
    tokens_opt: float  # D*
    loss_opt: float  # L*
    status: str  # bracketed, at_edge, no_minimum or too_few_points
    reason: str  # for the status
    curvature: float  # c2
    coefficients: list[float]
    centre: float
    params_range: list[float]  # [lowest N, highest N] tried
    n_runs: int  # runs of this budget
    best_left_out: BetterRun | None = None  # better than all used


@dataclass(frozen=True)
class IsoflopEntry:
    """Approach 2: the minimum of each budget and the exponent ``a`` of the path through them.

    ``shared``: whether runs share budgets; ``grouping``: how the budgets were recognised.
    """

    a: float
    status: str  # that of a budget, or of most
    reason: str  # for the status
    loss_law: LossLaw | None = field(metadata=OMITTED)  # of L* along the path
    budgets: list[BudgetEntry]
    shared: bool
    grouping: str | None = field(metadata=OMITTED)


@dataclass(frozen=True)
class EnvelopeEntry:
    """Approach 1: the exponent ``a`` along the envelope; ``points``: [[C, N, loss]] on it."""

    a: float
    status: str  # bracketed or too_few_points
    reason: str  # for the status
    loss_law: LossLaw  # of L* along it
    points: list[list[float]]


@dataclass(frozen=True)
class StackMember:
    """A member of the stack and its weights, shares in N*, in L* and in the loss of any run.

    ``scale``: robust scale of its residuals of ln L; None for a path through minima.
    """

    name: str  # form and weight of the runs, or path
    weight_params: float  # in N*
    weight_loss: float  # in L*
    weight_runs: float  # in the loss of any run
    scale: float | None


@dataclass(frozen=True)
class ChainTest:
    """A prediction of the stack for one budget from the cheaper ones, against what was measured.

    ``trained_up_to`` and ``flops``: the largest budget used and the one predicted; ``error``: of ln
    N* or ln L*, predicted less measured; ``sd``: noise of the prediction, ``se``: of the measurement;
    ``ahead``: budgets between them; ``distance``: in ln C; ``age``: budgets since.
    """

    trained_up_to: float
    flops: float
    error: float
    sd: float
    se: float
    ahead: int
    distance: float
    age: int


@dataclass(frozen=True)
class StackEntry:
    """The stack: members, its own predictions of budgets left out, and the error of its form.

    ``tests`` and ``form_error`` have the keys params (ln N*) and loss (ln L*); ``form_error`` is
    None without resamples; ``noise``: the least scale of its members.
    """

    members: list[StackMember]
    tests: dict[str, list[ChainTest]]
    form_error: dict[str, FormError] | None
    noise: float


@dataclass(frozen=True)
class AxisEntry:
    """The one axis along which N and D vary together, and its law L = E + A x^-alpha.

    ``x``: params, tokens or flops; ``missing``: what N* needs; ``range`` of x; ``params`` and
    ``tokens``: their geometric means. E, A and alpha are None with fewer than 4 values of x;
    ``draws``: [[E, ln A, alpha]] of the resamples.
    """

    x: str
    missing: str
    range: list[float]
    params: float
    tokens: float
    E: float | None
    A: float | None
    alpha: float | None
    level: float  # of the intervals
    draws: list[list[float]]


@dataclass(frozen=True)
class RepeatForm:
    """One form of the worth of repeated data: its ``error`` on runs left out, and its R."""

    form: str  # none, exponential or hyperbolic
    error: float  # mean |error of ln L| of the runs that repeat their data
    R: float | None  # passes that all repeats together are worth; None for none


@dataclass(frozen=True)
class RepeatsEntry:
    """What repeated data are worth: ``form`` is the one that predicts best, ``forms`` are all tried.

    ``law``: [E, ln A, ln B, alpha, beta, and R unless the form is none] of L = E + A / N^alpha + B /
    D'^beta; ``draws``: the same of each resample; ``R_ci``: [low, high]; ``most_epochs``: most passes
    of one run.
    """

    form: str
    forms: list[RepeatForm]
    n_repeated: int  # runs that repeat their data
    most_epochs: float
    R: float | None
    R_ci: list[float] | None  # None without resamples
    law: list[float]
    draws: list[list[float]]


@dataclass(frozen=True)
class Headline:
    """The estimator that answers, and why it does.

    ``a``: exponent of N*; ``slope``: d ln N* / d ln C at the largest C; ``candidates``: the usable
    estimators; ``warnings`` forbid trust, ``notes`` do not.
    """

    method: str  # stack, surface, tied, fixed_e, isoflop or envelope
    why: str = field(metadata={"key": "words"})  # this estimator answers
    a: float
    slope: float
    reason: str  # for the status
    candidates: list[str]
    warnings: list[str]
    notes: list[str]


@dataclass(frozen=True)
class PutBack:
    """The surface with the automatic exclusions put back, and N* at the largest C with and without."""

    E: float  # loss of the largest model on the most data
    alpha: float  # power of N
    beta: float  # power of D
    a: float  # exponent of N*
    params_at_largest: float  # N* at the largest C
    params_at_largest_without: float  # N* there without these runs


@dataclass(frozen=True)
class Excluded:
    """The runs left out, by which rule and why."""

    rule: str
    count: int  # of runs left out
    by_reason: dict[str, int]  # their number for each reason
    runs: list[LeftOut]
    with_them: PutBack | None  # None where no run was left out by residual


@dataclass(frozen=True)
class HeldoutPrediction:
    """What one estimator predicted for a budget left out, and what was measured there.

    ``excess``: relative excess loss of a model of the predicted N*; ``loss_error``: relative error
    of the predicted L*.
    """

    estimator: str
    flops: float  # the budget
    params: float  # N*, predicted
    params_measured: float  # N*, measured
    loss: float  # L*, predicted
    loss_measured: float  # L*, measured
    excess: float
    loss_error: float


@dataclass(frozen=True)
class HeldoutLevel:
    """The predictions from all but the largest ``left_out`` budgets, up to C = ``trained_up_to``."""

    left_out: int
    trained_up_to: float
    n_runs: int  # runs used
    predictions: list[HeldoutPrediction]


@dataclass(frozen=True)
class Heldout:
    """How each single estimator predicted the largest budgets, and its mean ``score``."""

    levels: list[HeldoutLevel]  # one per number of budgets left out
    levels_scored: int  # at which all estimators could be compared
    score: dict[str, float]


@dataclass(frozen=True)
class SeedNoise:
    """Spread ``sd`` of ln L between seeds of the same N and D, with ``df`` degrees of freedom."""

    sd: float
    df: int


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals were made: number, unit and seed of the resamples, and their level.

    ``stack``: resamples that each member of it was refitted on; ``se``: standard errors of E, ln_A,
    ln_B, alpha, beta and a; ``usable``: resamples that each estimator could be fitted on.
    """

    resamples: int  # their number
    stack: int
    unit: str  # runs, groups or wild
    seed: int  # of the generator
    level: float  # share of resamples inside an interval
    se: dict[str, float]
    usable: dict[str, int]
    seed_noise: SeedNoise | None  # None where no N and D were repeated


@dataclass(frozen=True)
class DataEntry:
    """The runs behind the fit: where they are from, how they were read, and their ranges.

    ``params_column``: the column that was N; ``most_epochs``: most passes of one run over its data.
    """

    source: str  # file of the table
    params_column: str
    reading: Reading  # the other choices on how it was read
    n_runs: int  # runs fitted
    params: list[float]  # [lowest, highest]
    tokens: list[float]  # [lowest, highest]
    flops: list[float]  # [lowest, highest]
    loss: list[float]  # [lowest, highest]
    budgets: list[float]  # compute budgets that runs share
    largest_budget: float  # or the largest C
    seeds: int  # their number
    most_epochs: float | None
    loss_unit: str  # as written beside every loss
    notes: list[str]  # what was recognised, derived and assumed


@dataclass(frozen=True)
class TableEntry:
    """The runs as fitted, by column, and the SHA-256 of their numbers."""

    columns: dict[str, list[Cell]]  # params, tokens, flops, loss, seed, budget
    sha256: str  # of the columns


@dataclass(frozen=True, eq=False)
class Refit:
    """The headline, or the surface, refitted with one choice changed.

    ``group``: what was changed (`sensitivity.GROUPS`); ``headline``: whether this is the fit's own
    choice; ``count``: the column that N is in it; ``law`` on ``cost`` can be evaluated at any C.
    """

    group: str
    label: str  # the choice
    headline: bool
    count: str
    status: str  # of the estimator
    reason: str  # for the status
    method: str  # the estimator
    n_runs: int  # runs used
    a: float  # exponent of N*
    law: Law = field(metadata=AS_LAW)
    cost: Cost


@dataclass(frozen=True)
class SensitivityEntry:
    """Refits under other choices, and notes on what was grouped or left away."""

    rows: list[Refit]  # one per refit
    notes: list[str]


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """The law of one estimator: of the estimate, and of its resamples (None without)."""

    law: Law = field(metadata=AS_LAW)
    draws: Law | None = field(metadata=AS_LAW)  # one row per resample
