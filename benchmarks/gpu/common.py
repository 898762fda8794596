"""What the parts of the benchmark share: the machine, the product's commands, and lines of results."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLUGINS = "gpu_plugins"  # the module in this folder that the configs name


@dataclass(frozen=True)
class Scale:
    """How large the small runs of all parts are: of a GPT of flops_fit.examples.gpt_large.

    ``kwargs`` are those of the model, ``sizes`` are depths, ``items`` make a batch, and ``steps`` a run.
    """

    kwargs: dict[str, int]
    sizes: tuple[int, ...]
    items: int
    steps: int


FULL = Scale({"vocab_size": 4096, "seq_len": 256}, (2, 4, 6), 32, 100)
TINY = Scale({"vocab_size": 64, "seq_len": 16, "aspect": 16, "head_dim": 16}, (1,), 8, 12)


@dataclass(frozen=True)
class Bench:
    """One part at work: the number of the ``part``, its ``device``, its folder and file of lines.

    ``device`` is cuda or cpu, and on a CPU everything is tiny.
    """

    part: int
    device: str
    work: Path
    lines: Path

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def gpus(self) -> int:
        return int(self.gpu)

    @property
    def scale(self) -> Scale:
        return FULL if self.gpu else TINY

    def note(self, what: str, figure: str, command: str, holds: bool | None = None) -> None:
        """Add a line of results; ``holds`` says whether what must hold does (None: no bound)."""
        line = {"part": self.part, "what": what, "figure": figure, "command": command}
        with self.lines.open("a") as file:
            print(json.dumps(line | {"holds": holds}), file=file)
        mark = {True: "ok", False: "MISSED", None: "-"}[holds]
        print(f"  {self.part}  {mark:6}  {what}: {figure}", flush=True)

    def needs_gpu(self, what: str) -> bool:
        """Whether there is a GPU; where there is none, the line of ``what`` says so."""
        if not self.gpu:
            self.note(what, "needs a GPU", "-")
        return self.gpu


class Failed(Exception):
    """A command of the product ended with an error."""


def call(line: list[str], folder: Path, accepted: tuple[int, ...] = (0,), **variables: str) -> str:
    """What a command prints, run in ``folder``; raises `Failed` with its last lines."""
    environment = {**os.environ, **variables}
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in accepted:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Failed(f"{' '.join(line[1:5])} ended with {done.returncode}: {''.join(last)}")
    return done.stdout


def flops_fit(*arguments: object) -> list[str]:
    """The line of a command of the product, with this Python."""
    return [sys.executable, "-m", "flops_fit", *map(str, arguments)]


class Sweep:
    """A sweep in a folder of its own, planned and trained by the product's commands."""

    def __init__(self, bench: Bench, name: str, config: dict[str, Any]):
        self.bench, self.name = bench, name
        self.folder = bench.work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = {"name": name, **config}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(self.config))
        self.rows = self.plan()

    def plan(self) -> list[dict[str, Any]]:
        """The experiments of the plan, with all columns of ``flops-fit plan --json``."""
        line = flops_fit("plan", "--config", "sweep.yaml", "--search-path", HERE, "--json")
        return json.loads(call(line, self.folder))["experiments"]

    @property
    def ids(self) -> list[str]:
        return [row["experiment_id"] for row in self.rows]

    def line(self, experiment: str, gpus: int | None = None, processes: int = 1) -> list[str]:
        """The line that trains an experiment as the workflow does."""
        gpus = self.bench.gpus if gpus is None else gpus
        spec, out = (
            f"results/.plan/specs/{experiment}.json",
            f"results/runs/{experiment}/result.json",
        )
        given = ("--spec", spec, "--out", out, "--gpus", gpus, "--processes", processes)
        return flops_fit("train", *given)

    def start(self, experiment: str, **variables: str) -> subprocess.Popen:
        """Start the training of an experiment in the background."""
        environment = {**os.environ, **variables}
        with (self.folder / f"{experiment}.log").open("w") as log:
            return subprocess.Popen(
                self.line(experiment), cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def train(self, experiment: str, gpus: int | None = None, processes: int = 1) -> dict[str, Any]:
        """Train an experiment and return its record."""
        call(self.line(experiment, gpus, processes), self.folder)
        return self.record(experiment)

    def train_again(self, experiment: str) -> dict[str, Any]:
        """Forget what the experiment has left, train it from nothing, and return its record."""
        self.forget(experiment)
        return self.train(experiment)

    def forget(self, experiment: str) -> None:
        shutil.rmtree(self.folder / "results" / "runs" / experiment)

    def record(self, experiment: str) -> dict[str, Any]:
        path = self.folder / "results" / "runs" / experiment / "record.json"
        return json.loads(path.read_text())


def snakemake(folder: Path, config: dict[str, Any]) -> Path:
    """Run the workflow on ``config`` in ``folder``, and return the folder of the sweep's results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    line = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    line += ["--cores", "all", "--configfile", "sweep.yaml"]
    if config["resources"]["gpus"]:
        line += ["--resources", f"gpu={config['resources'].get('runs_per_gpu', 1)}"]
    call(line, folder)
    return folder / "results" / config["name"]


def small(bench: Bench, **changes: Any) -> dict[str, Any]:
    """The config of one small run of ``bench.scale``; ``changes`` replace or add keys."""
    scale = bench.scale
    tokens = scale.items * scale.kwargs["seq_len"]
    kwargs = {key: scale.kwargs[key] for key in ("vocab_size", "seq_len")}
    return {
        "model": {
            "factory": "flops_fit.examples.gpt_large:GPT",
            "size_param": "depth",
            "kwargs": scale.kwargs,
        },
        "dataset": {"factory": f"{PLUGINS}:windows", "kwargs": kwargs},
        "loss": {"function": "flops_fit.examples.loss:cross_entropy"},
        "convention": "6nd",
        "budgets": [6.0 * scale.steps * tokens * params_of(scale, scale.sizes[-1])],
        "sizes": {"values": [scale.sizes[-1]]},
        "batch": {"value": tokens},
        "learning_rate": {"value": 0.003},
        "evaluation": {"tokens": 8 * scale.kwargs["seq_len"], "batch_items": 8},
        "limits": {"min_steps": 1},
        "resources": {"gpus": bench.gpus},
        **changes,
    }


def params_of(scale: Scale, depth: int) -> int:
    """The parameters of a depth by which its 6 N D is counted: 12 L d^2 + V d."""
    width = scale.kwargs.get("aspect", 64) * depth
    return 12 * depth * width**2 + scale.kwargs["vocab_size"] * width


def curve(record: dict[str, Any]) -> list[float]:
    return record["loss_curve"]["loss"]


def largest_gap(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two loss curves."""
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def machine(device: str) -> dict[str, str]:
    """The card, its driver and torch, which stand beside every figure."""
    import torch

    from flops_fit.jobs.driver import this_machine
    from flops_fit.plan.devices import device_name

    return {
        "card": device_name(torch.device(device)),
        "driver": this_machine().driver or "-",
        "torch": torch.__version__,
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
