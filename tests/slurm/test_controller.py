"""Snakemake inside of a job: it submits the runs from there, ends in time, and is continued."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import KILL_WAIT
from project import Project, label
from submission import QUICK, Job, order, slurm, steps, train_jobs, warn_soon
from waiting import PATIENCE

pytestmark = pytest.mark.slurm
CELL, LENGTH = "width4-D1.25e3-s0", 39
# What sites ask for: a share of the CPUs for each GPU's job, and memory by the CPU.
SHARE = ("train_run:gpu=0", "train_run:cpus_per_task=2", "train_run:mem_mb_per_cpu=700")


class Controllers:
    """Jobs of profiles/slurm/sweep.sh, submitted one after the other, for one run of a project."""

    def __init__(self, project: Project):
        self.project = project
        (target,) = (
            f"results/runs/{path.stem}/result.json"
            for path in (project.results / ".plan/specs").glob("*.json")
            if label(path.stem) == CELL
        )
        where = ("../work/sweep.yaml", "--directory", "../work")
        self.arguments = [*where, *QUICK, "--set-resources", *SHARE, "--", target]

    def submit(self) -> int:
        variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return int(
            subprocess.run(
                ["sbatch", "--parsable", "profiles/slurm/sweep.sh", *self.arguments],
                cwd=self.project.checkout,
                env=self.project.environment(ACCELERATE_USE_CPU="true", **variables),
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )

    def log(self, job: int) -> str:
        path = self.project.checkout / f"flops-fit-{job}.log"
        return path.read_text() if path.exists() else "(no log yet)"

    def wait(self, job: int, what, why: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, f"never {why}\n{self.log(job)}\n{train_jobs()}"
            time.sleep(0.2)


def state(job: int) -> str:
    return slurm("squeue", "-h", "-a", "--states=all", "-j", str(job), "-o", "%T")


def jobs_after(job: int) -> list[Job]:
    return [other for other in train_jobs().get(CELL, []) if other.id > job]


@pytest.fixture
def controllers(project) -> Controllers:
    order(project, {CELL: {"seconds": 3}})
    return Controllers(project)


def test_a_sweep_goes_on_from_job_to_job_and_after_a_lost_node(controllers):
    project = controllers.project
    first, second = controllers.submit(), controllers.submit()
    controllers.wait(first, lambda: steps(project, CELL) > 2, "at work")
    assert (state(first), state(second)) == ("RUNNING", "PENDING")
    warn_soon(first)
    controllers.wait(first, lambda: state(first) != "RUNNING", "over")
    (cancelled,) = jobs_after(first)
    before = steps(project, CELL)
    controllers.wait(second, lambda: steps(project, CELL) > before + 2, "continued")
    assert cancelled.state == "CANCELLED"

    slurm("scontrol", "requeue", str(second))
    controllers.wait(second, lambda: state(second) == "PENDING", "requeued")
    time.sleep(KILL_WAIT + 3)  # the node may be about to kill what it thinks is left

    def again() -> bool:
        update = ["scontrol", "update", f"jobid={second}", "starttime=now"]
        subprocess.run(update, capture_output=True, check=False)
        return state(second) == "RUNNING"

    controllers.wait(second, again, "started anew")
    order(project, {})
    controllers.wait(second, lambda: state(second) == "COMPLETED", "completed")
    assert "Unlocked working directory" in controllers.log(second)
    assert steps(project, CELL) == LENGTH  # no step was repeated
    assert {job.memory for job in jobs_after(first)} == {"700M"}
