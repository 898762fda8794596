"""Records from another machine stand in for training."""

import shutil
import subprocess
import sys

from project import label
from test_staleness import CELLS, TABLES


def test_after_an_import_into_an_empty_folder_nothing_is_trained(project):
    elsewhere = project.root / "elsewhere"
    project.results.rename(elsewhere)
    shutil.rmtree(project.work / ".snakemake")
    line = [sys.executable, "-m", "flops_fit", "runs", "import", str(elsewhere)]
    done = subprocess.run(line, cwd=project.work, env=project.environment(), capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout == f"{len(CELLS)} imported, 0 already here, 0 refused\n"
    run = project.run(*TABLES)
    assert (run.trained, run.restored) == (set(), CELLS)
    table = (project.results / "own/results.csv").read_text()
    assert table == (elsewhere / "own/results.csv").read_text()
    assert {label(name) for name in project.ids()} == CELLS
