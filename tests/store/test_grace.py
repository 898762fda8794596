"""A stop signal that nobody looks at ends the process within its grace; one that is seen does not."""

import signal
import subprocess
import sys
import time

import pytest
from waiting import PATIENCE

from flops_fit.store.stopping import RETRY_STATUS

SCRIPT = """
import ctypes, itertools, os, sys, time
from flops_fit.store.stopping import StopRequest

def blocked():  # in C, where Python runs no handler
    libc = ctypes.CDLL(None)
    while True:
        libc.usleep(100_000)
def reads():
    os.read(os.pipe()[0], 1)
def endless():
    for _ in itertools.count():
        pass
def slow_save():
    while not stop:
        time.sleep(0.01)
    time.sleep(3.5)
def child():
    if os.fork() == 0:  # as a loader's worker is: its signals are its own
        signal = __import__("signal")
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    os.wait()
    time.sleep(1.0)

stop = StopRequest(float(sys.argv[2]))
with stop.listening():
    print("ready", flush=True)
    globals()[sys.argv[1]]()
time.sleep(0.5)  # no watch is left behind
print("ended", flush=True)
"""


def start(what: str, grace: float = 0.3) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, what, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("what", ["blocked", "reads", "endless"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_any_wait_is_left_on_a_signal(what, number):
    with start(what) as process:
        time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == RETRY_STATUS
    assert out == ""
    assert f"stopped on {number.name} without saving" in err


def test_who_has_seen_the_signal_may_take_its_time():
    with start("slow_save", grace=3.0) as process:  # a busy machine may look late
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "ended\n")


def test_a_signal_to_a_child_is_none_to_its_parent():
    with start("child") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "ended\n")
