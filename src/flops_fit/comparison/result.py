"""`Comparison`: what `flops_fit.compare` returns, and compare.json keeps."""

from dataclasses import dataclass, field

from flops_fit.files import FORMAT
from flops_fit.fit.plain import OMITTED, fields_of

Interval = list[float]


@dataclass(frozen=True)
class ArmEntry:
    """One arm: its name, the file of its runs, and what its fit says of them."""

    name: str
    source: str  # of the runs
    n_runs: int  # runs fitted
    largest_budget: float  # FLOPs
    method: str  # the estimator that answers
    noise: float  # scale of ln L of a run around the surface


@dataclass(frozen=True)
class ModelEntry:
    """Which model answers, why, and what both scored (`models.Scores`)."""

    name: str  # shared or free: the one with most weight
    why: str
    likelihood_ratio: float  # of the free model over the shared one
    p_value: float  # small where the exponents differ
    weights: dict[str, float]  # model -> its weight in M
    heldout: dict[str, float] | None  # model -> rms error of ln M on budgets left out
    tests: int  # of them
    rho_N: float  # parameters of the reference that one of the candidate is worth
    rho_D: float  # the same of tokens


@dataclass(frozen=True)
class Row:
    """The multiplier at C = ``flops``: M, its interval, the probability that M > 1 and the verdict.

    ``multiplier``, ``ci``, ``probability`` and ``smallest`` are None where nothing can be said;
    ``reasons``: for the ``verdict``, or what to know beside it; ``beyond_data``: C over the largest
    budget that both measured.
    ``ci_noise`` covers the noise of the runs alone; ``smallest``: the smallest M that these sweeps
    would have shown with a probability of 80%; ``models``: M by either model; ``measured``: M from
    the measured minima, without a law; ``wall_clock``: M times the ratio of measured speeds.
    """

    flops: float
    multiplier: float | None
    ci: Interval | None
    probability: float | None
    verdict: str
    reasons: list[str]  # for the verdict, or what to know beside it
    ci_noise: Interval | None
    smallest: float | None
    models: dict[str, float | None]
    measured: float | None
    wall_clock: float | None
    beyond_data: float  # C over the largest budget that both measured


@dataclass(frozen=True)
class Crossing:
    """Where M is 1: ``flops``, with the interval ``ci``, whose ends are None beyond ``range``.

    ``range``: [low, high] of C that was searched. ``flops`` and ``ci`` are None where M is on one side
    of 1 throughout; ``text`` says it as a sentence.
    """

    flops: float | None
    ci: list[float | None] | None
    range: Interval
    text: str


@dataclass(frozen=True)
class Doubt:
    """One point of the fairness list: ``topic`` and ``text``; ``serious`` forbids a verdict."""

    topic: str
    text: str
    serious: bool


@dataclass(frozen=True)
class Curve:
    """Frontiers and M on a grid of C, for the figure: lists of the same length."""

    flops: list[float]  # C
    reference: list[float]  # L*
    candidate: list[float]  # L*
    multiplier: list[float | None]  # M
    low: list[float | None]  # lower end of its interval
    high: list[float | None]  # upper end


@dataclass(frozen=True)
class Comparison:
    """Two arms compared at matched compute; ``rows`` has one entry for each C.

    ``reference`` and ``candidate`` (`ArmEntry`), ``model`` (`ModelEntry`), ``rows`` (`Row`),
    ``crossing`` (`Crossing`), ``fairness`` (`Doubt`), ``differences`` (config keys in which the arms
    differ), ``paired`` (runs drawn together with their counterparts), ``level`` of the intervals,
    ``false_alarms`` (share of equal pairs that may be called better or worse), ``loss_unit``,
    ``curve`` (`Curve`), ``minima`` (arm -> [[C, L*]] measured), ``summary`` (sentences), ``speeds``
    (arm -> median FLOPs per second of its runs; None where not known).
    """

    reference: ArmEntry
    candidate: ArmEntry
    model: ModelEntry
    rows: list[Row]
    crossing: Crossing
    fairness: list[Doubt]
    differences: list[str]
    paired: int
    level: float
    false_alarms: float  # share of equal pairs that may be called better or worse
    loss_unit: str
    curve: Curve = field(repr=False)
    minima: dict[str, list[list[float]]]
    summary: list[str]
    speeds: dict[str, float] | None = field(metadata=OMITTED)  # arm -> FLOPs per second

    def to_dict(self) -> dict:
        """Plain data, as ``flops-fit compare --json`` prints it."""
        return {"format": FORMAT, **fields_of(self)}


def plain_comparisons(comparisons: list[Comparison]) -> dict:
    """The content of compare.json: the only one of ``comparisons``, or a list of them under that key.

    All have the same reference.
    """
    if len(comparisons) == 1:
        return comparisons[0].to_dict()
    return {"format": FORMAT, "comparisons": [each.to_dict() for each in comparisons]}
