"""The remaining wall time of a sweep, from the runs that have ended.

A job takes some time before its first step, and then time for each step and each FLOP. All three are
estimated, because a sweep starts with its longest runs: their speed alone would forget the start-up,
which is most of what the short runs take.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from flops_fit.plan.price import START_UP, Rate


@dataclass(frozen=True)
class Timed:
    """A run that took ``seconds`` for ``flops`` in ``steps``, and ``ended`` then (seconds)."""

    flops: float
    steps: float
    seconds: float
    ended: float

    @property
    def began(self) -> float:
        """When its first step began."""
        return self.ended - self.seconds


def seconds_left(
    finished: Sequence[Timed],
    left: Sequence[tuple[float, float, bool]],
    at_work: Sequence[float],
    guess: Rate,
) -> float:
    """Estimate how many seconds the runs in ``left`` will take.

    ``finished`` are the latest runs that ended, at least one; ``left`` has the FLOPs and the steps of
    every other run, as far as they are not done yet, and whether it has to start first; ``at_work``
    has the seconds for which each of the jobs at work has run. ``guess`` divides the time between
    FLOPs and steps where the runs cannot.
    """
    start = _start_up(finished)
    per_flop, per_step = _speed(finished, guess)
    work = sum(
        per_flop * flops + per_step * steps + (start if starts else 0.0)
        for flops, steps, starts in left
    )
    return work / _side_by_side(finished, at_work, start)


def _start_up(finished: Sequence[Timed]) -> float:
    """The median time from the end of a job to the first step of the job that took its place."""
    gaps = []
    for run in finished:
        before = [other.ended for other in finished if other.ended <= run.began]
        if before:
            gaps.append(run.began - max(before))
    return statistics.median(gaps) if gaps else START_UP


def _speed(finished: Sequence[Timed], guess: Rate) -> tuple[float, float]:
    """Seconds for a FLOP and for a step: the least squares of relative errors, neither below zero."""
    rows = [(run.flops / run.seconds, run.steps / run.seconds) for run in finished if run.seconds]
    if not rows:
        return 1 / guess.flops_per_second, guess.step_seconds
    xx, yy = sum(x * x for x, _ in rows), sum(y * y for _, y in rows)
    xy, x, y = sum(x * y for x, y in rows), sum(x for x, _ in rows), sum(y for _, y in rows)
    determinant = xx * yy - xy * xy
    if determinant <= 1e-6 * xx * yy:  # all runs have the same FLOPs per step
        expected = [u / guess.flops_per_second + v * guess.step_seconds for u, v in rows]
        factor = sum(expected) / sum(e * e for e in expected)
        return factor / guess.flops_per_second, factor * guess.step_seconds
    both = (x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant
    if min(both) >= 0:
        return both
    one_alone = (x / xx, 0.0), (0.0, y / yy)
    return min(one_alone, key=lambda s: sum((s[0] * u + s[1] * v - 1) ** 2 for u, v in rows))


def _side_by_side(finished: Sequence[Timed], at_work: Sequence[float], start: float) -> float:
    """How many jobs have run at a time since the first of the ``finished`` ones began."""
    span = max(run.ended for run in finished) - min(run.began for run in finished) + start
    busy = sum(run.seconds + start for run in finished) + sum(min(s, span) for s in at_work)
    return max(busy / max(span, 1e-9), len(at_work), 1.0)
