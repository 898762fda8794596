"""Every way to start the workflow, without a target: each finds its jobs and our profile.

A missing default target would end with "Nothing to be done" and success, a missing profile would
start every run again, both without a word.
"""

import shutil
import subprocess
import sys

import pytest

from flops_fit.workflow import NO_PROFILE

MODULE = """\
configfile: "sweep.yaml"


module flops_fit:
    snakefile:
        {path}
    config:
        config


use rule * from flops_fit as flops_fit_*
"""
PATHS = ("Snakefile", "workflow/Snakefile")


def dry_run(project, *arguments: str, cwd, **variables):
    """What is to be done where only the report is missing."""
    (project.results / "own/report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", *arguments],
        cwd=cwd,
        text=True,
        timeout=900,
        env=project.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return project.outcome(done.returncode, done.stdout, dry=True)


def is_sound(done) -> bool:
    assert {rule.removeprefix("flops_fit_") for rule in done.rules} == {"write_report"}, done.output
    assert NO_PROFILE not in done.output
    return "Using workflow specific profile" in done.output


@pytest.mark.parametrize("snakefile", [(), ("-s", "workflow/Snakefile")])
def test_from_the_checkout(project, snakefile):
    work = ["--directory", str(project.work), "--configfile", str(project.work / "sweep.yaml")]
    assert is_sound(dry_run(project, *snakefile, *work, cwd=project.checkout))


@pytest.mark.parametrize("path", PATHS)
def test_from_elsewhere(project, path):
    snakefile = ["--snakefile", str(project.checkout / path), "--configfile", "sweep.yaml"]
    assert is_sound(dry_run(project, *snakefile, cwd=project.work))


@pytest.mark.parametrize("path", PATHS)
def test_as_a_module(project, path):
    (project.work / "Snakefile").write_text(MODULE.format(path=f'"../checkout/{path}"'))
    shutil.copytree(project.checkout / "profiles", project.work / "profiles")
    assert is_sound(dry_run(project, cwd=project.work))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_as_a_module_that_snakemake_fetches_from_a_repository(project, tmp_path, path):
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    git = ["git", *author, "-C", str(project.checkout)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    source = f'github("someone/flops-fit", path="{path}", tag="v1")'
    (project.work / "Snakefile").write_text(MODULE.format(path=source))
    shutil.copytree(project.checkout / "profiles", project.work / "profiles")
    done = dry_run(
        project,
        cwd=project.work,
        XDG_CACHE_HOME=str(tmp_path),
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.file://{project.checkout}.insteadOf",
        GIT_CONFIG_VALUE_0="https://github.com/someone/flops-fit",
    )
    assert is_sound(done)
