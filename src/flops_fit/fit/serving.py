"""The model that is cheapest to train and then to serve (Sardana et al. 2024, arXiv 2401.00448).

A smaller model trained on more tokens reaches the loss of the optimum at C with more training
FLOPs, and costs less for each token that it reads or writes afterwards. With T tokens served, the
cheapest one minimises f(N) D + g(N) T over all (N, D) of that loss, where C = f(N) D is the cost of
training and g = f / 3 that of a forward pass (2 N of 6 N).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from flops_fit.fit.answer import PROVISIONAL, TRUST, Answer, Interval, Served, ServedTotal
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import PathLaw, StackLaw, SurfaceLaw, spread
from flops_fit.fit.lowest import lowest
from flops_fit.fit.numbers import positive_number
from flops_fit.fit.prediction import size_value, spread_of_draws
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import MEANINGLESS, distance_of_run, reasons_at, untested_run

FORWARD = 1 / 3  # of the FLOPs per token of training: a forward pass, of forward and backward
OFFSETS = np.linspace(-8.0, 0.5, 171)  # ln of N / N*, where the cheapest model is looked for
BISECTIONS = 40


@dataclass(frozen=True)
class _Cheapest:
    """ln(N / N*) and ln of the training FLOPs over C, each of shape (R,)."""

    offset: np.ndarray
    more: np.ndarray


def served_at(fit: Fit, answer: Answer, tokens: float) -> Served | None:
    """The cheapest model of the loss of ``answer``, if it serves ``tokens`` tokens after training.

    ``answer`` is that of ``fit`` at C; None where it has no numbers. `Served` says what is in it.
    N is that of the optimum, moved as far as the members of the stack move theirs along their curves
    of equal loss; a path through minima borrows those curves from the surface. Raises
    `FlopsFitError` for a number of tokens that is not positive.
    """
    tokens = positive_number("serve", tokens, " of tokens")
    best = answer.optimum
    if best is None:
        return None
    log_c = float(np.log(answer.flops))
    at = _served_point(fit, log_c, tokens)
    log_n = float(np.log(best.params) + at.offset[0])
    training = float(np.exp(log_c + at.more[0]))
    log_d = float(fit.cost.log_tokens(log_n, np.log(training)))
    total = training + _serving(fit.cost, log_n, tokens)
    plain = answer.flops + _serving(fit.cost, float(np.log(best.params)), tokens)
    doubt = _doubt(fit, log_c, tokens)
    beyond = float(distance_of_run(fit, training, np.exp(log_d - log_n)))
    near, wide = (_range(fit, log_c, tokens, share) for share in (0.01, 0.05))
    promise = _promise(fit, doubt, beyond, log_n - wide)
    verdict, reasons = _judged(fit, training, doubt is not None, promise, np.exp(log_d - log_n))
    return Served(
        tokens_served=tokens,
        params=float(np.exp(log_n)),
        tokens=float(np.exp(log_d)),
        tokens_per_param=float(np.exp(log_d - log_n)),
        loss=best.loss,
        flops_training=training,
        flops_total=total,
        saved=1 - total / plain,
        ci=_intervals(fit, doubt, beyond, {"params": log_n, "tokens": log_d}),
        range_1pct=[float(v) for v in np.exp(near)],
        size_value=size_value(fit, float(np.exp(log_n))),
        for_total=_for_total(fit, log_c, tokens),
        verdict=verdict,
        reasons=reasons,
    )


def _serving(cost: Cost, log_n: float, tokens: float) -> float:
    """FLOPs of reading or writing so many tokens once trained."""
    return float(FORWARD * tokens * np.exp(cost.log_flops_per_token(log_n)))


def shapes(fit: Fit) -> Iterator[tuple[float, SurfaceLaw, SurfaceLaw | None]]:
    """(weight, law, its resamples) of each surface of ``fit``, for the loss off the optimum."""
    fitted = fit.answering
    if isinstance(fitted.law, PathLaw):
        fitted = fit.laws["surface"]
    law, draws = fitted.law, fitted.draws
    if isinstance(law, SurfaceLaw):
        assert draws is None or isinstance(draws, SurfaceLaw)
        yield 1.0, law, draws
        return
    assert isinstance(law, StackLaw)
    for i, (member, weight) in enumerate(zip(law.laws, law.weights["runs"], strict=True)):
        if weight > 0:
            assert isinstance(draws, StackLaw | None)
            yield float(weight), member, None if draws is None else draws.laws[i]


def _served_point(fit: Fit, log_c: float, tokens: float) -> _Cheapest:
    """The cheapest model by the mean of the members, each of shape (1,)."""
    centre = fit.answering.law.optimum(log_c, fit.cost)[0]
    offset, more = np.zeros(1), np.zeros(1)
    for weight, law, _ in shapes(fit):
        at = _cheapest(law, log_c, fit.cost, tokens, centre)
        offset, more = offset + weight * at.offset, more + weight * at.more
    return _Cheapest(offset, more)


def _total(
    law: SurfaceLaw, log_c: float, cost: Cost, tokens: float, centre: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """C (1 + waste) + g(N) T along the curve of L*(C), against ln(N / N*), for each row of a law.

    ``centre`` (R,): ln N* that the offset is counted from, in what serving costs.
    """
    best, compute = law.optimum(log_c, cost)[0], np.exp(log_c)

    def total(offset: np.ndarray) -> np.ndarray:
        serving = FORWARD * tokens * np.exp(cost.log_flops_per_token(centre + offset))
        return compute * (1 + law.waste(best + offset, log_c, cost)) + serving

    return total


def _cheapest(
    law: SurfaceLaw, log_c: float, cost: Cost, tokens: float, centre: np.ndarray
) -> _Cheapest:
    """The least of `_total` for each row of a law."""
    total, best = _total(law, log_c, cost, tokens, centre), law.optimum(log_c, cost)[0]
    offset = lowest(total, OFFSETS, len(best))
    return _Cheapest(offset, np.log1p(law.waste(best + offset, log_c, cost)))


def _range(fit: Fit, log_c: float, tokens: float, share: float) -> np.ndarray:
    """ln N below and above the cheapest whose total is more by ``share``, of shape (2,)."""
    centre = fit.answering.law.optimum(log_c, fit.cost)[0]
    ends = np.zeros(2)
    for weight, law, _ in shapes(fit):
        total = _total(law, log_c, fit.cost, tokens, centre)
        offset = _cheapest(law, log_c, fit.cost, tokens, centre).offset
        most = (1 + share) * total(offset)
        for side, far in enumerate((OFFSETS[0], OFFSETS[-1] + 1)):
            inner, outer = offset, np.full(len(offset), far)
            for _ in range(BISECTIONS):
                middle = (inner + outer) / 2
                inside = total(middle) < most
                inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
            ends[side] += weight * inner[0]
    return centre[0] + ends


def _for_total(fit: Fit, log_total: float, tokens: float) -> ServedTotal | None:
    """The best model whose training and serving cost C together.

    It is the cheapest of its loss as well, so the budget is looked for whose loss costs C in all. None
    where so little is left for training that no run says anything about it.
    """

    def cheapest(log_c: float) -> tuple[float, float, float]:
        at = _served_point(fit, log_c, tokens)
        log_n = float((fit.answering.law.optimum(log_c, fit.cost)[0] + at.offset)[0])
        training = float(np.exp(log_c + at.more[0]))
        return log_n, training, training + _serving(fit.cost, log_n, tokens)

    def over(log_c: float) -> float:
        return float(np.log(cheapest(log_c)[2])) - log_total

    least = float(np.log(fit.data.flops[0] / MEANINGLESS))
    if over(least) > 0:
        return None
    at = float(brentq(over, least, log_total, xtol=1e-12)) if over(log_total) > 0 else log_total
    log_n, training, _ = cheapest(at)
    return ServedTotal(
        params=float(np.exp(log_n)),
        tokens=float(np.exp(fit.cost.log_tokens(log_n, np.log(training)))),
        loss=float(fit.answering.law.optimum(at, fit.cost)[1][0]),
        flops_training=training,
    )


def _doubt(fit: Fit, log_c: float, tokens: float) -> dict[str, float] | None:
    """Sds of ln N and ln D of the cheapest model over the resamples; None without them."""
    sd = np.zeros(2)
    for weight, _, draws in shapes(fit):
        if draws is None:
            return None
        best = draws.optimum(log_c, fit.cost)[0]
        drawn = _cheapest(draws, log_c, fit.cost, tokens, best)
        log_n = best + drawn.offset
        log_d = fit.cost.log_tokens(log_n, log_c + drawn.more)
        sd += weight * spread(np.stack([log_n, log_d]))
    if isinstance(fit.answering.law, PathLaw) and fit.answering.draws is not None:
        path = spread_of_draws(fit.answering.draws, log_c, fit.cost)["params"]
        sd = np.hypot(sd, path)  # the surface's noise, and where the path puts N*
    return {"params": float(sd[0]), "tokens": float(sd[1])}


def _intervals(
    fit: Fit, doubt: dict[str, float] | None, beyond: float, at: dict[str, float]
) -> dict[str, Interval]:
    """``{params, tokens}`` -> [low, high] around ``at`` (ln): noise, and the error of the form."""
    level, ends = fit.bootstrap.level, {}
    form = fit.stack.form_error["params"] if fit.stack and fit.stack.form_error else None
    for name, sd in (doubt or {}).items():
        half = form.half_width(sd, beyond, level) if form else ndtri((1 + level) / 2) * sd
        ends[name] = [float(np.exp(at[name] + sign * half)) for sign in (-1, 1)]
    return ends


def _promise(
    fit: Fit, doubt: dict[str, float] | None, beyond: float, reach: np.ndarray
) -> float | None:
    """Probability that the total is at most 5% more than the least; None where it is not known.

    ``reach`` (2,): ln N less that of the lower and the upper end of the 5% range.
    """
    if doubt is None or fit.stack is None or fit.stack.form_error is None:
        return None
    form = fit.stack.form_error["params"]
    return form.inside(float(reach[1]), float(reach[0]), doubt["params"], beyond)


def _judged(
    fit: Fit, training: float, has_interval: bool, promise: float | None, ratio: float
) -> tuple[str, list[str]]:
    """The verdict on the served model, and its reasons."""
    verdict, reasons = reasons_at(fit, training, has_interval, promise)
    more = []
    if isinstance(fit.answering.law, PathLaw) and fit.parametric.status == "not_identifiable":
        more.append("the loss off the optimum is the surface's, which the runs do not determine")
    if untested := untested_run(fit, training, ratio):
        more.append(f"{untested}; flops-fit next --serve proposes two that would")
    return (PROVISIONAL if more and verdict == TRUST else verdict), [*reasons, *more]
