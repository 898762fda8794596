"""One trained sweep for all tests of the workflow; each test starts from an exact copy of it."""

import dataclasses
import fcntl
import os
import pickle
from pathlib import Path

import pytest
from project import Outcome, Project, copy, restored


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Project, Path, Outcome]:
    """A project whose sweep has run to its end, a snapshot of it, and what that first run did.

    It is trained once, by whichever worker of pytest needs it first, and copied by all. Each plans its
    copy once more, because paths are a part of a plan.
    """
    folder = tmp_path_factory.mktemp("workflow")
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    origin, told = common / "trained" / "root", common / "trained" / "outcome"
    with (common / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            told.parent.mkdir()
            told.write_bytes(pickle.dumps(Project.create(origin).run()))
    first = pickle.loads(told.read_bytes())
    project, snapshot = Project(folder / "root"), folder / "snapshot"
    copy(origin, project.root)
    assert project.dry_run().jobs == []
    copy(project.root, snapshot)
    here = first.output.replace(str(origin), str(project.root))
    return project, snapshot, dataclasses.replace(first, output=here)


@pytest.fixture
def project(trained) -> Project:
    """The trained project as it was after its first run."""
    return restored(trained)
