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
from flops_fit.experiment.identity import common_identity, plan_fingerprint
from flops_fit.experiment.places import plan_file, plan_folder, spec_file
from flops_fit.files import write_json
from flops_fit.plugins.code import remembered_sources
from flops_fit.plugins.data_files import FileHashes
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
    hashes = FileHashes(plan_folder(results) / "hashes.json")
    with remembered_sources(plan_folder(results) / SOURCES):
        common = common_identity(config, paths, hashes)
        path = plan_file(results, plan_fingerprint(config, common, paths, hashes))
    hashes.save()
    plan = _usable(path, results)
    if plan is None:
        _make_plan(config, results, paths)
        if not path.exists():
            raise FlopsFitError(
                "dataset.sources, or a plug-in's source: changed while the sweep was planned; plan "
                "again, and name no folder in which files change, such as that of the results"
            )
        plan = read_plan(path)
    return plan


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
