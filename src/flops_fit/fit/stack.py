"""The stack: forms of law and weights of runs, averaged by what they have been worth.

`chain` asks every prefix of the budgets for the later ones, and weighs the members by their errors; the
error of the stack itself (weights from earlier budgets only) gives `calibrate` the error of the form.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.chain import (
    REFERENCE,
    Chain,
    chain_of,
    expected_squares,
    shares,
    weigh,
    weigh_runs,
)
from flops_fit.fit.cost import Cost
from flops_fit.fit.estimators import Runs
from flops_fit.fit.forms import POLISHED, BentDesign
from flops_fit.fit.laws import PathLaw, StackLaw, spread
from flops_fit.fit.measure import Groups, Minimum, groups_of, measure
from flops_fit.fit.members import MEMBERS, by_member, fit_members, law_of, resample_members
from flops_fit.fit.paths import WINDOWS, paths
from flops_fit.fit.surface import Data

MOST_NODES = 16  # budgets that take part in the chain
FEWEST_IN_PREFIX = 8  # runs
LEAST_DRAWS = 50
MOST_NOISE = 0.35  # ln N*: a 90% interval of a factor 3


@dataclass(frozen=True)
class Vagueness:
    """How well a stack determines N*: its ``log_n`` = ln N* at ``log_c`` = ln C, give or take ``sd``.

    ``where``: that C, as text.
    """

    sd: float
    log_n: float
    log_c: float
    where: str

    def too_large(self) -> str:
        """Why the stack cannot answer: empty where it can."""
        if self.sd <= MOST_NOISE:
            return ""
        sd = min(self.sd, 1e6)
        return f"the standard error of ln N* at {self.where} is {sd:.2g}, more than {MOST_NOISE:g}"

    def contradicts(self, name: str, log_n: float) -> str:
        """What the stack says against ``log_n`` = ln N* there of the estimator ``name``; else empty."""
        off, known = abs(log_n - self.log_n), ndtri(0.95) * self.sd
        if not off > known:
            return ""
        way = "higher" if log_n > self.log_n else "lower"
        return (
            f"not identifiable: {name} puts N* at {self.where} {_times(off)} times {way} than several "
            f"forms of law together, which know it within a factor of {_times(known)}"
        )


@dataclass(frozen=True)
class Stack:
    """The stack on one table: its law and resamples (None without), its chain, its noise scale.

    ``names`` (K,) of the members; ``scales``: robust scale of ln L of each surface among them.
    """

    names: list[str]
    law: StackLaw
    draws: StackLaw | None  # one row per resample
    chain: Chain
    noise: float
    scales: dict[str, float]
    minima: list[Minimum | None]  # measured at the nodes of the chain

    def vagueness(self, one_budget: bool, cost: Cost) -> "Vagueness":
        """How well the runs determine N*, and where that was looked at.

        ``one_budget``: whether all runs are of one, whose measured minimum then has to be clear; with
        more of them the members' N* a factor of 3 beyond the largest, by their standard errors and by
        the resamples, on ``cost``.
        """
        # Noise counts whole here: one member may be quiet by luck where runs determine nothing.
        expected = expected_squares(self.chain, len(self.chain.at) - 1, "params", self.noise)
        weight, log_c = _exact(shares(expected), self.scales), self.chain.end
        if one_budget:
            minimum = self.minima[-1] if self.minima else None
            sd, where = minimum.se_n if minimum else np.inf, "the one budget"
        else:
            sd = float(weight @ np.nan_to_num(self.chain.reference["params"][:, -1]))
            log_c, where = log_c + REFERENCE, "3 times the largest budget"
        if self.draws is not None:
            each = [spread(law.optimum(log_c, cost)[0]) for law in self.draws.laws]
            sd = max(sd, float(weight @ each))
        return Vagueness(sd, float(self.law.optimum(log_c, cost)[0][0]), log_c, where)


def _times(log_ratio: float) -> str:
    return f"{np.exp(min(log_ratio, 99)):.2g}"


def build(
    runs: Runs, weight: np.ndarray, draws: Draws | None, draw_weight: np.ndarray | None = None
) -> Stack:
    """The stack of ``runs`` of ``weight`` (n,), 0 where left out.

    ``draws`` are refitted by all members at once, as many as make their number in all; exclusions
    inside each come with ``draw_weight`` (R, n).
    """
    data = Data.of(runs.column("params"), runs.column("tokens"), runs.column("loss"))
    design = BentDesign(data.design.x, data.design.y)
    log_c = np.log(runs.column("flops"))
    nodes = _nodes(groups_of(log_c, runs.groups))
    minima = measure(np.log(runs.column("params")), data.log_loss, log_c, nodes, weight)
    masks, at = _prefixes(nodes, log_c, weight)
    fits = fit_members(data, design, log_c, masks)
    count = 0
    if draws is not None:
        count = min(len(draws), max(LEAST_DRAWS, len(draws) // (len(MEMBERS) + len(WINDOWS))))
        draws = draws.first(count)
        draw_weight = draws.weight if draw_weight is None else draw_weight[:count]
    ends = np.array([*(np.log(nodes[i][0]) for i in at[:-1]), log_c.max()])
    lines = paths(runs, weight, ends, draws, draw_weight)
    chain = chain_of(data, design, log_c, masks, at, fits, nodes, minima, runs.cost, lines)
    members = by_member(fits, len(masks))
    scales = {m.name: float(f.scale[-1]) for m, f in zip(MEMBERS, members, strict=True)}
    noise, final = min(scales.values()), len(masks) - 1
    weights = {
        "params": _exact(weigh(chain, final, "params", noise), scales),
        "loss": _exact(weigh(chain, final, "loss", noise), scales),
        "runs": _exact(weigh_runs(chain, final, noise), scales),
    }
    laws = (*(law_of(f.theta[-1:], data) for f in members), *(line.law() for line in lines))
    drawn = None
    if draws is not None and draw_weight is not None:
        again = resample_members(data, design, log_c, weight, fits, draws, draw_weight)
        drawn = StackLaw(
            (*again, *(PathLaw(line.draws) for line in lines if line.draws is not None)), weights
        )
    names = [*(m.name for m in MEMBERS), *(line.name for line in lines)]
    return Stack(names, StackLaw(laws, weights), drawn, chain, noise, scales, minima)


def _nodes(groups: Groups) -> Groups:
    """At most `MOST_NODES` groups, evenly spread and the last among them."""
    if len(groups) <= MOST_NODES:
        return groups
    picked = np.unique(np.linspace(0, len(groups) - 1, MOST_NODES).round().astype(int))
    return [groups[i] for i in picked]


def _prefixes(
    nodes: Groups, log_c: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (J, n) of the runs up to each node that suffices for a fit, the last of them all runs."""
    masks, at = [], []
    for i in range(1, len(nodes) - 1):
        top = log_c[nodes[i][1]].max()
        mask = weight * (log_c <= top + 1e-9)
        if (mask > 0).sum() >= FEWEST_IN_PREFIX:
            masks.append(mask)
            at.append(i)
    return np.array([*masks, weight]), np.array([*at, max(len(nodes) - 1, 0)])


def _exact(weight: np.ndarray, scales: dict[str, float]) -> np.ndarray:
    """All weight to the members that reproduce the runs exactly, where there are any.

    Then no error of a measured minimum can hide that the others do not.
    """
    follows = np.zeros(len(weight))
    follows[: len(scales)] = [scale < POLISHED for scale in scales.values()]
    return weight * follows / (weight @ follows) if weight @ follows > 0 else weight
