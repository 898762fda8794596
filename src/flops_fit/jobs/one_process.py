"""``accelerate launch`` for one process on the CPU, without a second process.

``accelerate launch`` imports torch to read its options, and then starts the program, which imports
torch again. This module takes the same command line. It lets accelerate's own parser, checks and
environment do their work, and then runs the job in this process:
``python -m flops_fit.jobs.one_process OPTIONS -m flops_fit.jobs.job SPEC RESULT ROOT AFTER``.
"""

import atexit
import ctypes
import gc
import os
import sys
import threading
from _io import _IOBase
from typing import Any, NoReturn

JOB = "flops_fit.jobs.job"
# What accelerate sets for a run on the CPU and OpenMP reads when it is loaded: it must be there
# before torch is imported.
FOR_OPENMP = {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}
ACCELERATES = "ACCELERATE_"  # variables that only accelerate reads, and not before it is used
NO_OUTPUT = 120  # Python's status where standard output could not be written at the end


def main(line: list[str]) -> NoReturn:
    """Do what ``accelerate launch`` does with ``line``, its arguments, and end as its program does.

    Where accelerate would start another program, or set a variable that a library of this process
    may have read already, this process is replaced by what accelerate would start.
    """
    gc.disable()  # until the job has imported everything, see `flops_fit.jobs.imports`
    command, environment = launched(line)
    changed = {name for name, value in environment.items() if os.environ.get(name) != value}
    early = {name for name in changed if not name.startswith(ACCELERATES)}
    program, arguments = command[1:3], command[3:]
    if early or program != ["-m", JOB]:
        os.execve(command[0], command, environment)
    os.environ.update(environment)
    sys.argv[1:] = arguments
    from flops_fit.jobs import job

    leave(job.main(arguments))


def launched(line: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of what ``accelerate launch`` starts for ``line``."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_simple_launcher_cmd_env

    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    return prepare_simple_launcher_cmd_env(arguments)


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


if __name__ == "__main__":
    main(sys.argv[1:])
