"""Global batches that are the same for any number of processes.

The items of each step depend only on the seed and on the position in the data. Position p of the
pass through the data belongs to process p mod world, so 1, 2 and 4 processes train on the same
global batches.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

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

from flops_fit.batch import Batches
from flops_fit.data import BlockIndices, Data, length_of, one_item_batch
from flops_fit.errors import FlopsFitError
from flops_fit.loss import count_per_item
from flops_fit.plan.items import positions_of

READ_AHEAD = 16  # batches that are fetched at once, at most
READ_AHEAD_BYTES = 2**20  # bytes of these batches together, at most

Fetch = Callable[[Sequence[int] | np.ndarray], Any]  # from indices to a collated batch


class BatchView(Dataset):
    """A dataset that is read batch by batch: indices in, ``(inputs, targets, counts)`` out.

    ``dataset`` holds the items, ``collate`` stacks a list of them into a batch, and ``counts`` are
    the target elements of each item that ``loss_fn`` keeps. A run needs ``needed`` items of a
    stream and may read it ``max_epochs`` times (None: any number of times).

    A dataset with a method ``get_batch(indices)`` returns whole batches, which saves small models
    the wait for Python. An empty share (of a last batch smaller than the number of processes)
    gives one item whose count is 0.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable,
        loss_fn: Callable,
        needed: int = 0,
        max_epochs: float | None = None,
    ):
        self.loss_fn, self.needed = loss_fn, needed
        self.stream: StreamReader | None = None
        self.items: int | None = None
        if isinstance(dataset, IterableDataset):
            self.stream = StreamReader(dataset, collate, needed, max_epochs)
        else:
            self.items = length_of(dataset)
        self.fetch = self.stream or _fetcher(dataset, collate)

    def epochs(self, position: int) -> float | None:
        """Return the passes over the data after ``position`` items.

        This is None for a stream that was not read to its end.
        """
        items = self.items or (int(self.stream.items_of_pass) if self.stream else 0)
        return position / items if items else None

    def __getitems__(self, indices: Sequence[int]) -> "tuple[Any, Any, np.ndarray] | StreamEnded":
        if len(indices) == 0:
            inputs, targets = self.fetch([0])
            return inputs, targets, np.zeros(1, int)
        try:
            inputs, targets = self.fetch(indices)
        except StreamEnded as error:
            if indices[0] < self.needed:
                raise
            return error  # this batch was read ahead, and may never be needed
        return inputs, targets, count_per_item(targets, self.loss_fn)


def _fetcher(dataset: Dataset, collate: Callable) -> Fetch:
    whole = _whole_batches(dataset, collate)
    if whole is not None:
        return whole
    return lambda indices: collate([dataset[int(i)] for i in indices])


def _whole_batches(dataset: Dataset, collate: Callable) -> Fetch | None:
    """Return a function that fetches a whole batch in one call, where the dataset allows it."""
    if isinstance(dataset, Subset):
        inner = _whole_batches(dataset.dataset, collate)
        indices_of: Any = dataset.indices
        if not isinstance(indices_of, BlockIndices):
            indices_of = np.asarray(indices_of)
        return inner and (lambda indices: inner(indices_of[np.asarray(indices)]))
    if hasattr(dataset, "get_batch"):
        return dataset.get_batch
    if isinstance(dataset, TensorDataset) and collate is default_collate:
        return lambda indices: tuple(t[torch.as_tensor(indices)] for t in dataset.tensors)
    return None


class StreamEnded(FlopsFitError):
    """Raised where a stream has no more items and cannot be read again."""


class StreamReader:
    """Reads rising positions of an iterable, and starts again at its end.

    ``stream`` is the iterable and ``collate`` stacks a list of its items into a batch. The run
    needs ``needed`` items and may make ``max_epochs`` passes (None: any number). Raises
    `FlopsFitError` where the iterable cannot be read again, or would be read too often.
    """

    def __init__(
        self, stream: IterableDataset, collate: Callable, needed: int, max_epochs: float | None
    ):
        self.stream, self.collate = stream, collate
        self.needed, self.max_epochs = needed, max_epochs
        self.items, self.position, self.in_pass = iter(stream), 0, 0
        # in memory that is shared with the loader's workers, which read in place of this process
        self.items_of_pass = torch.zeros((), dtype=torch.int64).share_memory_()
        self.latest: Any = None

    def __call__(self, positions: Sequence[int] | np.ndarray) -> Any:
        if self.latest is not None and len(positions) == 1 and positions[0] < self.position:
            return self.collate([self.latest])
        return self.collate([self._at(int(p)) for p in positions])

    def _at(self, position: int) -> Any:
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
                "dataset: the iterable has no items (or no more items, if it was read before); "
                "allowed: at least one item"
            )
        if self.in_pass == 0:
            count = getattr(self.stream, "taken", self.position)
            raise StreamEnded(
                f"dataset: the iterable ended after {count} items and cannot be read again, but the run "
                f"needs {self.needed}; allowed: at least as many items, or an iterable that can be read "
                "again, such as an IterableDataset whose __iter__ starts from the beginning (a "
                "generator can be read only once)"
            )
        if not self.items_of_pass:
            self.items_of_pass.fill_(self.in_pass)
            check_passes(self.needed, self.in_pass, self.max_epochs)
        self.items, self.in_pass = iter(self.stream), 0


def check_passes(needed: int, items: int, max_epochs: float | None) -> None:
    """Refuse a stream of ``items`` items that a run of ``needed`` items would read too often.

    Raises `FlopsFitError` for more than ``max_epochs`` passes (None: any number).
    """
    if max_epochs is not None and needed > max_epochs * items:
        raise FlopsFitError(
            f"limits.max_epochs: the iterable ended after {items} items, and the run needs {needed}, "
            f"which is {needed / items:.3g} passes; allowed: {max_epochs:g} passes, that is, a smaller "
            "D or more data"
        )


class GlobalBatches:
    """Lists of indices for accelerate: for each micro-batch, one list for every process.

    ``items`` is the number of training items, or None for a stream (its positions are then the
    indices). A global batch has ``batch_items`` items, and more where ``growth`` says so, as in
    `Batches`; the run has ``total_items``. The last batch is smaller where these do not divide.
    Batches continue beyond ``total_items`` where the loss ignores more targets than expected. Each pass
    is shuffled by ``(seed, epoch)``. The batches are dealt to ``processes`` processes, which compute
    ``micro_batch_items`` items at once (None: all). ``start`` is the position of the first item,
    after a checkpoint.
    """

    drop_last = True  # accelerate pads nothing then; every process always has its list

    def __init__(
        self,
        items: int | None,
        batch_items: int,
        total_items: int,
        seed: int,
        processes: int = 1,
        micro_batch_items: int | None = None,
        start: int = 0,
        growth: Sequence[Sequence[int]] = (),
    ):
        self.items, self.total_items = items, total_items
        self.batches = Batches(batch_items, growth)
        self.seed, self.processes, self.start = seed, processes, start
        self.micro_batch_items = micro_batch_items or self.batches.last
        self._epoch, self._order = -1, np.empty(0, int)

    def micro_batches(self, position: int) -> int:
        """Return the number of micro-batches of the step that starts at ``position``."""
        share = -(-self.step_items(position) // self.processes)
        return -(-share // self.micro_batch_items)

    def step_items(self, position: int) -> int:
        """Return the number of items in the global batch that starts at ``position``."""
        left, batch = self.total_items - position, self.batches.at(position)
        return batch if left <= 0 else min(batch, left)

    def __iter__(self) -> Iterator[np.ndarray]:
        position = self.start
        while True:
            count = self.step_items(position)
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
        """Return the dataset's indices at ``count`` positions, starting at ``position``."""
        if self.items is None:
            return np.arange(position, position + count)
        epoch, offset = divmod(position, self.items)
        head = self._permutation(epoch, self.items)[offset : offset + count]
        if len(head) == count:
            return head
        return np.concatenate([head, self.indices(position + len(head), count - len(head))])

    def _permutation(self, epoch: int, items: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(items)
            self._epoch = epoch
        return self._order


class InputPositions:
    """Counts the input elements that a run processes, padding and ignored targets included.

    ``before`` is the count of an earlier attempt. ``accelerator`` sums the counts over processes.
    """

    def __init__(self, accelerator: Accelerator, before: int = 0):
        self.accelerator, self.before, self.here = accelerator, before, 0

    def add(self, micro_batches: Iterable[tuple]) -> None:
        """Count the inputs of the ``micro_batches`` of a step that is done."""
        self.here += sum(positions_of(inputs) for inputs, *_ in micro_batches)

    def total(self) -> int:
        """Return the count of all processes since the start of the run.

        Every process must call this, because the processes add their counts.
        """
        if self.accelerator.num_processes == 1:
            return self.before + self.here
        here = torch.tensor(self.here, device=self.accelerator.device)
        return self.before + int(self.accelerator.reduce(here, reduction="sum").item())


class HeldoutBatches:
    """The first ``items`` held-out items in batches of ``batch_items``, the same for every run.

    Batch j belongs to process j mod ``processes``.
    """

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
    view: BatchView, batches: GlobalBatches | HeldoutBatches, pinned: bool = False, workers: int = 0
) -> DataLoader:
    """Return a DataLoader over the ``batches`` of ``view`` that accelerate can prepare.

    ``pinned`` puts batches into pinned memory, and ``workers`` processes read them (0: this one).
    The loader has a separate random generator: each start of a loader draws one number, which would
    otherwise change the model's dropout in a resumed run.
    """
    return DataLoader(
        view,
        batch_sampler=cast(Iterable[list[int]], batches),
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator().manual_seed(torch.initial_seed()),
    )


def read_ahead(batches: Iterable[tuple]) -> Iterator[tuple]:
    """Yield ``batches`` unchanged, fetching up to `READ_AHEAD` small ones at once.

    While a model computes, the loader's code leaves the processor's caches; fetching one batch
    between two steps of a small model takes five times as long as fetching it with others. Raises
    `StreamEnded` where a stream ended before a batch, but only once that batch is needed.
    """
    remaining, count = iter(batches), 1
    while chunk := list(itertools.islice(remaining, count)):
        for batch in chunk:
            if isinstance(batch, StreamEnded):
                raise batch
            yield batch
        size = sum(getattr(leaf, "nbytes", 0) for leaf in tree_leaves(chunk[-1]))
        count = max(1, min(READ_AHEAD, READ_AHEAD_BYTES // max(size, 1)))


def heldout_loader(
    data: Data,
    loss_fn: Callable,
    tokens: int,
    batch_items: int,
    processes: int,
    pinned: bool = False,
) -> DataLoader:
    """Return a DataLoader over the first held-out items of ``data`` that have ``tokens`` targets.

    ``loss_fn`` decides which targets count. The batches have ``batch_items`` items and are dealt to
    ``processes`` processes; ``pinned`` puts them into pinned memory. Raises `FlopsFitError` where
    a held-out stream has no items.
    """
    heldout = data.heldout
    if isinstance(heldout, IterableDataset):
        heldout = cast(Dataset, _first_items(heldout, tokens, loss_fn))
    per_item = max(int(count_per_item(one_item_batch(heldout[0][1]), loss_fn)[0]), 1)
    items = min(length_of(heldout), -(-tokens // per_item))
    view = BatchView(heldout, data.collate, loss_fn)
    return training_loader(view, HeldoutBatches(items, batch_items, processes), pinned)


def _first_items(stream: IterableDataset, tokens: int, loss_fn: Callable) -> list:
    items, seen = [], 0
    for item in stream:
        items.append(item)
        seen += count_per_item(one_item_batch(item[1]), loss_fn)[0]
        if seen >= tokens:
            break
    if not items:
        raise FlopsFitError(
            "dataset: the held-out iterable has no items; allowed: at least one item"
        )
    return items


def _unchanged(batch: Any) -> Any:
    return batch
