"""The section of the questions that were asked beside the budgets."""

from flops_fit.fit.answer import Served
from flops_fit.fit.questions import ask
from flops_fit.fit.result import Fit
from flops_fit.notation import count_text, flops_text, loss_text, share_text


def questions_of(fit: Fit, budgets: list[float], asked: dict[str, float | None]) -> dict:
    """What ``asked`` (name -> value, as `ask` takes them; None: not asked) gives at ``budgets``.

    ``budgets`` in FLOPs. One list of rows per question that ``fit`` can answer; empty where
    nothing was asked.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked:
        return {}
    answers = [ask(fit, flops, **asked) for flops in budgets]
    served = [_served(a.flops, a.served) for a in answers if a.served]
    return {"served": served} if served else {}


def _served(flops: float, served: Served) -> dict:
    """One row of the table on serving."""
    return {
        "budget": flops_text(flops),
        "value": served,
        "tokens_served": count_text(served.tokens_served),
        "params": count_text(served.params),
        "params_ci": _interval(served.ci.get("params")),
        "tokens": count_text(served.tokens),
        "tokens_ci": _interval(served.ci.get("tokens")),
        "ratio": count_text(served.tokens_per_param),
        "training": flops_text(served.flops_training),
        "total": flops_text(served.flops_total),
        "saved": share_text(served.saved),
        "for_total": f"{count_text(served.for_total.params)} on {count_text(served.for_total.tokens)} "
        f"tokens, loss {loss_text(served.for_total.loss)}",
        "verdict": "; ".join([served.verdict, *served.reasons]),
    }


def _interval(ends: list[float] | None) -> str:
    return f"{count_text(ends[0])} – {count_text(ends[1])}" if ends else ""
