"""What the README tells a newcomer to do works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flops_fit.files import read_json

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- test: (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
README = (ROOT / "README.md").read_text()


def run(line: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with the README's files in it, outside of the package."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in BLOCK.findall(README):
        if "." in name:
            (folder / name).write_text(content)
    return folder


def test_a_model_data_and_loss_of_your_own_train_and_fit_by_name_alone(project):
    command = dict(BLOCK.findall(README))["command"].split()
    assert command[0] == "snakemake"
    run([*command, "--snakefile", str(ROOT / "Snakefile")], project)
    fit = read_json(project / "results" / "mine" / "fit.json")
    assert fit["data"]["n_runs"] == 6
    assert len(fit["isoflop"]["budgets"]) == 2
    assert (project / "results" / "mine" / "report.html").stat().st_size > 10_000


def test_the_api_lines_run_over_the_same_files(project):
    out = run([sys.executable, "-c", "exec(open('api.py').read()); print(result)"], project)
    assert "runs completed" in out


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"\]\(([\w./-]+)\)", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
