"""Data that are read in their own order: where they end, how often they are read."""

import pytest
from small_runs import Net, points, run, sgd
from torch import nn
from torch.utils.data import IterableDataset

from flops_fit.data import Data, as_data
from flops_fit.errors import FlopsFitError
from flops_fit.sweep import Experiment, SweepPlan
from flops_fit.trainer import TrainingRunner


class Stream(IterableDataset):
    """``count`` items; ``anew``: whether reading can begin again."""

    def __init__(self, count: int, anew: bool = True):
        self.items, self.anew, self.begun = list(points(count)), anew, False

    def __iter__(self):
        if self.begun and not self.anew:
            return iter(())
        self.begun = True
        return iter(self.items)


def endless():
    while True:
        yield from points(10)


def data_of(train) -> Data:
    return as_data((train, points(40, seed=1)))


class TestOneThatEnds:
    @pytest.mark.parametrize(
        "train",
        [
            lambda: (item for item in points(50)),
            lambda: iter(list(points(50))),
            lambda: map(tuple, points(50)),
            lambda: zip(*points(50).tensors, strict=True),
        ],
    )
    def test_a_generator_ends_the_run_and_says_how_many_came_and_are_needed(self, train):
        with pytest.raises(FlopsFitError, match=r"ended after 50 items .* the run needs 160"):
            run(10, data=data_of(train()))

    def test_an_iterable_that_begins_only_once_does_too(self):
        data = data_of(Stream(50, anew=False))
        with pytest.raises(FlopsFitError, match=r"has no items .or no more items"):
            run(10, data=data)

    def test_one_that_holds_enough_is_trained(self):
        outcome = run(10, data=data_of(iter(list(points(170)))))
        assert outcome["tokens_seen"] == 160
        assert 0.9 < outcome["epochs"] < 1

    def test_an_empty_one_is_named(self):
        with pytest.raises(FlopsFitError, match="the iterable has no items"):
            run(10, data=data_of(iter(())))

    def test_a_sweep_of_several_runs_cannot_read_a_generator(self, tmp_path):
        runs = [Experiment(name, 1e5, 4, 61, 160) for name in "ab"]
        with pytest.raises(
            FlopsFitError, match="a generator can be read only once, but the sweep has 2 runs"
        ):
            TrainingRunner(tmp_path).run_sweep_from_plan(
                SweepPlan(runs),
                Net,
                "width",
                {},
                data_of(endless()),
                nn.CrossEntropyLoss(),
                optimizer=sgd,
            )


class TestPasses:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_they_are_counted_and_recorded(self, workers):
        outcome = run(10, data=data_of(Stream(64)), loader_workers=workers)
        assert outcome["epochs"] == 160 / 64

    def test_more_than_allowed_end_the_run_after_the_first(self):
        seen = []

        def loss(outputs, targets):
            seen.append(1)
            return nn.functional.cross_entropy(outputs, targets)

        with pytest.raises(FlopsFitError, match=r"limits.max_epochs: .* 32 items, .* 5 passes"):
            run(10, data=data_of(Stream(32)), loss=loss, max_epochs=4)
        assert len(seen) <= 2
        assert run(10, data=data_of(Stream(32)), max_epochs=5)["epochs"] == 5

    def test_a_stream_without_an_end_has_none(self):
        assert run(10, data=data_of(endless()), max_epochs=1)["epochs"] is None
