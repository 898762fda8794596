"""Sweeps over a real SLURM of one node, and what befalls them there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import REPOSITORY, label
from submission import (
    Submission,
    fresh,
    order,
    record,
    set_node,
    slurm,
    steps,
    train_jobs,
    warn_soon,
)

pytestmark = pytest.mark.slurm

CANCELLED, LIMITED, WARNED = "width4-D1.25e3-s0", "width4-D640-s0", "width8-D640-s0"
FAILING, REQUEUED, SPARED = "width8-D320-s0", "width16-D320-s0", "width16-D160-s0"
LENGTHS = {CANCELLED: 39, LIMITED: 20, WARNED: 20, FAILING: 10, REQUEUED: 10, SPARED: 5}
TABLE = "results/own/results.csv"
CLUSTER = re.compile(r"<!-- test: cluster -->\n```\n(.*?)```", re.DOTALL)


def result_of(project, cell: str) -> str:
    specs = (project.results / ".plan/specs").glob("*.json")
    (name,) = (path.stem for path in specs if label(path.stem) == cell)
    return f"results/runs/{name}/result.json"


@pytest.fixture(scope="module")
def struck(planned, slurm_up):
    """A sweep of six runs at once, five of which are struck, in one way each."""
    project = fresh(planned)
    order(
        project,
        {
            CANCELLED: {"seconds": 2},
            LIMITED: {"seconds": 0.2, "hang_at": 3},
            WARNED: {"seconds": 4},  # SLURM looks for limits that are reached twice a minute
            FAILING: {"fail_at": 2},
            REQUEUED: {"seconds": 4},
        },
    )
    sweep = Submission(project, "--set-resources", "train_run:gpu=0", "--", TABLE)
    sweep.wait_for_steps(LIMITED, 4)
    sweep.wait_for_steps(WARNED, 2)
    for cell in (LIMITED, WARNED):
        warn_soon(sweep.jobs(cell)[-1].id)
    sweep.wait_for_steps(CANCELLED, 3)
    slurm("scancel", str(sweep.jobs(CANCELLED)[-1].id))
    sweep.wait_for_steps(REQUEUED, 3)
    (job,) = sweep.jobs(REQUEUED)
    slurm("scontrol", "requeue", str(job.id))
    sweep.start_now(REQUEUED)
    sweep.wait(lambda: len(sweep.jobs(WARNED)) > 1, "warned")
    order(project, {})  # no need to be slow any more
    sweep.finish()
    return sweep


def test_a_cancelled_run_saves_and_is_submitted_again(struck):
    assert [job.state for job in struck.jobs(CANCELLED)] == ["CANCELLED", "COMPLETED"]
    assert record(struck.project, CANCELLED)["status"] == "completed"
    assert steps(struck.project, CANCELLED) == LENGTHS[CANCELLED]  # none was repeated


def test_a_run_is_warned_before_its_time_limit_and_goes_on_with_more_time(struck):
    warned, again = struck.jobs(WARNED)
    assert (warned.state, again.state) == ("FAILED", "COMPLETED")
    assert again.limit == "20:00"  # the plan's price, twice
    assert steps(struck.project, WARNED) == LENGTHS[WARNED]


def test_a_run_that_hangs_at_its_time_limit_leaves_in_its_grace_and_resumes(struck):
    # Not TIMEOUT: it ends by itself, with the status for a retry, before SLURM would kill it.
    assert [job.state for job in struck.jobs(LIMITED)] == ["FAILED", "COMPLETED"]
    assert steps(struck.project, LIMITED) == LENGTHS[LIMITED] + 1  # the step in which it hung


def test_a_run_that_fails_once_succeeds_by_retry_with_more_memory(struck):
    failed, again = struck.jobs(FAILING)
    assert (failed.state, again.state) == ("FAILED", "COMPLETED")
    assert int(again.memory.rstrip("M")) == 2 * int(failed.memory.rstrip("M"))
    assert steps(struck.project, FAILING) == LENGTHS[FAILING] + 1
    assert not (struck.project.run_folder(FAILING) / "failure.json").exists()


def test_a_requeued_run_goes_on_in_the_same_job(struck):
    (job,) = struck.jobs(REQUEUED)
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    assert steps(struck.project, REQUEUED) == LENGTHS[REQUEUED]


def test_a_run_beside_them_is_left_in_peace(struck):
    assert [job.state for job in struck.jobs(SPARED)] == ["COMPLETED"]
    assert steps(struck.project, SPARED) == LENGTHS[SPARED]


@pytest.fixture(scope="module")
def shaken(planned, slurm_up):
    """Two runs that need both GPUs. The first is preempted, so that the second starts; the node is
    drained meanwhile, resumed for the first one, and goes down under it.
    """
    project = fresh(planned)
    order(project, {LIMITED: {"seconds": 1}, WARNED: {"seconds": 1}})
    both = [result_of(project, cell) for cell in (LIMITED, WARNED)]
    sweep = Submission(project, "--set-resources", "train_run:gpu=2", "--", *both)
    sweep.wait(lambda: any(steps(project, cell) > 1 for cell in (LIMITED, WARNED)), "training")
    first, second = sorted((LIMITED, WARNED), key=lambda cell: -steps(project, cell))
    slurm("sbatch", "--partition=urgent", "--gpus=2", "--output=/dev/null", "--wrap=sleep 1")
    sweep.wait(lambda: not sweep.running(first), "preempted")
    sweep.wait_for_steps(second, 2)
    set_node("drain")
    try:
        order(project, {first: {"seconds": 1}})
        sweep.wait(lambda: sweep.jobs(second)[-1].state == "COMPLETED", "completed")
        waiting = sweep.jobs(first)[-1]
        set_node("resume")
        sweep.start_now(first)
        before = steps(project, first)
        sweep.wait_for_steps(first, before + 2)
        set_node("down")
        sweep.wait(lambda: not sweep.running(first), "requeued")
    finally:
        set_node("resume")
    sweep.start_now(first)
    order(project, {})
    sweep.finish()
    return sweep, first, second, waiting


def test_a_run_preempted_and_then_on_a_lost_node_goes_on_in_the_same_job(shaken):
    sweep, first, _, _ = shaken
    (job,) = sweep.jobs(first)
    assert (job.state, job.restarts) == ("COMPLETED", 2)
    assert LENGTHS[first] <= steps(sweep.project, first) <= LENGTHS[first] + 2  # none, or one each


def test_a_run_on_a_drained_node_ends_well_and_others_wait_for_the_node(shaken):
    sweep, _, second, waiting = shaken
    (job,) = sweep.jobs(second)
    assert (job.state, job.restarts) == ("COMPLETED", 0)
    assert steps(sweep.project, second) == LENGTHS[second]
    assert waiting.state == "PENDING"


def test_after_a_kill_of_snakemake_nothing_is_repeated_and_nobody_races(project):
    order(project, {LIMITED: {"seconds": 1}})
    both = [result_of(project, cell) for cell in (SPARED, LIMITED)]
    options = ("--", *both)
    killed = Submission(project, *options, profile="slurm-gres")
    killed.wait((project.work / both[0]).exists, f"{SPARED} finished")
    killed.wait_for_steps(LIMITED, 3)
    order(project, {LIMITED: {"seconds": 20}})  # so that it outlasts two starts of Snakemake
    Submission.kill_all()
    before = [path.stat().st_ino for path in project.runs.glob("*/record.json")]
    assert len(before) == 1
    Submission(project, "--unlock", profile="slurm-gres").finish()
    again = Submission(project, *options, profile="slurm-gres")
    again.wait(lambda: again.running(LIMITED), "submitted again")
    assert killed.running(LIMITED)
    order(project, {})
    again.finish()
    assert all("gres:gpu:1" in job.gpus for job in again.jobs(LIMITED))
    assert (project.run_folder(SPARED) / "record.json").stat().st_ino in before
    assert {cell: steps(project, cell) for cell in (SPARED, LIMITED)} == {
        cell: LENGTHS[cell] for cell in (SPARED, LIMITED)
    }
    assert "restored from its record" in (project.run_folder(LIMITED) / "train.log").read_text()


def test_four_runs_of_two_processes_at_once_do_not_clash(project):
    cells = (CANCELLED, LIMITED, WARNED, FAILING)
    order(project, {cell: {"seconds": 15} for cell in cells})  # until all have started
    project.configure(resources={"checkpoint_minutes": 0, "processes": 2})
    sweep = Submission(
        project,
        "--set-resources",
        "train_run:gpu=0",
        "--retries",
        "0",
        "--",
        *(result_of(project, cell) for cell in cells),
    )
    sweep.wait(lambda: all(steps(project, c) and sweep.running(c) for c in cells), "four at once")
    order(project, {})
    sweep.finish()
    for cell in cells:
        assert record(project, cell)["processes"] == 2
        assert [job.state for job in sweep.jobs(cell)] == ["COMPLETED"]
        assert steps(project, cell) == LENGTHS[cell]


def test_the_commands_of_the_readme_run_the_smoke_sweep(slurm_up, tmp_path):
    for name in ("Snakefile", "workflow", "profiles", "config", "envs", "tests/data"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", REPOSITORY / name, tmp_path / name], check=True)
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    lines = "".join(CLUSTER.findall((REPOSITORY / "README.md").read_text())).splitlines()
    assert len(lines) == 4
    before = train_jobs()
    for line in lines:
        if "--slurm" in line:
            line += " --slurm-init-seconds-before-status-checks 2"
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
    runs = list((tmp_path / "results/runs").glob("*/record.json"))
    assert len(runs) == 6
    assert (tmp_path / "results/smoke/report.html").stat().st_size > 10_000
    new = {cell: jobs for cell, jobs in train_jobs().items() if cell not in before}
    assert len(new) == 6
    for (job,) in new.values():
        assert job.state == "COMPLETED"
        assert "gres:gpu:1" in job.gpus


def test_a_run_longer_than_the_ceiling_goes_on_in_the_same_job_without_a_retry(project):
    order(project, {CANCELLED: {"seconds": 3}})
    project.configure(resources={"checkpoint_minutes": 0, "max_minutes": 10})
    options = ("--set-resources", "train_run:gpu=0", "--retries", "0")
    sweep = Submission(project, *options, "--", result_of(project, CANCELLED))
    sweep.wait_for_steps(CANCELLED, 2)
    (job,) = sweep.jobs(CANCELLED)
    warn_soon(job.id)
    sweep.wait(lambda: sweep.jobs(CANCELLED)[-1].state == "PENDING", "requeued")
    order(project, {})
    slurm("scontrol", "update", f"jobid={job.id}", "timelimit=10")
    sweep.start_now(CANCELLED)
    sweep.finish()
    (job,) = sweep.jobs(CANCELLED)
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    assert steps(project, CANCELLED) == LENGTHS[CANCELLED]  # none was repeated
