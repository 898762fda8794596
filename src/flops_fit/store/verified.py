"""Which records were verified, by size and time, so that nobody reads them again."""

import contextlib
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import verified_file
from flops_fit.files import read_object, write_object
from flops_fit.plugins.file_state import file_state


class Verified:
    """The list of verified files below ``results``, with their states; losing it costs time only."""

    def __init__(self, results: str | Path):
        self.path = verified_file(results)
        self.known: dict[str, Any] = {}  # states by path
        with contextlib.suppress(FlopsFitError):
            self.known = read_object(self.path)
        self._before = dict(self.known)

    def holds(self, path: Path, state: list) -> bool:
        """Whether ``path`` was verified in this ``state`` (see `state_of`)."""
        return self.known.get(str(path)) == state

    def is_copy(self, path: Path, twin: Path, experiment_hash: str) -> bool:
        """Whether ``path`` has the bytes of ``twin``, sound for ``experiment_hash``."""
        state = state_of(twin, experiment_hash)
        with contextlib.suppress(OSError):  # to be named by whoever reads the file
            known = state is not None and self.holds(twin, state)
            return known and path.read_bytes() == twin.read_bytes()
        return False

    def note(self, path: Path, state: list) -> None:
        """``path`` is sound; ``state`` was taken before it was read."""
        self.known[str(path)] = state

    def save(self) -> None:
        """Write the list, if it has changed."""
        if self.known != self._before:
            write_object(self.path, self.known)
            self._before = dict(self.known)


def state_of(path: Path, experiment_hash: str) -> list | None:
    """The state of the file ``path``, and ``experiment_hash``, for which it was verified.

    None where there is no file.
    """
    try:
        return [*file_state(path), experiment_hash]
    except FileNotFoundError:
        return None
