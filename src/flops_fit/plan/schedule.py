"""Learning-rate schedules: pure functions of the tokens seen, to be drawn and tested alone."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from flops_fit.constants import TRUNK


def rate_factor(tokens: float, horizon: int, schedule: Mapping) -> float:
    """Factor on the peak learning rate after ``tokens`` of the ``horizon`` D, in target elements.

    ``schedule`` is as `multiplier` or `trunk_factor` takes it; its kind decides which.
    """
    if schedule["kind"] == TRUNK:
        return trunk_factor(tokens, horizon, schedule)
    return multiplier(tokens / horizon, schedule)


def trunk_factor(tokens: float, horizon: int, schedule: Mapping) -> float:
    """Factor on the peak learning rate after ``tokens`` of the ``horizon`` D, on a trunk.

    ``schedule`` holds ``warmup_tokens``, ``cooldown`` (the last fraction of D), ``shape`` (sqrt or
    linear) and ``final`` (the factor reached at D). Before the cooldown the rate does not know D, so
    runs of different D share these steps to the last bit (Hägele et al. 2024, arXiv 2405.18392).
    """
    if tokens < schedule["warmup_tokens"]:
        return tokens / schedule["warmup_tokens"]
    start = cooldown_start(horizon, schedule)
    if tokens <= start:
        return 1.0
    done = min((tokens - start) / (horizon - start), 1.0)
    fallen = math.sqrt(done) if schedule["shape"] == "sqrt" else done
    return schedule["final"] + (1.0 - schedule["final"]) * (1.0 - fallen)


def cooldown_start(horizon: int, schedule: Mapping) -> float:
    """Tokens after which a run of the ``horizon`` D leaves its trunk; ``schedule`` is a trunk's."""
    return (1.0 - schedule["cooldown"]) * horizon


def multiplier(progress: float, schedule: Mapping) -> float:
    """Factor on the peak learning rate after a fraction ``progress`` of the experiment's D tokens.

    ``schedule`` holds ``kind`` (linear, cosine, wsd or constant), ``warmup`` and ``decay``
    (fractions of D) and ``final`` (the factor reached at progress 1). The horizon is D itself, so
    every run ends its own schedule: reading a longer run's intermediate losses as the finals of
    shorter ones biases the law (Hoffmann et al. 2022, appendix B).
    """
    kind, warmup, final = schedule["kind"], schedule["warmup"], schedule["final"]
    if progress < warmup:
        return progress / warmup
    if kind == "constant":
        return 1.0
    start = 1.0 - min(schedule["decay"], 1.0 - warmup) if kind == "wsd" else warmup
    if progress <= start:
        return 1.0
    remaining = (1.0 - min(progress, 1.0)) / (1.0 - start)
    if kind == "cosine":
        remaining = 0.5 * (1.0 - math.cos(math.pi * remaining))
    return final + (1.0 - final) * remaining


def phases(
    steps: int,
    schedule: Mapping[str, Any],
    tokens: int = 0,
    share_of_steps: Callable[[float], float] = lambda share: share,
) -> dict[str, int]:
    """Steps spent in ``warmup``, ``plateau`` and ``decay`` of a run of ``steps`` optimiser steps.

    ``schedule`` as in `rate_factor`; none are known where it is empty, as it is where a user's own
    script decides it. ``tokens`` is D, in which the warm-up of a trunk is counted. ``share_of_steps``
    gives the share of the steps in which the first share of D is trained, which is another one where
    the batch grows.
    """
    if not schedule:
        return {}
    kind = schedule["kind"]
    rising = schedule["warmup_tokens"] / tokens if kind == TRUNK else schedule["warmup"]
    if kind == TRUNK:
        falling = schedule["cooldown"]
    elif kind == "wsd":
        falling = schedule["decay"]
    else:
        falling = 0.0 if kind == "constant" else 1.0
    warmup = min(round(share_of_steps(rising) * steps), steps)
    decay = min(round((1 - share_of_steps(1 - falling)) * steps), steps - warmup)
    return {"warmup": warmup, "plateau": steps - warmup - decay, "decay": decay}
