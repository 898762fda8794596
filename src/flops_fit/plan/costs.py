"""What sizes of a model cost on the data that they are trained on, in the batches planned for them.

Usually a token costs the same in every batch. Not so where items differ in length, since the longest
of a batch sets its padding, nor where the loss compares items with each other (contrastive losses):
there the planned batch is counted.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import default_collate

from flops_fit.data import Data
from flops_fit.experiment.exact import target_elements
from flops_fit.model_factory import create_model
from flops_fit.plan.counting import CPU_PARAMS, count_sizes
from flops_fit.plan.items import (
    CHUNK,
    Items,
    batch_elements,
    batch_positions,
    batches,
    looking,
    positions_of,
)
from flops_fit.plan.one_pass import ITEMS, draws_when_evaluated
from flops_fit.sweep import ModelCount

SAME_COST = (
    1e-3  # by which an item's FLOPs in the planned batch may differ from those in a small one
)
SHAPES = 4  # batches of different shapes that are counted where items differ in length
SPREAD = 0.1  # of the sizes of batches, relative to their mean, beyond which any four do not do,
APART = 8  # but so many from the smallest to the largest


@dataclass
class Costs:
    """Counts sizes of one model on one kind of data.

    ``model_cls``, ``size_param``, ``kwargs`` and ``loss_fn`` as `count_sizes` takes them;
    ``example``: one item; ``items``: what items bring on average; ``data``: the items themselves,
    None where the data are not there yet. ``coupled``: whether the FLOPs of an item were seen
    to depend on how many share its batch.
    """

    model_cls: Callable[..., nn.Module]
    size_param: str
    kwargs: Mapping[str, Any]
    loss_fn: Callable
    example: tuple[Any, Any]
    items: Items
    data: Data | None = None
    coupled: bool = field(default=False, init=False)
    _depends: bool | None = field(default=None, init=False)
    _known: dict[tuple[Any, int], ModelCount] = field(default_factory=dict, init=False)

    def of(self, sizes: Sequence) -> dict[Any, ModelCount]:
        """The count of every one of ``sizes``, in a small batch."""
        new = [size for size in sizes if (size, 0) not in self._known]
        if new:
            self._known |= {(size, 0): c for size, c in self._count(new, 0).items()}
        return {size: self._known[size, 0] for size in sizes}

    def in_batch(self, size: Any, batch_items: int) -> ModelCount:
        """The count of ``size`` in batches of ``batch_items``, where its cost depends on them."""
        usual = self.of([size])[size]
        if not (self._uneven or self._is_coupled(size)):
            return usual
        if (size, batch_items) not in self._known:
            self._known[size, batch_items] = self._count([size], batch_items)[size]
        count = self._known[size, batch_items]
        change = abs(count.flops_per_token / usual.flops_per_token - 1)
        self.coupled = self.coupled or (change > SAME_COST and not self._uneven)
        return count

    def draws_when_evaluated(self) -> bool:
        """Whether the smallest size that was counted, or the loss, draws at random in evaluation."""
        size = min(size for size, _ in self._known)
        small = self._known[size, 0].params_total <= CPU_PARAMS
        batch = self.collate([self.example] * ITEMS)
        return draws_when_evaluated(
            lambda: create_model(self.model_cls, self.size_param, size, self.kwargs),
            batch,
            self.loss_fn,
            ("meta", "cpu") if small else ("meta",),
        )

    def warnings(self) -> list[str]:
        """What was assumed of the items, and of a loss that compares them."""
        if not self.coupled:
            return self.items.warnings()
        return [
            *self.items.warnings(),
            "loss: an item costs more or less FLOPs in a larger batch, as where a loss compares the "
            "items of a batch (contrastive losses) or a weight is computed once per batch: FLOPs are "
            "those of the planned batch. A loss that compares items is no mean over items: its value "
            "depends on the batch, so compare runs of one batch size only, and do not split a batch "
            "(resources.micro_batch_items, resources.processes)",
        ]

    @property
    def collate(self) -> Callable:
        """The function that makes a batch of a list of items."""
        return default_collate if self.data is None else self.data.collate

    @property
    def _uneven(self) -> bool:
        return self.items.uneven and self.data is not None

    def _is_coupled(self, size: Any) -> bool:
        """Whether 4 items cost other than twice as much as 2: looked at once, at the first size."""
        if self._depends is None:
            two, four = self.of([size])[size], self._count_example([size], 2 * ITEMS)[size]
            self._depends = not math.isclose(
                two.flops_per_token, four.flops_per_token, rel_tol=1e-9
            )
        return self._depends

    def _count(self, sizes: Sequence, batch_items: int) -> dict[Any, ModelCount]:
        if self.data is not None and self._uneven:
            return self._count_batches(self.data, sizes, batch_items or CHUNK)
        return self._count_example(sizes, batch_items or ITEMS)

    def _count_example(self, sizes: Sequence, batch_items: int) -> dict[Any, ModelCount]:
        """Counts on copies of the example, per kept target."""
        counts = count_sizes(
            self.model_cls,
            self.size_param,
            sizes,
            self.kwargs,
            self.example,
            self.loss_fn,
            self.items.tokens,
            self.collate,
            batch_items,
        )
        if self.items.ordinary:
            return counts
        full = target_elements(self.example[1], self.loss_fn) / self.items.tokens
        longer = 1.0
        if self.data is None:
            longer = self.items.positions / positions_of(self.example[0])
        per_target = {}
        for size, count in counts.items():
            share = (
                full if count.method == "model" else 1.0
            )  # a model's flops_per_token() is per target
            per_target[size] = replace(
                count,
                flops_per_token=count.flops_per_token * share * longer,
                activation_bytes=count.activation_bytes * longer,
            )
        return {
            size: self._with_position(c, self.items.positions) for size, c in per_target.items()
        }

    def _count_batches(
        self, data: Data, sizes: Sequence, batch_items: int
    ) -> dict[Any, ModelCount]:
        """Counts on real batches of several shapes, per kept target."""
        sizes_of_batches = batch_positions(data, batch_items)
        positions = sum(p for p, _ in sizes_of_batches) / sum(
            items for _, items in sizes_of_batches
        )
        batch_flops, kept_bytes = dict.fromkeys(sizes, 0.0), dict.fromkeys(sizes, 0.0)
        counted = typical_batches(data, batch_items, [p for p, _ in sizes_of_batches])
        for inputs, targets, items in counted:
            counts = count_sizes(
                self.model_cls,
                self.size_param,
                sizes,
                self.kwargs,
                (inputs, targets),
                self.loss_fn,
                1.0,
                operator.itemgetter(0),
                items,
            )
            elements = batch_elements(targets, self.loss_fn)
            for size, count in counts.items():
                batch_flops[size] += count.flops_per_token * (
                    elements if count.method == "model" else items
                )
                kept_bytes[size] += count.activation_bytes * items
        per_kept = positions / self.items.tokens / sum(positions_of(b[0]) for b in counted)
        per_token = {
            size: replace(
                counts[size],
                flops_per_token=batch_flops[size] * per_kept,
                activation_bytes=kept_bytes[size] * per_kept,
            )
            for size in sizes
        }
        return {size: self._with_position(c, positions) for size, c in per_token.items()}

    def _with_position(self, count: ModelCount, positions: float) -> ModelCount:
        per_position = count.flops_per_token * self.items.tokens / positions
        return replace(count, flops_per_position=per_position)


def typical_batches(data: Data, batch_items: int, positions: Sequence[int]) -> list[tuple]:
    """Up to `SHAPES` batches, of different shapes, that stand for those whose ``positions`` are given.

    They are batches of ``batch_items`` items of ``data``. Where batches differ much, as those of few
    items do, they are `APART`, at even places from the smallest batch to the largest: the first ones
    could all be small, or all large.
    """
    with looking():
        if np.std(positions) <= SPREAD * np.mean(positions):
            shapes = {positions_of(b[0]): b for b in batches(data, batch_items, 2 * SHAPES)}
            return list(shapes.values())[:SHAPES]
        order = np.argsort(positions, kind="stable")
        places = order[(2 * np.arange(APART) + 1) * len(order) // (2 * APART)].tolist()
        made = enumerate(batches(data, batch_items, max(places) + 1))
        return [batch for place, batch in made if place in places]
