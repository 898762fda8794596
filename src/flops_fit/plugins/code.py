"""Fingerprint the code behind a reference without importing it."""

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.files import write_object
from flops_fit.plugins.file_state import file_state, is_settled
from flops_fit.plugins.origin import is_core, is_installed
from flops_fit.plugins.resolve import one_line, split_reference


@dataclass(frozen=True)
class Module:
    """Where the source of the module called ``name`` is.

    ``file`` is None where there is no Python source; for a package it is ``__init__.py``, if there
    is one. ``folders`` holds the folders in which a package's submodules are looked up.
    """

    name: str
    file: Path | None
    folders: tuple[Path, ...] = ()


def source_fingerprint(reference: str, search_paths: Iterable[str | Path] | None = None) -> str:
    """Return the SHA-256 of the code behind ``reference``, without importing anything.

    The hash covers the syntax trees, without comments and docstrings, of the reference's module
    and of the modules that it imports (see `import_closure`). Installed code (``site-packages``)
    and code without Python source are represented by the reference alone: their versions are
    recorded with each run but not hashed. The same holds for flops-fit itself, except the
    examples: its trainer's version is part of the identity, next to this hash.

    ``search_paths`` come before ``sys.path``. The hash depends neither on the location of the
    files nor on the version of Python (3.11 or newer). Raises `FlopsFitError` where the module
    does not exist or does not parse.
    """
    module, top = located(
        split_reference(reference)[0], tuple(search_paths or ()), reference=reference
    )
    digest = hashlib.sha256()
    if module.file is None or is_installed(module.file):
        digest.update(f"installed {reference}".encode())
    elif is_core(module.file):
        digest.update(f"flops_fit {reference}".encode())
    else:
        files = _closure(module, top, lambda imported: is_core(imported.file))
        for name in sorted(files):
            digest.update(f"{name} {_known_source(files[name])[0]}\n".encode())
    return digest.hexdigest()


def import_closure(
    module_name: str, leave_out: Callable[[str], bool] = lambda name: False
) -> dict[str, str]:
    """Return the syntax tree digests of a module and of what it imports from its package, by name.

    Import statements anywhere in a file are followed within the top-level package of
    ``module_name``, or within the folder of a module that belongs to no package. A package's
    ``__init__.py`` counts only where something is imported from it. A module is skipped, with its
    imports, where ``leave_out(name)`` is true. Raises `FlopsFitError` where the module does not
    exist or a file does not parse.
    """
    module, top = located(module_name, reference=module_name)
    files = _closure(module, top, lambda imported: leave_out(imported.name))
    return {name: _known_source(file)[0] for name, file in files.items()}


def source_files(
    reference: str, search_paths: Iterable[str | Path], installed: bool = False
) -> set[Path]:
    """Return the files that `source_fingerprint` of ``reference`` and ``search_paths`` reads.

    Files of flops-fit itself are never included, and files of installed packages only where
    ``installed`` is true. Raises `FlopsFitError` where the module does not exist.
    """
    module, top = located(split_reference(reference)[0], tuple(search_paths), reference=reference)
    if module.file is None or (is_installed(module.file) and not installed):
        return set()
    return {*_closure(module, top, lambda imported: is_core(imported.file)).values()}


def located(
    module_name: str, search_paths: Iterable[str | Path] = (), *, reference: str
) -> tuple[Module, Module]:
    """Return the module ``module_name`` and the top-level module above it.

    Modules are looked for below ``search_paths``, then on Python's path. Raises `FlopsFitError` that
    names the ``reference`` where there is no such module.
    """
    roots = [Path(path).absolute() for path in [*search_paths, *sys.path]]
    top = _find_top(module_name.partition(".")[0], roots)
    module = _find(module_name, top)
    if module is None or top is None:
        raise FlopsFitError(
            f"{reference}: no module named '{module_name}' in "
            f"{', '.join(map(str, search_paths)) or os.getcwd()} or on the Python path"
        )
    return module, top


def _closure(module: Module, top: Module, leave_out: Callable[[Module], bool]) -> dict[str, Path]:
    """Return the files, by module name, of a module and of what it imports from its package."""
    files: dict[str, Path] = {}
    pending = [module]
    while pending:
        module = pending.pop()
        if module.file is None or module.name in files or leave_out(module):
            continue
        files[module.name] = module.file
        for level, base, names in imports_of(module.file):
            pending.extend(_imported(module, top, level, base, names))
    return files


def absolute_base(module: Module, level: int, base: str | None) -> str | None:
    """Return the absolute name of the module that an import statement in ``module`` starts from.

    ``level`` is the number of leading dots and ``base`` the name behind them (None: no name).
    """
    if not level:
        return base
    package = module.name.split(".") if module.folders else module.name.split(".")[:-1]
    package = package[: len(package) - (level - 1)]
    return ".".join([*package, base] if base else package)


def _imported(
    module: Module, top: Module, level: int, base: str | None, names: Sequence[str]
) -> Iterator[Module]:
    """Yield the modules that one import statement names and whose source belongs to the user."""
    base = absolute_base(module, level, base)
    if not base:
        return
    if base.partition(".")[0] != top.name.partition(".")[0]:
        if top.folders or top.file is None:  # imports of other packages are not followed
            return
        neighbour = _find_top(base.partition(".")[0], [top.file.parent], hooks=False)
    else:
        neighbour = top
    submodules = [part for name in names if (part := _find(f"{base}.{name}", neighbour))]
    yield from submodules
    if len(submodules) < len(names) or not names:
        parent = _find(base, neighbour)
        if parent:
            yield parent


def _find_top(name: str, roots: list[Path], hooks: bool = True) -> Module | None:
    module = _find_in(name, name, roots)
    if module or not hooks:
        return module
    for finder in sys.meta_path:  # an editable install adds its finder here
        spec = finder.find_spec(name, None) if hasattr(finder, "find_spec") else None
        if spec:
            origin = spec.origin or ""  # in an archive it is no file
            file = Path(origin) if origin.endswith(".py") and os.path.isfile(origin) else None
            folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
            return Module(name, file, folders)
    return None


def _find(name: str, top: Module | None) -> Module | None:
    """Find the module with this full name, walking down from its top-level package."""
    parts = name.split(".")
    module = top
    for depth in range(2, len(parts) + 1):
        if module is None:
            return None
        module = _find_in(parts[depth - 1], ".".join(parts[:depth]), module.folders)
    return module


def _find_in(tail: str, name: str, folders: Iterable[Path]) -> Module | None:
    """Find a module as Python's path finder does, but without importing the package above it.

    This works on text instead of paths because every start of the workflow does it a thousand
    times, and because ``os.path`` returns False where ``Path.is_file`` raises: for a name that is
    too long.
    """
    portions = []
    for folder in folders:
        path = f"{folder}{os.sep}{tail}"
        if os.path.isdir(path):
            if os.path.isfile(f"{path}{os.sep}__init__.py"):
                return Module(name, Path(path, "__init__.py"), (Path(path),))
            portions.append(Path(path))
        if any(os.path.isfile(path + suffix) for suffix in EXTENSION_SUFFIXES):
            return Module(name, None)
        if os.path.isfile(f"{path}.py"):
            return Module(name, Path(f"{path}.py"))
    return Module(name, None, tuple(portions)) if portions else None


def find_module(name: str, roots: list[Path], top: Module | None = None) -> Module | None:
    """Find the module with the full name ``name`` below ``roots``, or through an import hook.

    ``top`` is its top-level package where the caller has it already. Returns None where there is
    no such module.
    """
    if top is None:
        top = _find_top(name.partition(".")[0], roots, hooks=name not in sys.builtin_module_names)
    return _find(name, top)


def tree_digest(file: Path) -> str:
    """Return the digest of the syntax tree of ``file`` as `source_fingerprint` uses it.

    A file without any code has the digest `EMPTY`. Raises `FlopsFitError` where the file does not
    parse.
    """
    digest = _known_source(file)[0]
    return EMPTY if digest == NO_CODE else digest


def imports_of(file: Path) -> Iterable[tuple[int, str | None, list[str]]]:
    """Return the import statements of ``file``, each as ``(level, module, names)``."""
    return _known_source(file)[1]


_remembered: dict[str, list] = {}  # path -> state of the file, digest of its tree, its imports


@contextlib.contextmanager
def remembered_sources(cache: Path) -> Iterator[None]:
    """Within the block, parse only the sources that changed since ``cache`` was written.

    Parsing takes most of the time of a start of the workflow. Changes are noticed by `file_state`.
    A cache that another version of this module wrote is ignored.
    """
    reader = file_state(Path(__file__))
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads(cache.read_text())
        if content["reader"] == reader:
            _remembered.update(content["sources"])
    before = dict(_remembered)
    yield
    if _remembered != before:
        write_object(cache, {"reader": reader, "sources": _remembered})


def _known_source(file: Path) -> tuple[str, Iterable]:
    state = file_state(file)
    known = _remembered.get(str(file))
    if known is None or known[0] != state:
        digest, imports = _read_source(file, tuple(state))
        known = [state, digest, [[level, base, list(n)] for level, base, n in imports]]
        if is_settled(state):
            _remembered[str(file)] = known
    return known[1], known[2]


@lru_cache(maxsize=4096)
def _read_source(file: Path, state: tuple[int, ...]) -> tuple[str, tuple[tuple, ...]]:
    """Return the digest of a file's syntax tree, and its imports as (level, module, names)."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise FlopsFitError(f"{file}: does not parse: {one_line(error)}") from None
    parts: list[str] = []
    imports: list[tuple[int, str | None, tuple[str, ...]]] = []
    _write_tree(tree, parts, imports)
    return _digest_of(parts), tuple(imports)


def _digest_of(parts: list[str]) -> str:
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


NO_CODE = _digest_of(["(Module", ")"])
EMPTY = "empty"


WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _starts_with_docstring(body: list[ast.stmt]) -> bool:
    return bool(body) and (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )


def _write_tree(node: ast.AST, parts: list[str], imports: list[tuple]) -> None:
    """Append the tree in a text form that all Python versions share, and what the tree imports.

    Empty fields are left out, because new versions add fields that are empty in older code (3.12
    gave functions ``type_params``). One pass does both, because every start of the workflow reads
    the sources.
    """
    parts.append(f"({type(node).__name__}")
    if isinstance(node, ast.Constant):  # here None is a value; `kind` is the u of u"text"
        parts.append(f" {type(node.value).__name__} {node.value!r})")
        return
    if isinstance(node, ast.Import):
        imports.extend((0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        imports.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, WITH_DOCSTRING) and _starts_with_docstring(value):
            value = value[1:]
        if isinstance(node, ast.JoinedStr):  # 3.12 ends a format such as {x:{width}} with ""
            value = [part for part in value if getattr(part, "value", None) != ""]
        if value is None or value == []:
            continue
        parts.append(f" {field}=")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                _write_tree(item, parts, imports)
            else:
                parts.append(f"{item!r},")
    parts.append(")")
