"""The workflow as snakedeploy deploys it: a module fetched with git, in a folder with configs alone.

snakedeploy comes from the package registry into an environment of its own; the address is a made-up
one that git replaces by a copy of this checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from project import REPOSITORY

pytestmark = pytest.mark.slow
DEPLOY = re.compile(r"^snakedeploy deploy-workflow (\S+) (\S+) --tag (\S+)$", re.MULTILINE)
ADDRESS, FOLDER, TAG = DEPLOY.search((REPOSITORY / "docs/workflow.md").read_text()).groups()
PRINTED = """

onsuccess:
    shell("cat results/*/answer.txt")
"""


def run(*line, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, line)),
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def snakedeploy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snakedeploy")
    venv.create(folder, with_pip=True)
    done = run(folder / "bin/pip", "install", "--quiet", "snakedeploy>=0.17", folder=folder)
    if done.returncode:
        pytest.skip(f"snakedeploy cannot be installed here: {done.stdout[-200:]}")
    return folder / "bin/snakedeploy"


@pytest.fixture(scope="module")
def git(tmp_path_factory) -> dict[str, str]:
    """Variables with which git, and Snakemake, find this checkout at `ADDRESS`."""
    folder = tmp_path_factory.mktemp("origin")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=REPOSITORY)
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name, follow_symlinks=False)
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for line in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "-m", "All")):
        assert run("git", *who, *line, folder=folder).returncode == 0
    assert run("git", "tag", TAG, folder=folder).returncode == 0
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": str(REPOSITORY / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def deployed(snakedeploy, git, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    line = (snakedeploy, "deploy-workflow", ADDRESS, FOLDER, "--tag", TAG)
    done = run(*line, folder=folder, **git)
    assert done.returncode == 0, done.stdout
    return folder / FOLDER


def snakemake(deployed: Path, git: dict[str, str], *arguments: str) -> tuple[int, str]:
    line = (sys.executable, "-m", "snakemake", "--cores", "2", *arguments)
    done = run(*line, folder=deployed, **git)
    return done.returncode, done.stdout


def test_a_deployed_module_lists_the_demo_with_its_profile(deployed, git):
    status, output = snakemake(deployed, git, "-n")
    assert status == 0, output
    assert "train_run          25" in output
    assert "Using workflow specific profile profiles/default" in output


def test_a_second_config_file_is_refused_with_what_to_do(deployed, git):
    status, output = snakemake(deployed, git, "-n", "--configfile", "config/smoke.yaml")
    assert status != 0
    assert "Snakemake merges config/smoke.yaml and config/config.yaml" in output
    assert "write your sweep into one of them" in " ".join(output.split())


def test_another_config_in_its_place_trains_reports_and_prints_the_answer(deployed, git):
    shutil.copy(deployed / "config/smoke.yaml", deployed / "config/config.yaml")
    (deployed / "tests/data").mkdir(parents=True)
    shutil.copy(REPOSITORY / "tests/data/text.txt", deployed / "tests/data")
    with (deployed / "workflow/Snakefile").open("a") as file:
        file.write(PRINTED)
    status, output = snakemake(deployed, git)
    assert status == 0, output
    sweep = deployed / "results/smoke"
    assert (sweep / "answer.txt").read_text() in output
    assert (sweep / "report.html").stat().st_size > 10_000
    status, output = snakemake(deployed, git, "--report", "all.html")
    assert status == 0, output
    assert (deployed / "all.html").stat().st_size > 100_000
    status, output = snakemake(deployed, git, "-n")
    assert "Nothing to be done" in output
