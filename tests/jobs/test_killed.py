"""A trainer that is killed outright is reported in words, and nothing of it stays behind."""

import json
import os
import signal
import subprocess

import pytest
from planned_job import Job

from flops_fit.jobs.job import has_lost_another
from flops_fit.jobs.killed import KILLED, LOST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "victim", "reasons"),
    [(1, "0", [KILLED]), (2, "1", [LOST]), (2, "0", [KILLED, LOST])],
)
def test_the_last_line_says_it_and_a_retry_works(tmp_path, monkeypatch, processes, victim, reasons):
    planned = Job(tmp_path, monkeypatch)
    line = planned.command(processes)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK', os.environ['VICTIM']) != os.environ['VICTIM']:\n    os.environ['EVENT'] = ''\n"
    )
    environment = {
        **os.environ,
        "EVENT": "SIGKILL",
        "STEP": "4",
        "VICTIM": victim,
        "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == (128 + signal.SIGKILL if processes == 1 else 1)
    last = done.stderr.strip().splitlines()[-1]
    assert last in [f"flops-fit: {planned.id}: {reason}" for reason in reasons]
    assert json.loads((planned.folder / "failure.json").read_text())["reason"] in reasons
    assert ".at_work" not in planned.left()
    assert planned() == 0
    assert planned.left() == {"record.json", "result.json", ".lock"}


def test_a_backend_that_lost_a_process_is_told_from_an_error_of_the_user(monkeypatch):
    gloo = RuntimeError(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
    )
    assert not has_lost_another(gloo)  # one process has nobody to lose
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert has_lost_another(gloo)
    assert not has_lost_another(ZeroDivisionError("a bug of mine"))
    no_room = "NCCL Error 1: unhandled cuda error\nCuda failure 2 'out of memory'"
    assert not has_lost_another(RuntimeError(no_room))  # this process itself lacks memory
    assert has_lost_another(RuntimeError("NCCL Error 6: remote process exited"))
