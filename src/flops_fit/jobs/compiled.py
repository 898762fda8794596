"""Compiled graphs that runs of one shape share: the cache of torch's inductor, below the results.

The first run of a shape compiles it, and later ones read what it left. Torch's own key decides what is
read: the graph, the shapes, torch's sources and settings, the GPU and its CUDA. It does not name the
CPU for which C++ was compiled, so every kind of CPU has a folder. Torch writes each file in one
step and compiles under a lock, so several runs may use the folder at once. Nothing of it enters an
identity.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from flops_fit.experiment.places import compiled_folder

CACHE = "TORCHINDUCTOR_CACHE_DIR"  # inductor's variable; Triton's files lie below it, too


def cache_variables(results: str | Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that gives a run its cache below ``results``; none where ``environment`` has it."""
    if CACHE in environment:
        return {}
    return {CACHE: str((compiled_folder(results) / cpu_kind()).resolve())}


def cpu_kind() -> str:
    """A short name for the instructions that the CPU of this machine has."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    flags = re.search(r"^(flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    known = sorted(flags[2].split()) if flags else [platform.processor()]
    digest = hashlib.sha256(" ".join(known).encode()).hexdigest()[:8]
    return f"{platform.machine() or 'cpu'}-{digest}"
