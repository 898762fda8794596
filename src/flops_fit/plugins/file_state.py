"""Decide whether a file may have changed since it was last read, without reading it again."""

import time
from pathlib import Path

SETTLED_SECONDS = 2.0  # two writes within one tick of the clock leave the same state


def file_state(path: Path) -> list[int]:
    """Return the size in bytes, write time, change time (both in ns) and inode of the file ``path``.

    Archives and copies restore the size and the write time; the other two then differ.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(state: list[int]) -> bool:
    """Whether ``state``, of `file_state`, is old enough that a later change would alter it."""
    return time.time_ns() - state[2] > SETTLED_SECONDS * 1e9
