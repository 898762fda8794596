"""One SLURM for the session, and one planned project; each test starts from a copy of it."""

import shutil
import subprocess
from pathlib import Path

import cluster
import pytest
from project import Project
from submission import Submission, fresh


@pytest.fixture(scope="session")
def slurm_up():
    """A SLURM of one node: eight pretended CPUs, two pretended GPUs."""
    cluster.up()
    yield
    Submission.kill_all()
    cluster.down()


@pytest.fixture(scope="session")
def planned(tmp_path_factory) -> tuple[Project, Path]:
    """A project whose plan is made and checked on this machine, and a snapshot of it."""
    folder = tmp_path_factory.mktemp("slurm")
    project = Project.create(folder / "root")
    shutil.copy(Path(__file__).with_name("watched.py"), project.work / "mymodel.py")
    (project.work / "steps").mkdir()
    (project.work / "orders.json").write_text("{}")
    project.configure(resources={"checkpoint_minutes": 0})
    project.run("--until", "check_inputs")
    subprocess.run(["cp", "-a", project.root, folder / "snapshot"], check=True)
    return project, folder / "snapshot"


@pytest.fixture
def project(planned, slurm_up) -> Project:
    return fresh(planned)
