"""The same workflow as a module of another one, from a read-only checkout, and what starts first.

Every test begins with the trained sweep of `conftest.py`; as long as nothing that determines a run
has changed, nothing may be trained again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from project import REPOSITORY, Outcome, Project

from flops_fit.plan.price import cautious_rate, price, work_of
from flops_fit.store.plan_file import read_plan

BLOCK = re.compile(r"<!-- test: Snakefile -->\n```python\n(.*?)```", re.DOTALL)
EXAMPLE = BLOCK.search((REPOSITORY / "docs/workflow.md").read_text())[1]
PATH = '"flops-fit/workflow/Snakefile"'
PREFIX = " as flops_fit_*"


def outside(project: Project, snakefile: str, *arguments: str, **variables: str) -> Outcome:
    """Run a user's own Snakefile in the project's folder, with our default profile."""
    (project.work / "Snakefile").write_text(snakefile)
    shutil.copytree(project.checkout / "profiles", project.work / "profiles", dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=project.work,
        env=project.environment(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return project.outcome(done.returncode, done.stdout, dry="-n" in arguments)


def example(old: str = "", new: str = "") -> str:
    """The Snakefile of the documentation, with the checkout where the tests have it."""
    text = EXAMPLE.replace(PATH, '"../checkout/workflow/Snakefile"')
    assert text != EXAMPLE
    assert old in text
    return text.replace(old, new)


def steps(done: Outcome) -> set[str]:
    """The rules that ran, by their names here."""
    return {rule.removeprefix("flops_fit_") for rule in done.rules}


def test_a_module_makes_what_the_rules_of_another_workflow_ask_for(project):
    (project.results / "own/fit.json").unlink()
    done = outside(project, example())
    assert "flops_fit_fit_law" in done.rules
    assert steps(done) == {"fit_law", "best_size"}
    assert json.loads((project.work / "best_size.json").read_text())["flops"] == 1e7
    rest = outside(project, example(), "-n", "flops_fit_all")
    assert steps(rest) == set()  # the same fit again: nothing below it is out of date


@pytest.mark.parametrize(
    ("old", "new", "everything"),
    [
        (PREFIX, "", "all"),
        (PREFIX, " exclude all as flops_fit_*", "results/own/report.html"),
        ('configfile: "sweep.yaml"', 'configfile: "outer.yaml"', "flops_fit_all"),
    ],
    ids=["without a prefix", "without all", "config as a part of another"],
)
def test_as_a_module_it_finds_the_same_experiments_trained(project, old, new, everything):
    (project.work / "outer.yaml").write_text(
        "sweep:\n" + re.sub("^", "  ", (project.work / "sweep.yaml").read_text(), flags=re.M)
    )
    text = example(old, new)
    if "outer" in new:
        text = text.replace("        config\n", '        config["sweep"]\n')
    (project.results / "own/report.html").unlink()
    done = outside(project, text, "-n", everything)
    assert steps(done) == {"write_report"}


def test_the_gpus_that_a_profile_asks_for_under_a_prefix_are_known_to_the_pricing(project):
    shutil.rmtree(project.run_folder("width8-D640-s0"))
    asked = ["--set-resources", "flops_fit_train_run:gpu=1"]
    done = outside(project, example(), "-n", "flops_fit_all", *asked)
    assert "gpu=1" in done.output
    requests = [
        outside(project, example(), "-n", "flops_fit_all", *line).output for line in (asked, [])
    ]
    with_gpus, without = (re.search(r"mem_mb=(\d+)", output)[1] for output in requests)
    assert int(with_gpus) > int(without)  # the host's side of driving each GPU


def test_nothing_is_written_into_the_checkout(trained):
    project, snapshot, _ = trained
    ours = {path.relative_to(snapshot / "checkout") for path in files(snapshot / "checkout")}
    assert ours == {path.relative_to(project.checkout) for path in files(project.checkout)}
    assert all((REPOSITORY / path).exists() for path in ours)


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


@pytest.mark.slow
def test_a_read_only_checkout_serves(project, monkeypatch):
    (project.results / "own/fit.json").unlink()
    subprocess.run(["chmod", "-R", "a-w", str(project.checkout)], check=True)
    try:
        if os.geteuid() == 0:  # whom permissions bind only without this capability
            line = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
            if not shutil.which("setpriv"):
                pytest.skip("as root, this needs setpriv")
            refused = subprocess.run([*line, "touch", str(project.checkout / "new")], check=False)
            assert refused.returncode != 0
            command = project.command
            monkeypatch.setattr(project, "command", lambda *a, **k: [*line, *command(*a, **k)])
        done = project.run("--until", "fit_law")
        page = project.run("--report", "all.html")
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(project.checkout)], check=True)
    assert done.rules == {"fit_law"}
    assert page.jobs == []
    assert (project.work / "all.html").stat().st_size > 100_000


def test_runs_start_longest_first(trained):
    project, snapshot, first = trained  # as it was after its first run
    results = snapshot / project.results.relative_to(project.root)
    plan = read_plan(results / ".plan/sweeps/own.json")
    resources = replace(plan.resources, processes=1, threads=1, gpus=0)
    seconds = {
        experiment.experiment_id: price(work_of(experiment), cautious_rate(0), resources).seconds
        for experiment in plan.experiments
    }
    started = [seconds[experiment] for rule, experiment in first.jobs if rule == "train_run"]
    assert len(set(started)) > 3
    for place, one in enumerate(started):  # two start together where two end together
        assert one in sorted(started[place:])[-2:]
