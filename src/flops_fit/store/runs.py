"""The run store: what lies below ``results/runs``, who uses it, what may go, what comes from elsewhere.

A sweep uses the runs that its plan names. Runs are shared, so none is removed with a sweep; what no
sweep uses any longer is removed on request only.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import (
    DATA_MANIFEST,
    compiled_folder,
    plan_folder,
    run_folder,
    sweep_plans_folder,
)
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.used import other_late
from flops_fit.files import write_atomic
from flops_fit.store.locks import LOCK, lock_if_free
from flops_fit.store.plan_file import PlanUse, read_plan_use
from flops_fit.store.records import (
    CHECKPOINTS,
    FAILURE,
    RECORD,
    RESULT,
    check_record,
    read_record,
    set_aside,
)
from flops_fit.store.trunks import spent_states, unused_trunks

RUNNING, UNFINISHED, CORRUPT = "running", "unfinished", "corrupt"  # beside those of `Status`
ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")  # what the workflow takes for one; no path
PRUNED = ".pruned-"  # a folder on its way out


@dataclass(frozen=True)
class Run:
    """One folder of the store."""

    experiment_id: str  # the folder's name
    status: str  # completed, diverged, running, failed, unfinished or corrupt (its record)
    bytes: int  # of all its files
    age_seconds: float  # since its newest file was written
    sweeps: list[str]  # that use it


def stored_runs(results: str | Path) -> list[Run]:
    """Every run below ``results``, in the order of their names."""
    users = users_of_runs(read_sweeps(results))
    return [_run(folder, users.get(folder.name, [])) for folder in _run_folders(results)]


def read_sweeps(results: str | Path) -> dict[str, PlanUse]:
    """What each sweep of ``results`` uses, by the name of the sweep.

    Raises `FlopsFitError` that names a broken plan.
    """
    files = sorted(sweep_plans_folder(results).glob("*.json"))
    return {path.stem: read_plan_use(path) for path in files}


def users_of_runs(sweeps: Mapping[str, PlanUse]) -> dict[str, list[str]]:
    """The names of the ``sweeps`` that use an experiment, by its id."""
    users: dict[str, list[str]] = {}
    for name, plan in sweeps.items():
        for experiment in plan.experiments:
            users.setdefault(experiment, []).append(name)
    return users


def _run_folders(results: str | Path) -> list[Path]:
    """The folders of runs; what else somebody keeps there is not ours to look at."""
    ours = (LOCK, RECORD, RESULT, FAILURE, CHECKPOINTS, f"{RECORD}.corrupt", "train.log")
    return [
        folder
        for folder in _folders(Path(results, "runs"))
        if any((folder / name).exists() for name in ours)
    ]


def _folders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.glob("*") if p.is_dir() and not p.name.startswith("."))


def _run(folder: Path, sweeps: list[str]) -> Run:
    files = _files(folder)
    newest = max((stat.st_mtime for stat in files), default=folder.stat().st_mtime)
    size = sum(stat.st_size for stat in files)
    return Run(folder.name, run_status(folder), size, time.time() - newest, sweeps)


def _files(path: Path) -> list[os.stat_result]:
    """The states of a file, or of all files below a folder that are still there."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    states = []
    for file in [path] if path.is_file() else below:
        with contextlib.suppress(FileNotFoundError):  # a trainer is at work
            if file.is_file():
                states.append(file.stat())
    return states


def size_of(path: Path) -> int:
    """Bytes of the file at ``path``, or of all files below that folder."""
    return sum(stat.st_size for stat in _files(path))


def run_status(folder: Path) -> str:
    """How far the run in ``folder`` is: completed, diverged, running, failed, unfinished or corrupt.

    A run that has a sound record is over, whatever else lies beside it.
    """
    if (folder / RECORD).exists():
        try:
            return read_record(folder / RECORD, folder.name)["status"]
        except FlopsFitError:
            return CORRUPT
    with lock_if_free(folder) as free:
        if not free:
            return RUNNING
    return Status.FAILED if (folder / FAILURE).exists() else UNFINISHED


def unused(results: str | Path) -> dict[str, list[Path]]:
    """What no sweep of ``results`` uses, by kind: runs, states, data, compiled graphs, files of plans.

    States are those of trunks that no planned run starts from; compiled graphs, none of which is in use
    without a workflow, and files of plans are made again at need.

    Runs at work are left out. Raises `FlopsFitError` where there is no sweep (everything would go) and
    while a workflow is at work, whose waiting jobs may belong to a plan that has been replaced since.
    """
    sweeps = read_sweeps(results)
    if not sweeps:
        raise FlopsFitError(f"{sweep_plans_folder(results)}: no sweep, so every run would go")
    locks = Path(results).resolve().parent / ".snakemake" / "locks"
    if any(locks.glob("*")):
        raise FlopsFitError(
            f"{locks}: a workflow is at work here, or was killed (then `snakemake --unlock` first)"
        )
    users = users_of_runs(sweeps)
    runs = [f for f in _run_folders(results) if f.name not in users and _is_free(f)]
    data = {Path(plan.data_dir).name for plan in sweeps.values() if plan.data_dir}
    checks = {Path(plan.check).stem for plan in sweeps.values()}
    at_work = {f.name for f in _run_folders(results)} - {f.name for f in runs}
    kept = {
        "specs": {*users, *at_work},
        "plans": {plan.fingerprint[:16] for plan in sweeps.values()},
        "checks": checks,
        "checked": checks,
        "conditions": checks,
        "data": data,
    }
    return {
        "rests": [
            path
            for kind in ("runs", "data", ".trunks", ".trunks/*", ".compiled")
            for path in Path(results).glob(f"{kind}/{PRUNED}*")
        ],
        "runs": runs,
        "states": [*unused_trunks(results, sweeps), *spent_states(results, sweeps)],
        "data": [
            path
            for path in _folders(Path(results, "data"))
            if path.name not in data and (path / DATA_MANIFEST).exists()
        ],
        "folders of compiled graphs": _folders(compiled_folder(results)),
        "files of plans": [
            path
            for folder, names in kept.items()
            for path in sorted((plan_folder(results) / folder).glob("*"))
            if path.is_file() and path.stem not in names
        ],
    }


def _is_free(folder: Path) -> bool:
    with lock_if_free(folder) as free:
        return free


def remove(path: Path) -> bool:
    """Remove the file or folder ``path``, a folder renamed first: a kill leaves no half of it in place.

    Returns whether it was removed: not a run that a trainer works on by now.
    """
    if path.is_file():
        path.unlink()
        return True
    with lock_if_free(path) as free:
        if not free:
            return False
        if not path.name.startswith(PRUNED):
            path = path.rename(path.with_name(PRUNED + path.name))
    shutil.rmtree(path)
    return True


def remove_spent_states(results: str | Path) -> None:
    """Remove the states below ``results`` that no planned run of any sweep will start from."""
    for state in spent_states(results, read_sweeps(results)):
        remove(state)


def found_records(source: str | Path) -> list[Path]:
    """The record files below ``source``: a results folder, its ``runs``, or the folder of one run."""
    source = Path(source)
    if (source / RECORD).exists():
        return [source / RECORD]
    runs = source / "runs" if (source / "runs").is_dir() else source
    return sorted(runs.glob(f"*/{RECORD}"))


def check_foreign(content: bytes) -> dict:
    """A record from elsewhere, believed in nothing: its seal, hash and id follow from its content.

    Raises `FlopsFitError` with what is wrong.
    """
    try:
        claimed = json.loads(content)
        identity = claimed["identity"]
        recipe = read_recipe(identity)
        name, digest = recipe.experiment_id, recipe.hash
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise FlopsFitError("not a record of an experiment") from None
    record = check_record(content, name, digest)
    if not ID.fullmatch(name):
        raise FlopsFitError(f"its id {name!r} is not allowed")
    wrong = recipe.wrong_tokens(record["tokens_seen"], recipe.tokens)
    if wrong and Status(record["status"]).usable:
        raise FlopsFitError(wrong)
    return record


def import_record(path: Path, results: str | Path) -> str:
    """Copy the record at ``path`` into the store below ``results``, by `add_record`.

    Returns what came of it. Raises `FlopsFitError` for a record that is refused.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FlopsFitError(f"cannot be read ({error.strerror})") from None
    return add_record(content, results)


def add_record(content: bytes, results: str | Path) -> str:
    """Write the record in ``content``, the bytes of its file, into the store below ``results``.

    Returns what came of it: "imported" or "already here". A sound record that is here stays,
    whatever the other holds; a corrupt one is moved aside. The next workflow makes the result from
    the record. Raises `FlopsFitError` for a record that is refused.
    """
    record = check_foreign(content)
    other = other_late(record.get("late", {}), [os.getcwd()])
    if other:
        raise FlopsFitError(f"it was trained with another {', '.join(other)} than lies here")
    folder = run_folder(results, record["experiment_id"])
    folder.mkdir(parents=True, exist_ok=True)
    target, broken = folder / RECORD, None
    with lock_if_free(folder) as free:
        if target.exists():
            try:
                here = read_record(target, record["experiment_id"], record["hash"])
            except FlopsFitError as error:
                broken = error
            else:
                if here != record:
                    losses = here["final_loss"], record["final_loss"]
                    print("{}: stays with loss {}; the other has {}".format(folder.name, *losses))
                return "already here"
        if not free:
            raise FlopsFitError("a trainer is at work on this experiment here")
        if broken:
            print(f"flops-fit: {broken}; moved to {set_aside(target).name}", file=sys.stderr)
        write_atomic(target, content)
        (folder / RESULT).unlink(missing_ok=True)  # it was the copy of another record, or of none
    return "imported"
