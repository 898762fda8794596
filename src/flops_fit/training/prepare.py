"""Prepare the files of the data once, before any training."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.experiment.places import DATA_MANIFEST, hashes_file, spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.experiment.used import late_prepare_uses, late_sentences, note_late
from flops_fit.files import read_object, write_object
from flops_fit.plugins.data_files import PACKAGE, FileHashes, find_path
from flops_fit.plugins.resolve import add_search_paths, resolve
from flops_fit.plugins.watch import watching
from flops_fit.store.locks import LOCK, lock_if_free, run_lock

UNFINISHED = ".prepare-"  # prefix of the folders in which data are being made
ABANDONED_SECONDS = 3600.0  # an older folder without a lock belongs to no running preparation


def prepare_data(plan: Plan, results: str | Path) -> Path:
    """Make the prepared files of the data of ``plan``, and return the path of their manifest.

    ``results`` is the folder of all results. Each file is moved into place when it is complete, the
    manifest last. Raises `FlopsFitError` where there is nothing to prepare, and where the
    preparation fails or writes no file.
    """
    spec = read_spec(spec_file(results, plan.experiments[0].experiment_id))
    add_search_paths(spec.search_paths)
    dataset = spec.plugins.shared.dataset
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
        with watching(spec.search_paths, [results]) as watch:
            call(resolve(dataset.prepare), dataset.prepare, arguments)
        made = sorted(temporary.iterdir())
        if not made:
            raise FlopsFitError(
                f"dataset.prepare: {dataset.prepare} wrote no file; allowed: a callable that writes "
                "files to its directory"
            )
        for path in made:
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    hashes = FileHashes(hashes_file(results))
    uses, more = late_prepare_uses(watch, spec)
    late = note_late(results, [dataset.prepare], uses, hashes)
    for sentence in late_sentences(late, more, "dataset.sources", "preparation"):
        print(f"flops-fit: {sentence}", file=sys.stderr)
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
    """Make a folder below ``parent`` for data in the making, and remove it at the end.

    It is locked while this process lives.
    """
    outer = Path(tempfile.mkdtemp(dir=parent, prefix=UNFINISHED))
    try:
        with run_lock(outer):
            made = outer / "made"
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed preparations left in ``folder`` and next to it.

    A running process holds the lock of its folder, on every machine that shares the disk; a folder
    without a lock may have been made only a moment ago.
    """
    for leftover in folder.parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError), lock_if_free(leftover) as free:
            old = time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS
            if free and (old or (leftover / LOCK).exists()):
                shutil.rmtree(leftover)
    for half in folder.glob(f".{DATA_MANIFEST}.*"):  # see `write_atomic`
        half.unlink(missing_ok=True)


def located_sources(spec: Spec) -> list[str]:
    """Return the sources of the data of ``spec``, with paths resolved as everywhere in a config."""
    return [
        s if s.startswith(PACKAGE) else str(find_path(s, spec.search_paths) or s)
        for s, _ in spec.plugins.shared.dataset.sources
    ]


def check_prepared(folder: str, hashes: FileHashes) -> None:
    """Check that the prepared files in ``folder`` exist with the size and content of the manifest.

    The first job that uses the files reads them; ``hashes`` caches their hashes, so that later jobs
    read only files that changed. Raises `FlopsFitError` that names the file.
    """
    manifest = read_object(Path(folder, DATA_MANIFEST))
    for name, size in manifest["files"].items():
        path = Path(folder, name)
        actual = path.stat().st_size if path.exists() else None
        if actual != size:
            state = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise _damaged(path, state, folder)
        digest = manifest.get("sha256", {}).get(name)  # older versions wrote none
        if digest is not None and hashes.of(path) != digest:
            raise _damaged(path, "has another content than when it was made", folder)


def _damaged(path: Path, state: str, folder: str) -> FlopsFitError:
    return FlopsFitError(f"{path}: {state}; delete {folder} and run the workflow again")
