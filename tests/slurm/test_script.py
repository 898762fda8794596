"""A user's own script over SLURM: a run that is cancelled in the midst saves, and goes on."""

import json

import pytest
import yaml
from example_scripts import EXAMPLES
from project import Project, label
from submission import Submission, slurm

pytestmark = pytest.mark.slurm
EXAMPLE = EXAMPLES["plain loop"]


def records(project: Project) -> dict[str, dict]:
    return {
        label(path.parent.name): json.loads(path.read_text())
        for path in project.runs.glob("*/record.json")
    }


def test_a_cancelled_script_goes_on_and_gives_the_same_bits(slurm_up, tmp_path):
    project = Project.create(tmp_path / "root")
    (project.work / "sweep.yaml").write_text(yaml.safe_dump(EXAMPLE.config))
    project.run("--until", "check_inputs", OMP_NUM_THREADS="1")
    specs = [path.stem for path in (project.results / ".plan/specs").glob("*.json")]
    larger, smaller = sorted(map(label, specs))
    targets = [f"results/runs/{name}/result.json" for name in specs]
    sweep = Submission(project, "--set-resources", "train_run:gpu=0", "--", *targets)
    (name,) = (name for name in specs if label(name) == smaller)
    progress = project.runs / name / "script" / "progress.json"
    sweep.wait(progress.exists, f"{smaller} at work")
    slurm("scancel", str(sweep.jobs(smaller)[0].id))
    sweep.finish()
    assert [job.state for job in sweep.jobs(smaller)] == ["CANCELLED", "COMPLETED"]
    assert [job.state for job in sweep.jobs(larger)] == ["COMPLETED"]
    done = records(project)
    local = Project.create(tmp_path / "local")
    (local.work / "sweep.yaml").write_text(yaml.safe_dump(EXAMPLE.config))
    local.run("--until", "collect_runs", OMP_NUM_THREADS="1")
    for cell, record in records(local).items():
        assert done[cell]["final_loss"] == record["final_loss"]
        assert done[cell]["verified"] == ["tokens", "params", "processes", "exit status"]
    assert project.dry_run(*targets).jobs == []
