"""Snakemake at work over the test SLURM: what it submitted, what its experiments have done."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from cluster import KILL_WAIT, node_state
from project import REPOSITORY, Project, label
from waiting import PATIENCE

from flops_fit.files import write_json

# The tests' SLURM keeps no accounting; and a user's first look is later than a test should wait.
QUICK = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2")


@dataclass(frozen=True)
class Job:
    id: int
    state: str
    reason: str
    limit: str  # of time, as SLURM writes it
    memory: str
    gpus: str
    restarts: int


class Submission:
    """One call of Snakemake in a project's folder, over the cluster."""

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, project: Project, *arguments: str, profile="slurm", config="sweep.yaml"):
        self.project, self.work = project, project.work
        self.log = self.work / f"{time.monotonic_ns()}.log"
        self.before = max([job.id for jobs in train_jobs().values() for job in jobs], default=0)
        profiles = dict.fromkeys(["slurm", profile])
        line = [
            sys.executable,
            "-m",
            "snakemake",
            *(f"--profile={REPOSITORY / 'profiles' / name}" for name in profiles),
            "--snakefile",
            str(project.checkout / "Snakefile"),
            "--directory",
            str(self.work),
            "--configfile",
            str(self.work / config),
            *QUICK,
            *arguments,
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line,
                cwd=project.root,
                env=project.environment(ACCELERATE_USE_CPU="true"),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(self.process)

    def said(self) -> str:
        return self.log.read_text()

    def jobs(self, cell: str) -> list[Job]:
        """The SLURM jobs of an experiment so far, the oldest first."""
        return [job for job in train_jobs().get(cell, []) if job.id > self.before]

    def running(self, cell: str) -> bool:
        return [job.state for job in self.jobs(cell)[-1:]] == ["RUNNING"]

    def wait(self, what, why: str) -> None:
        """Until ``what()`` is true; fails when Snakemake ends before that, or after `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, f"ended before {why}\n{self.said()}"
            assert time.monotonic() < deadline, f"never {why}\n{self.said()}\n{train_jobs()}"
            time.sleep(0.2)

    def wait_for_steps(self, cell: str, count: int) -> None:
        self.wait(lambda: steps(self.project, cell) >= count, f"{cell} at step {count}")

    def start_now(self, cell: str) -> None:
        """Spare a requeued job the two minutes that SLURM waits for what is left of its first run."""
        self.wait(lambda: self.jobs(cell)[-1].state == "PENDING", f"{cell} requeued")
        number = self.jobs(cell)[-1].id
        self.wait(lambda: not has_processes(number), f"the first run of {cell} gone")
        time.sleep(KILL_WAIT + 3)  # the node may be about to kill what it thinks is left

        line = ["scontrol", "update", f"jobid={number}", "starttime=now"]

        def restarted():
            if self.jobs(cell)[-1].state == "PENDING":  # SLURM may have set the time again
                subprocess.run(line, capture_output=True, check=False)
            return self.running(cell)

        self.wait(restarted, f"{cell} running again")

    def finish(self) -> str:
        """Wait for its success; returns what Snakemake said."""
        status = self.process.wait(PATIENCE)
        assert status == 0, self.said()
        return self.said()

    @classmethod
    def kill_all(cls) -> None:
        """Kill -9 every Snakemake that is still at work; its jobs go on."""
        for process in cls.started:
            process.kill()
            process.wait(PATIENCE)


def fresh(planned) -> Project:
    """The planned project, nothing of it trained yet, at the same paths; no job is left."""
    Submission.kill_all()
    slurm("scancel", "--me")
    while slurm("squeue", "-h"):
        time.sleep(0.2)
    if node_state() not in ("idle", "mix"):
        set_node("resume")
    project, snapshot = planned
    shutil.rmtree(project.root)
    subprocess.run(["cp", "-a", snapshot, project.root], check=True)
    return project


def order(project: Project, orders: dict[str, dict]) -> None:
    """Tell experiments, by label, what to do; see ``watched.py``."""
    write_json(project.work / "orders.json", orders)


def steps(project: Project, cell: str) -> int:
    """Training steps that an experiment has begun, over all its attempts."""
    notes = project.work / "steps" / cell
    return notes.stat().st_size if notes.exists() else 0


def record(project: Project, cell: str) -> dict:
    return json.loads((project.run_folder(cell) / "record.json").read_text())


def slurm(*line: str) -> str:
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


def warn_soon(job: int) -> None:
    """Bring the time limit of a running job so near that SLURM warns it, and not so near that it ends."""
    used = slurm("squeue", "-h", "-j", str(job), "-O", "timeused")  # such as 1:05
    seconds = sum(int(part) * 60**i for i, part in enumerate(reversed(used.split(":"))))
    slurm("scontrol", "update", f"jobid={job}", f"timelimit={(seconds + 149) // 60}")


def node() -> str:
    return slurm("sinfo", "-h", "-p", "main", "-o", "%n")


def set_node(state: str) -> None:
    slurm("scontrol", "update", f"nodename={node()}", f"state={state}", "reason=test")


def has_processes(job: int) -> bool:
    """Whether a job, or SLURM's own process for it, is still there."""
    lines = (process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"]))
    return any(line[0].startswith(f"slurmstepd: [{job}.") for line in lines)


def train_jobs() -> dict[str, list[Job]]:
    """The jobs of each experiment (by its label) that SLURM remembers."""
    found: dict[str, list[Job]] = {}
    form = "jobid:|,state:|,reason:|,timelimit:|,minmemory:|,tres-per-job:|,tres-per-node:|,restartcnt:|,comment:500"
    for line in slurm("squeue", "-h", "-a", "--states=all", "-O", form).splitlines():
        number, *rest, restarts, comment = map(str.strip, line.split("|"))
        if not comment.startswith("rule_train_run_wildcards_"):
            continue
        state, reason, limit, memory, per_job, per_node = rest
        job = Job(int(number), state, reason, limit, memory, f"{per_job} {per_node}", int(restarts))
        found.setdefault(
            label(Path(comment.removeprefix("rule_train_run_wildcards_")).name), []
        ).append(job)
    return {cell: sorted(jobs, key=lambda job: job.id) for cell, jobs in found.items()}
