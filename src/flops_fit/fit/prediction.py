"""predict(fit, C): the answer for a budget, with intervals, a range of good sizes and a verdict."""

import math
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from flops_fit.errors import FlopsFitError
from flops_fit.fit.answer import (
    NOT_IDENTIFIABLE,
    PROVISIONAL,
    TRUST,
    Answer,
    ChosenPoint,
    Interval,
    Optimum,
    Regret,
)
from flops_fit.fit.axis import axis_at
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import Law, PathLaw, StackLaw, spread
from flops_fit.fit.numbers import check_flops, interval, positive_number
from flops_fit.fit.remarks import remarks_on
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import distance_of_run, reasons_at, unanswerable, untested_run

FACTORS = (0.5, 2.0, 4.0)  # of N*, for which the waste is given
QUANTITIES = ("params", "tokens", "loss", "tokens_per_param")


def spread_of_draws(draws: Law, log_c: float, cost: Cost) -> dict[str, float]:
    """Sds of ln N* and ln L* over the resamples ``draws``, at ``log_c`` = ln C on ``cost``.

    Of a stack the mean of the members' in their weights: what one member would swing, since its
    weights are held over the resamples.
    """

    def sds(law: Law) -> np.ndarray:
        log_n, loss = law.optimum(log_c, cost)
        return spread(np.stack([log_n, np.log(loss)]))

    if not isinstance(draws, StackLaw):
        sd_n, sd_loss = sds(draws)
        return {"params": float(sd_n), "loss": float(sd_loss)}
    each = np.array([sds(law) for law in draws.laws])
    return {
        "params": float(draws.weights["params"] @ each[:, 0]),
        "loss": float(draws.weights["loss"] @ each[:, 1]),
    }


def intervals_at(fit: Fit, flops: float) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """``{params, tokens, loss, tokens_per_param}`` -> [low, high] at C, twice; empty without resamples.

    ``flops`` is C. First what to expect of a measurement of ``fit``'s answer (noise and the error of
    the form, `calibrate`), then the resampling noise alone. With one estimator asked for only the
    noise is known, and both are it.
    """
    law, draws, level = fit.answering.law, fit.answering.draws, fit.bootstrap.level
    if draws is None:
        return {}, {}
    log_c, cost = float(np.log(flops)), fit.cost
    log_n, loss = (float(v[0]) for v in law.optimum(log_c, cost))
    if fit.stack is None or fit.stack.form_error is None:
        noise = _percentiles(law, draws, log_c, cost, level)
        return noise, noise
    sd, forms = spread_of_draws(draws, log_c, cost), fit.stack.form_error
    z, beyond = float(ndtri((1 + level) / 2)), fit.log_distance(flops)
    ends = []
    for half in (
        {name: forms[name].half_width(sd[name], beyond, level) for name in sd},
        {name: z * sd[name] for name in sd},
    ):
        sides = [log_n - half["params"], log_n + half["params"]]
        tokens = [float(cost.log_tokens(n, log_c)) for n in reversed(sides)]
        ratio = [float(cost.log_tokens(n, log_c)) - n for n in reversed(sides)]
        ends.append(
            {
                "params": [float(np.exp(v)) for v in sides],
                "tokens": [float(np.exp(v)) for v in tokens],
                "loss": [float(loss * np.exp(s * half["loss"])) for s in (-1, 1)],
                "tokens_per_param": [float(np.exp(v)) for v in ratio],
            }
        )
    return ends[0], ends[1]


def _percentiles(
    law: Law, draws: Law, log_c: float, cost: Cost, level: float
) -> dict[str, Interval]:
    """Percentile intervals of one estimator, widened to hold its estimate."""

    def values(of: Law) -> dict[str, np.ndarray]:
        log_n, loss = of.optimum(log_c, cost)
        log_d = cost.log_tokens(log_n, log_c)
        numbers = (np.exp(log_n), np.exp(log_d), loss, np.exp(log_d - log_n))
        return dict(zip(QUANTITIES, numbers, strict=True))

    best, ends = values(law), {}
    for name, drawn in values(draws).items():
        low, high = interval(drawn, level)
        at = float(best[name][0])
        ends[name] = [min(low, at), max(high, at)]
    return ends


def size_value(fit: Fit, params: float) -> int | None:
    """The value of the size parameter whose N is nearest to ``params``, None where none is known.

    Interpolated over the sizes of ``fit``, ln N against ln size. An integer, and a multiple of the
    greatest common divisor of the sizes tried: a model whose width must divide into heads is then
    sure to build.
    """
    table = [
        (s.size, s.params)
        for s in fit.sizes
        if isinstance(s.size, int) and not isinstance(s.size, bool) and s.size > 0
    ]
    if len(table) < 2:
        return None
    size, n = (np.log(np.array(v, dtype=float)) for v in zip(*sorted(table), strict=True))
    if not (np.diff(n) > 0).all():
        return None
    target = np.log(params)
    at = int(np.clip(np.searchsorted(n, target), 1, len(n) - 1))
    slope = (size[at] - size[at - 1]) / (n[at] - n[at - 1])
    step = math.gcd(*(s for s, _ in table))
    return step * max(1, round(float(np.exp(size[at - 1] + slope * (target - n[at - 1]))) / step))


def optimum_at(fit: Fit, flops: float) -> Optimum:
    """`predict` of ``fit`` at C = ``flops`` without its judgement, for figures of many budgets."""
    log_c, cost = np.log(flops), fit.cost
    log_n, loss = (float(v[0]) for v in fit.answering.law.optimum(log_c, cost))
    log_d = float(cost.log_tokens(log_n, log_c))
    ci, noise = intervals_at(fit, flops)
    return Optimum(
        flops=flops,
        params=float(np.exp(log_n)),
        tokens=float(np.exp(log_d)),
        loss=loss,
        tokens_per_param=float(np.exp(log_d - log_n)),
        ci=ci,
        ci_noise=noise,
        beyond_data=float(flops / fit.data.largest_budget),
    )


def predict(
    fit: Fit, flops: float, params: float | None = None, tokens: float | None = None
) -> Answer:
    """The answer of ``fit`` at a budget of C = ``flops`` FLOPs.

    Its fields: ``flops, params, tokens, loss, tokens_per_param``: C, N*, D*, L* in the unit of the
    runs, and D*/N*; ``ci`` of each of the last four as [low, high] (what to expect of a measurement:
    noise and form) and ``ci_noise`` (resampling alone), both empty without resamples;
    ``range_1pct`` and ``range_5pct``: [N low, N high] within which the optimum's loss costs at most
    1% (5%) more compute; ``promise``: the probability that N* costs at most 5% more compute than
    the best size, None where it is not known; ``size_value``, the buildable size nearest N*, and
    ``config``, the lines of a sweep's config that ask for it; ``regret``: what N* times several
    factors wastes (`Regret`); ``slope``, d ln N* / d ln C here; ``estimators``, N* of each;
    ``method``: the one that answers; ``beyond_data``, C over the largest budget of the data;
    ``verdict`` in trust, provisional, not identifiable; ``reasons``. Where the verdict is not
    identifiable, every number and ``ci`` is None, and ``axis`` (else None) holds what the runs still
    support (`AxisAnswer`).

    ``params`` asks what a model of that N gives for C, ``tokens`` what D that many unique tokens
    allow (not both): ``chosen`` (else None) is then a `ChosenPoint`. Raises `FlopsFitError` for a
    number that is not positive, and where both are given.
    """
    flops = check_flops(flops)
    _check_choice(params, tokens)
    if unanswerable(fit, flops):
        return _no_answer(fit, flops)
    law, cost, log_c = fit.answering.law, fit.cost, np.log(flops)
    best = optimum_at(fit, flops)
    log_n = float(np.log(best.params))
    near, wide = (
        [float(np.exp(v[0])) for v in law.range(log_c, cost, share)] for share in (0.01, 0.05)
    )
    promise = promise_at(fit, flops, log_n, np.log(wide))
    verdict, reasons = reasons_at(fit, flops, bool(best.ci), promise)
    size = size_value(fit, best.params)
    return Answer(
        flops=flops,
        params=best.params,
        tokens=best.tokens,
        loss=best.loss,
        tokens_per_param=best.tokens_per_param,
        ci=best.ci,
        ci_noise=best.ci_noise,
        beyond_data=best.beyond_data,
        range_1pct=near,
        range_5pct=wide,
        promise=promise,
        size_value=size,
        regret=_regret(law, log_n, log_c, cost),
        slope=float(law.slope(log_c, cost)[0]),
        estimators={
            name: float(np.exp(fit.laws[name].law.optimum(log_c, cost)[0][0]))
            for name in fit.headline.candidates
        },
        method=fit.headline.method,
        verdict=verdict,
        reasons=reasons,
        axis=None,
        config=None if size is None else _config_lines(flops, size),
        chosen=_chosen_point(best, fit, law, params, tokens),
    )


def _no_answer(fit: Fit, flops: float) -> Answer:
    """The answer of a fit that is not identifiable: no number that could be taken for one."""
    _, reasons = reasons_at(fit, flops, False, None)
    return Answer(
        flops=flops,
        params=None,
        tokens=None,
        loss=None,
        tokens_per_param=None,
        ci=None,
        ci_noise=None,
        beyond_data=float(flops / fit.data.largest_budget),
        range_1pct=None,
        range_5pct=None,
        promise=None,
        size_value=None,
        regret=[],
        slope=None,
        estimators={},
        method=fit.headline.method,
        verdict=NOT_IDENTIFIABLE,
        reasons=reasons,
        axis=axis_at(fit, flops),
        config=None,
        chosen=None,
    )


def promise_at(fit: Fit, flops: float, log_n: float, ends: np.ndarray) -> float | None:
    """Probability that the best ln N lies where the advised ``log_n`` costs at most 5% more compute.

    ``fit`` and ``flops``: as in `predict`; ``ends`` of shape (2,): ln N of the 5% range. None
    where the error of the form is not known.
    """
    draws = fit.answering.draws
    if draws is None or fit.stack is None or fit.stack.form_error is None:
        return None
    sd = spread_of_draws(draws, float(np.log(flops)), fit.cost)
    reach = (log_n - float(ends[1]), log_n - float(ends[0]))
    form = fit.stack.form_error["params"]
    return form.inside(*reach, sd["params"], fit.log_distance(flops))


def _config_lines(flops: float, size: int) -> str:
    """The lines of a config (YAML) that train the buildable size at C."""
    return f"budgets: [{flops:.6g}]\nsizes: {{values: [{size}]}}"


def _regret(law: Law, log_n: float, log_c: float, cost: Cost) -> list[Regret]:
    """What N* x each of `FACTORS` wastes."""
    sizes = log_n + np.log(FACTORS)
    wastes = law.waste(sizes, log_c, cost)
    return [
        Regret(factor, float(np.exp(size)), _finite(waste))
        for factor, size, waste in zip(FACTORS, sizes, wastes, strict=True)
    ]


def _finite(waste: float) -> float | None:
    return float(waste) if np.isfinite(waste) else None


def _chosen_point(
    best: Optimum, fit: Fit, law: Law, params: float | None, tokens: float | None
) -> ChosenPoint | None:
    """``chosen`` of `predict`: the point at a user's N, or at all the tokens that there are."""
    log_c, cost = np.log(best.flops), fit.cost
    unique = epochs = None
    if params is not None:
        log_n = float(np.log(positive_number("params", params)))
    elif tokens is not None:
        unique = positive_number("tokens", tokens)
        enough = best.tokens <= unique
        log_n = float(np.log(best.params)) if enough else cost.log_params(np.log(unique), log_c)
        epochs = float(best.tokens / unique)
    else:
        return None
    log_d = float(cost.log_tokens(log_n, log_c))
    point = ChosenPoint(
        asked="tokens" if params is None else "params",
        unique_tokens=unique,
        epochs=epochs,
        params=float(np.exp(log_n)),
        tokens=float(np.exp(log_d)),
        tokens_per_param=float(np.exp(log_d - log_n)),
        loss=float(law.off_optimum(log_n, log_c, cost)[0]),
        waste=_finite(law.waste(log_n, log_c, cost)[0]),
        remarks=[],
    )
    return replace(point, remarks=remarks_on(point, best, fit))


def _check_choice(params: float | None, tokens: float | None) -> None:
    if params is not None and tokens is not None:
        raise FlopsFitError("params and tokens: give one; C and the other determine the rest")


def losses_at(fit: Fit, params: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The loss of any run of ``fit``, in the unit of its runs: {loss, loss_low, loss_high, ...}.

    ``params`` and ``tokens``: N and D, arrays (k,). ``loss`` is the stack's, weighed by errors of
    runs; ``loss_low`` and ``loss_high`` hold its noise, the error of the form and the scatter of a
    run; ``beyond_data``: C of each over the largest budget; ``verdict``: trust, provisional (also
    where the D / N of a run lies outside that of the runs, or its C below theirs), or not
    identifiable, where the numbers are NaN. Without a stack the headline's surface answers.
    """
    log_n, log_d = np.log(np.atleast_1d(params)), np.log(np.atleast_1d(tokens))
    largest = fit.data.largest_budget
    beyond = np.exp(log_d + fit.cost.log_flops_per_token(log_n)) / largest
    empty = np.full(len(log_n), np.nan)
    points = {
        "loss": empty,
        "loss_low": empty,
        "loss_high": empty,
        "beyond_data": beyond,
        "verdict": np.full(len(log_n), NOT_IDENTIFIABLE),
    }
    if not fit.identified:
        return points
    # A path through minima knows no loss away from them.
    fitted = fit.laws["surface"] if isinstance(fit.answering.law, PathLaw) else fit.answering
    law, draws = fitted.law, fitted.draws
    assert not isinstance(law, PathLaw)
    loss = np.array([law.loss(n, d)[0] for n, d in zip(log_n, log_d, strict=True)])
    points |= {"loss": loss, "verdict": np.full(len(log_n), PROVISIONAL)}
    if draws is None:
        return points
    assert not isinstance(draws, PathLaw)
    level = fit.bootstrap.level
    scatter, form = fit.parametric.scale, None
    if fit.stack:
        scatter = fit.stack.noise
        form = fit.stack.form_error["loss"] if fit.stack.form_error else None
    z = ndtri((1 + level) / 2)
    ratio, half = np.exp(log_d - log_n), np.empty(len(log_n))
    away = distance_of_run(fit, beyond * largest, ratio)
    for i, (n, d) in enumerate(zip(log_n, log_d, strict=True)):
        sd = float(np.hypot(spread(np.log(draws.loss(n, d))), scatter))
        half[i] = form.half_width(sd, float(away[i]), level) if form else z * sd
    verdicts = [_verdict_of_run(fit, c, r) for c, r in zip(beyond * largest, ratio, strict=True)]
    return points | {
        "loss_low": loss * np.exp(-half),
        "loss_high": loss * np.exp(half),
        "verdict": np.array(verdicts),
    }


def _verdict_of_run(fit: Fit, flops: float, ratio: float) -> str:
    """The verdict on the loss of a run of C = ``flops`` with ``ratio`` tokens per parameter."""
    verdict = reasons_at(fit, flops, True, 1.0)[0]
    return PROVISIONAL if verdict == TRUST and untested_run(fit, flops, ratio) else verdict


def loss_at(fit: Fit, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """L = E + A / N^alpha + B / D^beta, the classic surface of ``fit``, in the unit of its runs.

    ``params`` and ``tokens``: N and D, arrays of one shape (or scalars), which the losses have too.
    """
    law = fit.parametric
    params, tokens = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    return law.E + law.A * params**-law.alpha + law.B * tokens**-law.beta
