"""Experiments that are struck again and again, started again each time, and held to the truth.

An experiment lives in a results folder of its own. It is started by the real command line
(`Launched`), or by a process forked from one that has imported torch already (`Forked`), which is
what makes a hundred kills affordable: there the launcher is a stand-in that starts the processes of
`flops_fit.jobs.job` and waits for them, as accelerate's does.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flops_fit.config.complete import complete_config
from flops_fit.store.records import read_record

PLUGINS = str(Path(__file__).parent)
CONFIG = {
    "name": "faults",
    "model": {"factory": "slowly:Net", "size_param": "width"},
    "dataset": {"factory": "slowly:data"},
    "optimizer": {"factory": "slowly:muon_and_adamw"},
    "budgets": [1.6e5, 2.4e5],
    "sizes": {"values": [8]},
    "batch": {"value": 8},
    "learning_rate": {"value": 0.01},
    "evaluation": {"tokens": 40, "batch_items": 16},
    "limits": {"max_epochs": 20},
    "resources": {"checkpoint_minutes": 0},  # after every step
}
BITS = ("loss_curve", "final_loss", "final_loss_se", "tokens_seen", "steps_done", "status")
LEFT = {"record.json", "result.json", ".lock"}  # all that a finished run may leave
GRACE = 30.0  # seconds within which a trainer must be gone after a request to stop
OVERRUN = 20  # steps (of 20 ms) that a trainer may go on before the request reaches it
PATIENCE = 600.0  # seconds for one attempt on a busy machine


@dataclass
class Tally:
    """What the campaign reports; scenarios run side by side."""

    injected: int = 0
    lost: int = 0
    repeated: int = 0
    wrong_bits: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, kind: str) -> None:
        with self.lock:
            self.injected += 1
            self.by_kind[kind] = self.by_kind.get(kind, 0) + 1

    def judge(self, lost: bool, repeated: bool, wrong_bits: bool) -> None:
        with self.lock:
            self.lost += lost
            self.repeated += repeated
            self.wrong_bits += wrong_bits

    def line(self) -> str:
        names = ("injected", "lost", "repeated", "wrong_bits")
        return json.dumps({name: getattr(self, name) for name in names})


def make_plan(results: Path) -> list[str]:
    """Plan the campaign's two experiments; returns their ids, the shorter one first."""
    from flops_fit.plan import planner

    plan = planner.make_plan(complete_config(CONFIG), results, [PLUGINS])
    return [experiment.experiment_id for experiment in plan.experiments]


class Launched:
    """``flops-fit train``, as a user or the workflow starts it."""

    def __init__(self, arguments: list[str], processes: int, log: Path, environment: dict):
        line = [
            sys.executable,
            "-m",
            "flops_fit",
            "train",
            "--spec",
            arguments[0],
            "--out",
            arguments[1],
            "--results",
            arguments[2],
            "--processes",
            str(processes),
        ]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                line,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)


class Forked:
    """The same processes without the imports; see `launch_ranks`."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flops_fit.jobs.job", "flops_fit.trainer", "torch._dynamo"])

    def __init__(self, arguments: list[str], processes: int, log: Path, environment: dict):
        self.process = self.context.Process(
            target=launch_ranks, args=(arguments, processes, str(log), environment)
        )
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds: float) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutError(f"still running after {seconds} s")
        return self.process.exitcode


def launch_ranks(arguments: list[str], processes: int, log: str, environment: dict) -> None:
    """Fork one `flops_fit.jobs.job` per rank, wait for all, and end the others when one fails."""
    gc.freeze()  # what the parent has imported need not be looked through at the end of each run
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(
        environment,
        FLOPS_FIT_PROCESSES=str(processes),
        FLOPS_FIT_GPUS="0",
        FLOPS_FIT_LAUNCHER=str(os.getpid()),
        ACCELERATE_USE_CPU="true",
    )
    if processes > 1:
        os.environ.update(
            WORLD_SIZE=str(processes),
            LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(free_port()),
        )
    ranks = {}
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            be_rank(rank, processes, arguments)
        ranks[pid] = None
    while None in ranks.values():
        pid, status = os.wait()
        ranks[pid] = os.waitstatus_to_exitcode(status)
        if ranks[pid]:
            for other in (p for p, ended in ranks.items() if ended is None):
                os.kill(other, signal.SIGTERM)
    os._exit(int(any(ranks.values())))


def be_rank(rank: int, processes: int, arguments: list[str]) -> None:
    import traceback

    from flops_fit.jobs import job

    sys.argv[1:] = arguments  # as a job has them

    status = 1
    try:
        if processes > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if "FAULTS_OPERATION" in os.environ:
            fail_at(int(os.environ["FAULTS_OPERATION"]), os.environ.get("FAULTS_ERROR"))
        status = job.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def fail_at(number: int, error: str | None) -> None:
    """Die by SIGKILL (or fail with ``error``) at the ``number``-th change of the file system."""
    done = 0

    def wrapped(operation):
        def counted(*args, **kwargs):
            nonlocal done
            done += 1
            Path(os.environ["FAULTS_COUNT"]).write_text(str(done))
            if done == number:
                if error:
                    raise OSError(int(error), os.strerror(int(error)))
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return counted

    for module, names in ((os, ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")),):
        for name in names:
            setattr(module, name, wrapped(getattr(module, name)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Experiment:
    """One planned experiment in a folder of its own, and everything that befalls it."""

    def __init__(self, folder: Path, plan: "Plan", processes: int = 1, starter=Forked, long=False):
        self.folder, self.plan, self.starter, self.processes = folder, plan, starter, processes
        self.id = plan.ids[long]
        self.reference = plan.references.get((self.id, processes))
        self.results = folder / "results"
        self.run = self.results / "runs" / self.id
        self.arguments = [
            str(self.results / ".plan" / "specs" / f"{self.id}.json"),
            str(self.run / "result.json"),
            str(self.results),
        ]
        self.log = folder / "log"
        self.random = random.Random(str(folder.name))
        self.attempts: list = []
        self.trainers: list[psutil.Process] = []
        self.struck_at: dict[int, int] = {}  # steps of an attempt when it was struck
        self.may_redo = 0  # steps that strikes without warning may have cost

    def planned(self) -> "Experiment":
        """Put the plan where the experiment's results go."""
        shutil.copytree(self.plan.results / ".plan", self.results / ".plan")
        return self

    def twin(self, folder: Path) -> "Experiment":
        """An exact copy, with its past."""
        shutil.copytree(self.folder, folder)
        twin = Experiment(folder, self.plan, self.processes, self.starter)
        twin.attempts, twin.may_redo = [*self.attempts], self.may_redo
        return twin

    def start(self, log: Path | None = None, sleep: float = 0.004, **environment: str):
        """Start the experiment (again), by the same command."""
        progress = self.folder / f"progress-{len(self.attempts)}"
        environment = {
            "FAULTS_PROGRESS": str(progress),
            "FAULTS_SLEEP": str(sleep),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **environment,
        }
        attempt = self.starter(self.arguments, self.processes, log or self.log, environment)
        self.attempts.append(attempt)
        return attempt

    def steps(self, attempt: int = -1) -> int:
        """Training steps that an attempt has begun so far."""
        number = range(len(self.attempts))[attempt]
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / f"progress-{number}").stat().st_size
        return 0

    def ranks(self) -> list[psutil.Process]:
        """The trainers of the latest attempt, rank 0 first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.attempts[-1].pid).children(recursive=True)
            if self.starter is Launched:
                lines = [(c, c.cmdline()) for c in below]
                return [
                    c
                    for c, line in lines
                    if "flops_fit.jobs.job" in line and "accelerate.commands.launch" not in line
                ]
            return below
        return []

    def wait_for_steps(self, count: int) -> bool:
        """Wait until the latest attempt has begun ``count`` steps; False if it ended before."""
        deadline = time.monotonic() + PATIENCE
        while self.steps() < count:
            if self.ended():
                return False
            assert time.monotonic() < deadline, f"{self.id}: no {count} steps: {self.said()}"
            time.sleep(0.003)
        return True

    def ended(self) -> bool:
        """Whether the latest attempt's launcher is gone."""
        try:
            return psutil.Process(self.attempts[-1].pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def strike(self, number: signal.Signals, target: str, startup: bool = False) -> None:
        """Start, hit ``target`` with a signal at a random moment, and wait for the launcher's end.

        ``target``: launcher, everyone, or a rank such as ``rank 0``. With ``startup`` the moment
        lies before the first step. Trainers that still save are left to themselves: the next start
        has to cope with them.
        """
        attempt = self.start()
        if startup:
            time.sleep(self.random.uniform(0, 4.0 if self.starter is Launched else 0.3))
        else:
            self.wait_for_steps(self.random.randint(1, 5))
        time.sleep(self.random.uniform(0, 0.05))
        ranks = self.ranks()
        self.trainers += ranks
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if target == "launcher":
                victims = [psutil.Process(attempt.pid)]
            elif target == "everyone":
                started = psutil.Process(attempt.pid)
                victims = [started, *started.children(recursive=True)]
            else:
                victims = ranks[int(target.split()[1]) :][:1]
            finished = (self.run / "record.json").exists()
            for victim in victims:
                victim.send_signal(number)
            if victims and not finished:
                self.struck_at[len(self.attempts) - 1] = self.steps()
                kind = "forked" if self.starter is Forked else "launched"
                self.plan.tally.inject(f"{number.name} to {target}, {self.processes}p, {kind}")
                # Without warning, the step at work and the checkpoint being written are lost.
                self.may_redo += 2 if number == signal.SIGKILL else 0
        status = attempt.wait(PATIENCE)
        assert status != 0 or (self.run / "record.json").exists(), self.said()

    def complete(self, **environment: str) -> None:
        """The same command again, to its end; then hold the outcome to the truth."""
        status = self.start(**environment).wait(PATIENCE)
        self.check(status)

    def check(self, status: int, also_left: set[str] = frozenset()) -> None:
        """Completed, nothing lost, the same bits, never repeated, no orphan, no stray file."""
        done = status == 0 and (self.run / "record.json").exists()
        steps = self.reference["steps_done"]
        redone = sum(self.steps(i) for i in range(len(self.attempts))) - steps
        lost = not done or redone > self.may_redo
        record = read_record(self.run / "record.json", self.id) if done else {}
        wrong = done and any(record[key] != self.reference[key] for key in BITS)
        repeated = done and self.repeats()
        self.plan.tally.judge(lost, repeated, wrong)
        story = (
            f"{self.folder.name}: {redone} steps redone of {self.may_redo} allowed; {self.said()}"
        )
        assert done, story
        assert not lost, story
        assert not wrong, story
        assert not repeated, story
        assert self.orphans() == [], story
        overran = [i for i, at in self.struck_at.items() if self.steps(i) > at + OVERRUN]
        assert overran == [], f"attempts {overran} trained on after they were struck: {story}"
        left = {path.name for path in self.run.iterdir()}
        assert left - also_left == LEFT, left
        assert (self.run / "result.json").read_bytes() == (self.run / "record.json").read_bytes()

    def repeats(self) -> bool:
        """Whether one more start trains the finished run again."""
        before = (self.run / "record.json").stat()
        status = Launched(self.arguments, self.processes, self.log, {}).wait(PATIENCE)
        after = (self.run / "record.json").stat()
        return bool(status) or (before.st_ino, before.st_mtime_ns) != (
            after.st_ino,
            after.st_mtime_ns,
        )

    def orphans(self) -> list[psutil.Process]:
        """Trainers of earlier attempts that outlived the grace."""
        _, alive = psutil.wait_procs(self.trainers, timeout=GRACE)
        return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]

    def said(self) -> str:
        """The end of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text.replace("\r", "\n")[-1500:]


class Plan:
    """The planned experiments and how they end when nothing befalls them."""

    def __init__(self, folder: Path, tally: Tally):
        self.results, self.tally = folder / "results", tally
        self.ids = make_plan(self.results)
        self.references: dict[tuple[str, int], dict] = {}
        for i, processes in ((0, 1), (1, 1), (1, 2)):
            run = Experiment(folder / f"undisturbed-{i}-{processes}", self, processes, Launched, i)
            run.planned()
            assert run.start(sleep=0.0).wait(PATIENCE) == 0, run.said()
            record = read_record(run.run / "record.json", run.id)
            self.references[run.id, processes] = record
