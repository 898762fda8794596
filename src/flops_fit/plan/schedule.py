"""Learning-rate schedules: pure functions of the tokens seen, to be drawn and tested alone."""

import math
from collections.abc import Mapping


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


def phases(steps: int, schedule: Mapping) -> dict[str, int]:
    """Steps spent in ``warmup``, ``plateau`` and ``decay`` of a run of ``steps`` optimiser steps.

    ``schedule`` as in `multiplier`; none are known where it is empty, as it is where a user's own
    script decides it.
    """
    if not schedule:
        return {}
    warmup = round(schedule["warmup"] * steps)
    if schedule["kind"] == "constant":
        decay = 0
    elif schedule["kind"] == "wsd":
        decay = min(round(schedule["decay"] * steps), steps - warmup)
    else:
        decay = steps - warmup
    return {"warmup": warmup, "plateau": steps - warmup - decay, "decay": decay}
