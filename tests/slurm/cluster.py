"""A SLURM of one node on this machine, with two pretended GPUs, for the tests.

    python tests/slurm/cluster.py up      # install (apt) and start
    python tests/slurm/cluster.py down    # stop, and remove the configuration

Where a cluster could be meant it refuses: the configuration has to lie in /etc/slurm (jobs drop
SLURM_CONF from their environment), and every file that `up` writes there says so in its first line.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "helpers"))  # also where it is run as a program
from system import Refusal, apt_install, call
from waiting import PATIENCE

ETC = Path("/etc/slurm")
STATE = Path("/tmp/flops-fit-slurm")
LOCK = Path("/tmp/flops-fit-slurm.lock")  # held by the session that uses it
MARK = "# Written by the tests of flops-fit (tests/slurm/cluster.py), which remove it again.\n"
NAME = "flops-fit-tests"
KILL_WAIT = 10  # seconds
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=1
MessageTimeout=100
MinJobAge=300
KillWait={kill_wait}
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/node
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES DefaultTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} DefaultTime=60 PriorityTier=2 State=UP
"""
# The plugin for GPUs wants device files, and looks at no more than their kind.
GPUS = "NodeName={host} Name=gpu File=/dev/tty[0-1]\n"


def up() -> None:
    """Install what is missing, start the daemons, and wait until the node takes jobs."""
    refuse_on_a_cluster()
    refuse_beside_another()
    down()
    install()
    try:
        configure()
        start()
    except BaseException:
        down()
        raise


def configure() -> None:
    host = socket.gethostname().split(".")[0]
    for folder in ("controller", "node"):
        (STATE / folder).mkdir(parents=True)
    values = {"name": NAME, "host": host, "state": STATE, "cpus": 8, "kill_wait": KILL_WAIT}
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(MARK + CONFIGURATION.format(**values))
    (ETC / "gres.conf").write_text(MARK + GPUS.format(**values))
    key = STATE / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))


def start() -> None:
    call(
        "munged",
        "--force",
        f"--key-file={STATE}/munge.key",
        f"--socket={STATE}/munge.sock",
        f"--pid-file={STATE}/munged.pid",
        f"--log-file={STATE}/munged.log",
        f"--seed-file={STATE}/munge.seed",
    )
    call("slurmctld")
    call("slurmd")
    deadline = time.monotonic() + PATIENCE
    while (state := node_state()) != "idle":
        if time.monotonic() > deadline:
            log = (STATE / "slurmctld.log").read_text()[-2000:]
            raise RuntimeError(f"the node is {state!r}, not idle, after {PATIENCE:g} s\n{log}")
        time.sleep(0.1)


def node_state() -> str:
    found = subprocess.run(
        ["sinfo", "-h", "-p", "main", "-o", "%t"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def down() -> None:
    """Stop the daemons that `up` started and what their jobs left; remove what it wrote."""
    if os.geteuid() != 0:
        raise Refusal("the test SLURM is root's")
    for daemon in DAEMONS:
        stop(started(daemon))
    stop(of_jobs(), patience=1)
    for path in foreign_or_own(ETC)[1]:
        path.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def refuse_on_a_cluster(etc: Path = ETC) -> None:
    """Raise `Refusal` unless this machine is root's, and no SLURM is configured or at work."""
    if os.geteuid() != 0:
        raise Refusal("only root can install and start a SLURM")
    if "SLURM_CONF" in os.environ or "SLURM_JOB_ID" in os.environ:
        raise Refusal("SLURM_CONF or SLURM_JOB_ID is set: this is a part of a cluster")
    if foreign := foreign_or_own(etc)[0]:
        raise Refusal(f"{foreign[0]} was not written by these tests: leaving this cluster alone")
    own = {process.pid for daemon in DAEMONS for process in started(daemon)}
    for process in psutil.process_iter(["name"]):
        daemon = process.info["name"] in ("slurmctld", "slurmd", "sackd")
        if daemon and process.pid not in own and alive(process):
            raise Refusal(f"{process.info['name']} is at work (process {process.pid})")


def refuse_beside_another() -> None:
    """Hold the lock until this process ends, or raise `Refusal` where another one holds it."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refusal(f"another session uses the test SLURM ({LOCK})") from None


def foreign_or_own(etc: Path) -> tuple[list[Path], list[Path]]:
    """The files below ``etc`` that somebody else wrote, and those that bear our mark."""
    split = [], []
    for path in sorted(etc.rglob("*")):
        if not path.is_dir():
            own = path.is_file() and path.read_bytes().startswith(MARK.encode())
            split[own].append(path)
    return split


def install() -> None:
    if apt_install(PACKAGES, ("slurmctld", "slurmd", "sbatch", "munged")):
        for path in foreign_or_own(ETC)[
            0
        ]:  # there was none: these came with the packages, just now
            path.unlink()


def started(daemon: str) -> list[psutil.Process]:
    """The daemon whose process id `up` had written down, if it is alive."""
    try:
        process = psutil.Process(int((STATE / f"{daemon}.pid").read_text()))
        return [process] if process.name() == daemon else []
    except (OSError, ValueError, psutil.Error):
        return []


def of_jobs() -> list[psutil.Process]:
    """Processes of this cluster's jobs: SLURM gives each its cluster's name."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CLUSTER_NAME") == NAME:
                found.append(process)
        except psutil.Error:
            continue
    return found


def stop(processes: list[psutil.Process], patience: float = 10) -> None:
    """End them; those that are still there after ``patience`` seconds, at once."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + patience
        for process in filter(alive, processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        while any(map(alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except Refusal as refusal:
        sys.exit(f"cluster.py: {refusal}")
