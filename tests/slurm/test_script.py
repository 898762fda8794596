"""A user's own script over SLURM: a run that is cancelled in the midst saves, and goes on."""

import pytest
import yaml
from example_scripts import EXAMPLES
from project import Project, label
from submission import Submission, slurm

from flops_fit.store.records import read_record

pytestmark = pytest.mark.slurm
EXAMPLE = EXAMPLES["plain loop"]


def test_a_cancelled_script_goes_on_and_gives_the_same_bits(slurm_up, tmp_path):
    project = Project.create(tmp_path / "root")
    (project.work / "sweep.yaml").write_text(yaml.safe_dump(EXAMPLE.config))
    project.run("--until", "check_inputs", OMP_NUM_THREADS="1")
    (name,) = (path.stem for path in (project.results / ".plan/specs").glob("*.json"))
    cell, target = label(name), f"results/runs/{name}/result.json"
    sweep = Submission(project, "--set-resources", "train_run:gpu=0", "--", target)
    sweep.wait((project.runs / name / "script" / "progress.json").exists, "at work")
    slurm("scancel", str(sweep.jobs(cell)[0].id))
    sweep.finish()
    assert [job.state for job in sweep.jobs(cell)] == ["CANCELLED", "COMPLETED"]
    assert project.dry_run(target).jobs == []
    local = Project.create(tmp_path / "local")
    (local.work / "sweep.yaml").write_text(yaml.safe_dump(EXAMPLE.config))
    local.run("--until", "train_run", OMP_NUM_THREADS="1")
    undisturbed, record = (
        read_record(p.runs / name / "record.json", name) for p in (local, project)
    )
    assert record["final_loss"] == undisturbed["final_loss"]
    assert record["verified"] == ["tokens", "params", "processes", "exit status"]
