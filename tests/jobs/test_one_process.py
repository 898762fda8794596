"""A job of one process on the CPU: the command of accelerate launch, done in the process itself."""

import gc
import json
import os
import subprocess
import sys

import pytest

from flops_fit.jobs import imports
from flops_fit.jobs.launcher import launcher
from flops_fit.jobs.one_process import FOR_OPENMP, JOB
from flops_fit.jobs.trainers import ONE_PROCESS
from flops_fit.process import NO_OUTPUT

pytestmark = pytest.mark.seconds
LINE = launcher(1, 1, 0, module=ONE_PROCESS)
AS_STARTED = {"OMP_NUM_THREADS": "1", **FOR_OPENMP}
SHOW = """\
import json, os, sys
from flops_fit.jobs.one_process import launched
command, environment = launched(sys.argv[1:])
changed = [name for name, value in environment.items() if os.environ.get(name) != value]
print(json.dumps([command[1:], sorted(changed)]))
"""
LEAVING = """\
import atexit, gc, sys, threading, time
from flops_fit.process import leave
open_file = open(sys.argv[1], "w")
open_file.write("left open")
gc.freeze()  # as after the imports of a job
atexit.register(lambda: print("called at the end"))
threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
leave(int(sys.argv[2]))
"""


def test_imports_are_done_without_the_collector_which_is_on_afterwards(monkeypatch):
    collecting = []
    monkeypatch.setattr(
        imports.importlib, "import_module", lambda name: collecting.append(gc.isenabled())
    )
    try:
        imports.import_all()
        assert collecting == [False] * len(imports.IMPORTS)
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_accelerate_sets_nothing_that_was_needed_before_it_was_imported():
    arguments = [*LINE[3:], "-m", JOB, "SPEC", "RESULT", "ROOT"]
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments],
        env={**os.environ, **AS_STARTED},
        capture_output=True,
        text=True,
        check=True,
    )
    command, changed = json.loads(done.stdout)
    assert command == ["-m", JOB, "SPEC", "RESULT", "ROOT"]
    assert "ACCELERATE_USE_CPU" in changed
    assert [name for name in changed if not name.startswith("ACCELERATE_")] == []


def test_where_a_library_may_have_read_a_variable_the_program_starts_as_accelerate_starts_it():
    shown = "import os; print(os.environ['KMP_BLOCKTIME'])"
    environment = {**os.environ, **AS_STARTED, "KMP_BLOCKTIME": "7"}
    line = [*LINE, "-m", "timeit", "-n1", "-r1", shown]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == FOR_OPENMP["KMP_BLOCKTIME"]


@pytest.mark.parametrize("status", [0, 75])
def test_a_process_is_left_as_python_ends_it(tmp_path, status):
    file = tmp_path / "file"
    line = [sys.executable, "-c", LEAVING, str(file), str(status)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.split("\n") == ["waited for", "called at the end", ""]
    assert file.read_text() == "left open"


def test_output_that_cannot_be_written_at_the_end_is_a_failure(tmp_path):
    line = [sys.executable, "-c", LEAVING, str(tmp_path / "file"), "0"]
    with open("/dev/full", "w") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(line, stdout=full, env=buffered, check=False)
    assert done.returncode == NO_OUTPUT
