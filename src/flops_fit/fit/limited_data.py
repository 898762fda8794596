"""The best model for C where unique tokens are few: how large, and how often to read them."""

import numpy as np

from flops_fit.fit.answer import PROVISIONAL, TRUST, Answer, Interval, Limited
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.lowest import lowest
from flops_fit.fit.numbers import interval, positive_number
from flops_fit.fit.repeats import EXPONENTIAL, NONE, effective
from flops_fit.fit.result import Fit
from flops_fit.fit.serving import shapes

PUBLISHED_R = 15.4  # passes
SOURCE = "Muennighoff et al. 2023, arXiv 2305.16264"
OFFSETS = np.linspace(-3.0, 7.0, 201)  # ln(N / N*), where the best model is looked for
BISECTIONS = 50
LEAST_WORTH = 30.0  # ln: no lack of data wastes more than all but e^-30 of C
BEYOND_EPOCHS = 1.05  # times the most passes of the runs: no run shows such repeats


def limited_at(fit: Fit, answer: Answer, unique: float) -> Limited | None:
    """The best model at the C of ``answer`` that reads ``unique`` tokens as often as it pays.

    Where runs of ``fit`` repeat their data, their law of repeats answers; else the law of the fit
    with the published R, which is then ``borrowed``. None where the fit has no numbers. Raises
    `FlopsFitError` for a number of tokens that is not positive.
    """
    unique = positive_number("unique", unique, " of tokens")
    best = answer.optimum
    if best is None:
        return None
    log_c, log_u = float(np.log(answer.flops)), float(np.log(unique))
    repeats = fit.repeats
    form, r = (EXPONENTIAL, PUBLISHED_R) if repeats is None else (repeats.form, repeats.R)
    if repeats is None:
        base = np.log([best.params, best.loss])
        moved = np.zeros(3)
        for weight, law, _ in shapes(fit):
            moved += weight * _moves(law, np.array([r]), form, log_c, log_u, fit.cost)[:, 0]
        ci: dict[str, Interval] = {}
    else:
        law, rates = _law(repeats.law)
        base = np.array([v[0] for v in law.optimum(log_c, fit.cost)])
        base[1] = np.log(base[1])
        moved = _moves(law, rates, form, log_c, log_u, fit.cost)[:, 0]
        ci = _intervals(fit, form, log_c, log_u)
    log_n, log_d = base[0] + moved[0], float(fit.cost.log_tokens(base[0] + moved[0], log_c))
    fresh = [base[0], float(fit.cost.log_tokens(base[0], log_c)), base[1]]
    epochs = float(np.exp(log_d - log_u))
    verdict, reasons = _judged(fit, answer, epochs)
    return Limited(
        unique_tokens=unique,
        form=form,
        R=r,
        R_ci=repeats.R_ci if repeats else None,
        borrowed=repeats is None,
        source=SOURCE if repeats is None else f"{repeats.n_repeated} runs that repeat their data",
        params=float(np.exp(log_n)),
        tokens=float(np.exp(log_d)),
        epochs=epochs,
        loss=float(np.exp(base[1] + moved[1])),
        unlimited=[float(v) for v in np.exp(fresh)],
        wasted=float(-np.expm1(-moved[2])),
        ci=ci,
        verdict=verdict,
        reasons=reasons,
    )


def _law(*rows: list[float]) -> tuple[SurfaceLaw, np.ndarray]:
    """The law in rows [E, ln A, ln B, alpha, beta(, R)], and R of each (1 where there is none)."""
    values = np.array(rows)
    rates = values[:, 5] if values.shape[1] > 5 else np.ones(len(values))
    return SurfaceLaw(values[:, :5]), rates


def _moves(
    law: SurfaceLaw, rates: np.ndarray, form: str, log_c: float, log_u: float, cost: Cost
) -> np.ndarray:
    """ln(N / N*), ln(L / L*) and ln(C / C') for each row of a law, of shape (3, R).

    C' is the budget whose optimum with fresh data alone has that loss; ``rates``: R of each row.
    """
    best, least = law.optimum(log_c, cost)

    def loss(offset: np.ndarray) -> np.ndarray:
        log_n = best + offset
        log_d = cost.log_tokens(log_n, log_c)
        return law.loss(log_n, effective(form, log_d, np.full_like(log_d, log_u), rates))

    offset = lowest(loss, OFFSETS, len(best))
    reached = loss(offset)
    # Where data are enough the golden section is off by rounding, and no data are lacking.
    enough = reached <= least * (1 + 1e-12)
    offset, reached = np.where(enough, 0.0, offset), np.where(enough, least, reached)
    far, near = np.full(len(best), LEAST_WORTH), np.zeros(len(best))
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        better = law.optimum(log_c - middle, cost)[1] < reached
        near, far = np.where(better, middle, near), np.where(better, far, middle)
    return np.stack([offset, np.log(reached / least), near])


def _intervals(fit: Fit, form: str, log_c: float, log_u: float) -> dict[str, Interval]:
    """[low, high] of N, D, passes and loss over the resamples of the law of repeats."""
    assert fit.repeats is not None
    if not fit.repeats.draws:
        return {}
    law, rates = _law(*fit.repeats.draws)
    moved = _moves(law, rates, form, log_c, log_u, fit.cost)
    best, least = law.optimum(log_c, fit.cost)
    log_d = fit.cost.log_tokens(best + moved[0], log_c)
    drawn = {
        "params": best + moved[0],
        "tokens": log_d,
        "epochs": log_d - log_u,
        "loss": np.log(least) + moved[1],
    }
    level = fit.bootstrap.level
    return {name: interval(np.exp(values), level) for name, values in drawn.items()}


def _judged(fit: Fit, answer: Answer, epochs: float) -> tuple[str, list[str]]:
    """The verdict and its reasons."""
    reasons, repeats = list(answer.reasons), fit.repeats
    if epochs <= 1:
        return answer.verdict, reasons
    if repeats is None:
        reasons.append(
            f"no run repeats its data, so what repeats are worth is borrowed (R = {PUBLISHED_R:g}, "
            f"{SOURCE}) and may differ here"
        )
    else:
        reasons.append("the interval covers noise only: the form of the worth of repeats is chosen")
    if repeats is not None and repeats.form == NONE:
        none = next(form for form in repeats.forms if form.form == NONE)
        best = min(repeats.forms, key=lambda form: form.error)
        if best.error < none.error:
            reasons.append(
                f"repeats may be worth less than said: the {best.form} form (R = {best.R:.3g}) predicts "
                f"runs that repeat their data with a mean error of {100 * best.error:.2g}% instead of "
                f"{100 * none.error:.2g}%, which is better, but not clearly"
            )
    if repeats is not None and epochs > BEYOND_EPOCHS * repeats.most_epochs:
        reasons.append(
            f"{epochs:.3g} passes are beyond those of the runs, at most {repeats.most_epochs:.3g}"
        )
    return (PROVISIONAL if answer.verdict == TRUST else answer.verdict), reasons
