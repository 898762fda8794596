"""A proposed round and a confirmation, run by Snakemake: only new runs train, old files stay."""

import json
import os
import subprocess
import sys

import pytest

from flops_fit.files import read_json, write_json
from flops_fit.fit import fit_runs, prepare_runs
from flops_fit.rounds.confirm import confirmations_of
from flops_fit.rounds.simulate import design_of


def flops_fit(project, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit", *arguments],
        cwd=project.work,
        capture_output=True,
        env={**os.environ, **project.environment()},
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made_up_fit(project) -> None:
    """A law that is known, in place of what six noisy toy runs give."""
    design = design_of(read_json(project.results / ".plan" / "sweeps" / "own.json"))
    loss = 0.3 + 3 * design["params"] ** -0.5 + 20 * design["tokens"] ** -0.6
    fit = fit_runs(prepare_runs(design.assign(loss=loss)), bootstrap=50)
    write_json(project.work / "fit.json", fit.to_dict())


@pytest.mark.slow
def test_a_second_round_trains_only_what_is_new(project):
    made_up_fit(project)
    before = project.ids()
    table = (project.results / "own" / "results.csv").read_bytes()
    said = flops_fit(
        project, "next", "--fit", "fit.json", "--config", "sweep.yaml", "--out", "round2.yaml"
    )
    done = project.run(config="round2.yaml")
    assert f"adds {len(done.trained)} runs" in said
    assert done.trained
    assert not done.restored
    assert before < project.ids()
    assert len(project.ids()) == len(before) + len(done.trained)
    assert (project.results / "own" / "results.csv").read_bytes() == table
    assert (project.results / "own-round2" / "fit.json").exists()
    assert not project.dry_run(config="round2.yaml").jobs


@pytest.mark.slow
def test_a_confirmation_trains_one_run_and_compares_it(project):
    made_up_fit(project)
    flops_fit(
        project,
        "confirm",
        "--fit",
        "fit.json",
        "--config",
        "sweep.yaml",
        "--flops",
        "4e5",
        "--out",
        "confirm.yaml",
    )
    done = project.run(config="confirm.yaml")
    assert len(done.trained) == 1
    assert "compare_confirmation" in done.rules
    assert not done.rules & {"fit_law", "plot_law", "write_report"}
    (told,) = confirmations_of(project.results, "own")
    record = json.loads((project.runs / told["experiment_id"] / "record.json").read_text())
    assert told["loss"] == record["final_loss"]
    assert told["difference"] == pytest.approx(told["loss"] - told["predicted"]["loss"])
    assert told["predicted"]["blind"]
    page = (project.results / "own-confirm-400000" / "confirmation.md").read_text()
    assert "from the prediction" in done.output
    assert "| measured |" in page
    assert not project.dry_run(config="confirm.yaml").jobs
