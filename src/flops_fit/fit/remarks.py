"""Remarks on a point off the optimum."""

from flops_fit.constants import MOST_EPOCHS
from flops_fit.fit.answer import ChosenPoint, Optimum
from flops_fit.fit.result import Fit
from flops_fit.fit.verdict import untested_run
from flops_fit.notation import count_text

PARABOLA_REACH = 8.0  # factor in N off the optimum up to which a parabola means something


def remarks_on(point: ChosenPoint, best: Optimum, fit: Fit) -> list[str]:
    """What to make of a ``point`` off the optimum ``best`` of ``fit``, one sentence each."""
    remarks = []
    if point.epochs is not None and point.epochs <= 1:
        remarks.append("there are enough tokens: the optimum reads each at most once")
    elif point.epochs is not None and point.unique_tokens is not None:
        tokens = count_text(point.unique_tokens)
        passes = f"the optimum would read {tokens} tokens {point.epochs:.3g} times"
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
        tried = f"{count_text(low)} to {count_text(high)}"
        remarks.append(f"N = {count_text(point.params)} lies outside the sizes tried, {tried}")
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
