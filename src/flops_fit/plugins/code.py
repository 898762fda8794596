"""The code behind a reference, fingerprinted without importing it."""

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
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
    """Where a module's source lies; a package's ``file`` is its ``__init__.py`` (or None)."""

    name: str
    file: Path | None
    folders: tuple[Path, ...] = ()  # of a package: where its submodules lie


def source_fingerprint(reference: str, search_paths: Iterable[str | Path] | None = None) -> str:
    """SHA-256 of the code that a reference stands for, read without importing anything.

    Hashed is the syntax tree, without comments and docstrings, of the reference's module and of
    the modules that it imports (see `import_closure`). Code installed by others (``site-packages``)
    or without Python source is known by its reference alone: its version is recorded with each
    run, never hashed. So is our own code outside of the examples: it counts by the version of the
    trainer, which the identity holds beside this hash.

    ``search_paths`` are looked through before ``sys.path``. The value does not depend on where
    files lie, nor on the version of Python (3.11 or newer). Raises `FlopsFitError` where the
    module is missing or does not parse.
    """
    module, top = _located(
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
    """Module name -> digest of its syntax tree: a module and all that it imports of its package.

    Followed are imports by name, anywhere in a file, within the module's top-level package; for a
    module outside any package, within its own folder. A package's ``__init__.py`` counts when
    something is imported from it, not for being passed through. Modules whose name ``leave_out``
    accepts are neither counted nor looked into.
    """
    module, top = _located(module_name, reference=module_name)
    files = _closure(module, top, lambda imported: leave_out(imported.name))
    return {name: _known_source(file)[0] for name, file in files.items()}


def source_files(
    reference: str, search_paths: Iterable[str | Path], installed: bool = False
) -> set[Path]:
    """The files that `source_fingerprint` looks into; none of our own, nor of installed code.

    With ``installed``, those of installed code too.
    """
    module, top = _located(split_reference(reference)[0], tuple(search_paths), reference=reference)
    if module.file is None or (is_installed(module.file) and not installed):
        return set()
    return {*_closure(module, top, lambda imported: is_core(imported.file)).values()}


def _located(
    module_name: str, search_paths: Iterable[str | Path] = (), *, reference: str
) -> tuple[Module, Module]:
    """A module and the top-level one that it belongs to; errors name the ``reference`` to it."""
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
    """Module name -> file, of a module and those that it imports of its package."""
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
    """What an import statement in ``module`` starts from, its leading dots (``level``) resolved."""
    if not level:
        return base
    package = module.name.split(".") if module.folders else module.name.split(".")[:-1]
    package = package[: len(package) - (level - 1)]
    return ".".join([*package, base] if base else package)


def _imported(
    module: Module, top: Module, level: int, base: str | None, names: tuple[str, ...]
) -> Iterator[Module]:
    """The modules that one import statement names, of those whose source is the user's."""
    base = absolute_base(module, level, base)
    if not base:
        return
    if base.partition(".")[0] != top.name.partition(".")[0]:
        if top.folders or top.file is None:  # a package ends at its own name
            return
        top = _find_top(base.partition(".")[0], [top.file.parent], hooks=False)
    submodules = [found for name in names if (found := _find(f"{base}.{name}", top))]
    yield from submodules
    if len(submodules) < len(names) or not names:
        found = _find(base, top)
        if found:
            yield found


def _find_top(name: str, roots: list[Path], hooks: bool = True) -> Module | None:
    found = _find_in(name, name, roots)
    if found or not hooks:
        return found
    for finder in sys.meta_path:  # editable installs bring a finder of their own
        spec = finder.find_spec(name, None) if hasattr(finder, "find_spec") else None
        if spec:
            file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
            folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
            return Module(name, file, folders)
    return None


def _find(name: str, top: Module | None) -> Module | None:
    """The module of this full name, walking down from its top-level package."""
    parts = name.split(".")
    module = top
    for depth in range(2, len(parts) + 1):
        if module is None:
            return None
        module = _find_in(parts[depth - 1], ".".join(parts[:depth]), module.folders)
    return module


def _find_in(tail: str, name: str, folders: Iterable[Path]) -> Module | None:
    """As Python's own path finder does, which cannot enter a package without importing it.

    With text instead of paths, as every start of the workflow does this a thousand times; and
    ``os.path`` says no where ``Path.is_file`` raises: at a name that is too long.
    """
    portions = []
    for folder in folders:
        place = f"{folder}{os.sep}{tail}"
        if os.path.isdir(place):
            if os.path.isfile(f"{place}{os.sep}__init__.py"):
                return Module(name, Path(place, "__init__.py"), (Path(place),))
            portions.append(Path(place))
        if any(os.path.isfile(place + suffix) for suffix in EXTENSION_SUFFIXES):
            return Module(name, None)
        if os.path.isfile(f"{place}.py"):
            return Module(name, Path(f"{place}.py"))
    return Module(name, None, tuple(portions)) if portions else None


def find_module(name: str, roots: list[Path], top: Module | None = None) -> Module | None:
    """The module of this full name below ``roots``, or as an import hook of another project knows it.

    ``top``: its top-level package, where that is known already. None where there is no such module.
    """
    if top is None:
        top = _find_top(name.partition(".")[0], roots, hooks=name not in sys.builtin_module_names)
    return _find(name, top)


def tree_digest(file: Path) -> str:
    """The digest of one file's syntax tree, as `source_fingerprint` knows it; `EMPTY` for no code."""
    digest = _known_source(file)[0]
    return EMPTY if digest == NO_CODE else digest


def imports_of(file: Path) -> Iterable[tuple[int, str | None, list[str]]]:
    """The import statements of a file, as (level, module, names)."""
    return _known_source(file)[1]


_remembered: dict[str, list] = {}  # by path: state, digest and imports of a source


@contextlib.contextmanager
def remembered_sources(cache: Path) -> Iterator[None]:
    """Within, sources are parsed only where they differ from those in ``cache`` (see `file_state`).

    Parsing is most of what a start of the workflow takes. What another version of this module has
    written is not used.
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
    """The digest of a file's syntax tree, and its imports as (level, module, names)."""
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


def _is_text(statements: list[ast.stmt]) -> bool:
    """Whether a body's first statement is a docstring."""
    return any(
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for statement in statements
    )


def _write_tree(node: ast.AST, parts: list[str], imports: list[tuple]) -> None:
    """Append a spelling of the tree that Python versions share, and what it imports.

    What is empty is left out: new versions add fields (3.12 gave functions ``type_params``) that
    are empty in older code. One pass for both, since every start of the workflow reads the sources.
    """
    parts.append(f"({type(node).__name__}")
    if isinstance(node, ast.Constant):  # its None is a value; `kind` is the u of u"text"
        parts.append(f" {type(node.value).__name__} {node.value!r})")
        return
    if isinstance(node, ast.Import):
        imports.extend((0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        imports.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, WITH_DOCSTRING) and _is_text(value[:1]):
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
