"""Datasets as the contract knows them: what is trained on, what is held out, how items are batched."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from flops_fit.errors import FlopsFitError

HELDOUT_SHARE = 0.05  # of a dataset that comes without a held-out part
MIN_HELDOUT_ITEMS = 32
# Above, the table of the split would take minutes and gigabytes in each process of each run. So it
# did before there was another rule, which no sweep of such data will have borne.
LARGEST_TABLE = 10_000_000  # items
BLOCK = 20  # items, of which one is held out: the share above
ORDERS = (SequentialSampler, RandomSampler, DistributedSampler)  # that change no distribution


@dataclass(frozen=True)
class Data:
    """``train`` and ``heldout`` items, and ``collate``, which stacks a list of items into a batch.

    ``notes`` says in sentences what of the user's objects is not used.
    """

    train: Dataset
    heldout: Dataset
    collate: Callable[[list], tuple]
    notes: tuple[str, ...] = ()

    @property
    def is_stream(self) -> bool:
        """Whether the items can only be read in their own order."""
        return isinstance(self.train, IterableDataset)

    @property
    def read_once(self) -> bool:
        """Whether a part is an iterator, such as a generator, which cannot be read a second time."""
        parts = (self.train, self.heldout)
        return any(isinstance(p, Stream) and isinstance(p.items, Iterator) for p in parts)

    @property
    def unique_items(self) -> int | None:
        """Number of training items, or None for a stream."""
        return None if self.is_stream else len(self.train)


def as_data(made: Any, reference: str = "dataset") -> Data:
    """What a dataset factory returned, as `Data`.

    ``made``: ``(train, heldout)`` of map-style or iterable datasets or DataLoaders, or a single
    map-style one, which is split by a fixed hash of the index (the last 5%, at least 32 items).
    Raises `FlopsFitError` naming ``reference`` for anything else.
    """
    if isinstance(made, Data):
        return made
    if isinstance(made, (tuple, list)) and len(made) == 2:
        train, heldout = (_dataset_of(part, reference) for part in made)
        return Data(train, heldout, _collate_of(made[0]), _not_used(made[0], reference))
    dataset = _dataset_of(made, reference)
    if isinstance(dataset, IterableDataset):
        raise FlopsFitError(
            f"{reference}: an iterable dataset must bring its held-out part; return (train, heldout)"
        )
    train, heldout = split_by_hash(dataset, reference)
    return Data(train, heldout, _collate_of(made), _not_used(made, reference))


def _dataset_of(part: Any, reference: str) -> Dataset:
    if isinstance(part, DataLoader):
        _check_loader(part, reference)
    dataset = part.dataset if isinstance(part, DataLoader) else part
    if isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not _is_map(dataset)
    ):
        return dataset if isinstance(dataset, IterableDataset) else Stream(dataset)
    if not _is_map(dataset):
        raise FlopsFitError(
            f"{reference}: {type(dataset).__name__} is no dataset; allowed: an object with "
            "__getitem__ and __len__, an IterableDataset, a DataLoader, or a (train, heldout) pair"
        )
    if len(dataset) == 0:
        raise FlopsFitError(f"{reference}: the dataset is empty; allowed: at least one item")
    return dataset


def _is_map(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _collate_of(part: Any) -> Callable:
    return part.collate_fn if isinstance(part, DataLoader) else default_collate


def _check_loader(loader: DataLoader, reference: str) -> None:
    """Refuse a DataLoader whose sampler decides which items are seen, or that makes no batches."""
    if loader.batch_sampler is None:
        raise FlopsFitError(
            f"{reference}: a DataLoader with batch_size=None hands over ready batches; allowed: one "
            "that makes batches of single (inputs, targets) items, or the dataset of such items"
        )
    if isinstance(loader.dataset, IterableDataset):
        return
    sampler: Any = loader.batch_sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    plain = type(sampler) in ORDERS
    if isinstance(sampler, RandomSampler):
        plain = plain and not sampler.replacement and sampler.num_samples == len(loader.dataset)
    if not plain:
        raise FlopsFitError(
            f"{reference}: the DataLoader's {type(sampler).__name__} decides which items are seen and "
            "how often, and would be replaced by an order that follows from the seed, the same on any "
            "number of processes; allowed: shuffle=True or False; to leave out or repeat items, do so "
            "in the dataset (torch.utils.data.Subset), or give an IterableDataset"
        )


def _not_used(part: Any, reference: str) -> tuple[str, ...]:
    """What of a DataLoader over the training data is replaced, as a sentence."""
    if not isinstance(part, DataLoader):
        return ()
    not_used = f"its batch_size={part.batch_size}, drop_last={part.drop_last}"
    order = ""
    if not isinstance(part.dataset, IterableDataset):
        not_used += f", shuffle={type(part.sampler) is not SequentialSampler}"
        order = ", and each pass is shuffled by the seed and leaves no item out"
    return (
        f"{reference}: of the DataLoader the dataset and the collate function are used; {not_used} and "
        f"workers are not: the global batch is the sweep's{order}",
    )


class Stream(IterableDataset):
    """Items of any iterable, counted as they are ``taken``."""

    def __init__(self, items):
        self.items, self.taken = items, 0

    def __iter__(self):
        for item in self.items:
            self.taken += 1
            yield item


def split_by_hash(dataset: Dataset, reference: str = "dataset") -> tuple[Subset, Subset]:
    """``dataset`` as (train, heldout): the items whose index hashes highest, 5%, at least 32, held out.

    The split depends on the length alone, so every run and every process agrees on it. Of more than
    `LARGEST_TABLE` items one in every `BLOCK` is held out, at a place in it that is computed from
    the index of the block, without a table. Raises `FlopsFitError` naming ``reference`` where
    nothing is left to train on.
    """
    count = len(dataset)
    held = max(MIN_HELDOUT_ITEMS, round(HELDOUT_SHARE * count))
    if count <= held:
        raise FlopsFitError(
            f"{reference}: {count} items are too few to hold {held} of them out; allowed: more than "
            f"{MIN_HELDOUT_ITEMS}, or a (train, heldout) pair"
        )
    if count > LARGEST_TABLE:
        return (
            Subset(dataset, BlockIndices(count, heldout=False)),
            Subset(dataset, BlockIndices(count, heldout=True)),
        )
    digests = (hashlib.sha256(str(i).encode()).digest()[:8] for i in range(count))
    keys = np.fromiter((int.from_bytes(digest) for digest in digests), np.uint64, count)
    out = np.zeros(count, bool)
    out[np.argpartition(keys, count - held)[-held:]] = True
    return tuple(
        Subset(dataset, array("q", np.flatnonzero(part).astype(np.int64).tobytes()))
        for part in (~out, out)
    )


class BlockIndices(Sequence):
    """Indices of the training or the held-out part of ``count`` items, computed when asked for.

    Takes an integer, or an array of them, which gives an array. Items beyond the last whole block
    are trained on.
    """

    def __init__(self, count: int, heldout: bool):
        self.heldout = heldout
        blocks = count // BLOCK
        self.length = blocks if heldout else count - blocks
        self.blocks = blocks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position):
        if np.ndim(position) == 0:
            place = range(self.length)[position]  # the errors and negative places of a list
            return int(self._indices(np.array([place]))[0])
        return self._indices(np.asarray(position))

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        if self.heldout:
            return positions * BLOCK + _place_in_block(positions)
        blocks, places = np.divmod(positions, BLOCK - 1)
        indices = blocks * BLOCK + places + (places >= _place_in_block(blocks))
        return np.where(blocks < self.blocks, indices, positions + self.blocks)


def _place_in_block(blocks: np.ndarray) -> np.ndarray:
    """Which item of each block is held out: the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = blocks.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(BLOCK)).astype(np.int64)


def first_item(data: Data) -> tuple[Any, Any]:
    """One ``(inputs, targets)`` training item, checked to be such a pair; targets are tensors.

    Raises `FlopsFitError` for anything else, and for an iterable without items.
    """
    item = next(iter(data.train), None) if data.is_stream else data.train[0]
    if item is None and data.is_stream:
        raise FlopsFitError("dataset: the iterable holds no items")
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise FlopsFitError(
            f"dataset: an item is {type(item).__name__}; allowed: a pair (inputs, targets)"
        )
    inputs, targets = item
    return inputs, as_targets(targets)


def as_targets(value: Any) -> Any:
    """The targets of an item as tensors: one, or a tuple or mapping of them.

    Numbers, lists of numbers and arrays become tensors. Raises `FlopsFitError` for anything else.
    """
    try:
        if isinstance(value, Mapping | tuple):
            made = tree_map(torch.as_tensor, value)
            if tree_leaves(made):
                return made
        else:
            return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise FlopsFitError(
        f"dataset: the targets of an item are a {type(value).__name__}; allowed: a tensor, an array "
        "or a number, or a tuple or dict of them"
    )


def one_item_batch(targets: Any) -> Any:
    """Targets of one item with a batch dimension in front."""
    return tree_map(lambda t: t[None], as_targets(targets))


def bytes_per_token(dataset: Dataset) -> float | None:
    """Mean bytes of text behind a token, where the dataset knows its tokenizer."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    return getattr(whole, "bytes_per_token", None)
