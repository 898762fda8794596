"""`Answer`: what `flops_fit.fit.predict` says at one budget, and its parts."""

from dataclasses import dataclass, field

from flops_fit.fit.plain import OMITTED, fields_of

NOT_IDENTIFIABLE, PROVISIONAL, TRUST = "not identifiable", "provisional", "trust"
VERDICTS = (NOT_IDENTIFIABLE, PROVISIONAL, TRUST)  # the weakest first

Interval = list[float]  # [low, high]


@dataclass(frozen=True)
class Optimum:
    """The optimum at C = ``flops``: N* (``params``), D* (``tokens``), L* (``loss``) and D*/N*.

    ``ci`` has [low, high] of each of these four for a measurement (noise and the error of the form),
    ``ci_noise`` from the resamples alone; both are empty without resamples. ``beyond_data``: C over
    the largest budget of the data.
    """

    flops: float
    params: float
    tokens: float
    loss: float
    tokens_per_param: float  # D*/N*
    ci: dict[str, Interval]
    ci_noise: dict[str, Interval]
    beyond_data: float


@dataclass(frozen=True)
class Regret:
    """A model of N* x ``factor``, and the extra share of compute that it needs for the best loss.

    ``waste`` is None where no compute is enough.
    """

    factor: float
    params: float  # N of this model
    waste: float | None


@dataclass(frozen=True)
class ChosenPoint:
    """What a model of a given N, or a given amount of unique tokens, gives for C.

    ``asked``: params or tokens. With tokens, ``unique_tokens`` is their number and ``epochs`` the
    passes over them that the optimum would make. ``waste``: as in `Regret`; ``remarks``: sentences
    on what to make of it.
    """

    asked: str
    unique_tokens: float | None = field(metadata=OMITTED)
    epochs: float | None = field(metadata=OMITTED)
    params: float  # N
    tokens: float  # D
    tokens_per_param: float  # D / N
    loss: float  # in the unit of the runs
    waste: float | None
    remarks: list[str] = field(metadata={"key": "words"})


@dataclass(frozen=True)
class AxisAnswer:
    """What runs along one axis support: ``loss`` = E + A x^-alpha ``at`` that x which costs C.

    ``x``: params, tokens or flops; ``ci``: [low, high], noise alone. The numbers are None where the
    runs do not support such a law; ``missing`` says what N* needs.
    """

    x: str
    E: float | None
    A: float | None
    alpha: float | None
    at: float | None
    loss: float | None
    ci: Interval | None
    verdict: str  # provisional or not identifiable
    missing: str


@dataclass(frozen=True)
class ServedTotal:
    """The best model that C pays for, training and serving together: N (``params``), D (``tokens``).

    ``loss`` is its loss, ``flops_training`` what its training costs.
    """

    params: float  # N
    tokens: float  # D
    loss: float  # in the unit of the runs
    flops_training: float


@dataclass(frozen=True)
class Served:
    """The model of the optimum's loss that costs the least to train and to serve.

    Serving costs a forward pass for each of ``tokens_served``. ``flops_training`` and
    ``flops_total``: of its training alone, and of both; ``saved``: the share of the total that it
    saves against the optimum; ``ci``: [low, high] of params and tokens, empty without resamples;
    ``range_1pct``: N of the same loss with at most 1% more in all; ``for_total``: the best model
    that C pays for in all; ``verdict``: as in `Answer`.
    """

    tokens_served: float
    params: float  # N
    tokens: float  # D of its training
    tokens_per_param: float  # D / N
    loss: float  # that of the optimum
    flops_training: float
    flops_total: float
    saved: float
    ci: dict[str, Interval]
    range_1pct: Interval
    size_value: int | None  # of the size parameter, nearest N
    for_total: ServedTotal | None  # None where serving leaves next to nothing for training
    verdict: str
    reasons: list[str]  # for the verdict


@dataclass(frozen=True)
class Limited:
    """The best model for C where there are only ``unique_tokens``, which may be read several times.

    ``form`` and ``R`` (its interval: ``R_ci``) say what repeats are worth (`flops_fit.fit.repeats`):
    fitted to the runs, or ``borrowed`` from ``source``. ``epochs``: passes over the unique tokens;
    ``unlimited``: [N, D, loss] of the optimum with fresh data alone; ``wasted``: the share of C that
    the lack of data costs; ``ci``: [low, high] of params, tokens, epochs and loss (noise alone, empty
    without resamples); ``verdict``: as in `Answer`.
    """

    unique_tokens: float
    form: str
    R: float | None
    R_ci: Interval | None
    borrowed: bool
    source: str
    params: float  # N
    tokens: float  # D, repeats included
    epochs: float  # passes over the unique tokens
    loss: float  # in the unit of the runs
    unlimited: list[float]
    wasted: float
    ci: dict[str, Interval]
    verdict: str
    reasons: list[str]  # for the verdict


@dataclass(frozen=True)
class Purchase:
    """What C = ``flops`` was asked for as: ``hours`` of ``devices`` of ``flops_per_second`` each.

    ``source`` says where their speed is from, ``money`` is what they cost (None without a price), and
    ``one_more_day`` is the optimum with 24 hours more (None where the fit has no answer there).
    """

    hours: float
    devices: int
    flops_per_second: float
    source: str
    flops: float  # C
    money: float | None
    one_more_day: Optimum | None


@dataclass(frozen=True)
class AccuracyAnswer:
    """The accuracy ``name`` of the optimum, from its predicted ``loss`` by the sigmoid of the fit.

    ``ci``: [low, high] for a measurement (loss, sigmoid and the scatter of a run); ``ci_noise``: from
    the resamples alone, of both steps. The numbers are None where the runs determine no sigmoid or
    the fit has no answer, and the intervals without resamples. ``verdict``: as in `Answer`.
    """

    name: str
    value: float | None  # from 0 to 1
    ci: Interval | None
    ci_noise: Interval | None
    loss: float | None  # L*, in the unit of the runs
    verdict: str
    reasons: list[str]  # for the verdict


@dataclass(frozen=True)
class Answer:
    """The answer at a budget of C = ``flops``; `flops_fit.fit.predict` describes its fields.

    These are ``params, tokens, loss, tokens_per_param, ci, ci_noise, beyond_data, range_1pct,
    range_5pct, promise, size_value, regret, slope, estimators, method, verdict, reasons, axis,
    config, chosen, served, limited, purchase`` and ``accuracy``. Where ``verdict`` is "not
    identifiable" the numbers and intervals are None.
    """

    flops: float
    params: float | None  # N*
    tokens: float | None  # D*
    loss: float | None  # L*, in the unit of the runs
    tokens_per_param: float | None  # D*/N*
    ci: dict[str, Interval] | None  # of the four numbers above: noise and the error of the form
    ci_noise: dict[str, Interval] | None  # of the same, from the resamples alone
    beyond_data: float  # C over the largest budget of the data
    range_1pct: Interval | None  # N that reach the optimum's loss with at most 1% more compute
    range_5pct: Interval | None  # the same with at most 5%
    promise: float | None  # probability that N* costs at most 5% more compute than the best size
    size_value: int | None  # of the size parameter, nearest N*
    regret: list[Regret]  # what other sizes waste
    slope: float | None  # d ln N* / d ln C here
    estimators: dict[str, float]  # N* of each
    method: str  # the estimator that answers
    verdict: str
    reasons: list[str]  # for the verdict
    axis: AxisAnswer | None  # what the runs support where there is no answer
    config: str | None  # lines of a sweep's config that ask for the buildable size
    chosen: ChosenPoint | None = field(metadata={"key": "own"})  # a point off the optimum
    served: Served | None = field(default=None, metadata=OMITTED)  # the cheapest to serve
    limited: Limited | None = field(default=None, metadata=OMITTED)  # with few unique tokens
    purchase: Purchase | None = field(default=None, metadata=OMITTED)  # what C was asked for as
    accuracy: AccuracyAnswer | None = field(default=None, metadata=OMITTED)  # where it was fitted

    @property
    def optimum(self) -> Optimum | None:
        """The numbers of the answer, None where there are none."""
        if (
            self.params is None
            or self.tokens is None
            or self.loss is None
            or self.tokens_per_param is None
        ):
            return None
        return Optimum(
            self.flops,
            self.params,
            self.tokens,
            self.loss,
            self.tokens_per_param,
            self.ci or {},
            self.ci_noise or {},
            self.beyond_data,
        )

    def to_dict(self) -> dict:
        """Plain data, with the keys of ``flops-fit predict --json``."""
        return fields_of(self)
