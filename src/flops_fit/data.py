"""Datasets: the items to train on, the items to hold out, and how items become batches."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence
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
from flops_fit.plugins.resolve import one_line_errors

HELDOUT_SHARE = 0.05  # for a dataset that has no held-out part
MIN_HELDOUT_ITEMS = 32
# For more items, the table of the split would take minutes and gigabytes in each process of each run.
LARGEST_TABLE = 10_000_000  # items
BLOCK = 20  # items, one of which is held out: the share above
ORDERS = (SequentialSampler, RandomSampler, DistributedSampler)  # each item once in every pass


@dataclass(frozen=True)
class Data:
    """The ``train`` and ``heldout`` items, and ``collate``, which makes a batch of a list of items.

    ``notes`` holds sentences on which settings of the user's objects are not used. ``drawn`` tells
    whether what makes them draws with NumPy or Python, under a seed of flops-fit.
    """

    train: Dataset
    heldout: Dataset
    collate: Callable[[list], tuple]
    notes: tuple[str, ...] = ()
    drawn: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the items can only be read one after another."""
        return isinstance(self.train, IterableDataset)

    @property
    def read_once(self) -> bool:
        """Whether a part is an iterator, such as a generator, which can be read only once."""
        parts = (self.train, self.heldout)
        return any(isinstance(p, Stream) and isinstance(p.items, Iterator) for p in parts)

    @property
    def unique_items(self) -> int | None:
        """The number of training items, or None for a stream."""
        return None if self.is_stream else length_of(self.train)

    def fraction(self, share: float, seed: int) -> "Data":
        """The data with only the first ``share`` of the training items, in an order drawn by ``seed``.

        A smaller share of one seed is a part of a larger one. Raises `FlopsFitError` for a stream.
        """
        if self.unique_items is None:
            raise FlopsFitError(
                "dataset.unique_fraction: the items of an iterable dataset cannot be chosen; allowed: "
                "a dataset with __getitem__ and __len__"
            )
        order = np.random.default_rng(seed).permutation(self.unique_items)
        kept = np.sort(order[: max(1, round(share * self.unique_items))])
        return replace(self, train=Subset(self.train, kept.tolist()))


def as_data(made: Any, reference: str = "dataset") -> Data:
    """Return what a dataset factory made as `Data`.

    ``made`` is a pair ``(train, heldout)`` of map-style datasets, iterable datasets or DataLoaders;
    or a single map-style dataset, which is split by a fixed hash of the index (5%, but at least 32
    items, are held out). Raises `FlopsFitError` that names ``reference`` for anything else.
    """
    if isinstance(made, Data):
        return made
    if isinstance(made, (tuple, list)) and len(made) == 2:
        if all(isinstance(part, (torch.Tensor, np.ndarray)) for part in made):
            raise FlopsFitError(
                f"{reference}: a pair of arrays; allowed: a (train, heldout) pair of datasets, or one "
                "dataset, such as torch.utils.data.TensorDataset(inputs, targets)"
            )
        train, heldout = (_dataset_of(part, reference) for part in made)
        return Data(train, heldout, _collate_of(made[0]), _not_used(made[0], reference))
    _check_one(made, reference)
    dataset = _dataset_of(made, reference)
    if isinstance(dataset, IterableDataset):
        raise FlopsFitError(
            f"{reference}: an iterable dataset cannot be split; allowed: a (train, heldout) pair"
        )
    train, heldout = split_by_hash(dataset, reference)
    return Data(train, heldout, _collate_of(made), _not_used(made, reference))


def _check_one(made: Any, reference: str) -> None:
    """Refuse several datasets that are not a pair, such as three parts or a mapping of parts."""
    if isinstance(made, Mapping) and any(isinstance(key, str) for key in made):
        raise FlopsFitError(
            f"{reference}: {describe(made)}; allowed: a (train, heldout) pair, such as two of its values"
        )
    parts = made if isinstance(made, tuple | list) else ()
    if parts and all(isinstance(part, Dataset | DataLoader) for part in parts):
        raise FlopsFitError(
            f"{reference}: {describe(made)}, all of them datasets; allowed: a (train, heldout) pair"
        )


def as_heldout(made: Any, reference: str) -> Data:
    """Return what a dataset factory made as `Data` that is only evaluated.

    ``made`` is one dataset, all of whose items are held out, or a pair ``(train, heldout)`` as
    `as_data` takes it. Raises `FlopsFitError` that names ``reference`` for anything else.
    """
    if isinstance(made, (Data, tuple, list)):
        return as_data(made, reference)
    dataset = _dataset_of(made, reference)
    return Data(dataset, dataset, _collate_of(made))


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
            f"{reference}: {type(dataset).__name__} is not a dataset; allowed: an object with "
            "__getitem__ and __len__, an IterableDataset, a DataLoader, or a (train, heldout) pair"
        )
    if length_of(dataset) == 0:
        raise FlopsFitError(f"{reference}: the dataset is empty; allowed: at least one item")
    return dataset


def _is_map(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _collate_of(part: Any) -> Callable:
    return part.collate_fn if isinstance(part, DataLoader) else default_collate


def _check_loader(loader: DataLoader, reference: str) -> None:
    """Refuse a DataLoader whose sampler decides which items are used, or that makes no batches."""
    if loader.batch_sampler is None:
        raise FlopsFitError(
            f"{reference}: a DataLoader with batch_size=None makes no batches; allowed: a DataLoader "
            "that makes batches of single (inputs, targets) items, or a dataset of such items"
        )
    if isinstance(loader.dataset, IterableDataset):
        return
    sampler: Any = loader.batch_sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    plain = type(sampler) in ORDERS
    if isinstance(sampler, RandomSampler):
        plain = plain and not sampler.replacement
        plain = plain and sampler.num_samples == length_of(loader.dataset)
    if not plain:
        raise FlopsFitError(
            f"{reference}: the DataLoader's {type(sampler).__name__} decides which items are used and "
            "how often, but flops-fit replaces it by an order that depends on the seed alone; allowed: "
            "shuffle=True or False; to leave out or repeat items, do so in the dataset "
            "(torch.utils.data.Subset), or use an IterableDataset"
        )


def _not_used(part: Any, reference: str) -> tuple[str, ...]:
    """Return a sentence on the settings of a DataLoader over the training data that are not used."""
    if not isinstance(part, DataLoader):
        return ()
    not_used = f"its batch_size={part.batch_size}, drop_last={part.drop_last}"
    order = ""
    if not isinstance(part.dataset, IterableDataset):
        not_used += f", shuffle={type(part.sampler) is not SequentialSampler}"
        order = "; each pass uses every item once, in an order that depends on the seed"
    return (
        f"{reference}: the dataset and the collate function of the DataLoader are used, but {not_used} "
        f"and its workers are not: the sweep sets the global batch{order}",
    )


class Stream(IterableDataset):
    """The items of any iterable; ``taken`` counts those that were read."""

    def __init__(self, items: Iterable):
        self.items, self.taken = items, 0

    def __iter__(self) -> Iterator:
        for item in self.items:
            self.taken += 1
            yield item


def length_of(dataset: Dataset) -> int:
    """Return the number of items of the map-style ``dataset``."""
    return len(cast(Sized, dataset))


def split_by_hash(dataset: Dataset, reference: str = "dataset") -> tuple[Subset, Subset]:
    """Split ``dataset`` into (train, heldout), holding out 5% of the items, but at least 32.

    Held out are the items whose index has the largest hashes, so the split depends only on the
    length, and every run and every process makes the same one. For more than `LARGEST_TABLE` items,
    one item in every `BLOCK` is held out; its position is computed from the index of the block,
    without a table. Raises `FlopsFitError` that names ``reference`` where nothing would be left to
    train on.
    """
    count = length_of(dataset)
    held = max(MIN_HELDOUT_ITEMS, round(HELDOUT_SHARE * count))
    if count <= held:
        raise FlopsFitError(
            f"{reference}: {count} items are too few to hold out {held} of them; allowed: more than "
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
    return _subset(dataset, ~out), _subset(dataset, out)


def _subset(dataset: Dataset, mask: np.ndarray) -> Subset:
    return Subset(dataset, array("q", np.flatnonzero(mask).astype(np.int64).tobytes()))


class BlockIndices(Sequence):
    """The indices of one part of ``count`` items, computed on demand.

    The part is the held-out one where ``heldout`` is true, else the training part. A position may
    be an integer or an array of integers, which gives an array. Items behind the last whole block
    belong to the training part.
    """

    def __init__(self, count: int, heldout: bool):
        self.heldout = heldout
        blocks = count // BLOCK
        self.length = blocks if heldout else count - blocks
        self.blocks = blocks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: Any) -> Any:
        if np.ndim(position) == 0:
            place = range(self.length)[position]  # errors and negative positions as in a list
            return int(self._indices(np.array([place]))[0])
        return self._indices(np.asarray(position))

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        if self.heldout:
            return positions * BLOCK + _place_in_block(positions)
        blocks, places = np.divmod(positions, BLOCK - 1)
        indices = blocks * BLOCK + places + (places >= _place_in_block(blocks))
        return np.where(blocks < self.blocks, indices, positions + self.blocks)


def _place_in_block(blocks: np.ndarray) -> np.ndarray:
    """Choose the held-out item of each block by the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = blocks.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(BLOCK)).astype(np.int64)


def first_item(data: Data) -> tuple[Any, Any]:
    """Return the first training item of ``data`` as ``(inputs, targets)``, its targets as tensors.

    Raises `FlopsFitError` where the item is not such a pair, and where there is no item.
    """
    with one_line_errors("dataset: the first item cannot be read"):
        item = next(iter(data.train), None) if data.is_stream else data.train[0]
    if item is None and data.is_stream:
        raise FlopsFitError("dataset: the iterable has no items; allowed: at least one item")
    inputs, targets = as_pair(item, "an item is")
    return inputs, as_targets(targets)


def as_pair(value: Any, what: str) -> tuple[Any, Any]:
    """Return ``value``, an item or a batch, as the pair (inputs, targets) that it must be.

    Raises `FlopsFitError` that begins with ``what`` where it is anything else.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        inputs, targets = value
        return inputs, targets
    raise FlopsFitError(
        f"dataset: {what} {describe(value)}; allowed: a pair (inputs, targets), of which the inputs may "
        "be a tensor, or a tuple or dict that the model gets as arguments"
    )


def describe(value: Any) -> str:
    """Return what ``value`` is, in a few words: its type, and its length or keys."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = list(map(str, value))
        return f"a {kind} with the keys {', '.join(keys[:5])}{', ...' * (len(keys) > 5)}"
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else f"a {kind}"


def leaves_of(inputs: Any) -> list[Any]:
    """Return all that ``inputs`` hold, of an item or a batch, at any depth.

    A packed sequence counts with its data; mappings and dataclasses of any type with their values.
    """
    leaves: list[Any] = []
    for leaf in tree_leaves(inputs, is_leaf=lambda value: isinstance(value, PackedSequence)):
        if isinstance(leaf, PackedSequence):
            leaves.append(leaf.data)
        elif isinstance(leaf, Mapping):
            leaves += leaves_of(dict(leaf))
        elif is_dataclass(leaf):
            leaves += leaves_of([getattr(leaf, field.name) for field in fields(leaf)])
        else:
            leaves.append(leaf)
    return leaves


def as_targets(value: Any) -> Any:
    """Return the targets ``value`` of an item as a tensor, or as a tuple or mapping of tensors.

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
    """Return the ``targets`` of one item with a batch dimension of 1 in front."""
    return tree_map(lambda t: t[None], as_targets(targets))


def bytes_per_token(dataset: Dataset) -> float | None:
    """Return the mean bytes of text per token where ``dataset`` states them, else None."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    return getattr(whole, "bytes_per_token", None)
