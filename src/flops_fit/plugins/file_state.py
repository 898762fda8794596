"""Whether a file may have changed since it was last read, without reading it again."""

import time
from pathlib import Path

SETTLED_SECONDS = 2.0  # a later write within a clock tick of the last one leaves the state as it is


def file_state(path: Path) -> list[int]:
    """Size, time of the last write, time of the last change of any kind, and inode of a file.

    Archives and copies restore size and write time; the other two then tell files apart.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_settled(state: list[int]) -> bool:
    """Whether a file in this ``state`` (of `file_state`) is old enough to be remembered by it."""
    return time.time_ns() - state[2] > SETTLED_SECONDS * 1e9
