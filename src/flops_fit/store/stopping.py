"""Being told to stop: signals that ask for a checkpoint, and the death of the launcher."""

import contextlib
import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
RETRY_STATUS = 75  # EX_TEMPFAIL: stopped on request, work saved, try again
LAUNCHER = "FLOPS_FIT_LAUNCHER"  # the variable that tells trainers their launcher's process id
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Stopped(Exception):
    """A run was asked to stop; what it has done is in a checkpoint."""


class StopRequest:
    """Whether a stop signal has arrived; the training loop looks at it between steps.

    A handler cannot save a model, so it only raises the flag. A second signal changes nothing:
    the loop is already on its way out.
    """

    def __init__(self):
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _handle(self, number, frame) -> None:
        self.signal = signal.Signals(number).name

    @contextlib.contextmanager
    def listening(self):
        """Install the handlers for the duration of a block."""
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def stop_with_parent(parent: int) -> None:
    """On Linux, have the kernel send SIGTERM to this process when ``parent`` (its launcher) dies.

    A launcher that is killed outright leaves its trainers alive; they could then race the retry of
    their own experiment. SIGTERM and not SIGKILL, so that the work is saved. Raises `Stopped` when
    the launcher died before the request took effect.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Stopped(f"the launcher (process {parent}) is gone")


def outlive(launcher: list[str], environment: dict[str, str]) -> int:
    """Run ``launcher``; return its exit status once it and the trainers that it left have ended.

    A signal to a whole job (SLURM's at ``scancel``, a time limit or preemption) kills the launcher at
    once, while its trainers still save; whoever waited for the launcher alone would end the job, and
    SLURM them with it. So its orphans become our children (on Linux) and are waited for. Requests
    to stop are passed on to the launcher, and so is our death: its end is what trainers hear of.
    """
    told: list[int] = []
    child = 0

    def tell(number, frame):
        told.append(number)
        if child:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(child, signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, tell)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if not child:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.execve(launcher[0], launcher, {**environment, LAUNCHER: str(os.getpid())})
    if told:  # before there was anyone to tell
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
