"""The lock on a run's folder: one trainer at a time, whoever started it."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.store.stopping import Stopped, StopRequest

LOCK = ".lock"
POLL_SECONDS = 0.1


@contextlib.contextmanager
def run_lock(folder: Path, stop: StopRequest | None = None, name: str = LOCK) -> Iterator[None]:
    """Hold the lock ``name`` of ``folder``; the kernel frees it when its holder dies.

    It is made if missing. Waits for a trainer that is at work, such as one that still saves or the
    orphan of a killed workflow. Raises `Stopped` when asked to stop meanwhile, `FlopsFitError` for a
    folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FlopsFitError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        if not _lock(descriptor):
            print(f"flops-fit: {folder.name}: another trainer is at work; waiting", file=sys.stderr)
            while not _lock(descriptor):  # not in one blocking call: signals must get through
                if stop:
                    raise Stopped(f"{folder.name}: stopped on {stop.signal} while waiting")
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_if_free(folder: Path) -> Iterator[bool]:
    """Keep trainers out of ``folder`` unless one is at work there; yields whether none is.

    Writes nothing: a folder without a lock has no trainer, and sharing the lock is enough.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Try to get the lock, exclusive unless ``kind`` is shared; returns whether we hold it now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
