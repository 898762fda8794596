"""The campaign's two experiments under the real workflow."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from campaign import CONFIG, PATIENCE, PLUGINS, Experiment, Plan

REPOSITORY = Path(__file__).resolve().parents[2]


def kind(process: psutil.Process) -> str:
    """Which part of the workflow a process is: launcher, rank 0, server, or another."""
    line = process.cmdline()
    if line[1:4] == ["-m", "flops_fit", "train"]:
        return "launcher"
    if "flops_fit.jobs.server" in line:  # or forked from it
        parent = process.parent()
        return "rank 0" if parent and "flops_fit.jobs.server" in parent.cmdline() else "server"
    starts = "flops_fit.jobs.job" in line and "accelerate.commands.launch" not in line
    return "rank 0" if starts else ""


class Workflow:
    """Snakemake on the campaign's config in ``folder``; asks for the table of its two runs."""

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.tally = folder, plan.tally
        folder.mkdir()
        shutil.copy(Path(PLUGINS, "slowly.py"), folder)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(CONFIG))
        self.runs = [Experiment(folder, plan, long=long) for long in (False, True)]
        self.progress = folder / "progress"
        self.may_redo = 0

    def start(self, *options: str) -> subprocess.Popen:
        line = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(REPOSITORY / "Snakefile"),
            "--directory",
            str(self.folder),
            "--configfile",
            str(self.folder / "sweep.yaml"),
            "--cores",
            "2",
            *options,
            "--",
            "results/faults/results.csv",
        ]
        environment = {**os.environ, "FAULTS_PROGRESS": str(self.progress), "FAULTS_SLEEP": "0.1"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                line,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def steps(self) -> int:
        return self.progress.stat().st_size if self.progress.exists() else 0

    def wait_for_steps(self, running: subprocess.Popen, steps: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.steps() < steps:
            assert running.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def kill(self, running: subprocess.Popen, whole_tree: bool) -> None:
        """kill -9 of Snakemake, or of everything below it too."""
        jobs = psutil.Process(running.pid).children(recursive=True) if whole_tree else []
        self.tally.inject(f"SIGKILL to Snakemake{' and its jobs' if whole_tree else ''}")
        for process in [psutil.Process(running.pid), *jobs]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        running.wait()
        self.may_redo += 2 * len(self.runs) if whole_tree else 0

    def strike(self, running: subprocess.Popen, number: signal.Signals, target: str) -> None:
        """A signal to one trainer, to its launcher, or to the server from which trainers are forked."""
        for process in psutil.Process(running.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if kind(process) == target:
                    self.tally.inject(f"{number.name} to {target}, under the workflow")
                    process.send_signal(number)
                    self.may_redo += 2 if number == signal.SIGKILL and target != "server" else 0
                    return

    def unlock(self) -> None:
        assert self.start("--unlock").wait(PATIENCE) == 0, self.said()

    def complete(self, running: subprocess.Popen | None = None) -> None:
        """To the end, and hold both runs to the truth."""
        status = (running or self.start()).wait(PATIENCE)
        records = [run.run / "record.json" for run in self.runs]
        before = [path.stat().st_ino for path in records if path.exists()]
        again = self.start().wait(PATIENCE) if status == 0 else None
        repeated = again == 0 and before != [path.stat().st_ino for path in records]
        redone = self.steps() - sum(run.reference["steps_done"] for run in self.runs)
        lost = status != 0 or redone > self.may_redo
        self.tally.judge(lost, repeated, False)
        assert not lost, f"{redone} steps redone of {self.may_redo} allowed; {self.said()}"
        assert not repeated, self.said()
        for run in self.runs:
            run.may_redo = sys.maxsize  # counted above, for both together
            run.check(0, also_left={"train.log", "benchmark.tsv"})

    def said(self) -> str:
        logs = [self.folder / "log", *self.folder.glob("results/runs/*/train.log")]
        return "\n".join(p.read_text(errors="replace")[-1500:] for p in logs if p.exists())
