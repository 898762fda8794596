"""The GPUs of one machine, handed out one job at a time.

A job locks one byte of a file for each GPU that it takes. The bytes belong to the file's open
description (Linux's OFD locks), which is the job's standard input: of all descriptors only the
three standard ones pass through the launchers, so every trainer holds the locks too, and the kernel
frees them when the last one has died. The file stays empty, as an input that has nothing to say.
"""

import fcntl
import hashlib
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from flops_fit.errors import FlopsFitError

VISIBLE = "CUDA_VISIBLE_DEVICES"
USE_CPU = "ACCELERATE_USE_CPU"  # keeps runs off the GPUs on purpose
POLL_SECONDS = 0.5
LISTING_SECONDS = 60.0
_TURN = 0  # the byte of the one job that may keep some devices while it waits for more


def take_devices(count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Wait until ``count`` GPUs are free, hold them, and return the variable that shows only them.

    Only GPUs that ``environment`` shows are taken. Empty where there is nothing to share: without
    ``count``, on the CPU by choice (``ACCELERATE_USE_CPU``), within a SLURM job, which was given its
    own, and on other systems than Linux. Raises `FlopsFitError` for more GPUs than there are.
    """
    if (
        not count
        or cpu_by_choice(environment)
        or "SLURM_JOB_ID" in environment
        or sys.platform != "linux"
    ):
        return {}
    devices = visible_devices(environment.get(VISIBLE))
    if count > len(devices):
        listed = environment.get(VISIBLE)
        shown = "there are" if listed is None else f"{VISIBLE}={listed!r} shows"
        raise FlopsFitError(
            f"resources.gpus: an experiment asks for {count}, {shown} {len(devices)}; ask for "
            "less, or set ACCELERATE_USE_CPU=true to train on the CPU on purpose"
        )
    descriptor = open_locks(Path(tempfile.gettempdir(), "flops-fit-devices.lock"))
    taken = _wait(descriptor, devices, count)
    _make_standard_input(descriptor)
    return {VISIBLE: ",".join(taken)}


def cpu_by_choice(environment: Mapping[str, str]) -> bool:
    """Whether accelerate is told to leave the GPUs alone."""
    return environment.get(USE_CPU, "").lower() in {"1", "true", "t", "yes", "y", "on"}


def _make_standard_input(descriptor: int) -> None:
    if descriptor:  # else it is that already: the job was started without one
        os.dup2(descriptor, 0)
        os.close(descriptor)
    os.set_inheritable(0, True)


def _wait(descriptor: int, devices: Mapping[str, str], count: int) -> list[str]:
    """Lock ``count`` of ``devices`` and return how they are called in `VISIBLE`.

    All or none, so that no two jobs keep what the other waits for. But one job at a time, whose
    turn it is, keeps what it has and is next on every device that it could take: else one that
    needs several would wait for ever among jobs that need one.
    """
    taken: list[str] = []
    my_turn = said = False
    while True:
        my_turn = my_turn or _lock(descriptor, _TURN)
        for token, name in devices.items():
            if (
                _lock(descriptor, _place(f"next {name}"))
                and len(taken) < count
                and token not in taken
                and _lock(descriptor, _place(name))
            ):
                taken.append(token)
        done = len(taken) == count
        if done or not my_turn:
            for name in devices.values():
                _unlock(descriptor, _place(f"next {name}"))
        if done:
            break
        if not said:
            print(f"flops-fit: waiting for {count} of {len(devices)} GPUs", file=sys.stderr)
            said = True
        while taken and not my_turn:
            _unlock(descriptor, _place(devices[taken.pop()]))
        time.sleep(POLL_SECONDS)  # a blocking call would wait for one device, not for any
    if my_turn:
        _unlock(descriptor, _TURN)
    os.utime(descriptor)  # or the system, tidying up, might take the file for forgotten
    return taken


def visible_devices(listed: str | None) -> dict[str, str]:
    """The GPUs that a job may take: how `VISIBLE` calls each -> its name on this machine.

    ``listed`` is that variable's value: indices or UUIDs, also shortened, of which the first
    unknown one ends the list (CUDA's rule); None means all GPUs. Names are UUIDs where
    ``nvidia-smi`` knows them, so that jobs that call a GPU differently, or count from another
    container, share its lock.
    """
    installed = installed_gpus()
    if listed is None:
        if installed is None:
            raise FlopsFitError(
                "resources.gpus: there is no nvidia-smi to tell which GPUs there are; list them in "
                f"{VISIBLE}, or set ACCELERATE_USE_CPU=true to train on the CPU on purpose"
            )
        return {uuid: uuid for uuid in itertools.chain(*installed.values())}
    found: dict[str, str] = {}
    for token in map(str.strip, listed.split(",")):
        name = _name(token, installed)
        if name is None:
            break
        if name not in found.values():
            found[token] = name
    return found


def _name(token: str, installed: dict[str, list[str]] | None) -> str | None:
    """The name of the GPU that ``token`` stands for; None if there is no such GPU."""
    if installed is None:
        return token if re.fullmatch(r"\d+|(GPU|MIG)-\S+", token) else None
    if token.isdigit():
        return next(itertools.islice(installed.values(), int(token), None), [None])[0]
    parts = itertools.chain(
        installed.items(), ((u, [u]) for u in itertools.chain(*installed.values()))
    )
    found = {own[0] for uuid, own in parts if token and uuid.startswith(token)}
    return found.pop() if len(found) == 1 else None


def installed_gpus() -> dict[str, list[str]] | None:
    """UUID of each GPU, in the driver's order -> what of it a job can take.

    That is the GPU, or its slices (MIG). None without ``nvidia-smi``, which is asked because torch
    would take seconds.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=LISTING_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or str(error)
        raise FlopsFitError(f"nvidia-smi -L fails: {str(said).strip()}") from None
    installed: dict[str, list[str]] = {}
    for kind, uuid in re.findall(r"^\s*(GPU|MIG) .*\(UUID: (\S+)\)", done.stdout, re.MULTILINE):
        if kind == "GPU":
            installed[uuid] = []
        else:
            installed[next(reversed(installed))].append(uuid)
    return {uuid: slices or [uuid] for uuid, slices in installed.items()}


def open_locks(path: Path) -> int:
    """Open the file of the locks, which all users of the machine share; made if missing."""
    try:
        while True:
            try:  # without O_CREAT: Linux refuses it for another user's file in a shared folder
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                _make_for_everyone(path)
    except OSError as error:
        raise FlopsFitError(
            f"{path}: cannot be opened ({error.strerror}); it holds the locks on this machine's GPUs"
        ) from None


def _make_for_everyone(path: Path) -> None:
    mask = os.umask(0)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:  # another job was faster
        pass
    finally:
        os.umask(mask)


def _place(name: str) -> int:
    """The byte that stands for a device."""
    return 1 + int(hashlib.sha256(name.encode()).hexdigest()[:14], 16)


def _lock(descriptor: int, place: int) -> bool:
    """Lock a byte for the open file; False if another open file has it."""
    try:
        _request(descriptor, place, fcntl.F_WRLCK)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(descriptor: int, place: int) -> None:
    _request(descriptor, place, fcntl.F_UNLCK)


def _request(descriptor: int, place: int, kind: int) -> None:
    lock = struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0)  # C's struct flock
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
