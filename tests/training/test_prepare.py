"""Preparing data: what a preparation that was killed has left goes at the next start, and no other."""

import os
import signal
import subprocess
import sys

import pytest

from flops_fit.training.prepare import remove_unfinished, unfinished_folder

SCRIPT = """
import sys, time
from pathlib import Path
from flops_fit.training.prepare import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def working(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.glob(".prepare-*"))


def test_what_a_killed_one_left_is_removed_and_what_a_living_one_holds_stays(working, tmp_path):
    folder = tmp_path / "text-1"
    (held,) = left(tmp_path)
    remove_unfinished(folder)
    assert left(tmp_path) == [held]
    assert (tmp_path / held / "made" / "half").read_text() == "half"
    working.send_signal(signal.SIGKILL)
    working.wait()
    remove_unfinished(folder)
    assert left(tmp_path) == []


def test_a_folder_without_a_lock_may_be_a_moment_old(tmp_path):
    (tmp_path / ".prepare-new").mkdir()
    (tmp_path / ".prepare-old").mkdir()
    os.utime(tmp_path / ".prepare-old", (0, 0))
    remove_unfinished(tmp_path / "text-1")
    assert left(tmp_path) == [".prepare-new"]


def test_half_a_manifest_goes_and_an_end_leaves_nothing(tmp_path):
    folder = tmp_path / "text-1"
    folder.mkdir()
    (folder / ".manifest.json.abc").write_text("{")
    with pytest.raises(ZeroDivisionError), unfinished_folder(tmp_path):
        raise ZeroDivisionError
    remove_unfinished(folder)
    assert list(tmp_path.rglob("*")) == [folder]
