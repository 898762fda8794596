"""One planned experiment of a tiny model, run in this process as the launcher would run it."""

import ctypes
import json
import os
import sys
from pathlib import Path

from flops_fit.config.complete import complete_config
from flops_fit.jobs import job
from flops_fit.plan.planner import make_plan

MODULE = """\
import os, signal
import torch
from torch import nn
from torch.utils.data import TensorDataset

steps = 0


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        global steps
        steps += 1
        event = os.environ.get("EVENT") if steps == int(os.environ.get("STEP", 0)) else None
        if event == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if event == "bug":
            raise ZeroDivisionError("a bug of mine")
        if event == "hash":
            with open(os.environ["HASH_FILE"], "w") as file:
                file.write(str(hash("a")))
        if event == "late":
            open(os.path.join(os.path.dirname(__file__), "late.txt")).read()
        if event and event.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, event))
        return self.layers(x) * (float("nan") if event == "nan" else 1.0)


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 4, generator=generator)
    dataset = TensorDataset(inputs, inputs.argmax(1))
    return dataset
"""


def config_of(name: str, module: str, **changes) -> dict:
    """The config of a sweep ``name`` of one run, whose model and data are in ``module``.

    ``changes`` are further keys of it.
    """
    return complete_config(
        {
            "name": name,
            "model": {"factory": f"{module}:Net", "size_param": "width"},
            "dataset": {"factory": f"{module}:data"},
            "budgets": [1e5],
            "sizes": {"values": [8]},
            "batch": {"value": 8},
            "learning_rate": {"value": 0.01},
            "evaluation": {"tokens": 32},
            "limits": {"max_epochs": 20},
            **changes,
        }
    )


class Job:
    """A planned experiment that `flops_fit.jobs.job` is run on, as the launcher would."""

    def __init__(self, root: Path, monkeypatch, code: str = "", **changes):
        (root / "jobplugin.py").write_text(MODULE + code)
        monkeypatch.delitem(sys.modules, "jobplugin", raising=False)  # that of another test
        monkeypatch.setattr(sys, "path", [*sys.path])
        config = config_of("job", "jobplugin", **changes)
        (experiment,) = make_plan(config, root / "results", [str(root)]).experiments
        self.id = experiment.experiment_id
        self.results = root / "results"
        self.folder = self.results / "runs" / self.id
        self.spec = self.results / ".plan" / "specs" / f"{self.id}.json"
        self.set = monkeypatch.setenv
        for name, value in {"PROCESSES": 1, "GPUS": 0, "LAUNCHER": os.getppid()}.items():
            self.set(f"FLOPS_FIT_{name}", str(value))

    def command(self, processes: int) -> list[str]:
        """The line that starts its job as the workflow does."""
        places = ["--spec", str(self.spec), "--out", str(self.folder / "result.json")]
        places += ["--results", str(self.results), "--processes", str(processes)]
        return [sys.executable, "-m", "flops_fit", "train", *places]

    def __call__(self, event: str = "", step: int = 4) -> int:
        """The job's status; ``event`` happens in the ``step``-th pass through the model."""
        self.set("EVENT", event)
        self.set("STEP", str(step))
        sys.modules["jobplugin"].steps = 0
        try:
            return job.main([str(self.spec), str(self.folder / "result.json"), str(self.results)])
        finally:
            if (
                sys.platform == "linux"
            ):  # a job is asked to stop when its parent dies; a test is not
                ctypes.CDLL(None).prctl(1, 0)

    def record(self) -> dict:
        return json.loads((self.folder / "record.json").read_text())

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}
