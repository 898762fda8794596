"""Rounds until a goal is reached, by the real Snakemake: killed, and gone on with by the same command."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest
import yaml
from project import Project
from waiting import until

SCRIPT = """\
import os
import time
from flops_fit.run import current_experiment

run = current_experiment(size=4)
with open("started.txt", "a") as file:
    file.write(f"{run.folder}\\n")
while os.path.exists("hold") and len(open("started.txt").readlines()) > 6:
    time.sleep(0.1)
params = 48 * run.size**2
noise = 1 + 0.003 * ((7 * run.size + run.tokens // 16) % 5 - 2)
loss = noise * (1 + 25 * params**-0.4 + 60 * run.tokens**-0.42)
run.finish(loss=loss, tokens=run.tokens, params=params)
"""
CONFIG = {
    "name": "own",
    "trainer": {"command": [sys.executable, "train.py"]},
    "counts": {"function": "counts:counts"},
    "budgets": [1e9, 3e9, 9e9, 2.7e10],
    "sizes": {"values": [4, 6, 8, 10, 12, 16, 20, 24, 32]},
    "batch": {"value": 16},
    "until": "N within 1.3x at 8.1e10",
    "fit": {"bootstrap": 100},
}


@pytest.mark.slow
def test_killed_rounds_go_on_by_the_same_command_and_train_nothing_twice(tmp_path):
    project = Project.create(tmp_path / "root")
    (project.work / "train.py").write_text(SCRIPT)
    (project.work / "counts.py").write_text(
        "def counts(size):\n    return {'params': 48 * size**2, 'flops_per_token': 288 * size**2}\n"
    )
    (project.work / "own.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "flops_fit", "sweep", "--config", "own.yaml", "--json"]
    command += ["--snakefile", str(project.checkout / "Snakefile"), "--snakemake", "--cores 2"]
    started = project.work / "started.txt"
    setting = {"cwd": project.work, "env": project.environment(), "text": True}

    (project.work / "hold").touch()  # so that the round has not ended when it is killed
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, **setting)
    until(lambda: len(project.ids()) >= 4 or first.poll() is not None)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (project.work / "hold").unlink()
    finished = project.ids()
    assert len(finished) >= 4
    assert not (project.results / "own-round1" / "fit.json").exists()

    done = subprocess.run(
        command, capture_output=True, timeout=900, start_new_session=True, check=False, **setting
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reason"] == "reached", done.stdout
    assert len(told["rounds"]) > 1
    starts = Counter(re.findall(r"/runs/([^/\n]+)", started.read_text()))
    assert all(starts[run] == 1 for run in finished)
    assert sum(starts.values()) <= told["rounds"][-1]["runs"] + 2  # what was at work when killed
    for entry in told["rounds"]:
        name = yaml.safe_load((project.work / entry["config"]).read_text())["name"]
        assert (project.results / name / "report.html").exists()
        assert (
            len(json.loads((project.results / name / "results.json").read_text())) == entry["runs"]
        )
    before = started.read_text()
    again = subprocess.run(
        command, capture_output=True, timeout=900, start_new_session=True, check=False, **setting
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["rounds"] == told["rounds"][-1:]
    assert started.read_text() == before


@pytest.mark.slow
def test_rounds_on_trunks_train_the_extension_and_count_what_was_trained(tmp_path):
    project = Project.create(tmp_path / "root")
    project.configure(
        budgets=[1e5, 2e5, 4e5, 8e5],
        sizes={"values": [4, 6, 8, 12, 16]},
        seeds=2,
        batch={"value": 16},
        schedule={"kind": "trunk", "warmup_tokens": 32},
        limits={"min_steps": 4, "max_epochs": 100},
        fit={"bootstrap": 20},
    )
    command = [sys.executable, "-m", "flops_fit", "sweep", "--config", "sweep.yaml", "--json"]
    command += ["--until", "N within 1.6x at 4e6", "--max-flops", "7e6"]
    command += ["--snakefile", str(project.checkout / "Snakefile"), "--snakemake", "--cores 2"]
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=900,
        check=False,
        cwd=project.work,
        env=project.environment(),
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout.splitlines()[-1])["rounds"]
    assert len(rounds) > 1
    records = {p.parent.name: json.loads(p.read_text()) for p in project.runs.glob("*/record.json")}
    for entry in rounds:
        name = yaml.safe_load((project.work / entry["config"]).read_text())["name"]
        runs = json.loads((project.results / name / "results.json").read_text())
        trained = sum(records[run["experiment_id"]]["flops_here"] for run in runs)
        assert entry["flops"] == pytest.approx(trained)
        assert entry["flops"] < 0.9 * sum(run["flops_counted"] for run in runs)
    longer = [r for r in records.values() if r["flops_counted"] > 6e5]
    assert longer
    for record in longer:  # of a later round: it goes on from the longest run of the one before
        start = records[record["started_from"]]["tokens_seen"]
        assert record["tokens_here"] == record["tokens_seen"] - int(0.8 * start) // 16 * 16
