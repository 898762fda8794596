"""``accelerate launch`` for one process on the CPU, without a second process.

``accelerate launch`` imports torch to read its options, and then starts the program, which imports
torch again. This module takes the same command line. It lets accelerate's own parser, checks and
environment do their work, and then runs the job in this process:
``python -m flops_fit.jobs.one_process OPTIONS -m flops_fit.jobs.job SPEC RESULT ROOT AFTER``.
"""

import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

from flops_fit.process import leave

JOB = "flops_fit.jobs.job"
CHECK = "flops_fit.jobs.check"
PROGRAMS = (JOB, CHECK)  # what may run here: modules with a main that returns a status
# What accelerate sets for a run on the CPU and OpenMP reads when it is loaded: it must be there
# before torch is imported.
FOR_OPENMP = {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}
ACCELERATES = "ACCELERATE_"  # variables that only accelerate reads, and not before it is used


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
    if early or program[0] != "-m" or program[1] not in PROGRAMS:
        os.execve(command[0], command, environment)
    os.environ.update(environment)
    sys.argv[1:] = arguments
    leave(import_module(program[1]).main(arguments))


def launched(line: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of what ``accelerate launch`` starts for ``line``."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_simple_launcher_cmd_env

    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    return prepare_simple_launcher_cmd_env(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
