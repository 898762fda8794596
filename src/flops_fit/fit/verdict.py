"""trust, provisional or not identifiable, and the reasons.

*Trust* is a promise about the decision: the advised size costs at most 5% more compute than the best
one, with a probability of 90% or more. Reasons about what the runs are forbid it whatever the
probability.
"""

from flops_fit.constants import MOST_EPOCHS

PROMISED = 0.90  # probability that the advised size costs at most 5% more compute than the best
FAR = 10.0  # beyond the data by more than this: provisional at best
GUESS = 1000.0  # beyond by more than this, no interval means anything
NARROW = 2.0  # span of C below which the runs are those of one budget
ELSEWHERE = 1.1  # factor in C beyond which such runs say nothing
DECADE = 10.0  # budgets within this factor of the largest have to show minima
RANKS = ("not identifiable", "provisional", "trust")


def judge(fit: dict, flops: float, ci: dict, promise: float | None) -> tuple[str, list[str]]:
    """The verdict on the answer at C, and the reasons that hold it down."""
    headline = fit["headline"]
    unknown = unanswerable(fit, flops)
    if unknown:
        return "not identifiable", [unknown]
    reasons = [*_distance(fit, flops), *_runs(fit)]
    if fit["status"] == "at_bound":
        reasons.append(headline["reason"])
    if not ci:
        reasons.append("no intervals: fitted with --bootstrap 0")
    elif fit["stack"] is None:
        reasons.append(
            f"the interval holds noise alone: it comes from one estimator, {headline['method']}"
        )
    elif promise is not None and promise < PROMISED:
        reasons.append(
            f"the advised size costs at most 5% more compute than the best one with a probability of "
            f"{promise:.0%}; trust takes {PROMISED:.0%}"
        )
    reasons += headline["warnings"]
    return ("provisional" if reasons else "trust"), reasons


def unanswerable(fit: dict, flops: float) -> str:
    """Why there is no answer at C at all; empty where there is one."""
    if fit["status"] == "not_identifiable":
        return fit["headline"]["reason"].removeprefix("not identifiable: ")
    low, high = fit["data"]["flops"]
    if high / low < NARROW and not low / ELSEWHERE <= flops <= high * ELSEWHERE:
        return (
            f"all runs cost {low:.3g} to {high:.3g} FLOPs: one budget has an optimum, and says nothing "
            "of others"
        )
    return ""


def _distance(fit: dict, flops: float) -> list[str]:
    """Reasons from how far beyond the data the question lies, and whether that was ever tested."""
    reasons, beyond = [], flops / fit["data"]["largest_budget"]
    if beyond > FAR * 1.01:  # whole batches leave a budget a little beside its name
        reasons.append(f"{beyond:.3g}x beyond the largest budget of the data")
    if beyond > GUESS:
        reasons.append("so far beyond the data that every number here is a guess")
    stack = fit["stack"]
    tested = stack["tests"]["params"] if stack else fit["heldout"]["levels"]
    if beyond > 1.01 and not tested:
        reasons.append("beyond the data and untested: no budget could be left out and predicted")
    return reasons


def _runs(fit: dict) -> list[str]:
    """Reasons about what the runs are."""
    reasons, data = [], fit["data"]
    span = data["flops"][1] / data["flops"][0]
    if span < NARROW:
        reasons.append(
            f"the runs span a factor {span:.2g} in compute, too little to see a trend in it"
        )
    most = data.get("most_epochs")
    if most and most > MOST_EPOCHS:
        reasons.append(
            f"runs read their data up to {most:.2g} times: beyond {MOST_EPOCHS:g} passes repeated data "
            "are worth less than fresh"
        )
    if fit["isoflop"]["shared"]:
        budgets = fit["isoflop"]["budgets"]
        near = [b for b in budgets if b["flops"] * DECADE >= budgets[-1]["flops"]]
        edge = [b for b in near if b["status"] != "bracketed"]
        if edge and (edge[-1] is budgets[-1] or len(edge) > len(near) / 2):
            what = ", ".join(f"{b['flops']:.3g} ({b['status']})" for b in edge)
            reasons.append(f"budgets without a bracketed minimum: {what}")
    return reasons
