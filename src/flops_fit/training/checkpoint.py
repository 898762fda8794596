"""Training checkpoints that are whole, verified and their own experiment's, or not used at all."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from flops_fit.errors import FlopsFitError
from flops_fit.files import FORMAT, canonical_hash, check_format, write_json
from flops_fit.store.records import seal

CHECKPOINT_MANIFEST = "manifest.json"
START: dict[str, Any] = {"step": 0, "position": 0, "seen": 0, "seconds": 0.0, "input_positions": 0}
KEEP = 2  # the newest and one to fall back on

log = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints of one experiment below ``folder``; with ``folder=None``, none are kept.

    A checkpoint is accelerate's ``save_state`` in a temporary folder, flushed to disk, listed with
    its hashes in a manifest that names the experiment, and only then renamed into place. The
    loop's own counters are plain JSON in the manifest. What this run cannot use (truncated, another
    experiment's, of another number of processes) stays where it is until the run is finished.
    """

    def __init__(self, folder: Path | None, experiment_hash: str, accelerator, minutes: float):
        self.folder, self.experiment_hash = folder, experiment_hash
        self.accelerator, self.seconds = accelerator, 60 * minutes
        self.latest = time.monotonic()
        self.step, self.kept = 0, []  # the last saved step; sound checkpoints, the newest first

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.latest >= self.seconds

    def save(self, counters: dict) -> None:
        """Save on every process together; returns when the checkpoint is in place.

        Raises `FlopsFitError` where it cannot be written; the checkpoints before it stay.
        """
        if self.folder is None or counters["step"] == self.step:  # nothing new since the last one
            return
        final = self.folder / f"step-{counters['step']:08d}"
        temporary = self.folder / f".{final.name}"
        try:
            self._write(temporary, final, counters)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            raise FlopsFitError(
                f"{final}: the checkpoint could not be written ({error}); make room or make the "
                "folder writable, and start the run again: it goes on from its last checkpoint"
            ) from error
        self.kept.insert(0, final)
        if self.accelerator.is_main_process:
            for old in self.kept[KEEP:]:
                shutil.rmtree(old, ignore_errors=True)
        del self.kept[KEEP:]
        self.step, self.latest = counters["step"], time.monotonic()

    def _write(self, temporary: Path, final: Path, counters: dict) -> None:
        if self.accelerator.is_main_process:
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        # .bin files: safetensors drops tied weights
        self.accelerator.save_state(str(temporary), safe_serialization=False)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._seal(temporary, counters)
            shutil.rmtree(final, ignore_errors=True)  # one that could not be used
            temporary.rename(final)
            _flush_folder(self.folder)
        self.accelerator.wait_for_everyone()

    def _seal(self, folder: Path, counters: dict) -> None:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        hashes = {}
        for path in files:
            with path.open("rb") as file:
                hashes[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
                os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            "hash": self.experiment_hash,
            "counters": counters,
            "files": hashes,
            "processes": self.accelerator.num_processes,
        }
        write_json(folder / CHECKPOINT_MANIFEST, seal(manifest))
        _flush_folder(folder)

    def restore(self) -> dict | None:
        """Load the newest sound checkpoint and return its counters, or None.

        A truncated or foreign one is named in the log and passed over. All processes verify the
        same files, so they choose the same one.
        """
        if self.folder is None:
            return None
        if self.accelerator.is_main_process:
            for unfinished in self.folder.glob(".step-*"):  # left by a kill
                shutil.rmtree(unfinished)
        found = sorted(self.folder.glob("step-*"), reverse=True)
        for i, folder in enumerate(found):
            problem, manifest = self._verify(folder)
            if not problem:
                self._load(folder)
                self.step, self.kept = manifest["counters"]["step"], found[i:]
                return manifest["counters"]
            if self.accelerator.is_main_process:
                log.warning("checkpoint %s is not used: %s", folder, problem)
        return None

    def _load(self, folder: Path) -> None:
        torch.seed()  # a state that no run has, to see whether it is replaced
        before = _random_states()
        self.accelerator.load_state(str(folder))
        if any(map(torch.equal, before, _random_states())):  # accelerate only logs this failure
            raise FlopsFitError(
                f"{folder}: the random state was not restored, so the run would not go on as it "
                "began; use the versions and devices it was saved with, or delete this folder"
            )

    def _verify(self, folder: Path) -> tuple[str, dict]:
        try:
            manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text())
            checksum = manifest.pop("checksum")
            if canonical_hash(manifest) != checksum:
                return f"{CHECKPOINT_MANIFEST} does not match its checksum", {}
            check_format(manifest, CHECKPOINT_MANIFEST)
            if manifest["hash"] != self.experiment_hash:
                return "it belongs to another experiment", {}
            if manifest["processes"] != self.accelerator.num_processes:
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
            return f"{CHECKPOINT_MANIFEST} is broken ({error})", {}
        return "", manifest


def _random_states() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
