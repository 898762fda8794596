"""The remaining time of a sweep: start-up, steps and FLOPs are told apart, from the largest runs on."""

import pytest

from flops_fit.jobs.time_left import Timed, seconds_left
from flops_fit.plan.price import START_UP, Rate

GUESS = Rate(1e10, 0.006, "a guess")


def played(works, start, per_flop, per_step, slots):
    """The runs of ``works`` (FLOPs, steps) as they end on so many ``slots``, first come first served."""
    free, runs = [0.0] * slots, []
    for flops, steps in works:
        slot = free.index(min(free))
        seconds = per_flop * flops + per_step * steps
        free[slot] += start + seconds
        runs.append(Timed(flops, steps, seconds, free[slot]))
    return sorted(runs, key=lambda run: run.ended)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("known", [8, 12, 20])
def test_the_time_of_short_runs_follows_from_long_ones(slots, known):
    works = [(1e12 / 1.3**i, 2000 - 60 * (i % 7)) for i in range(24)]
    runs = played(works, start=5.0, per_flop=1e-11, per_step=0.002, slots=slots)
    done, rest = runs[:known], runs[known:]
    now = done[-1].ended
    at_work = [now - (run.began - 5.0) for run in rest if run.began - 5.0 < now]
    left = [
        (run.flops * share, run.steps * share, share == 1)
        for run in rest
        for share in [min(1.0, (run.ended - now) / (run.ended - run.began))]
    ]
    real = runs[-1].ended - now  # the last runs leave slots free, the more the more there are
    assert seconds_left(done, left, at_work, GUESS) == pytest.approx(real, rel=0.1 * slots)


def test_runs_alike_in_flops_per_step_take_what_such_runs_took():
    done = [Timed(1e10, 100, 8.0, 10.0), Timed(2e10, 200, 16.0, 40.0)]
    gap = (40.0 - 16.0) - 10.0
    assert seconds_left(done, [(5e9, 50, True)], [], GUESS) == pytest.approx(gap + 4.0)


def test_one_finished_run_divides_its_time_as_the_guess_does():
    done = [Timed(1e11, 1000, 32.0, 100.0)]  # expected: 10 s of FLOPs and 6 s of steps, twice that
    assert seconds_left(done, [(0.0, 1000, True)], [], GUESS) == pytest.approx(START_UP + 12.0)
    assert seconds_left(done, [(1e11, 0, True)], [], GUESS) == pytest.approx(START_UP + 20.0)
