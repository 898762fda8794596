"""Jobs that are forked from the server of their workflow, `flops_fit.jobs.server`: both its users.

The workflow starts the server (`start_server`); a job asks it to be forked (`run_served`). What goes
wrong before the job has started leads to the ordinary way.
"""

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from flops_fit.jobs.surroundings import surroundings
from flops_fit.store.stopping import RETRY_STATUS, STOP_SIGNALS, Stopped

SERVER = "FLOPS_FIT_SERVER"  # the path of the server's socket; 0: no server
OFF = "0"
START_SECONDS = 120.0  # that a job may wait for the server, which imports torch on a busy machine
END_SECONDS = 2.0  # that the workflow waits for the server to end
MOST = 4096  # bytes of an answer


def start_server() -> None:
    """Start the server of this process, the workflow, and name it to all jobs that are to come.

    Only on Linux, and not where the user has set ``FLOPS_FIT_SERVER=0``. Where a server cannot be
    started, jobs start the ordinary way. It must be called in the main thread: the kernel tells the
    server when the thread that started it ends.
    """
    if os.environ.get(SERVER) == OFF or not is_possible():
        return
    for folder in _private_folders():
        path = os.path.join(folder, "jobs")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            line = [sys.executable, "-m", "flops_fit.jobs.server", folder]
            line += [str(listener.fileno()), str(os.getpid())]
            try:
                listener.bind(path)  # at most 107 bytes
                listener.listen(1024)
                server = subprocess.Popen(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[listener.fileno()],
                )
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
        os.environ[SERVER] = path
        atexit.register(_end, server, folder)
        return


def _private_folders() -> Iterator[str]:
    """Make a folder that only this user can enter, where its path may be short enough."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        with contextlib.suppress(OSError):
            if parent:
                yield tempfile.mkdtemp(prefix="flops-fit-", dir=parent)


def _end(server: subprocess.Popen, folder: str) -> None:
    """End the server with the workflow; it stays while a job that it has forked still saves."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        server.terminate()
        server.wait(END_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def is_possible() -> bool:
    """Whether this system can tell a job of the death of its front, and a front of its job's."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # Linux before 5.3, or a Python that was built on one
        return False
    return True


def run_served(line: list[str], environment: Mapping[str, str]) -> int | None:
    """Have the server fork the job of ``line``, a command of this Python, and wait for its end.

    ``environment`` is what the job would be started in. Returns its status as a shell would give it,
    or None where the job has to be started the ordinary way. Requests to stop are passed on.
    """
    path = os.environ.get(SERVER, OFF)
    if path == OFF or not is_possible():
        return None
    environment = {name: value for name, value in environment.items() if name != SERVER}
    request = {
        "python": line[0],
        "line": line[3:],  # behind -m and the module
        "around": surroundings(environment),
    }
    try:
        with Front() as front, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            return _ask(server, path, request, front)
    except Stopped as stopped:
        print(f"flops-fit: {stopped}", file=sys.stderr)
        return RETRY_STATUS


def _ask(server: socket.socket, path: str, request: dict[str, Any], front: "Front") -> int | None:
    life, ours = os.pipe()
    with open(life, "rb") as lent, open(ours, "wb"):  # closes with this process, however it ends
        try:
            server.settimeout(START_SECONDS)
            server.connect(path)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2, life])
            lent.close()
            answer, handles, _, _ = socket.recv_fds(server, MOST, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:  # no server, or none that answers: a job that it forks yet ends at once
            return None
        if handles:
            return front.wait(server, handles[0])
    if answer:
        why_not = json.loads(answer)["refused"]
        print(f"flops-fit: not forked from the server: {why_not}", file=sys.stderr)
    return None


class Front:
    """This process while its job is at work: it passes requests to stop on."""

    def __init__(self) -> None:
        self.job: int | None = None  # the pidfd of the job

    def __enter__(self) -> "Front":
        self.before = {number: signal.signal(number, self._tell) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self.job is None:
            raise Stopped(f"stopped on {signal.Signals(number).name} before the run started")
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            signal.pidfd_send_signal(self.job, signal.SIGTERM)

    def wait(self, server: socket.socket, job: int) -> int:
        """Wait for the end of the process of the pidfd ``job``; returns its status from ``server``.

        Where the server dies, the kernel asks the job to stop, and its status is not known.
        """
        self.job = job
        server.settimeout(None)
        try:
            answer = server.recv(MOST)
        except ConnectionError:
            answer = b""
        if not answer:
            select.select([job], [], [])
            return RETRY_STATUS
        status = int(json.loads(answer)["status"])
        return status if status >= 0 else 128 - status
