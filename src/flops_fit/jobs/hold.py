"""Hold a run's lock for a program: take the lock, then become the program.

usage: python -I -S hold.py LOCK PROGRAM [ARGUMENTS ...]

A program that is executed keeps the id, the lock and the parent-death signal of this process. So a
script in any language is the only trainer of its run and receives SIGTERM when its launcher dies,
without doing anything for it. Of several processes of a launcher the one of rank 0 holds the lock.
Standard library alone, and little of it: every run pays for this start.
"""

import ctypes
import fcntl
import os
import sys
import time

LAUNCHER = "FLOPS_FIT_LAUNCHER"  # holds the launcher's process id, see flops_fit.store.stopping
RETRY_STATUS = 75  # of that module, too
POLL_SECONDS = 0.1
SIGPIPE, SIGTERM, SIGXFSZ = 13, 15, 25  # the signal module would take longer than the rest
PR_SET_PDEATHSIG = 1


def main(lock: str, program: list[str]) -> None:
    """Take ``lock``, a path, and become ``program``, a command line."""
    libc = ctypes.CDLL(None)
    stop_with_launcher(libc)
    if int(os.environ.get("RANK", 0)) == 0:
        take(lock)
    for ignored_by_python in (SIGPIPE, SIGXFSZ):
        libc.signal(ignored_by_python, None)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"flops-fit: {program[0]}: cannot be started ({error.strerror})")


def stop_with_launcher(libc: ctypes.CDLL) -> None:
    """Receive SIGTERM when the parent dies (Linux; by ``libc``); exit if the launcher is gone.

    Where this process is what the job has started, and not a child of it, it is the launcher.
    """
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, SIGTERM)
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    if launcher not in (os.getpid(), os.getppid()):
        print(f"flops-fit: the launcher (process {launcher}) is gone", file=sys.stderr)
        sys.exit(RETRY_STATUS)


def take(lock: str) -> None:
    """Wait for ``lock`` and keep it open for the program to come, which frees it by ending."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(descriptor, True)
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waiting:
                run = os.path.basename(os.path.dirname(os.path.abspath(lock)))
                print(f"flops-fit: {run}: another trainer is at work; waiting", file=sys.stderr)
            waiting = True
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
