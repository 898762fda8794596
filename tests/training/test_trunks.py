"""Runs that share their first steps have the bits of runs that do not, whatever is left of states."""

import logging
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from stop_at import StopAt
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from flops_fit.batch import Batches
from flops_fit.data import as_data
from flops_fit.experiment.options import TrainOptions
from flops_fit.optimizer import adamw
from flops_fit.store.trunks import states_in
from flops_fit.trainer import Stopped, train
from flops_fit.training.trunk import Trunk

FEATURES, CLASSES, BATCH = 6, 4, 8
ENDS = (10, 20, 40)  # steps
SCHEDULE = {"kind": "trunk", "warmup_tokens": 20, "cooldown": 0.2, "shape": "sqrt", "final": 0.0}
BITS = ("loss_curve", "final_loss", "final_loss_se", "tokens_seen", "input_positions", "steps_done")


@pytest.fixture(autouse=True)
def own_precision():
    """accelerate keeps one precision for a process; let each test have its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(width, CLASSES)

    def forward(self, inputs):
        return self.last(self.dropout(torch.tanh(self.norm(self.first(inputs)))))


class Stream(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[i] for i in range(len(self.dataset)))


def points(items: int, ignored: bool = False) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(items, FEATURES, generator=generator)
    targets = inputs[:, :CLASSES].argmax(1)
    if ignored:
        targets[::3] = -100
    return TensorDataset(inputs, targets)


def muon_and_adamw(model, lr):
    matrices = [model.first.weight]
    rest = [p for p in model.parameters() if p is not model.first.weight]
    return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(rest, lr=lr)]


def run(
    folder: Path | None,
    steps: int,
    width: int = 12,
    dataset=None,
    optimizer=adamw,
    stop=None,
    checkpoints: Path | None = None,
    **options,
) -> dict:
    """One run of ``steps`` steps; where ``folder`` is not None, the trunk's states lie in it."""
    name = f"net-{width}-{steps}"
    trunk = None if folder is None else Trunk(folder / str(width), f"hash{width}", name)
    given = {
        "tokens": steps * BATCH,
        "batch_items": BATCH,
        "learning_rate": 0.01,
        "schedule": SCHEDULE,
        "checkpoint_minutes": 1000,
        "progress": False,
        **options,
    }
    return train(
        name,
        lambda: Net(width),
        as_data(dataset or (points(50), points(40))),
        nn.CrossEntropyLoss(),
        optimizer,
        TrainOptions(**given),
        checkpoints,
        name,
        stop,
        trunk=trunk,
    )


def bits(outcome: dict) -> dict:
    return {key: outcome[key] for key in BITS}


CASES = {
    "dropout and running statistics": {},
    "Muon and AdamW": {"optimizer": muon_and_adamw},
    "a stream": {"dataset": (Stream(points(50)), points(40))},
    "accumulation": {"micro_batch_items": 3},
}
GROWTH = [[4 * BATCH, 12], [4 * BATCH + 60, 20], [4 * BATCH + 160, 28]]


def growing(items: int) -> dict:
    """Options of a run of ``items`` items whose batch grows, as a planner would state them."""
    batches = Batches(BATCH, GROWTH).until(items)
    assert batches.floor(items) == items  # a whole number of steps
    return {"tokens": items, "batch_growth": batches.growth}


@pytest.mark.parametrize("case", CASES)
def test_each_end_of_a_trunk_has_the_bits_of_a_separate_run(tmp_path, case):
    for width in (12, 20) if case == "dropout and running statistics" else (12,):
        outcomes = [run(tmp_path, steps, width, **CASES[case]) for steps in ENDS]
        assert [o["tokens_here"] / BATCH for o in outcomes] == [10, 20 - 8, 40 - 16]
        assert [o["start_tokens"] / BATCH for o in outcomes] == [0, 8, 16]
        assert sum(o["tokens_here"] for o in outcomes) < 0.66 * BATCH * sum(ENDS)
        runs = [None, f"net-{width}-10", f"net-{width}-20"]
        assert [o["started_from"] for o in outcomes] == runs
        for steps, outcome in zip(ENDS, outcomes, strict=True):
            assert bits(outcome) == bits(run(None, steps, width, **CASES[case]))


def test_ends_of_a_trunk_whose_batch_grows_have_the_bits_of_separate_runs(tmp_path):
    ends = [32 + 36, 32 + 60 + 40, 32 + 60 + 100 + 56]
    outcomes = [run(tmp_path, 0, **growing(items)) for items in ends]
    branches = [32 + 12, 32 + 60]  # the last steps that end before the cooldown
    assert [o["start_tokens"] for o in outcomes] == [0, *branches]
    assert [o["steps_done"] for o in outcomes] == [4 + 3, 4 + 5 + 2, 4 + 5 + 5 + 2]
    for items, outcome in zip(ends, outcomes, strict=True):
        assert bits(outcome) == bits(run(None, 0, **growing(items)))


def test_a_state_before_which_the_batch_grew_otherwise_is_not_used(tmp_path, caplog):
    run(tmp_path, 0, **growing(32 + 60))
    other = growing(32 + 60 + 100)
    other["batch_growth"] = [[32, 10], *other["batch_growth"][1:]]
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, 0, **other)["start_tokens"] == 0
    assert "it belongs to another experiment" in caplog.text
    later = growing(32 + 60 + 100)
    later["batch_growth"] = later["batch_growth"][:1]  # differs after the state alone
    assert run(tmp_path, 0, **later)["start_tokens"] == 32 + 36


def test_a_run_whose_batch_grows_is_stopped_at_any_step_and_goes_on(tmp_path):
    truth = run(None, 0, **growing(32 + 60 + 100))
    for at in (3, 4, 6, 10):
        folder = tmp_path / str(at)
        with pytest.raises(Stopped):
            run(None, 0, checkpoints=folder, stop=StopAt(at), **growing(32 + 60 + 100))
        resumed = run(None, 0, checkpoints=folder, **growing(32 + 60 + 100))
        assert resumed["resumed_at_step"] == at
        assert bits(resumed) == bits(truth)


def test_ignored_targets_move_the_branch_and_change_no_bit(tmp_path):
    more = {"dataset": (points(50, ignored=True), points(40))}
    for steps in ENDS:
        items = steps * BATCH
        expected = {"tokens": round(items * 0.66), "expected_items": items}
        shared = run(tmp_path, steps, **more, **expected)
        assert (shared["start_tokens"] > 0) == (steps > 10)
        assert bits(shared) == bits(run(None, steps, **more, **expected))


def test_a_shorter_run_that_comes_later_takes_only_what_lies_before_its_cooldown(tmp_path):
    for steps in (10, 40):
        run(tmp_path, steps)
    late = run(tmp_path, 20)
    assert late["start_tokens"] == 8 * BATCH
    assert bits(late) == bits(run(None, 20))


def test_the_furthest_sound_state_is_used_and_the_others_are_named(tmp_path, caplog):
    for steps in ENDS:
        run(tmp_path, steps)
    (tmp_path / "12" / "tokens-not-a-state").mkdir()
    whole = run(None, 80)
    third = states_in(tmp_path / "12")[-1]
    spoiled = bytearray((third / "pytorch_model.bin").read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    (third / "pytorch_model.bin").write_bytes(spoiled)
    with caplog.at_level(logging.WARNING):
        outcome = run(tmp_path, 80)
    assert f"{third} is not used: pytorch_model.bin does not match its hash" in caplog.text
    assert outcome["started_from"] == "net-12-20"
    assert bits(outcome) == bits(whole)
    for state in states_in(tmp_path / "12"):
        (state / "manifest.json").write_text("{")
    outcome = run(tmp_path, 80)
    assert (outcome["started_from"], outcome["tokens_here"]) == (None, 80 * BATCH)
    assert bits(outcome) == bits(whole)


def test_a_state_under_the_name_of_another_place_is_not_used(tmp_path, caplog):
    run(tmp_path, 10)
    (state,) = (tmp_path / "12").iterdir()
    state.rename(state.with_name("tokens-000000000000080"))
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, 20)["start_tokens"] == 0
    assert "it belongs to another experiment" in caplog.text


@pytest.mark.parametrize("at", [3, 8, 9])  # 8: where a run of 20 steps leaves its state, too
def test_a_run_stopped_on_a_trunk_goes_on_and_remembers_where_it_started(tmp_path, at):
    run(tmp_path, 10)
    checkpoints = tmp_path / "checkpoints"
    with pytest.raises(Stopped):
        run(tmp_path, 20, checkpoints=checkpoints, stop=StopAt(at))
    outcome = run(tmp_path, 20, checkpoints=checkpoints)
    assert (outcome["start_tokens"], outcome["tokens_here"]) == (8 * BATCH, 12 * BATCH)
    assert bits(outcome) == bits(run(None, 20))
    longer = run(tmp_path, 40)
    assert longer["start_tokens"] == 16 * BATCH
    assert bits(longer) == bits(run(None, 40))
