"""Which gain two planned sweeps can show, before either is paid for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.comparison.judge import FALSE_ALARMS, NO_DIFFERENCE, POWER, Belief, judge
from flops_fit.comparison.models import models_of
from flops_fit.comparison.multiplier import SAME_BUDGET
from flops_fit.comparison.pairs import Arm, joint_draws
from flops_fit.errors import FlopsFitError
from flops_fit.fit.core import fit_runs
from flops_fit.fit.numbers import check_flops
from flops_fit.fit.options import FEWEST_RUNS
from flops_fit.fit.runs import prepare_runs
from flops_fit.notation import flops_text
from flops_fit.rounds.counted import Counted
from flops_fit.rounds.simulate import BEYOND, losses_of
from flops_fit.rounds.truth import Truth

LARGEST = 1000.0  # M that no pair shows
GAINS = (1.05, 1.1, 1.2, 1.5)
OTHER_ARM = 1_000_003  # added to the seed of the noise: that of the two arms is independent


@dataclass(frozen=True)
class Power:
    """What is shown at C = ``flops``, in FLOPs, by pairs of sweeps of equal recipes.

    ``thresholds``: of each simulated pair, the smallest M that it would call better; ``alarms``: the
    share of pairs that are called better or worse.
    """

    flops: float
    thresholds: np.ndarray  # (times,)
    alarms: float

    def of(self, gain: float) -> float:
        """The probability that a candidate that is worth ``gain`` = M is called better."""
        return float((self.thresholds < gain).mean())

    def to_dict(self) -> dict:
        """Plain data: C, false alarms, M shown with a probability of 80%, and the power of some M."""
        return {
            "flops": self.flops,
            "false_alarms": self.alarms,
            "smallest": float(np.quantile(self.thresholds, POWER)),
            "power": {f"{gain:g}": self.of(gain) for gain in GAINS},
        }


def simulate_pair(
    designs: tuple[pd.DataFrame, pd.DataFrame],
    truth: Truth,
    *,
    flops: float | None = None,
    times: int = 20,
    resamples: int = 200,
    seed: int = 0,
    fit_options: tuple[dict, dict] = ({}, {}),
    each: Callable[[], object] = lambda: None,
) -> dict:
    """Simulate two sweeps of equal recipes, compare them, and count which M each pair would show.

    ``designs`` of reference and candidate: one row per run (`flops_fit.rounds.simulate.design_of`).
    ``truth``: the law of both and the noise of a run, independent in the two arms. ``times`` pairs get a
    complete fit, and ``resamples`` for their intervals; ``seed`` is that of the noise; ``fit_options``
    (delta, exclude, method) of either; ``each`` is called after every pair. Answers for the largest
    budget that both have and for ``flops``, by default 10 times it.

    An error of ln M does not depend on M where both arms have the same exponents, so pairs of equal
    recipes show the power for every M. Returns plain data; raises `FlopsFitError` for options that
    cannot be simulated.
    """
    if min(map(len, designs)) < FEWEST_RUNS:
        raise FlopsFitError(f"plan: too few runs; at least {FEWEST_RUNS} in each arm can be fitted")
    if times < 2 or resamples < 2:
        raise FlopsFitError(
            f"fits, resamples: {times}, {resamples}; allowed: whole numbers of at least 2"
        )
    largest = _largest(designs)
    asked = [largest, check_flops(BEYOND * largest if flops is None else flops)]
    losses = [
        losses_of(design, truth, times, seed + k * OTHER_ARM) for k, design in enumerate(designs)
    ]
    pairs = []
    for i in Counted(range(times), each):
        arms = tuple(
            _arm(name, design.assign(loss=side[i]), options)
            for name, design, side, options in zip(
                ("reference", "candidate"), designs, losses, fit_options, strict=True
            )
        )
        pairs.append(_beliefs((arms[0], arms[1]), resamples, asked))
    powers = [_power(c, [beliefs[k] for beliefs in pairs]) for k, c in enumerate(asked)]
    return {
        "runs": [len(design) for design in designs],
        "flops": [float(design["flops"].sum()) for design in designs],
        "law": truth.source,
        "noise": {"sd": truth.noise, "unit": "share of the loss" if truth.relative else "nats"},
        "times": times,
        "answers": [power.to_dict() for power in powers],
    }


def _largest(designs: tuple[pd.DataFrame, pd.DataFrame]) -> float:
    """The largest budget of both, or what both reach where they have none in common."""
    budgets = [sorted(set(design["budget"])) for design in designs]
    shared = [
        c for c in budgets[0] if any(abs(np.log(c / other)) < SAME_BUDGET for other in budgets[1])
    ]
    return float(shared[-1] if shared else min(side[-1] for side in budgets))


def _arm(name: str, frame: pd.DataFrame, options: dict) -> Arm:
    """One simulated sweep and its fit; the resamples are those of the comparison."""
    table = prepare_runs(frame, "plan", outside=False)
    known = {k: v for k, v in options.items() if k in ("delta", "exclude", "method")}
    return Arm.of(name, fit_runs(table, bootstrap=1, sensitivity=False, **known))


def _beliefs(arms: tuple[Arm, Arm], resamples: int, asked: list[float]) -> list[Belief | None]:
    if not all(arm.fit.identified for arm in arms):
        return [None] * len(asked)
    draws = joint_draws(*arms, resamples, np.random.default_rng(0))
    return judge(models_of(*arms, draws), arms, np.log(asked)).beliefs


def _power(flops: float, beliefs: list[Belief | None]) -> Power:
    """What the pairs show; one without an answer shows no M."""
    known = [belief for belief in beliefs if belief is not None]
    thresholds = np.full(len(beliefs), LARGEST)
    ends = [np.exp(-belief.quantile(FALSE_ALARMS / 2)) for belief in known]
    thresholds[: len(known)] = np.minimum(ends, LARGEST)
    alarms = sum(belief.verdict() != NO_DIFFERENCE for belief in known)
    return Power(flops, thresholds, alarms / len(beliefs))


def describe_power(outcome: dict) -> str:
    """The ``outcome`` of `simulate_pair` as text for a terminal."""
    noise = outcome["noise"]
    sd = (
        f"{noise['sd']:.3g} nats"
        if noise["unit"] == "nats"
        else f"{100 * noise['sd']:.2g}% of the loss"
    )
    lines = [
        f"{outcome['runs'][0]} and {outcome['runs'][1]} runs, "
        f"{flops_text(outcome['flops'][0])} and {flops_text(outcome['flops'][1])} FLOPs; "
        f"{outcome['times']} pairs of equal recipes simulated",
        f"law: {outcome['law']}; noise: sd {sd} between runs, independent in the two arms, and no luck "
        "that all runs of a seed share",
    ]
    for answer in outcome["answers"]:
        power = ", ".join(f"M = {gain} {share:.0%}" for gain, share in answer["power"].items())
        least = answer["smallest"]
        shown = f"M = {least:.3g} or more" if least < LARGEST else "no M"
        lines.append(
            f"at {flops_text(answer['flops'])} FLOPs: {shown} is shown with a probability of "
            f"{POWER:.0%}; power: {power}; equal recipes called better or worse: "
            f"{answer['false_alarms']:.0%}"
        )
    return "\n".join(lines)
