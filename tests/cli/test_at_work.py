"""The line that a verb draws while it is at work."""

import argparse
import io
import sys
import time

import pytest
from waiting import until

from flops_fit.cli import at_work


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "drawn"),
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
)
def test_the_line_is_drawn_again_and_again_on_a_terminal_and_nowhere_else(
    monkeypatch, stream, quiet, drawn
):
    monkeypatch.setattr(at_work, "EVERY", 0.02)
    monkeypatch.setattr(sys, "stderr", stream())
    with at_work.at_work(argparse.Namespace(quiet=quiet), "planning"):
        if drawn:
            until(lambda: sys.stderr.getvalue().count("planning") > 3)
        else:
            time.sleep(0.3)
    assert ("planning" in sys.stderr.getvalue()) == drawn


def test_what_is_counted_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with at_work.at_work(argparse.Namespace(), "simulations", 2) as each:
        each()
        each()
    assert "simulations:   0%" in sys.stderr.getvalue()
