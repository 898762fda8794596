"""The answer of `predict` as text for a terminal, and remarks on a chosen point."""

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.answer import Answer, ChosenPoint, Optimum
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import untested_run

PARABOLA_REACH = 8.0  # factor in N off the optimum up to which a parabola means something


def remarks_on(point: ChosenPoint, best: Optimum, fit: Fit) -> list[str]:
    """What to make of a ``point`` off the optimum ``best`` of ``fit``, one sentence each."""
    remarks = []
    if point.epochs is not None and point.epochs <= 1:
        remarks.append("there are enough tokens: the optimum reads each at most once")
    elif point.epochs is not None:
        passes = f"the optimum would read {point.unique_tokens:.4g} tokens {point.epochs:.3g} times"
        remarks.append(
            f"{passes}; up to {MOST_EPOCHS:g} passes are nearly as good as fresh data "
            "(Muennighoff et al. 2023), so its N and loss remain valid"
            if point.epochs <= MOST_EPOCHS
            else f"{passes}, and beyond {MOST_EPOCHS:g} passes repeated data lose their value "
            "(Muennighoff et al. 2023): its loss is then out of reach"
        )
        remarks.append("the numbers here are for a larger model that reads every token once")
    factor = point.params / best.params
    low, high = fit.data.params
    if not low <= point.params <= high:
        remarks.append(
            f"N = {point.params:.4g} lies outside the sizes tried, {low:.4g} to {high:.4g}"
        )
    if untested := untested_run(fit, best.flops, point.tokens_per_param):
        remarks.append(untested)
    method = fit.headline.method
    parabola = method not in ("stack", "surface", "tied", "fixed_e")
    if parabola and not 1 / PARABOLA_REACH < factor < PARABOLA_REACH:
        remarks.append(
            f"{factor:.3g} times N* is too far for the parabola behind {method}; its loss and waste "
            "are no more than an order of magnitude"
        )
    return remarks


def describe(answer: Answer, fit: Fit) -> str:
    """The ``answer`` that `predict` gave for ``fit``, as a few readable lines for a terminal."""
    best, near, wide = answer.optimum, answer.range_1pct, answer.range_5pct
    if best is None or near is None or wide is None:
        return "\n".join(_unanswered(answer, fit))
    unit = fit.data.loss_unit
    level = f"{100 * fit.bootstrap.level:.0f}%"

    def line(label: str, name: str, form: str = ".4g") -> str:
        text = f"  {label:<22}{getattr(best, name):{form}}"
        if name in best.ci:
            ends, noise = best.ci[name], best.ci_noise[name]
            text += f"   {level} interval {ends[0]:{form}} to {ends[1]:{form}}"
            if noise != ends:
                text += f"   (noise only {noise[0]:{form}} to {noise[1]:{form}})"
        return text

    lines = [
        f"C = {answer.flops:.4g} FLOPs, by {answer.method}: {answer.verdict}",
        line("parameters N*", "params"),
        line("tokens D*", "tokens"),
        line("tokens per parameter", "tokens_per_param", ".3g"),
        line(f"loss ({unit})", "loss", ".4f"),
        f"  N within 1% of compute {near[0]:.4g} to {near[1]:.4g}",
        f"  N within 5% of compute {wide[0]:.4g} to {wide[1]:.4g}",
    ]
    if answer.promise is not None:
        lines.append(f"  at most 5% wasted     with a probability of {answer.promise:.0%}")
    if len(answer.estimators) > 1:
        each = ", ".join(f"{name} {value:.4g}" for name, value in answer.estimators.items())
        lines.append(f"  N* by estimator       {each}")
    if answer.size_value is not None:
        lines.append(f"  buildable size value  {answer.size_value}")
    wasted = ", ".join(f"N* x {r.factor:g}: {waste_text(r.waste)}" for r in answer.regret)
    lines.append(f"  compute wasted at     {wasted}")
    lines.append(f"  C / largest budget    {answer.beyond_data:.3g}")
    lines += [f"  - {reason}" for reason in answer.reasons]
    if answer.config:
        lines += ["in a config:", *(f"  {text}" for text in answer.config.splitlines())]
    if answer.chosen:
        lines += _describe_point(answer.chosen, best, unit)
    return "\n".join(lines)


def _unanswered(answer: Answer, fit: Fit) -> list[str]:
    """The lines of an answer without numbers, and of the one axis that the runs support."""
    lines = [
        f"C = {answer.flops:.4g} FLOPs: not identifiable",
        *(f"  - {reason}" for reason in answer.reasons),
    ]
    axis = answer.axis
    if not axis or axis.E is None:
        return lines
    symbol = {"params": "N", "tokens": "D", "flops": "C"}[axis.x]
    lines += [
        "what these runs do support, along their one axis:",
        f"  L = {axis.E:.4f} + {axis.A:.4g} / {symbol}^{axis.alpha:.3f}",
        f"  loss ({fit.data.loss_unit})".ljust(24) + f"{axis.loss:.4f} at {symbol} = "
        f"{axis.at:.4g}: {axis.verdict}",
    ]
    if axis.ci:
        level = f"{100 * fit.bootstrap.level:.0f}%"
        lines[-1] += f"   {level} interval {axis.ci[0]:.4f} to {axis.ci[1]:.4f} (noise only)"
    return lines


def waste_text(waste: float | None) -> str:
    """Extra compute ``waste``, a share of C, as text such as +14%; None: no compute is enough."""
    if waste is None:
        return "no compute is enough"
    return f"+{100 * waste:.3g}%" if waste < 10 else f"x {1 + waste:.3g}"


def _describe_point(point: ChosenPoint, best: Optimum, unit: str) -> list[str]:
    head = (
        f"with N = {point.params:.4g}, same C:"
        if point.asked == "params"
        else f"with at most {point.unique_tokens:.4g} tokens, same C:"
    )
    return [
        head,
        f"  parameters N          {point.params:.4g}   ({point.params / best.params:.3g} x N*)",
        f"  tokens D              {point.tokens:.4g}",
        f"  tokens per parameter  {point.tokens_per_param:.3g}",
        f"  loss ({unit})".ljust(24) + f"{point.loss:.4f}   ({point.loss - best.loss:+.4f})",
        f"  compute wasted        {waste_text(point.waste)} for the optimum's loss",
        *(f"  - {remark}" for remark in point.remarks),
    ]
