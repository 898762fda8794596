"""Training checkpoints, which are used only if they are whole and belong to the experiment."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, canonical_hash, check_format, write_json
from flops_fit.store.records import seal
from flops_fit.store.remote import MANIFEST, Remote

START: dict[str, Any] = {"step": 0, "position": 0, "seen": 0, "seconds": 0.0, "input_positions": 0}
KEEP = 2  # checkpoints: the newest one, and another in case it is damaged

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one experiment below ``folder``; where it is None, there are none.

    A checkpoint is saved by ``accelerator`` into a temporary folder and flushed to disk. A manifest
    lists its files with their hashes and names the experiment by ``experiment_hash``; only then is
    the folder renamed. The counters of the training loop are plain JSON in the manifest. A
    checkpoint that the run cannot use (truncated, of another experiment or of another number of
    processes) stays until the run is finished. ``minutes`` is the time between two checkpoints. With
    a ``remote``, every checkpoint is copied to it, and one that is newer there is used.
    """

    def __init__(
        self,
        folder: Path | None,
        experiment_hash: str,
        accelerator: Accelerator,
        minutes: float,
        remote: Remote | None = None,
    ):
        self.folder, self.experiment_hash = folder, experiment_hash
        self.remote = remote
        self.accelerator, self.seconds = accelerator, 60 * minutes
        self.latest = time.monotonic()
        self.step = 0  # the last saved step
        self.kept: list[Path] = []  # valid checkpoints, the newest first

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return self.folder is not None and time.monotonic() - self.latest >= self.seconds

    def save(self, counters: dict) -> None:
        """Save a checkpoint with the loop's ``counters``; every process must call this.

        Nothing happens where the step was saved before. Raises `FlopsFitError` where the checkpoint
        cannot be written; the earlier ones stay.
        """
        if self.folder is None or counters["step"] == self.step:
            return
        final = self.folder / f"step-{counters['step']:08d}"
        temporary = self.folder / f".{final.name}"
        write_state(self.accelerator, temporary, final, self.experiment_hash, counters)
        self.kept.insert(0, final)
        if self.accelerator.is_main_process:
            for old in self.kept[KEEP:]:
                shutil.rmtree(old, ignore_errors=True)
            if self.remote:
                self.remote.save(final, KEEP)
        del self.kept[KEEP:]
        self.step, self.latest = counters["step"], time.monotonic()

    def restore(self) -> dict | None:
        """Load the newest valid checkpoint and return its counters, or None.

        A checkpoint that is truncated or of another experiment is named in the log and skipped. All
        processes verify the same files, so they choose the same one. Raises `FlopsFitError` where
        the state of the random generators cannot be restored.
        """
        if self.folder is None:
            return None
        if self.accelerator.is_main_process:
            for unfinished in self.folder.glob(".step-*"):  # left by a kill
                shutil.rmtree(unfinished)
            if self.remote:
                self._fetch(self.remote)
        if self.remote:
            self.accelerator.wait_for_everyone()
        folders = sorted(self.folder.glob("step-*"), reverse=True)
        for i, folder in enumerate(folders):
            problem, manifest = verify_state(
                self.accelerator, folder, lambda _: self.experiment_hash
            )
            if not problem:
                load_state(self.accelerator, folder)
                self.step, self.kept = manifest["counters"]["step"], folders[i:]
                return manifest["counters"]
            if self.accelerator.is_main_process:
                log.warning("checkpoint %s is not used: %s", folder, problem)
        return None

    def _fetch(self, remote: Remote) -> None:
        """Copy the newest valid checkpoint of ``remote`` here, if it is newer than all that are here."""
        assert self.folder is not None
        here = max((folder.name for folder in self.folder.glob("step-*")), default="")
        for name in remote.newer(here):
            temporary = self.folder / f".{name}"
            if not remote.fetch(name, temporary):
                continue
            problem, _ = verify_state(self.accelerator, temporary, lambda _: self.experiment_hash)
            if not problem:
                temporary.rename(self.folder / name)
                log.info("continues from %s/%s", remote.name, name)
                return
            shutil.rmtree(temporary)
            log.warning("checkpoint %s/%s is not used: %s", remote.name, name, problem)


def write_state(
    accelerator: Accelerator, temporary: Path, final: Path, state_hash: str, counters: dict
) -> None:
    """Save the state of ``accelerator`` to the folder ``final``; every process must call this.

    It is written to the folder ``temporary`` first. Its manifest holds ``counters``, as plain data, and
    ``state_hash``, which says to what the state belongs. Raises `FlopsFitError` where it cannot be
    written.
    """
    try:
        if accelerator.is_main_process:
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        # as .bin files, because safetensors drops tied weights
        accelerator.save_state(str(temporary), safe_serialization=False)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _seal(temporary, accelerator.num_processes, state_hash, counters)
            shutil.rmtree(final, ignore_errors=True)  # an earlier one that could not be used
            temporary.rename(final)
            _flush_folder(final.parent)
        accelerator.wait_for_everyone()
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise FlopsFitError(
            f"{final}: the checkpoint cannot be written ({error}); free disk space or make the "
            "folder writable, then start the run again: it continues from its last checkpoint"
        ) from error


def _seal(folder: Path, processes: int, state_hash: str, counters: dict) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    manifest = {
        "format": FORMAT,
        "hash": state_hash,
        "counters": counters,
        "files": hashes,
        "processes": processes,
    }
    write_json(folder / MANIFEST, seal(manifest))
    _flush_folder(folder)


def load_state(accelerator: Accelerator, folder: Path) -> None:
    """Load the verified state in ``folder`` into ``accelerator``.

    Raises `FlopsFitError` where the state of the random generators cannot be restored.
    """
    torch.seed()  # a random state that no run has, to see whether it is replaced
    before = _random_states(accelerator.device)
    accelerator.load_state(str(folder))
    after = _random_states(accelerator.device)
    if any(map(torch.equal, before, after)):  # accelerate only logs this failure
        raise FlopsFitError(
            f"{folder}: the state of the random generators was not restored, so the run would not "
            "continue as it began; use the versions and devices with which it was saved, or delete "
            "this folder"
        )


def verify_state(
    accelerator: Accelerator, folder: Path, hash_of: Callable[[dict], str]
) -> tuple[str, dict]:
    """What keeps a run of ``accelerator`` from using the state in ``folder``, and its manifest.

    The first is empty where nothing does: the state is whole, has the hash that ``hash_of`` gives for
    its counters, and was written by as many processes.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        checksum = manifest.pop("checksum")
        if canonical_hash(manifest) != checksum:
            return f"{MANIFEST} does not match its checksum", {}
        check_format(manifest, MANIFEST)
        if manifest["hash"] != hash_of(manifest["counters"]):
            return "it belongs to another experiment", {}
        if manifest["processes"] != accelerator.num_processes:
            return f"it was written by {manifest['processes']} processes", {}
        for name, digest in manifest["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} does not match its hash", {}
    except FlopsFitError as error:
        return str(error), {}
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})", {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is broken ({error})", {}
    return "", manifest


def _random_states(device: torch.device) -> list[torch.Tensor]:
    """The states of the CPU and of ``device``; other GPUs of the machine are none of the run's."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
