"""Checkpoints and the record of a run in a store that other machines reach, named by a URL.

A run that was preempted on one machine continues on another. fsspec opens the URL, so that
``s3://bucket/folder`` needs the package s3fs, ``gs://bucket/folder`` gcsfs, and ``file:///folder``
none. A store that cannot be reached costs a warning and never the run. What comes from a store is
verified like what is found on the disk, see `flops_fit.training.checkpoint`.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_atomic
from flops_fit.store.records import RECORD

MANIFEST = "manifest.json"  # of a checkpoint: the last file that is copied
STEPS = "step-"  # prefix of the folder of a checkpoint; the names sort by the step

log = logging.getLogger(__name__)


class Remote:
    """What the store at ``url`` has of the run of ``experiment_id`` with ``experiment_hash``.

    Raises `FlopsFitError` for a URL that fsspec cannot open, such as one whose package is missing.
    """

    def __init__(self, url: str, experiment_id: str, experiment_hash: str):
        import fsspec

        try:
            self.files, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise FlopsFitError(
                f"resources.checkpoint_store: {url}: {error}; allowed: a URL that fsspec opens where "
                "the runs are trained"
            ) from None
        folder = f"{experiment_id}-{experiment_hash[:12]}"
        self.root, self.name = f"{path.rstrip('/')}/{folder}", f"{url.rstrip('/')}/{folder}"

    def save(self, checkpoint: Path, keep: int) -> None:
        """Copy the sealed folder ``checkpoint``, and remove all but the ``keep`` newest ones.

        Its manifest is copied last, and a checkpoint without one does not count. A failure is named in
        the log; the run goes on with what it has on its disk.
        """
        with self._tolerated(f"the checkpoint {checkpoint.name} was not copied there"):
            target = f"{self.root}/{checkpoint.name}"
            if self.files.exists(target):
                self.files.rm(target, recursive=True)
            paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
            for path in sorted(paths, key=lambda path: path.name == MANIFEST):
                self._put(path, f"{target}/{path.relative_to(checkpoint).as_posix()}")
            whole, all_steps = self._steps()
            for old in all_steps[all_steps.index(whole[0]) + 1 :] if whole else []:
                if old not in whole[:keep]:
                    self.files.rm(f"{self.root}/{old}", recursive=True)

    def newer(self, than: str) -> list[str]:
        """The names of the checkpoints there newer than the one named ``than``, the newest first."""
        with self._tolerated("no checkpoint is taken from there"):
            return [name for name in self._steps()[0] if name > than]
        return []

    def fetch(self, checkpoint: str, folder: Path) -> bool:
        """Copy the one named ``checkpoint`` to ``folder``; returns whether that worked."""
        with self._tolerated(f"the checkpoint {checkpoint} is not taken from there"):
            source = f"{self.root}/{checkpoint}"
            for path in self._below(source):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(f"{source}/{path}", str(target))
            return True
        shutil.rmtree(folder, ignore_errors=True)
        return False

    def fetch_record(self, folder: Path) -> None:
        """Copy the record there to the ``folder`` of the run, if it has none; it is not verified yet."""
        if (folder / RECORD).exists():
            return
        with self._tolerated("no record is taken from there"):
            path = f"{self.root}/{RECORD}"
            if self.files.exists(path):
                write_atomic(folder / RECORD, self.files.cat_file(path))

    def finish(self, folder: Path) -> None:
        """Copy the record in the ``folder`` of the run there, and then remove its checkpoints there."""
        with self._tolerated("the record was not copied there"):
            self._put(folder / RECORD, f"{self.root}/{RECORD}")
            for step in self._steps()[1]:
                self.files.rm(f"{self.root}/{step}", recursive=True)

    def _put(self, path: Path, target: str) -> None:
        self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.files.put_file(str(path), target)

    def _below(self, folder: str) -> list[str]:
        """The files below ``folder`` by their names in it, as the store has them at this moment."""
        self.files.invalidate_cache()
        root = folder.lstrip("/") + "/"
        names = [path.lstrip("/").removeprefix(root) for path in self.files.find(folder)]
        return [name for name in names if ".." not in PurePosixPath(name).parts]

    def _steps(self) -> tuple[list[str], list[str]]:
        """The names of all whole checkpoints, and of all that were begun, the newest first."""
        paths = [PurePosixPath(name) for name in self._below(self.root) if name.startswith(STEPS)]
        begun = {path.parts[0] for path in paths}
        whole = {path.parts[0] for path in paths if path.parts[1:] == (MANIFEST,)}
        return sorted(whole, reverse=True), sorted(begun, reverse=True)

    @contextlib.contextmanager
    def _tolerated(self, consequence: str) -> Iterator[None]:
        """Let a failure of the store be a warning that names it, with its ``consequence``."""
        try:
            yield
        except Exception as error:  # every file system has errors of its own
            reason = f"{type(error).__name__}: {error}"
            log.warning("checkpoint store %s: %s (%s)", self.name, consequence, reason)


def remote_of(url: str | None, experiment_id: str, experiment_hash: str) -> Remote | None:
    """The `Remote` of a run, if its resources name a ``url`` for it.

    ``experiment_id`` and ``experiment_hash`` are those of the run. Raises `FlopsFitError` as it does.
    """
    return Remote(url, experiment_id, experiment_hash) if url else None
