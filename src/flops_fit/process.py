"""How a process starts and ends quickly: without work that is of use only to one that goes on."""

import atexit
import ctypes
import gc
import os
import sys
import threading
from _io import _IOBase
from typing import Any, NoReturn

NO_OUTPUT = 120  # Python's status where standard output could not be written at the end
YOUNG = 200_000  # new objects before the collector looks at them; Python's default is 700


def collect_rarely() -> None:
    """Let the garbage collector search this process rarely.

    Importing a large library makes hundreds of thousands of objects that stay, and the collector would
    look through them again and again while they are made.
    """
    gc.set_threshold(YOUNG, 20, 1000)


def leave(status: int) -> NoReturn:
    """End this process with ``status``, as Python does at its end, but leave its memory to the kernel.

    Freeing all objects and libraries one by one takes about a second with torch. Everything else is
    done: threads are waited for, functions of `atexit` are called, and all files are flushed, also
    those that a plug-in left open.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.unfreeze()  # what was imported may hold files, too
    kinds: dict[type, bool] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if kind not in kinds:
            kinds[kind] = _IOBase in kind.__mro__
        if kinds[kind]:
            _flush(thing)
    if not all([_flush(sys.stdout), _flush(sys.stderr)]):
        status = status or NO_OUTPUT
    ctypes.CDLL(None).fflush(None)  # what libraries in C have not written yet
    os._exit(status)


def _flush(file: Any) -> bool:
    """Whether ``file`` could be flushed."""
    try:
        file.flush()
    except OSError:
        return False
    except Exception:  # closed, or a plug-in's own kind of file
        return True
    return True
