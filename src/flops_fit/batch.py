"""The global batch of a run, where it grows with the tokens seen: in whole stages, as integers.

A batch that depends on what was seen so far, and not on D, keeps the first steps of runs of any D
alike, so that these can share them (batch-size warm-up: Merrill et al. 2025, arXiv 2505.23971).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Batches:
    """The global batches of a run, in items.

    ``first`` is the batch of the first step. ``growth`` holds pairs of integers: the item from which on
    the batch is larger, and that batch. Each stage is a whole number of its batches.
    """

    first: int
    growth: Sequence[Sequence[int]] = ()

    @property
    def last(self) -> int:
        """The batch of the last stage, which is the largest."""
        return self.growth[-1][1] if self.growth else self.first

    def mean(self, items: float, steps: int) -> int:
        """The batch of ``items`` items in ``steps`` steps: the mean over these where it grows."""
        return max(1, round(items / steps)) if self.growth else self.first

    def at(self, position: float) -> int:
        """The batch of the step that begins at the item ``position``."""
        batch = self.first
        for start, larger in self.growth:
            if position < start:
                break
            batch = larger
        return batch

    def steps(self, items: float) -> float:
        """The steps that ``items`` items take; the last one counts with its share."""
        stages = [(0, self.first), *self.growth]
        ends = [*(start for start, _ in self.growth), math.inf]
        return sum(
            (min(items, end) - start) / batch
            for (start, batch), end in zip(stages, ends, strict=True)
            if start < items
        )

    def share_of_steps(self, share: float, items: int) -> float:
        """The share of the steps of ``items`` items in which the first ``share`` of these is trained."""
        return self.steps(share * items) / self.steps(items) if self.growth else share

    def floor(self, items: float) -> int:
        """The items at the end of the last step that goes no further than ``items``."""
        start = max((start for start, _ in self.growth if start <= items), default=0)
        batch = self.at(items)
        return start + math.floor((items - start) / batch) * batch

    def nearest(self, items: float) -> int:
        """The items at the end of the step that ends nearest to ``items``."""
        start = max((start for start, _ in self.growth if start <= items), default=0)
        batch = self.at(items)
        return start + round((items - start) / batch) * batch

    def until(self, items: int) -> "Batches":
        """The batches of the first ``items`` items, without stages that begin later."""
        return Batches(self.first, [[*stage] for stage in self.growth if stage[0] < items])


def planned_batches(
    items: float, multiple: int, seen: Mapping[str, float] | None, end: float, per_item: float
) -> Batches:
    """The batches of a run that a rule asks for, rounded to ``multiple`` items.

    The batch is ``items`` items. Where ``seen`` is given, it is that only once ``seen["reference"]``
    tokens were seen, of ``per_item`` an item, and it follows their power ``seen["power"]``. It then
    begins with ``multiple`` items and becomes larger by ``seen["factor"]`` where the power passes the
    geometric mean of two batches. Stages that begin after the item ``end`` may be left out.
    """
    if seen is None:
        return Batches(max(1, round(items / multiple)) * multiple)
    stages = [[0, multiple]]
    while True:
        start, batch = stages[-1]
        larger = max(round(batch * seen["factor"] / multiple) * multiple, batch + multiple)
        try:
            power = (math.sqrt(batch * larger) / items) ** (1 / seen["power"])
        except OverflowError:
            power = math.inf
        passed = seen["reference"] / per_item * power
        if passed >= end + batch or larger > end:
            return Batches(stages[0][1], stages[1:])
        steps = max(round((passed - start) / batch), 0)
        stages[-1:] = [stages[-1]] * (steps > 0) + [[start + steps * batch, larger]]
