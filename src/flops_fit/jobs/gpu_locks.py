"""Locks on the GPUs of one machine, so that each GPU has one job, or as many as may share it.

A range of bytes of a file stands for each GPU. A job locks the range of each GPU that it takes; a job
that shares its GPU with others locks an equal part of the range, so that jobs of different shares
never take more than one GPU together. The locks belong to the open file description (OFD locks of
Linux). The job makes this file its standard input, because the launchers
pass only the three standard descriptors on to their processes. So every trainer holds the locks
too, and the kernel frees them when the last trainer has ended. The file stays empty, so nothing can
be read from this standard input.
"""

import fcntl
import hashlib
import itertools
import os
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.plan.nvidia_smi import VISIBLE, visible_devices

USE_CPU = "ACCELERATE_USE_CPU"  # the user sets this to keep runs off the GPUs
POLL_SECONDS = 0.5  # between two attempts to lock GPUs
_TURN = 0  # byte that is locked by the one job that may hold some GPUs while it waits for more
_RANGE = 1 << 20  # bytes that stand for one GPU
_FLOCK = struct.Struct("hhqqi")  # C's struct flock


def take_devices(
    count: int, environment: Mapping[str, str], runs_per_gpu: int = 1
) -> dict[str, str]:
    """Wait until ``count`` GPUs are free, lock them, and return the variable that selects them.

    Where ``runs_per_gpu`` runs share a GPU, a place on one GPU is enough. Only GPUs that are visible in
    ``environment`` are taken. The result is empty where there is nothing to lock: where ``count`` is
    0, where the user chose the CPU (``ACCELERATE_USE_CPU``), in a SLURM job that has no more than
    ``count`` GPUs, and on systems other than Linux. Raises `FlopsFitError` where there are fewer GPUs
    than ``count``.
    """
    if not count or cpu_by_choice(environment) or sys.platform != "linux":
        return {}
    listed, slurm_job = environment.get(VISIBLE), environment.get("SLURM_JOB_ID")
    if slurm_job is not None and listed is None:
        return {}
    devices = visible_devices(listed)
    if slurm_job is not None:
        if len(devices) < count or (len(devices) == count and runs_per_gpu == 1):
            return {}
        # Two SLURM jobs can have the same name for different GPUs, and never the same GPU
        devices = {token: f"{name} of job {slurm_job}" for token, name in devices.items()}
    if count > len(devices):
        shown = "there are" if listed is None else f"{VISIBLE}={listed!r} shows"
        raise FlopsFitError(
            f"resources.gpus: an experiment asks for {count}, but {shown} {len(devices)}; allowed: at "
            f"most {len(devices)}, or ACCELERATE_USE_CPU=true to train on the CPU on purpose"
        )
    descriptor = open_locks(Path(tempfile.gettempdir(), "flops-fit-devices.lock"))
    taken = _wait(descriptor, devices, count, runs_per_gpu)
    _make_standard_input(descriptor)
    return {VISIBLE: ",".join(taken)}


def cpu_by_choice(environment: Mapping[str, str]) -> bool:
    """Whether ``environment`` tells accelerate to train on the CPU."""
    return environment.get(USE_CPU, "").lower() in {"1", "true", "t", "yes", "y", "on"}


def _make_standard_input(descriptor: int) -> None:
    if descriptor:  # 0 where the job was started without a standard input
        os.dup2(descriptor, 0)
        os.close(descriptor)
    os.set_inheritable(0, True)


def _wait(descriptor: int, devices: Mapping[str, str], count: int, runs_per_gpu: int) -> list[str]:
    """Lock ``count`` of ``devices`` and return their names in `VISIBLE`.

    Of a GPU that ``runs_per_gpu`` runs share, a part is locked, on the GPU with the fewest runs.

    A job locks all of them or none, so that no two jobs hold what the other one waits for. There is
    one exception: the job whose turn it is keeps the devices that it has and is next on every
    device that it could take. Otherwise a job that needs several devices could wait for ever among
    jobs that need one.
    """
    taken: list[str] = []
    my_turn = announced = False
    while True:
        my_turn = my_turn or _lock(descriptor, _TURN)
        free = {name: _free_parts(descriptor, name, runs_per_gpu) for name in devices.values()}
        for token, name in sorted(devices.items(), key=lambda item: -len(free[item[1]])):
            if (
                _lock(descriptor, _place(f"next {name}"))
                and len(taken) < count
                and token not in taken
                and any(_lock(descriptor, *part) for part in free[name])
            ):
                taken.append(token)
        done = len(taken) == count
        if done or not my_turn:
            for name in devices.values():
                _unlock(descriptor, _place(f"next {name}"))
        if done:
            break
        if not announced:
            what = f"{count} of {len(devices)} GPUs"
            if runs_per_gpu > 1:
                what = f"one of {runs_per_gpu * len(devices)} places on {len(devices)} GPUs"
            print(f"flops-fit: waiting for {what}", file=sys.stderr)
            announced = True
        while taken and not my_turn:
            _unlock(descriptor, _place(devices[taken.pop()]), _RANGE)
        time.sleep(POLL_SECONDS)  # a blocking call would wait for one certain device
    if my_turn:
        _unlock(descriptor, _TURN)
    os.utime(descriptor)  # systems delete old temporary files
    return taken


def open_locks(path: Path) -> int:
    """Open the file of the locks at ``path``, which all users of the machine share.

    The file is made if it is missing. Returns its descriptor. Raises `FlopsFitError` where it
    cannot be opened.
    """
    try:
        while True:
            try:  # without O_CREAT, which Linux refuses for another user's file in a shared folder
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                _make_for_everyone(path)
    except OSError as error:
        raise FlopsFitError(
            f"{path}: cannot be opened ({error.strerror}); this file has the locks on the GPUs of this "
            "machine"
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
    """Return the first byte of the range that stands for a device."""
    return _RANGE * (1 + int(hashlib.sha256(name.encode()).hexdigest()[:10], 16))


def _free_parts(descriptor: int, name: str, parts: int) -> list[tuple[int, int]]:
    """Return first byte and length of the equal ``parts`` of a device that nobody has locked."""
    edges = [_place(name) + i * _RANGE // parts for i in range(parts + 1)]
    ranges = [(start, end - start) for start, end in itertools.pairwise(edges)]
    return [part for part in ranges if _is_free(descriptor, *part)]


def _is_free(descriptor: int, place: int, length: int) -> bool:
    answer = _request(descriptor, fcntl.F_OFD_GETLK, place, length, fcntl.F_WRLCK)
    return answer[0] == fcntl.F_UNLCK


def _lock(descriptor: int, place: int, length: int = 1) -> bool:
    """Lock bytes; return False if another job has locked some of them."""
    try:
        _request(descriptor, fcntl.F_OFD_SETLK, place, length, fcntl.F_WRLCK)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(descriptor: int, place: int, length: int = 1) -> None:
    _request(descriptor, fcntl.F_OFD_SETLK, place, length, fcntl.F_UNLCK)


def _request(descriptor: int, command: int, place: int, length: int, kind: int) -> tuple:
    lock = _FLOCK.pack(kind, os.SEEK_SET, place, length, 0)
    return _FLOCK.unpack(fcntl.fcntl(descriptor, command, lock))
