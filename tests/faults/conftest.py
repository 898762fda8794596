"""Runs the campaign's scenarios two side by side, and ends with its tally on the last line."""

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from campaign import Plan, Tally

TALLY = Tally()


@pytest.fixture(scope="session")
def outcomes(request):
    """Futures of the scenarios that the selected tests ask for, in the tests' order."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before the first process forks: bits depend on it
    memory = Path("/dev/shm")  # where flushing to disk costs nothing; kills need no real disk
    folder = Path(tempfile.mkdtemp("-faults", dir=memory if memory.is_dir() else None))
    plan = Plan(folder, TALLY)
    wanted = {
        item.callspec.params["scenario"]: item.module.SCENARIOS
        for item in request.session.items
        if "outcomes" in item.fixturenames
    }
    pool = ThreadPoolExecutor(2)
    try:
        yield {
            name: pool.submit(scenarios[name], plan, folder / name.replace(" ", "-"))
            for name, scenarios in wanted.items()
        }
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(folder)


def pytest_unconfigure(config):
    if TALLY.injected:
        for kind, count in sorted(TALLY.by_kind.items()):
            print(f"{count:4} {kind}")
        print(TALLY.line())
