"""The train command stays until the trainers have ended that its launcher left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, until

pytestmark = [
    pytest.mark.seconds,
    pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone"),
]

COMMAND = (
    "import sys; from flops_fit.store.stopping import outlive; sys.exit(outlive(sys.argv[1:], {}))"
)
# A launcher that dies at once when asked to stop, as accelerate's does.
LAUNCHER = """\
import os, subprocess, sys
sys.exit(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).wait())
"""
TRAINER = """\
import os, signal, sys, time
from flops_fit.store.stopping import LAUNCHER, stop_with_parent
def save(number, frame):
    time.sleep(1)
    open("saved", "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
stop_with_parent(int(os.environ[LAUNCHER]))
open("training", "w").close()
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path):
    """A job in training, in a session of its own."""
    line = [sys.executable, "-c", COMMAND, sys.executable, "-c", LAUNCHER, TRAINER]
    with subprocess.Popen(line, cwd=tmp_path, start_new_session=True) as process:
        until(lambda: (tmp_path / "training").exists() or process.poll() is not None)
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def launcher_of(job: subprocess.Popen) -> int:
    return int(Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_command_is_passed_on_and_the_saving_waited_for(job, tmp_path, number):
    job.send_signal(number)
    assert job.wait(PATIENCE) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


def test_a_signal_to_the_whole_job_ends_it_after_the_saving(job, tmp_path):
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(PATIENCE) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


def test_a_launcher_that_is_killed_is_told_of_and_its_trainer_waited_for(job, tmp_path):
    os.kill(launcher_of(job), signal.SIGKILL)
    assert job.wait(PATIENCE) == 128 + signal.SIGKILL
    assert (tmp_path / "saved").exists()


def test_a_command_that_is_killed_takes_its_launcher_with_it_and_the_trainer_saves(job, tmp_path):
    job.kill()
    until((tmp_path / "saved").exists)


def test_a_request_that_comes_while_the_launcher_starts_is_not_lost():
    code = (
        "import os, signal, sys\nfrom flops_fit.store import stopping\n"
        "def struck(option, value):\n"
        "    if option == stopping._PR_SET_PDEATHSIG:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "stopping._prctl = struck\n"
        "sys.exit(stopping.outlive(sys.argv[1:], {}))"
    )
    line = [sys.executable, "-c", code, sys.executable, "-c", "pass"]
    assert subprocess.run(line, check=False).returncode == 128 + signal.SIGTERM


def test_the_status_of_a_launcher_is_the_status_of_the_command():
    line = [sys.executable, "-c", COMMAND, sys.executable, "-c"]
    assert subprocess.run([*line, "raise SystemExit(2)"], check=False).returncode == 2
    assert subprocess.run([*line, "pass"], check=False).returncode == 0
