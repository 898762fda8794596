"""The section of the questions that were asked beside the budgets."""

from flops_fit.fit.answer import AccuracyAnswer, Limited, Served, ServedTotal
from flops_fit.fit.prediction import predict
from flops_fit.fit.purchase import Machine, purchase_at
from flops_fit.fit.questions import ask
from flops_fit.fit.result import Fit
from flops_fit.fit.sigmoid import describe_sigmoid
from flops_fit.notation import count_text, flops_text, loss_text, share_text
from flops_fit.report.answer_lines import bought_text


def questions_of(
    fit: Fit,
    budgets: list[float],
    asked: dict[str, float | None],
    bought: tuple[Machine, float] | None = None,
) -> dict:
    """What ``asked`` (name -> value, as `ask` takes them; None: not asked) gives at ``budgets``.

    ``budgets`` in FLOPs; ``bought``: devices and their hours, whose FLOPs are answered for too. One
    entry per question that ``fit`` can answer, and one for the accuracy that it was made with; empty
    where nothing was asked.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    entries: dict = {}
    if bought:
        machine, hours = bought
        budgets = [machine.flops(hours), *budgets]
        entries["bought"] = _bought(fit, *bought)
    if asked or fit.accuracy:
        answers = [ask(fit, flops, **asked) for flops in budgets]
        accuracies = [_accuracy(a.flops, a.accuracy) for a in answers if a.accuracy]
        if fit.accuracy:
            text = describe_sigmoid(fit.accuracy)
            entries["accuracy"] = {"name": fit.accuracy.name, "text": text, "rows": accuracies}
        served = [_served(a.flops, a.served) for a in answers if a.served]
        entries |= {"served": served} if served else {}
        limited = [_limited(a.flops, a.limited) for a in answers if a.limited]
        entries |= {"limited": limited} if limited else {}
    return entries


def _bought(fit: Fit, machine: Machine, hours: float) -> dict:
    """What hours of devices give, and one more day."""
    answer, purchase = predict(fit, machine.flops(hours)), purchase_at(fit, machine, hours)
    optima = {"in this time": answer.optimum, "with one more day": purchase.one_more_day}
    return {
        "text": bought_text(purchase),
        "rows": [
            {
                "label": label,
                "flops": flops_text(best.flops),
                "params": count_text(best.params),
                "params_ci": _interval(best.ci.get("params")),
                "tokens": count_text(best.tokens),
                "loss": best.loss,
                "loss_text": loss_text(best.loss),
            }
            for label, best in optima.items()
            if best is not None
        ],
        "verdict": "; ".join([answer.verdict, *answer.reasons]),
    }


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
        "for_total": _for_total(served.for_total),
        "verdict": "; ".join([served.verdict, *served.reasons]),
    }


def _for_total(best: ServedTotal | None) -> str:
    if best is None:
        return "C does not pay for serving so many tokens"
    params, tokens = count_text(best.params), count_text(best.tokens)
    return f"{params} on {tokens} tokens, loss {loss_text(best.loss)}"


def _limited(flops: float, limited: Limited) -> dict:
    """One row of the table on few unique tokens."""
    lost = limited.loss - limited.unlimited[2]
    return {
        "budget": flops_text(flops),
        "value": limited,
        "unique": count_text(limited.unique_tokens),
        "R": None if limited.R is None else f"{limited.R:.3g}",
        "R_ci": _interval(limited.R_ci),
        "params": count_text(limited.params),
        "params_ci": _interval(limited.ci.get("params")),
        "epochs": count_text(limited.epochs),
        "epochs_ci": _interval(limited.ci.get("epochs")),
        "loss": loss_text(limited.loss),
        "lost": f"{lost:+.4f}",
        "wasted": share_text(limited.wasted),
        "fresh": count_text(limited.unlimited[0]),
        "verdict": "; ".join([limited.verdict, *limited.reasons]),
    }


def _accuracy(flops: float, accuracy: AccuracyAnswer) -> dict:
    """One row of the table on the accuracy."""
    ends = accuracy.ci
    return {
        "budget": flops_text(flops),
        "value": accuracy.value,
        "text": "" if accuracy.value is None else f"{accuracy.value:.3f}",
        "ci": "" if ends is None else f"{ends[0]:.3f} – {ends[1]:.3f}",
        "loss": "" if accuracy.loss is None else loss_text(accuracy.loss),
        "verdict": "; ".join([accuracy.verdict, *accuracy.reasons]),
    }


def _interval(ends: list[float] | None) -> str:
    return f"{count_text(ends[0])} – {count_text(ends[1])}" if ends else ""
