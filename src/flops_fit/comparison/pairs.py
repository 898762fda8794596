"""Joint resamples of two arms: a run of one goes with its counterpart in the other.

Runs of the same budget, size and seed share the order of their data, and often their first weights,
so part of their noise is common and cancels in the difference. A resample that draws both together
keeps that.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.comparison.multiplier import SAME_BUDGET
from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Runs
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import budget_groups

# Share of the runs of the smaller arm that need counterparts, else each arm is drawn alone
ENOUGH = 0.5


@dataclass(frozen=True, eq=False)
class Arm:
    """One side: its ``name``, its ``fit``, and the ``runs`` as fitted."""

    name: str
    fit: Fit
    runs: Runs

    @classmethod
    def of(cls, name: str, fit: Fit) -> "Arm":
        """The arm ``name``, whose runs are the table that ``fit`` keeps."""
        frame = pd.DataFrame(fit.table.columns)
        return cls(name, fit, Runs(frame, budget_groups(frame)[0], fit.cost))


def labels_of(arm: Arm, other: Arm) -> list[tuple]:
    """(budget, size, seed, how many before) of each run of ``arm``, the same for its counterpart.

    Budgets within 3% of one of the ``other`` arm take its value. Sizes are the values of the size
    parameter where both arms know them, else N to three digits. Runs of no budget have the budget 0.
    """
    budget = np.zeros(len(arm.runs))
    theirs = [c for c, _ in other.runs.groups]
    for flops, rows in arm.runs.groups:
        near = [c for c in theirs if abs(np.log(c / flops)) < SAME_BUDGET]
        budget[rows] = near[0] if near else flops
    named = all(s.size is not None for s in (*arm.fit.sizes, *other.fit.sizes))
    values = {s.params: s.size for s in arm.fit.sizes}
    params = arm.runs.column("params")
    sizes = [str(values.get(n)) if named else f"{n:.2e}" for n in params]
    frame = arm.runs.frame
    seeds = frame["seed"].astype(str) if "seed" in frame else ["0"] * len(frame)
    seen: Counter = Counter()
    labels = []
    for key in zip(budget.tolist(), sizes, seeds, strict=True):
        labels.append((*key, seen[key]))
        seen[key] += 1
    return labels


def pairs_of(reference: Arm, candidate: Arm) -> int:
    """How many runs of ``reference`` have a counterpart in ``candidate``."""
    return len({*labels_of(reference, candidate)} & {*labels_of(candidate, reference)})


def joint_draws(
    reference: Arm,
    candidate: Arm,
    resamples: int,
    generator: np.random.Generator,
    paired: bool = True,
) -> tuple[Draws, Draws]:
    """R = ``resamples`` draws of the runs of ``reference`` and of ``candidate``, by ``generator``.

    Both in the unit of their fits (runs within budgets where these differ); row i of one goes with
    row i of the other. ``paired`` False, or too few counterparts, draws each arm alone.
    """
    labels = [labels_of(reference, candidate), labels_of(candidate, reference)]
    common = len({*labels[0]} & {*labels[1]})
    units = {reference.fit.bootstrap.unit, candidate.fit.bootstrap.unit}
    unit = units.pop() if len(units) == 1 else "runs"
    if not paired or common < ENOUGH * min(map(len, labels)):
        labels = [[(k, *label) for label in side] for k, side in enumerate(labels)]
    else:
        labels = [[(0, *label) for label in side] for side in labels]
    units_of = {"runs": lambda v: v, "wild": lambda v: v, "groups": lambda v: (v[0], v[2], v[3])}
    keys = [[units_of[unit](label) for label in side] for side in labels]
    known = {key: i for i, key in enumerate(dict.fromkeys([*keys[0], *keys[1]]))}
    at = [np.array([known[key] for key in side]) for side in keys]
    if unit == "wild":
        sign = generator.integers(0, 2, size=(resamples, len(known))) * 2.0 - 1.0
        first, second = (Draws(unit, np.ones((resamples, len(i))), sign[:, i]) for i in at)
        return first, second
    strata: dict[tuple, list[int]] = {}
    for key, i in known.items():
        strata.setdefault(key[:2] if unit == "runs" else key[:1], []).append(i)
    counts = np.zeros((resamples, len(known)))
    for members in strata.values():
        k = len(members)
        counts[:, members] = generator.multinomial(k, np.full(k, 1 / k), size=resamples)
    return Draws(unit, counts[:, at[0]]), Draws(unit, counts[:, at[1]])
