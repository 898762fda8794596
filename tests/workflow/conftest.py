"""One trained sweep for all tests of the workflow; each test starts from an exact copy of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from project import Project


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Project, Path, object]:
    """A project whose sweep has run to its end, a snapshot of it, and what that first run did."""
    folder = tmp_path_factory.mktemp("workflow")
    project = Project.create(folder / "root")
    first = project.run()
    snapshot = folder / "snapshot"
    copy(project.root, snapshot)
    return project, snapshot, first


@pytest.fixture
def project(trained) -> Project:
    """The trained project as it was after its first run."""
    return restored(trained)


def restored(trained) -> Project:
    """Put the trained project back as it was: same paths, same times, same bytes."""
    project, snapshot, _ = trained
    shutil.rmtree(project.root)
    copy(snapshot, project.root)
    return project


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
