"""What `ask` answers as lines for a terminal, with numbers written as on the page."""

from collections.abc import Callable

from flops_fit.fit.answer import (
    AccuracyAnswer,
    Answer,
    ChosenPoint,
    Limited,
    Optimum,
    Purchase,
    Served,
)
from flops_fit.fit.repeats import NONE
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import promise_text
from flops_fit.notation import count_text, flops_text, loss_text, unit_text, waste_text

Write = Callable[[float], str]


def describe(answer: Answer, fit: Fit) -> str:
    """The ``answer`` that `ask` or `predict` gave for ``fit``, as readable lines for a terminal."""
    lines = _purchase(answer.purchase, answer, fit) if answer.purchase else []
    best = answer.optimum
    if best is None:
        lines += _unanswered(answer, fit)
    else:
        lines += _optimum(answer, best, fit)
        if answer.chosen:
            lines += _point(answer.chosen, best, fit)
    if answer.accuracy:
        lines += _accuracy(answer.accuracy, answer, fit)
    if answer.served and best is not None:
        lines += _served(answer.served, best, answer, fit)
    if answer.limited:
        lines += _limited(answer.limited, answer, fit)
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"  {label:<23}{text}"


def _to(ends: list[float], write: Write) -> str:
    return f"{write(ends[0])} to {write(ends[1])}"


def _interval(ends: list[float] | None, write: Write, fit: Fit, noise: str = "") -> str:
    """Both ``ends`` as text behind a value, with what is said of the ``noise``; empty for None."""
    if ends is None:
        return ""
    return f"   {100 * fit.bootstrap.level:.0f}% interval {_to(ends, write)}{noise}"


def _loss_label(fit: Fit) -> str:
    return f"loss ({unit_text(fit.data.loss_unit)})"


def bought_text(purchase: Purchase) -> str:
    """What a ``purchase`` is in one line: hours, devices, their speed, and the price of one and all."""
    devices = "one device" if purchase.devices == 1 else f"{purchase.devices} devices"
    hours = "1 hour" if purchase.hours == 1 else f"{purchase.hours:.6g} hours"
    text = (
        f"{hours} of {devices} at {flops_text(purchase.flops_per_second)} FLOP/s "
        f"each ({purchase.source})"
    )
    if purchase.money is None:
        return text
    each = purchase.money / purchase.hours / purchase.devices
    return f"{text}, for {purchase.money:.2f} ({each:.4g} for an hour of one)"


def _purchase(purchase: Purchase, answer: Answer, fit: Fit) -> list[str]:
    """What ``purchase`` is, and what one more day would give."""
    lines = [f"{bought_text(purchase)}: C = {flops_text(purchase.flops)} FLOPs"]
    more = purchase.one_more_day
    if more is not None and answer.loss is not None:
        gain = f"{more.loss - answer.loss:+.4f} {unit_text(fit.data.loss_unit)}"
        size = f"N* {count_text(more.params)}, D* {count_text(more.tokens)}"
        lines.append(_row("one more day", f"loss {loss_text(more.loss)} ({gain}) with {size}"))
    return lines


def _optimum(answer: Answer, best: Optimum, fit: Fit) -> list[str]:
    """The optimum with its intervals, and the sizes that are as good."""

    def line(label: str, name: str, write: Write = count_text) -> str:
        ends, inner = best.ci.get(name), best.ci_noise.get(name)
        noise = "" if inner in (None, ends) else f"   (noise only {_to(inner, write)})"
        return _row(label, write(getattr(best, name)) + _interval(ends, write, fit, noise))

    lines = [
        f"C = {flops_text(answer.flops)} FLOPs, by {answer.method}: {answer.verdict}",
        line("parameters N*", "params"),
        line("tokens D*", "tokens"),
        line("tokens per parameter", "tokens_per_param"),
        line(_loss_label(fit), "loss", loss_text),
    ]
    for percent, ends in ((1, answer.range_1pct), (5, answer.range_5pct)):
        lines += [_row(f"N within {percent}% of C", _to(ends, count_text))] if ends else []
    if answer.promise is not None:
        lines.append(
            _row("at most 5% wasted", f"with a probability of {promise_text(answer.promise)}")
        )
    if len(answer.estimators) > 1:
        each = ", ".join(f"{name} {count_text(n)}" for name, n in answer.estimators.items())
        lines.append(_row("N* by estimator", each))
    if answer.size_value is not None:
        lines.append(_row("buildable size value", str(answer.size_value)))
    wasted = ", ".join(f"N* x {r.factor:g}: {waste_text(r.waste)}" for r in answer.regret)
    lines.append(_row("compute wasted at", wasted))
    lines.append(_row("C / largest budget", f"{answer.beyond_data:.3g}"))
    lines += [f"  - {reason}" for reason in answer.reasons]
    if answer.config:
        lines += ["in a config:", *(f"  {text}" for text in answer.config.splitlines())]
    return lines


def _unanswered(answer: Answer, fit: Fit) -> list[str]:
    """The lines of an answer without numbers, and of the one axis that the runs support."""
    lines = [
        f"C = {flops_text(answer.flops)} FLOPs: not identifiable",
        *(f"  - {reason}" for reason in answer.reasons),
    ]
    axis = answer.axis
    if not axis or axis.E is None or axis.loss is None or axis.at is None:
        return lines
    symbol = {"params": "N", "tokens": "D", "flops": "C"}[axis.x]
    write = flops_text if axis.x == "flops" else count_text
    loss = f"{loss_text(axis.loss)} at {symbol} = {write(axis.at)}: {axis.verdict}"
    return [
        *lines,
        "what these runs do support, along their one axis:",
        f"  L = {axis.E:.4g} + {axis.A:.4g} / {symbol}^{axis.alpha:.3f}",
        _row(_loss_label(fit), loss + _interval(axis.ci, loss_text, fit, " (noise only)")),
    ]


def _point(point: ChosenPoint, best: Optimum, fit: Fit) -> list[str]:
    """What a given size, or a given amount of data, gives beside the optimum."""
    head = (
        f"with N = {count_text(point.params)}, same C:"
        if point.unique_tokens is None
        else f"with at most {count_text(point.unique_tokens)} tokens, same C:"
    )
    times, lost = point.params / best.params, point.loss - best.loss
    return [
        head,
        _row("parameters N", f"{count_text(point.params)}   ({times:.3g} x N*)"),
        _row("tokens D", count_text(point.tokens)),
        _row("tokens per parameter", count_text(point.tokens_per_param)),
        _row(_loss_label(fit), f"{loss_text(point.loss)}   ({lost:+.4f})"),
        _row("compute wasted", f"{waste_text(point.waste)} for the optimum's loss"),
        *(f"  - {remark}" for remark in point.remarks),
    ]


def _accuracy(accuracy: AccuracyAnswer, answer: Answer, fit: Fit) -> list[str]:
    """The accuracy of the optimum, which follows from its loss."""
    if accuracy.value is None:
        head = f"{accuracy.name} of the optimum: {accuracy.verdict}"
        return [head, *(f"  - {reason}" for reason in accuracy.reasons)]

    def write(value: float) -> str:
        return f"{value:.4f}"

    inner = accuracy.ci_noise
    noise = f"   (noise only {_to(inner, write)})" if inner else ""
    return [
        f"{accuracy.name} of the optimum, by its loss: {accuracy.verdict}",
        _row(accuracy.name[:20], write(accuracy.value) + _interval(accuracy.ci, write, fit, noise)),
        *_new(accuracy.reasons, answer),
    ]


def _served(served: Served, best: Optimum, answer: Answer, fit: Fit) -> list[str]:
    """The model that reaches the same loss at the least cost of training and serving."""

    def line(label: str, name: str) -> str:
        value = getattr(served, name)
        times = f"   ({value / getattr(best, name):.3g} x that of the optimum)"
        interval = _interval(served.ci.get(name), count_text, fit)
        return _row(label, count_text(value) + times + interval)

    saved = f"{100 * served.saved:.3g}% less than the optimum"
    lines = [
        f"the same loss at the least cost, with {count_text(served.tokens_served)} tokens served: "
        f"{served.verdict}",
        line("parameters N", "params"),
        line("tokens D", "tokens"),
        _row("tokens per parameter", count_text(served.tokens_per_param)),
        _row("training FLOPs", flops_text(served.flops_training)),
        _row("and serving", f"{flops_text(served.flops_total)}   ({saved})"),
        _row("N within 1% of cost", _to(served.range_1pct, count_text)),
    ]
    if served.size_value is not None:
        lines.append(_row("buildable size value", str(served.size_value)))
    lines += _new(served.reasons, answer)
    total, flops = served.for_total, flops_text(answer.flops)
    if total is None:
        return [*lines, f"{flops} FLOPs do not pay for serving so many tokens"]
    return [
        *lines,
        f"if {flops} FLOPs have to pay for training and serving together:",
        _row("parameters N", count_text(total.params)),
        _row("tokens D", count_text(total.tokens)),
        _row(_loss_label(fit), loss_text(total.loss)),
    ]


def _limited(limited: Limited, answer: Answer, fit: Fit) -> list[str]:
    """The model for few unique tokens, and what their lack costs."""

    def line(label: str, name: str, write: Write = count_text) -> str:
        interval = _interval(limited.ci.get(name), write, fit, " (noise only)")
        return _row(label, write(getattr(limited, name)) + interval)

    worth = (
        f"repeats are counted as fresh data ({limited.source})"
        if limited.form == NONE
        else f"repeats are worth at most R = {limited.R:.3g} passes ({limited.source}"
        f"{', borrowed' if limited.borrowed else f', {limited.form}'})"
    )
    lack = (
        f"{limited.loss - limited.unlimited[2]:+.4f} in loss; with fresh data "
        f"{100 * (1 - limited.wasted):.3g}% of C would do"
    )
    return [
        f"with {count_text(limited.unique_tokens)} unique tokens, same C: {limited.verdict}",
        f"  {worth}",
        line("parameters N", "params"),
        line("tokens D", "tokens"),
        line("passes", "epochs"),
        line(_loss_label(fit), "loss", loss_text),
        _row("lack of data costs", lack),
        *_new(limited.reasons, answer),
    ]


def _new(reasons: list[str], answer: Answer) -> list[str]:
    """Lines of the ``reasons`` that the ``answer`` does not give already."""
    return [f"  - {reason}" for reason in reasons if reason not in answer.reasons]
