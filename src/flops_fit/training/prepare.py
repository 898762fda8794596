"""Before any training: make the data's files once, and try one real batch."""

import shutil
import tempfile
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.experiment.identity import read_spec
from flops_fit.experiment.places import MANIFEST, hashes_file, spec_file
from flops_fit.files import read_json, write_json
from flops_fit.plugins.data_files import PACKAGE, FileHashes, find_path
from flops_fit.plugins.resolve import add_search_paths, resolve


def prepare_data(plan: dict, results: str) -> Path:
    """Make the prepared files of ``plan``'s data, each moved into place whole, the manifest last."""
    spec = read_spec(spec_file(results, plan["experiments"][0]["experiment_id"]))
    add_search_paths(spec["search_paths"])
    dataset, folder = spec["identity"]["dataset"], Path(spec["data_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".prepare-") as temporary:
        arguments = {"directory": temporary, "sources": located_sources(spec),
                     **dataset["prepare_kwargs"]}  # fmt: skip
        call(resolve(dataset["prepare"]), dataset["prepare"], arguments)
        made = sorted(p for p in Path(temporary).iterdir())
        if not made:
            raise FlopsFitError(f"dataset.prepare: {dataset['prepare']} wrote no file")
        for path in made:
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    hashes = FileHashes(hashes_file(results))
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
    manifest = {
        "prepared_by": dataset["prepare"],
        "files": {str(p.relative_to(folder)): p.stat().st_size for p in files},
        "sha256": {str(p.relative_to(folder)): hashes.of(p) for p in files},
    }
    write_json(folder / MANIFEST, manifest)
    hashes.save()
    return folder / MANIFEST


def located_sources(spec: dict) -> list[str]:
    """The data's sources, paths resolved against the working directory and the search paths."""
    return [
        s if s.startswith(PACKAGE) else str(find_path(s, spec["search_paths"]) or s)
        for s, _ in spec["identity"]["dataset"]["sources"]
    ]


def check_prepared(folder: str, hashes: FileHashes) -> None:
    """Refuse prepared files that are missing, or do not have the size and content they were made with.

    Contents are read by the first job that uses them, and again only where a file's state differs.
    """
    manifest = read_json(Path(folder, MANIFEST))
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
