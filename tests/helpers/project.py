"""A user's own sweep in a folder of its own, driven through the real Snakemake and read back.

Everything lies below one root: ``checkout`` (a copy of this repository's workflow and package, so
that a test may edit them) and ``work`` (the user's folder, with a model, data, loss and optimiser
of their own). `Project.run` starts Snakemake as a user would and says which jobs ran.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {
    "mymodel.py": """\
from torch import nn


class Net(nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width, bias), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x)
""",
    "mydata.py": """\
import os
import time

import numpy
import torch
from torch.utils.data import Dataset


class Points(Dataset):
    def __init__(self, file):
        table = torch.from_numpy(numpy.loadtxt(file, delimiter=",", dtype="float32"))
        self.inputs, self.targets = table[:, :-1], table[:, -1].long()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        time.sleep(float(os.environ.get("SECONDS_PER_ITEM", 0)))
        return self.inputs[index], self.targets[index]
""",
    "myloss.py": """\
import torch.nn.functional as F


def loss(outputs, targets):
    return F.cross_entropy(outputs, targets)
""",
    "myoptimizer.py": """\
import os

import torch


def sgd(model, lr):
    if model.layers[0].out_features == int(os.environ.get("FAILING_WIDTH", 0)):
        raise RuntimeError("this width is not for me")
    return torch.optim.SGD(model.parameters(), lr=lr)
""",
}
SWEEP = {
    "name": "own",
    "model": {"factory": "mymodel:Net", "size_param": "width"},
    "dataset": {"factory": "mydata:Points", "kwargs": {"file": "points.csv"}},
    "loss": {"function": "myloss:loss"},
    "optimizer": {"factory": "myoptimizer:sgd"},
    "budgets": [1e5, 2e5],
    "sizes": {"per_budget": {"1e5": [4, 8, 16], "2e5": [4, 8, 16]}},
    "batch": {"value": 32},
    "learning_rate": {"value": 0.1},
    "evaluation": {"tokens": 32},
    "limits": {"min_steps": 4, "max_epochs": 20},
    "fit": {"bootstrap": 0},
}
TABLES = ("--until", "collect_runs")  # saves the seconds of fit, plot and report
CELLS = {
    "width4-D640-s0",
    "width8-D320-s0",
    "width16-D160-s0",
    "width4-D1.25e3-s0",
    "width8-D640-s0",
    "width16-D320-s0",
}
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
TOTAL = re.compile(r"^total +(\d+)$", re.MULTILINE)
# The command line of what may be at work beside Snakemake while runs train.
WORK = re.compile(r"flops_fit train|flops_fit\.jobs\.(job|server)|-c from multiprocessing\.")
RESTORED = "restored from its record"


@dataclass(frozen=True)
class Outcome:
    """What one call of Snakemake did, or under ``-n`` would do."""

    status: int
    output: str
    jobs: list[tuple[str, str]]  # (rule, the run's id or "")
    trained: set[str]  # experiments, such as "width8-D640-s0"
    restored: set[str]

    @property
    def rules(self) -> set[str]:
        return {rule for rule, _ in self.jobs}


def asks(rule: str) -> bool:
    """Whether a rule only asks for files, here or in a module."""
    return rule.removeprefix("flops_fit_") in ("all", "everything")


def label(experiment_id: str) -> str:
    """An id without the model's name and the hash: the cell of the grid."""
    return experiment_id.split("-", 1)[1].rsplit("-", 1)[0]


class Project:
    """A checkout and a user's folder below ``root``."""

    def __init__(self, root: Path):
        self.root = root
        self.checkout, self.work = root / "checkout", root / "work"
        self.results = self.work / "results"
        self.runs = self.results / "runs"

    @classmethod
    def create(cls, root: Path) -> "Project":
        project = cls(root)
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("workflow", "profiles", "envs", "src"):
            shutil.copytree(REPOSITORY / name, project.checkout / name, symlinks=True, ignore=skip)
        shutil.copy2(REPOSITORY / "Snakefile", project.checkout)
        project.work.mkdir()
        for name, text in MODULES.items():
            (project.work / name).write_text(text)
        (project.work / "points.csv").write_text(points(200))
        project.configure()
        return project

    def configure(self, config: str = "sweep.yaml", **changes) -> None:
        """Write a config: `SWEEP` with top-level keys replaced."""
        (self.work / config).write_text(yaml.safe_dump({**SWEEP, **changes}))

    def command(self, *arguments: str, config: str = "sweep.yaml") -> list[str]:
        return [
            sys.executable,
            "-m",
            "snakemake",
            *arguments,
            "--cores",
            "2",
            "--snakefile",
            str(self.checkout / "Snakefile"),
            "--directory",
            str(self.work),
            "--configfile",
            str(self.work / config),
        ]

    def environment(self, **variables: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.checkout / "src"), **variables}

    def run(
        self,
        *arguments: str,
        config: str = "sweep.yaml",
        succeeds: bool = True,
        cwd: Path | None = None,
        **variables: str,
    ) -> Outcome:
        """Run Snakemake from ``cwd`` (by default outside the user's folder) and wait for its end."""
        done = subprocess.run(
            self.command(*arguments, config=config),
            cwd=cwd or self.root,
            text=True,
            timeout=900,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode == 0) == succeeds, done.stdout
        return self.outcome(done.returncode, done.stdout, dry="-n" in arguments)

    def dry_run(self, *arguments: str, **options) -> Outcome:
        """What would run now."""
        return self.run("-n", *arguments, **options)

    def outcome(self, status: int, output: str, dry: bool = False) -> Outcome:
        jobs = [(rule, _wildcard(body)) for rule, body in JOB.findall(output) if not asks(rule)]
        if status == 0:  # Snakemake's own count guards this reading of its output
            total = TOTAL.search(output)
            counted = int(total[1]) if total else 0
            assert counted - len(jobs) == sum(asks(rule) for rule, _ in JOB.findall(output))
        ids = [experiment for rule, experiment in jobs if rule == "train_run"]
        restored = {i for i in ids if (self._has_record(i) if dry else self._was_restored(i))}
        trained = [label(i) for i in ids if i not in restored]
        assert len(trained) == len(set(trained)), output
        return Outcome(status, output, jobs, set(trained), set(map(label, restored)))

    def _was_restored(self, experiment_id: str) -> bool:
        log = self.runs / experiment_id / "train.log"
        return log.exists() and RESTORED in log.read_text()

    def _has_record(self, experiment_id: str) -> bool:
        try:
            return "checksum" in json.loads((self.runs / experiment_id / "record.json").read_text())
        except (OSError, ValueError):
            return False

    def ids(self) -> set[str]:
        """Every experiment that has a result."""
        return {path.parent.name for path in self.runs.glob("*/result.json")}

    def run_folder(self, cell: str) -> Path:
        (folder,) = (path for path in self.runs.iterdir() if label(path.name) == cell)
        return folder

    def edit(self, path: Path, old: str, new: str) -> None:
        """Replace the one place in a file where ``old`` stands."""
        text = path.read_text()
        assert text.count(old) == 1, f"{path}: {old!r} stands {text.count(old)} times"
        path.write_text(text.replace(old, new))


def _wildcard(body: str) -> str:
    found = re.search(r"^    wildcards: id=(\S+)$", body, re.MULTILINE)
    return found[1] if found else ""


def sizes(small=(4, 8, 16), large=(4, 8, 16)) -> dict:
    return {"per_budget": {"1e5": list(small), "2e5": list(large)}}


def restored(trained) -> Project:
    """Put the trained project back as it was: same paths, same times, same bytes."""
    project, snapshot, _ = trained
    shutil.rmtree(project.root)
    copy(snapshot, project.root)
    return project


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def points(rows: int) -> str:
    """A CSV that can be learnt: four numbers and the index of the largest."""
    generator = random.Random(0)
    lines = []
    for _ in range(rows):
        values = [generator.gauss(0, 1) for _ in range(4)]
        lines.append(",".join(f"{v:.4f}" for v in values) + f",{values.index(max(values))}\n")
    return "".join(lines)
