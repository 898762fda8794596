"""Global batches that no number of processes can change.

Which items make up step t is a function of the seed and the position alone. Position p of the
sweep through the data belongs to process p mod world, so 1, 2 and 4 processes train on the same
global batches.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from flops_fit.data import BlockIndices, Data, one_item_batch
from flops_fit.errors import FlopsFitError
from flops_fit.loss import count_per_item
from flops_fit.plan.items import positions_of

READ_AHEAD, READ_AHEAD_BYTES = 16, 2**20  # batches, and what they may take together


class BatchView(Dataset):
    """A dataset that is read batch by batch: indices in, ``(inputs, targets, counts)`` out.

    ``counts`` holds the target elements of each item. A dataset with ``get_batch(indices)`` hands
    over whole batches, which is what keeps small models from waiting for Python. An empty share
    (a last batch smaller than the number of processes) yields one item that counts nothing.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable,
        loss_fn: Callable,
        wanted: int = 0,
        max_epochs: float | None = None,
    ):
        self.loss_fn, self.wanted = loss_fn, wanted
        self.items = None if isinstance(dataset, IterableDataset) else len(dataset)
        self.fetch = (
            StreamReader(dataset, collate, wanted, max_epochs)
            if isinstance(dataset, IterableDataset)
            else _fetcher(dataset, collate)
        )

    def epochs(self, position: int) -> float | None:
        """Passes over the data after ``position`` items; None for a stream whose end was not met."""
        items = self.items or int(self.fetch.items_of_pass)
        return position / items if items else None

    def __getitems__(self, indices) -> "tuple[Any, Any, np.ndarray] | StreamEnded":
        if len(indices) == 0:
            inputs, targets = self.fetch([0])
            return inputs, targets, np.zeros(1, int)
        try:
            inputs, targets = self.fetch(indices)
        except StreamEnded as error:
            if indices[0] < self.wanted:
                raise
            return error  # read ahead, and perhaps never needed
        return inputs, targets, count_per_item(targets, self.loss_fn)


def _fetcher(dataset: Dataset, collate: Callable) -> Callable:
    whole = _whole_batches(dataset, collate)
    if whole is not None:
        return whole
    return lambda indices: collate([dataset[int(i)] for i in indices])


def _whole_batches(dataset: Dataset, collate: Callable) -> Callable | None:
    """A function that fetches a batch at once, where the dataset allows it."""
    if isinstance(dataset, Subset):
        inner = _whole_batches(dataset.dataset, collate)
        lookup = dataset.indices
        if not isinstance(lookup, BlockIndices):
            lookup = np.asarray(lookup)
        return inner and (lambda indices: inner(lookup[np.asarray(indices)]))
    if hasattr(dataset, "get_batch"):
        return dataset.get_batch
    if isinstance(dataset, TensorDataset) and collate is default_collate:
        return lambda indices: tuple(t[torch.as_tensor(indices)] for t in dataset.tensors)
    return None


class StreamEnded(FlopsFitError):
    """A stream has no more items and does not start over."""


class StreamReader:
    """Reads rising positions of an iterable, starting over at its end.

    ``wanted`` items are what the run needs, ``max_epochs`` the passes that it may make (None: any
    number). Raises `FlopsFitError` where the iterable does not start over, or would too often.
    """

    def __init__(
        self, stream: IterableDataset, collate: Callable, wanted: int, max_epochs: float | None
    ):
        self.stream, self.collate = stream, collate
        self.wanted, self.max_epochs = wanted, max_epochs
        self.items, self.position, self.in_pass = iter(stream), 0, 0
        # shared with the loader's workers, which read in place of this process
        self.items_of_pass = torch.zeros((), dtype=torch.int64).share_memory_()
        self.latest: Any = None

    def __call__(self, positions) -> tuple:
        if self.latest is not None and len(positions) == 1 and positions[0] < self.position:
            return self.collate([self.latest])
        return self.collate([self._at(int(p)) for p in positions])

    def _at(self, position: int):
        while self.position <= position:
            try:
                self.latest = next(self.items)
            except StopIteration:
                self._start_over()
            else:
                self.position += 1
                self.in_pass += 1
        return self.latest

    def _start_over(self) -> None:
        if self.position == 0:
            raise FlopsFitError(
                "dataset: the iterable holds no items (or none any more, if it was read before)"
            )
        if self.in_pass == 0:
            came = getattr(self.stream, "taken", self.position)
            raise StreamEnded(
                f"dataset: the iterable ended after {came} items and does not start over, and the run "
                f"needs {self.wanted}; allowed: at least so many, or an iterable that can be read again "
                "(an IterableDataset whose __iter__ begins anew, where a generator ends for good)"
            )
        if not self.items_of_pass:
            self.items_of_pass.fill_(self.in_pass)
            check_passes(self.wanted, self.in_pass, self.max_epochs)
        self.items, self.in_pass = iter(self.stream), 0


def check_passes(wanted: int, items: int, max_epochs: float | None) -> None:
    """Refuse a stream that the run would read more often than ``max_epochs`` times."""
    if max_epochs is not None and wanted > max_epochs * items:
        raise FlopsFitError(
            f"limits.max_epochs: the iterable ended after {items} items, and the run needs {wanted}, "
            f"{wanted / items:.3g} passes; allowed: {max_epochs:g}, so a smaller D or more data"
        )


class GlobalBatches:
    """Index lists for accelerate to deal out: for each micro-batch, one list for every process.

    ``items``: training items, or None for a stream (positions are then handed on unchanged).
    ``total_items``: items of the whole run; the last batch is smaller where they do not divide.
    Should targets be ignored so that more items are needed, batches go on beyond ``total_items``.
    Epochs are shuffled by ``(seed, epoch)``.
    """

    drop_last = True  # accelerate: every process always has its list, so nothing is padded

    def __init__(
        self,
        items: int | None,
        batch_items: int,
        total_items: int,
        seed: int,
        processes: int = 1,
        micro_batch_items: int | None = None,
        start: int = 0,
    ):
        self.items, self.batch_items, self.total_items = items, batch_items, total_items
        self.seed, self.processes, self.start = seed, processes, start
        self.micro_batch_items = micro_batch_items or batch_items
        self._epoch, self._order = -1, None

    def micro_batches(self, position: int) -> int:
        """How many micro-batches the step that starts at ``position`` is split into."""
        share = -(-self.step_items(position) // self.processes)
        return -(-share // self.micro_batch_items)

    def step_items(self, position: int) -> int:
        left = self.total_items - position
        return self.batch_items if left <= 0 else min(self.batch_items, left)

    def __iter__(self) -> Iterator[np.ndarray]:
        position = self.start
        while True:
            count = self.step_items(position)
            if self.items is None:
                indices = np.arange(position, position + count)
            else:
                indices = self.indices(position, count)
            firsts = ((r - position) % self.processes for r in range(self.processes))
            shares = [indices[first :: self.processes] for first in firsts]
            micro_batches = self.micro_batches(position)
            if micro_batches == 1:
                yield from shares
            else:
                parts = (np.array_split(share, micro_batches) for share in shares)
                yield from itertools.chain.from_iterable(zip(*parts, strict=True))
            position += count

    def indices(self, position: int, count: int) -> np.ndarray:
        """Dataset indices of ``count`` positions from ``position`` on."""
        epoch, offset = divmod(position, self.items)
        head = self._permutation(epoch)[offset : offset + count]
        if len(head) == count:
            return head
        return np.concatenate([head, self.indices(position + len(head), count - len(head))])

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.items)
            self._epoch = epoch
        return self._order


class InputPositions:
    """Counts the input elements that a run works on, padding and ignored targets included."""

    def __init__(self, accelerator: Accelerator, before: int = 0):
        self.accelerator, self.before, self.here = accelerator, before, 0

    def counted(self, batches: Iterable[tuple]) -> Iterator[tuple]:
        """The same batches, counted as they are handed on."""
        for batch in batches:
            self.here += positions_of(batch[0])
            yield batch

    def total(self) -> int:
        """Of all processes, from the start of the run; every process must ask."""
        if self.accelerator.num_processes == 1:
            return self.before + self.here
        here = torch.tensor(self.here, device=self.accelerator.device)
        return self.before + int(self.accelerator.reduce(here, reduction="sum").item())


class HeldoutBatches:
    """The same held-out batches for every run; batch j belongs to process j mod world."""

    drop_last = True

    def __init__(self, items: int, batch_items: int, processes: int):
        self.items, self.batch_items, self.processes = items, batch_items, processes

    def __len__(self) -> int:
        return -(-self.items // self.batch_items)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.items, self.batch_items):
            yield np.arange(start, min(start + self.batch_items, self.items))
        for _ in range(-len(self) % self.processes):
            yield np.arange(0)


def training_loader(
    view: BatchView, batches: GlobalBatches, pinned: bool = False, workers: int = 0
) -> DataLoader:
    """A DataLoader over ``batches`` that accelerate can prepare; batches come stacked already.

    It draws from a generator of its own: every start of a loader draws once, which would shift the
    model's dropout in a run that was resumed.
    """
    return DataLoader(
        view,
        batch_sampler=batches,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator().manual_seed(torch.initial_seed()),
    )


def read_ahead(batches: Iterable[tuple]) -> Iterator[tuple]:
    """The same ``(inputs, targets, counts)``, small ones fetched up to `READ_AHEAD` at once.

    Where a stream has ended, the error is raised for the batch that lacks items, if it is needed.

    While a model computes, the loader's code leaves the processor's caches; fetching one batch
    between two steps of a small model then takes five times as long as fetching it with others.
    """
    batches, count = iter(batches), 1
    while chunk := list(itertools.islice(batches, count)):
        for batch in chunk:
            if isinstance(batch, StreamEnded):
                raise batch
            yield batch
        size = sum(getattr(leaf, "nbytes", 0) for leaf in tree_leaves(chunk[-1]))
        count = max(1, min(READ_AHEAD, READ_AHEAD_BYTES // max(size, 1)))


def heldout_loader(
    data: Data, loss_fn, tokens: int, batch_items: int, processes: int, pinned: bool = False
) -> DataLoader:
    """A DataLoader over the first items of the held-out part that hold ``tokens`` targets."""
    heldout = data.heldout
    if isinstance(heldout, IterableDataset):
        heldout = _first_items(heldout, tokens, loss_fn)
    per_item = max(int(count_per_item(one_item_batch(heldout[0][1]), loss_fn)[0]), 1)
    items = min(len(heldout), -(-tokens // per_item))
    view = BatchView(heldout, data.collate, loss_fn)
    return training_loader(view, HeldoutBatches(items, batch_items, processes), pinned)


def _first_items(stream: IterableDataset, tokens: int, loss_fn) -> list:
    items, seen = [], 0
    for item in stream:
        items.append(item)
        seen += count_per_item(one_item_batch(item[1]), loss_fn)[0]
        if seen >= tokens:
            break
    if not items:
        raise FlopsFitError("dataset: the held-out iterable holds no items")
    return items


def _unchanged(batch):
    return batch
