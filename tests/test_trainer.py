"""The trainer: exact D, the contract with accelerate, and sweeps that resume."""

import ast
import inspect
import json
import math
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flops_fit.trainer as trainer_module
from flops_fit.data import as_data, split_by_hash
from flops_fit.errors import FlopsFitError
from flops_fit.experiment import exact
from flops_fit.experiment.options import COSINE, TrainOptions
from flops_fit.plan.schedule import multiplier
from flops_fit.sweep import Experiment, SweepPlan
from flops_fit.trainer import TrainingRunner, train
from flops_fit.training import batches, curve, evaluation
from flops_fit.training.batches import GlobalBatches

FEATURES, CLASSES = 8, 5


class TinyModel(nn.Module):
    """A two-layer classifier; ``width`` is its size."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, CLASSES)
        )

    def forward(self, inputs):
        return self.net(inputs)

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())


@pytest.fixture
def tiny_model_cls():
    return TinyModel


@pytest.fixture
def tiny_dataset():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, FEATURES, generator=generator)
    weights = torch.randn(FEATURES, CLASSES, generator=generator)
    return TensorDataset(inputs, (inputs @ weights).argmax(1))


@pytest.fixture
def tiny_experiment(tiny_model_cls):
    params = tiny_model_cls(16).num_params()
    return Experiment("tiny", 6.0 * params * 640, 16, params, 640)


def local_train(tmp_path, experiment, dataset, loss_fn=None, **options):
    runner = TrainingRunner(output_dir=tmp_path)
    return runner._local_train(
        experiment, TinyModel, "width", {}, dataset, loss_fn or nn.CrossEntropyLoss(), **options
    )


class TestLocalTraining:
    def test_returns_three_floats_and_exactly_6nd_flops(
        self, tmp_path, tiny_experiment, tiny_dataset
    ):
        loss, flops, wall = local_train(tmp_path, tiny_experiment, tiny_dataset)
        assert all(type(value) is float for value in (loss, flops, wall))
        assert flops == 6 * tiny_experiment.num_params * tiny_experiment.num_tokens
        assert 0 < loss < 3
        assert wall > 0

    @pytest.mark.parametrize("tokens", [32, 33, 63, 64, 500, 1001])
    def test_trains_on_exactly_d_tokens_whatever_the_batch(
        self, tmp_path, tiny_experiment, tiny_dataset, tokens
    ):
        seen = []

        def counting_loss(outputs, targets):
            if outputs.requires_grad:
                seen.append(targets.numel())
            return nn.functional.cross_entropy(outputs, targets)

        experiment = replace(tiny_experiment, num_tokens=tokens)
        _, flops, _ = local_train(tmp_path, experiment, tiny_dataset, counting_loss)
        assert sum(seen) == tokens
        assert flops == 6 * experiment.num_params * tokens
        assert set(seen[:-1]) <= {32}

    def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
        self, tmp_path, tiny_experiment, tiny_dataset
    ):
        first = local_train(tmp_path, tiny_experiment, tiny_dataset)[0]
        again = local_train(tmp_path, tiny_experiment, tiny_dataset)[0]
        other = local_train(tmp_path, replace(tiny_experiment, seed=1), tiny_dataset)[0]
        assert first == again != other

    def test_epochs_bound_the_passes_over_the_data(self, tmp_path, tiny_experiment, tiny_dataset):
        with pytest.raises(FlopsFitError, match=r"needs .* passes over 168 items; allowed: 2"):
            local_train(tmp_path, tiny_experiment, tiny_dataset, epochs=2)
        local_train(tmp_path, tiny_experiment, tiny_dataset, epochs=4)

    def test_a_run_that_diverges_returns_nan_and_stops_early(
        self, tmp_path, tiny_experiment, tiny_dataset
    ):
        def overflowing(outputs, targets):
            return nn.functional.cross_entropy(outputs, targets) / 0.0

        experiment = replace(tiny_experiment, num_tokens=32 * 1000)
        loss, flops, _ = local_train(tmp_path, experiment, tiny_dataset, overflowing)
        assert math.isnan(loss)
        assert flops < 6 * experiment.num_params * experiment.num_tokens

    def test_the_divergence_names_its_step_and_the_last_good_loss(self, tiny_dataset):
        def explodes_at_step_4(model, lr):
            calls = []
            model.register_forward_hook(
                lambda m, i, o: calls.append(0) or (o * math.inf if len(calls) > 3 else o)
            )
            return torch.optim.SGD(model.parameters(), lr=lr)

        outcome = train(
            "bad",
            lambda: TinyModel(4),
            as_data(tiny_dataset),
            nn.CrossEntropyLoss(),
            explodes_at_step_4,
            TrainOptions(tokens=320, batch_items=32, learning_rate=0.1),
        )
        assert outcome["status"] == "diverged"
        assert outcome["reason"].startswith("the loss of step 4 is not finite; last good loss: 1.")
        assert len(outcome["loss_curve"]["loss"]) == 3
        assert outcome["final_loss"] is None

    def test_a_d_inside_an_item_needs_a_loss_that_ignores_targets(self):
        class Sequences(torch.utils.data.Dataset):
            def __len__(self):
                return 100

            def __getitem__(self, i):
                return torch.randn(4, FEATURES), torch.randn(4, CLASSES)

        options = TrainOptions(tokens=4 * CLASSES * 10 + 3, batch_items=2, learning_rate=0.1)
        with pytest.raises(FlopsFitError, match="allowed: 200 or 220"):
            train(
                "cut",
                lambda: TinyModel(4),
                as_data(Sequences()),
                nn.MSELoss(),
                lambda m, lr: torch.optim.SGD(m.parameters(), lr=lr),
                options,
            )

    def test_a_batch_smaller_than_the_world_names_the_allowed_numbers(self, tiny_dataset):
        class World:
            num_processes, device = 4, torch.device("cpu")

        options = TrainOptions(tokens=30, batch_items=3, learning_rate=0.1)
        with pytest.raises(FlopsFitError, match="at least 4 items, or at most 3 processes"):
            trainer_module.check_accelerator(World(), options)

    def test_a_dataloader_lends_its_dataset_and_collate_function(
        self, tmp_path, tiny_experiment, tiny_dataset
    ):
        stacked = []

        def collate(items):
            stacked.append(len(items))
            return torch.utils.data.default_collate(items)

        loader = DataLoader(tiny_dataset, batch_size=3, shuffle=True, collate_fn=collate)
        by_loader = local_train(tmp_path, tiny_experiment, loader)[0]
        assert by_loader == local_train(tmp_path, tiny_experiment, tiny_dataset)[0]
        assert max(stacked) == 32  # `batch_size` always means the global batch

    def test_the_learning_rate_curve_is_the_schedule_over_tokens(self, tiny_dataset):
        options = TrainOptions(tokens=320, batch_items=32, learning_rate=0.5)
        outcome = train(
            "curve",
            lambda: TinyModel(4),
            as_data(tiny_dataset),
            nn.CrossEntropyLoss(),
            lambda m, lr: torch.optim.SGD(m.parameters(), lr=lr),
            options,
        )
        expected = [0.5 * multiplier((i + 0.5) / 10, COSINE) for i in range(10)]
        assert outcome["loss_curve"]["learning_rate"] == pytest.approx(expected, rel=1e-12)
        assert outcome["loss_curve"]["tokens"] == [32 * (i + 1) for i in range(10)]

    def test_accumulation_trains_the_same_model_as_whole_batches(self, tiny_dataset):
        def run(micro):
            options = TrainOptions(
                tokens=37 * 20, batch_items=37, learning_rate=0.01, micro_batch_items=micro
            )
            return train(
                "micro",
                lambda: TinyModel(8),
                as_data(tiny_dataset),
                nn.CrossEntropyLoss(),
                lambda m, lr: torch.optim.AdamW(m.parameters(), lr),
                options,
            )

        whole, parts = run(None), run(5)
        np.testing.assert_allclose(
            parts["loss_curve"]["loss"], whole["loss_curve"]["loss"], rtol=1e-5
        )
        assert parts["tokens_seen"] == whole["tokens_seen"] == 37 * 20


class RecordingAccelerator(trainer_module.Accelerator):
    """The real accelerator, with a note of what was asked of it."""

    made: list = []  # noqa: RUF012

    def __init__(self, *args, **kwargs):
        self.calls: list = []
        self.models: list = []
        type(self).made.append(self)
        super().__init__(*args, **kwargs)

    def prepare(self, *objects, **kwargs):
        self.calls.append(("prepare", [type(o) for o in objects]))
        self.models += [weakref.ref(o) for o in objects if isinstance(o, nn.Module)]
        return super().prepare(*objects, **kwargs)

    def backward(self, loss, **kwargs):
        self.calls.append(("backward", None))
        return super().backward(loss, **kwargs)

    def unwrap_model(self, model, **kwargs):
        self.calls.append(("unwrap_model", None))
        return super().unwrap_model(model, **kwargs)

    def reduce(self, *args, **kwargs):
        self.calls.append(("reduce", None))
        return super().reduce(*args, **kwargs)

    def gather(self, *args, **kwargs):
        self.calls.append(("gather", None))
        return super().gather(*args, **kwargs)

    def free_memory(self, *objects):
        alive = [model() is not None for model in self.models]
        self.calls.append(("free_memory", alive))
        return super().free_memory(*objects)


class TestAccelerateIntegration:
    def test_local_train_uses_accelerator(
        self, tmp_path, tiny_experiment, tiny_dataset, monkeypatch
    ):
        monkeypatch.setattr(RecordingAccelerator, "made", [])
        monkeypatch.setattr(trainer_module, "Accelerator", RecordingAccelerator)
        for _ in range(2):
            local_train(tmp_path, tiny_experiment, tiny_dataset)
        assert len(RecordingAccelerator.made) == 2  # one for each experiment
        for accelerator in RecordingAccelerator.made:
            names = [name for name, _ in accelerator.calls]
            prepared = [kinds for name, kinds in accelerator.calls if name == "prepare"]
            assert any(TinyModel in kinds and torch.optim.AdamW in kinds for kinds in prepared)
            assert names.count("backward") == tiny_experiment.num_tokens // 32
            assert names.index("unwrap_model") > names.index("prepare")
            assert {"reduce", "gather"} <= set(names)
            assert accelerator.calls[-1] == ("free_memory", [True])

    def test_local_train_no_manual_device_placement(self):
        calls = {
            node.func.attr
            for module in (trainer_module, exact, evaluation, curve, batches)
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert "prepare" in calls
        assert not calls & {"to", "cuda", "cpu_offload", "to_empty"}
        assert "from accelerate import Accelerator" in inspect.getsource(trainer_module)

    def test_sweep_results_json_written_once(
        self, tmp_path, tiny_experiment, tiny_dataset, monkeypatch
    ):
        plan = SweepPlan(experiments=[tiny_experiment, replace(tiny_experiment, experiment_id="b")])
        arguments = (plan, TinyModel, "width", {}, tiny_dataset, nn.CrossEntropyLoss())
        monkeypatch.setenv("RANK", "1")
        records = TrainingRunner(tmp_path).run_sweep_from_plan(*arguments)
        assert len(records) == 2
        assert not (tmp_path / "results.json").exists()
        monkeypatch.delenv("RANK")
        for _ in range(2):
            TrainingRunner(tmp_path).run_sweep_from_plan(*arguments)
        stored = json.loads((tmp_path / "results.json").read_text())
        assert [record["experiment_id"] for record in stored] == ["tiny", "b"]

    def test_accelerate_backward_compatibility(self, tiny_dataset):
        """A plain loop without accelerate gives the same losses, bit for bit."""
        train_part, heldout = split_by_hash(tiny_dataset)
        options = TrainOptions(tokens=640, batch_items=32, learning_rate=0.01, seed=3)
        outcome = train(
            "same",
            lambda: TinyModel(16),
            as_data(tiny_dataset),
            nn.CrossEntropyLoss(),
            lambda m, lr: torch.optim.AdamW(m.parameters(), lr=lr),
            options,
        )

        torch.manual_seed(3)
        model = TinyModel(16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        order = GlobalBatches(len(train_part), 32, 640, seed=3).indices(0, 640)
        losses = []
        for step in range(20):
            items = [train_part[int(i)] for i in order[32 * step : 32 * (step + 1)]]
            inputs, targets = (torch.stack(column) for column in zip(*items, strict=True))
            optimizer.param_groups[0]["lr"] = 0.01 * multiplier((step + 0.5) / 20, COSINE)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert outcome["loss_curve"]["loss"] == losses
        with torch.no_grad():
            inputs, targets = (torch.stack(c) for c in zip(*heldout, strict=True))
            expected = nn.functional.cross_entropy(model(inputs), targets).item()
        assert outcome["final_loss"] == pytest.approx(expected, rel=1e-6)

    def test_get_device_still_answers(self, tmp_path):
        assert isinstance(TrainingRunner(tmp_path)._get_device(), torch.device)

    def test_model_and_dataset_stay_unmodified(self, tmp_path, tiny_experiment, tiny_dataset):
        before = {**vars(tiny_dataset)}
        methods = set(vars(TinyModel))
        local_train(tmp_path, tiny_experiment, tiny_dataset)
        assert vars(tiny_dataset) == before
        assert set(vars(TinyModel)) == methods


class TestSweep:
    @pytest.fixture
    def sweep(self, tmp_path, tiny_experiment, tiny_dataset, monkeypatch):
        """Runs a one-experiment sweep and says how many experiments were really trained."""
        trained = []
        real = trainer_module.train
        monkeypatch.setattr(
            trainer_module,
            "train",
            lambda name, *a, **k: trained.append(name) or real(name, *a, **k),
        )

        def run(model_cls=TinyModel, **options):
            trained.clear()
            plan = SweepPlan(experiments=[tiny_experiment])
            records = TrainingRunner(tmp_path).run_sweep_from_plan(
                plan, model_cls, "width", {}, tiny_dataset, nn.CrossEntropyLoss(), **options
            )
            return [name for name in trained if name != "check"], records

        return run

    def test_a_finished_experiment_is_not_trained_again(self, sweep):
        assert sweep()[0] == ["tiny"]
        assert sweep()[0] == []
        assert sweep(resume=False)[0] == ["tiny"]

    def test_other_settings_under_the_same_id_are_trained_and_that_is_said(self, sweep, capsys):
        sweep()
        trained, records = sweep(learning_rate=0.02)
        assert trained == ["tiny"]
        assert "tiny was trained with other settings" in capsys.readouterr().err
        assert records[0]["identity"]["learning_rate"] == 0.02

    def test_another_model_under_the_same_id_is_trained(self, sweep):
        class Other(TinyModel):
            pass

        sweep()
        assert sweep(model_cls=Other)[0] == ["tiny"]

    def test_batch_norm_over_parts_of_a_batch_is_said(self, sweep, capsys):
        class Normalised(TinyModel):
            def __init__(self, width):
                super().__init__(width)
                self.norm = nn.BatchNorm1d(3)

        sweep(Normalised)
        assert "normalises" not in capsys.readouterr().err
        sweep(Normalised, resume=False, micro_batch_items=4)
        assert "BatchNorm1d normalises over 4 of the 32 items of a batch" in capsys.readouterr().err

    def test_a_broken_results_file_is_named_and_kept(self, sweep, tmp_path, capsys):
        sweep()
        (tmp_path / "results.json").write_text("[{")
        assert sweep()[0] == ["tiny"]
        assert "results.json is broken" in capsys.readouterr().err
        assert (tmp_path / "results.json.corrupt").read_text() == "[{"


def test_a_training_job_imports_no_plotting_or_table_library():
    code = (
        "import sys, flops_fit.jobs.job, flops_fit.trainer\n"
        "print([m for m in ('matplotlib', 'pandas', 'scipy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
