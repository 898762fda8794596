"""The child processes of a process, by a word of their command line."""

import contextlib

import psutil


def children_with(word: str, parent: int | None = None) -> list[psutil.Process]:
    """Return the children of ``parent``, or of this process, whose command line has ``word``.

    Children that have ended, or end meanwhile, have no command line and are left out: other tests of
    the same process may leave some behind.
    """
    chosen = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if word in child.cmdline():
                chosen.append(child)
    return chosen
