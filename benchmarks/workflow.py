"""Time the workflow at many experiments against a bare Snakemake workflow of the same rules and ids.

    python benchmarks/workflow.py [--experiments 100 1000 3000] [--rounds 3] [--records 10000]

A sweep over 10 budgets, 10 sizes and as many seeds as it takes is planned once (printed apart: a
plan file is kept until something in it changes). Training is replaced by copying a record made
beforehand, with a loss from a known law: what is timed is the workflow, not the trainer. The bare
workflow has the same rules, ids, files, params, resources and profile, spelled out in one Snakefile
that reads a list of ids and imports nothing; its other steps only touch their outputs.

Both take turns in going first. Figures are CPU seconds, user and system, children included: medians
over ``--rounds``; ratios are ours over bare. ``dry run`` is one before anything has
run, ``full`` trains and collects everything, ``first rerun`` is the no-op run right after it,
``no-op`` any later one, ``+1 budget`` a dry run with an eleventh budget. ``growth`` is the CPU time of a
full run at the largest count over that at the one before; linear is the ratio of the counts.

Then collect, fit, plot and report run on ``--records`` records: CPU seconds, seconds, peak memory.
The last line is one JSON object.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from flops_fit.experiment.places import plan_folder, run_folder, spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.store.records import RECORD, RESULT, seal

REPOSITORY = Path(__file__).resolve().parents[1]
BUDGETS = [3e8 * 1.7**i for i in range(11)]  # the last one is the budget that is added
SIZES = [16 * 2**i for i in range(10)]
MODULE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x)


def points():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 4, generator=generator)
    return TensorDataset(inputs, inputs.argmax(1))


loss = nn.CrossEntropyLoss
"""
STAND_IN = """\
        "cp ../made/{wildcards.id}.json results/runs/{wildcards.id}/record.json"
        " && cp results/runs/{wildcards.id}/record.json {output} >{log} 2>&1"
"""
BARE = """\
IDS = open("ids.txt").read().split()
FIGURES = ("isoflop", "optima", "loss_curves", "surface")
PLOTS = [f"results/own/plots/{figure}.svg" for figure in FIGURES]
OTHERS = [f"results/own/plots/{figure}.{kind}" for figure in FIGURES for kind in ("png", "csv")]
TABLES = ["fit.json", "table.md", "report.html", "plan.csv", "results.json", "results.csv"]
TABLES = [f"results/own/{name}" for name in TABLES]
RUNS = [f"results/runs/{i}/result.json" for i in IDS]

rule all:
    input: TABLES, PLOTS, RUNS

rule plan_sweep:
    output: "results/own/plan.csv"
    log: "results/own/logs/plan.log"
    conda: "flops-fit.yaml"
    params: content="content"
    shell: "touch {output} >{log}"

rule train_run:
    input: ancient("results/.plan/checked/check.json")
    output: "results/runs/{id}/result.json"
    log: "results/runs/{id}/train.log"
    conda: "flops-fit.yaml"
    benchmark: "results/runs/{id}/benchmark.tsv"
    threads: 1
    resources: processes=1, omp=1, gpu=0
    params: spec="results/.plan/specs/{id}.json"
    shell:
STAND_IN
rule collect_runs:
    input: runs=RUNS
    output: json="results/own/results.json", csv="results/own/results.csv"
    log: "results/own/logs/collect.log"
    conda: "flops-fit.yaml"
    params: content="content", code="code", failed=[]
    shell: "touch {output} >{log}"

rule fit_law:
    input: runs="results/own/results.csv", records="results/own/results.json"
    output: "results/own/fit.json"
    log: "results/own/logs/fit.log"
    conda: "flops-fit.yaml"
    params: options="options", code="code"
    shell: "touch {output} >{log}"

rule plot_law:
    input:
        runs="results/own/results.csv", records="results/own/results.json",
        fit="results/own/fit.json"
    output: svg=PLOTS, other=OTHERS
    log: "results/own/logs/plot.log"
    conda: "flops-fit.yaml"
    params: options="options", code="code"
    shell: "touch {output} >{log}"

rule write_report:
    input:
        runs="results/own/results.csv", records="results/own/results.json",
        fit="results/own/fit.json", figures=PLOTS
    output: html="results/own/report.html", table="results/own/table.md"
    log: "results/own/logs/report.log"
    conda: "flops-fit.yaml"
    params: budgets="", code="code"
    shell: "touch {output} >{log}"
"""
TRAIN_AND_COLLECT = ("--until", "collect_runs", "plan_sweep")


@dataclass(frozen=True)
class Cost:
    """What a command took: CPU and wall seconds, and the peak memory of its largest process."""

    cpu: float
    wall: float
    megabytes: float
    output: str


def measured(command: list[str], folder: Path, **variables: str) -> Cost:
    """Run ``command`` in ``folder``; its failure ends the benchmark."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{text[-3000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, text)


class Workflow:
    """A Snakefile and the folder in which it runs."""

    def __init__(self, folder: Path, snakefile: Path, **variables: str):
        self.folder, self.variables = folder, variables
        self.line = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            "--snakefile",
            str(snakefile),
            "--workflow-profile",
            str(REPOSITORY / "profiles/default"),
        ]

    def run(self, *arguments: str) -> Cost:
        return measured([*self.line, *arguments], self.folder, **self.variables)


def sweep(seeds: int, budgets: int = 10) -> dict:
    return {
        "name": "own",
        "model": {"factory": "bench_model:Net", "size_param": "width"},
        "dataset": {"factory": "bench_model:points"},
        "loss": {"function": "bench_model:loss"},
        "budgets": BUDGETS[:budgets],
        "sizes": {"values": SIZES},
        "batch": {"value": 8},
        "learning_rate": {"value": 0.1},
        "seeds": list(range(seeds)),
        "limits": {"max_epochs": 1e9},
    }


class Bench:
    """Both workflows at one number of experiments, below ``root``."""

    def __init__(self, root: Path, experiments: int):
        self.root, self.seeds = root, max(1, experiments // 100)
        checkout, work, bare = root / "checkout", root / "ours", root / "bare"
        for name in ("workflow", "envs", "src"):
            skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, checkout / name, symlinks=True, ignore=skip)
        shutil.copy2(REPOSITORY / "Snakefile", checkout)
        rule = checkout / "workflow/rules/train.smk"
        before, shell, _ = rule.read_text().partition("    shell:\n")
        rule.write_text(before + shell + STAND_IN)
        for folder in (work, bare, root / "made"):
            folder.mkdir()
        (work / "bench_model.py").write_text(MODULE)
        self.ours = Workflow(work, checkout / "Snakefile", PYTHONPATH=str(checkout / "src"))
        (bare / "Snakefile").write_text(BARE.replace("STAND_IN", STAND_IN))
        shutil.copy(REPOSITORY / "envs/flops-fit.yaml", bare)
        self.bare = Workflow(bare, bare / "Snakefile")
        self.results = work / "results"

    def plan(self, budgets: int = 10) -> Cost:
        """Plan with this many budgets, and tell the bare workflow the ids."""
        config = self.ours.folder / "sweep.yaml"
        config.write_text(yaml.safe_dump(sweep(self.seeds, budgets)))
        cost = self.ours.run("-n", "--quiet", "--configfile", "sweep.yaml")
        self.ours.line += [] if "--configfile" in self.ours.line else ["--configfile", "sweep.yaml"]
        newest = max((plan_folder(self.results) / "plans").iterdir(), key=os.path.getmtime)
        self.rows = json.loads(newest.read_text())["experiments"]
        ids = sorted(self.rows, key=lambda row: -row["flops_counted"])
        text = "\n".join(row["experiment_id"] for row in ids)
        (self.bare.folder / "ids.txt").write_text(text)
        return cost

    def check(self) -> None:
        """What precedes training and does not grow with the experiments: imports torch."""
        self.ours.run("--until", "check_inputs")
        checked = self.bare.folder / "results/.plan/checked/check.json"
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()

    def make_records(self) -> None:
        for row in self.rows:
            text = json.dumps(
                record(read_spec(spec_file(self.results, row["experiment_id"])).to_dict()), indent=1
            )
            (self.root / "made" / f"{row['experiment_id']}.json").write_text(text + "\n")

    def clear(self) -> None:
        """Back to the state after `check`."""
        for workflow in (self.ours, self.bare):
            for name in ("results/runs", "results/own", ".snakemake"):
                shutil.rmtree(workflow.folder / name, ignore_errors=True)
        (plan_folder(self.results) / "verified.json").unlink(missing_ok=True)

    def pairs(self, rounds: int, *arguments: str, before=lambda: None) -> tuple[float, float]:
        """Median CPU seconds of both for the same arguments, taking turns in going first."""
        costs: dict[Workflow, list[float]] = {self.ours: [], self.bare: []}
        for turn in range(rounds):
            before()
            for workflow in (self.ours, self.bare)[:: 1 if turn % 2 == 0 else -1]:
                costs[workflow].append(workflow.run(*arguments).cpu)
        return statistics.median(costs[self.ours]), statistics.median(costs[self.bare])


def record(spec: dict) -> dict:
    """A sound record of the spec's experiment, as large as a real one, its loss from a law."""
    identity, counts = spec["identity"], spec["counts"]
    n, d = counts["params"], identity["tokens"]
    noise = random.Random(spec["experiment_id"]).gauss(0, 0.002)
    loss = (1.0 + 20 / n**0.35 + 57 / d**0.35) * math.exp(noise)
    share = [(i + 1) / 128 for i in range(128)]
    return seal(
        {
            "experiment_id": spec["experiment_id"],
            "hash": spec["hash"],
            "identity": identity,
            **counts,
            "status": "completed",
            "reason": "",
            "final_loss": loss,
            "final_loss_se": 0.001,
            "heldout_tokens": 2048,
            "loss_curve": {
                "tokens": [round(d * s) for s in share],
                "loss": [loss * (1 + 0.05 * (1 / s**0.3 - 1)) for s in share],
                "learning_rate": [identity["learning_rate"] * (1 - s) for s in share],
            },
            "tokens_seen": d,
            "steps_done": identity["steps"],
            "epochs": d / 512,
            "processes": 1,
            "device": "cpu",
            "resumed_at_step": 0,
            "wall_seconds": 10.0,
            "start_up_seconds": 3.0,
            "train_seconds": 7.0,
            "data_share": 0.01,
            "tokens_per_second": d / 7.0,
            "flops_6nd": 6.0 * counts["num_params"] * d,
            "flops_counted": counts["flops_per_token"] * d,
            "versions": {"flops_fit": "stand-in"},
            "host": "stand-in",
        }
    )


def scale(root: Path, experiments: int, rounds: int, full_rounds: int) -> dict:
    """All measurements at one number of experiments; rows are printed as they come."""
    bench = Bench(root, experiments)
    first = bench.plan()
    bench.check()
    bench.make_records()
    print(f"\n{len(bench.rows)} experiments; first planning, with torch: {first.cpu:.1f} s CPU")
    print("               ours    bare   ratio")
    found = {"experiments": len(bench.rows), "first_planning": round(first.cpu, 2)}

    def show(name: str, ours: float, bare: float) -> None:
        found[name] = {"ours": ours, "bare": bare, "ratio": ours / bare}
        print(f"{name:<12} {ours:6.2f}  {bare:6.2f}  {ours / bare:6.2f}", flush=True)

    show("dry run", *bench.pairs(rounds, "-n"))
    show("full", *bench.pairs(full_rounds, *TRAIN_AND_COLLECT, before=bench.clear))
    show("first rerun", *bench.pairs(1, *TRAIN_AND_COLLECT))
    steps = bench.ours.run()
    bench.bare.run()
    print(f"fit, plot and report in this workflow: {steps.cpu:.1f} s CPU")
    show("no-op", *bench.pairs(rounds))
    first = bench.plan(budgets=11)
    print(f"planning one more budget: {first.cpu:.1f} s CPU")
    show("+1 budget", *bench.pairs(rounds, "-n"))
    return found


def steps_at(root: Path, records: int) -> dict:
    """Seconds and peak memory of collect, fit, plot and report on this many records."""
    bench = Bench(root, records)
    first = bench.plan()
    print(
        f"\n{len(bench.rows)} records; first planning, with torch: {first.cpu:.1f} s CPU, "
        f"{first.megabytes:.0f} MB"
    )
    for row in bench.rows:
        folder = run_folder(bench.results, row["experiment_id"])
        folder.mkdir(parents=True)
        text = json.dumps(
            record(read_spec(spec_file(bench.results, folder.name)).to_dict()), indent=1
        )
        for name in (RECORD, RESULT):
            (folder / name).write_text(text + "\n")
    (plan,) = (plan_folder(bench.results) / "plans").iterdir()
    own = "results/own"
    table = ["--runs", f"{own}/results.csv"]
    inputs = [*table, "--records", f"{own}/results.json", "--fit", f"{own}/fit.json"]
    lines = {
        "collect": [
            "--plan",
            str(plan),
            "--json",
            f"{own}/results.json",
            "--csv",
            f"{own}/results.csv",
        ],
        "fit": [*table, "--out", f"{own}/fit.json"],
        "plot": [*inputs, "--out-dir", f"{own}/plots"],
        "report": [
            *inputs,
            "--plots",
            f"{own}/plots",
            "--plan",
            str(plan),
            "--name",
            "own",
            "--out",
            f"{own}/report.html",
            "--table",
            f"{own}/table.md",
        ],
    }
    found = {}
    print("              CPU s  seconds     MB")
    for verb, line in lines.items():
        command = [sys.executable, "-m", "flops_fit", verb, *line]
        cost = measured(command, bench.ours.folder, **bench.ours.variables)
        found[verb] = {
            "cpu": round(cost.cpu, 1),
            "seconds": round(cost.wall, 1),
            "megabytes": round(cost.megabytes),
        }
        print(f"{verb:<12} {cost.cpu:6.1f}  {cost.wall:7.1f}  {cost.megabytes:5.0f}", flush=True)
    for path in sorted((bench.ours.folder / own).rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(bench.ours.folder)}: {path.stat().st_size / 1e6:.2f} MB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--experiments",
        type=int,
        nargs="*",
        default=[100, 1000, 3000],
        help="multiples of 100 (default: 100 1000 3000)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of runs that train nothing")
    parser.add_argument("--full-rounds", type=int, default=1, help="of runs that train everything")
    parser.add_argument("--records", type=int, default=10_000, help="0 leaves these steps out")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        found, steps = {}, {}
        for experiments in arguments.experiments:
            (root / str(experiments)).mkdir(parents=True)
            found[experiments] = scale(
                root / str(experiments), experiments, arguments.rounds, arguments.full_rounds
            )
        if arguments.records:
            (root / "records").mkdir(parents=True)
            steps = steps_at(root / "records", arguments.records)
    print(json.dumps(summary(found, steps)))


def summary(found: dict[int, dict], steps: dict) -> dict:
    """The figures by name; which of them exist depends on the numbers of experiments asked for."""
    line = {}
    for experiments, figures in found.items():
        for name in ("dry run", "first rerun", "no-op", "+1 budget", "full"):
            key = name.replace("-", "").replace(" ", "_").replace("+1", "added")
            line[f"{key}_ratio_{experiments}"] = round(figures[name]["ratio"], 3)
    for small, large in zip(list(found), list(found)[1:], strict=False):
        for who, key in (("ours", "full"), ("bare", "bare_full")):
            growth = found[large]["full"][who] / found[small]["full"][who]
            line[f"{key}_{large}_over_{small}"] = round(growth, 3)
    return {**line, "steps": steps}


if __name__ == "__main__":
    main()
