"""GPUs handed out: one job on each at a time, whatever is killed. The devices are pretended.

Jobs are stand-ins that take devices as `flops_fit.jobs.launch` does and then become a launcher whose
trainers notice when another lives on their device. The launcher is a few lines, or accelerate's.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import recipes
from children import children_with
from waiting import PATIENCE, until

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json
from flops_fit.jobs.gpu_locks import POLL_SECONDS, VISIBLE, open_locks, take_devices
from flops_fit.jobs.launcher import launcher
from flops_fit.plan.nvidia_smi import visible_devices

JOB = """\
import os, sys
from flops_fit.jobs.gpu_locks import take_devices
shown = take_devices(int(sys.argv[1]), os.environ, int(sys.argv[2]))
os.execve(sys.executable, [sys.executable, *sys.argv[3:]],
          {**os.environ, **shown, "ACCELERATE_USE_CPU": "true", "LAUNCHER": str(os.getpid())})
"""
LAUNCHER = """\
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait() != 0)
"""
TRAINER = """\
import ctypes, os, pathlib, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # as flops_fit.store.stopping does
name, seconds, saving = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def note(event):
    file = os.open("events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{time.monotonic()} {event} {name} {os.getpid()} {os.environ['LAUNCHER']} {shown}\\n".encode())
    os.close(file)

def alive(process):
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"

shown = os.environ["CUDA_VISIBLE_DEVICES"]
for device in shown.split(","):
    mark = pathlib.Path(device)
    try:
        launcher, other = mark.read_text().split()
        if launcher != os.environ["LAUNCHER"] and alive(other):
            note("collision")
    except (OSError, ValueError):
        pass
    mark.write_text(f"{os.environ['LAUNCHER']} {os.getpid()}")
note("start")
ends = time.monotonic() + seconds
while not asked and time.monotonic() < ends:
    time.sleep(0.01)
time.sleep(saving)
note("end")
"""
SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa2222-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-bbbb1111-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  1: (UUID: MIG-bbbb2222-0000-0000-0000-000000000000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc1111-0000-0000-0000-000000000000)
"""
TAIL = "-0000-0000-0000-000000000000"

pytestmark = [
    pytest.mark.seconds,
    pytest.mark.skipif(sys.platform != "linux", reason="devices are shared on Linux only"),
]


@dataclass(frozen=True)
class Trainer:
    """A trainer that has started, and may have ended meanwhile."""

    pid: int

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Box:
    """A machine with some devices, named by a list, and the jobs that run on it."""

    def __init__(self, folder: Path, devices: str):
        self.folder, self.devices = folder, devices
        self.jobs: list[subprocess.Popen] = []
        for name, text in {"job": JOB, "launcher": LAUNCHER, "trainer": TRAINER}.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "bin").mkdir(exist_ok=True)

    def start(
        self, name: str, count=1, seconds=0.2, saving=0.0, devices=None, launcher=None, sharing=1
    ):
        """Start a job; ``launcher`` is the line of another launcher than the stand-in."""
        line = [*(launcher or [str(self.folder / "launcher.py")]), str(self.folder / "trainer.py")]
        job = subprocess.Popen(
            [
                sys.executable,
                str(self.folder / "job.py"),
                str(count),
                str(sharing),
                *line,
                name,
                str(seconds),
                str(saving),
            ],
            cwd=self.folder,
            env=self.environment(devices),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.jobs.append(job)
        return job

    def waiting(self, name: str, **options) -> subprocess.Popen:
        """Start a job that finds no device, once it has said so."""
        job = self.start(name, **options)
        waits = r"flops-fit: waiting for (\d of \d GPUs|one of \d places on \d GPUs)\n"
        assert re.fullmatch(waits, job.stderr.readline())
        return job

    def environment(self, devices: str | None = None) -> dict[str, str]:
        """Only our locks, and of nvidia-smi only what a test has put there."""
        drop = ("SLURM_JOB_ID", "ACCELERATE_USE_CPU")
        kept = {key: value for key, value in os.environ.items() if key not in drop}
        return {
            **kept,
            VISIBLE: devices or self.devices,
            "TMPDIR": str(self.folder),
            "PATH": str(self.folder / "bin"),
        }

    def events(self, kind: str) -> list[tuple[float, str, int, str]]:
        """(time, job, trainer's process, its devices) of each event of a kind, in order."""
        path = self.folder / "events"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return sorted(
            (float(t), name, int(p), d) for t, event, name, p, _, d in lines if event == kind
        )

    def started(self, *names: str) -> list[Trainer]:
        """The trainers of jobs, once they have started."""
        until(lambda: {*names} <= {name for _, name, *_ in self.events("start")})
        trainers = {name: Trainer(process) for _, name, process, _ in self.events("start")}
        return [trainers[name] for name in names]

    def finish(self, shared: bool = False) -> None:
        """Wait for every job that was not killed; no two had a device together, unless ``shared``."""
        for job in self.jobs:
            _, said = job.communicate(timeout=PATIENCE)
            assert job.returncode in (0, -signal.SIGKILL, 1), said
        assert shared or self.events("collision") == []

    def most_at_once(self) -> dict[str, int]:
        """By device, the most jobs that were ever on it together."""
        changes = [(time, 1, device) for time, *_, device in self.events("start")]
        changes += [(time, -1, device) for time, *_, device in self.events("end")]
        now: dict[str, int] = {}
        most: dict[str, int] = {}
        for _, change, device in sorted(changes):
            now[device] = now.get(device, 0) + change
            most[device] = max(most.get(device, 0), now[device])
        return most

    def close(self) -> None:
        """End what a test has left at work; trainers learn of it by the end of their launchers."""
        for job in self.jobs:
            if job.poll() is None:
                job.kill()
                job.wait()


@pytest.fixture
def machine(tmp_path):
    """A function that makes the box with the devices of a list."""
    boxes = []

    def with_devices(devices: str) -> Box:
        boxes.append(Box(tmp_path, devices))
        return boxes[-1]

    yield with_devices
    for box in boxes:
        box.close()


@pytest.fixture
def box(machine):
    return machine("0,1")


def test_as_many_jobs_run_as_there_are_devices_each_on_its_own(box):
    box.start("a", seconds=PATIENCE)
    box.start("b", seconds=PATIENCE)
    trainers = box.started("a", "b")
    box.waiting("c")
    assert {device for *_, device in box.events("start")} == {"0", "1"}
    trainers[1].terminate()
    box.started("c")
    trainers[0].terminate()
    box.finish()
    device = {name: device for _, name, _, device in box.events("start")}
    assert device["c"] == device["b"]


def test_jobs_that_want_two_of_three_devices_do_not_wait_for_each_other_for_ever(machine):
    box = machine("0,1,2")
    for number in range(4):
        box.start(f"job{number}", count=2)
    box.finish()
    assert len(box.events("end")) == 4
    assert {len(devices.split(",")) for *_, devices in box.events("start")} == {2}


def test_a_job_that_wants_two_devices_gets_its_turn_among_jobs_that_want_one(box):
    box.start("a", seconds=PATIENCE)
    box.start("b", seconds=PATIENCE)
    trainers = box.started("a", "b")
    box.waiting("pair", count=2)
    box.waiting("single")
    box.waiting("another")
    trainers[0].terminate()
    time.sleep(3 * POLL_SECONDS)
    assert len(box.events("start")) == 2  # the free device is kept for the pair
    trainers[1].terminate()
    box.finish()
    assert [name for _, name, *_ in box.events("start")][2] == "pair"


def test_runs_that_share_take_the_emptiest_device_and_no_more_places_than_there_are(box):
    names = [f"job{number}" for number in range(6)]
    for name in names[:4]:
        box.start(name, seconds=PATIENCE, sharing=2)
        box.started(name)
    assert [device for *_, device in box.events("start")] == ["0", "1", "0", "1"]
    box.waiting("job4", sharing=2)
    (third,) = box.started("job2")
    third.terminate()
    box.started("job4")
    assert [device for *_, device in box.events("start")][-1] == "0"
    box.start("job5", sharing=2)
    for trainer in box.started("job0", "job1", "job3", "job4"):
        trainer.terminate()
    box.finish(shared=True)
    assert box.most_at_once() == {"0": 2, "1": 2}


def test_a_kill_frees_a_place_and_a_run_alone_gets_its_turn_among_those_that_share(machine):
    box = machine("0")
    box.start("first", seconds=PATIENCE, sharing=2)
    box.start("second", seconds=PATIENCE, sharing=2)
    first, second = box.started("first", "second")
    box.waiting("third", seconds=PATIENCE, sharing=2)
    first.kill()
    (third,) = box.started("third")
    box.waiting("alone")
    box.waiting("fourth", sharing=2)
    second.terminate()
    time.sleep(3 * POLL_SECONDS)
    assert len(box.events("start")) == 3  # the free place is kept for the one that needs both
    third.terminate()
    box.finish(shared=True)
    (began,) = [time for time, name, *_ in box.events("start") if name == "alone"]
    (ended,) = [time for time, name, *_ in box.events("end") if name == "alone"]
    assert [name for _, name, *_ in box.events("start")][3:] == ["alone", "fourth"]
    assert not [t for kind in ("start", "end") for t, *_ in box.events(kind) if began < t < ended]


def test_runs_of_different_shares_never_take_more_than_a_whole_device(machine):
    box = machine("0")
    box.start("half", seconds=PATIENCE, sharing=2)
    box.started("half")
    for name in ("a", "b"):
        box.start(name, seconds=PATIENCE, sharing=4)
    trainers = box.started("half", "a", "b")
    box.waiting("c", sharing=4)
    for trainer in trainers:
        trainer.terminate()
    box.finish(shared=True)
    assert box.most_at_once() == {"0": 3}


def test_who_waits_for_a_device_keeps_nobody_from_another(machine):
    box = machine("0,1,2")
    box.start("zero", seconds=PATIENCE, devices="0")
    box.start("one", seconds=PATIENCE, devices="1")
    trainers = box.started("zero", "one")
    box.waiting("next-on-zero", devices="0")
    box.waiting("pair", count=2, devices="1,2")  # not its turn: it must not sit on 2
    box.start("two", devices="2")
    box.started("two")
    for trainer in trainers:
        trainer.terminate()
    box.finish()


@pytest.mark.parametrize("victims", ["launcher", "trainer", "both"])
def test_a_killed_job_gives_its_device_back_when_its_last_trainer_is_gone(machine, victims):
    box = machine("0")
    first = box.start("first", seconds=PATIENCE, saving=2 * POLL_SECONDS)
    (trainer,) = box.started("first")
    box.waiting("second")
    if victims in ("launcher", "both"):
        first.kill()
    if victims in ("trainer", "both"):
        trainer.kill()
    box.finish()
    ((start, name, *_),) = box.events("start")[1:]
    assert name == "second"
    if victims == "launcher":  # its trainer was told by the kernel, and saved first
        (end,) = [time for time, name, *_ in box.events("end") if name == "first"]
        assert end <= start


@pytest.mark.parametrize("processes", [1, 2])
def test_the_device_passes_through_accelerate_to_trainers_that_outlive_it(machine, processes):
    box = machine("0")
    line = launcher(processes, 1, 1)[1:]
    first = box.start("first", seconds=PATIENCE, saving=2 * POLL_SECONDS, launcher=line)
    box.started("first")
    until(lambda: len(box.events("start")) == processes)
    box.waiting("second")
    first.kill()
    box.finish()
    ends = [time for time, name, *_ in box.events("end") if name == "first"]
    (second,) = [time for time, name, *_ in box.events("start") if name == "second"]
    assert len(ends) == processes
    assert max(ends) <= second


def test_a_waiting_job_ends_at_once_when_asked_to(machine):
    box = machine("0")
    box.start("first", seconds=PATIENCE)
    (trainer,) = box.started("first")
    waiting = box.waiting("second")
    waiting.terminate()
    assert waiting.wait(PATIENCE) == -signal.SIGTERM
    box.jobs.remove(waiting)
    trainer.terminate()
    box.finish()


def test_the_train_command_shows_its_launcher_one_device_of_the_list(box):
    spec = recipes.spec(recipes.identity())
    path = box.folder / "results" / ".plan" / "specs" / f"{spec['experiment_id']}.json"
    write_json(path, spec)
    line = [
        sys.executable,
        "-m",
        "flops_fit",
        "train",
        "--spec",
        str(path),
        "--out",
        str(box.folder / "out"),
        "--results",
        str(box.folder / "results"),
        "--gpus",
        "1",
    ]
    job = subprocess.Popen(line, env=box.environment("6,4"), stderr=subprocess.DEVNULL)
    box.jobs.append(job)
    until(lambda: children_with("accelerate.commands.launch", job.pid))
    (process,) = children_with("accelerate.commands.launch", job.pid)
    process.suspend()  # it would fail soon, as there is no such model
    assert process.environ()[VISIBLE] == "6"
    box.start("next", devices="6,4")
    box.started("next")
    ((*_, device),) = box.events("start")
    assert device == "4"
    job.kill()
    process.kill()
    box.finish()


def nvidia_smi(folder: Path, line: str) -> None:
    """A program of that name that prints what it prints for three GPUs, one of them in slices."""
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{line}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_jobs_that_call_a_device_differently_share_its_lock(box):
    nvidia_smi(box.folder / "bin", f"echo '{SMI}'")
    box.start("index", devices="0", seconds=0.5)
    box.start("uuid", devices=f"GPU-aaaa1111{TAIL}", seconds=0.5)
    box.start("short", devices="GPU-aaaa1", seconds=0.5)
    box.finish()
    times = sorted((time, event) for event in ("start", "end") for time, *_ in box.events(event))
    assert [event for _, event in times] == ["start", "end"] * 3
    assert {device for *_, device in box.events("start")} == {
        "0",
        f"GPU-aaaa1111{TAIL}",
        "GPU-aaaa1",
    }


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (
            None,
            [
                f"GPU-aaaa1111{TAIL}",
                f"MIG-bbbb1111{TAIL}",
                f"MIG-bbbb2222{TAIL}",
                f"GPU-cccc1111{TAIL}",
            ],
        ),
        ("2,0", [f"GPU-cccc1111{TAIL}", f"GPU-aaaa1111{TAIL}"]),
        ("1", [f"MIG-bbbb1111{TAIL}"]),  # CUDA shows the first slice
        (f"MIG-bbbb2222{TAIL}, GPU-cccc", [f"MIG-bbbb2222{TAIL}", f"GPU-cccc1111{TAIL}"]),
        ("0,GPU-aaaa1111", [f"GPU-aaaa1111{TAIL}"]),
        ("0,7,2", [f"GPU-aaaa1111{TAIL}"]),
        ("GPU-", []),
        ("", []),
        ("-1", []),
    ],
)
def test_devices_are_those_that_cuda_would_show(tmp_path, monkeypatch, listed, seen):
    nvidia_smi(tmp_path, f"echo '{SMI}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert list(visible_devices(listed).values()) == seen


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("0,1", ["0", "1"]), ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]), ("0,-1,1", ["0"]), ("", [])],
)
def test_without_nvidia_smi_a_list_is_believed(tmp_path, monkeypatch, listed, seen):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices(listed) == {token: token for token in seen}


@pytest.mark.parametrize(
    ("listed", "program", "message"),
    [
        ("0,1", None, r"asks for 3, but CUDA_VISIBLE_DEVICES='0,1' shows 2; allowed: at most 2"),
        ("", None, r"asks for 3, but CUDA_VISIBLE_DEVICES='' shows 0"),
        (None, None, r"cannot be listed without nvidia-smi; list them in CUDA_VISIBLE_DEVICES"),
        (None, "echo 'GPU 0: NVIDIA T4 (UUID: GPU-a)'", r"asks for 3, but there are 1"),
        (
            None,
            "echo 'Driver/library version mismatch'; exit 18",
            r"nvidia-smi -L fails: Driver/lib",
        ),
    ],
)
def test_a_job_that_asks_for_more_than_there_is_stops_at_once(
    tmp_path, monkeypatch, listed, program, message
):
    if program:
        nvidia_smi(tmp_path, program)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlopsFitError, match=message):
        take_devices(3, {} if listed is None else {VISIBLE: listed})


@pytest.mark.parametrize(
    ("count", "environment"),
    [
        (0, {}),
        (1, {"SLURM_JOB_ID": "7"}),
        (9, {"SLURM_JOB_ID": "7"}),
        (9, {"ACCELERATE_USE_CPU": "true"}),
    ],
)
def test_where_there_is_nothing_to_share_nothing_is_taken(
    tmp_path, monkeypatch, count, environment
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert take_devices(count, {VISIBLE: "0", **environment}) == {}
    assert list(tmp_path.iterdir()) == []


def test_runs_inside_one_slurm_job_share_its_devices_and_those_of_other_jobs_are_others(box):
    def job(name, slurm_job):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(box, "environment", lambda _=None: environments[slurm_job])
            return box.start(name, seconds=PATIENCE)

    environments = {number: box.environment() | {"SLURM_JOB_ID": number} for number in ("7", "8")}
    for name, number in (("a", "7"), ("b", "7"), ("c", "8")):
        job(name, number)
        box.started(name)
    assert [device for *_, device in box.events("start")] == ["0", "1", "0"]
    assert job("d", "7").stderr.readline() == "flops-fit: waiting for 1 of 2 GPUs\n"
    for trainer in box.started("a", "b", "c"):
        trainer.terminate()
    box.started("d")[0].terminate()
    box.finish(shared=True)


def test_the_locks_are_for_all_users_of_the_machine_and_follow_no_link(tmp_path):
    path = tmp_path / "locks"
    os.close(open_locks(path))
    assert path.stat().st_mode & 0o777 == 0o666
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(FlopsFitError, match=r"link: cannot be opened \(Too many levels of symb"):
        open_locks(tmp_path / "link")
