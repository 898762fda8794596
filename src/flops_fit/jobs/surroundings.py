"""All that decides how a process behaves beside its arguments, so that two of them can be compared.

A job may be forked from a server only where it would have behaved in the same way if it had been
started by itself. So everything that a process inherits or reads at its start is compared, and
nothing has to be judged.
"""

import hashlib
import os
import resource
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
STATUS = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn")  # lines of /proc/self/status
PRIVILEGES = ("NoNewPrivs", "Seccomp", "CapEff", "Cpus_allowed", "Mems_allowed")
LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))


def surroundings(environment: Mapping[str, str]) -> dict[str, Any]:
    """What decides about a process that this one would start in ``environment``, by kind (Linux).

    The values are plain data, the same after a round trip through JSON.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if line.startswith(STATUS + PRIVILEGES))
    spaces = Path("/proc/self/ns")
    return {
        "the Python": [sys.executable, sys.version],  # its flags follow from the environment
        "flops-fit": _sources(),
        "the packages": [
            os.stat(sysconfig.get_path(p)).st_mtime_ns for p in ("purelib", "platlib")
        ],
        "the environment": dict(environment),
        "the working folder": os.getcwd(),
        "the session": os.getsid(0),
        "the status": status,
        "the limits": [list(resource.getrlimit(getattr(resource, name))) for name in LIMITS],
        "the priority": os.getpriority(os.PRIO_PROCESS, 0),
        "the cgroup": Path("/proc/self/cgroup").read_text(),
        "the namespaces": [os.readlink(space) for space in sorted(spaces.iterdir())],
    }


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The kinds in which ``one`` and ``other``, both as of `surroundings`, differ."""
    return [kind for kind in one.keys() | other.keys() if one.get(kind) != other.get(kind)]


def _sources() -> str:
    """Digest of name, size and time of every source of this package: an edited one is another."""
    stats = [(str(file), file.stat()) for file in sorted(PACKAGE.rglob("*.py"))]
    listed = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(listed).encode()).hexdigest()
