"""Datasets as the contract knows them, and global batches that no number of processes can change.

Which items make up step t is a function of the seed and the position alone. Position p of the
sweep through the data belongs to process p mod world, so 1, 2 and 4 processes train on the same
global batches.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    default_collate,
)

from flops_fit.errors import FlopsFitError

HELDOUT_SHARE = 0.05  # of a dataset that comes without a held-out part
MIN_HELDOUT_ITEMS = 32
READ_AHEAD, READ_AHEAD_BYTES = 16, 2**20  # batches, and what they may take together


@dataclass(frozen=True)
class Data:
    """``train`` and ``heldout`` items, and ``collate``, which stacks a list of items into a batch."""

    train: Dataset
    heldout: Dataset
    collate: Callable[[list], tuple]

    @property
    def is_stream(self) -> bool:
        """Whether the items can only be read in their own order."""
        return isinstance(self.train, IterableDataset)

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
        return Data(train, heldout, _collate_of(made[0]))
    dataset = _dataset_of(made, reference)
    if isinstance(dataset, IterableDataset):
        raise FlopsFitError(
            f"{reference}: an iterable dataset must bring its held-out part; return (train, heldout)"
        )
    train, heldout = split_by_hash(dataset, reference)
    return Data(train, heldout, _collate_of(made))


def _dataset_of(part: Any, reference: str) -> Dataset:
    dataset = part.dataset if isinstance(part, DataLoader) else part
    if isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not _is_map(dataset)
    ):
        return dataset if isinstance(dataset, IterableDataset) else _Stream(dataset)
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


class _Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def split_by_hash(dataset: Dataset, reference: str = "dataset") -> tuple[Subset, Subset]:
    """``dataset`` as (train, heldout): the items whose index hashes highest, 5%, at least 32, held out.

    The split depends on the length alone, so every run and every process agrees on it. Raises
    `FlopsFitError` naming ``reference`` where that leaves nothing to train on.
    """
    count = len(dataset)
    held = max(MIN_HELDOUT_ITEMS, round(HELDOUT_SHARE * count))
    if count <= held:
        raise FlopsFitError(
            f"{reference}: {count} items are too few to hold {held} of them out; allowed: more than "
            f"{MIN_HELDOUT_ITEMS}, or a (train, heldout) pair"
        )
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
    order = sorted(range(count), key=keys.__getitem__)
    return Subset(dataset, sorted(order[:-held])), Subset(dataset, sorted(order[-held:]))


def first_item(data: Data) -> tuple[Any, Tensor]:
    """One ``(inputs, targets)`` training item, checked to be such a pair."""
    item = next(iter(data.train)) if data.is_stream else data.train[0]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise FlopsFitError(
            f"dataset: an item is {type(item).__name__}; allowed: a pair (inputs, targets)"
        )
    inputs, targets = item
    return inputs, torch.as_tensor(targets)


def bytes_per_token(dataset: Dataset) -> float | None:
    """Mean bytes of text behind a token, where the dataset knows its tokenizer."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    return getattr(whole, "bytes_per_token", None)
