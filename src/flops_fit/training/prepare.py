"""Before any training: make the data's files once, and try one real batch."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.experiment.places import DATA_MANIFEST, hashes_file, spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.files import read_object, write_object
from flops_fit.plugins.data_files import PACKAGE, FileHashes, find_path
from flops_fit.plugins.resolve import add_search_paths, resolve
from flops_fit.store.locks import LOCK, lock_if_free, run_lock

UNFINISHED = ".prepare-"  # how folders of data that are being made begin
FORGOTTEN_SECONDS = 3600.0  # after which one without a lock is taken for left behind


def prepare_data(plan: Plan, results: str | Path) -> Path:
    """Make the prepared files of the data of ``plan``, each moved into place whole.

    ``results`` is the folder of all results. Returns the manifest, which is written last. Raises
    `FlopsFitError` where nothing is to be prepared, or the preparation writes no file.
    """
    spec = read_spec(spec_file(results, plan.experiments[0].experiment_id))
    add_search_paths(spec.search_paths)
    dataset = spec.recipe.shared.dataset
    if spec.data_dir is None or dataset.prepare is None:
        raise FlopsFitError("dataset.prepare: null, so there is nothing to prepare")
    folder = Path(spec.data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    with unfinished_folder(folder.parent) as temporary:
        arguments = {
            "directory": str(temporary),
            "sources": located_sources(spec),
            **dataset.prepare_kwargs,
        }
        call(resolve(dataset.prepare), dataset.prepare, arguments)
        made = sorted(temporary.iterdir())
        if not made:
            raise FlopsFitError(f"dataset.prepare: {dataset.prepare} wrote no file")
        for path in made:
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    hashes = FileHashes(hashes_file(results))
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != DATA_MANIFEST]
    manifest = {
        "prepared_by": dataset.prepare,
        "files": {str(p.relative_to(folder)): p.stat().st_size for p in files},
        "sha256": {str(p.relative_to(folder)): hashes.of(p) for p in files},
    }
    write_object(folder / DATA_MANIFEST, manifest)
    hashes.save()
    return folder / DATA_MANIFEST


@contextlib.contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A folder below ``parent`` to make data in: locked while this process lives, removed at the end."""
    outer = Path(tempfile.mkdtemp(dir=parent, prefix=UNFINISHED))
    try:
        with run_lock(outer):
            made = outer / "made"
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a preparation that was killed has left in ``folder`` and beside it.

    A process that lives holds the lock of its folder, on any machine that shares the disk; one
    without a lock may be a moment old.
    """
    for left in folder.parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError), lock_if_free(left) as free:
            old = time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS
            if free and (old or (left / LOCK).exists()):
                shutil.rmtree(left)
    for half in folder.glob(f".{DATA_MANIFEST}.*"):  # see `write_atomic`
        half.unlink(missing_ok=True)


def located_sources(spec: Spec) -> list[str]:
    """The data's sources, paths resolved against the working directory and the search paths."""
    return [
        s if s.startswith(PACKAGE) else str(find_path(s, spec.search_paths) or s)
        for s, _ in spec.recipe.shared.dataset.sources
    ]


def check_prepared(folder: str, hashes: FileHashes) -> None:
    """Refuse prepared files that are missing, or do not have the size and content they were made with.

    Contents are read by the first job that uses them, and again only where a file's state differs.
    """
    manifest = read_object(Path(folder, DATA_MANIFEST))
    for name, size in manifest["files"].items():
        path = Path(folder, name)
        found = path.stat().st_size if path.exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            raise _spoilt(path, f"{state}, made with {size}", folder)
        digest = manifest.get("sha256", {}).get(name)  # none where prepared by an older version
        if digest is not None and hashes.of(path) != digest:
            raise _spoilt(path, "has another content than it was made with", folder)


def _spoilt(path: Path, state: str, folder: str) -> FlopsFitError:
    return FlopsFitError(f"{path}: {state}; delete {folder} and run the workflow again")
