"""The same folder again: old results are returned for what is the same, and for nothing else."""

import gc
import json
import os
import random
import re
import subprocess
import threading
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from flops_fit import FlopsFitError, find_optimal, trainer
from flops_fit.data import as_data
from flops_fit.experiment.options import DecidingOptions, TrainOptions
from flops_fit.jobs.launcher import launcher
from flops_fit.plugins import content
from flops_fit.training import local_identity
from flops_fit.training.local import Call

GAIN = {"value": 1.0}


class Net(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x) * GAIN["value"]


class Other(Net):
    def forward(self, x):
        return self.layers(x).tanh()


def points(label: int = 0) -> TensorDataset:
    """Inputs and labels of 2000 items, of which item 52 has the given one."""
    inputs = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs.argmax(1)
    targets[52] = label
    return TensorDataset(inputs, targets)


class Noisy(Dataset):
    """Random augmentation, a cache that fills, and a count of what was read."""

    def __init__(self, noise=0.1, generator=None):
        self.points, self.noise, self.generator = points(), noise, generator or random.Random(1)
        self.cache, self.read = {}, 0

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        self.read += 1
        inputs, target = self.cache.setdefault(index, self.points[index])
        return inputs + self.noise * torch.randn(4) + self.generator.random(), target


class Stream(IterableDataset):
    def __init__(self, first=0):
        self.first, self.position = first, 0

    def __iter__(self):
        data = points()
        while True:
            self.position += 1
            yield data[(self.first + self.position) % len(data)]


class Guarded:
    """A loss that holds a lock."""

    def __init__(self, smoothing=0.0):
        self.guard, self.smoothing = threading.Lock(), smoothing

    def __call__(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=self.smoothing)


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """accelerate collects garbage after every run: without what the imports have made."""
    gc.freeze()
    yield
    gc.unfreeze()


class Asked:
    """A sweep of one experiment, asked for as often as a test likes."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys, self.records = folder, capsys, []
        self.results = folder / "results.json"

    def __call__(self, model=Net, dataset=None, loss=None, **options):
        """How many runs were reused and trained, and what was said."""
        self.capsys.readouterr()
        settings = {"compute_budgets": [1e5], "sizes": [4], **options}
        self.records = find_optimal(
            model,
            "width",
            dataset=dataset or points(),
            loss_fn=loss or nn.CrossEntropyLoss(),
            evaluation_tokens=64,
            progress=False,
            output_dir=self.folder,
            **settings,
        ).records
        said = self.capsys.readouterr().err
        counts = re.search(r"runs: (\d+) reused from .*, (\d+) trained", said)
        return int(counts[1]), int(counts[2]), said


@pytest.fixture
def ask(tmp_path, capsys):
    return Asked(tmp_path, capsys)


@pytest.fixture(scope="module")
def trained_before():
    return {}


@pytest.fixture
def ask_again(ask, trained_before):
    """As `ask`, in a folder that holds the results of an earlier call."""
    if not trained_before:
        ask()
        trained_before["results"] = ask.results.read_text()
    ask.results.write_text(trained_before["results"])
    return ask


def test_what_is_made_anew_and_equal_is_reused_and_that_is_said(ask):
    two = {"compute_budgets": [1e5, 2e5]}
    assert ask(**two)[:2] == (0, 2)
    before = ask.records
    reused, trained, said = ask(**two)
    assert (reused, trained) == (2, 0)
    assert ask.records == before
    assert f"runs: 2 reused from {ask.results}, 0 trained" in said
    assert ask(compute_budgets=[1e5, 2e5, 3e5])[:2] == (2, 1)
    reused, trained, said = ask(model=Other, **two)
    assert (reused, trained) == (0, 2)
    assert "and 1 more were trained with another model; training again" in said


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"model": Other}),
        ("model_kwargs", {"model_kwargs": {"depth": 2}}),
        ("dataset", {"dataset": points(label=1)}),
        ("loss_fn", {"loss": nn.CrossEntropyLoss(label_smoothing=0.3)}),
        ("optimizer", {"optimizer": lambda model, lr: torch.optim.SGD(model.parameters(), lr)}),
    ],
)
def test_another_part_is_trained_again_and_named(ask_again, part, change):
    reused, trained, said = ask_again(**change)
    assert (reused, trained) == (0, 1)
    assert f"was trained with another {part}; training again" in said
    assert ask_again(**change)[:2] == (1, 0)


def test_a_global_that_the_model_names_is_part_of_it(ask_again, monkeypatch):
    monkeypatch.setitem(GAIN, "value", 2.0)
    assert ask_again()[:2] == (0, 1)


def test_a_method_of_a_library_that_was_replaced_is_part_of_the_model(ask_again, monkeypatch):
    original = nn.Linear.reset_parameters
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: original(self))
    assert ask_again()[:2] == (0, 1)


def test_a_loss_that_was_edited_by_hand_is_not_believed(ask_again):
    records = json.loads(ask_again.results.read_text())
    records[0]["final_loss"] -= 0.1
    ask_again.results.write_text(json.dumps(records))
    reused, trained, said = ask_again()
    assert (reused, trained) == (0, 1)
    assert f"edited by hand: {records[0]['experiment_id']}; these runs are trained again" in said


def test_every_option_either_decides_a_result_or_is_a_resource():
    resources = {
        "max_epochs",
        "processes",
        "gpus",
        "micro_batch_items",
        "compile",
        "progress",
        "activation_checkpointing",
        "checkpoint_minutes",
        "loader_workers",
        "log_with",
        "checkpoint_store",
    }
    deciding = {field.name for field in fields(DecidingOptions)}
    assert {field.name for field in fields(TrainOptions)} == resources | deciding
    assert resources.isdisjoint(deciding)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.02}, {"clip_norm": 1.0}, {"precision": "bf16"}]
)
def test_another_setting_is_trained_again_and_said(ask_again, change):
    reused, trained, said = ask_again(**change)
    assert (reused, trained) == (0, 1)
    assert "was trained with other settings; training again" in said


class TestData:
    def test_augmentation_caches_and_counters_are_no_change(self, ask):
        data = Noisy()
        assert ask(dataset=data)[:2] == (0, 1)
        assert ask(dataset=data)[:2] == (1, 0)
        assert ask(dataset=data)[:2] == (1, 0)
        assert ask(dataset=Noisy())[:2] == (1, 0)

    @pytest.mark.parametrize(
        "other", [lambda: Noisy(noise=0.2), lambda: Noisy(generator=random.Random(2))]
    )
    def test_another_noise_or_generator_is_a_change(self, ask, other):
        ask(dataset=Noisy())
        assert ask(dataset=other())[:2] == (0, 1)

    def test_streams_by_their_state_and_their_first_items(self, ask):
        assert ask(dataset=(Stream(), points()))[:2] == (0, 1)
        assert ask(dataset=(Stream(), points()))[:2] == (1, 0)
        assert ask(dataset=(Stream(first=7), points()))[:2] == (0, 1)

    def test_a_stream_is_not_consumed(self, tmp_path):
        stream = Stream()
        identity(tmp_path, as_data((stream, points())))
        assert stream.position == 0

    def test_the_function_that_stacks_items(self, tmp_path):
        def stacked(scale):
            return torch.utils.data.DataLoader(points(), collate_fn=lambda items: scale)

        contents = [identity(tmp_path, as_data(stacked(scale))).content for scale in (1, 1, 2)]
        assert contents[0] == contents[1]
        assert [p for p in contents[0] if contents[0][p] != contents[2][p]] == ["collate"]

    def test_an_item_that_cannot_be_read_is_named(self, tmp_path):
        class Broken(Noisy):
            def __getitem__(self, index):
                raise OSError("gone")

        refused = identity(tmp_path, as_data(Broken())).refused
        assert refused == ["dataset[0] cannot be read (OSError: gone)"]


def identity(folder, data):
    call = Call(Net, "width", {}, data, nn.CrossEntropyLoss(), None)
    return local_identity.LocalIdentity.of(call, folder)


def test_the_objects_are_hashed_once_for_a_call(ask, monkeypatch):
    made = []
    real = local_identity.LocalIdentity.of
    monkeypatch.setattr(local_identity.LocalIdentity, "of", lambda *a: made.append(1) or real(*a))
    assert ask(seeds=(0, 1, 2))[:2] == (0, 3)
    assert len(made) == 1


class TestTrust:
    def test_what_cannot_be_hashed_counts_as_changed_and_is_named(self, ask):
        assert "loss_fn.guard is a lock" in ask(loss=Guarded())[2]
        reused, trained, said = ask(loss=Guarded())
        assert (reused, trained) == (0, 1)
        assert (
            "loss_fn.guard is a lock, which cannot be compared with an earlier call: every run is "
            'trained; resume="trust" assumes that it is unchanged' in said
        )

    def test_trust_takes_it_as_unchanged_and_compares_the_rest(self, ask):
        ask(loss=Guarded())
        reused, trained, said = ask(loss=Guarded(), resume="trust")
        assert (reused, trained) == (1, 0)
        assert "it is assumed to be unchanged" in said
        assert ask(loss=Guarded(smoothing=0.3), resume="trust")[:2] == (0, 1)

    def test_another_python_is_called_so_and_can_be_trusted(self, ask_again):
        ask, path = ask_again, ask_again.results
        records = json.loads(path.read_text())
        for record in records:  # as another Python would have left them
            record["hash"] = "0"
            record["identity"]["python"] = "3.9"
            record["identity"]["content"]["model"] = "0-py3.9"
        path.write_text(json.dumps(records))
        assert ask(resume="trust")[:2] == (1, 0)
        assert ask(resume="trust", dataset=points(label=1))[:2] == (0, 1)
        path.write_text(json.dumps(records))
        reused, _, said = ask()
        assert reused == 0
        assert f"trained with another Python (3.9, this is {content.PYTHON})" in said

    def test_other_words_are_refused(self, ask):
        with pytest.raises(FlopsFitError, match="resume: 'always'; allowed: True, False, 'trust'"):
            ask(resume="always")


def test_results_of_before_are_trained_again(ask_again):
    ask = ask_again
    records = json.loads(ask.results.read_text())
    for record in records:
        record["hash"], record["identity"] = (
            "0",
            {"model": {"reference": "net:Net", "source": "unknown"}},
        )
    ask.results.write_text(json.dumps(records))
    reused, trained, said = ask()
    assert (reused, trained) == (0, 1)
    assert "trained with an older version of flops-fit" in said


@pytest.mark.parametrize(
    ("other", "resumed"),
    [
        ({}, True),
        ({"model": Other}, False),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.3)}, False),
        ({"dataset": points(label=1)}, False),
        ({"loss": Guarded()}, False),
    ],
)
def test_a_checkpoint_of_an_interrupted_run_is_resumed_by_the_same_content_alone(
    ask, monkeypatch, other, resumed
):
    first = {"loss": Guarded()} if isinstance(other.get("loss"), Guarded) else {}
    often = {"checkpoint_minutes": 0}
    calls = iter(range(6))

    real = trainer.call_model
    with monkeypatch.context() as context:

        def stopped(model, inputs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(model, inputs)

        context.setattr(trainer, "call_model", stopped)
        with pytest.raises(KeyboardInterrupt):
            ask(**first, **often)
    assert ask(**other, **often)[:2] == (0, 1)
    assert (ask.records[0]["resumed_at_step"] > 0) == resumed


@pytest.mark.seconds
def test_processes_of_a_launched_script_train_together_even_where_their_objects_differ(tmp_path):
    """Ranks that disagreed on what is new would wait for each other for ever, or train alone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, torch\n"
        "from torch import nn\n"
        "from flops_fit import find_optimal\n"
        "RANK = int(os.environ['RANK'])\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, width)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x) if RANK < 9 else x\n"
        "data = torch.utils.data.TensorDataset(torch.ones(200, 4), torch.arange(200) % 4)\n"
        "for _ in range(2):\n"
        "    record = find_optimal(Net, 'width', dataset=data, loss_fn=nn.CrossEntropyLoss(),\n"
        "                          compute_budgets=[1e5], sizes=[4], output_dir='out').records[0]\n"
        "    with open(f'rank{RANK}.jsonl', 'a') as file:\n"
        "        print(json.dumps([record['processes'], record['hash']]), file=file)\n"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launcher(2, 1, 0), script], env=environment, cwd=tmp_path, check=True, timeout=600
    )
    lines = [(tmp_path / f"rank{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert len({*lines[0], *lines[1]}) == 1
    assert json.loads(lines[0][0])[0] == 2
