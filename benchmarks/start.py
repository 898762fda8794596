"""Time the start and the end of a job: whole processes, against a loop that one writes by hand.

    python benchmarks/start.py [--rounds 5] [--runs 20] [--before SOURCES]
    python benchmarks/start.py --rounds 0 --runs 200 --before ../older/src

The same run of the demo's model is done in four ways that take turns: by a bare loop in a process of
its own (``loop``), by ``accelerate launch`` (``launched``), by `flops_fit.jobs.one_process`
(``one process``), and forked from a server (``forked``). Figures are CPU seconds, user and system, of
all processes that a way takes, imports and evaluation included; medians over ``--rounds``. The first
job of a server pays for its imports, which are given apart. All ways must end in the same held-out
loss, bit for bit.

Then ``--runs`` short runs, forked, in turns with as many jobs of the ordinary way: those of an older
version where ``--before`` names its sources (such as ``src`` of a worktree of it), else those of this
version by ``accelerate launch``. Here the front of either counts, and so does the start of the server;
figures are CPU seconds and wall seconds of a run. ``causes`` splits what a launched run costs.
``--rounds 0`` leaves out all but these runs. The last line is one JSON object.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.jobs.launcher import launcher
from flops_fit.jobs.one_process import FOR_OPENMP, JOB
from flops_fit.jobs.served import OFF, SERVER, start_server
from flops_fit.plan.planner import make_plan
from flops_fit.training.batches import GlobalBatches

WIDTH, SEQ_LEN, ITEMS, SEED, RATE = 32, 64, 4, 0, 0.02
HELDOUT = 64  # items, in batches of 32
WAYS = ("launched", "one process", "forked")  # beside the bare loop
STEPS = {"50 steps": 50, "1 s": 170, "8 s": 1300}
MODULE = f"""\
import numpy, torch
from torch.utils.data import Dataset

class Windows(Dataset):
    def __init__(self, windows):
        self.windows = windows
    def __len__(self):
        return len(self.windows)
    def __getitem__(self, i):
        window = torch.from_numpy(self.windows[i].astype(numpy.int64))
        return window[:-1], window[1:]

def data(file):
    windows = numpy.load(file)
    return Windows(windows[{HELDOUT}:]), Windows(windows[:{HELDOUT}])
"""
LOOP = f"""\
import sys
import numpy, torch
from torch.nn.functional import cross_entropy
from flops_fit.examples.gpt import GPT, optimizer

windows, order, steps = numpy.load(sys.argv[1]), numpy.load(sys.argv[2]), int(sys.argv[3])
heldout, train = windows[:{HELDOUT}], windows[{HELDOUT}:]

def loss_of(model, batch):
    batch = torch.from_numpy(batch.astype(numpy.int64))
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

def factor(x):
    return min(1.0, x / 0.02) * min(1.0, (1 - x) / 0.98)

torch.manual_seed({SEED})
model = GPT({WIDTH}, n_layers=2, vocab_size=128, seq_len={SEQ_LEN})
optimizers = optimizer(model, {RATE})
peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
for step in range(steps):
    for o, rates in zip(optimizers, peaks):
        for group, rate in zip(o.param_groups, rates):
            group["lr"] = rate * factor((step + 0.5) / steps)
    loss_of(model, train[order[step * {ITEMS}:(step + 1) * {ITEMS}]]).backward()
    for o in optimizers:
        o.step()
        o.zero_grad()
model.eval()
with torch.no_grad():
    losses = [loss_of(model, heldout[i:i + 32]).item() for i in range(0, {HELDOUT}, 32)]
print(sum(losses) / len(losses))
"""
PLAN = """\
import json, sys
from flops_fit.config.complete import complete_config
from flops_fit.plan.planner import make_plan

config = complete_config(json.load(open(sys.argv[1])))
for experiment in make_plan(config, sys.argv[2], [sys.argv[3]]).experiments:
    print(experiment.experiment_id)
"""


def cpu_of(line: list[str], **variables: str) -> tuple[float, str]:
    """CPU seconds of a command with its children that it waited for, and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            line, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(line)}\n{text[-3000:]}")
    return usage.ru_utime + usage.ru_stime, text


class Bench:
    """Planned runs of several lengths, and the ways to train them."""

    def __init__(self, root: Path):
        self.root, self.results = root, root / "results"
        (root / "start_plugin.py").write_text(MODULE)
        (root / "loop.py").write_text(LOOP)
        windows = np.random.default_rng(SEED).integers(0, 128, (20_000, SEQ_LEN + 1), np.uint8)
        np.save(root / "windows.npy", windows)
        per_token = self.plan([1e9])[0].flops_counted / self.plan([1e9])[0].num_tokens
        self.budgets = [per_token * steps * ITEMS * SEQ_LEN * 1.0001 for steps in STEPS.values()]
        planned = (e.experiment_id for e in self.plan(self.budgets))
        self.ids = dict(zip(STEPS, planned, strict=True))
        for steps in STEPS.values():
            batches = GlobalBatches(len(windows) - HELDOUT, ITEMS, steps * ITEMS, SEED)
            np.save(root / f"order{steps}.npy", batches.indices(0, steps * ITEMS))

    def config(self, budgets: list[float]) -> dict:
        return {
            "name": "start",
            "model": {
                "factory": "flops_fit.examples.gpt:GPT",
                "size_param": "d_model",
                "kwargs": {"n_layers": 2, "vocab_size": 128, "seq_len": SEQ_LEN},
            },
            "dataset": {
                "factory": "start_plugin:data",
                "kwargs": {"file": str(self.root / "windows.npy")},
            },
            "loss": {"function": "flops_fit.examples.loss:cross_entropy"},
            "optimizer": {"factory": "flops_fit.examples.gpt:optimizer"},
            "budgets": budgets,
            "sizes": {"values": [WIDTH]},
            "batch": {"value": ITEMS * SEQ_LEN},
            "learning_rate": {"value": RATE},
            "schedule": {"kind": "linear", "warmup": 0.02},
            "evaluation": {"tokens": HELDOUT * SEQ_LEN},
        }

    def plan(self, budgets: list[float]) -> list:
        config = complete_config(self.config(budgets))
        return list(make_plan(config, self.results, [str(self.root)]).experiments)

    def loop(self, length: str) -> tuple[float, float]:
        steps = STEPS[length]
        files = [str(self.root / name) for name in ("loop.py", "windows.npy", f"order{steps}.npy")]
        cpu, printed = cpu_of([sys.executable, *files, str(steps)])
        return cpu, float(printed)

    def launched(self, length: str) -> tuple[float, float]:
        """As before there was another way, the front left out."""
        folder, places = self.fresh(length)
        line = [*launcher(1, 1, 0), "-m", JOB, *places]
        variables = {"FLOPS_FIT_PROCESSES": "1", "FLOPS_FIT_GPUS": "0", **FOR_OPENMP}
        return cpu_of(line, **variables)[0], self.loss(folder)

    def one_process(self, length: str) -> tuple[float, float]:
        folder, _ = self.fresh(length)
        return cpu_of(self.front(length), **{SERVER: OFF})[0], self.loss(folder)

    def forked(self, length: str) -> tuple[float, float]:
        folder, _ = self.fresh(length)
        before = self.server()
        cpu, printed = cpu_of(self.front(length))
        if "not forked" in printed:
            sys.exit(printed)
        return cpu + self.server() - before, self.loss(folder)

    def front(self, length: str) -> list[str]:
        spec, result, results = self.places(length)
        line = [sys.executable, "-m", "flops_fit", "train", "--spec", spec, "--out", result]
        return [*line, "--results", results]

    def places(self, length: str) -> list[str]:
        folder = run_folder(self.results, self.ids[length])
        spec = spec_file(self.results, self.ids[length])
        return [str(spec), str(folder / "result.json"), str(self.results)]

    def fresh(self, length: str) -> tuple[Path, list[str]]:
        folder = run_folder(self.results, self.ids[length])
        shutil.rmtree(folder, ignore_errors=True)
        return folder, self.places(length)

    def loss(self, folder: Path) -> float:
        return json.loads((folder / "record.json").read_text())["final_loss"]

    def server(self) -> float:
        """CPU seconds of the server and of all jobs that it has forked and that have ended."""
        for process in psutil.Process().children():
            if "flops_fit.jobs.server" in process.cmdline():
                return sum(process.cpu_times()[:4])
        sys.exit("there is no server")


class Older:
    """The same runs by an older version, whose sources are in the folder ``sources``."""

    def __init__(self, bench: Bench, sources: Path):
        self.variables = {"PYTHONPATH": str(sources.resolve()), SERVER: OFF}
        self.bench, self.results = bench, bench.root / "older"
        file = bench.root / "older.json"
        file.write_text(json.dumps(bench.config(bench.budgets)))
        line = [sys.executable, "-c", PLAN, str(file), str(self.results), str(bench.root)]
        _, printed = cpu_of(line, **self.variables)
        self.ids = dict(zip(STEPS, printed.split()[-len(STEPS) :], strict=True))

    def job(self, length: str) -> tuple[float, float]:
        """Train the run of this ``length``; CPU seconds with the front, and its loss."""
        folder, spec = (find(self.results, self.ids[length]) for find in (run_folder, spec_file))
        shutil.rmtree(folder, ignore_errors=True)
        line = [sys.executable, "-m", "flops_fit", "train", "--spec", str(spec)]
        line += ["--out", str(folder / "result.json"), "--results", str(self.results)]
        return cpu_of(line, **self.variables)[0], self.bench.loss(folder)


def show(title: str, figures: dict[str, float]) -> None:
    print(f"{title:>9}  " + "  ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)


def compare(bench: Bench, length: str, rounds: int, names: list[str]) -> dict[str, float]:
    """Medians of the loop and of the ways ``names``, in turns; their losses must be the same."""
    every: dict[str, Callable] = {
        "loop": bench.loop,
        "launched": bench.launched,
        "one process": bench.one_process,
        "forked": bench.forked,
    }
    ways = {name: way for name, way in every.items() if name in ("loop", *names)}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    losses = set()
    for number in range(rounds):
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            cpu, loss = ways[name](length)
            costs[name].append(cpu)
            losses.add(loss)
    if len(losses) > 1:
        sys.exit(f"{length}: the ways did not train the same run: {losses}")
    medians = {name: statistics.median(values) for name, values in costs.items()}
    for name in [*ways][1:]:
        ratios = [a / b for a, b in zip(costs[name], costs["loop"], strict=True)]
        medians[f"{name} / loop"] = statistics.median(ratios)
        print(f"{name} / loop, each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    show(length, medians)
    return medians


def causes(bench: Bench, rounds: int) -> dict[str, float]:
    """What a launched run costs beyond its steps, each measured alone."""
    imports = "import os; from flops_fit.jobs.imports import import_all; import_all()"
    python = [sys.executable, "-c"]
    lines = {
        "front": bench.front("50 steps"),  # of a run that is finished
        "imports": [*python, f"{imports}; os._exit(0)"],
        "imports and end": [*python, imports],
        "imports of the launcher": [*python, "import accelerate.commands.launch, os; os._exit(0)"],
    }
    found = {k: statistics.median(cpu_of(v)[0] for _ in range(rounds)) for k, v in lines.items()}
    found["end"] = found.pop("imports and end") - found["imports"]
    return found


def many(bench: Bench, runs: int, before: Path | None) -> dict[str, float]:
    """Runs of a second of steps, forked and in the ordinary way in turns: their cost, each."""
    front = cpu_of(bench.front("1 s"))[0] if before is None else 0.0  # of a run that is finished
    ways: dict[str, Callable] = {
        "forked": bench.forked,
        "before": bench.launched if before is None else Older(bench, before).job,
    }
    cpu, wall = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    losses = set()
    for number in range(runs):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            seconds, loss = ways[name]("1 s")
            wall[name] += time.perf_counter() - began
            cpu[name] += seconds + (front if name == "before" else 0.0)
            losses.add(loss)
    if len(losses) > 1:
        sys.exit(f"the ways did not train the same run: {losses}")
    figures = {f"{name}, CPU s": seconds / runs for name, seconds in cpu.items()}
    figures |= {f"{name}, wall s": seconds / runs for name, seconds in wall.items()}
    figures["CPU ratio"] = cpu["forked"] / cpu["before"]
    figures["wall ratio"] = wall["forked"] / wall["before"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="short runs of a server, each way")
    parser.add_argument("--before", type=Path, help="sources of an older version to compare with")
    parser.add_argument("--lengths", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        start_server()
        if arguments.runs:  # the first of them pays for the imports of the server
            found["many"] = many(bench, arguments.runs, arguments.before)
            show("many", found["many"])
        if arguments.rounds:
            if "forked" in arguments.ways and not arguments.runs:
                bench.forked("50 steps")
            for length in arguments.lengths:
                found[length] = compare(bench, length, arguments.rounds, arguments.ways)
            found["causes"] = causes(bench, arguments.rounds)
            show("causes", found["causes"])
    print(json.dumps({a: {k: round(v, 3) for k, v in b.items()} for a, b in found.items()}))


if __name__ == "__main__":
    main()
