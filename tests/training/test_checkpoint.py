"""Stopping and going on: the same bits as never having stopped, from sound checkpoints only."""

import itertools
import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from stop_at import StopAt
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import flops_fit.training.checkpoint as checkpoint_module
import flops_fit.training.evaluation as evaluation
from flops_fit.data import as_data
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions
from flops_fit.optimizer import adamw
from flops_fit.trainer import Stopped, train

FEATURES, CLASSES, STEPS, BATCH = 6, 4, 24, 8
BITS = (
    "loss_curve",
    "final_loss",
    "final_loss_se",
    "tokens_seen",
    "input_positions",
    "steps_done",
    "status",
)


@pytest.fixture(autouse=True)
def own_precision():
    """accelerate keeps one precision for a process; let each test have its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Net(nn.Module):
    """Layers with dropout and running statistics: state beyond the parameters."""

    def __init__(self, dropout: float = 0.3):
        super().__init__()
        self.first = nn.Linear(FEATURES, 12)
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(12, CLASSES)

    def forward(self, inputs):
        return self.last(self.dropout(torch.tanh(self.norm(self.first(inputs)))))


class Stream(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[i] for i in range(len(self.dataset)))


def points(items: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(items, FEATURES, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


def muon_and_adamw(model, lr):
    matrices = [model.first.weight]
    rest = [p for p in model.parameters() if p is not model.first.weight]
    return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(rest, lr=lr)]


class Run:
    """One experiment in a folder of its own, started as often as a test likes."""

    def __init__(self, folder: Path, dataset=None, optimizer=adamw, dropout=0.3, **options):
        self.folder, self.optimizer, self.dropout = folder, optimizer, dropout
        self.data = as_data(dataset or (points(50), points(40)))
        self.options = TrainOptions(
            **{
                "tokens": STEPS * BATCH,
                "batch_items": BATCH,
                "learning_rate": 0.01,
                "seed": 3,
                "checkpoint_minutes": 1000,
                "evaluation_batch_items": 16,
                "progress": False,
                **options,
            }
        )

    def __call__(self, stop_at: int | None = None, name: str = "hash") -> dict:
        stop = None if stop_at is None else StopAt(stop_at)
        return train(
            "run",
            lambda: Net(self.dropout),
            self.data,
            nn.CrossEntropyLoss(),
            self.optimizer,
            self.options,
            self.folder,
            name,
            stop,
        )

    def stopped(self, at: int, **other) -> Path:
        """Train until the ``at``-th step from here on; returns the checkpoint that this leaves."""
        with pytest.raises(Stopped):
            self(at, **other)
        return max(self.folder.glob("step-*"))


def bits(outcome: dict) -> dict:
    return {key: outcome[key] for key in BITS}


CASES = {
    "dropout": {},
    "no dropout, seed 0": {"dropout": 0.0, "seed": 0},
    "Muon and AdamW": {"optimizer": muon_and_adamw},
    "a stream": {"dataset": (Stream(points(50)), points(40))},
    "accumulation": {"micro_batch_items": 3},
    "a smaller last batch": {"tokens": STEPS * BATCH - 5},
    "clipping": {"clip_norm": 0.1},
    "bfloat16": {"precision": "bf16"},
    "worker processes": {"loader_workers": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_random_steps_equals_one_that_never_stopped(tmp_path, case):
    whole = Run(tmp_path / "whole", **CASES[case])()
    assert whole["steps_done"] == STEPS
    run = Run(tmp_path / "stopped", **CASES[case])
    draw = random.Random(case)
    for at in (1, draw.randrange(1, 12), draw.randrange(1, 12)):
        run.stopped(at)
    outcome = run()
    assert outcome["resumed_at_step"] > 1
    assert bits(outcome) == bits(whole)


def test_a_checkpoint_after_every_step_changes_no_bit(tmp_path):
    every = Run(tmp_path / "every", checkpoint_minutes=0)
    assert bits(every()) == bits(Run(tmp_path / "none")())
    assert [p.name for p in sorted(every.folder.iterdir())] == ["step-00000022", "step-00000023"]


def test_an_evaluation_that_was_killed_is_repeated_to_the_same_bits(tmp_path, monkeypatch):
    whole = Run(tmp_path / "whole")()
    run = Run(tmp_path / "killed", checkpoint_minutes=0)
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", lambda *a: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            run()
    outcome = run()
    assert outcome["resumed_at_step"] == STEPS - 1
    assert bits(outcome) == bits(whole)


def test_stopping_before_the_first_step_leaves_no_checkpoint(tmp_path):
    with pytest.raises(Stopped):
        Run(tmp_path)(stop_at=0)
    assert not list(tmp_path.iterdir())


def test_stopping_where_nothing_new_was_done_leaves_the_checkpoint_alone(tmp_path):
    run = Run(tmp_path)
    saved = run.stopped(4)
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in saved.iterdir()}
    assert run.stopped(0) == saved
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in saved.iterdir()} == before


def truncate(folder: Path) -> None:
    path = folder / "optimizer.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "random_states_0.pkl").unlink()


def change(**values):
    def changed(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return changed


def misplace_a_counter(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counters"]["position"] += BATCH
    path.write_text(json.dumps(manifest))


def cut_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])


DAMAGES = {
    "truncated": (truncate, "optimizer.bin does not match its hash"),
    "one bit flipped": (flip_a_bit, "pytorch_model.bin does not match its hash"),
    "file lost": (lose_a_file, "random_states_0.pkl"),
    "manifest cut": (cut_the_manifest, "manifest.json"),
    "manifest lost": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    "manifest of another shape": (change(files=[]), "manifest.json"),
    "counter changed": (misplace_a_counter, "manifest.json does not match its checksum"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog, damage):
    whole = Run(tmp_path / "whole")()
    run = Run(tmp_path / "run", checkpoint_minutes=0)
    newest = run.stopped(9)
    spoil, problem = DAMAGES[damage]
    spoil(newest)
    with caplog.at_level(logging.WARNING):
        outcome = run()
    assert [r.getMessage() for r in caplog.records if str(newest) in r.getMessage()]
    assert problem in caplog.text
    assert outcome["resumed_at_step"] == 8
    assert bits(outcome) == bits(whole)


def test_the_checkpoint_of_another_experiment_is_named_and_not_used(tmp_path, caplog):
    run = Run(tmp_path)
    run.stopped(5, name="other")
    assert run()["resumed_at_step"] == 0
    assert "step-00000005 is not used: it belongs to another experiment" in caplog.text


def test_a_checkpoint_of_more_processes_is_named_and_not_used(tmp_path, caplog, monkeypatch):
    run = Run(tmp_path)
    saved = run.stopped(5)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest.pop("checksum")
    sealed = checkpoint_module.seal({**manifest, "processes": 2})
    (saved / "manifest.json").write_text(json.dumps(sealed))
    assert run()["resumed_at_step"] == 0
    assert "step-00000005 is not used: it was written by 2 processes" in caplog.text


def test_unusable_checkpoints_do_not_crowd_out_new_ones(tmp_path):
    run = Run(tmp_path, checkpoint_minutes=0)
    run.stopped(20, name="other")
    run.stopped(4)
    saved = run.stopped(3)
    assert run()["resumed_at_step"] == 7
    assert saved.name == "step-00000020"  # foreign, and still there


def test_a_random_state_that_cannot_be_restored_stops_the_run(tmp_path, monkeypatch):
    run = Run(tmp_path)
    saved = run.stopped(6)

    def refuse(state):
        raise RuntimeError("no such generator")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "set_rng_state", refuse)  # accelerate only logs this
        with pytest.raises(
            FlopsFitError, match=f"{saved}: the state of the random generators was not restored"
        ):
            run()
    assert run()["resumed_at_step"] == 6


def test_random_states_of_gpus_on_which_it_does_not_train_are_none_of_a_run(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.stopped(6)
    states = [torch.get_rng_state()] * 2  # of a machine with two GPUs, one more than where it began
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    assert run()["resumed_at_step"] == 6


def test_temporary_folders_left_by_a_kill_are_removed_at_the_next_start(tmp_path):
    run = Run(tmp_path)
    saved = run.stopped(6)
    shutil.copytree(saved, tmp_path / ".step-00000007")
    (tmp_path / ".step-00000007" / "manifest.json").unlink()
    run.stopped(2)
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000006", "step-00000008"}


def test_a_checkpoint_that_cannot_be_written_says_where_and_leaves_the_last_one(
    tmp_path, monkeypatch
):
    run = Run(tmp_path, checkpoint_minutes=0)
    saved = run.stopped(5)
    real = checkpoint_module.os.fsync
    calls = itertools.count()

    def full(descriptor):
        if next(calls) > 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module.os, "fsync", full)
        with pytest.raises(FlopsFitError, match=rf"{tmp_path}.*No space left on device"):
            run()
    assert not list(tmp_path.glob(".*"))
    assert max(tmp_path.glob("step-*")) == saved
    assert bits(run()) == bits(Run(tmp_path / "whole")())


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    run = Run(tmp_path, checkpoint_minutes=0)
    run.stopped(7)
    run.stopped(2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000008", "step-00000009"]
