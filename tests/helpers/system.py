"""Programs of this machine that a tier of tests needs: run them, and install what is missing."""

import os
import shutil
import subprocess


class Refusal(Exception):
    """This machine cannot hold what the tests would set up, or belongs to somebody else."""


def call(*line: str, **options) -> str:
    """Run a command and return what it printed; raises with it where the command fails."""
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def apt_install(packages: tuple[str, ...], programs: tuple[str, ...]) -> bool:
    """Install Debian's ``packages`` unless all ``programs`` are there; returns whether it did."""
    if all(map(shutil.which, programs)):
        return False
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "-qq", "update")
    install = ("apt-get", "-qq", "install", "--yes", "--no-install-recommends")
    call(*install, *packages, env=quiet)
    return True
