"""Records from another machine stand in for training."""

import shutil
import subprocess
import sys

import pytest
from project import CELLS, TABLES, label, sizes


@pytest.mark.slow
def test_after_an_import_into_an_empty_folder_nothing_is_trained(project):
    elsewhere = project.root / "elsewhere"
    project.results.rename(elsewhere)
    shutil.rmtree(project.work / ".snakemake")
    line = [sys.executable, "-m", "flops_fit", "runs", "import", str(elsewhere)]
    done = subprocess.run(
        line,
        cwd=project.work,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{len(CELLS)} imported, 0 already here, 0 refused\n"
    run = project.run(*TABLES)
    assert (run.trained, run.restored) == (set(), CELLS)
    table = (project.results / "own/results.csv").read_text()
    assert table == (elsewhere / "own/results.csv").read_text()
    assert {label(name) for name in project.ids()} == CELLS


@pytest.mark.slow
def test_a_cell_that_was_pruned_is_all_that_is_trained_when_it_comes_back(project):
    project.configure(sizes=sizes(large=(4, 8)))
    project.run(*TABLES)
    line = [sys.executable, "-m", "flops_fit", "runs", "prune", "--yes"]
    done = subprocess.run(
        line,
        cwd=project.work,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "used by no sweep: 1 runs (" in done.stdout
    assert {label(name) for name in project.ids()} == CELLS - {"width16-D320-s0"}
    assert project.dry_run(*TABLES).jobs == []
    project.configure()
    back = project.run(*TABLES)
    assert (back.trained, back.restored) == ({"width16-D320-s0"}, set())
