"""A server from which the jobs of a sweep are forked, so that they need not import torch again.

``python -m flops_fit.jobs.server FOLDER LISTENER PARENT`` is started by the workflow, which hands it
a listening socket (its descriptor), and ends when that process does. At its first job it executes
itself anew, with that job's Python and environment, imports what every job imports, and forks.
Later jobs are served if their surroundings are the same; to any other it answers why not, and that
job starts the ordinary way. It only imports: it never runs an operation of torch, starts no thread,
and forks no job once it has one.

A forked job is what the ordinary way starts: the same line, run by `flops_fit.jobs.one_process`. It
writes to the front's log and is in the front's process group. The kernel sends it SIGTERM when the
front dies (a pipe whose other end only the front holds) or the server. The front, see
`flops_fit.jobs.served`, gets a handle of it (a pidfd) and its status.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flops_fit.jobs.imports import import_all
from flops_fit.jobs.surroundings import PACKAGE, differing, surroundings
from flops_fit.store.stopping import LAUNCHER, RETRY_STATUS, Stopped, stop_with_parent

MOST = 1 << 18  # bytes of a request; the kernel's default limit is a little less
SECONDS = 10.0  # that a front may take to ask
PASSED = 4  # descriptors in a request: the three standard ones, and the pipe of the front's life
ENDING = (signal.SIGTERM, signal.SIGINT)
CREDENTIALS = struct.Struct("3i")  # C's struct ucred: pid, uid, gid


def main(folder: str, listener: int, parent: int, first: int | None = None) -> None:
    """Serve jobs that connect to the socket ``listener`` until the process ``parent`` ends.

    ``folder`` holds the socket and is removed at the end. ``first`` is the connection of the job
    whose environment this process has; None: no job has asked yet.
    """
    for number in ENDING:
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        stop_with_parent(parent)
        with socket.socket(fileno=listener) as accepting:
            if first is None:
                connection, _ = accepting.accept()
                become_server_of(connection, accepting, [folder, str(listener), str(parent)])
            else:
                around, asking = surroundings(os.environ), socket.socket(fileno=first)
                import_all()
                Server(accepting, around).serve(asking)
    except Stopped:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def become_server_of(
    connection: socket.socket, accepting: socket.socket, arguments: list[str]
) -> None:
    """Execute this server anew with the Python and the environment of the job in ``connection``.

    It goes on with ``accepting`` and ``connection``; ``arguments`` are those of `main`.
    """
    connection.settimeout(SECONDS)
    request = json.loads(connection.recv(MOST, socket.MSG_PEEK))  # stays there, to be served
    connection.setblocking(True)
    for kept in (connection, accepting):
        kept.set_inheritable(True)
    line = [request["python"], "-m", "flops_fit.jobs.server", *arguments]
    os.execve(line[0], [*line, str(connection.fileno())], request["around"]["the environment"])


def obstacle() -> str | None:
    """Why no job may be forked from this process, whatever its surroundings."""
    if len(os.listdir("/proc/self/task")) > 1:
        return "it has more than one thread"
    here = os.path.join(os.getcwd(), "")
    inside = (os.path.join(str(PACKAGE), ""), os.path.join(sys.prefix, ""))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(here) and not file.startswith(inside):
            return f"{name} is imported from the working folder"
    return None


@dataclass
class Server:
    """Forks jobs for those who connect to ``accepting``, if their surroundings are ``around``.

    ``jobs`` are those at work, and ``ending`` says whether it has been asked to end.
    """

    accepting: socket.socket
    around: dict[str, Any]
    jobs: dict[int, socket.socket] = field(default_factory=dict)  # process id -> its front
    ending: bool = False

    def serve(self, first: socket.socket) -> None:
        """Serve ``first``, then all who connect, until asked to end and no job is left."""
        awake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, self._note)
        self._answer(first)
        while not self.ending or self.jobs:
            watched: list[Any] = [awake] if self.ending else [awake, self.accepting]
            ready, _, _ = select.select(watched, [], [])
            if awake in ready:
                os.read(awake, 1024)
            self._reap()
            if self.accepting in ready and not self.ending:
                with contextlib.suppress(OSError):  # who asked is gone
                    connection, _ = self.accepting.accept()
                    self._answer(connection)
            if self.ending:
                self.accepting.close()  # whoever asks now is refused by the kernel

    def _note(self, number: int, frame: object) -> None:
        self.ending = self.ending or number in ENDING

    def _answer(self, connection: socket.socket) -> None:
        """Fork the job that ``connection`` asks for, or say why not."""
        connection.settimeout(SECONDS)
        descriptors: list[int] = []
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            data, descriptors, _, _ = socket.recv_fds(connection, MOST, PASSED, flags)
            request = json.loads(data)
            why_not = self._refusal(request, connection)
            if why_not is None and len(descriptors) == PASSED:
                self._fork(request["line"], connection, descriptors)
            else:
                connection.send(json.dumps({"refused": why_not}).encode())
                connection.close()
        except (OSError, ValueError, LookupError):  # the front is gone, or is none
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _refusal(self, request: dict[str, Any], connection: socket.socket) -> str | None:
        if peer(connection)[1] != os.getuid():
            return "it belongs to another user"
        if different := differing(request["around"], self.around):
            return f"{', '.join(sorted(different))} of the job differ"
        return obstacle()

    def _fork(self, line: list[str], connection: socket.socket, descriptors: list[int]) -> None:
        server = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if not pid:
                self._become_job(line, connection, descriptors, server, before)
            self.jobs[pid] = connection
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        handle = os.pidfd_open(pid)
        try:
            socket.send_fds(connection, [json.dumps({"started": pid}).encode()], [handle])
        except OSError:  # the front is gone, and the job learns of it from the pipe
            pass
        finally:
            os.close(handle)

    def _become_job(
        self,
        line: list[str],
        connection: socket.socket,
        descriptors: list[int],
        server: int,
        mask: set[Any],
    ) -> NoReturn:
        try:
            front = peer(connection)[0]
            for other in (self.accepting, connection, *self.jobs.values()):
                other.close()
            reset_signals()
            with contextlib.suppress(OSError):  # the front is gone, and the pipe says so, too
                os.setpgid(0, os.getpgid(front))
            be_job(line, descriptors, server, mask)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while self.jobs:
            pid, how = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if connection := self.jobs.pop(pid, None):
                with connection, contextlib.suppress(OSError):
                    status = os.waitstatus_to_exitcode(how)
                    connection.send(json.dumps({"status": status}).encode())


def peer(connection: socket.socket) -> tuple[int, ...]:
    """Process id, user id and group id of whoever opened the other end of ``connection``."""
    size = CREDENTIALS.size
    return CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))


def reset_signals() -> None:
    """Give a forked job the signals of a Python that has just started."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def be_job(line: list[str], descriptors: list[int], server: int, mask: set[int]) -> NoReturn:
    """Run the command ``line`` of a job in this process, just forked from the process ``server``.

    ``descriptors`` are its standard ones and the pipe of the front's life; ``mask`` holds the
    signals that a job blocks.
    """
    from flops_fit.jobs import one_process
    from flops_fit.process import leave

    *standard, life = descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    try:
        stop_with_parent(server)
        stop_with_front(life)
        os.environ[LAUNCHER] = str(server)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        import numpy

        numpy.random.seed()  # as in a process of its own; Python's and torch's need nothing
        sys.argv = [one_process.__file__, *line]
        one_process.main(line)
    except Stopped:
        status = RETRY_STATUS
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


def stop_with_front(life: int) -> None:
    """Have the kernel send SIGTERM to this process when the pipe ``life`` loses its other end.

    Raises `Stopped` where it has lost it already.
    """
    os.set_inheritable(life, True)  # it must hold in whatever this process becomes
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    ready, _, _ = select.select([life], [], [], 0)
    if ready:
        raise Stopped("the front is gone")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
