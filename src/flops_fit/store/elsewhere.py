"""Jobs on machines that share no files with Snakemake: what travels to them, and where it then lies.

Snakemake keeps a local copy of every file of its store below one folder, in which the tree of the
working directory is repeated. Links from the results folder into it let all commands find and leave
their files where they always do.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import plan_folder, run_folder, spec_file, store_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import read_spec
from flops_fit.files import read_object, write_atomic, write_object
from flops_fit.plugins.uses import static_uses
from flops_fit.store.plan_file import plan_copies
from flops_fit.store.records import RECORD, RESULT, read_record

RESTARTS = (
    "a run that is preempted starts again from its beginning, because its checkpoints stay on the "
    "machine of its job; resources.checkpoint_store names a place from which it would continue"
)
SHARED = ("runs", "data", ".plan/checked")  # folders that all sweeps fill


def link_copies(results: str | Path, copies: str | Path, sweeps: Iterable[str]) -> None:
    """Let the folders of ``results`` that jobs fill be links to those in ``copies``.

    ``copies`` is the local copy of ``results`` in the store, and ``sweeps`` are the names of sweeps and
    comparisons. Raises `FlopsFitError` where ``results`` holds such a folder from runs without a store.
    """
    for name in (*SHARED, *sweeps):
        link, target = Path(results, name), Path(copies, name)
        for folder in (target, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        text = os.path.relpath(target, link.parent)
        if link.is_symlink() and os.readlink(link) == text:
            continue
        try:
            if link.is_symlink():  # to the copies of another store
                link.unlink()
            elif link.exists():
                link.rmdir()
        except OSError:
            raise FlopsFitError(
                f"{link}: holds files of a sweep that ran without a store; allowed with "
                "--default-storage-provider: a working directory of its own (flops-fit export and "
                "import carry finished runs over)"
            ) from None
        with contextlib.suppress(FileExistsError):  # made by another job at this moment
            link.symlink_to(text)


def plan_files(plan: Plan, name: str, results: str | Path) -> list[str]:
    """The files of ``plan``, of the sweep ``name``, below ``results`` that jobs read."""
    specs = (spec_file(results, experiment.experiment_id) for experiment in plan.experiments)
    return [str(path) for path in dict.fromkeys([*plan_copies(plan, name, results), *specs])]


def check_sent(plan: Plan, results: str | Path) -> None:
    """Check that git lists the files below the working directory that the runs of ``plan`` use.

    Only such files does Snakemake send to the machines of jobs. ``results`` holds the specs. Raises
    `FlopsFitError` that names the others.
    """
    spec = read_spec(spec_file(results, plan.experiments[0].experiment_id))
    uses = static_uses(spec.recipe.references, spec.search_paths) | spec.uses
    here = Path.cwd()
    paths = map(Path, [*uses.code.values(), *uses.files.values()])
    used = {str(p.relative_to(here)) for p in paths if p.is_file() and p.is_relative_to(here)}
    line = ["git", "ls-files", "-z", "--recurse-submodules"]
    listed = subprocess.run(line, capture_output=True, text=True, check=False).stdout.split("\0")
    if missing := sorted(used - {*listed}):
        raise FlopsFitError(
            f"{', '.join(missing)}: git does not list it, so Snakemake does not send it to the jobs; "
            "allowed: files that were added (git add)"
        )


def settle_specs(results: str | Path) -> None:
    """Let the specs below ``results``, which came here from another machine, name this one's folders.

    The folder in which Snakemake was started there is the working directory here.
    """
    here = os.getcwd()
    for path in (plan_folder(results) / "specs").glob("*.json"):
        spec = read_object(path)
        there = spec["search_paths"][0]
        if there != here:
            moved = {name: _moved(part, there, here) for name, part in spec.items()}
            write_object(path, moved | {"identity": spec["identity"]})


def _moved(value: Any, there: str, here: str) -> Any:
    """``value`` with ``here`` in place of the folder ``there`` in every path below it."""
    if isinstance(value, str) and (value == there or value.startswith(f"{there}/")):
        return here + value.removeprefix(there)
    if isinstance(value, dict):
        return {name: _moved(part, there, here) for name, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, there, here) for part in value]
    return value


def restore_records(plan: Plan, results: str | Path) -> None:
    """Make the records of ``plan`` whose results came from the store, of which they are copies."""
    for experiment in plan.experiments:
        folder = run_folder(results, experiment.experiment_id)
        record, result = folder / RECORD, folder / RESULT
        if result.exists() and not record.exists():
            with contextlib.suppress(FlopsFitError):  # whoever reads the result names it
                read_record(result, experiment.experiment_id, experiment.hash)
                write_atomic(record, result.read_bytes())


def note_store(results: str | Path, store: str) -> None:
    """Note that the files of ``results`` are copies from ``store`` (empty: they are not)."""
    if store:
        write_object(store_file(results), {"store": store})
    else:
        store_file(results).unlink(missing_ok=True)


def noted_store(results: str | Path) -> str:
    """The store that `note_store` noted for ``results``; empty where there is none."""
    with contextlib.suppress(FlopsFitError):
        return str(read_object(store_file(results))["store"])
    return ""
