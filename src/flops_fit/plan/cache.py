"""The plan of a config, made once and kept: a file keyed by everything that determines it.

Only where there is none does a process of its own plan, since that needs torch.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.identity import common_identity, plan_fingerprint, plan_key
from flops_fit.experiment.places import hashes_file, plan_file, plan_folder, spec_file
from flops_fit.experiment.used import changed_late, named_uses, read_seen
from flops_fit.files import write_json
from flops_fit.plugins.code import remembered_sources
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import uses_identity
from flops_fit.store.plan_file import read_plan

SOURCES = "sources.json"  # digests of source files, beside the plans


def search_paths(extra: Iterable[str] = ()) -> list[str]:
    """Where plug-ins and relative paths are looked for: the working directory, then ``extra``."""
    extra = [os.path.abspath(folder) for folder in extra]
    for folder in extra:
        if not os.path.isdir(folder):
            raise FlopsFitError(f"--search-path: {folder}: no such folder")
    return list(dict.fromkeys([os.getcwd(), *extra]))


def plan_config(config: dict, results: str, paths: list[str]) -> dict:
    """The plan of a complete config, from its file if there is one, else newly made."""
    path = _known_plan(config, results, paths)
    plan = None if path is None else _usable(path, results)
    if plan is None:
        _make_plan(config, results, paths)
        path = _known_plan(config, results, paths)
        if path is None or not path.exists():
            raise FlopsFitError(
                "dataset.sources, or what a plug-in uses: changed while the sweep was planned; plan "
                "again, and name no folder in which files change, such as that of the results"
            )
        plan = read_plan(path)
    return plan


def _known_plan(config: dict, results: str, paths: list[str]) -> Path | None:
    """Where the plan lies that fits the plug-ins and data as they are; None if they were never run."""
    hashes = FileHashes(hashes_file(results))
    with remembered_sources(plan_folder(results) / SOURCES):
        common = common_identity(config, paths, hashes)
        named = named_uses(config, paths)
        key = plan_key(config, common, uses_identity(named, hashes), paths, hashes)
        seen = read_seen(results, key)
        uses = {}
        if seen is not None:
            late = changed_late(results, config, hashes)
            uses = uses_identity(named | seen | late, hashes)
    hashes.save()
    return None if seen is None else plan_file(results, plan_fingerprint(key, uses))


def _usable(path: Path, results: str) -> dict | None:
    """The plan in a file, if it is there with all of its specs."""
    with contextlib.suppress(FlopsFitError):
        plan = read_plan(path)
        ids = (row["experiment_id"] for row in plan["experiments"])
        if all(spec_file(results, experiment).exists() for experiment in ids):
            return plan
    return None


def _make_plan(config: dict, results: str, paths: list[str]) -> None:
    """Plan in another process: torch stays out of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        write_json(path, config)
        command = [sys.executable, "-m", "flops_fit.plan.planner", str(path), results, *paths]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise FlopsFitError(done.stderr.strip() or f"planning ended with {done.returncode}")
    sys.stderr.write(done.stderr)
