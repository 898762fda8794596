"""What the contract makes of a user's loaders, targets and single data sets."""

import hashlib
import types

import numpy as np
import pytest
import torch
from small_runs import FEATURES, points, run
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from flops_fit import data as data_module
from flops_fit.data import BLOCK, BlockIndices, as_data, first_item, split_by_hash
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.exact import target_elements
from flops_fit.loss import count_per_item, cross_entropy
from flops_fit.training.batches import BatchView


def loader(**settings):
    return DataLoader(points(100), **settings)


class TestLoaders:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"sampler": WeightedRandomSampler([1.0] * 100, 100)}, "WeightedRandomSampler"),
            ({"sampler": SubsetRandomSampler(range(10))}, "SubsetRandomSampler"),
            ({"sampler": [5, 5, 7]}, "list"),
            ({"sampler": RandomSampler(range(100), replacement=True)}, "RandomSampler"),
            ({"sampler": RandomSampler(range(100), num_samples=10)}, "RandomSampler"),
            ({"batch_sampler": [[0, 1], [0, 2]]}, "list"),
            (
                {"batch_sampler": BatchSampler(WeightedRandomSampler([1.0] * 100, 9), 3, False)},
                "WeightedRandomSampler",
            ),
            ({"batch_size": None}, "batch_size=None makes no batches"),
        ],
    )
    def test_one_that_decides_which_items_are_seen_is_refused(self, settings, named):
        for made in (
            loader(**settings),
            (loader(**settings), points(40)),
            (points(40), loader(**settings)),
        ):
            with pytest.raises(FlopsFitError, match=f"mine:data: .*{named}.*; allowed: "):
                as_data(made, "mine:data")

    @pytest.mark.parametrize(
        "settings",
        [
            {"shuffle": True},
            {"shuffle": False, "drop_last": True},
            {"sampler": DistributedSampler(range(100), num_replicas=2, rank=0)},
        ],
    )
    def test_what_is_replaced_of_another_is_said(self, settings):
        made = as_data(loader(batch_size=7, **settings), "mine:data")
        (note,) = made.notes
        assert "batch_size=7" in note
        assert f"drop_last={settings.get('drop_last', False)}" in note
        assert f"shuffle={'drop_last' not in settings}" in note
        assert as_data(points()).notes == ()


class Items(Dataset):
    """``form`` makes the targets of an item from its row."""

    def __init__(self, form, count=200):
        self.rows, self.form = points(count).tensors[0], form

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], self.form(self.rows[index])


def kind_and_value(row):
    return {"kind": row[:5].argmax(), "value": row[:3] * 2}


def joint(outputs, targets):
    kind, *values = targets.values() if isinstance(targets, dict) else targets
    value = torch.cat([v.flatten(1) for v in values], 1)
    return nn.functional.cross_entropy(outputs, kind) + nn.functional.mse_loss(
        outputs[:, : value.shape[1]], value
    )


class TestTargets:
    @pytest.mark.parametrize(
        ("form", "per_item"),
        [
            (kind_and_value, 4),
            (lambda row: tuple(kind_and_value(row).values()), 4),
            (lambda row: (row[:5].argmax(), row[:2], row[2:5]), 6),
            (lambda row: (int(row[:5].argmax()), np.float32([1.0, 2.0])), 3),
        ],
        ids=["dict", "tuple", "triple", "numbers-and-arrays"],
    )
    def test_several_train_count_and_evaluate_as_one(self, form, per_item):
        data = as_data(Items(form))
        assert target_elements(first_item(data)[1], joint) == per_item
        outcome = run(tokens=16 * 10 * per_item, data=data, loss=joint)
        assert outcome["tokens_seen"] == 160 * per_item
        assert outcome["heldout_tokens"] == len(data.heldout) * per_item
        assert outcome["status"] == "completed"

    def test_a_loss_may_count_them_itself(self):
        class Counted:
            def __call__(self, outputs, targets):
                return joint(outputs, targets)

            def count_targets(self, targets):
                return len(targets["kind"])

        outcome = run(tokens=160, data=as_data(Items(kind_and_value)), loss=Counted())
        assert outcome["tokens_seen"] == 160

    def test_ignored_elements_of_several_do_not_count(self):
        targets = {"a": torch.tensor([[1, -100], [-100, -100]]), "b": torch.zeros(2, 3)}
        assert count_per_item(targets, cross_entropy).tolist() == [4, 3]

    @pytest.mark.parametrize(
        "form", [lambda row: "cat", lambda row: None, lambda row: {}, lambda row: {"a": "cat"}]
    )
    def test_what_is_no_tensor_is_refused_in_words(self, form):
        with pytest.raises(
            FlopsFitError, match=r"the targets of an item are .*; allowed: a tensor"
        ):
            first_item(as_data(Items(form)))

    def test_a_batch_without_a_single_target_ends_in_words(self):
        with pytest.raises(
            FlopsFitError, match="the loss ignores all targets of the global batch of step 1"
        ):
            run(data=as_data(Items(lambda row: torch.tensor(-100))))


@pytest.mark.parametrize(
    ("outputs", "way"),
    [
        ((torch.zeros(2, 5), None), r"a tuple of 2, .*cross_entropy\(outputs\[0\], targets"),
        ({"logits": torch.zeros(2, 5)}, r"a dict of 1, .*outputs\['logits'\]"),
        (types.SimpleNamespace(logits=torch.zeros(2, 5), loss=None), r"outputs\.logits"),
        ([torch.zeros(2, 5)], r"a list of 1, .*outputs\[0\]"),
    ],
)
def test_the_default_loss_says_what_to_do_with_outputs_around_the_logits(outputs, way):
    with pytest.raises(FlopsFitError, match=way):
        cross_entropy(outputs, torch.zeros(2, dtype=torch.long))


FIXED = [15, 25, 50, 20000000009]


class TestSplit:
    @pytest.mark.parametrize("count", [33, 100, 1234, 20_000])
    def test_it_is_the_one_that_runs_were_made_with(self, count):
        keys = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
        order = sorted(range(count), key=keys.__getitem__)
        held = max(32, round(0.05 * count))
        train, heldout = split_by_hash(range(count))
        assert list(train.indices) == sorted(order[:-held])
        assert list(heldout.indices) == sorted(order[-held:])

    def test_its_indices_take_eight_bytes_and_are_plain_integers(self):
        train, heldout = split_by_hash(range(1000))
        assert type(train[0]) is type(heldout[0]) is int
        assert memoryview(train.indices).nbytes == 8 * 950

    @pytest.mark.parametrize("count", [1001, 1019, 1020, 20_007])
    def test_the_rule_without_a_table_holds_out_one_item_of_every_block(self, monkeypatch, count):
        monkeypatch.setattr(data_module, "LARGEST_TABLE", 1000)
        train, heldout = split_by_hash(range(count))
        parts = list(train), list(heldout)
        assert sorted(parts[0] + parts[1]) == list(range(count))
        assert [i // BLOCK for i in parts[1]] == list(range(count // BLOCK))
        assert parts[0] == sorted(parts[0])

    def test_places_in_the_blocks_are_spread_and_fixed(self):
        indices = BlockIndices(10**12, heldout=True)
        places = indices[np.arange(20_000)] % BLOCK
        assert np.bincount(places, minlength=BLOCK).min() > 850  # of 1000
        assert indices[np.array([0, 1, 2, 10**9])].tolist() == FIXED
        assert indices[10**9] == FIXED[3]
        assert len(BlockIndices(10**12, heldout=False)) == 95 * 10**10

    def test_whole_batches_are_fetched_through_it(self, monkeypatch):
        monkeypatch.setattr(data_module, "LARGEST_TABLE", 100)
        train, _ = split_by_hash(points(200))
        whole = BatchView(train, torch.utils.data.default_collate, cross_entropy)
        inputs, _, counts = whole.__getitems__(np.array([3, 150, 7]))
        assert torch.equal(inputs, torch.stack([train[i][0] for i in (3, 150, 7)]))
        assert counts.tolist() == [1, 1, 1]
        assert inputs.shape == (3, FEATURES)
