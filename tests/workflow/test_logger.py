"""The line on a sweep's progress, from inside of Snakemake: no process watches, none is left behind."""

import contextlib
import os
import re
import signal
import subprocess

import psutil
import pytest
from project import SWEEP, WORK, Project
from waiting import PATIENCE, until

LINE = re.compile(r"^own: (\d) of 6 runs, .* FLOPs \((\d+)%\)", re.MULTILINE)


def test_a_sweep_says_how_far_it_is_from_its_start_to_its_last_run(trained):
    said = [int(count) for count, _ in LINE.findall(trained[2].output)]
    assert said[0] == 0
    assert said[-1] == 6
    assert len(said) > 2
    assert said == sorted(set(said))


def test_the_brief_log_holds_progress_and_errors_and_nothing_else(project: Project):
    project.configure(
        budgets=[*SWEEP["budgets"], 1.2e5],
        sizes={"per_budget": {**SWEEP["sizes"]["per_budget"], "1.2e5": [12]}},
    )
    brief = ["--until", "collect_runs", "--logger-flops-fit-brief"]
    said = project.run(*brief, succeeds=False, FAILING_WIDTH="12").output
    assert "own: 6 of 7 runs" in said
    assert "1 failed" in said
    assert "this width is not for me" in said  # from the log of the failed run
    for noise in ("Select jobs", "Job stats", "Finished jobid", "Provided cores", "steps ("):
        assert noise not in said


def session(leader: int) -> list[psutil.Process]:
    """The other processes of a session that are still alive."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):  # it has just ended
            own = os.getsid(process.pid) == leader != process.pid
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def line_of(process: psutil.Process) -> str:
    """Its command line; none where it has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture
def running(project: Project):
    """A sweep of which one run is training, in a session of its own.

    The run has many more steps than are read ahead, so that it is still at work when it is stopped.
    """
    project.configure(
        budgets=[*SWEEP["budgets"], 1.2e6],
        sizes={"per_budget": {**SWEEP["sizes"]["per_budget"], "1.2e6": [12]}},
        resources={"checkpoint_minutes": 0},
    )
    with (project.root / "said").open("w") as said:
        snakemake = subprocess.Popen(
            project.command("--until", "collect_runs"),
            cwd=project.root,
            stdout=said,
            stderr=said,
            env=project.environment(SECONDS_PER_ITEM="0.01"),
            start_new_session=True,
        )
    until(lambda: any(project.runs.glob("*width12*/checkpoints")))
    yield snakemake
    with contextlib.suppress(ProcessLookupError):
        os.killpg(snakemake.pid, signal.SIGKILL)


def test_nothing_but_the_run_is_at_work_and_ctrl_c_leaves_nothing_behind(running):
    lines = [line for process in session(running.pid) if (line := line_of(process))]
    assert lines
    assert not [line for line in lines if not WORK.search(line)]
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    assert running.wait(PATIENCE) != 0
    until(lambda: not session(running.pid))


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_ends_after_its_run_has_saved(running, project):
    """All processes get the signal at once, as at SLURM's time limit."""
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(PATIENCE) != 0
    (log,) = project.runs.glob("*width12*/train.log")
    assert "stopped on SIGTERM at step" in log.read_text()
    until(lambda: not session(running.pid))
