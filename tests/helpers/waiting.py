"""Waiting for events instead of for a time, so that a busy machine changes nothing."""

import time
from collections.abc import Callable

PATIENCE = 600.0  # seconds until something is given up that should come at once


def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds; fails if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s"
        time.sleep(0.02)
