"""What a comparison says in sentences."""

from collections.abc import Sequence

from flops_fit.comparison.judge import BETTER, CANNOT_TELL, NO_DIFFERENCE, WORSE
from flops_fit.comparison.result import Crossing, Row
from flops_fit.fit.verdict import ROUNDED
from flops_fit.notation import flops_text


def factor(value: float) -> str:
    """``value``, a multiplier, with three significant digits: 1.13, 0.885, 12.4."""
    return f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def row_text(row: Row, names: tuple[str, str], level: float) -> str:
    """One sentence on ``row``: what M says of the candidate.

    ``names`` of reference and candidate; ``level`` of the interval.
    """
    reference, candidate = names
    at = f"at {flops_text(row.flops)} FLOPs"
    if row.verdict == CANNOT_TELL:
        why = "; ".join(row.reasons)
        return f"Whether {candidate} is better {at} cannot be told: {why}."
    assert row.multiplier is not None
    assert row.ci is not None
    assert row.smallest is not None
    ends = f"[{factor(row.ci[0])}, {factor(row.ci[1])}]"
    if row.verdict == BETTER:
        return (
            f"{candidate} is better {at}: {reference} needs {factor(row.multiplier)} times the "
            f"compute {ends} for the same loss."
        )
    if row.verdict == WORSE:
        return (
            f"{candidate} is worse {at}: {reference} needs only {factor(row.multiplier)} times the "
            f"compute {ends} for the same loss."
        )
    interval = f"{ends} ({100 * level:g}% interval)"
    return (
        f"No difference between {candidate} and {reference} is shown {at}: "
        f"M = {factor(row.multiplier)} {interval}. These sweeps would have shown "
        f"M = {factor(row.smallest)} or more with a probability of 80%."
    )


def headline_of(rows: Sequence[Row], names: tuple[str, str]) -> str:
    """What ``rows`` say of the candidate at the largest C within the data, without its interval.

    ``names`` of reference and candidate.
    """
    reference, candidate = names
    inside = [row for row in rows if row.beyond_data <= ROUNDED] or rows
    row = inside[-1]
    at = f"at {flops_text(row.flops)} FLOPs"
    if row.verdict == CANNOT_TELL or row.multiplier is None:
        return f"Whether {candidate} is better than {reference} {at} cannot be told"
    if row.verdict == NO_DIFFERENCE:
        return f"No difference between {candidate} and {reference} is shown {at}"
    only = "only " if row.verdict == WORSE else ""
    return (
        f"{candidate} is {row.verdict} than {reference} {at}: {reference} needs {only}"
        f"{factor(row.multiplier)} times the compute for the same loss"
    )


def crossing_text(
    flops: float | None,
    ci: Sequence[float | None] | None,
    span: Sequence[float],
    excluded: bool = False,
) -> str:
    """Where M is 1, as a sentence: at ``flops``, within ``ci``, searched over ``span`` (all FLOPs).

    ``excluded``: where there is no crossing, whether the interval of M leaves none anywhere.
    """
    low, high = (flops_text(c) for c in span)
    if flops is None:
        text = f"Crossing of the two frontiers: none within the range, {low} to {high} FLOPs"
        return f"{text}." if excluded else f"{text}, but the interval of M does not exclude one."
    text = f"The two frontiers cross at {flops_text(flops)} FLOPs"
    if ci is None:
        return f"{text}."
    if ci[0] is None and ci[1] is None:
        return f"{text}, but its interval covers the whole range, {low} to {high} FLOPs."
    first = f"below {low}" if ci[0] is None else flops_text(ci[0])
    last = f"beyond {high}" if ci[1] is None else flops_text(ci[1])
    return f"{text}, with an interval from {first} to {last} FLOPs."


def summary_of(
    rows: list[Row], crossing: Crossing, names: tuple[str, str], changed: list[str], level: float
) -> list[str]:
    """The answer in a few sentences: at the largest C within the data, beyond it, and the crossing.

    ``rows`` and ``crossing`` of the comparison of ``names`` (reference, candidate), whose intervals
    have the ``level``; ``changed``: the config keys in which the arms differ.
    """
    sentences = []
    if len(changed) == 1:
        sentences.append(f"The two arms differ in one key of their config, {changed[0]}.")
    inside = [row for row in rows if row.beyond_data <= ROUNDED]
    beyond = [row for row in rows if row.beyond_data > ROUNDED]
    chosen = [*inside[-1:], *beyond[-1:]]
    sentences += [row_text(row, names, level) for row in chosen]
    if any(row.verdict in (BETTER, WORSE, NO_DIFFERENCE) for row in rows):
        sentences.append(crossing.text)
    return sentences
