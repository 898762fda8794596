"""How a run is asked to stop: by signals, and by the death of its launcher."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
RETRY_STATUS = 75  # EX_TEMPFAIL: stopped on request, work saved, try again
LAUNCHER = "FLOPS_FIT_LAUNCHER"  # the variable that tells trainers their launcher's process id
GRACE_SECONDS = 20.0  # SLURM and torchrun kill 30 s after they have asked
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Stopped(Exception):
    """A run was asked to stop; what it has done is in a checkpoint."""


class StopRequest:
    """Whether a stop signal has arrived; the training loop looks at it between steps.

    A handler cannot save a model, so it only raises the flag. A second signal changes nothing:
    the loop is already on its way out. Where nobody looks at the flag within ``grace`` seconds (the
    process waits for data, for another process, or in a loop without an end), the process ends with
    `RETRY_STATUS`: its last checkpoint stays, and who asked does not have to kill it.
    """

    def __init__(self, grace: float = GRACE_SECONDS):
        self.signal: str | None = None
        self.grace = grace
        self.before_exit: list[Callable[[], object]] = []  # called where the grace has passed
        self._seen = threading.Event()

    def __bool__(self) -> bool:
        if self.signal is not None:
            self._seen.set()
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    @contextlib.contextmanager
    def listening(self) -> "Iterator[StopRequest]":
        """Install the handlers for the duration of a block."""
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        arrivals, ours = socket.socketpair()
        ours.setblocking(False)
        # Python's handlers wait for the main thread, which may itself wait: the byte does not
        before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(arrivals,), daemon=True).start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(before)
            self._seen.set()
            ours.close()  # ends the thread
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _watch(self, arrivals: socket.socket) -> None:
        with arrivals:
            while number := arrivals.recv(1):
                if number[0] in STOP_SIGNALS and not self._seen.wait(self.grace):
                    message = (
                        f"flops-fit: stopped on {signal.Signals(number[0]).name} without saving: "
                        f"the run waited for something else for {self.grace:g} s; its last checkpoint "
                        "stays; to be resumed\n"
                    )
                    for tidy in self.before_exit:
                        tidy()
                    os.write(sys.stderr.fileno(), message.encode())
                    os._exit(RETRY_STATUS)


def _forget_wakeups() -> None:
    """Let a forked child (a loader's worker) not report its signals as ours."""
    with contextlib.suppress(ValueError):  # forked by another thread
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_wakeups)


def stop_with_parent(parent: int) -> None:
    """On Linux, have the kernel send SIGTERM to this process when ``parent`` (its launcher) dies.

    A launcher that is killed outright leaves its trainers alive; they could then race the retry of
    their own experiment. SIGTERM and not SIGKILL, so that the work is saved. Raises `Stopped` when
    the launcher died before the request took effect. A process that is the launcher itself has made
    the request for its own parent already.
    """
    if os.getpid() == parent:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Stopped(f"the launcher (process {parent}) is gone")


def outlive(
    launcher: list[str],
    environment: dict[str, str],
    signals: list[int] | None = None,
    watch: Callable[[], None] | None = None,
) -> int:
    """Run ``launcher`` in ``environment`` until it and the trainers that it leaves have ended.

    Returns its exit status. A signal to a whole job (SLURM's at ``scancel``, a time limit or
    preemption) kills the launcher at once, while its trainers still save. Whoever waited for the
    launcher alone would end the job, and SLURM would end the trainers with it. So its orphans
    become our children (on Linux) and are waited for. Requests to stop are passed on to the
    launcher, and so is our death: from the end of the launcher the trainers learn of it. The requests
    are noted in ``signals``. ``watch`` runs in a thread of its own meanwhile.
    """
    signals = [] if signals is None else signals
    child = 0

    def tell(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if child:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(child, signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, tell)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    # A request that reaches the child before it is the launcher waits, or our handler would take it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    child = os.fork()
    if not child:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the request
            os._exit(RETRY_STATUS)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.execve(launcher[0], launcher, {**environment, LAUNCHER: str(os.getpid())})
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if watch is not None:
        threading.Thread(target=watch, daemon=True).start()
    if signals:  # before the child could be asked
        os.kill(child, signal.SIGTERM)
    status = 0
    while True:
        try:
            pid, how = os.wait()
        except ChildProcessError:
            return status
        if pid == child:
            child, code = 0, os.waitstatus_to_exitcode(how)
            status = code if code >= 0 else 128 - code  # as a shell tells of a signal
            if code == 0:  # its trainers have ended; a tracker's helper may live on
                return 0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
