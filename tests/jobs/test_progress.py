"""How far a sweep is said to be."""

import fcntl
import json
import os
import subprocess
import sys

import pytest
from plans import grid, plan_of

from flops_fit.cli.main import main
from flops_fit.jobs.progress import progress_line


@pytest.fixture
def plan(tmp_path):
    plan = plan_of(grid(budgets=[1e12], ratios=[5, 20, 80, 320]))
    sweeps = tmp_path / ".plan" / "sweeps"
    sweeps.mkdir(parents=True)
    (sweeps / "mine.json").write_text(json.dumps(plan))
    return plan


def finish(results, row, seconds):
    folder = results / "runs" / row["experiment_id"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"wall_seconds": seconds}))


def test_nothing_done_yet(plan, tmp_path):
    assert progress_line(plan, tmp_path).startswith("0 of 4 runs, 0 of ")
    assert "(0%)" in progress_line(plan, tmp_path)


def test_done_failed_and_running_ones_are_counted_and_the_time_left_follows_the_finished(
    plan, tmp_path
):
    first, second, third, fourth = plan["experiments"]
    total = sum(row["flops_counted"] for row in plan["experiments"])
    expected = {
        id(row): 6 + 1000 * 0.006 + row["flops_counted"] / 1e10 for row in plan["experiments"]
    }
    finish(tmp_path, first, 3 * expected[id(first)])  # three times slower than guessed
    broken = tmp_path / "runs" / second["experiment_id"]
    broken.mkdir()
    (broken / "failure.json").write_text(json.dumps({"hash": second["hash"], "reason": "no room"}))
    busy = tmp_path / "runs" / third["experiment_id"]
    busy.mkdir()
    descriptor = os.open(busy / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        line = progress_line(plan, tmp_path)
    finally:
        os.close(descriptor)
    share = round(100 * first["flops_counted"] / total)
    assert line.startswith("1 of 4 runs, ")
    assert f"({share}%), 1 failed, 1 at work, about " in line
    left = 3 * sum(expected[id(row)] for row in (second, third, fourth))
    value, unit = line.split("about ")[1].split()[:2]  # one at work: one after another
    assert float(value) * {"s": 1, "min": 60}[unit] == pytest.approx(left, rel=0.01)


def test_the_command_names_every_sweep_and_refuses_an_unknown_one(plan, tmp_path, capsys):
    assert main(["progress", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("mine: 0 of 4 runs")
    assert main(["progress", "yours", "--results", str(tmp_path)]) == 2
    assert "yours: no such sweep; allowed: mine" in capsys.readouterr().err


def test_following_says_so_when_runs_have_ended_and_ends_with_the_process(plan, tmp_path):
    sweep = subprocess.Popen(["sleep", "60"])
    line = [sys.executable, "-m", "flops_fit", "progress", "mine", "--results", str(tmp_path)]
    said = subprocess.Popen([*line, "--follow", str(sweep.pid)], stdout=subprocess.PIPE, text=True)
    assert said.stdout.readline().startswith("mine: 0 of 4 runs, ")
    finish(tmp_path, plan["experiments"][0], 10.0)
    assert said.stdout.readline().startswith("mine: 1 of 4 runs, ")
    sweep.kill()
    sweep.wait()
    assert said.communicate(timeout=5) == ("", None)
    assert said.returncode == 0
