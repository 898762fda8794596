"""The evidence for the answer: minima, estimators, held-out predictions, confirmations."""

from collections.abc import Sequence

import numpy as np

from flops_fit.fit.estimators import USABLE
from flops_fit.fit.result import Fit
from flops_fit.fit.sections import BudgetEntry
from flops_fit.notation import count_text, factor_text, flops_text, loss_text, share_text
from flops_fit.report.answer_text import written
from flops_fit.rounds.confirm import outcome_text

ESTIMATORS = {
    "stack": "stack of laws and paths",
    "surface": "surface L(N, D), approach 3",
    "isoflop": "IsoFLOP minima, approach 2",
    "envelope": "envelope of training curves, approach 1",
    "tied": "surface with α = β",
    "fixed_e": "surface with fixed E",
}
METHODS = {  # within a sentence
    "stack": "the stack",
    "surface": "the surface",
    "isoflop": "the IsoFLOP minima",
    "envelope": "the envelope of the training curves",
    "tied": "the surface with α = β",
    "fixed_e": "the surface with fixed E",
}
STATUSES = {
    "bracketed": "minimum, used",
    "at_edge": "at the edge of the sizes tried, not used",
    "no_minimum": "no minimum, not used",
    "too_few_points": "too few sizes, not used",
}


def minima_of(fit: Fit) -> list[dict]:
    """The measured minimum of ``fit`` at each budget as text, with its status and curvature."""
    return [
        {
            **vars(b),
            "budget": flops_text(b.flops),
            "params": count_text(b.params_opt),
            "tokens": count_text(b.tokens_opt),
            "loss": loss_text(b.loss_opt),
            "ratio": count_text(b.tokens_opt / b.params_opt),
            "status_text": _status_text(b),
            "sizes": " – ".join(map(count_text, b.params_range)),
            "off_centre": factor_text(b.params_opt / float(np.sqrt(np.prod(b.params_range)))),
            "curvature_text": f"{b.curvature:#.3g}",
        }
        for b in fit.isoflop.budgets
    ]


def _status_text(budget: BudgetEntry) -> str:
    """The status of a measured minimum, and the run left out of it that was better than all others."""
    text, best = STATUSES[budget.status], budget.best_left_out
    if best:
        text += (
            f"; a run with a lower loss was left out: {best.experiment_id}, "
            f"{loss_text(best.loss)} at N = {count_text(best.params)}"
        )
    return text


def surface_status(fit: Fit) -> str:
    """The status of the surface of ``fit`` and its reason, which may begin with the same words."""
    status, reason = fit.parametric.status.replace("_", " "), fit.parametric.reason
    return reason if reason.startswith(status) else f"{status}; {reason}"


def estimators_of(fit: Fit, budgets: list[float]) -> list[dict]:
    """Every estimator of ``fit``: status, exponent a, its interval, N* at ``budgets`` (FLOPs)."""
    rows = []
    for name, fitted in fit.laws.items():
        status, reason, exponent = _standing(fit, name)
        known = status in USABLE and fit.status in USABLE
        optimum = [
            float(np.exp(fitted.law.optimum(np.log(c), fit.cost)[0][0])) if known else None
            for c in budgets
        ]
        ci = fit.ci.get("a" if name == "surface" else f"{name}.a")
        fixed = name == "tied"
        rows.append(
            {
                "name": name,
                "label": ESTIMATORS.get(name, name),
                "status": status,
                "reason": reason,
                "headline": name == fit.headline.method,
                "a": f"{exponent:.3f}" + (" (fixed)" if fixed else "") if known else "–",
                "a_interval": None
                if fixed or not ci or not known
                else f"{ci[0]:.3f} – {ci[1]:.3f}",
                "params": [written(n, count_text) for n in optimum],
            }
        )
    return rows


def _standing(fit: Fit, name: str) -> tuple[str, str, float]:
    """Status, reason and exponent of an estimator."""
    if name == "stack":
        return fit.status, fit.headline.why, fit.headline.a
    entry = fit.parametric if name == "surface" else getattr(fit, name)
    return entry.status, entry.reason, entry.a


def members_of(fit: Fit) -> list[dict]:
    """The members of the stack of ``fit``: weights in N*, in L* and in the loss of any run."""
    if not fit.stack:
        return []
    return [
        {
            "name": m.name,
            "params": f"{m.weight_params:.0%}",
            "loss": f"{m.weight_loss:.0%}",
            "runs": f"{m.weight_runs:.0%}",
        }
        for m in fit.stack.members
    ]


def tests_of(fit: Fit) -> list[dict]:
    """The errors of the stack of ``fit`` at held-out budgets, with their standard errors."""
    if not fit.stack:
        return []
    losses = {(t.trained_up_to, t.flops): t for t in fit.stack.tests["loss"]}
    return [
        {
            "up_to": flops_text(t.trained_up_to),
            "budget": flops_text(t.flops),
            "params": f"{100 * np.expm1(t.error):+.1f}% ± {100 * t.se:.1f}%",
            "loss": f"{100 * np.expm1(losses[at].error):+.2f}% ± {100 * losses[at].se:.2f}%",
        }
        for t in fit.stack.tests["params"]
        if (at := (t.trained_up_to, t.flops)) in losses
    ]


def heldout_of(fit: Fit) -> list[dict]:
    """Predicted and measured optimum of ``fit`` at each held-out budget, one row per estimator."""
    return [
        {
            "left_out": level.left_out,
            "budget": flops_text(p.flops),
            "up_to": flops_text(level.trained_up_to),
            "estimator": p.estimator,
            "headline": p.estimator == fit.headline.method,
            "params": written(p.params, count_text),
            "params_measured": written(p.params_measured, count_text),
            "loss": written(p.loss, loss_text),
            "loss_measured": written(p.loss_measured, loss_text),
            "excess": share_text(p.excess),
            "loss_error": f"{100 * p.loss_error:+.2f}%",
        }
        for level in fit.heldout.levels
        for p in level.predictions
    ]


def confirmations_of(outcomes: Sequence[dict]) -> list[dict]:
    """The ``outcomes`` of confirmation runs: prediction and measurement as text."""
    return [
        {
            "name": c["name"],
            "budget": flops_text(c["flops"]),
            "params": count_text(c["params"]),
            "predicted": written(c["predicted"]["loss"], loss_text),
            "run": " – ".join(map(loss_text, c["predicted"]["run"] or [])),
            "measured": None if c["loss"] is None else written(c["loss"], loss_text),
            "outcome": outcome_text(c),
        }
        for c in outcomes
    ]
