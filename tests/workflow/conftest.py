"""One trained sweep for all tests of the workflow; each test starts from an exact copy of it."""

from pathlib import Path

import pytest
from project import Project, copy, restored


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
