"""Training checkpoints that are whole, verified and their own experiment's, or not used at all."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

import torch

from flops_fit.files import write_json

MANIFEST = "manifest.json"
KEEP = 2  # the newest and one to fall back on

log = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints of one experiment below ``folder``; with ``folder=None``, none are kept.

    A checkpoint is accelerate's ``save_state`` in a temporary folder, flushed to disk, listed with
    its hashes in a manifest that names the experiment, and only then renamed into place. The
    loop's own counters are plain JSON in the manifest.
    """

    def __init__(self, folder: Path | None, identity_hash: str, accelerator, minutes: float):
        self.folder, self.identity_hash = folder, identity_hash
        self.accelerator, self.seconds = accelerator, 60 * minutes
        self.latest = time.monotonic()

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.latest >= self.seconds

    def save(self, counters: dict) -> None:
        """Save on every process together; returns when the checkpoint is in place."""
        if self.folder is None:
            return
        final = self.folder / f"step-{counters['step']:08d}"
        temporary = self.folder / f".{final.name}"
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        # .bin files: safetensors drops tied weights
        self.accelerator.save_state(str(temporary), safe_serialization=False)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._seal(temporary, counters)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            _flush_folder(self.folder)
            for old in self._found()[KEEP:]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.latest = time.monotonic()

    def _seal(self, folder: Path, counters: dict) -> None:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        hashes = {}
        for path in files:
            with path.open("rb") as file:
                hashes[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
                os.fsync(file.fileno())
        manifest = {"hash": self.identity_hash, "counters": counters, "files": hashes,
                    "processes": self.accelerator.num_processes}  # fmt: skip
        write_json(folder / MANIFEST, manifest)
        _flush_folder(folder)

    def restore(self) -> dict | None:
        """Load the newest sound checkpoint and return its counters, or None.

        A truncated or foreign one is named in the log and passed over. All processes verify the
        same files, so they choose the same one.
        """
        for folder in self._found() if self.folder else ():
            problem, manifest = self._verify(folder)
            if problem:
                log.warning("checkpoint %s is not used: %s", folder, problem)
                continue
            self._load(folder)
            return manifest["counters"]
        return None

    def _load(self, folder: Path) -> None:
        torch.manual_seed(0)
        unrestored = torch.get_rng_state()
        self.accelerator.load_state(str(folder))
        if torch.equal(torch.get_rng_state(), unrestored):  # accelerate only logs this failure
            raise RuntimeError(f"{folder}: the random state was not restored")

    def _verify(self, folder: Path) -> tuple[str, dict]:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["hash"] != self.identity_hash:
                return "it belongs to another experiment", {}
            if manifest["processes"] != self.accelerator.num_processes:
                return f"it was written by {manifest['processes']} processes", {}
            for name, digest in manifest["files"].items():
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        return f"{name} does not match its hash", {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its manifest or a file is missing or broken ({error})", {}
        return "", manifest

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def remove(self) -> None:
        """Forget all checkpoints, once the record is safely written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
