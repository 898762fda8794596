"""Datasets by the contract, and global batches as a function of seed and position."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flops_fit.data import as_data, split_by_hash
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.exact import trim_micro_batch
from flops_fit.loss import count_per_item, cross_entropy, masks_targets
from flops_fit.training.batches import BatchView, GlobalBatches, HeldoutBatches, read_ahead


class Numbers(Dataset):
    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor(index)


class Endless(IterableDataset):
    def __iter__(self):
        return ((torch.tensor([float(i)]), torch.tensor(i)) for i in range(10))


@pytest.mark.parametrize(("count", "held"), [(33, 32), (100, 32), (1000, 50), (10_000, 500)])
def test_a_single_dataset_is_split_by_a_fixed_hash_of_the_index(count, held):
    train, heldout = split_by_hash(Numbers(count))
    assert len(heldout) == held
    assert sorted([*train.indices, *heldout.indices]) == list(range(count))
    assert split_by_hash(Numbers(count))[1].indices == heldout.indices
    assert max(heldout.indices) - min(heldout.indices) > count / 2  # not the tail


def test_a_dataset_too_small_to_split_is_refused_in_words():
    with pytest.raises(FlopsFitError, match="32 items are too few to hold out 32 of them"):
        as_data(Numbers(32))


def test_an_iterable_must_bring_its_heldout_part():
    with pytest.raises(FlopsFitError, match="an iterable dataset cannot be split"):
        as_data(Endless())
    data = as_data((Endless(), Numbers(5)))
    assert data.is_stream
    assert data.unique_items is None


def test_what_is_no_dataset_is_named():
    with pytest.raises(
        FlopsFitError, match="int is not a dataset; allowed: an object with __getitem__"
    ):
        as_data(3)


def test_every_epoch_passes_over_every_item_once_in_another_order():
    batches = GlobalBatches(10, 4, 100, seed=5)
    first, second = batches.indices(0, 10), batches.indices(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    assert list(batches.indices(7, 6)) == [*first[7:], *second[:3]]


def dealt(batches: GlobalBatches, steps: int) -> list[list[int]]:
    iterator, position, found = iter(batches), batches.start, []
    for _ in range(steps):
        lists = batches.micro_batches(position) * batches.processes
        found.append([int(i) for _ in range(lists) for i in next(iterator)])
        position += batches.step_items(position)
    return found


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("micro", [None, 2])
def test_the_items_of_a_step_do_not_depend_on_the_processes(processes, micro):
    one = dealt(GlobalBatches(50, 7, 60, seed=1), 9)
    several = dealt(GlobalBatches(50, 7, 60, 1, processes, micro), 9)
    assert [sorted(step) for step in several] == [sorted(step) for step in one]
    assert len(one[-1]) == 4  # 60 items are eight batches of 7 and one of 4


def test_the_steps_of_a_growing_batch_do_not_depend_on_the_processes():
    growth = [[14, 10], [34, 18]]
    one = dealt(GlobalBatches(50, 7, 90, 1, growth=growth), 8)
    assert [len(step) for step in one] == [7, 7, 10, 10, 18, 18, 18, 2]
    several = dealt(GlobalBatches(50, 7, 90, 1, 3, 4, growth=growth), 8)
    assert [sorted(step) for step in several] == [sorted(step) for step in one]
    rest = GlobalBatches(50, 7, 90, 1, start=34, growth=growth)
    assert dealt(rest, 4) == one[4:]


def test_a_start_position_continues_where_an_earlier_run_stopped():
    whole = dealt(GlobalBatches(50, 7, 700, seed=1), 20)
    rest = dealt(GlobalBatches(50, 7, 700, seed=1, start=7 * 13), 7)
    assert rest == whole[13:]


def test_heldout_batches_give_every_process_equally_many_lists():
    lists = [list(batch) for batch in HeldoutBatches(20, 3, processes=4)]
    assert len(lists) == 8
    assert sum(lists, []) == list(range(20))  # noqa: RUF017
    assert lists[-1] == []


def test_fast_paths_fetch_what_item_by_item_access_gives():
    tensors = TensorDataset(torch.randn(40, 3), torch.arange(40))
    indices = np.array([5, 3, 39])
    slow = DataLoader(tensors, batch_sampler=[indices.tolist()])
    for dataset, wanted in ((tensors, indices), (split_by_hash(tensors)[1], np.array([0, 2, 1]))):
        view = BatchView(dataset, torch.utils.data.default_collate, cross_entropy)
        inputs, targets, counts = view.__getitems__(wanted)
        expected = [dataset[int(i)] for i in wanted]
        assert torch.equal(inputs, torch.stack([x for x, _ in expected]))
        assert torch.equal(targets, torch.stack([y for _, y in expected]))
        assert counts.tolist() == [1, 1, 1]
    assert torch.equal(next(iter(slow))[1], torch.tensor([5, 3, 39]))


@pytest.mark.parametrize(("width", "at_once"), [(4, 16), (2**17, 1)])
def test_small_batches_are_fetched_many_at_once_and_large_ones_singly(width, at_once):
    fetched = []

    def batches():
        for i in range(50):
            fetched.append(i)
            yield torch.full((2, width), i), torch.zeros(2), np.zeros(2)

    seen, most = [], 0
    for inputs, _, _ in read_ahead(batches()):
        seen.append(int(inputs[0, 0]))
        most = max(most, len(fetched) - len(seen) + 1)
    assert seen == list(range(50))
    assert most == at_once


def test_a_stream_is_read_in_order_and_starts_over_at_its_end():
    view = BatchView(Endless(), torch.utils.data.default_collate, cross_entropy)
    assert view.__getitems__(np.array([0, 2, 4]))[1].tolist() == [0, 2, 4]
    assert view.__getitems__(np.array([9, 11]))[1].tolist() == [9, 1]


def test_target_elements_are_those_not_ignored():
    targets = torch.tensor([[1, -100, 2], [-100, -100, -100]])
    assert count_per_item(targets, cross_entropy).tolist() == [2, 0]
    assert count_per_item(torch.tensor([3, -100]), cross_entropy).tolist() == [1, 0]
    assert count_per_item(torch.zeros(2, 5), torch.nn.MSELoss()).tolist() == [5, 5]

    def own(outputs, targets):
        return outputs.mean()

    own.count_targets = lambda targets: 7
    assert count_per_item(targets, own).tolist() == [7, 7]


def test_a_loss_that_masks_is_told_from_one_that_does_not():
    outputs, targets = torch.randn(2, 6, 4), torch.randint(0, 4, (2, 6))
    assert masks_targets(cross_entropy, outputs, targets)
    assert not masks_targets(lambda o, t: cross_entropy(o, t.clamp(min=0)), outputs, targets)
    assert not masks_targets(torch.nn.MSELoss(), torch.randn(2, 6), torch.randn(2, 6))


@pytest.mark.parametrize("kept", [slice(0, 3), slice(3, 5), slice(9, 12)])
def test_where_the_kept_targets_lie_decides_nothing(kept):
    outputs, targets = torch.randn(2, 6, 4), torch.full((12,), -100)
    targets[kept] = 1
    assert masks_targets(cross_entropy, outputs, targets.view(2, 6))


def test_a_micro_batch_without_a_share_needs_no_loss_that_masks():
    targets = torch.tensor([[-100, 2], [-100, -100]])
    batch = torch.randn(2, 2, 4), targets, np.array([1, 0])
    *_, counts = trim_micro_batch(torch.nn.Identity(), cross_entropy, batch, [0, 0])
    assert counts.tolist() == [0, 0]
