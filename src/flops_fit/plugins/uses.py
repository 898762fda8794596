"""What plug-ins use beside their own package: modules, files and distributions that decide a result.

The fingerprint of a plug-in's source covers its module and its package. Research code reaches further:
a sibling package, a module found at run time, a file that the model opens, an installed distribution.
What the import statements say is read without running anything (`static_uses`); what a trial run of
the plug-ins was seen to import and open is added to it (`flops_fit.plugins.watch`). Both are known by
names relative to the search paths, so that a folder may be moved, and are hashed by content: code by
its syntax tree, other files by all their bytes.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.errors import FlopsFitError
from flops_fit.plugins.code import (
    EMPTY,
    Module,
    absolute_base,
    find_module,
    imports_of,
    source_files,
    tree_digest,
)
from flops_fit.plugins.data_files import FileHashes, find_path
from flops_fit.plugins.origin import is_core, is_installed

START_PATH = tuple(sys.path)  # plug-ins may add to it; the walk must not depend on that


@dataclass(frozen=True)
class Uses:
    """Name -> path of what plug-ins use; ``packages`` names the distributions that provide them."""

    code: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @staticmethod
    def one(kind: str, name: str, path: str) -> "Uses":
        """A single use; ``kind`` is code or files."""
        return Uses(code={name: path}) if kind == "code" else Uses(files={name: path})

    def __or__(self, other: "Uses") -> "Uses":
        packages = tuple(sorted({*self.packages, *other.packages}))
        return Uses({**self.code, **other.code}, {**self.files, **other.files}, packages)

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "files": self.files, "packages": list(self.packages)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Uses":
        return Uses(dict(value["code"]), dict(value["files"]), tuple(value["packages"]))


def uses_identity(uses: Uses, hashes: FileHashes) -> dict[str, dict[str, str]]:
    """The part of an identity that ``uses`` stand for: digests by kind and name, nothing where empty.

    A file or package that is gone has the digest ``missing``: it makes another experiment.
    """
    code = {name: _code_digest(Path(path)) for name, path in sorted(uses.code.items())}
    found = {
        "code": {name: digest for name, digest in code.items() if digest != EMPTY},
        "files": {name: _file_digest(Path(p), hashes) for name, p in sorted(uses.files.items())},
        "packages": {name: package_identity(name) for name in uses.packages},
    }
    return {kind: part for kind, part in found.items() if part}


def _code_digest(path: Path) -> str:
    if not path.is_file():
        return "missing"
    return tree_digest(path)


def _file_digest(path: Path, hashes: FileHashes) -> str:
    if not path.exists():
        return "missing"
    return f"sha256 {folder_digest(path, hashes) if path.is_dir() else hashes.of(path)}"


def folder_digest(folder: Path, hashes: FileHashes) -> str:
    """SHA-256 of the names and contents below a folder; Python files count by their syntax tree."""
    parts = []
    for path in files_below(folder):
        digest = tree_digest(path) if path.suffix == ".py" else hashes.of(path)
        parts.append(f"{path.relative_to(folder).as_posix()}={digest}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """The files below a folder, links followed and loops cut, without caches and version control."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(d for d in folders if d not in ("__pycache__", ".git", ".snakemake"))
        found += [Path(root, name) for name in names if not name.endswith(".pyc")]
    return sorted(path for path in found if path.is_file())


def package_identity(name: str) -> str:
    """The version of a distribution; of one installed from a folder or a repository, its sources.

    Such a one is often installed again without another version. Local labels (``+cpu``) are left
    out, as they differ between machines.
    """
    from importlib import metadata  # slow to import, and seldom needed

    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return "missing"
    version = str(distribution.version).partition("+")[0]
    if distribution.read_text("direct_url.json") is None:
        return version
    record = distribution.read_text("RECORD") or ""
    lines = sorted(line.rpartition(",")[0] for line in record.splitlines() if ".py," in line)
    return f"{version} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def static_uses(references: Iterable[str], search_paths: Iterable[str]) -> Uses:
    """What the import statements of the plug-ins behind ``references`` lead to, nothing being run.

    Followed is every ``import`` anywhere in a file, wherever the module lies that is not installed,
    Python's own or ours. Every package on the way counts with its ``__init__.py``.
    """
    walk = _Walk([Path(path).absolute() for path in search_paths])
    for reference in references:
        walk.add(reference.partition(":")[0])
    return Uses(code=walk.code)


class _Walk:
    def __init__(self, search_paths: list[Path]):
        self.roots = roots_of(search_paths)
        self.tops: dict[str, Module | None] = {}
        self.code: dict[str, str] = {}

    def add(self, module_name: str) -> None:
        """A module and all that it leads to."""
        pending = [*self._on_the_way(module_name)]
        while pending:
            module = pending.pop()
            file = module.file
            if file is None or is_core(file) or is_installed(file):
                continue
            name = name_of(file, self.roots)
            if name in self.code:
                continue
            self.code[name] = str(file)
            for level, base, names in imports_of(file):
                pending += self._imported(module, level, base, names)

    def _imported(
        self, module: Module, level: int, base: str | None, names: Iterable[str]
    ) -> list[Module]:
        base = absolute_base(module, level, base)
        if not base:
            return []
        found = list(self._on_the_way(base))
        members = (self._find(f"{base}.{name}") for name in names)
        return found + [member for member in members if member is not None]

    def _on_the_way(self, name: str) -> Iterator[Module]:
        """The module of this name and the packages that Python enters before it."""
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            module = self._find(".".join(parts[:depth]))
            if module is not None:
                yield module

    def _find(self, name: str) -> Module | None:
        top = name.partition(".")[0]
        if top not in self.tops:
            self.tops[top] = find_module(top, self.roots)
        known = self.tops[top]
        if known is None or (known.file is not None and is_installed(known.file)):
            return None  # nobody needs to look into it
        return find_module(name, self.roots, known)


def roots_of(search_paths: Iterable[str | Path]) -> list[Path]:
    """Where modules are looked for, and what names are relative to."""
    return [Path(path).absolute() for path in (*search_paths, *START_PATH)]


def installed_uses(references: Iterable[str], search_paths: Iterable[str]) -> Uses:
    """The distributions that bring those plug-ins that are installed; slow (0.1 s).

    Of one that no distribution owns, such as a folder copied by hand, the sources count.
    """
    paths = tuple(search_paths)
    roots = roots_of(paths)
    packages: set[str] = set()
    code: dict[str, str] = {}
    for reference in references:
        top = reference.partition(":")[0].partition(".")[0]
        module = find_module(top, roots)
        if module is None or module.file is None or not is_installed(module.file):
            continue
        if owners := _owners(top):
            packages |= owners
        elif top not in sys.stdlib_module_names:
            files = source_files(reference, paths, installed=True)
            code |= {name_of(file, roots): str(file) for file in files}
    return Uses(code=code, packages=tuple(sorted(packages)))


def _owners(top: str) -> set[str]:
    from importlib import metadata  # slow to import, and seldom needed

    owners = {*metadata.packages_distributions().get(top, ())}
    if not owners:  # one that lists no files is known by its name alone
        with contextlib.suppress(metadata.PackageNotFoundError):
            owners = {str(metadata.distribution(top).name)}
    return owners


def name_of(path: Path, roots: Iterable[Path]) -> str:
    """A path relative to the first root that holds it, else its last part: equal on every machine."""
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def named_files(arguments: Any, search_paths: Iterable[str]) -> dict[str, str]:
    """Files that arguments name at any depth: name as given -> path.

    Folders are not among them: many words are names of folders too, so that these count only where
    the plug-ins were seen to look into them.
    """
    return {text: str(path) for text, path in _paths_in(arguments, search_paths) if path.is_file()}


def named_folders(arguments: Any, search_paths: Iterable[str]) -> dict[str, str]:
    """Folders that arguments name at any depth, but none that holds a search path."""
    roots = [Path(path).resolve() for path in search_paths]
    return {
        text: str(path)
        for text, path in _paths_in(arguments, search_paths)
        if path.is_dir() and not any(root.is_relative_to(path.resolve()) for root in roots)
    }


def _paths_in(value: Any, search_paths: Iterable[str]) -> Iterator[tuple[str, Path]]:
    paths = tuple(search_paths)
    if isinstance(value, Mapping):
        for child in value.values():
            yield from _paths_in(child, paths)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _paths_in(child, paths)
    elif isinstance(value, str) and value:
        path = find_path(value, paths)
        if path is not None:
            yield value, path


def changed_uses(
    planned: Mapping[str, Mapping[str, str]], uses: Uses, hashes: FileHashes
) -> list[str]:
    """Names of what is no longer as an identity's part ``uses`` has it."""
    try:
        now = uses_identity(uses, hashes)
    except FlopsFitError as error:  # a module that does not parse any more
        return [str(error)]
    kinds = {*planned, *now}
    return sorted(
        name
        for kind in kinds
        for name in {*planned.get(kind, {}), *now.get(kind, {})}
        if planned.get(kind, {}).get(name) != now.get(kind, {}).get(name)
    )
