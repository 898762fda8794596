"""A job of a cluster at its time limit: when it goes back into the queue, and when it only ends.

SLURM's two commands are scripts here, which answer as SLURM does and note that they were called;
tests/slurm has the real ones.
"""

import os
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
from planned_job import Job

from flops_fit.jobs.time_limit import requeue_at_limit
from flops_fit.store.stopping import RETRY_STATUS


class Cluster:
    """Scripts that stand for SLURM in ``folder``; the job has ``seconds`` left and is in ``state``."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.calls = folder, folder / "calls"
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("SLURM_JOB_ID", "17")

    def answers(self, seconds=100, state="RUNNING", requeue="exit 0"):
        end = datetime.now() + timedelta(seconds=seconds)
        self._script("squeue", f"echo '{state} {end:%Y-%m-%dT%H:%M:%S}'")
        self._script("scontrol", f'echo "$@" >> {self.calls}; {requeue}')

    def _script(self, name, line):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    @property
    def requeued(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    return Cluster(tmp_path / "bin", monkeypatch)


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/state").touch()
    return [tmp_path / "checkpoints", tmp_path / "missing"]


def test_a_saved_run_goes_back_into_the_queue_at_its_limit(cluster, saved, capsys):
    cluster.answers()
    requeue_at_limit(saved, time.time() - 60)
    assert cluster.requeued == ["requeue 17"]
    assert "continues there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answers",
    [{"seconds": 3600}, {"state": "COMPLETING"}, {"state": "PREEMPTED"}],
    ids=["long before the limit", "cancelled", "preempted"],
)
def test_a_run_that_ends_for_another_reason_is_left_to_a_retry(cluster, saved, answers):
    cluster.answers(**answers)
    requeue_at_limit(saved, time.time() - 60)
    assert cluster.requeued == []


def test_a_run_that_saved_nothing_new_is_left_to_a_retry(cluster, saved):
    cluster.answers()
    requeue_at_limit(saved, time.time() + 60)
    assert cluster.requeued == []


def test_a_cluster_that_refuses_leaves_the_run_to_a_retry_and_says_so(cluster, saved, capsys):
    cluster.answers(requeue="echo 'Requested operation is disabled' >&2; exit 1")
    requeue_at_limit(saved, time.time() - 60)
    assert (
        "scontrol does not work here (Requested operation is disabled)" in capsys.readouterr().err
    )


def test_a_run_with_an_end_that_slurm_does_not_know_is_left_to_a_retry(cluster, saved):
    cluster.answers()
    cluster._script("squeue", "echo 'RUNNING N/A'")
    requeue_at_limit(saved, time.time() - 60)
    assert cluster.requeued == []


@pytest.mark.seconds
@pytest.mark.skipif(sys.platform != "linux", reason="jobs outlive their launchers on Linux alone")
def test_only_a_job_that_asked_for_it_goes_back(cluster, tmp_path, monkeypatch):
    job = Job(tmp_path, monkeypatch)
    cluster.answers()
    stop = {**os.environ, "EVENT": "SIGTERM", "STEP": "4"}
    for asked, requeued in (("0", []), ("1", ["requeue 17"])):
        line = [*job.command(1), "--requeue", asked]
        stopped = subprocess.run(line, env=stop, capture_output=True, text=True, check=False)
        assert stopped.returncode == RETRY_STATUS, stopped.stderr
        assert cluster.requeued == requeued
