"""What ``nvidia-smi`` says of the GPUs of this machine: the one place that asks it."""

import contextlib
import csv
import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from flops_fit.errors import FlopsFitError

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROGRAM = "nvidia-smi"
SECONDS = 60.0  # the longest time to wait for it; it takes long where no driver process stays
FIELDS = "uuid,driver_version,compute_cap,memory.total,name"
# A line of `nvidia-smi -L`: GPU or MIG, its name or profile, and its UUID
LISTED = re.compile(r"^\s*(GPU|MIG) (.*)\(UUID: (\S+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """One GPU: its ``uuid``, ``driver`` version, compute ``capability``, ``memory_bytes`` and ``name``.

    What ``nvidia-smi`` does not tell (N/A, no permission) is None.
    """

    uuid: str
    driver: str
    capability: str | None
    memory_bytes: float | None
    name: str


@dataclass(frozen=True)
class Answer:
    """What ``nvidia-smi`` has ``printed``, and the ``problem`` with it (empty: none)."""

    printed: str
    problem: str = ""


def ask(*options: str) -> Answer | None:
    """Call ``nvidia-smi`` with ``options``; None where it is not installed, as on machines with ROCm.

    A call that takes too long is given up, even where the driver keeps the process from ending.
    """
    if shutil.which(PROGRAM) is None:
        return None
    try:
        process = subprocess.Popen(
            [PROGRAM, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
        printed, _ = process.communicate(timeout=SECONDS)
    except OSError as error:
        return Answer("", str(error))
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        return Answer("", f"no answer within {SECONDS:g} s")
    status = process.returncode
    problem = (printed.strip() or f"status {status}") if status else ""
    return Answer(printed, problem)


def cards() -> list[Card]:
    """The GPUs of this machine in the driver's order, none where ``nvidia-smi`` does not list them.

    It may warn of one GPU (a damaged ROM) and still list all of them.
    """
    answer = ask(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    rows = csv.reader(answer.printed.splitlines() if answer else [], skipinitialspace=True)
    return [
        Card(
            uuid,
            driver,
            capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            2**20 * float(memory) if re.fullmatch(r"\d+(\.\d+)?", memory) else None,  # from MiB
            ", ".join(name),
        )
        for uuid, driver, capability, memory, *name in (row for row in rows if len(row) > 4)
        if re.fullmatch(r"\d+(\.\d+)+", driver)
    ]


def visible_devices(listed: str | None) -> dict[str, str]:
    """Return the GPUs that a job may take: the name of each on this machine, by its name in `VISIBLE`.

    ``listed`` is the value of that variable: indices or UUIDs, which may be shortened. The first
    unknown one ends the list, as in CUDA; None means all GPUs. The names on this machine are UUIDs
    where ``nvidia-smi`` is available, so that all jobs lock the same byte for a GPU, even if they
    list it in different ways or run in different containers. Raises `FlopsFitError` where ``listed``
    is None and there is no ``nvidia-smi``.
    """
    installed = installed_gpus()
    if listed is None:
        if installed is None:
            raise FlopsFitError(
                "resources.gpus: the GPUs of this machine cannot be listed without nvidia-smi; list "
                f"them in {VISIBLE}, or set ACCELERATE_USE_CPU=true to train on the CPU on purpose"
            )
        return {uuid: uuid for uuid in itertools.chain(*installed.values())}
    devices: dict[str, str] = {}
    for token in map(str.strip, listed.split(",")):
        name = _name(token, installed)
        if name is None:
            break
        if name not in devices.values():
            devices[token] = name
    return devices


def _name(token: str, installed: dict[str, list[str]] | None) -> str | None:
    """Return the name of the GPU that ``token`` stands for, or None if there is no such GPU."""
    if installed is None:
        return token if re.fullmatch(r"\d+|(GPU|MIG)-\S+", token) else None
    if token.isdigit():
        return next(itertools.islice(installed.values(), int(token), None), [None])[0]
    parts = itertools.chain(
        installed.items(), ((u, [u]) for u in itertools.chain(*installed.values()))
    )
    matches = {slices[0] for uuid, slices in parts if token and uuid.startswith(token)}
    return matches.pop() if len(matches) == 1 else None


def installed_gpus() -> dict[str, list[str]] | None:
    """Return for the UUID of each GPU, in the driver's order, the UUIDs that a job can take.

    These are the GPU itself or its slices (MIG). Returns None where there is no ``nvidia-smi``;
    asking torch instead would take seconds. Raises `FlopsFitError` where ``nvidia-smi`` fails.
    """
    answer = ask("-L")
    if answer is None:
        return None
    installed: dict[str, list[str]] = {}
    for kind, _, uuid in LISTED.findall(answer.printed):
        if kind == "GPU":
            installed[uuid] = []
        else:
            installed[next(reversed(installed))].append(uuid)
    if answer.problem and not installed:
        raise FlopsFitError(f"nvidia-smi -L fails: {answer.problem}")
    return {uuid: slices or [uuid] for uuid, slices in installed.items()}


def slice_bytes() -> dict[str, float]:
    """The memory of each slice (MIG) by its UUID, which its profile states, such as 1g.10gb."""
    answer = ask("-L")
    sizes = {}
    for kind, profile, uuid in LISTED.findall(answer.printed if answer else ""):
        size = re.search(r"\.(\d+)gb", profile)
        if kind == "MIG" and size:
            sizes[uuid] = 1e9 * float(size[1])
    return sizes
