"""What the data of a sweep are, without reading them twice: hashes of files, versions of packages."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_object, write_object
from flops_fit.plugins.file_state import file_state, is_settled

PACKAGE = "package:"


def find_path(name: str, search_paths: Iterable[str]) -> Path | None:
    """``name`` as an existing path: itself, else below the first of ``search_paths`` that has it."""
    for base in ("", *search_paths):
        path = Path(base, name)
        if os.path.exists(path):  # unlike Path.exists, also where a text is too long for a name
            return path
    return None


class FileHashes:
    """SHA-256 of files, remembered in one JSON file by path and state (see `file_state`)."""

    def __init__(self, cache: str | Path):
        self.cache = Path(cache)
        self.known = self._load()
        self.changed = False

    def _load(self) -> dict:
        try:
            return read_object(self.cache)
        except FlopsFitError:  # none yet, broken, or of a newer version: it only saves time
            return {}

    def of(self, path: Path) -> str:
        """The hash of a file, or of the names and hashes of all files below a folder."""
        if path.is_dir():
            files = sorted(
                p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts
            )
            parts = [f"{p.relative_to(path)}={self.of(p)}" for p in files]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        try:
            key, state = str(path.resolve()), file_state(path)
            known = self.known.get(key)
            if isinstance(known, list) and known[:-1] == state:
                return known[-1]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
        if is_settled(state):
            self.known[key] = [*state, digest]
            self.changed = True
        return digest

    def save(self) -> None:
        if self.changed:
            write_object(self.cache, self.known)
            self.changed = False


def source_identity(
    source: str, search_paths: Iterable[str], hashes: FileHashes, key: str = "dataset.sources"
) -> str:
    """Identity of one data source: the version of ``package:NAME``, else the hash of a path.

    Raises `FlopsFitError` naming ``key`` when the package or path does not exist.
    """
    if source.startswith(PACKAGE):
        from importlib import metadata  # brings e-mail: as long to import as all of the rest

        name = source.removeprefix(PACKAGE)
        try:
            return f"{name} {metadata.version(name)}"
        except (metadata.PackageNotFoundError, ValueError):  # ValueError: no name at all
            raise FlopsFitError(
                f"{key}: package {name!r} is not installed; install it (pip install {name}) or name "
                "files instead"
            ) from None
    path = find_path(source, search_paths) if source else None
    if path is None:
        raise FlopsFitError(
            f"{key}: {source!r} does not exist below {os.getcwd()}; allowed: a file, a folder, or "
            "package:NAME"
        )
    return f"sha256 {hashes.of(path)}"


def file_arguments(
    arguments: dict, search_paths: Iterable[str], hashes: FileHashes
) -> dict[str, str]:
    """Hashes of the arguments, or members of list arguments, that name existing files."""
    found = {}
    for name, value in arguments.items():
        for text in value if isinstance(value, list) else [value]:
            path = find_path(text, search_paths) if isinstance(text, str) and text else None
            if path is not None and path.is_file():
                found[f"{name}={text}"] = f"sha256 {hashes.of(path)}"
    return found
