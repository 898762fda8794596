"""Snakemake as a process of its own that runs one config, and what is left where both were killed."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flops_fit.errors import FlopsFitError


def run_config(config: Path, arguments: Sequence[str], mark: Path) -> None:
    """Run Snakemake with ``arguments`` on the file ``config``, its output on standard error.

    ``mark`` is a file that is locked, and not empty, while Snakemake works: the lock ends with the last
    process that holds it, so a mark that is not locked shows a Snakemake that was killed, whose own lock
    on the folder is then removed. Raises `FlopsFitError` where another one works, or where it fails.
    """
    mark.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", str(config)]
    with mark.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlopsFitError(
                f"{mark}: another flops-fit sweep, or its Snakemake, is at work in this folder; "
                "allowed: one at a time"
            ) from None
        if mark.stat().st_size:
            subprocess.run([*command, "--unlock"], stdout=sys.stderr, check=False)
        held.write(f"{config}\n")
        held.flush()
        status = _followed(command, held.fileno())
        held.truncate(0)
    if status:
        raise FlopsFitError(
            f"{config}: Snakemake ended with status {status}; its messages are above. The same command "
            "goes on where it stopped"
        )


def _followed(command: Sequence[str], held: int) -> int:
    """Run ``command``, which inherits ``held``, and pass SIGTERM on to it; returns its status."""
    process = subprocess.Popen(command, stdout=sys.stderr, pass_fds=[held])

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return process.wait()
    except BaseException:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
