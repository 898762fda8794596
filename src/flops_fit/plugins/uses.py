"""What plug-ins use outside of their package: modules, files and distributions that decide a result.

The fingerprint of a plug-in's source covers its module and its package. Research code uses more: a
neighbouring package, a module that is imported at run time, a file that the model opens, an
installed distribution. Import statements are read without running anything (`static_uses`), and
what a trial run of the plug-ins imports and opens is added (`flops_fit.plugins.watch`). Modules and
files are named relative to the search paths, so that a folder can be moved, and hashed by content:
code by its syntax tree, other files by all their bytes.
"""

import contextlib
import hashlib
import re
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
from flops_fit.plugins.data_files import FileHashes, all_files, find_path
from flops_fit.plugins.origin import INSTALLED, UNVERSIONED, copied_packages, is_core, is_installed

COMPILED_FOR = re.compile(r"\.(?:cpython|abi3|pypy)[^/]*\.so$")
START_PATH = tuple(sys.path)  # plug-ins may change sys.path; the search must not depend on that


@dataclass(frozen=True)
class Uses:
    """What plug-ins use: paths of ``code`` and ``files`` by name, and names of ``packages``."""

    code: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @staticmethod
    def one(kind: str, name: str, path: str) -> "Uses":
        """Return a single use of ``kind`` code or files, with its ``name`` and ``path``."""
        return Uses(code={name: path}) if kind == "code" else Uses(files={name: path})

    def __or__(self, other: "Uses") -> "Uses":
        packages = tuple(sorted({*self.packages, *other.packages}))
        return Uses({**self.code, **other.code}, {**self.files, **other.files}, packages)

    def to_dict(self) -> dict[str, Any]:
        """Return the uses as plain data for a JSON file."""
        return {"code": self.code, "files": self.files, "packages": list(self.packages)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Uses":
        """Return the uses that `to_dict` wrote as ``value``."""
        return Uses(dict(value["code"]), dict(value["files"]), tuple(value["packages"]))


def uses_identity(uses: Uses, hashes: FileHashes) -> dict[str, dict[str, str]]:
    """Return the part of an identity that describes ``uses``: digests by kind and name.

    Empty kinds are left out. ``hashes`` caches the hashes of files. A file or package that no
    longer exists has the digest ``missing``, so that the experiment becomes another one. Raises
    `FlopsFitError` where a module does not parse.
    """
    code = {name: _code_digest(Path(path)) for name, path in sorted(uses.code.items())}
    identity = {
        "code": {name: digest for name, digest in code.items() if digest != EMPTY},
        "files": {name: _file_digest(Path(p), hashes) for name, p in sorted(uses.files.items())},
        "packages": {name: package_identity(name) for name in uses.packages},
    }
    return {kind: part for kind, part in identity.items() if part}


def _code_digest(path: Path) -> str:
    if not path.is_file():
        return "missing"
    return tree_digest(path)


def _file_digest(path: Path, hashes: FileHashes) -> str:
    if not path.exists():
        return "missing"
    return f"sha256 {folder_digest(path, hashes) if path.is_dir() else hashes.of(path)}"


def folder_digest(folder: Path, hashes: FileHashes) -> str:
    """Return the SHA-256 of the names and contents of all files below ``folder``.

    A Python file counts with its syntax tree; ``hashes`` caches the hashes of the others.
    """
    parts = []
    for path in files_below(folder):
        digest = tree_digest(path) if path.suffix == ".py" else hashes.of(path)
        parts.append(f"{path.relative_to(folder).as_posix()}={digest}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return the files below ``folder``, sorted, without caches and version control.

    Links are followed, and each folder is read only once.
    """
    files = all_files(folder, ("__pycache__", ".git", ".snakemake"))
    return [path for path in files if path.suffix != ".pyc"]


def package_identity(name: str) -> str:
    """Return the version of the distribution ``name``, or ``missing``.

    For one that was installed from a folder or a repository a hash of its sources is added, because
    its code often changes without a new version, and one of its other files, if it has any. Local
    labels (``+cpu``) are left out, because they differ between machines.
    """
    from importlib import metadata  # slow to import, and rarely needed

    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return "missing"
    version = str(distribution.version).partition("+")[0]
    if distribution.read_text("direct_url.json") is None:
        return version
    record = (distribution.read_text("RECORD") or "").splitlines()
    sources = [line for line in record if ".py," in line]
    others = [line for line in record if line not in sources and not _is_made_by_pip(line)]
    return " ".join([version, *map(_lines_digest, [sources, *([others] if others else [])])])


def _lines_digest(lines: Iterable[str]) -> str:
    """Return the hash of ``lines`` of a RECORD, which hold names and hashes of files."""
    kept = sorted(line.rpartition(",")[0] for line in lines)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _is_made_by_pip(line: str) -> bool:
    """Whether a ``line`` of a RECORD names no content of the package, but what its installation made."""
    name = line.split(",")[0]
    made = (".pyc", ".pth")
    return ".dist-info/" in name or name.startswith("..") or name.endswith(made)


def static_uses(references: Iterable[str], search_paths: Iterable[str]) -> Uses:
    """Return the modules that the plug-ins behind ``references`` import, without running anything.

    Every import statement in a file is followed, except into installed packages, the standard
    library and flops-fit itself. Modules are looked up below ``search_paths``, then on Python's
    path. Each package above an imported module counts with its ``__init__.py``.
    """
    walk = _Walk([Path(path).absolute() for path in search_paths])
    for reference in references:
        walk.add(reference.partition(":")[0])
    return Uses(code=walk.code)


def script_uses(script: Path, search_paths: Iterable[str]) -> Uses:
    """Return the code of a ``script``: itself and the modules that it imports, as in `static_uses`.

    Python looks for modules in the script's folder first; names are relative to ``search_paths``.
    """
    walk = _Walk([Path(path).absolute() for path in search_paths], script.absolute().parent)
    walk.follow([Module(script.stem, script.absolute())])
    return Uses(code=walk.code)


class _Walk:
    def __init__(self, search_paths: list[Path], first: Path | None = None):
        self.naming = [*roots_of(search_paths), *filter(None, [first])]
        self.roots = [*filter(None, [first]), *roots_of(search_paths)]
        self.tops: dict[str, Module | None] = {}
        self.code: dict[str, str] = {}

    def add(self, module_name: str) -> None:
        """Add a module and everything that it imports, directly or not."""
        self.follow([*self._with_parents(module_name)])

    def follow(self, pending: list[Module]) -> None:
        """Add the modules of ``pending`` and everything that they import."""
        while pending:
            module = pending.pop()
            file = module.file
            if file is None or is_core(file) or is_installed(file):
                continue
            name = name_of(file, self.naming)
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
        members = (self._find(f"{base}.{name}") for name in names)
        return [*self._with_parents(base), *(member for member in members if member is not None)]

    def _with_parents(self, name: str) -> Iterator[Module]:
        """Yield the module with this name and the packages that Python imports before it."""
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
            return None  # installed code is not followed
        return find_module(name, self.roots, known)


def roots_of(search_paths: Iterable[str | Path]) -> list[Path]:
    """Return the absolute folders in which modules are looked up, ``search_paths`` first.

    Names of modules and files are relative to them.
    """
    return [Path(path).absolute() for path in (*search_paths, *START_PATH)]


def installed_uses(references: Iterable[str], search_paths: Iterable[str]) -> Uses:
    """Return the distributions that provide the installed ones among the plug-ins ``references``.

    Plug-ins are looked up below ``search_paths``, then on Python's path. The sources count for a
    plug-in that belongs to no distribution, such as a folder copied by hand. This takes 0.1 s.
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
        if owners := owners_of(top):
            packages |= owners
        elif top not in sys.stdlib_module_names:
            files = source_files(reference, paths, installed=True)
            code |= {name_of(file, roots): str(file) for file in files}
    return Uses(code=code, packages=tuple(sorted(packages)))


def copied_uses(files: Iterable[str]) -> Uses:
    """Return the distributions with modules in ``files`` that came from a folder or a repository.

    They are the user's own helpers, or libraries between two versions, so their code counts.
    """
    tops: set[str] = set()
    for file in files:
        parts = Path(file).parts
        at = next((at for at, part in enumerate(parts) if part in INSTALLED), None)
        if at is not None and not is_core(Path(file)):
            top = Path(parts[at + 1]).stem
            if top not in UNVERSIONED and top in copied_packages(Path(*parts[: at + 1])):
                tops.add(top)
    return Uses(packages=tuple(sorted(name for top in tops for name in owners_of(top))))


def owners_of(top: str) -> set[str]:
    """Return the names of the distributions that provide the installed module ``top``."""
    from importlib import metadata  # slow to import, and rarely needed

    owners = {*metadata.packages_distributions().get(top, ())}
    if not owners:  # a distribution that lists no files can only be found by its name
        with contextlib.suppress(metadata.PackageNotFoundError):
            owners = {str(metadata.distribution(top).name)}
    return owners


def name_of(path: Path, roots: Iterable[Path]) -> str:
    """Return ``path`` relative to the first of ``roots`` above it, or only its last part.

    The name is the same on every machine.
    """
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def names_of(paths: Iterable[Path], roots: Iterable[Path]) -> dict[Path, str]:
    """Return a name for each of ``paths``, as `name_of` gives it with these ``roots``.

    Where several files would have one name, as files of different folders outside of the roots, each
    has as many of its folders before it as make the names differ. The name of a compiled library
    is without the version of Python.
    """
    roots = list(roots)
    named = {path: COMPILED_FOR.sub(".so", name_of(path, roots)) for path in paths}
    sharing: dict[str, list[Path]] = {}
    for path, name in named.items():
        sharing.setdefault(name, []).append(path)
    for group in sharing.values():
        depth = 1
        while len({path.parts[-depth:] for path in group}) < len(group):
            depth += 1
        if depth > 1:
            named |= {path: "/".join(path.parts[-depth:]).lstrip("/") for path in group}
    return named


def named_files(arguments: Any, search_paths: Iterable[str]) -> dict[str, str]:
    """Return the files that ``arguments`` name at any depth, as paths by the name as given.

    Names are looked up below ``search_paths`` too. Folders are not included: an ordinary word may
    be the name of a folder, so a folder counts only where a trial run looks into it.
    """
    return {text: str(path) for text, path in _paths_in(arguments, search_paths) if path.is_file()}


def named_folders(arguments: Any, search_paths: Iterable[str]) -> dict[str, str]:
    """Return the folders that ``arguments`` name at any depth, as paths by the name as given.

    A folder that contains one of ``search_paths`` is left out.
    """
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
    """Return the names of the modules, files and packages that changed since they were planned.

    ``planned`` is the `uses_identity` of ``uses`` at the time of the plan; ``hashes`` caches the
    hashes of files.
    """
    try:
        now = uses_identity(uses, hashes)
    except FlopsFitError as error:  # a module no longer parses
        return [str(error)]
    kinds = {*planned, *now}
    return sorted(
        name
        for kind in kinds
        for name in {*planned.get(kind, {}), *now.get(kind, {})}
        if planned.get(kind, {}).get(name) != now.get(kind, {}).get(name)
    )
