"""How far a sweep is said to be."""

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest
from plans import grid, plan_of
from waiting import PATIENCE

from flops_fit.cli.main import main
from flops_fit.files import write_json
from flops_fit.jobs.progress import Progress


@pytest.fixture
def plan(tmp_path):
    plan = plan_of(grid(budgets=[1e12], ratios=[5, 20, 80, 320]))
    sweeps = tmp_path / ".plan" / "sweeps"
    sweeps.mkdir(parents=True)
    (sweeps / "mine.json").write_text(json.dumps(plan.to_dict()))
    return plan


def finish(results, experiment, seconds):
    folder = results / "runs" / experiment.experiment_id
    write_json(folder / "result.json", {"wall_seconds": seconds})


def test_nothing_done_yet(plan, tmp_path):
    assert Progress.of(plan, tmp_path).line().startswith("0 of 4 runs, 0 of ")
    assert "(0%)" in Progress.of(plan, tmp_path).line()


def test_done_failed_and_running_ones_are_counted_and_the_time_left_follows_the_finished(
    plan, tmp_path
):
    first, second, third, fourth = plan.experiments
    total = sum(experiment.flops_counted for experiment in plan.experiments)
    expected = {e: 1000 * 0.006 + e.flops_counted / 1e10 for e in plan.experiments}
    finish(tmp_path, first, 3 * expected[first])  # three times slower than guessed
    broken = tmp_path / "runs" / second.experiment_id
    broken.mkdir()
    (broken / "failure.json").write_text(json.dumps({"hash": second.hash, "reason": "no room"}))
    busy = tmp_path / "runs" / third.experiment_id
    busy.mkdir()
    descriptor = os.open(busy / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        line = Progress.of(plan, tmp_path).line()
    finally:
        os.close(descriptor)
    share = round(100 * first.flops_counted / total)
    assert line.startswith("1 of 4 runs, ")
    assert f"({share}%), 1 failed, 1 at work, about " in line
    left = sum(6 + 3 * expected[experiment] for experiment in (second, third, fourth))
    value, unit = line.split("about ")[1].split()[:2]  # one at work: one after another
    assert float(value) * {"s": 1, "min": 60}[unit] == pytest.approx(left, rel=0.05)  # two digits


def test_the_command_names_every_sweep_and_refuses_an_unknown_one(plan, tmp_path, capsys):
    assert main(["progress", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("mine: 0 of 4 runs")
    assert main(["progress", "yours", "--results", str(tmp_path)]) == 2
    assert "yours: no such sweep; allowed: mine" in capsys.readouterr().err


def test_json_holds_what_the_line_says(plan, tmp_path, capsys):
    finish(tmp_path, plan.experiments[0], 10.0)
    assert main(["progress", "--results", str(tmp_path), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["sweeps"]["mine"]
    assert (counts["runs"], counts["done"], counts["failed"], counts["at_work"]) == (4, 1, 0, 0)
    assert counts["flops"] == sum(plan.flops_here(e) for e in plan.experiments)
    assert counts["flops_done"] == plan.flops_here(plan.experiments[0])
    assert counts["seconds_left"] > 0


def test_watching_says_so_whenever_runs_have_ended_and_ends_when_all_have(plan, tmp_path):
    line = [sys.executable, "-m", "flops_fit", "progress", "mine", "--results", str(tmp_path)]
    with subprocess.Popen([*line, "--watch"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout.readline().startswith("mine: 0 of 4 runs, ")
        finish(tmp_path, plan.experiments[0], 10.0)
        assert watching.stdout.readline().startswith("mine: 1 of 4 runs, ")
        for experiment in plan.experiments[1:]:
            finish(tmp_path, experiment, 10.0)
        assert watching.stdout.readlines()[-1].startswith("mine: 4 of 4 runs, ")
    assert watching.returncode == 0


def test_ctrl_c_ends_a_watch_without_a_traceback(plan, tmp_path):
    line = [sys.executable, "-m", "flops_fit", "progress", "--watch", "--results", str(tmp_path)]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout.readline().startswith("mine: 0 of 4 runs, ")
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=PATIENCE) == ("", "")
    assert watching.returncode == 0
