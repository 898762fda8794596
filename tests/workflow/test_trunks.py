"""A ladder of budgets on shared trunks, run by Snakemake: new runs only, and their extension only."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from project import TABLES, Project
from waiting import PATIENCE, until

BITS = ("loss_curve", "final_loss", "final_loss_se", "tokens_seen", "flops_counted", "steps_done")


def configure(project: Project, *budgets: float, **changes) -> None:
    project.configure(
        budgets=[*budgets],
        sizes={"values": [4, 8]},
        batch={"value": 16},
        schedule={"kind": "trunk", "warmup_tokens": 32},
        limits={"min_steps": 4, "max_epochs": 100},
        **changes,
    )


def records(project: Project, width: int) -> list[dict]:
    """The records of the runs of a width, the shortest first."""
    paths = project.runs.glob(f"net-width{width}-*/record.json")
    return sorted((json.loads(p.read_text()) for p in paths), key=lambda r: r["tokens_seen"])


def branch(record: dict) -> int:
    """The tokens after which the run of ``record`` begins its cooldown."""
    return int(0.8 * record["tokens_seen"]) // 16 * 16


def new_runs(outcome) -> set[str]:
    return {run for rule, run in outcome.jobs if rule == "train_run"}


@pytest.fixture
def ladder(tmp_path) -> Project:
    """A project with two ends on each of two trunks, trained."""
    project = Project.create(tmp_path / "root")
    configure(project, 1e5, 4e5)
    assert len(project.run(*TABLES).trained) == 4
    return project


@pytest.mark.slow
def test_a_ladder_trains_each_prefix_once_and_grows_by_its_extension(ladder):
    for width in (4, 8):
        short, long = records(ladder, width)
        assert (short["after"], short["tokens_here"]) == (None, short["tokens_seen"])
        assert long["after"] == long["started_from"] == short["experiment_id"]
        assert long["tokens_here"] == long["tokens_seen"] - branch(short)
        per_token = long["flops_counted"] / long["tokens_seen"]
        assert long["flops_here"] == pytest.approx(per_token * long["tokens_here"])
    for trunk in (ladder.results / ".trunks").iterdir():
        assert len([*trunk.iterdir()]) == 1  # the last, which a larger budget starts from

    # A larger budget
    configure(ladder, 1e5, 4e5, 8e5)
    assert len(new_runs(ladder.dry_run(*TABLES))) == 2
    done = ladder.run(*TABLES)
    assert (len(done.trained), done.restored) == (2, set())
    for width in (4, 8):
        _, before, longest = records(ladder, width)
        assert longest["after"] == longest["started_from"] == before["experiment_id"]
        assert longest["tokens_here"] == longest["tokens_seen"] - branch(before)
    # One in between, whose state is gone: its trunk from the start, and nobody else again
    configure(ladder, 1e5, 2e5, 4e5, 8e5)
    assert len(new_runs(ladder.dry_run(*TABLES))) == 2
    assert len(ladder.run(*TABLES).trained) == 2
    assert new_runs(ladder.dry_run(*TABLES)) == set()
    # A part of the budgets
    for some in ((1e5, 8e5), (2e5,), (4e5, 8e5)):
        configure(ladder, *some)
        assert new_runs(ladder.dry_run(*TABLES)) == set()


def train(project: Project, record: dict, **variables: str) -> subprocess.Popen:
    """Start the job of the run of ``record`` as its rule does."""
    run = record["experiment_id"]
    line = [sys.executable, "-m", "flops_fit", "train"]
    line += ["--spec", f"results/.plan/specs/{run}.json"]
    line += ["--out", f"results/runs/{run}/result.json", "--after"]
    line += [f"results/runs/{record['after']}/result.json"] if record["after"] else []
    environment = project.environment(**variables)
    return subprocess.Popen(line, cwd=project.work, env=environment, start_new_session=True)


def again(project: Project, record: dict) -> dict:
    """The record of the run of ``record`` after it was trained again."""
    path = project.runs / record["experiment_id"] / "record.json"
    shutil.rmtree(path.parent)
    assert train(project, record).wait(PATIENCE) == 0
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_run_has_the_same_bits_from_a_state_from_nothing_and_after_a_kill(ladder):
    configure(ladder, 1e5, 4e5, 8e5, resources={"checkpoint_minutes": 0})
    ladder.run(*TABLES)
    _, middle, longest = records(ladder, 4)
    (state,) = (ladder.results / ".trunks").glob(f"*/tokens-*{branch(longest)}")
    (state / "pytorch_model.bin").write_bytes(b"")  # all others are gone
    alone = again(ladder, middle)
    assert (alone["started_from"], alone["tokens_here"]) == (None, middle["tokens_seen"])
    assert [alone[key] for key in BITS] == [middle[key] for key in BITS]

    folder = ladder.runs / longest["experiment_id"]
    shutil.rmtree(folder)
    job = train(ladder, longest, SECONDS_PER_ITEM="0.005")
    start = branch(middle) // 16
    late = f"step-{start + 20:08d}"
    until(lambda: max([p.name for p in folder.glob("checkpoints/step-*")], default="") >= late)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (folder / "record.json").exists()
    assert train(ladder, longest).wait(PATIENCE) == 0
    resumed = json.loads((folder / "record.json").read_text())
    assert start + 20 <= resumed["resumed_at_step"] < resumed["steps_done"]
    assert resumed["start_tokens"] == branch(middle)
    assert resumed["started_from"] == middle["experiment_id"]
    assert [resumed[key] for key in BITS] == [longest[key] for key in BITS]
