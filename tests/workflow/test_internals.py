"""What the workflow takes from inside of Snakemake is still there, and still means the same."""

import json
import os
import re
import subprocess
import sys

import pytest
from project import REPOSITORY

INTERNALS = REPOSITORY / "workflow/rules/internals.smk"
SNAKEFILE = f"""\
import json


include: "{INTERNALS}"


CHECKOUT = checkout_folder()
OUTSIDE = name_outside("a")


def seen(wildcards):
    told = {{
        "checkout": CHECKOUT,
        "config_files": [str(path) for path in config_files()],
        "main": is_main_process(),
        "dry": is_dry_run(),
        "rewording": rewording_reruns(),
        "settings": settings_rerun_nothing(),
        "asked": [name for name in ("a", "b") if is_asked_for(name)],
        "outside": OUTSIDE,
        "gpu": set_resource(OUTSIDE, "gpu"),
        "gres": set_resource(OUTSIDE, "gres"),
        "store": store(),
        "copy": copy_here("results"),
        "sent": was_sent_here(),
    }}
    print("SEEN", json.dumps(told))
    return "seen"


rule a:
    output:
        "a.txt",
    params:
        seen=seen,
    shell:
        "touch {{output}}"


onstart:
    print("STARTS", runs_elsewhere())
"""
SHARED = {"store": "", "copy": "results", "sent": False}  # with a store: tests/storage
# An executor for other machines, as those of clusters and clouds are; it has none
ELSEWHERE = """\
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False
)


class Executor(RemoteExecutor):
    def __post_init__(self):
        pass

    def run_job(self, job):
        raise SystemExit(3)

    async def check_active_jobs(self, active_jobs):
        yield

    def cancel_jobs(self, active_jobs):
        pass
"""
MODULE = """\
module inner:
    snakefile:
        "inner.smk"


use rule * from inner as inner_*
"""


def seen(folder, *arguments: str, snakefile: str = "inner.smk") -> list[dict]:
    (folder / "inner.smk").write_text(SNAKEFILE)
    (folder / "outer.smk").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", snakefile, "--cores", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in re.findall("^SEEN (.*)$", done.stdout, re.MULTILINE)]


def test_a_run_by_hand_is_seen_as_it_was_asked_for(tmp_path):
    (tmp_path / "one.yaml").write_text("key: 1\n")
    folder = tmp_path / "checkout/workflow/rules"
    folder.mkdir(parents=True)
    options = [
        "--configfile",
        str(tmp_path / "one.yaml"),
        "--set-resources",
        "a:gpu=2",
        "a:gres=gpu:x:3",
    ]
    first, *_ = seen(folder, "-n", "a", *options)
    assert first == {
        "checkout": str(tmp_path / "checkout"),
        "config_files": [str(tmp_path / "one.yaml")],
        "main": True,
        "dry": True,
        "rewording": True,
        "settings": False,
        "asked": ["a"],
        "outside": "a",
        "gpu": "2",
        "gres": "gpu:x:3",
        **SHARED,
    }


def test_a_job_s_own_snakemake_is_not_taken_for_the_user_s(tmp_path):
    first, *_ = seen(tmp_path, "--mode", "remote", "--target-jobs", "a:", "--local-groupid", "1")
    assert not first["main"]


def test_a_real_run_as_a_module_by_our_triggers_is_seen_too(tmp_path):
    options = ["--rerun-triggers", "mtime", "params", "input", "--set-resources", "inner_a:gpu=1"]
    first, *_ = seen(tmp_path, "a.txt", *options, snakefile="outer.smk")
    assert first == {
        "checkout": os.path.normpath(tmp_path / "../.."),
        "config_files": [],
        "main": True,
        "dry": False,
        "rewording": False,
        "settings": False,
        "asked": [],
        "outside": "inner_a",
        "gpu": "1",
        "gres": None,
        **SHARED,
    }


@pytest.mark.parametrize(("options", "elsewhere"), [([], False), (["--executor", "none"], True)])
def test_it_is_known_at_the_start_whether_jobs_run_on_other_machines(tmp_path, options, elsewhere):
    (tmp_path / "inner.smk").write_text(SNAKEFILE)
    plugin = tmp_path / "snakemake_executor_plugin_none"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(ELSEWHERE)
    line = [sys.executable, "-m", "snakemake", "-s", "inner.smk", "--cores", "1", "--jobs", "1"]
    done = subprocess.run(
        [*line, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert f"STARTS {elsewhere}" in done.stdout, done.stderr
    assert (done.returncode == 0) is not elsewhere  # an executor of nowhere ran nothing


def test_no_other_rule_file_reaches_into_snakemake():
    files = [REPOSITORY / "Snakefile", REPOSITORY / "workflow/Snakefile"]
    files += [path for path in INTERNALS.parent.glob("*.smk") if path != INTERNALS]
    assert len(files) > 10
    reaching = re.compile(r"(?<!/)\bworkflow\.\w+|\bsnakemake\.(?!utils import min_version)\w+")
    found = {path.name: reaching.findall(path.read_text()) for path in files}
    assert not {name for name, uses in found.items() if uses}, found
    assert reaching.search(INTERNALS.read_text())


def test_triggers_that_leave_out_params_are_seen(tmp_path):
    first, *_ = seen(tmp_path, "-n", "a", "--rerun-triggers", "mtime", "input")
    assert first["settings"]
    assert not first["rewording"]
