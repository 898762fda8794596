"""Being told to stop: signals that ask for a checkpoint, and the death of the launcher."""

import contextlib
import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
RETRY_STATUS = 75  # EX_TEMPFAIL: stopped on request, work saved, try again
_PR_SET_PDEATHSIG = 1


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
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Stopped(f"the launcher (process {parent}) is gone")
