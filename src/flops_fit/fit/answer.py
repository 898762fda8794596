"""predict(fit, C): the answer for a budget, with intervals, a range of good sizes and a verdict."""

import math
from pathlib import Path

import numpy as np

from flops_fit.constants import MOST_EPOCHS
from flops_fit.errors import FlopsFitError
from flops_fit.files import read_json
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import law_from_dict, law_to_dict
from flops_fit.fit.sensitivity import USABLE, sensitivity_at

KEYS = ("parametric", "isoflop", "tied", "headline", "status", "ci", "excluded", "heldout", "forecast",
        "bootstrap", "cost", "sizes", "data", "laws", "sensitivity")  # fmt: skip
FAR = 10.0  # beyond the data by more than this: provisional at best
GUESS = 1000.0  # beyond by more than this, no interval means anything
NARROW = 2.0  # span of C below which the runs are those of one budget
WIDE = 2.0  # N interval, high / low, that still deserves trust
OWN_CHOICES = ("delta", "exclusion", "budget", "seed")  # refits of the same question
FACTORS = (0.5, 2.0, 4.0)  # of N*, at which the waste is told
NEAR = 8.0  # factor in N off the optimum up to which a parabola means something
GAP = 1.08  # factor in N* between estimators that deserves a word where intervals do not cover it


def interval(values: np.ndarray, level: float, weight: np.ndarray | None = None) -> list[float]:
    """Percentile interval [low, high]; ``weight`` mixes resamples of several estimators."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    if weight is None:
        return [float(v) for v in np.quantile(values, tails)]
    order = np.argsort(values)
    mass = np.cumsum(weight[order])
    mass = (mass - weight[order] / 2) / mass[-1]
    return [float(v) for v in np.interp(tails, mass, values[order])]


def laws_entry(estimate) -> dict:
    """An `Estimate` as FIT.json keeps it under ``laws``."""
    drawn = law_to_dict(estimate.draws) if estimate.draws is not None else None
    return {"law": law_to_dict(estimate.law), "draws": drawn}


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
    return _positive("flops", flops, " of FLOPs")


def interval_at(fit: dict, flops: float, laws: dict | None = None) -> dict:
    """``{params, tokens, loss, tokens_per_param}`` -> [low, high] at C, empty without resamples.

    Resamples of the estimators are mixed in the shares in which the headline rule chose them, so
    selection is part of the interval; where an estimator other than the surface is the headline,
    the interval also covers the answers of all that score within the resampling spread of it.
    """
    laws = laws or laws_of(fit)
    headline, level = fit["headline"], fit["bootstrap"]["level"]
    if laws[headline["method"]][1] is None:
        return {}
    log_c, cost = np.log(flops), Cost.from_dict(fit["cost"])
    values, weights = [], []
    for name, share in headline["mixture"].items():
        law = laws[name][1] if name in laws else None
        if law is None or share <= 0:
            continue
        log_n, loss = law.optimum(log_c, cost)
        log_d = cost.log_tokens(log_n, log_c)
        values.append(np.stack([log_n, log_d, loss]))
        weights.append(np.full(len(log_n), share / len(log_n)))
    log_n, log_d, loss = np.concatenate(values, axis=1)
    weight = np.concatenate(weights)
    ends = {
        "params": interval(log_n, level, weight),
        "tokens": interval(log_d, level, weight),
        "loss": interval(loss, level, weight),
        "tokens_per_param": interval(log_d - log_n, level, weight),
    }
    for name in {headline["method"], *headline["covers"]} & set(laws):
        log_n, loss = (float(v[0]) for v in laws[name][0].optimum(log_c, cost))
        log_d = float(cost.log_tokens(log_n, log_c))
        at = {"params": log_n, "tokens": log_d, "loss": loss, "tokens_per_param": log_d - log_n}
        ends = {k: [min(v[0], at[k]), max(v[1], at[k])] for k, v in ends.items()}
    exponential = ("params", "tokens", "tokens_per_param")
    return {k: [float(np.exp(x)) for x in v] if k in exponential else v for k, v in ends.items()}


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


def _verdict(fit: dict, flops: float, ci: dict, answers: dict[str, float]) -> tuple[str, list[str]]:
    """trust, provisional or not identifiable, and the reasons that hold it down."""
    headline = fit["headline"]
    if fit["status"] == "not_identifiable":
        return "not identifiable", [headline["reason"].removeprefix("not identifiable: ")]
    reasons = []
    beyond = flops / fit["data"]["largest_budget"]
    if beyond > FAR * 1.01:  # whole batches leave a budget a little beside its name
        reasons.append(f"{beyond:.3g}x beyond the largest budget of the data")
    if beyond > GUESS:
        reasons.append("so far beyond the data that every number here is a guess")
    span = fit["data"]["flops"][1] / fit["data"]["flops"][0]
    if span < NARROW:
        reasons.append(
            f"the runs span a factor {span:.2g} in compute, too little to see a trend in it"
        )
    if beyond > 1.01 and not fit["heldout"]["levels"]:
        reasons.append("beyond the data and untested: no budget could be left out and predicted")
    if fit["status"] == "at_bound":
        reasons.append(headline["reason"])
    most = fit["data"].get("most_epochs")
    if most and most > MOST_EPOCHS:
        reasons.append(
            f"runs read their data up to {most:.2g} times: beyond {MOST_EPOCHS:g} passes repeated data "
            "are worth less than fresh"
        )
    edge = [b for b in fit["isoflop"]["budgets"] if b["status"] != "bracketed"]
    if edge and fit["isoflop"]["shared"]:
        what = ", ".join(f"{b['flops']:.3g} ({b['status']})" for b in edge)
        reasons.append(f"budgets without a bracketed minimum: {what}")
    if ci and ci["params"][1] / ci["params"][0] > WIDE:
        reasons.append(f"the interval of N spans a factor {ci['params'][1] / ci['params'][0]:.2g}")
    if not ci:
        reasons.append("no intervals: fitted with --bootstrap 0")
    if ci and fit["sensitivity"]:
        reasons += _moved(fit, flops, ci["params"])
    low, high = ci.get("params", [0.0, 0.0])
    apart = [v for v in answers.values() if not low <= v <= high]
    if apart and max(answers.values()) / min(answers.values()) > GAP:
        told = ", ".join(f"{k} {v:.3g}" for k, v in answers.items())
        reasons.append(f"estimators disagree on N*: {told}")
    reasons += headline["warnings"]
    return ("provisional" if reasons else "trust"), reasons


def _moved(fit: dict, flops: float, ends: list[float]) -> list[str]:
    """A reason where refits with other runs or another delta reach far beyond the interval."""
    rows = [row for row in sensitivity_at(fit, flops)
            if row["group"] in OWN_CHOICES and row["status"] in USABLE
            and not ends[0] <= row["params"] <= ends[1]]  # fmt: skip
    low, high = (pick([row["params"] for row in rows] + ends) for pick in (min, max))
    if not rows or high / low <= WIDE or ends[1] / ends[0] > WIDE:
        return []
    farthest = max(rows, key=lambda row: max(row["params"] / ends[1], ends[0] / row["params"]))
    return [
        f"other choices widen the interval of N to a factor {high / low:.2g}; the farthest: "
        f"{farthest['label']}, N = {farthest['params']:.3g}"
    ]


def optimum_at(fit: dict, flops: float, laws: dict | None = None) -> dict:
    """`predict` of ``fit`` without its judgement, for figures that ask at many budgets.

    Returns ``flops, params, tokens, loss, tokens_per_param, ci, beyond_data``. ``laws``: those of
    the fit, where they were read already.
    """
    laws, cost = laws or laws_of(fit), Cost.from_dict(fit["cost"])
    log_c = np.log(flops)
    log_n, loss = (float(v[0]) for v in laws[fit["headline"]["method"]][0].optimum(log_c, cost))
    log_d = float(cost.log_tokens(log_n, log_c))
    return {
        "flops": flops,
        "params": float(np.exp(log_n)),
        "tokens": float(np.exp(log_d)),
        "loss": loss,
        "tokens_per_param": float(np.exp(log_d - log_n)),
        "ci": interval_at(fit, flops, laws),
        "beyond_data": float(flops / fit["data"]["largest_budget"]),
    }


def predict(
    fit: dict, flops: float, params: float | None = None, tokens: float | None = None
) -> dict:
    """The answer of ``fit`` (FIT.json as a dict) at a budget of ``flops``.

    Returns ``flops, params, tokens, loss, tokens_per_param``; ``ci`` of each of the last four as
    [low, high] (empty without resamples); ``range_1pct`` and ``range_5pct``: [N low, N high]
    within which the optimum's loss costs at most 1% (5%) more compute; ``size_value``, the
    buildable size nearest N*, and ``config``, the lines of a sweep's config that ask for it;
    ``regret``: [{factor, params, waste}], the extra share of compute (null: none is enough) that
    N* x factor needs to reach the optimum's loss; ``slope``, d ln N* / d ln C here;
    ``estimators``, N* of each; ``beyond_data``, C over the largest budget of the data; ``verdict``
    in trust, provisional, not identifiable; ``reasons``.

    ``params`` asks what a model of that N gives for C, ``tokens`` what D that many unique tokens
    allow (not both): ``own`` (else null) then holds ``asked, params, tokens, tokens_per_param,
    loss, waste, words``, with tokens also ``unique_tokens`` and ``epochs``, the passes over them
    that the optimum would make. Raises `FlopsFitError` for a number that is not positive.
    """
    flops = check_flops(flops)
    laws, cost = laws_of(fit), Cost.from_dict(fit["cost"])
    law = laws[fit["headline"]["method"]][0]
    best = optimum_at(fit, flops, laws)
    log_c, log_n = np.log(flops), float(np.log(best["params"]))
    answers = {
        name: float(np.exp(laws[name][0].optimum(log_c, cost)[0][0]))
        for name in fit["headline"]["candidates"]
    }
    verdict, reasons = _verdict(fit, flops, best["ci"], answers)
    ranges = {
        name: [float(np.exp(v[0])) for v in law.range(log_c, cost, share)]
        for name, share in (("range_1pct", 0.01), ("range_5pct", 0.05))
    }
    answer = {
        **best,
        **ranges,
        "size_value": size_value(fit, best["params"]),
        "regret": _regret(law, log_n, log_c, cost),
        "slope": float(law.slope(log_c, cost)[0]),
        "estimators": answers,
        "method": fit["headline"]["method"],
        "verdict": verdict,
        "reasons": reasons,
    }  # fmt: skip
    answer["config"] = config_lines(answer)
    answer["own"] = _own(answer, fit, law, cost, params, tokens)
    return answer


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


def _own(answer: dict, fit: dict, law, cost: Cost, params, tokens) -> dict | None:
    """``own`` of `predict`: the point at a user's N, or at all the tokens that there are."""
    if params is None and tokens is None:
        return None
    if params is not None and tokens is not None:
        raise FlopsFitError("params and tokens: give one; C and the other determine the rest")
    log_c, own = np.log(answer["flops"]), {"asked": "tokens" if params is None else "params"}
    if params is not None:
        log_n = np.log(_positive("params", params))
    else:
        unique = _positive("tokens", tokens)
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
    return {**own, "words": _own_words(own, answer, fit)}


def _own_words(own: dict, answer: dict, fit: dict) -> list[str]:
    """What to make of a point off the optimum, a sentence each."""
    words = []
    if own["asked"] == "tokens" and own["epochs"] <= 1:
        words.append("there are enough tokens: the optimum reads each at most once")
    elif own["asked"] == "tokens":
        passes = (
            f"the optimum would read {own['unique_tokens']:.4g} tokens {own['epochs']:.3g} times"
        )
        words.append(
            f"{passes}; up to {MOST_EPOCHS:g} passes are nearly as good as fresh data "
            "(Muennighoff et al. 2023), so its N and loss stand"
            if own["epochs"] <= MOST_EPOCHS
            else f"{passes}, and beyond {MOST_EPOCHS:g} passes repeated data lose their value "
            "(Muennighoff et al. 2023): its loss is then out of reach"
        )
        words.append("the numbers here are for reading every token once, with a larger model")
    factor = own["params"] / answer["params"]
    low, high = fit["data"]["params"]
    if not low <= own["params"] <= high:
        words.append(
            f"N = {own['params']:.4g} lies outside the sizes tried, {low:.4g} to {high:.4g}"
        )
    if answer["method"] not in ("surface", "tied", "fixed_e") and not 1 / NEAR < factor < NEAR:
        words.append(
            f"{factor:.3g} times N* is too far for the parabola behind {answer['method']}; its loss "
            "and waste are no more than an order of magnitude"
        )
    return words


def _positive(name: str, value: float, unit: str = "") -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise FlopsFitError(f"{name}: {value!r}; allowed: a positive finite number{unit}")
    return number


def loss_at(fit: dict, params: np.ndarray, tokens: np.ndarray, which: str = "parametric"):
    """L = E + A / N^alpha + B / D^beta of ``fit``, in the unit of its runs.

    ``params`` and ``tokens``: N and D, arrays of one shape (or scalars), which the losses have too.
    ``which``: the surface, ``parametric`` or ``forecast``.
    """
    law = fit[which]
    params, tokens = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    return law["E"] + law["A"] * params ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


def describe(answer: dict, fit: dict) -> str:
    """The ``answer`` that `predict` gave for ``fit``, as a few readable lines for a terminal."""
    ci, unit = answer["ci"], fit["data"]["loss_unit"]
    level = f"{100 * fit['bootstrap']['level']:.0f}%"

    def line(label: str, name: str, form: str = ".4g") -> str:
        text = f"  {label:<22}{answer[name]:{form}}"
        if name in ci:
            text += f"   {level} interval {ci[name][0]:{form}} to {ci[name][1]:{form}}"
        return text

    good = answer["range_1pct"], answer["range_5pct"]
    lines = [
        f"C = {answer['flops']:.4g} FLOPs, by {answer['method']}: {answer['verdict']}",
        line("parameters N*", "params"),
        line("tokens D*", "tokens"),
        line("tokens per parameter", "tokens_per_param", ".3g"),
        line(f"loss ({unit})", "loss", ".4f"),
        f"  N within 1% of compute {good[0][0]:.4g} to {good[0][1]:.4g}",
        f"  N within 5% of compute {good[1][0]:.4g} to {good[1][1]:.4g}",
    ]
    if len(answer["estimators"]) > 1:
        each = ", ".join(f"{name} {value:.4g}" for name, value in answer["estimators"].items())
        lines.append(f"  N* by estimator       {each}")
    if answer["size_value"] is not None:
        lines.append(f"  buildable size value  {answer['size_value']}")
    told = ", ".join(f"N* x {r['factor']:g}: {waste_text(r['waste'])}" for r in answer["regret"])
    lines.append(f"  compute wasted at     {told}")
    lines.append(f"  C / largest budget    {answer['beyond_data']:.3g}")
    lines += [f"  - {reason}" for reason in answer["reasons"]]
    if answer["config"]:
        lines += ["in a config:", *(f"  {line}" for line in answer["config"].splitlines())]
    if answer["own"]:
        lines += _describe_own(answer, unit)
    return "\n".join(lines)


def waste_text(waste: float | None) -> str:
    """Extra compute as a percentage: +14%; no end of it where no compute is enough."""
    if waste is None:
        return "no compute is enough"
    return f"+{100 * waste:.3g}%" if waste < 10 else f"x {1 + waste:.3g}"


def _describe_own(answer: dict, unit: str) -> list[str]:
    own = answer["own"]
    asked = own["params"] if own["asked"] == "params" else own["unique_tokens"]
    return [
        f"at your own {'N' if own['asked'] == 'params' else 'D of at most'} = {asked:.4g}, same C:",
        f"  parameters N          {own['params']:.4g}   ({own['params'] / answer['params']:.3g} x N*)",
        f"  tokens D              {own['tokens']:.4g}",
        f"  tokens per parameter  {own['tokens_per_param']:.3g}",
        f"  loss ({unit})".ljust(24) + f"{own['loss']:.4f}   ({own['loss'] - answer['loss']:+.4f})",
        f"  compute wasted        {waste_text(own['waste'])} for the optimum's loss",
        *(f"  - {word}" for word in own["words"]),
    ]
