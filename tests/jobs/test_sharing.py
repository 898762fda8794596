"""Runs that share a GPU: what a job of them locks, shows and says, and when it is refused."""

import os
import tempfile
from dataclasses import replace

import pytest
import recipes

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import Resources
from flops_fit.experiment.spec import Spec
from flops_fit.files import write_json
from flops_fit.jobs import launch, trainers
from flops_fit.jobs.mps import CONTROL, mps_runs, sharing_sentence
from flops_fit.jobs.served import OFF, SERVER
from flops_fit.jobs.start import Start
from flops_fit.plan.nvidia_smi import VISIBLE


def program(folder, text):
    (folder / CONTROL).write_text(f"#!/bin/sh\n{text}\n")
    (folder / CONTROL).chmod(0o755)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("read line && test $line = get_server_list && echo 4711", True),
        ("cat > /dev/null", True),  # the daemon answers, and has started no server yet
        ("echo 'Cannot find MPS control daemon process'", False),
        ("exit 1", False),
        (None, False),
    ],
)
def test_mps_is_known_by_the_answer_of_its_daemon(tmp_path, monkeypatch, text, runs):
    if text:
        program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert mps_runs() == runs
    assert ("at the same time through MPS" in sharing_sentence(4)) == runs
    assert ("take turns" in sharing_sentence(4)) == (not runs)


def test_sharing_is_no_part_of_an_identity_and_absent_from_a_spec_without_it():
    plain = recipes.spec(recipes.identity())
    shared = {**plain, "resources": {**plain["resources"], "gpus": 1, "runs_per_gpu": 4}}
    assert Spec.from_dict(shared).hash == Spec.from_dict(plain).hash == plain["hash"]
    assert Spec.from_dict(shared).to_dict()["resources"] == shared["resources"]
    assert "runs_per_gpu" not in Resources(gpus=1).to_dict()
    assert Resources(runs_per_gpu=4).sharing == 1  # on the CPU


class Started(Exception):
    pass


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start the job of a spec whose runs share a GPU, up to its trainer; returns its environment."""
    standard_input = os.dup(0)
    spec = recipes.spec(recipes.identity())
    spec["resources"] |= {"gpus": 1, "runs_per_gpu": 2}
    path = tmp_path / "results" / ".plan" / "specs" / f"{spec['experiment_id']}.json"
    write_json(path, spec)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "0,1")
    seen = {}

    def run(self, start, environment):
        seen.update(environment)
        raise Started

    monkeypatch.setattr("flops_fit.jobs.trainers.PluginTrainer.run", run)

    def start(**options):
        given = {"processes": 1, "threads": 1, "gpus": 1, **options}
        with pytest.raises(Started):
            launch.launch(str(path), str(tmp_path / "out"), str(tmp_path / "results"), **given)
        return seen

    yield start
    os.dup2(standard_input, 0)  # a job makes its locks its standard input
    os.close(standard_input)


def test_a_job_shows_its_gpu_and_says_how_it_is_shared(started, capsys):
    assert started()[VISIBLE] == "0"
    assert "2 runs share a GPU and take turns" in capsys.readouterr().err


def test_on_the_cpu_by_choice_nothing_is_shared(started, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    started()
    assert "share" not in capsys.readouterr().err


def test_a_run_on_several_gpus_cannot_share_them(monkeypatch):
    with pytest.raises(FlopsFitError, match="runs_per_gpu: 2, but a run has 2 GPUs; allowed: 1"):
        launch.check_process_count(2, 2, replace(Resources(), gpus=2, runs_per_gpu=2).sharing)


@pytest.mark.parametrize(("gpus", "shown"), [(0, ""), (1, "0,1")])
def test_a_run_on_the_cpu_sees_no_gpu_whose_random_state_it_would_save(monkeypatch, gpus, shown):
    spec = Spec.from_dict(recipes.spec(recipes.identity()))
    seen = {}
    monkeypatch.setattr(
        trainers, "outlive", lambda line, environment: seen.update(environment) or 0
    )
    monkeypatch.setenv(SERVER, OFF)
    start = Start(spec, "spec", "result", "results", processes=1, threads=1, gpus=gpus)
    trainers.trainer_of(spec).run(start, {VISIBLE: "0,1"})
    assert seen[VISIBLE] == shown
