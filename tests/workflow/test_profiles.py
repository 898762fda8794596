"""The profiles: found by themselves, missed with a warning, put together for clusters."""

import shutil
import subprocess
import sys

import pytest
import yaml
from project import REPOSITORY

from flops_fit.workflow import NO_PARAMS, NO_PROFILE

PLAIN = "rule a:\n    output: 'a.txt'\n    shell: 'touch {output}'\n"
WITHOUT_US = """\
import sys
sys.path = [path for path in sys.path if not path.endswith("/src")]
from snakemake.cli import main
main(sys.argv[1:])
"""


def test_without_our_rerun_triggers_a_sweep_begins_with_a_warning(project):
    assert NO_PROFILE in project.dry_run("--workflow-profile", "none").output  # else: test_entries


def test_triggers_by_which_no_changed_setting_reruns_are_warned_of(project):
    assert NO_PARAMS in project.dry_run("--rerun-triggers", "mtime").output


def test_the_default_profile_serves_a_snakemake_that_cannot_see_this_package(tmp_path):
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    (tmp_path / "Snakefile").write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, "--cores", "1"],
        cwd=tmp_path,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Using workflow specific profile profiles/default" in done.stderr
    assert (tmp_path / "a.txt").exists()


@pytest.mark.parametrize(
    ("names", "asked"), [(["slurm"], "gpu=1"), (["slurm", "slurm-gres"], "gres=gpu:1")]
)
def test_the_profiles_for_slurm_ask_for_gpus_in_one_of_two_ways(project, names, asked):
    folder = project.run_folder("width8-D640-s0")
    shutil.rmtree(folder)
    profiles = [f"--profile={project.checkout / 'profiles' / name}" for name in names]
    done = project.dry_run(f"results/runs/{folder.name}/result.json", *profiles)
    (run,) = [line for line in done.output.splitlines() if "omp=1" in line]
    assert [word for word in ("gpu=1", "gres=gpu:1") if word in run] == [asked]
    assert "slurm_extra=--signal=TERM@120" in run


def test_the_second_profile_for_slurm_repeats_nothing_and_alone_trains_nothing(project):
    slurm, gres = (
        yaml.safe_load((REPOSITORY / "profiles" / name / "config.yaml").read_text())
        for name in ("slurm", "slurm-gres")
    )
    assert set(gres) == {"executor", "set-resources"}
    assert gres["executor"] == slurm["executor"] == "slurm"
    alone = subprocess.run(
        [
            *(part for part in project.command() if part not in ("--cores", "2")),
            "--profile",
            str(project.checkout / "profiles/slurm-gres"),
        ],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode != 0
    assert "--jobs" in alone.stderr + alone.stdout


def test_a_ceiling_limits_the_time_of_a_job_and_lets_it_continue_in_the_queue(project):
    folder = project.run_folder("width8-D640-s0")
    shutil.rmtree(folder)
    for ceiling, time, requeue in ((4, 4, 1), (600, 10, 0)):
        project.configure(resources={"max_minutes": ceiling})
        done = project.dry_run(f"results/runs/{folder.name}/result.json", "--printshellcmds")
        (run,) = [line for line in done.output.splitlines() if "omp=1" in line]
        assert f"runtime={time}" in run.replace(",", "").split()
        assert f"--requeue {requeue} " in done.output
        assert done.trained == {"width8-D640-s0"}
