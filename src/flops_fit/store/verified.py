"""Which records were found sound, by size and time, so that nobody reads them again."""

import contextlib
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import verified_file
from flops_fit.files import read_json, write_json
from flops_fit.plugins.file_state import file_state


class Verified:
    """A list of files with the states in which they were found sound; losing it costs time only."""

    def __init__(self, results: str | Path):
        self.path = verified_file(results)
        self.known = {}
        with contextlib.suppress(FlopsFitError):
            self.known = read_json(self.path)
        self._before = dict(self.known)

    def holds(self, path: Path, state: list) -> bool:
        return self.known.get(str(path)) == state

    def is_copy(self, path: Path, twin: Path, identity_hash: str) -> bool:
        """Whether ``path`` has the bytes of ``twin``, which is known to be sound."""
        state = state_of(twin, identity_hash)
        with contextlib.suppress(OSError):  # to be named by whoever reads the file
            known = state is not None and self.holds(twin, state)
            return known and path.read_bytes() == twin.read_bytes()
        return False

    def note(self, path: Path, state: list) -> None:
        """``path`` is sound; ``state`` was taken before it was read."""
        self.known[str(path)] = state

    def save(self) -> None:
        if self.known != self._before:
            write_json(self.path, self.known)
            self._before = dict(self.known)


def state_of(path: Path, identity_hash: str) -> list | None:
    """A file's state, and the experiment that it was held against; None without a file."""
    try:
        return [*file_state(path), identity_hash]
    except FileNotFoundError:
        return None
