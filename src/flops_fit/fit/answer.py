"""predict(fit, C): the answer for a budget, with intervals, a range of good sizes and a verdict."""

import math

import numpy as np
from scipy.stats import norm

from flops_fit.errors import FlopsFitError
from flops_fit.fit.axis import axis_at
from flops_fit.fit.calibrate import FormError
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import Law, StackLaw, spread
from flops_fit.fit.saved import check_flops, interval, laws_of, positive_number
from flops_fit.fit.verdict import judge, unanswerable
from flops_fit.fit.words import own_words

FACTORS = (0.5, 2.0, 4.0)  # of N*, at which the waste is told
QUANTITIES = ("params", "tokens", "loss", "tokens_per_param")


def spread_at(fit: dict, log_c: float, laws: dict) -> dict[str, float] | None:
    """Resampling sd of ln N* and ln L* of the headline; None without resamples."""
    law, cost = laws[fit["headline"]["method"]][1], Cost.from_dict(fit["cost"])
    return None if law is None else spread_of_draws(law, log_c, cost)


def spread_of_draws(draws: Law, log_c: float, cost: Cost) -> dict[str, float]:
    """Sds of ln N* and ln L* over resamples.

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


def intervals_at(fit: dict, flops: float, laws: dict | None = None) -> tuple[dict, dict]:
    """``{params, tokens, loss, tokens_per_param}`` -> [low, high] at C, twice; empty without resamples.

    First what to expect of a measurement (noise and the error of the form, `calibrate`), then the
    resampling noise alone. With one estimator asked for only the noise is known, and both are it.
    """
    laws = laws or laws_of(fit)
    method, level = fit["headline"]["method"], fit["bootstrap"]["level"]
    law, draws = laws[method]
    if draws is None:
        return {}, {}
    log_c, cost = float(np.log(flops)), Cost.from_dict(fit["cost"])
    log_n, loss = (float(v[0]) for v in law.optimum(log_c, cost))
    if fit["stack"] is None:
        noise = _percentiles(law, draws, log_c, cost, level)
        return noise, noise
    sd = spread_of_draws(draws, log_c, cost)
    z, beyond = float(norm.ppf((1 + level) / 2)), log_distance(fit, flops)
    forms = form_errors(fit)
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


def _percentiles(law: Law, draws: Law, log_c: float, cost: Cost, level: float) -> dict:
    """Percentile intervals of one estimator, widened to hold its estimate."""

    def values(of: Law) -> dict[str, np.ndarray]:
        log_n, loss = of.optimum(log_c, cost)
        log_d = cost.log_tokens(log_n, log_c)
        found = (np.exp(log_n), np.exp(log_d), loss, np.exp(log_d - log_n))
        return dict(zip(QUANTITIES, found, strict=True))

    best, ends = values(law), {}
    for name, drawn in values(draws).items():
        low, high = interval(drawn, level)
        at = float(best[name][0])
        ends[name] = [min(low, at), max(high, at)]
    return ends


def form_errors(fit: dict) -> dict[str, FormError]:
    """The calibrated error of the form of ln N* and ln L*."""
    return {name: FormError(**entry) for name, entry in fit["stack"]["form_error"].items()}


def log_distance(fit: dict, flops: float) -> float:
    """ln of C over the largest budget of the data."""
    return float(np.log(flops / fit["data"]["largest_budget"]))


def size_value(fit: dict, params: float) -> int | None:
    """The size parameter's value whose N is nearest, by ln N against ln size; else None.

    An integer, and a multiple of the greatest common divisor of the sizes tried: a model whose
    width must divide into heads is then sure to build.
    """
    table = [
        (s["size"], s["params"])
        for s in fit["sizes"]
        if isinstance(s.get("size"), int) and not isinstance(s["size"], bool) and s["size"] > 0
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


def optimum_at(fit: dict, flops: float, laws: dict | None = None) -> dict:
    """`predict` of ``fit`` without its judgement, for figures that ask at many budgets.

    Returns ``flops, params, tokens, loss, tokens_per_param, ci, ci_noise, beyond_data``. ``laws``:
    those of the fit, where they were read already.
    """
    laws, cost = laws or laws_of(fit), Cost.from_dict(fit["cost"])
    log_c = np.log(flops)
    log_n, loss = (float(v[0]) for v in laws[fit["headline"]["method"]][0].optimum(log_c, cost))
    log_d = float(cost.log_tokens(log_n, log_c))
    ci, noise = intervals_at(fit, flops, laws)
    return {
        "flops": flops,
        "params": float(np.exp(log_n)),
        "tokens": float(np.exp(log_d)),
        "loss": loss,
        "tokens_per_param": float(np.exp(log_d - log_n)),
        "ci": ci,
        "ci_noise": noise,
        "beyond_data": float(flops / fit["data"]["largest_budget"]),
    }


def predict(
    fit: dict, flops: float, params: float | None = None, tokens: float | None = None
) -> dict:
    """The answer of ``fit`` (FIT.json as a dict) at a budget of ``flops``.

    Returns ``flops, params, tokens, loss, tokens_per_param``; ``ci`` of each of the last four as
    [low, high] (what to expect of a measurement: noise and form) and ``ci_noise`` (resampling
    alone), both empty without resamples; ``range_1pct`` and ``range_5pct``: [N low, N high]
    within which the optimum's loss costs at most 1% (5%) more compute; ``promise``: the probability
    that N* costs at most 5% more compute than the best size, null where it is not known;
    ``size_value``, the buildable size nearest N*, and ``config``, the lines of a sweep's config that
    ask for it; ``regret``: [{factor, params, waste}], the extra share of compute (null: none is
    enough) that N* x factor needs to reach the optimum's loss; ``slope``, d ln N* / d ln C here;
    ``estimators``, N* of each; ``beyond_data``, C over the largest budget of the data; ``verdict``
    in trust, provisional, not identifiable; ``reasons``. Where the verdict is not identifiable,
    every number and ``ci`` is null, and ``axis`` (else null) holds what the runs still support:
    ``{x, E, A, alpha, at, loss, ci, verdict, missing}``.

    ``params`` asks what a model of that N gives for C, ``tokens`` what D that many unique tokens
    allow (not both): ``own`` (else null) then holds ``asked, params, tokens, tokens_per_param,
    loss, waste, words``, with tokens also ``unique_tokens`` and ``epochs``, the passes over them
    that the optimum would make. Raises `FlopsFitError` for a number that is not positive.
    """
    flops = check_flops(flops)
    if unanswerable(fit, flops):
        return _no_answer(fit, flops, params, tokens)
    laws, cost = laws_of(fit), Cost.from_dict(fit["cost"])
    law = laws[fit["headline"]["method"]][0]
    best = optimum_at(fit, flops, laws)
    log_c, log_n = np.log(flops), float(np.log(best["params"]))
    ranges = {
        name: [float(np.exp(v[0])) for v in law.range(log_c, cost, share)]
        for name, share in (("range_1pct", 0.01), ("range_5pct", 0.05))
    }
    promise = promise_at(fit, flops, log_n, np.log(ranges["range_5pct"]), laws)
    verdict, reasons = judge(fit, flops, best["ci"], promise)
    answer = {
        **best,
        **ranges,
        "promise": promise,
        "size_value": size_value(fit, best["params"]),
        "regret": _regret(law, log_n, log_c, cost),
        "slope": float(law.slope(log_c, cost)[0]),
        "estimators": {
            name: float(np.exp(laws[name][0].optimum(log_c, cost)[0][0]))
            for name in fit["headline"]["candidates"]
        },
        "method": fit["headline"]["method"],
        "verdict": verdict,
        "reasons": reasons,
        "axis": None,
    }
    answer["config"] = config_lines(answer)
    answer["own"] = _own(answer, fit, law, cost, params, tokens)
    return answer


def _no_answer(fit: dict, flops: float, params, tokens) -> dict:
    """The answer of a fit that is not identifiable: no number that could be taken for one."""
    _asked(params, tokens)
    empty = (
        "params",
        "tokens",
        "loss",
        "tokens_per_param",
        "ci",
        "ci_noise",
        "range_1pct",
        "range_5pct",
        "promise",
        "size_value",
        "slope",
        "config",
        "own",
    )
    _, reasons = judge(fit, flops, {}, None)
    return dict.fromkeys(empty) | {
        "flops": flops,
        "beyond_data": float(flops / fit["data"]["largest_budget"]),
        "regret": [],
        "estimators": {},
        "method": fit["headline"]["method"],
        "verdict": "not identifiable",
        "reasons": reasons,
        "axis": axis_at(fit, flops),
    }


def promise_at(fit: dict, flops: float, log_n: float, ends, laws: dict) -> float | None:
    """Probability that the best ln N lies where the advised ``log_n`` costs at most 5% more compute.

    ``ends``: ln N of the 5% range. None where the error of the form is not known.
    """
    sd = spread_at(fit, float(np.log(flops)), laws)
    if sd is None or fit["stack"] is None:
        return None
    form = form_errors(fit)["params"]
    reach = (log_n - float(ends[1]), log_n - float(ends[0]))
    return form.inside(*reach, sd["params"], log_distance(fit, flops))


def config_lines(answer: dict) -> str | None:
    """The lines of a config (YAML) that train the buildable size at C, None where none is known."""
    if answer["size_value"] is None:
        return None
    return f"budgets: [{answer['flops']:.6g}]\nsizes: {{values: [{answer['size_value']}]}}"


def _regret(law, log_n: float, log_c: float, cost: Cost) -> list[dict]:
    """What N* x each of `FACTORS` wastes."""
    sizes = log_n + np.log(FACTORS)
    wastes = law.waste(sizes, log_c, cost)
    return [
        {"factor": factor, "params": float(np.exp(size)), "waste": _finite(waste)}
        for factor, size, waste in zip(FACTORS, sizes, wastes, strict=True)
    ]


def _finite(waste: float) -> float | None:
    return float(waste) if np.isfinite(waste) else None


def _own(answer: dict, fit: dict, law: Law, cost: Cost, params, tokens) -> dict | None:
    """``own`` of `predict`: the point at a user's N, or at all the tokens that there are."""
    if not _asked(params, tokens):
        return None
    log_c, own = np.log(answer["flops"]), {"asked": "tokens" if params is None else "params"}
    if params is not None:
        log_n = np.log(positive_number("params", params))
    else:
        unique = positive_number("tokens", tokens)
        enough = answer["tokens"] <= unique
        log_n = np.log(answer["params"]) if enough else cost.log_params(np.log(unique), log_c)
        own |= {"unique_tokens": unique, "epochs": float(answer["tokens"] / unique)}
    log_d = float(cost.log_tokens(log_n, log_c))
    own |= {
        "params": float(np.exp(log_n)),
        "tokens": float(np.exp(log_d)),
        "tokens_per_param": float(np.exp(log_d - log_n)),
        "loss": float(law.off_optimum(log_n, log_c, cost)[0]),
        "waste": _finite(law.waste(log_n, log_c, cost)[0]),
    }
    return {**own, "words": own_words(own, answer, fit)}


def _asked(params, tokens) -> bool:
    """Whether a point of the user's own was asked for; a `FlopsFitError` for two at once."""
    if params is not None and tokens is not None:
        raise FlopsFitError("params and tokens: give one; C and the other determine the rest")
    return params is not None or tokens is not None


def losses_at(fit: dict, params: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The loss of any run of ``fit``, in the unit of its runs: {loss, loss_low, loss_high, ...}.

    ``params`` and ``tokens``: N and D, arrays (k,). ``loss`` is the stack's, weighed by errors of
    runs; ``loss_low`` and ``loss_high`` hold its noise, the error of the form and the scatter of a
    run; ``beyond_data``: C of each over the largest budget; ``verdict``: provisional, or not
    identifiable, where the numbers are NaN. Without a stack the headline's surface answers.
    """
    log_n, log_d = np.log(np.atleast_1d(params)), np.log(np.atleast_1d(tokens))
    cost, laws = Cost.from_dict(fit["cost"]), laws_of(fit)
    beyond = np.exp(log_d + cost.log_flops_per_token(log_n)) / fit["data"]["largest_budget"]
    empty = np.full(len(log_n), np.nan)
    told = {
        "loss": empty,
        "loss_low": empty,
        "loss_high": empty,
        "beyond_data": beyond,
        "verdict": np.full(len(log_n), "not identifiable"),
    }
    if fit["status"] == "not_identifiable":
        return told
    method = fit["headline"]["method"]
    name = method if hasattr(laws[method][0], "loss") else "surface"
    law, draws = laws[name]
    loss = np.array([law.loss(n, d)[0] for n, d in zip(log_n, log_d, strict=True)])
    told |= {"loss": loss, "verdict": np.full(len(log_n), "provisional")}
    if draws is None:
        return told
    level = fit["bootstrap"]["level"]
    scatter = fit["parametric"]["scale"]
    form = None
    if fit["stack"]:
        scatter, form = fit["stack"]["noise"], form_errors(fit)["loss"]
    z = norm.ppf((1 + level) / 2)
    half = np.empty(len(log_n))
    for i, (n, d) in enumerate(zip(log_n, log_d, strict=True)):
        sd = float(np.hypot(spread(np.log(draws.loss(n, d))), scatter))
        away = float(np.log(max(beyond[i], 1.0)))
        half[i] = form.half_width(sd, away, level) if form else z * sd
    verdicts = [
        judge(fit, b * fit["data"]["largest_budget"], {"params": [1, 1]}, 1.0)[0] for b in beyond
    ]
    return told | {
        "loss_low": loss * np.exp(-half),
        "loss_high": loss * np.exp(half),
        "verdict": np.array(verdicts),
    }


def loss_at(fit: dict, params: np.ndarray, tokens: np.ndarray):
    """L = E + A / N^alpha + B / D^beta, the classic surface of ``fit``, in the unit of its runs.

    ``params`` and ``tokens``: N and D, arrays of one shape (or scalars), which the losses have too.
    """
    law = fit["parametric"]
    params, tokens = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    return law["E"] + law["A"] * params ** -law["alpha"] + law["B"] * tokens ** -law["beta"]
