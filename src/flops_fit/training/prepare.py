"""Before any training: make the data's files once, and try one real batch."""

import shutil
import tempfile
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.build import call
from flops_fit.experiment.identity import read_spec
from flops_fit.experiment.places import MANIFEST, spec_file
from flops_fit.files import read_json, write_json
from flops_fit.plugins.data_files import PACKAGE, find_path
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
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*"))
             if p.is_file() and p.name != MANIFEST}  # fmt: skip
    write_json(folder / MANIFEST, {"prepared_by": dataset["prepare"], "files": files})
    return folder / MANIFEST


def located_sources(spec: dict) -> list[str]:
    """The data's sources, paths resolved against the working directory and the search paths."""
    return [
        s if s.startswith(PACKAGE) else str(find_path(s, spec["search_paths"]) or s)
        for s, _ in spec["identity"]["dataset"]["sources"]
    ]


def check_prepared(folder: str) -> None:
    """Refuse prepared files that are missing or not of the size they were made with."""
    manifest = Path(folder, MANIFEST)
    for name, size in read_json(manifest)["files"].items():
        path = Path(folder, name)
        found = path.stat().st_size if path.exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            raise FlopsFitError(
                f"{path}: {state}, made with {size}; delete {folder} and run the workflow again"
            )
