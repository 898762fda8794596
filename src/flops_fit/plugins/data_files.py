"""Identify the data of a sweep, without reading them twice: file hashes and package versions."""

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import read_object, write_object
from flops_fit.plugins.file_state import file_state, is_settled

PACKAGE = "package:"


def find_path(name: str, search_paths: Iterable[str]) -> Path | None:
    """Return ``name`` as an existing path, or None.

    It is looked up in the working directory first, then below each of ``search_paths``.
    """
    for base in ("", *search_paths):
        path = Path(base, name)
        if os.path.exists(path):  # Path.exists raises where a text is too long to be a file name
            return path
    return None


def all_files(folder: Path, without: Collection[str] = ("__pycache__",)) -> list[Path]:
    """Return the files below ``folder``, sorted, but not those in folders with a name in ``without``.

    Links to folders are followed, and a folder that is reached twice is read only once.
    """
    paths: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name not in without)
        paths += [path for name in names if (path := Path(root, name)).is_file()]
    return sorted(paths)


class FileHashes:
    """SHA-256 of files, cached in the JSON file ``cache`` by path and `file_state`."""

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
        """Return the hash of the file ``path``; of a folder, that of the files below it.

        Raises `FlopsFitError` where a file cannot be read.
        """
        if path.is_dir():
            parts = [f"{p.relative_to(path)}={self.of(p)}" for p in all_files(path)]
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
        """Write the cache, if anything was added to it."""
        if self.changed:
            write_object(self.cache, self.known)
            self.changed = False


def source_identity(
    source: str, search_paths: Iterable[str], hashes: FileHashes, key: str = "dataset.sources"
) -> str:
    """Return the identity of one data source: the version of a package, or the hash of a path.

    ``source`` is ``package:NAME`` or a path, which is looked up below ``search_paths`` too;
    ``hashes`` caches the hashes of files. Raises `FlopsFitError` that names the config key ``key``
    where the package or path does not exist.
    """
    if source.startswith(PACKAGE):
        from importlib import metadata  # imports email, which takes as long as everything else

        name = source.removeprefix(PACKAGE)
        try:
            return f"{name} {metadata.version(name)}"
        except (metadata.PackageNotFoundError, ValueError):  # ValueError: the name is empty
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
    """Return the hashes of the existing files that ``arguments``, or lists in them, name.

    Names are looked up below ``search_paths`` too; ``hashes`` caches the hashes. The keys have the
    form ``ARGUMENT=NAME``.
    """
    digests = {}
    for name, value in arguments.items():
        for text in value if isinstance(value, list) else [value]:
            path = find_path(text, search_paths) if isinstance(text, str) and text else None
            if path is not None and path.is_file():
                digests[f"{name}={text}"] = f"sha256 {hashes.of(path)}"
    return digests
