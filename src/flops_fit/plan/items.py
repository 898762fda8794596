"""What an item of the data brings: targets that are kept, and positions that the model works on.

A target that the loss ignores (masking, padding) is no token, but the model works on its position
all the same; and where items differ in length, no single one stands for the rest. Both are measured
over the data, so that batches, steps and FLOPs are planned with what items bring on average.
"""

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from flops_fit.data import Data, as_pair, first_item, leaves_of
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.exact import target_elements
from flops_fit.loss import count_per_item
from flops_fit.plugins.resolve import one_line
from flops_fit.plugins.watch import unwatched

FEW, MOST = 512, 65_536  # items that are looked at: where all are alike, and at most
PRECISION = 0.005  # relative standard error of the means, where not all items are looked at
TOLERANCE = 0.02  # by which what a plan expects of the data may differ from what they hold
SECONDS = 20.0  # for which a stream is read to see whether it ends
SAMPLE = 4096  # items that are kept of a stream that reads once
CHUNK = 32  # items that are collated at a time
BATCHES = 64  # of the planned size, whose positions are counted

Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Items:
    """What the items of a dataset bring on average.

    ``tokens``: target elements of an item that are kept. ``ignored``: whether that differs between
    items, or some targets are ignored. ``positions``: elements of the inputs of an item, padding
    included. ``uneven``: whether those differ between items, so that they depend on the batch.
    ``looked_at``: how many items were. ``unique``: how many there are (None: unknown, or endless).
    ``repeatable``: whether an item that is read again under the same seeds is the same.
    """

    tokens: float
    positions: float
    ignored: bool = False
    uneven: bool = False
    looked_at: int = 0
    unique: int | None = None
    repeatable: bool = True

    @property
    def ordinary(self) -> bool:
        """Whether every item brings the same, and no target is ignored."""
        return not (self.ignored or self.uneven)

    def warnings(self) -> list[str]:
        """What a plan assumes of the items, as sentences; none where all are alike."""
        unseen = []
        if self.looked_at and not self.positions:
            unseen.append(
                "dataset: no tensors are seen in the inputs, so items of different sizes are counted as "
                "if all were like the first; let the inputs be tensors, or a tuple, dict or dataclass"
            )
        if self.ordinary:
            return unseen
        basis = f"measured over {self.looked_at} items" if self.looked_at else "as stated"
        sentences = [
            f"dataset: an item brings {self.tokens:g} kept targets and {self.positions:g} input "
            f"elements on average ({basis}): batches, steps and D are planned with that, and FLOPs "
            "are those of every position that the model works on, ignored and padded ones included; "
            "a run's record has what it really spent"
        ]
        if not self.repeatable:
            sentences.append(
                "dataset: items differ each time they are read, whatever the seeds of torch, NumPy "
                "and Python, so a new plan may be another sweep; state dataset.per_item"
            )
        return [*unseen, *sentences]


def measure_items(data: Data, loss_fn: Callable) -> Items:
    """What the items of ``data`` bring under ``loss_fn``.

    The first look is at `FEW` items, spread over the data. Where these are not all alike, more are
    read until the means are known within `PRECISION`: at most all of them, or `MOST`. Of a stream
    the first ones are read. Torch, NumPy and Python draw the same in each measurement. Raises
    `FlopsFitError` where items make no batch, or where no target is kept.
    """
    full = target_elements(first_item(data)[1], loss_fn)
    look = _Look.at(data, loss_fn, FEW)
    while not (look.alike(full) and look.level) and not look.is_precise and look.more:
        look = _Look.at(data, loss_fn, min(2 * look.asked, MOST))
    if not any(look.kept):
        raise FlopsFitError(
            f"dataset: the loss ignores every target of {len(look.kept)} items; allowed: items that "
            "keep some"
        )
    exact = look.unique == len(look.kept)
    alike = look.alike(full)
    return Items(
        tokens=full if alike else _rounded(look.kept, exact),
        positions=_rounded(look.positions, look.level),
        ignored=not alike,
        uneven=not look.level,
        looked_at=len(look.kept),
        unique=look.unique,
        repeatable=alike or _repeats(data, loss_fn),
    )


class Kept(list):
    """The first items of a stream that reads once; ``ended``: they are all of it."""

    ended = False


def kept_sample(data: Data) -> Data:
    """The first items of a stream that reads once, as a list; any other data as they are."""
    if not (data.is_stream and data.read_once):
        return data
    items = Kept(itertools.islice(iter(data.train), SAMPLE))
    items.ended = len(items) < SAMPLE
    return replace(data, train=cast(Any, items))


def stream_length(data: Data) -> int | None:
    """How many items the stream of ``data`` holds, if it ends within `MOST` and `SECONDS`; else None."""
    started, count = time.monotonic(), 0
    for count, _ in enumerate(_read(iter(data.train)), 1):
        if count >= MOST or time.monotonic() - started > SECONDS:
            return None
    return count


def leading_items(data: Data, count: int) -> list:
    """The first ``count`` training items of ``data``; only one of a stream that is read once."""
    if data.read_once:
        return [first_item(data)]
    if not data.is_stream:
        return [data.train[i] for i in range(min(count, _length(data)))]
    return list(itertools.islice(iter(data.train), count))


def stated_items(per_item: Mapping[str, float | None], example: Batch, loss_fn: Callable) -> Items:
    """What the config's ``dataset.per_item`` states, completed from the ``example`` item.

    ``loss_fn``: the loss, which decides what a target is. Raises `FlopsFitError` for values that the
    example contradicts.
    """
    full = target_elements(example[1], loss_fn)
    positions_here = positions_of(example[0])
    tokens, positions = per_item.get("targets") or full, per_item.get("positions") or positions_here
    return Items(
        tokens=int(tokens) if float(tokens).is_integer() else tokens,
        positions=positions,
        ignored=tokens != full,
        uneven=positions != positions_here,
    )


def known_amount(items: Items) -> dict[str, int | None]:
    """How many items and tokens the training data hold; None where that is unknown."""
    unique = items.unique
    tokens = None if unique is None else round(unique * items.tokens)
    return {"unique_items": unique, "unique_tokens": tokens}


def batch_elements(targets: Any, loss_fn: Callable) -> int:
    """Target elements of the ``targets`` of a batch, ignored ones included.

    The ``count_targets`` of ``loss_fn`` decides where it has one.
    """
    count = getattr(loss_fn, "count_targets", None)
    return int(count(targets)) if count else sum(leaf.numel() for leaf in tree_leaves(targets))


def positions_of(inputs: Any) -> int:
    """Elements of all tensors in ``inputs``, of an item or a batch, padding included."""
    return sum(math.prod(leaf.shape) for leaf in leaves_of(inputs) if hasattr(leaf, "shape"))


def batches(data: Data, batch_items: int, count: int) -> Iterator[tuple[Any, Any, int]]:
    """Up to ``count`` batches of ``batch_items`` items of ``data``, as ``(inputs, targets, items)``.

    They are shuffled, but of a stream the first ones; no batch holds more items than there are.
    """
    if data.is_stream:
        items = _read(iter(data.train))
    else:
        order = np.random.default_rng(0).permutation(_length(data))
        batch_items = min(batch_items, len(order))
        items = _read(data.train[i] for i in itertools.cycle(order.tolist()))
    for _ in range(count):
        chunk = list(itertools.islice(items, batch_items))
        if chunk:
            yield *_collated(data, chunk), len(chunk)


def batch_positions(data: Data, batch_items: int) -> list[tuple[int, int]]:
    """Positions and items of batches of ``batch_items`` items of ``data``.

    The longest item of a batch sets its padding. As many batches are read as give the mean within
    half of `TOLERANCE`, but at most `MOST` / 8 items: where a batch holds few items, batches differ
    as much as items do.
    """
    most = max(MOST // 8 // batch_items, 8)
    look, sizes = min(BATCHES, most), []
    with looking():
        for inputs, _, items in batches(data, batch_items, most):
            sizes.append((positions_of(inputs), items))
            if len(sizes) == look:
                if _relative_error([positions for positions, _ in sizes]) <= TOLERANCE / 2:
                    break
                look *= 2
    return sizes


def positions_per_item(data: Data, batch_items: int) -> float:
    """Mean positions of an item of ``data`` in batches of ``batch_items`` items."""
    sizes = batch_positions(data, batch_items)
    return sum(positions for positions, _ in sizes) / sum(items for _, items in sizes)


def check_items(data: Data, loss_fn: Callable, planned: Items, batch_items: int) -> Items:
    """What the items of ``data`` bring under ``loss_fn``, refused where ``planned`` differs.

    ``planned.positions`` are those of an item in a batch of ``batch_items``. Raises `FlopsFitError`
    for a mean that is more than `TOLERANCE` off.
    """
    data = kept_sample(data)
    items = measure_items(data, loss_fn)
    if items.unique is None and not isinstance(data.train, Kept):
        items = replace(items, unique=stream_length(data))
    positions = positions_per_item(data, batch_items) if items.uneven else items.positions
    for key, name, expected, mean in (
        ("targets", "kept targets", planned.tokens, items.tokens),
        ("positions", "input elements", planned.positions, positions),
    ):
        if expected and abs(mean / expected - 1) > TOLERANCE:
            raise FlopsFitError(
                f"dataset: an item brings {mean:.4g} {name} on average, over {items.looked_at} items; "
                f"the plan was made with {expected:.4g}: state dataset.per_item: {{{key}: {mean:.4g}}}"
                " and plan again, or let dataset.example return an item like the data's"
            )
    return items


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Look at data without a trace: what an item draws is the same each time, and then as it was.

    Files that items open here are not counted among those that the plug-ins use: what was looked at
    must not be a part of an identity.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), unwatched():
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@dataclass(frozen=True)
class _Look:
    """Items that were looked at: their kept targets, and the mean positions of their batches."""

    kept: list[int]
    positions: list[float]
    shapes: set[tuple]
    asked: int
    unique: int | None
    more: bool

    @classmethod
    def at(cls, data: Data, loss_fn: Callable, count: int) -> "_Look":
        """Look at ``count`` items, or at all if there are fewer."""
        kept: list[int] = []
        positions: list[float] = []
        shapes: set[tuple] = set()
        with looking():
            for chunk in _chunks(data, count):
                inputs, targets = _collated(data, chunk)
                counts = count_per_item(targets, loss_fn).tolist()
                kept += counts
                positions.append(positions_of(inputs) / len(counts))
                shapes |= {_shapes(item[0]) for item in chunk}
        unique = None if isinstance(data.train, Kept) else data.unique_items
        if len(kept) < count and getattr(data.train, "ended", True):
            unique = len(kept)
        return cls(kept, positions, shapes, count, unique, len(kept) == count < MOST)

    def alike(self, full: int) -> bool:
        """Whether every item keeps ``full`` targets, all that it has."""
        return set(self.kept) == {full}

    @property
    def level(self) -> bool:
        """Whether all inputs have one shape, also once they are batches."""
        return len(self.shapes) == 1 and len(set(self.positions)) == 1

    @property
    def is_precise(self) -> bool:
        """Whether the means are known well enough."""
        return all(_relative_error(values) <= PRECISION for values in (self.kept, self.positions))


def _chunks(data: Data, count: int) -> Iterator[list]:
    """Items in lists of `CHUNK`: spread over the data, in a fixed random order; a stream's first."""
    if data.is_stream:
        items = _read(itertools.islice(iter(data.train), count))
    else:
        last = _length(data) - 1
        places = sorted({last * i // (count - 1) for i in range(count)})
        order = np.random.default_rng(0).permutation(len(places))
        items = _read(data.train[places[i]] for i in order)
    while chunk := list(itertools.islice(items, CHUNK)):
        yield chunk


def _read(items: Iterator[Any]) -> Iterator[Any]:
    """The same items; an exception of the dataset's own becomes one line."""
    try:
        yield from items
    except FlopsFitError:
        raise
    except Exception as error:
        raise FlopsFitError(f"dataset: an item cannot be read: {one_line(error)}") from error


def _length(data: Data) -> int:
    return len(cast(Sized, data.train))


def _collated(data: Data, items: list) -> Batch:
    try:
        made = data.collate(items)
    except Exception as error:
        raise FlopsFitError(
            f"dataset: items make no batch: {one_line(error)}; allowed: items of one shape, or a "
            "DataLoader whose collate_fn pads them"
        ) from error
    inputs, targets = as_pair(made, "the collate function returns")
    if isinstance(targets, PackedSequence):
        raise FlopsFitError(
            "dataset: the targets of a batch are a PackedSequence; allowed: a tensor, padded with the "
            "index that the loss ignores"
        )
    return inputs, tree_map(torch.as_tensor, targets)


def _shapes(inputs: Any) -> tuple:
    """Shapes of the tensors of an item's inputs; the length of what becomes a tensor later."""
    return tuple(
        tuple(leaf.shape)
        if hasattr(leaf, "shape")
        else len(leaf)
        if hasattr(leaf, "__len__")
        else 0
        for leaf in leaves_of(inputs)
    )


def _repeats(data: Data, loss_fn: Callable) -> bool:
    """Whether items that are read twice under the same seeds keep the same targets."""
    first, second = (_Look.at(data, loss_fn, CHUNK).kept for _ in range(2))
    return first == second


def _relative_error(values: list) -> float:
    mean = float(np.mean(values))
    return float(np.std(values)) / mean / math.sqrt(len(values)) if mean else math.inf


def _rounded(values: Sequence[float], exact: bool) -> float:
    """The mean in as many digits as it is worth, so that another machine finds the same."""
    mean = float(np.mean(values))
    value = float(f"{mean:.8g}" if exact else f"{mean:.4g}")
    return int(value) if value.is_integer() else value
