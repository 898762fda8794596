"""A line on the terminal while a verb is at work, so that nobody waits in silence."""

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module

EVERY = 1.0  # seconds


@contextlib.contextmanager
def at_work(
    args: argparse.Namespace, what: str, total: int | None = None
) -> Iterator[Callable[[], object]]:
    """Show on standard error that the block is at work on ``what``, and for how long already.

    The block gets a function that counts one more of ``total`` on a bar; None: there is nothing to
    count. The line is drawn if standard error is a terminal and ``args`` do not ask for quiet. It is
    drawn again every second, whatever the block does, and is gone at its end.
    """
    if not sys.stderr.isatty() or getattr(args, "quiet", False):
        yield lambda: None
        return
    from tqdm import tqdm

    form = None if total else "{desc} {elapsed}"
    ended = threading.Event()
    with tqdm(total=total, desc=what, file=sys.stderr, leave=False, bar_format=form) as bar:
        ticking = threading.Thread(target=_draw_until, args=(bar.refresh, ended), daemon=True)
        ticking.start()
        try:
            yield bar.update
        finally:
            ended.set()
            ticking.join()


def _draw_until(draw: Callable[[], object], ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        draw()


def load(args: argparse.Namespace, *modules: str) -> None:
    """Import ``modules``, which may take a second or two, and show with ``args`` that this goes on."""
    with at_work(args, "loading"):
        for module in modules:
            import_module(module)
