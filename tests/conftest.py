"""Shared by all tests: one thread for torch, before anything imports it, and the order of files.

The tests' models are small; a second thread only waits for the first, and for other processes. Examples
of Hypothesis are the same at each run, and may take as long as a busy machine needs.
"""

import gc
import os
import random
import sys

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # while tests are collected: it would look through all that they import, again and again
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Whatever tests came before: restoring a run seeds torch anew, from the system."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items):
    """What takes longest starts first, so that the last worker does not end long after the others.

    First the table of what reruns, which trains the project of all tests of the workflow; beside it
    what needs no such project; then the rest of the workflow.
    """
    for item in items:
        if item.path.parent.name == "workflow":
            item.add_marker("seconds")

    def turn(item) -> int:
        if item.get_closest_marker("staleness"):
            return 0
        if item.path.parent.name == "workflow":
            return 2
        return 1 if item.get_closest_marker("seconds") else 3

    items.sort(key=turn)


def pytest_collection_finish():
    """What was imported is never looked through again."""
    gc.freeze()
    gc.enable()
