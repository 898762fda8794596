"""The holder: one trainer at a time, which hears of its launcher's death, in any language."""

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, until

from flops_fit.jobs import hold
from flops_fit.store.locks import lock_if_free, run_lock
from flops_fit.store.stopping import LAUNCHER, RETRY_STATUS

HOLD = [sys.executable, "-I", "-S", hold.__file__]
SHELL = 'trap "touch saved; exit 3" TERM; touch started; while :; do sleep 0.05; done'


@contextlib.contextmanager
def held(folder: Path, *program: str, **options):
    line = [*HOLD, str(folder / ".lock"), *program]
    with subprocess.Popen(
        line, cwd=folder, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_lock_is_kept_by_the_program_and_freed_by_its_end(tmp_path):
    with held(tmp_path, "sh", "-c", SHELL) as process:
        until((tmp_path / "started").exists)
        assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "sh"
        with lock_if_free(tmp_path) as free:
            assert not free
        process.terminate()
        assert process.wait(PATIENCE) == 3
    with lock_if_free(tmp_path) as free:
        assert free


def test_a_second_holder_waits_and_says_so(tmp_path):
    with held(tmp_path, "sh", "-c", SHELL) as first:
        until((tmp_path / "started").exists)
        with held(tmp_path, "touch", "second") as second:
            assert "another trainer is at work; waiting" in second.stderr.readline()
            assert not (tmp_path / "second").exists()
            first.terminate()
            assert second.wait(PATIENCE) == 0
        assert (tmp_path / "second").exists()


def test_a_trainer_of_ours_keeps_it_out_too(tmp_path):
    with run_lock(tmp_path), held(tmp_path, "touch", "second") as process:
        assert "another trainer is at work" in process.stderr.readline()
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_other_ranks_take_no_lock(tmp_path):
    with run_lock(tmp_path), held(tmp_path, "true", env={**os.environ, "RANK": "1"}) as process:
        assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is told on Linux alone")
def test_a_launcher_that_is_killed_is_told_to_the_program(tmp_path):
    code = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    line = [*HOLD, str(tmp_path / ".lock"), "sh", "-c", SHELL]
    with subprocess.Popen([sys.executable, "-c", code, *line], cwd=tmp_path) as launcher:
        until((tmp_path / "started").exists)
        launcher.kill()
    until((tmp_path / "saved").exists)
    descriptor = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # returns once the orphan has ended
    os.close(descriptor)


def test_a_launcher_that_is_gone_before_starts_nothing(tmp_path):
    with held(tmp_path, "touch", "started", env={**os.environ, LAUNCHER: "1"}) as process:
        assert process.wait(PATIENCE) == RETRY_STATUS
        assert "the launcher (process 1) is gone" in process.stderr.read()
    assert not (tmp_path / "started").exists()


def test_what_is_held_may_be_the_launcher_itself(tmp_path):
    line = f'{LAUNCHER}=$$ exec "$@"'
    program = [*HOLD, str(tmp_path / ".lock"), "true"]
    assert subprocess.run(["sh", "-c", line, "sh", *program], check=False).returncode == 0


def test_a_program_that_is_not_there_is_named(tmp_path):
    with held(tmp_path, "no-such-program") as process:
        assert process.wait(PATIENCE) == 1
        said = process.stderr.read()
    assert said == "flops-fit: no-such-program: cannot be started (No such file or directory)\n"


def test_the_program_is_ended_by_a_closed_pipe_as_usual(tmp_path):
    line = " ".join([*HOLD, str(tmp_path / ".lock"), "yes"])
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.stdout == f"y\n{128 + signal.SIGPIPE}\n"
    assert done.stderr == ""


def test_a_start_takes_little_time_of_the_processor(tmp_path):
    def cpu(line: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    lines = {
        "holder": [*HOLD, str(tmp_path / ".lock"), "true"],
        "import": [sys.executable, "-c", "import flops_fit.run"],
        "python": [sys.executable, "-c", "pass"],
    }
    least = {name: min(cpu(line) for _ in range(10)) for name, line in lines.items()}
    assert least["holder"] < 1.5 * least["python"]
    assert least["holder"] + least["import"] - least["python"] < 4 * least["python"]
