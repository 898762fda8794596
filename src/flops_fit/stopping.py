"""Being told to stop: signals that ask for a checkpoint, and the death of the launcher."""

import contextlib
import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
RETRY_STATUS = 75  # EX_TEMPFAIL: stopped on request, work saved, try again
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Whether a stop signal has arrived; the training loop looks at it between steps.

    A handler cannot save a model, so it only raises the flag. A second signal changes nothing:
    the loop is already on its way out.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _handle(self, number, frame) -> None:
        self.signal = signal.Signals(number)

    @contextlib.contextmanager
    def listening(self):
        """Install the handlers for the duration of a block."""
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def stop_with_parent() -> None:
    """On Linux, have the kernel send SIGTERM to this process when its parent dies.

    A launcher that is killed outright leaves its trainers alive; they could then race the retry of
    their own experiment. SIGTERM and not SIGKILL, so that the work is saved.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request took effect
        os.kill(os.getpid(), signal.SIGTERM)
