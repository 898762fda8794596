"""The plan of a config, made once and kept: a file keyed by everything that determines it.

Only where there is none does a separate process plan, since that needs torch.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.identity import plan_fingerprint, plan_key
from flops_fit.experiment.kinds import kind_of
from flops_fit.experiment.places import hashes_file, plan_file, plan_folder, problem_file, spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.unfollowed import changed_folders, say_unfollowed
from flops_fit.experiment.used import read_seen
from flops_fit.files import write_json
from flops_fit.plugins.code import remembered_sources
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import uses_identity
from flops_fit.store.plan_file import read_plan

SOURCES = "sources.json"  # digests of source files, beside the plans
NOTE_AFTER = 30.0  # seconds; a plan of the shipped sweeps takes a third of it on a busy machine
STILL_PLANNING = (
    "note: still planning: the modules that the config names are imported, the smallest model is "
    "built and the data are read. A script that trains when it is imported never gets further; "
    'keep its training under `if __name__ == "__main__":`\n'
)


def search_paths(extra: Iterable[str] = ()) -> list[str]:
    """Where plug-ins and relative paths are looked for: the working directory, then ``extra``.

    Raises `FlopsFitError` for a folder of ``extra`` that does not exist.
    """
    folders = [os.path.abspath(folder) for folder in extra]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FlopsFitError(f"--search-path: {folder}: no such folder")
    return list(dict.fromkeys([os.getcwd(), *folders]))


def plan_config(config: Mapping[str, Any], results: str, paths: list[str]) -> Plan:
    """The plan of a complete ``config``, from its file below ``results`` if there is one, else new.

    Plug-ins and data are looked for below ``paths``. Raises `FlopsFitError` for a config that cannot
    be planned, or whose sources change meanwhile.
    """
    path = _known_plan(config, results, paths)
    plan = None if path is None else _usable(path, results)
    folders = [] if plan is None else changed_folders(plan, results, paths)
    before = None if plan is None else [e.experiment_id for e in plan.experiments]
    if plan is None or folders:  # code that lists a folder may read another file in it
        _make_plan(config, results, paths)
        path = _known_plan(config, results, paths)
        if path is None or not path.exists():
            raise FlopsFitError(
                "dataset.sources, or what a plug-in uses: changed while the sweep was planned (or a "
                "script or its trainer.sources); plan again, and name no folder in which files change, "
                "such as that of the results"
            )
        plan = read_plan(path)
    same = before == [e.experiment_id for e in plan.experiments]
    say_unfollowed(plan, results, folders if same else [])
    return plan


def _known_plan(config: Mapping[str, Any], results: str, paths: list[str]) -> Path | None:
    """Where the plan lies that fits the plug-ins and data as they are; None if they were never run."""
    hashes, kind = FileHashes(hashes_file(results)), kind_of(config)
    with remembered_sources(plan_folder(results) / SOURCES):
        named = kind.named_uses(config, paths)
        shared = replace(kind.shared(config, paths, hashes), uses=uses_identity(named, hashes))
        key = plan_key(config, shared, paths, hashes, kind.planning(config, paths))
        seen = read_seen(results, key)
        uses = {}
        if seen is not None:
            late = kind.changed_late(results, config, hashes, paths)
            uses = uses_identity(named | seen | late, hashes)
    hashes.save()
    return None if seen is None else plan_file(results, plan_fingerprint(key, uses))


def _usable(path: Path, results: str) -> Plan | None:
    """The plan in a file, if it is there with all of its specs."""
    with contextlib.suppress(FlopsFitError):
        plan = read_plan(path)
        if all(spec_file(results, e.experiment_id).exists() for e in plan.experiments):
            return plan
    return None


def _make_plan(config: Mapping[str, Any], results: str, paths: list[str]) -> None:
    """Plan in another process: torch stays out of this one."""
    if importlib.util.find_spec("torch") is None:  # said by the verb, not as another's traceback
        raise ModuleNotFoundError("planning needs torch", name="torch")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        write_json(path, config)
        command = [sys.executable, "-m", "flops_fit.plan.planner", str(path), results, *paths]
        note = threading.Timer(NOTE_AFTER, lambda: sys.stderr.write(STILL_PLANNING))
        note.start()
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        finally:
            note.cancel()
        problem = problem_file(path)
        what = problem.read_text() if problem.exists() else ""
    if done.returncode and not what:  # it could not say what is wrong
        raise FlopsFitError(done.stderr.strip() or f"planning ended with {done.returncode}")
    sys.stderr.write(done.stderr)  # what the user's code and its libraries print
    if what:
        raise FlopsFitError(what)
